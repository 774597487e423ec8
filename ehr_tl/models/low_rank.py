"""Tuning the last layer of a network, by little, where a probe of it is the start and the anchor.

The layer's matrices get updates of low rank (Hu et al., 2022, "LoRA: low-rank adaptation of large language models",
ICLR) that begin at zero: fewer numbers to learn than the matrices have, weight decay draws towards the pretrained ones,
and the result is a network like any other. Keys and values of past slots are left as they are: how a prediction looks
at a record and what it makes of it changes, not how the record is read. So a fit needs no pass over records, and only
one vector per row goes through the layer.

How long to train, the probe being no training at all, is chosen by cross-validation over subjects; of what does about
as well the shortest is taken. Then all rows are fitted for so long.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from ehr_tl.config import TransformerConfig
from ehr_tl.models import training
from ehr_tl.models.folds import subject_folds
from ehr_tl.models.probe import Head, by_subject, fit_probe, log_loss, simplest
from ehr_tl.models.trunk import Below, Rows, Top, Trunk

RANK = 4
_FASTER = 10  # than all weights are tuned: updates of low rank want about ten times the rate
_DECAY = 0.1
_STEPS = 8  # of an epoch, at most
_PARTS = 3  # of cross-validation


@dataclass(frozen=True)
class Cases:
    """What a fit learns from.

    Attributes:
        trunk: The network.
        below: What its lower layers make of the cases (and nobody else's slots).
        vectors: What all of it makes of them, shape (n, width).
        label, subject: Of each, shape (n,).
        anchor: The network's own head, if it has one.
    """

    trunk: Trunk
    below: Below
    vectors: np.ndarray
    label: np.ndarray
    subject: np.ndarray
    anchor: Head | None

    @classmethod
    def of(cls, trunk: Trunk, inputs: Rows, labels: np.ndarray, train: np.ndarray, anchor: Head | None) -> Cases:
        below, vectors = inputs.below(trunk, train).compact(), inputs.vectors(trunk, train)
        return cls(trunk, below, vectors, labels[train], inputs.subject[train], anchor)

    def take(self, index: np.ndarray) -> Cases:
        below = self.below.take(index).compact()
        return Cases(self.trunk, below, self.vectors[index], self.label[index], self.subject[index], self.anchor)

    def probe(self, seed: int) -> Head:
        """A head for the network as it is (`models.probe`)."""
        return fit_probe(self.vectors, self.label, self.subject, self.anchor, seed)


def tune(cases: Cases, config: TransformerConfig, seed: int) -> tuple[Trunk, Head]:
    """Fits the last layer; gives the network itself where no training does better than the probe.

    Args:
        cases: What it learns from.
        config: `epochs`, `learning_rate`, `batch_subjects` and `patience`.
        seed: Fixes everything random.
    """
    epochs = _epochs(cases, config, seed)
    probe = cases.probe(seed)
    if not epochs:
        return cases.trunk, probe
    tuning = _Tuning(cases, probe, config, seed)
    for _ in range(epochs):
        tuning.epoch()
    return cases.trunk.capped(tuning.merged()), probe


def _epochs(cases: Cases, config: TransformerConfig, seed: int) -> int:
    """For how many epochs to train."""
    part = subject_folds(cases.subject, cases.label, _PARTS, seed)
    out = [np.flatnonzero(part == number) for number in range(_PARTS)]
    rest = [cases.take(np.flatnonzero(part != number)) for number in range(_PARTS)]
    aside = [cases.take(rows) for rows in out]
    probes = [each.probe(seed) for each in rest]
    tunings = [_Tuning(each, probe, config, seed) for each, probe in zip(rest, probes)]
    losses = [_losses(out, [log_loss(p(each.vectors), each.label) for p, each in zip(probes, aside)])]
    while len(losses) <= config.epochs and len(losses) - 1 - _best(losses) < config.patience:
        for tuning in tunings:
            tuning.epoch()
        losses.append(_losses(out, [t.loss(each) for t, each in zip(tunings, aside)]))
    return simplest(by_subject(np.stack(losses), cases.subject))


def _best(losses: list[np.ndarray]) -> int:
    return int(np.argmin([loss.sum() for loss in losses]))


def _losses(rows: list[np.ndarray], losses: list[np.ndarray]) -> np.ndarray:
    """Losses of parts in the order of the rows."""
    found = np.empty(sum(map(len, rows)))
    found[np.concatenate(rows)] = np.concatenate(losses)
    return found


class _Tuning:
    """Training of a last layer."""

    def __init__(self, cases: Cases, probe: Head, config: TransformerConfig, seed: int):
        self.cases, self.probe, self.config, self.seed = cases, probe, config, seed
        self.done = 0
        self.top = deepcopy(cases.trunk.top).eval()
        with torch.no_grad():
            self.memory = self.top.remember(cases.below.slots, cases.below.hours)
            self.own = self.top.remember(cases.below.query, cases.below.query_hours)
        generator = torch.Generator().manual_seed(training.hash_seed(seed))
        for matrix in _matrices(self.top):
            parametrize.register_parametrization(matrix, "weight", _Update(matrix.weight, generator))
        self.updates = nn.ModuleList(each for each in self.top.modules() if isinstance(each, _Update))
        self.rate = _FASTER * config.learning_rate
        self.optimiser = training.optimiser(self.updates, self.rate, _DECAY)
        self.weight = torch.from_numpy(probe.weight).float()

    def epoch(self) -> None:
        """Trains on all cases once."""
        rng, _ = training.generators(self.seed, self.done)
        label, count = torch.from_numpy(self.cases.label).float(), len(self.cases.label)
        steps = max(1, min(_STEPS, count // self.config.batch_subjects))
        for number, rows in enumerate(np.array_split(rng.permutation(count), steps)):
            progress = (self.done + number / steps) / self.config.epochs
            training.set_rate(self.optimiser, self.rate, progress)
            loss = F.binary_cross_entropy_with_logits(self._logits(rows), label[torch.from_numpy(rows)])
            training.step(self.updates, self.optimiser, loss)
        self.done += 1

    def _logits(self, rows: np.ndarray) -> Tensor:
        below, which = self.cases.below, torch.from_numpy(rows)
        place, seen = below.seen(rows, int(below.count[rows].max(initial=1)))
        with parametrize.cached():
            vectors = self.top(below.query[which], below.query_hours[which], self.own[which], self.memory[place], seen)
        return (vectors * self.weight).sum(-1) + self.probe.bias

    @torch.no_grad()
    def loss(self, cases: Cases) -> np.ndarray:
        """Log loss of each of some cases, shape (n,)."""
        with parametrize.cached():
            return log_loss(self.probe(self.top.vectors(cases.below)), cases.label)

    def merged(self) -> Top:
        """The layer with its updates added; training is over then."""
        for matrix in _matrices(self.top):
            parametrize.remove_parametrizations(matrix, "weight", leave_parametrized=True)
        return self.top


class _Update(nn.Module):
    """A matrix and its update of low rank, which begins at zero."""

    def __init__(self, weight: Tensor, generator: torch.Generator):
        super().__init__()
        out, into = weight.shape
        self.down = nn.Parameter(torch.randn(RANK, into, generator=generator) / into**0.5)
        self.up = nn.Parameter(torch.zeros(out, RANK))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def _matrices(top: Top) -> list[nn.Linear]:
    """The matrices that are tuned: all but those that make keys and values."""
    attention, mlp = top.layer.self_attn, top.layer.mlp
    return [attention.q_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
