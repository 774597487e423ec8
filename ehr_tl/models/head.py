"""Fitted models that read a pretrained network by a linear head: its own, a probe, or one that was tuned with it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ehr_tl.files import read_json, whole, write_json
from ehr_tl.models.base import Attribution
from ehr_tl.models.folder import WEIGHTS
from ehr_tl.models.probe import Head
from ehr_tl.models.removal import Explained, explain, ranks
from ehr_tl.models.trunk import Rows, Trunk

_HEAD, _SALIENCE = "head.safetensors", "salience.json"


class HeadModel:
    """A network and a head (`models.base.RiskModel`).

    Attributes:
        trunk: The network.
        head: Linear on its vectors.
        salience: How much each code of the training rows matters, by code; it decides who is named in explanations.
        tuned: The network is this model's own and no longer the checkpoint's.
    """

    def __init__(self, trunk: Trunk, head: Head, salience: Mapping[str, float], tuned: bool):
        self.trunk, self.head, self.salience, self.tuned = trunk, head, salience, tuned

    def logit(self, inputs: Rows, index: np.ndarray) -> np.ndarray:
        """Raw log odds of the rows `index`, shape (len(index),)."""
        return self.head(inputs.vectors(self.trunk, np.asarray(index)))

    @property
    def base(self) -> float:
        """Log odds when nothing is known of a row, be it the events, age or gender."""
        return float(self.head(self.trunk.nothing()))

    def save(self, folder: Path) -> None:
        """Writes head.safetensors and salience.json; of a network of its own also what `Trunk.save` writes."""
        if self.tuned:
            self.trunk.save(folder)
        tensors = {
            "weight": torch.from_numpy(self.head.weight),
            "bias": torch.tensor(self.head.bias, dtype=torch.float64),
        }
        with whole(folder / _HEAD) as temporary:
            save_file(tensors, temporary)
        write_json(folder / _SALIENCE, dict(self.salience))

    @classmethod
    def load(cls, folder: Path, trunk: Trunk) -> HeadModel:
        """Opens what `save` wrote.

        Args:
            folder: Where.
            trunk: The checkpoint's network, which reads the rows unless there is one of its own.
        """
        tuned = (folder / WEIGHTS).is_file()
        tensors = load_file(folder / _HEAD)
        head = Head(tensors["weight"].numpy(), float(tensors["bias"]))
        return cls(Trunk.load(folder) if tuned else trunk, head, read_json(folder / _SALIENCE), tuned)


def explain_heads(
    models: list[HeadModel], inputs: Rows, index: np.ndarray, players: int, permutations: int
) -> list[Attribution]:
    """Explains rows under each model (`models.removal`); models that read the same network share its passes."""
    by_network: dict[str, list[int]] = {}
    for number, model in enumerate(models):
        by_network.setdefault(model.trunk.digest, []).append(number)
    networks = []
    for numbers in by_network.values():
        heads, trunk = [models[number].head for number in numbers], models[numbers[0]].trunk
        weight = torch.from_numpy(np.stack([head.weight for head in heads])).float()
        networks.append(Explained(trunk.body, inputs.read(trunk), weight, torch.tensor([h.bias for h in heads])))
    rank = ranks([model.salience for model in models], inputs.sequences.records.codes)
    found = explain(networks, inputs.sequences, index, rank, players, permutations)
    place = {number: i for i, number in enumerate(chain.from_iterable(by_network.values()))}
    return [found[place[number]] for number in range(len(models))]


def salience(trunk: Trunk, inputs: Rows, train: np.ndarray) -> dict[str, float]:
    """How much each code matters: how far it alone moves the network's vector, times the share of subjects with it.

    Neither labels nor rows outside `train` are looked at.
    """
    codes, subjects = inputs.sequences.records.codes, np.unique(inputs.subject[train])
    subject, code = inputs.having.T
    share = np.bincount(code[np.isin(subject, subjects)], minlength=len(codes)) / len(subjects)
    total: dict[str, float] = {}
    for name, value in zip(codes, (inputs.alone(trunk) * share).tolist()):
        if value:
            total[name] = total.get(name, 0.0) + value
    return total
