"""Tuning all of a network's layers, where there are cases enough for it; the last layer was tuned before."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

from ehr_tl.config import TransformerConfig
from ehr_tl.models.checkpoint import round_to_half
from ehr_tl.models.low_rank import Cases, tune
from ehr_tl.models.probe import Head, by_subject, log_loss, simplest
from ehr_tl.models.risk_network import RiskNetwork, set_aside, train_network
from ehr_tl.models.trunk import Rows, Trunk

#: Positive subjects, and negative ones, from which on all layers are tuned.
MANY = 200


def tune_all(
    trunk: Trunk,
    anchor: Head | None,
    inputs: Rows,
    labels: np.ndarray,
    train: np.ndarray,
    config: TransformerConfig,
    seed: int,
    state: Path,
) -> tuple[Trunk, Head] | None:
    """Tunes all layers; None where that does no better on subjects that were set aside than tuning the last one.

    Subjects who decide have no part in what it starts from either.

    Args:
        trunk: The pretrained network.
        anchor: Its own head, if it has one.
        inputs: The rows.
        labels: 0 or 1, looked at where `train` points alone.
        train: Positions of the training rows.
        config: How to train.
        seed: Fixes everything random.
        state: A folder, where an interrupted fit finds its state again.
    """
    fitting, aside = set_aside(inputs.subject, labels, train, seed)
    start, head = tune(Cases.of(trunk, inputs, labels, fitting, anchor), config, seed)
    network = RiskNetwork(deepcopy(start.body).requires_grad_(True))
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(head.weight))
        network.head.bias.fill_(head.bias)
    train_network(network, inputs.read(trunk), labels, fitting, aside, config, seed, state)
    round_to_half(network.body)
    tuned = Trunk(network.body, trunk.vocabulary)
    weight = network.head.weight[0].detach().double().numpy()
    found = tuned, Head(weight, float(network.head.bias.detach()))
    both = [log_loss(own(inputs.vectors(body, aside)), labels[aside]) for body, own in ((start, head), found)]
    return found if simplest(by_subject(np.stack(both), inputs.subject[aside])) else None
