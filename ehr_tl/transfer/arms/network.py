"""Arms that read a checkpoint's network: its own head, a probe that is anchored at it, and a network tuned from there.

All three share one encoding of the rows and what the network makes of them (`models.trunk.Rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ehr_tl import schema
from ehr_tl.config import TransformerConfig
from ehr_tl.events import Events
from ehr_tl.models.base import Attribution

if TYPE_CHECKING:
    from ehr_tl.models.checkpoint import Checkpoint
    from ehr_tl.models.head import HeadModel
    from ehr_tl.models.probe import Head
    from ehr_tl.models.trunk import Rows, Trunk

#: Part of a head's worth beside trees that is lost on the way to another hospital. Settled on subjects outside of the
#: test part of four studies of intensive care, in all of which heads fell further than trees; in two studies that were
#: run afterwards they did not (benchmarks/RESULTS.md).
LOST = 0.5


@dataclass(frozen=True)
class NetworkConfig(TransformerConfig):
    """How a network is adapted, and which of its answers it starts from.

    Attributes:
        tasks: Source tasks whose heads are averaged; empty: it has none.
    """

    tasks: tuple[str, ...] = ()


class PretrainedNetwork:
    """A checkpoint's network as several learners use it.

    Args:
        config: Names the checkpoint.
        tasks: Of the checkpoint's tasks, those whose answers are averaged.
        related: They ask something else.
    """

    def __init__(self, config: TransformerConfig, tasks: Sequence[str], related: bool = False):
        self.config, self.related = NetworkConfig(**vars(config), tasks=tuple(tasks)), related
        self._last: tuple[Events, pl.DataFrame, Rows] | None = None

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        from ehr_tl.models.checkpoint import load_own_checkpoint

        return load_own_checkpoint(self.config.checkpoint)

    @cached_property
    def trunk(self) -> Trunk:
        """The network.

        Raises:
            CheckpointError: The checkpoint is absent or broken.
        """
        from ehr_tl.models.trunk import Trunk

        return Trunk(self._checkpoint.model, self._checkpoint.vocabulary)

    @cached_property
    def head(self) -> Head | None:
        """The mean of its heads for the tasks; None where there are none."""
        from ehr_tl.models.probe import Head

        if not self.config.tasks:
            return None
        body = self.trunk.body
        which = [body.config.tasks.index(task) for task in self.config.tasks]
        weight, bias = body.tasks.weight.double().numpy()[which], body.tasks.bias.double().numpy()[which]
        return Head(weight.mean(axis=0), float(bias.mean()))

    @cached_property
    def share(self) -> float:
        """The heads' share in the mixture with the checkpoint's trees that did best at the sources, less `LOST`.

        Where none was taught the question itself, heads lose no more than trees.
        """
        source, tasks = self._checkpoint.source, self.config.tasks
        if source is None:
            return 1.0
        return (1 - source.share(tasks)) * (1 if self.related else 1 - LOST)

    def prepare(self, events: Events, rows: pl.DataFrame) -> Rows:
        """Encodes `rows` (`schema.ROWS`) and lets the network read them; the last ones asked for are remembered.

        Slots are as wide as the configuration says, else as the adapter of the events does, else as in pretraining.
        Nothing after a row's prediction time is in its view.
        """
        from ehr_tl.models.trunk import Rows
        from ehr_tl.tokens.records import read_records
        from ehr_tl.tokens.sequences import build_sequences

        if self._last is None or self._last[0] is not events or self._last[1] is not rows:
            hours = self.config.slot_hours or events.export.slot_hours or self.trunk.body.config.slot_hours
            found = Rows(build_sequences(read_records(events, rows, hours), rows, self.config.max_slots))
            found.keep(self.trunk)
            self._last = events, rows, found
        return self._last[2]

    def explain(self, models: list[HeadModel], inputs: Rows, index: np.ndarray) -> list[Attribution]:
        """Shapley values of the rows `index` under each model (`models.removal`), whichever learners these are of."""
        from ehr_tl.models.head import explain_heads

        return explain_heads(models, inputs, index, self.config.players, self.config.permutations)


class NetworkLearner:
    """What the learners have in common (`models.base.Learner`)."""

    comparison = False
    as_is = False
    share = 0.0
    related = False
    name: str

    def __init__(self, pretrained: PretrainedNetwork):
        self.pretrained, self.config = pretrained, pretrained.config

    def prepare(self, events: Events, rows: pl.DataFrame) -> Rows:
        """Encodes `rows`; see `PretrainedNetwork.prepare`."""
        return self.pretrained.prepare(events, rows)

    def load(self, folder: Path) -> HeadModel:
        """Opens a saved fit."""
        from ehr_tl.models.head import HeadModel

        return HeadModel.load(folder, self.pretrained.trunk)

    def base(self, models: list[HeadModel], inputs: Rows, index: np.ndarray) -> list[np.ndarray]:
        """Logit of each model when nothing is known, the same for all rows; each of shape (len(index),)."""
        return [np.full(len(index), model.base) for model in models]

    @property
    def explain(self) -> Callable[[list[HeadModel], Rows, np.ndarray], list[Attribution]]:
        """Explains its models together with those of all who read the network: `PretrainedNetwork.explain`."""
        return self.pretrained.explain

    def _read(self, inputs: Rows, train: np.ndarray, head: Head, trunk: Trunk | None = None) -> HeadModel:
        from ehr_tl.models.head import HeadModel, salience

        own = self.pretrained.trunk
        return HeadModel(trunk or own, head, salience(own, inputs, train), tuned=trunk not in (None, own))


class SourceHeadLearner(NetworkLearner):
    """The network's own answer, as it was learned at the sources: no label is looked at."""

    name = schema.SOURCE_HEAD
    as_is = True

    @property
    def share(self) -> float:
        return self.pretrained.share

    @property
    def related(self) -> bool:
        return self.pretrained.related

    def fit(self, inputs: Rows, labels: np.ndarray, train: np.ndarray, *, seed: int, state: Path) -> HeadModel:
        """The mean of the heads for the tasks; only whom to name in explanations is learned from the rows `train`."""
        return self._read(inputs, np.asarray(train), self.pretrained.head)


