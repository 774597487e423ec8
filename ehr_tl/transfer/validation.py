"""How a network does on the sources' subjects who do not train."""

from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np
import torch

from ehr_tl.models.network import EhrModel
from ehr_tl.tokens.batches import by_length
from ehr_tl.transfer.held_out import VALIDATION
from ehr_tl.transfer.objectives import LOSSES, Exercise, Objective, next_slot
from ehr_tl.transfer.recipe import TrainingConfig
from ehr_tl.transfer.sources import Source

_SLOTS = 8192
_FEWEST = 10  # rows of each kind, for an AUROC


@torch.no_grad()
def validate(
    network: EhrModel, sources: Many[Source], config: TrainingConfig, seed: int, part: str = VALIDATION
) -> dict[str, float]:
    """Losses on the subjects of a part, all codes known and all events shown, and the AUROC of the source tasks.

    Args:
        network: The network.
        sources: The sources.
        config: Weights of the losses and the number of random rows.
        seed: Fixes the random rows.
        part: Whom to look at (`held_out.PARTS`).

    Returns:
        Name -> value: `loss`, the weighted sum of the others; each of `objectives.LOSSES` that there is, in nats, the
        mean over batches of all sources by their whole slots; and `auroc TASK`.
    """
    objective = Objective(network, config, half=False).eval()
    found: dict[str, list[tuple[float, int]]] = {}
    logits, labels = [], []
    for number, source in enumerate(sources):
        drawn = source.draw(part, config.queries, network.config.max_slots, np.random.default_rng((seed, number, 1)))
        codes = len(drawn.reading.asked.records.codes)
        for lanes in by_length(drawn.every(), _SLOTS):
            batch = drawn.reading.batch(lanes)
            parts, vectors = objective.parts(Exercise(drawn, batch, batch, next_slot(batch, codes)))
            for name, loss in parts.items():
                found.setdefault(name, []).append((float(loss), int(batch.whole.sum())))
            if drawn.labels.shape[1]:  # no question is asked where pretraining is continued
                logits.append(network.tasks(vectors).cpu().numpy())
                labels.append(drawn.labels[batch.rows])
    means = {name: _mean(found[name]) for name in LOSSES if name in found}
    losses = {"loss": sum(objective.weights[name] * loss for name, loss in means.items()), **means}
    ranks = _ranks(network, np.concatenate(logits), np.concatenate(labels)) if logits else {}
    return {name: round(value, 4) for name, value in {**losses, **ranks}.items()}


def _mean(weighted: list[tuple[float, int]]) -> float:
    values, weights = np.array(weighted).T
    return float((values * weights).sum() / max(1.0, weights.sum()))


def _ranks(network: EhrModel, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """AUROC of each task that has rows enough."""
    from sklearn.metrics import roc_auc_score

    found = {}
    for number, name in enumerate(network.config.tasks):
        known = ~np.isnan(labels[:, number])
        label = labels[known, number]
        if min(label.sum(), (1 - label).sum()) >= _FEWEST:
            found[f"auroc {name}"] = float(roc_auc_score(label, logits[known, number]))
    return found
