"""Trees on the rows of source hospitals and of this one together: all alike, or the sources' weighted by likeness.

How the trees are grown is settled once, on the sources' rows alone, so that a fit is a single training and no local
label chooses anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import polars as pl
from scipy import sparse

from ehr_tl import features
from ehr_tl.config import LightGBMConfig
from ehr_tl.errors import PipelineError
from ehr_tl.events import Events
from ehr_tl.features import Build, Features
from ehr_tl.files import fingerprint
from ehr_tl.models.folds import subject_folds
from ehr_tl.models.gradient_boosting import GradientBoosting, GradientBoostingLearner
from ehr_tl.models.tuning import FIXED
from ehr_tl.schema import POOLED, WEIGHTED
from ehr_tl.transfer.seen import fingerprints
from ehr_tl.transfer.source_models import joined

SEED = 0  # of what is settled once
CLIP = (0.1, 10.0)  # of a row's weight
LIKENESS_FOLDS, LIKENESS_ROUNDS = 3, 30
LIKENESS = {**FIXED, "learning_rate": 0.1, "max_depth": 2, "num_leaves": 4, "lambda_l2": 10.0, "feature_fraction": 0.3}


class SourceRows:
    """The labelled rows of source hospitals, and how trees are grown on them; all of it made at first use.

    Args:
        sources: Each hospital's events and its labelled rows (`schema.COHORT`).
        config: Look-back windows and limits of the search.
        known: Trees that were tuned on such rows already, with the same windows: their settings are then taken.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Events, pl.DataFrame]],
        config: LightGBMConfig,
        known: GradientBoosting | None = None,
    ):
        self._sources, self._config, self._known = tuple(sources), config, known

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """One of each hospital's events and rows."""
        parts = [
            (fingerprint(events.folder / "data", events.folder / "metadata" / "codes.parquet"), rows.write_csv())
            for events, rows in self._sources
        ]
        return tuple(sha256("".join(part).encode()).hexdigest() for part in parts)

    @property
    def grown_as(self) -> str:
        """A digest of the settings that were known beforehand; empty where there were none."""
        if self._known is None:
            return ""
        return sha256(repr((self._known.tuned, self._known.columns.rows())).encode()).hexdigest()

    @cached_property
    def people(self) -> pl.Series:
        """Fingerprints of the subjects (`transfer.seen`)."""
        return pl.concat(
            fingerprints(events, rows["subject_id"].to_numpy())["fingerprint"] for events, rows in self._sources
        )

    @cached_property
    def features(self) -> Features:
        parts = [features.build(events, rows, self._config.windows_days) for events, rows in self._sources]
        return joined(parts, self._persons)

    @cached_property
    def label(self) -> np.ndarray:
        return self._persons["boolean_value"].cast(pl.Float64).to_numpy()

    @cached_property
    def settings(self) -> GradientBoosting:
        """Trees whose features and parameters are those to grow others by."""
        if self._known is not None:
            return self._known
        learner, every = GradientBoostingLearner(self._config), np.arange(len(self.label))
        return learner.fit(self.features, self.label, every, seed=SEED, state=Path())

    @cached_property
    def matrix(self) -> sparse.csr_matrix:
        """The features that `settings` names, float32, shape (rows, features)."""
        return self.features.take(self.settings.columns, np.arange(len(self.label)))

    def above(self, here: sparse.csr_matrix) -> lgb.Dataset:
        """The sources' rows and, below them, rows of this hospital, binned as the sources' values are spread."""
        both = sparse.vstack([self.matrix, here], format="csr")
        return lgb.Dataset(both, params=FIXED, reference=self._bins).construct()

    @cached_property
    def _bins(self) -> lgb.Dataset:
        return lgb.Dataset(self.matrix, params=FIXED).construct()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_bins"}  # LightGBM's are not to be sent

    @cached_property
    def _persons(self) -> pl.DataFrame:
        """All rows; `person` tells subjects of one number at two hospitals apart."""
        rows = pl.concat(rows.with_columns(source=pl.lit(i)) for i, (_, rows) in enumerate(self._sources))
        return rows.with_columns(person=pl.struct("source", "subject_id").rank("dense").cast(pl.Int64))


@dataclass(frozen=True)
class PooledConfig(LightGBMConfig):
    """The baseline's settings, a digest of each source's events and rows, and one of the trees it is grown like."""

    sources: tuple[str, ...] = ()
    grown_as: str = ""


