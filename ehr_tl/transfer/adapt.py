"""Adapting: all learners are fitted on a hospital's cases and their scores combined, to score rows held out elsewhere.

A run cross-fits (`models.crossfit`), because everybody is to be scored by models that did not see them. A study holds
its test rows out beforehand, draws many samples of cases, and so needs few fits of each: K out of fold, from which
calibration and blend are learned, and one on all cases, which scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ehr_tl.errors import CohortError
from ehr_tl.models.base import Learner, RiskModel
from ehr_tl.models.combination import Combination, recipes
from ehr_tl.models.folds import site_folds, subject_folds

FOLDS = 5
FEWEST = 2  # positive and negative subjects


@dataclass(frozen=True)
class Adapted:
    """Models of a hospital's cases.

    Attributes:
        models: Learner -> its fit on all cases.
        combinations: Model as it is scored -> how base logits become its logit; the one in use last.
        events: Positive subjects among the cases.
    """

    models: dict[str, RiskModel]
    combinations: dict[str, Combination]
    events: int

    def logits(self, inputs: Mapping[str, Any], index: np.ndarray) -> dict[str, np.ndarray]:
        """Calibrated log odds of the rows `index` under each model, each of shape (len(index),).

        Args:
            inputs: Learner -> what its `prepare` gave.
            index: Positions of rows.
        """
        base = {name: model.logit(inputs[name], index) for name, model in self.models.items()}
        return {
            name: combination.calibration(combination.uncalibrated(base))
            for name, combination in self.combinations.items()
        }

    @property
    def weights(self) -> dict[str, float]:
        """Share of each learner in the model in use; none negative, with sum 1."""
        used = list(self.combinations.values())[-1]
        return used.shares or {name: 1.0 for name in used.weights}


def adapt(
    learners: Sequence[Learner],
    inputs: Mapping[str, Any],
    labels: np.ndarray,
    subject: np.ndarray,
    train: np.ndarray,
    *,
    seed: int,
    site: np.ndarray | None = None,
) -> Adapted:
    """Fits all learners on the cases and learns from out-of-fold logits how they are calibrated and blended.

    Args:
        learners: At least one that is no comparison.
        inputs: Learner -> what its `prepare` gave for all rows, those to be scored later too.
        labels: 0 or 1, looked at where `train` points alone, shape (n,).
        subject: Whom each row belongs to, shape (n,).
        train: Positions of the cases.
        seed: Fixes folds and fits.
        site: Where each row comes from, shape (n,): sites are then held out whole, if the cases are of so many that
            each fold leaves some with and some without the outcome; else subjects are, as without it.

    Raises:
        CohortError: Fewer than two subjects with or without the outcome.
    """
    train = np.asarray(train)
    fold = _folds(labels[train], subject[train], site if site is None else site[train], seed)
    models, base = {}, {}
    with TemporaryDirectory() as folder:
        fit = _Fits(labels, seed, Path(folder))
        for learner in learners:
            own = inputs[learner.name]
            models[learner.name] = whole = fit(learner, own, train)
            base[learner.name] = np.zeros(len(train))
            for number in np.unique(fold):
                out = fold == number
                model = whole if learner.as_is else fit(learner, own, train[~out])
                base[learner.name][out] = model.logit(own, train[out])
    combinations = {name: make(base, labels[train], subject[train]) for name, make in recipes(learners).items()}
    return Adapted(models, combinations, _positive(labels[train], subject[train]))


@dataclass(frozen=True)
class _Fits:
    """Fits a learner; `folder` holds what a fit keeps while it lasts."""

    labels: np.ndarray
    seed: int
    folder: Path

    def __call__(self, learner: Learner, inputs: Any, train: np.ndarray) -> RiskModel:
        with TemporaryDirectory(dir=self.folder) as state:
            return learner.fit(inputs, self.labels, train, seed=self.seed, state=Path(state))


def _folds(label: np.ndarray, subject: np.ndarray, site: np.ndarray | None, seed: int) -> np.ndarray:
    """Fold of each case: as many as the rarer kind of subject allows, at most `FOLDS`."""
    positive = _positive(label, subject)
    rarer = min(positive, len(np.unique(subject)) - positive)
    if rarer < FEWEST:
        raise CohortError(
            f"{len(np.unique(subject))} subjects have a known outcome, {positive} of them with it: too few to adapt to",
            expected=f"at least {FEWEST} with and {FEWEST} without it",
            fix="draw more cases, or use the source's scores as they are",
        )
    folds = min(FOLDS, rarer)
    if site is not None:
        number = min(folds, len(np.unique(site)))
        fold = site_folds(site, subject, label, number, seed)
        if all(len(np.unique(label[fold != each])) == 2 for each in range(number)):
            return fold
    return subject_folds(subject, label, folds, seed)


def _positive(label: np.ndarray, subject: np.ndarray) -> int:
    return len(np.unique(subject[label == 1]))
