"""Folds over subjects, stratified by whether a subject is ever positive; or over the sites that they are from."""

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


def site_folds(site: np.ndarray, subject: np.ndarray, label: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Deals whole sites into folds, so that each gets about its share of subjects and of positive ones.

    Args:
        site: Where each row comes from, shape (n,); the same for all rows of a subject.
        subject, label: As in `subject_folds`.
        folds: Number of folds, no more than there are sites.
        seed: Fixes the dealing.

    Returns:
        The fold of each row, shape (n,).

    Examples:
        >>> site = np.array(["a", "b", "b", "c", "c", "c"])
        >>> site_folds(site, np.arange(6), np.array([1, 0, 1, 0, 1, 0]), 2, seed=0).tolist()
        [1, 1, 1, 0, 0, 0]
    """
    subjects, first, row = np.unique(subject, return_index=True, return_inverse=True)
    sites, home = np.unique(site[first], return_inverse=True)
    positive = np.bincount(row, weights=label) > 0
    load = np.bincount(home) / len(subjects) + np.bincount(home, weights=positive) / max(positive.sum(), 1)
    shuffled = np.random.default_rng(seed).permutation(len(sites))
    held = np.zeros(folds)
    fold = np.empty(len(sites), dtype=np.int64)
    for number in shuffled[np.argsort(-load[shuffled], kind="stable")]:  # the largest first, each where least is
        fold[number] = np.argmin(held)
        held[fold[number]] += load[number]
    return fold[home][row]
