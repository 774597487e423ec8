"""Trees on top of the source's logit: what the sources know stays, and local cases add what they can show.

The source logit, calibrated as far as the cases allow, is the offset from which LightGBM starts: gradient boosting
(Friedman, Annals of Statistics 2001) whose first guess is a model, not a constant. Few, shallow and strongly
regularised trees follow, none at all where cross-validation sees no gain or the cases are too few to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import lightgbm as lgb
import numpy as np
import polars as pl
from scipy import sparse

from ehr_tl import features
from ehr_tl.events import Events
from ehr_tl.features import Build, Features
from ehr_tl.files import read_json, write_json
from ehr_tl.models.base import Attribution
from ehr_tl.models.by_code import attributions, explained_codes
from ehr_tl.models.calibration import Calibration, calibrate
from ehr_tl.models.folds import subject_folds
from ehr_tl.models.gradient_boosting import GradientBoosting
from ehr_tl.models.screening import screen
from ehr_tl.models.tuning import FIXED, INNER_FOLDS, LEAF, Tuned
from ehr_tl.schema import ANCHORED
from ehr_tl.transfer.arms.source import ByWindows, SourceConfig, SourceTrees

ENOUGH = 10  # positive subjects from which on trees are tried at all
MOST_ROUNDS = 60
MOST_FEATURES = 200

PARAMETERS = {
    **FIXED,
    "learning_rate": 0.05,
    "max_depth": 2,
    "num_leaves": 4,
    "lambda_l2": 30.0,
    "feature_fraction": 0.3,
    "metric": "binary_logloss",
}

ANCHOR = "anchor.json"


@dataclass(frozen=True)
class AnchoredConfig(SourceConfig):
    """The source, and the local features (`config.LightGBMConfig`)."""

    windows_days: tuple[float, ...]
    min_subjects: int


@dataclass(frozen=True)
class Inputs:
    """Features as the source's trees ask for them, and those that local trees may use."""

    source: ByWindows
    own: Features


@dataclass(frozen=True)
class AnchoredTrees:
    """The source's calibrated logit plus that of local trees, if there are any."""

    source: SourceTrees
    calibration: Calibration
    own: GradientBoosting | None

    def logit(self, inputs: Inputs, index: np.ndarray) -> np.ndarray:
        anchor = self.calibration(self.source.logit(inputs.source, index))
        return anchor if self.own is None else anchor + self.own.logit(inputs.own, index)

    @cached_property
    def base(self) -> float:
        own = 0.0 if self.own is None else self.own.base
        return float(self.calibration(np.array(self.source.base))) + own

    @property
    def codes(self) -> set[str]:
        return self.source.codes | (set() if self.own is None else explained_codes(self.own.columns))

    def by_code(self, inputs: Inputs, index: np.ndarray, codes: Sequence[str]) -> sparse.csr_matrix:
        """SHAP values of codes, shape (rows, codes): the source's times the slope, plus the local trees'."""
        shap = self.calibration.slope * self.source.by_code(inputs.source, index, codes)
        return shap if self.own is None else shap + self.own.by_code(inputs.own, index, codes)

    def save(self, folder: Path) -> None:
        """Writes all but the source's trees, which the checkpoint has."""
        write_json(folder / ANCHOR, {"calibration": self.calibration.to_json(), "trees": self.own is not None})
        if self.own is not None:
            self.own.save(folder)


