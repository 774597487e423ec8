"""Scores of the sources' trees as they are: the checkpoint's boosters for the tasks that ask the same, or alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

from ehr_tl import features
from ehr_tl.events import Events
from ehr_tl.features import Build, Features
from ehr_tl.models.base import Attribution
from ehr_tl.models.by_code import attributions, explained_codes
from ehr_tl.models.checkpoint import SOURCE as FOLDER
from ehr_tl.models.checkpoint import checkpoint_path
from ehr_tl.models.gradient_boosting import GradientBoosting
from ehr_tl.models.source import SourceModels
from ehr_tl.schema import SOURCE

#: Features of the same rows by look-back windows in days.
ByWindows = Mapping[tuple[float, ...], Features]


@dataclass(frozen=True)
class SourceConfig:
    """What the scores come from.

    Attributes:
        checkpoint: Name or folder of a checkpoint that has trees.
        tasks: Its tasks whose logits are averaged, one at least.
    """

    checkpoint: str
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class SourceTrees:
    """The mean logit of the boosters of some tasks; `models` are no others than these."""

    models: SourceModels

    @classmethod
    def of(cls, config: SourceConfig) -> SourceTrees:
        """Opens the trees of a checkpoint.

        Raises:
            CheckpointError: It has none, or they are broken.
        """
        return cls(SourceModels.load(checkpoint_path(config.checkpoint) / FOLDER).only(config.tasks))

    @property
    def windows(self) -> list[tuple[float, ...]]:
        """Look-back windows of each task, in order."""
        return [tuple(task["windows_days"]) for task in self.models.tasks.values()]

    def prepare(self, build: Build, events: Events, rows: pl.DataFrame) -> ByWindows:
        return {windows: build(events, rows, windows) for windows in dict.fromkeys(self.windows)}

    def logit(self, inputs: ByWindows, index: np.ndarray) -> np.ndarray:
        each = [model.logit(inputs[windows], index) for windows, model in self._read]
        return np.mean(each, axis=0)

    @cached_property
    def base(self) -> float:
        """Expected logit over the sources' rows, from which SHAP values count."""
        return float(np.mean([model.base for model in self.models.models.values()]))

    @property
    def codes(self) -> set[str]:
        """The codes that the trees are explained by."""
        return set().union(*(explained_codes(model.columns) for model in self.models.models.values()))

    def by_code(self, inputs: ByWindows, index: np.ndarray, codes: Sequence[str]) -> sparse.csr_matrix:
        """SHAP values of codes, shape (rows, codes): TreeSHAP of each task, averaged as the logits are."""
        each = [model.by_code(inputs[windows], index, codes) for windows, model in self._read]
        return sparse.csr_matrix(sum(each[1:], start=each[0]) / len(each))

    def save(self, folder: Path) -> None:
        """Writes nothing: the checkpoint has them."""

    @property
    def _read(self) -> list[tuple[tuple[float, ...], GradientBoosting]]:
        return list(zip(self.windows, self.models.models.values()))


class SourceLearner:
    """The sources' trees as they are; see `models.base.Learner`. Nothing is fitted, no label looked at.

    Args:
        config: The checkpoint and its tasks.
        build: Makes features; learners that share one share its memory.
        related: The tasks ask something else.
    """

    name = SOURCE
    comparison = False
    as_is = True

    def __init__(self, config: SourceConfig, build: Build = features.build, related: bool = False):
        self.config, self.related, self._build = config, related, build

    @cached_property
    def trees(self) -> SourceTrees:
        """The checkpoint's, opened at first use."""
        return SourceTrees.of(self.config)

    @property
    def share(self) -> float:
        return self.trees.models.share(self.config.tasks)

    def prepare(self, events: Events, rows: pl.DataFrame) -> ByWindows:
        return self.trees.prepare(self._build, events, rows)

    def fit(self, inputs: ByWindows, labels: np.ndarray, train: np.ndarray, *, seed: int, state: Path) -> SourceTrees:
        return self.trees

    def load(self, folder: Path) -> SourceTrees:
        return self.trees

    def base(self, models: list[SourceTrees], inputs: ByWindows, index: np.ndarray) -> list[np.ndarray]:
        return [np.full(len(index), model.base) for model in models]

    def explain(self, models: list[SourceTrees], inputs: ByWindows, index: np.ndarray) -> list[Attribution]:
        codes = sorted(set().union(*(model.codes for model in models)))
        by_code = [model.by_code(inputs, index, codes) for model in models]
        return attributions(by_code, codes, self.base(models, inputs, index), next(iter(inputs.values())), index)
