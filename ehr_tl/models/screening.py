"""Which features are worth a look, judged on training rows alone; thousands of columns become hundreds."""

from __future__ import annotations

import numpy as np
from scipy import sparse


def without_twins(matrix: sparse.csr_matrix) -> np.ndarray:
    """Positions of columns without those that repeat an earlier one, cell by cell.

    Two columns count as equal when they have the same product with a random vector: cells are added up in the same
    order, so equal columns always agree, and others practically never.

    Examples:
        >>> without_twins(sparse.csr_matrix([[1.0, 0, 1.0, 2.0], [3.0, 1.0, 3.0, 0]])).tolist()
        [0, 1, 3]
    """
    random = np.random.default_rng(0).normal(size=matrix.shape[0])
    return np.sort(np.unique(matrix.T @ random, return_index=True)[1])


def screen(matrix: sparse.csr_matrix, label: np.ndarray, most: int) -> np.ndarray:
    """Positions of the `most` columns that tell positive from negative rows best, each by itself.

    A column's score is the sum of two chi-square statistics: whether it is present, and, where it is present, how
    large its value is (on a logarithmic scale). Both are permutation statistics: mean and variance given the margins.

    Args:
        matrix: Rows by features; what is not stored is absent.
        label: 0 or 1, shape (rows,).
        most: How many to keep.
    """
    if matrix.shape[1] <= most:
        return np.arange(matrix.shape[1])
    rows, positive = len(label), label.sum()
    size = np.sign(matrix.data) * np.log1p(np.abs(matrix.data.astype(np.float64)))
    present, value, square = (
        sparse.csr_matrix((data, matrix.indices, matrix.indptr), matrix.shape)
        for data in (np.ones_like(size), size, size**2)
    )
    count, total, squares = (np.asarray(part.sum(axis=0)).ravel() for part in (present, value, square))
    hits, hit_total = present.T @ label, value.T @ label
    share = count / rows
    presence = _chi_square(hits - positive * share, positive * (1 - positive / rows) * share * (1 - share))
    filled = np.maximum(count, 1)
    mean = total / filled
    spread = np.maximum(squares / filled - mean**2, 0.0)
    spread[spread < 1e-6] = 0.0
    magnitude = _chi_square(hit_total - hits * mean, spread * hits * (1 - hits / filled))
    return np.sort(np.argsort(-(presence + magnitude), kind="stable")[:most])


def _chi_square(difference: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return np.divide(difference**2, variance, out=np.zeros_like(difference), where=variance > 1e-9)
