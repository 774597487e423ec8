"""How many trees of which kind: chosen by cross-validation over the training subjects alone.

With some twenty positive subjects, shallow trees on a few hundred screened features do best. The screening is part of
what is cross-validated: done on the training side of each inner fold, never on the side that judges.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np
from scipy import sparse

from ehr_tl.config import LightGBMConfig
from ehr_tl.models.calibration import level
from ehr_tl.models.folds import subject_folds
from ehr_tl.models.screening import screen

INNER_FOLDS = 3
PATIENCE = 15  # rounds without a better mean loss
MOST_FEATURES = 500
LEAF = (5, 20)  # fewest rows in a leaf: where rows are few, and where they are many

FIXED = {
    "objective": "binary",
    "learning_rate": 0.15,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "max_bin": 63,
    "zero_as_missing": True,
    "feature_pre_filter": False,
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
    "verbose": -1,
}


@dataclass(frozen=True)
class Tuned:
    """What the search chose.

    Attributes:
        parameters: LightGBM's.
        rounds: Number of trees.
        loss: Mean log loss on the inner folds.
        shift: What must be added to the trees' logit on the inner folds to expect as many events as there were: leaf
            values of rare positives are shrunk more than those of negatives, so trees alone expect too few.
    """

    parameters: dict[str, Any]
    rounds: int
    loss: float
    shift: float


def candidates(config: LightGBMConfig, rows: int, seed: int) -> list[dict[str, Any]]:
    """`config.trials` settings for so many training rows: four that differ most, then random ones.

    Examples:
        >>> [c["max_depth"] for c in candidates(LightGBMConfig(max_depth=3, trials=3), rows=1000, seed=0)]
        [1, 2, 3]
    """
    deepest = config.max_depth
    leaf = int(np.clip(rows // 10, *LEAF))  # of a few dozen rows, leaves of twenty would leave nothing to split
    usual = {"extra_trees": False, "lambda_l2": 10.0, "feature_fraction": 0.3, "min_data_in_leaf": leaf}
    first = [
        {**usual, "max_depth": 1},
        {**usual, "max_depth": min(2, deepest)},
        {**usual, "max_depth": deepest, "extra_trees": True},
        {**usual, "max_depth": deepest, "feature_fraction": 0.1},
    ]
    grid = itertools.product((False, True), (1.0, 10.0, 30.0), (0.1, 0.3, 0.6), (5, 20, 50), range(1, deepest + 1))
    more = [dict(zip((*usual, "max_depth"), values)) for values in grid]
    order = np.random.default_rng(seed).permutation(len(more))
    return (first + [more[i] for i in order])[: max(1, config.trials)]


def tune(
    matrix: sparse.csr_matrix, label: np.ndarray, subject: np.ndarray, config: LightGBMConfig, seed: int
) -> tuple[lgb.Booster, np.ndarray, Tuned]:
    """Chooses by inner cross-validation, then fits on everything given.

    Args:
        matrix: Training rows by features.
        label: 0 or 1, shape (rows,).
        subject: Whom each row belongs to, shape (rows,).
        config: Search limits.
        seed: Fixes folds and trees.

    Returns:
        The booster, the positions of the features it uses, in order, and what was chosen.
    """
    fold = subject_folds(subject, label, INNER_FOLDS, seed)
    both = [k for k in range(INNER_FOLDS) if label[fold == k].any() and len(np.unique(label[fold != k])) == 2]
    parts = [_Part(matrix, label, fold != k, fold == k) for k in both]
    tried = candidates(config, len(label), seed)
    tuned = min((_try(parts, trial, config.rounds, seed) for trial in tried), key=lambda t: t.loss)
    kept = screen(matrix, label, MOST_FEATURES)
    parameters = _parameters(tuned.parameters, seed)
    data = lgb.Dataset(matrix[:, kept], label, params=parameters)
    return lgb.train(parameters, data, num_boost_round=tuned.rounds), kept, tuned


class _Part:
    """One inner fold: screened and binned by its training side."""

    def __init__(self, matrix: sparse.csr_matrix, label: np.ndarray, train: np.ndarray, test: np.ndarray):
        kept = screen(matrix[train], label[train], MOST_FEATURES)
        self.train = lgb.Dataset(matrix[train][:, kept], label[train], params=FIXED, free_raw_data=False).construct()
        self.test_matrix, self.label = matrix[test][:, kept], label[test]
        self.test = self.train.create_valid(self.test_matrix, self.label, params=FIXED).construct()


def _parameters(trial: dict[str, Any], seed: int) -> dict[str, Any]:
    return {**FIXED, **trial, "num_leaves": 2 ** trial["max_depth"], "metric": "binary_logloss", "seed": seed}


def _try(parts: list[_Part], trial: dict[str, Any], most: int, seed: int) -> Tuned:
    """Grows all inner folds together and stops them together, where their joint loss is lowest.

    With one positive subject there is no inner fold, and the first trial gets a single tree.
    """
    if not parts:
        return Tuned(trial, 1, 0.0, 0.0)
    boosters = []
    for part in parts:
        boosters.append(lgb.Booster(_parameters(trial, seed), part.train))
        boosters[-1].add_valid(part.test, "test")
    weights = np.array([len(part.label) for part in parts], dtype=float)
    best, rounds = np.inf, 1
    for grown in range(1, most + 1):
        for booster in boosters:
            booster.update()
        loss = float(np.average([booster.eval_valid()[0][2] for booster in boosters], weights=weights))
        if loss < best:
            best, rounds = loss, grown
        elif grown - rounds >= PATIENCE:
            break
    logit = [
        booster.predict(part.test_matrix, raw_score=True, num_iteration=rounds, num_threads=1)
        for booster, part in zip(boosters, parts)
    ]
    shift = level(np.concatenate(logit), np.concatenate([part.label for part in parts]))
    return Tuned(trial, rounds, best, shift)
