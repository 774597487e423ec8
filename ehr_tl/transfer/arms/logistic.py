"""A logistic regression on a few variables: what a hospital with few cases would do by itself.

The last values of the numeric series that most patients have, age, sex and how much is on record; standardised, what
is missing at the mean, with a ridge. With some 16 to 256 cases it is the local model to beat (Christodoulou et al.,
Journal of Clinical Epidemiology 2019: where the ratio of events to variables is low, trees do not do better).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

from ehr_tl import features
from ehr_tl.events import Events
from ehr_tl.features import Build, Features
from ehr_tl.features.blocks import ZERO
from ehr_tl.files import read_json, write_json
from ehr_tl.models.base import Attribution
from ehr_tl.models.by_code import attributions, explained_codes, summed
from ehr_tl.models.calibration import fit_logistic
from ehr_tl.models.folds import subject_folds
from ehr_tl.schema import AGE, GENDER, GROUP, LOGISTIC

SERIES = 20
ENOUGH = 10  # positive subjects from which on the ridge's strength is chosen, not given
RIDGES = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0)  # prior precision of a standardised variable's coefficient
GIVEN = 30.0
INNER_FOLDS = 5
FARTHEST = 5.0  # standard deviations from the mean that count: one wild value is not to rule a score

MUCH = f"{GROUP}//number of events on record"


@dataclass(frozen=True)
class LogisticConfig:
    """Look-back windows of the features that are shared with other learners; the variables look back on all."""

    windows_days: tuple[float, ...]


@dataclass(frozen=True)
class Regression:
    """A fitted regression.

    Attributes:
        variables: What each variable is (`features.COLUMNS`); the last one is `MUCH`.
        mean, spread: Of each variable over the training rows that have it, shape (variables,).
        coefficients: Of the standardised variables, shape (variables,).
        intercept: Logit where all variables are at their means.
    """

    variables: pl.DataFrame
    mean: np.ndarray
    spread: np.ndarray
    coefficients: np.ndarray
    intercept: float

    @property
    def base(self) -> float:
        return self.intercept

    def logit(self, inputs: Features, index: np.ndarray) -> np.ndarray:
        return self.intercept + self.contributions(inputs, index).sum(axis=1)

    def contributions(self, inputs: Features, index: np.ndarray) -> np.ndarray:
        """SHAP values of a linear model: coefficient times distance from the mean, shape (rows, variables)."""
        return _standardised(_values(inputs, self.variables, index), self.mean, self.spread) * self.coefficients

    def save(self, folder: Path) -> None:
        numbers = {name: getattr(self, name).tolist() for name in ("mean", "spread", "coefficients")}
        write_json(folder / "model.json", {"variables": self.variables.rows(), **numbers, "intercept": self.intercept})


class LogisticLearner:
    """Fits `Regression`; see `models.base.Learner`.

    Args:
        config: Windows of the features.
        build: Makes features; learners that share one share its memory.
    """

    name = LOGISTIC
    comparison = False
    as_is = False
    share = 0.0
    related = False

    def __init__(self, config: LogisticConfig, build: Build = features.build):
        self.config, self._build = config, build

    def prepare(self, events: Events, rows: pl.DataFrame) -> Features:
        return self._build(events, rows, self.config.windows_days)

    def fit(self, inputs: Features, labels: np.ndarray, train: np.ndarray, *, seed: int, state: Path) -> Regression:
        """Fits within a second: nothing is kept in `state`."""
        variables = _chosen(inputs, train)
        values = _values(inputs, variables, train)
        mean, spread = _moments(values)
        design = np.column_stack([np.ones(len(train)), _standardised(values, mean, spread)])
        label, subject = labels[train], inputs.subject[train]
        ridge = GIVEN if len(np.unique(subject[label == 1])) < ENOUGH else _ridge(design, label, subject, seed)
        intercept, *coefficients = _fitted(design, label, ridge)
        return Regression(variables, mean, spread, np.array(coefficients), float(intercept))

    def load(self, folder: Path) -> Regression:
        saved = read_json(folder / "model.json")
        numbers = {name: np.array(saved[name]) for name in ("mean", "spread", "coefficients")}
        variables = pl.DataFrame(saved["variables"], schema=features.COLUMNS, orient="row")
        return Regression(variables, intercept=saved["intercept"], **numbers)

    def base(self, models: list[Regression], inputs: Features, index: np.ndarray) -> list[np.ndarray]:
        return [np.full(len(index), model.base) for model in models]

    def explain(self, models: list[Regression], inputs: Features, index: np.ndarray) -> list[Attribution]:
        codes = sorted(set().union(*(explained_codes(model.variables) for model in models)))
        by_code = [
            summed(sparse.csr_matrix(model.contributions(inputs, index)), model.variables, codes) for model in models
        ]
        return attributions(by_code, codes, self.base(models, inputs, index), inputs, index)


def _chosen(inputs: Features, train: np.ndarray) -> pl.DataFrame:
    """The variables: those that most subjects of the training rows have."""
    columns = inputs.columns.with_columns(subjects=pl.Series(inputs.subjects_with(train))).filter(
        pl.col("subjects") > 0
    )
    last = columns.filter(pl.col("statistic") == "last").sort("subjects", "code", descending=[True, False])
    sexes = columns.filter((pl.col("statistic") == "is") & pl.col("code").str.starts_with(f"{GENDER}//"))
    parts = [last[:SERIES], columns.filter(pl.col("code") == AGE), sexes.sort("code")[1:]]
    known = pl.concat(parts).select(features.COLUMNS.keys())
    much = pl.DataFrame([(MUCH, "count", None, "")], schema=features.COLUMNS, orient="row")
    return pl.concat([known, much])


def _values(inputs: Features, variables: pl.DataFrame, index: np.ndarray) -> np.ndarray:
    """Values of the rows, NaN where there is none, shape (rows, variables)."""
    found = inputs.take(variables, index)
    values = np.full(found.shape, np.nan)
    row = np.repeat(np.arange(len(index)), np.diff(found.indptr))
    values[row, found.indices] = np.where(found.data == np.float32(ZERO), 0.0, found.data)
    present = variables["statistic"].to_numpy() == "is"
    values[:, present] = np.nan_to_num(values[:, present])
    counts = inputs.columns.filter((pl.col("statistic") == "count") & pl.col("days").is_null())
    values[:, -1] = np.log1p(np.asarray(inputs.take(counts, index).sum(axis=1)).ravel())
    return values


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column over what is there; 0 and 1 where there is nothing to tell them."""
    there = ~np.isnan(values)
    count = np.maximum(there.sum(axis=0), 1)
    mean = np.where(there, values, 0.0).sum(axis=0) / count
    spread = np.sqrt((np.where(there, values - mean, 0.0) ** 2).sum(axis=0) / count)
    return mean, np.where(spread > 1e-6, spread, 1.0)


def _standardised(values: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Standard deviations from the mean, at most `FARTHEST`; what is missing lies at the mean."""
    return np.nan_to_num(np.clip((values - mean) / spread, -FARTHEST, FARTHEST))


def _fitted(design: np.ndarray, label: np.ndarray, ridge: float) -> np.ndarray:
    precision = np.append(1e-6, np.full(design.shape[1] - 1, ridge))
    return fit_logistic(design, label, np.zeros(len(label)), centre=np.zeros(len(precision)), precision=precision)


def _ridge(design: np.ndarray, label: np.ndarray, subject: np.ndarray, seed: int) -> float:
    """The strength with the lowest log loss on subjects outside the inner folds."""
    fold = subject_folds(subject, label, INNER_FOLDS, seed)

    def loss(ridge: float) -> float:
        total = 0.0
        for number in range(INNER_FOLDS):
            out = fold == number
            logit = design[out] @ _fitted(design[~out], label[~out], ridge)
            total += float(np.sum(np.logaddexp(0.0, logit) - label[out] * logit))
        return total

    return min(RIDGES, key=loss)
