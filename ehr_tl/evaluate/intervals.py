"""Estimates with 95% intervals that resample subjects, not rows: one patient's rows come and go together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

#: Weights held in memory at once.
_CHUNK = 8_000_000


def resampled_weights(subjects: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row counts when subjects are drawn with replacement; chunks of shape (some, rows).

    Args:
        subjects: Subject of each row, shape (rows,).
        resamples: Number of draws over all chunks.
        seed: Fixes the draws; the same seed gives the same draws to every model.
    """
    names, rows = np.unique(subjects, return_inverse=True)
    generator = np.random.default_rng(seed)
    per_chunk = max(1, _CHUNK // max(1, len(rows)))
    for start in range(0, resamples, per_chunk):
        size = min(per_chunk, resamples - start)
        counts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=size)
        yield counts[:, rows].astype(float)


class Bootstrap:
    """Measures of several scores of the same rows, in the sample and in resamples of its subjects.

    Args:
        labels: 0 or 1, shape (rows,).
        logits: Name of a score -> log odds, shape (rows,).
        subjects: Subject of each row.
        measures: Name -> function as in `ehr_tl.evaluate.metrics`.
        resamples, seed: Of the bootstrap. Scores share the resamples, so their differences are paired.
    """

    def __init__(
        self,
        labels: np.ndarray,
        logits: Mapping[str, np.ndarray],
        subjects: np.ndarray,
        measures: Mapping[str, Measure],
        resamples: int,
        seed: int,
    ):
        everyone = np.ones(len(labels))
        keys = [(score, measure) for score in logits for measure in measures]
        self.values = {(s, m): float(measures[m](labels, logits[s], everyone)) for s, m in keys}
        draws: dict[tuple[str, str], list[np.ndarray]] = {key: [] for key in keys}
        for weights in resampled_weights(subjects, resamples, seed):
            for score, measure in keys:
                draws[score, measure].append(measures[measure](labels, logits[score], weights))
        self.draws = {key: np.concatenate(parts) if parts else np.empty(0) for key, parts in draws.items()}

    def estimate(self, score: str, measure: str) -> dict[str, Any]:
        """`value`, `lower` and `upper`; or a null `value` and a `reason`."""
        return summary(self.values[score, measure], self.draws[score, measure])

    def difference(self, first: str, second: str, measure: str) -> dict[str, Any]:
        """The same of `first` minus `second`, paired."""
        value = self.values[first, measure] - self.values[second, measure]
        return summary(value, self.draws[first, measure] - self.draws[second, measure])


def summary(value: float, draws: np.ndarray) -> dict[str, Any]:
    """A value with its 95% percentile interval, as JSON without NaN.

    Examples:
        >>> summary(float("nan"), np.empty(0))
        {'value': None, 'lower': None, 'upper': None, 'reason': 'cannot be computed from these rows'}
    """
    if not np.isfinite(value):
        return {"value": None, "lower": None, "upper": None, "reason": "cannot be computed from these rows"}
    finite = draws[np.isfinite(draws)]
    if len(finite) < 0.9 * max(len(draws), 1):
        reason = "too few outcomes for an interval"
        return {"value": number(value), "lower": None, "upper": None, "reason": reason}
    lower, upper = np.quantile(finite, [0.025, 0.975])
    return {"value": number(value), "lower": number(lower), "upper": number(upper)}


def number(value: float) -> float | None:
    """Six significant digits; None where there is no number."""
    return float(f"{value:.6g}") if np.isfinite(value) else None
