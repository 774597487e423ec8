"""The baseline to beat: LightGBM on windowed features, shallow trees, tuned inside the training subjects."""

from __future__ import annotations

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
from ehr_tl.features import Features
from ehr_tl.files import read_json, whole, write_json
from ehr_tl.models.base import PARTS, Attribution
from ehr_tl.models.screening import without_twins
from ehr_tl.models.tuning import Tuned, tune
from ehr_tl.schema import AGE, GENDER, GROUP, LIGHTGBM

EXPLAINED = 20  # codes that a row's explanation names; all others are one part
OTHERS = f"{GROUP}//everything else"


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

    @property
    def base(self) -> float:
        """Expected logit over the training rows, from which SHAP values count."""
        nothing = sparse.csr_matrix((1, self.columns.height), dtype=np.float32)
        return self.tuned.shift + float(sparse.csr_matrix(self._predict(nothing, pred_contrib=True))[0, -1])

    def save(self, folder: Path) -> None:
        with whole(folder / "model.txt") as temporary:
            self.booster.save_model(temporary)
        write_json(folder / "features.json", {"columns": self.columns.rows(), "tuned": asdict(self.tuned)})

    def _predict(self, matrix: sparse.csr_matrix, **what: bool) -> np.ndarray | sparse.csr_matrix:
        if not matrix.shape[0]:
            return np.zeros((0, self.columns.height + 1) if "pred_contrib" in what else 0)
        return self.booster.predict(matrix, num_threads=1, **what)


class GradientBoostingLearner:
    """Fits `GradientBoosting`; see `models.base.Learner`."""

    name = LIGHTGBM
    comparison = False
    as_is = False

    def __init__(self, config: LightGBMConfig):
        self.config = config

    def prepare(self, events: Events, rows: pl.DataFrame) -> Features:
        return features.build(events, rows, self.config.windows_days)

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
        saved = read_json(folder / "features.json")
        columns = pl.DataFrame(saved["columns"], schema=features.COLUMNS, orient="row")
        return GradientBoosting(lgb.Booster(model_file=folder / "model.txt"), columns, Tuned(**saved["tuned"]))

    def base(self, models: list[GradientBoosting], inputs: Features, index: np.ndarray) -> list[np.ndarray]:
        return [np.full(len(index), model.base) for model in models]

    def explain(self, models: list[GradientBoosting], inputs: Features, index: np.ndarray) -> list[Attribution]:
        """Sums SHAP values over the features of a code; each row names the `EXPLAINED` largest over all models."""
        codes = sorted({_explained_code(code) for model in models for code in model.columns["code"].unique()})
        by_code = [model.contributions(inputs, index) @ _sums(model.columns, codes) for model in models]
        row, code = _largest(by_code, len(index))
        kinds = _kinds(inputs, index, codes, row, code)
        return [
            Attribution(base, _parts(row, code, codes, kinds, shap))
            for base, shap in zip(self.base(models, inputs, index), by_code)
        ]


def _explained_code(code: str) -> str:
    return GENDER if code.startswith(f"{GENDER}//") else code


def _sums(columns: pl.DataFrame, codes: list[str]) -> sparse.csr_matrix:
    """Features by codes: 1 where the feature belongs to the code."""
    position = {code: i for i, code in enumerate(codes)}
    belongs = [position[_explained_code(code)] for code in columns["code"]]
    ones = np.ones(len(belongs))
    return sparse.csr_matrix((ones, (np.arange(len(belongs)), belongs)), shape=(len(belongs), len(codes)))


def _largest(by_code: list[sparse.csr_matrix], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and code of each row's `EXPLAINED` largest SHAP values, summed over the models; largest first."""
    total = abs(sum(by_code[1:], start=by_code[0])).tocoo()
    order = np.lexsort((total.col, -total.data, total.row))
    row, code = total.row[order], total.col[order]
    rank = np.arange(len(row)) - np.searchsorted(row, np.arange(rows))[row]
    return row[rank < EXPLAINED], code[rank < EXPLAINED]


def _kinds(inputs: Features, index: np.ndarray, codes: list[str], row: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Kind of each part (`schema.KINDS`)."""
    count = _cells(inputs.in_view(codes, index), row, code)
    kinds = np.select([count == 0, count == 1], ["missing", "event"], default="feature")
    personal = np.isin(np.array(codes, dtype=object), [AGE, GENDER])
    return np.where(personal[code], "demographic", kinds)


def _cells(matrix: sparse.csr_matrix, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    return np.asarray(matrix[row, column]).ravel() if len(row) else np.zeros(0)


def _parts(
    row: np.ndarray, code: np.ndarray, codes: list[str], kinds: np.ndarray, shap: sparse.csr_matrix
) -> pl.DataFrame:
    """The named parts, then one more per row for everything else."""
    rows = shap.shape[0]
    named = _cells(shap, row, code)
    rest = np.asarray(shap.sum(axis=1)).ravel() - np.bincount(row, weights=named, minlength=rows)
    names = np.array([*codes, OTHERS], dtype=object)
    parts = {
        "row": np.concatenate([row, np.arange(rows)]),
        "kind": [*kinds, *["feature"] * rows],
        "code": names[np.concatenate([code, np.full(rows, len(codes))])],
        "shap": np.concatenate([named, rest]),
    }
    return pl.DataFrame(parts, schema=PARTS).sort("row", maintain_order=True)