class AnchoredLearner:
    """Fits `AnchoredTrees`; see `models.base.Learner`.

    Args:
        config: The source and the local features.
        build: Makes features; learners that share one share its memory.
    """

    name = ANCHORED
    comparison = False
    as_is = False
    share = 0.0
    related = False

    def __init__(self, config: AnchoredConfig, build: Build = features.build):
        self.config, self._build = config, build

    @cached_property
    def trees(self) -> SourceTrees:
        """The source's, opened at first use."""
        return SourceTrees.of(self.config)

    def prepare(self, events: Events, rows: pl.DataFrame) -> Inputs:
        source = self.trees.prepare(self._build, events, rows)
        return Inputs(source, self._build(events, rows, self.config.windows_days))

    def fit(self, inputs: Inputs, labels: np.ndarray, train: np.ndarray, *, seed: int, state: Path) -> AnchoredTrees:
        """Fits within seconds: nothing is kept in `state`."""
        label, subject, logit = labels[train], inputs.own.subject[train], self.trees.logit(inputs.source, train)
        calibration = calibrate(logit, label, subject)
        if calibration.events < ENOUGH:
            return AnchoredTrees(self.trees, calibration, None)
        columns = inputs.own.columns[np.flatnonzero(inputs.own.subjects_with(train) >= self.config.min_subjects)]
        if columns.is_empty():
            return AnchoredTrees(self.trees, calibration, None)
        own = _grow(inputs.own.take(columns, train), columns, label, subject, calibration(logit), seed)
        return AnchoredTrees(self.trees, calibration, own)

    def load(self, folder: Path) -> AnchoredTrees:
        saved = read_json(folder / ANCHOR)
        own = GradientBoosting.load(folder) if saved["trees"] else None
        return AnchoredTrees(self.trees, Calibration.from_json(saved["calibration"]), own)

    def base(self, models: list[AnchoredTrees], inputs: Inputs, index: np.ndarray) -> list[np.ndarray]:
        return [np.full(len(index), model.base) for model in models]

    def explain(self, models: list[AnchoredTrees], inputs: Inputs, index: np.ndarray) -> list[Attribution]:
        codes = sorted(set().union(*(model.codes for model in models)))
        by_code = [model.by_code(inputs, index, codes) for model in models]
        return attributions(by_code, codes, self.base(models, inputs, index), inputs.own, index)


def _grow(
    matrix: sparse.csr_matrix,
    columns: pl.DataFrame,
    label: np.ndarray,
    subject: np.ndarray,
    offset: np.ndarray,
    seed: int,
) -> GradientBoosting | None:
    """Trees on top of `offset`, as many as do best on subjects outside the inner folds; None where that is none."""
    parameters = {**PARAMETERS, "seed": seed, "min_data_in_leaf": int(np.clip(len(label) // 10, *LEAF))}
    fold = subject_folds(subject, label, INNER_FOLDS, seed)
    loss = sum(_losses(matrix, label, offset, fold != number, parameters) for number in range(INNER_FOLDS))
    rounds = int(np.argmin(loss))
    if rounds == 0:
        return None
    kept = screen(matrix, label, MOST_FEATURES)
    data = lgb.Dataset(matrix[:, kept], label, init_score=offset, params=parameters)
    booster = lgb.train(parameters, data, num_boost_round=rounds)
    return GradientBoosting(booster, columns[kept], Tuned(parameters, rounds, float(loss[rounds] / len(label)), 0.0))


def _losses(
    matrix: sparse.csr_matrix, label: np.ndarray, offset: np.ndarray, train: np.ndarray, parameters: dict
) -> np.ndarray:
    """Log loss, summed over the rows that are not in `train`, after 0, 1, ... rounds."""
    kept, test = screen(matrix[train], label[train], MOST_FEATURES), ~train
    fitted, held_out = (
        lgb.Dataset(matrix[part][:, kept], label[part], init_score=offset[part], params=parameters)
        for part in (train, test)
    )
    held_out.set_reference(fitted)
    told: dict = {}
    lgb.train(
        parameters,
        fitted,
        num_boost_round=MOST_ROUNDS,
        valid_sets=[held_out],
        valid_names=["test"],
        callbacks=[lgb.record_evaluation(told)],
    )
    untouched = np.mean(np.logaddexp(0.0, offset[test]) - label[test] * offset[test])
    return test.sum() * np.array([untouched, *told["test"]["binary_logloss"]])