#: Of the pooled trees in the blend beforehand: as much as of a checkpoint's trees that do as well as its head.
SHARE = 0.5


class PooledLearner(GradientBoostingLearner):
    """Fits `GradientBoosting` on the rows of the sources and the local ones; see `models.base.Learner`.

    Args:
        sources: The sources' rows; learners that share them share what is made of them. None: nothing is to be fitted.
        config: As the baseline's.
        weighted: Weight the sources' rows by the ratio of densities, here to there, of their features: covariate shift
            (Shimodaira, Journal of Statistical Planning and Inference 2000), estimated by a classifier of where a row
            comes from (Bickel, Brueckner, Scheffer, JMLR 2009). No label is looked at.
        build: Makes features; learners that share one share its memory.
    """

    def __init__(
        self, sources: SourceRows | None, config: LightGBMConfig, weighted: bool = False, build: Build = features.build
    ):
        learned = {} if sources is None else {"sources": sources.digests, "grown_as": sources.grown_as}
        super().__init__(PooledConfig(**asdict(config), **learned), build)
        self.name, self.share = (WEIGHTED, 0.0) if weighted else (POOLED, SHARE)
        self._sources = sources

    def prepare(self, events: Events, rows: pl.DataFrame) -> Features:
        """As the baseline's.

        Raises:
            PipelineError: Somebody is both here and at a source that is to be learned from.
        """
        if self._sources is not None:
            self._refuse_shared(events, rows)
        return super().prepare(events, rows)

    def _refuse_shared(self, events: Events, rows: pl.DataFrame) -> None:
        here = fingerprints(events, rows["subject_id"].to_numpy())["fingerprint"]
        if number := int(here.is_in(self._sources.people.to_list()).sum()):
            raise PipelineError(
                f"{number:,} of the {len(here):,} subjects of this cohort are among those of transfer.sources",
                expected="source hospitals with patients of their own",
                fix="name other sources: a score of somebody whose outcome was learned says nothing",
            )

    def fit(
        self, inputs: Features, labels: np.ndarray, train: np.ndarray, *, seed: int, state: Path
    ) -> GradientBoosting:
        """Grows as many trees as the settings say, within about a second."""
        settings, there = self._sources.settings, self._sources.matrix
        data = self._sources.above(inputs.take(settings.columns, train))
        weight = np.ones(there.shape[0] + len(train))
        if self.name == WEIGHTED:
            weight[: there.shape[0]] = likeness(data, there, inputs.subject[train], seed)
        data.set_label(np.concatenate([self._sources.label, labels[train]])).set_weight(weight)
        depth = settings.tuned.parameters["max_depth"]
        parameters = {**FIXED, **settings.tuned.parameters, "num_leaves": 2**depth, "seed": seed}
        booster = lgb.train(parameters, data, num_boost_round=settings.tuned.rounds)
        return GradientBoosting(booster, settings.columns, settings.tuned)


def likeness(data: lgb.Dataset, there: sparse.csr_matrix, subject: np.ndarray, seed: int) -> np.ndarray:
    """Weights of source rows: how much denser rows like them lie here than there; mean 1, shape (rows there,).

    A row's weight comes from a classifier that did not see it. With few rows here it finds little, and all weights are
    about 1.

    Args:
        data: The sources' rows and, below them, this hospital's; its label is changed.
        there: The sources' rows.
        subject: Whom each row here belongs to.
        seed: Fixes folds and trees.
    """
    source = there.shape[0]
    local = np.concatenate([np.zeros(source), np.ones(len(subject))])
    owner = np.concatenate([np.arange(source), source + subject])
    fold, odds = subject_folds(owner, local, LIKENESS_FOLDS, seed), np.zeros(source)
    data.set_label(local)
    for number in range(LIKENESS_FOLDS):
        part = data.subset(np.flatnonzero(fold != number))
        booster = lgb.train({**LIKENESS, "seed": seed}, part, num_boost_round=LIKENESS_ROUNDS)
        asked = np.flatnonzero(fold[:source] == number)
        odds[asked] = booster.predict(there[asked], raw_score=True, num_threads=1)
    ratio = np.clip(np.exp(odds) * source / len(subject), *CLIP)
    return ratio / ratio.mean()
