"""Folds over subjects, stratified by whether a subject is ever positive."""

from __future__ import annotations

import numpy as np


def subject_folds(subject: np.ndarray, label: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Deals subjects into folds so that each gets its share of positive subjects.

    Args:
        subject: Whom each row belongs to, shape (n,).
        label: 0 or 1, shape (n,). A subject is positive when any of its rows is.
        folds: Number of folds.
        seed: Fixes the dealing.

    Returns:
        The fold of each row, shape (n,).

    Examples:
        >>> subject_folds(np.array([7, 7, 8, 9, 5]), np.array([0, 1, 0, 1, 0]), 2, seed=0).tolist()
        [0, 0, 1, 1, 0]
    """
    subjects, row = np.unique(subject, return_inverse=True)
    positive = np.bincount(row, weights=label) > 0
    random = np.random.default_rng(seed)
    dealt = np.concatenate([random.permutation(np.flatnonzero(group)) for group in (positive, ~positive)])
    fold = np.empty(len(subjects), dtype=np.int64)
    fold[dealt] = np.arange(len(dealt)) % folds
    return fold[row]
