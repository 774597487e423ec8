"""The baseline to beat: LightGBM on windowed features, shallow trees, tuned inside the training subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import lightgbm as lgb
import numpy as np
import polars as pl
from scipy import sparse

from ehr_tl import features
from ehr_tl.config import LightGBMConfig
from ehr_tl.errors import CohortError
from ehr_tl.events import Events
from ehr_tl.features import Build, Features
from ehr_tl.files import read_json, whole, write_json
from ehr_tl.models.base import Attribution
from ehr_tl.models.by_code import attributions, explained_codes, summed
from ehr_tl.models.screening import without_twins
from ehr_tl.models.tuning import Tuned, tune
from ehr_tl.schema import LIGHTGBM


@dataclass(frozen=True)
class GradientBoosting:
    """A fitted booster.

    Attributes:
        booster: The trees.
        columns: The features that it was fitted on, in order (`features.COLUMNS`).
        tuned: What the inner cross-validation chose; its `shift` is added to the trees' logit.
    """

    booster: lgb.Booster
    columns: pl.DataFrame
    tuned: Tuned

    def logit(self, inputs: Features, index: np.ndarray) -> np.ndarray:
        return self.tuned.shift + self._predict(inputs.take(self.columns, index), raw_score=True)

    def contributions(self, inputs: Features, index: np.ndarray) -> sparse.csr_matrix:
        """SHAP values of the features, shape (rows, features): TreeSHAP (Lundberg et al. 2020), path-dependent."""
        return sparse.csr_matrix(self._predict(inputs.take(self.columns, index), pred_contrib=True))[:, :-1]

    def by_code(self, inputs: Features, index: np.ndarray, codes: Sequence[str]) -> sparse.csr_matrix:
        """SHAP values of codes, shape (rows, codes)."""
        return summed(self.contributions(inputs, index), self.columns, codes)

    @property
    def base(self) -> float:
        """Expected logit over the training rows, from which SHAP values count."""
        nothing = sparse.csr_matrix((1, self.columns.height), dtype=np.float32)
        return self.tuned.shift + float(sparse.csr_matrix(self._predict(nothing, pred_contrib=True))[0, -1])

    def save(self, folder: Path) -> None:
        with whole(folder / "model.txt") as temporary:
            self.booster.save_model(temporary)
        write_json(folder / "features.json", {"columns": self.columns.rows(), "tuned": asdict(self.tuned)})

    @classmethod
    def load(cls, folder: Path) -> GradientBoosting:
        saved = read_json(folder / "features.json")
        columns = pl.DataFrame(saved["columns"], schema=features.COLUMNS, orient="row")
        return cls(lgb.Booster(model_file=folder / "model.txt"), columns, Tuned(**saved["tuned"]))

    def _predict(self, matrix: sparse.csr_matrix, **what: bool) -> np.ndarray | sparse.csr_matrix:
        if not matrix.shape[0]:
            return np.zeros((0, self.columns.height + 1) if "pred_contrib" in what else 0)
        return self.booster.predict(matrix, num_threads=1, **what)


class GradientBoostingLearner:
    """Fits `GradientBoosting`; see `models.base.Learner`.

    Args:
        config: Look-back windows and limits of the search.
        build: Makes features, as `features.build` does; learners that share one share its memory.
    """

    name = LIGHTGBM
    comparison = False
    as_is = False
    share = 0.0
    related = False

    def __init__(self, config: LightGBMConfig, build: Build = features.build):
        self.config, self._build = config, build

    def prepare(self, events: Events, rows: pl.DataFrame) -> Features:
        return self._build(events, rows, self.config.windows_days)

    def fit(
        self, inputs: Features, labels: np.ndarray, train: np.ndarray, *, seed: int, state: Path
    ) -> GradientBoosting:
        """Fits within seconds, so an interrupted fit starts again: nothing is kept in `state`."""
        least = min(self.config.min_subjects, len(np.unique(inputs.subject[train])) // 4)
        columns = inputs.columns[np.flatnonzero(inputs.subjects_with(train) >= max(1, least))]
        if columns.is_empty():
            raise CohortError(
                "Nothing is on record of the cohort's patients before their prediction times",
                expected="events, or at least birth dates and sex",
                fix="look at events/metadata/coverage.json: it says what was set aside, and why",
            )
        matrix = inputs.take(columns, train)
        single = without_twins(matrix)
        booster, kept, tuned = tune(matrix[:, single], labels[train], inputs.subject[train], self.config, seed)
        return GradientBoosting(booster, columns[single[kept]], tuned)

    def load(self, folder: Path) -> GradientBoosting:
        return GradientBoosting.load(folder)

    def base(self, models: list[GradientBoosting], inputs: Features, index: np.ndarray) -> list[np.ndarray]:
        return [np.full(len(index), model.base) for model in models]

    def explain(self, models: list[GradientBoosting], inputs: Features, index: np.ndarray) -> list[Attribution]:
        """Sums SHAP values over the features of a code; each row names the largest over all models."""
        codes = sorted(set().union(*(explained_codes(model.columns) for model in models)))
        by_code = [model.by_code(inputs, index, codes) for model in models]
        return attributions(by_code, codes, self.base(models, inputs, index), inputs, index)