class ProbeLearner(NetworkLearner):
    """A linear head on the frozen network's vectors, anchored at its own (`models.probe`)."""

    name = schema.PROBE

    def fit(self, inputs: Rows, labels: np.ndarray, train: np.ndarray, *, seed: int, state: Path) -> HeadModel:
        """Fits within a second, so an interrupted fit starts again: nothing is kept in `state`."""
        from ehr_tl.models.probe import fit_probe

        train = np.asarray(train)
        vectors = inputs.vectors(self.pretrained.trunk, train)
        head = fit_probe(vectors, labels[train], inputs.subject[train], self.pretrained.head, seed)
        return self._read(inputs, train, head)


class FinetunedLearner(NetworkLearner):
    """The network tuned from its probe where there are cases enough.

    With fewer than `models.probe.FREE` positive (or negative) subjects it is the probe. From there on updates of low
    rank are fitted to its last layer (`models.low_rank`) and kept if they do better on subjects that were set aside.
    The codes' embeddings are not extended: a code that only this hospital has is read by its relatives and its words.
    """

    name = schema.FINETUNED

    def fit(self, inputs: Rows, labels: np.ndarray, train: np.ndarray, *, seed: int, state: Path) -> HeadModel:
        """Fits in seconds, so an interrupted fit starts again: nothing is kept in `state`."""
        from ehr_tl.models.low_rank import Cases, tune
        from ehr_tl.models.probe import FREE, rarer

        train, own = np.asarray(train), self.pretrained
        cases = Cases.of(own.trunk, inputs, labels, train, own.head)
        if rarer(cases.label, cases.subject) < FREE:
            return self._read(inputs, train, cases.probe(seed))
        trunk, head = tune(cases, self.config, seed)
        return self._read(inputs, train, head, trunk)


def network_arms(config: TransformerConfig, tasks: Sequence[str], related: bool = False) -> list[NetworkLearner]:
    """The learners that read a checkpoint, in a fixed order; none where there is none.

    Args:
        config: Names the checkpoint.
        tasks: Its tasks whose heads are asked; without any there is no `source_head`.
        related: They ask something else.
    """
    if config.checkpoint is None:
        return []
    pretrained = PretrainedNetwork(config, tasks, related)
    heads: list[NetworkLearner] = [SourceHeadLearner(pretrained)] if tasks else []
    return [*heads, ProbeLearner(pretrained), FinetunedLearner(pretrained)]
