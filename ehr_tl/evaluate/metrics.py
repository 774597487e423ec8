"""Measures of a risk score, each over one sample or over many resamples of it at once.

Every function takes `labels` (n,) of 0 and 1, `logit` (n,) log odds, and `weights` of shape (..., n): how often each
row counts. It gives an array of the weights' leading shape, so a bootstrap is one call. A measure that does not exist
(a resample without an outcome, say) is NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ehr_tl.models.calibration import sigmoid

Array = np.ndarray


def auroc(labels: Array, logit: Array, weights: Array) -> Array:
    """Probability that a row with the outcome scores above one without it, ties counting one half.

    Examples:
        >>> float(auroc(np.array([0, 1, 0, 1]), np.array([0.0, 1.0, 1.0, 2.0]), np.ones(4)))
        0.875
    """
    positive, negative = _by_score(labels, logit, weights)
    below = np.cumsum(negative, axis=-1) - negative
    wins = (positive * (below + 0.5 * negative)).sum(axis=-1)
    return _ratio(wins, positive.sum(axis=-1) * negative.sum(axis=-1))


def auprc(labels: Array, logit: Array, weights: Array) -> Array:
    """Average precision: precision at each threshold, weighted by the recall it adds."""
    positive, negative = (part[..., ::-1] for part in _by_score(labels, logit, weights))
    found = np.cumsum(positive, axis=-1)
    precision = _ratio(found, found + np.cumsum(negative, axis=-1))
    return _ratio((np.nan_to_num(precision) * positive).sum(axis=-1), found[..., -1])


def brier(labels: Array, logit: Array, weights: Array) -> Array:
    """Mean squared distance of risk and outcome (Brier 1950)."""
    return _ratio((weights * (sigmoid(logit) - labels) ** 2).sum(axis=-1), weights.sum(axis=-1))


def brier_skill(labels: Array, logit: Array, weights: Array) -> Array:
    """Share of the Brier score's worst that the model removes: 1 perfect, 0 as good as giving all the prevalence."""
    prevalence = _ratio((weights * labels).sum(axis=-1), weights.sum(axis=-1))
    return 1.0 - _ratio(brier(labels, logit, weights), prevalence * (1.0 - prevalence))


def observed_over_expected(labels: Array, logit: Array, weights: Array) -> Array:
    """Outcomes that came, divided by the sum of the predicted risks: above 1 the risks are too low."""
    return _ratio((weights * labels).sum(axis=-1), (weights * sigmoid(logit)).sum(axis=-1))


def calibration_slope(labels: Array, logit: Array, weights: Array) -> Array:
    """Slope of the outcome's log odds on the predicted ones (Cox 1958): below 1 the risks are too extreme."""
    return _recalibration(labels, logit, weights, free_slope=True)[1]


def calibration_intercept(labels: Array, logit: Array, weights: Array) -> Array:
    """What must be added to every logit so that the mean risk is the observed one: above 0 the risks are too low."""
    return _recalibration(labels, logit, weights, free_slope=False)[0]


def calibration_error(labels: Array, logit: Array, weights: Array, groups: int = 10) -> Array:
    """Expected calibration error over `groups` of equal size: mean distance of predicted and observed share."""
    order = np.argsort(logit, kind="stable")
    starts = np.unique(np.arange(groups) * len(order) // groups)
    gap = (weights * (labels - sigmoid(logit)))[..., order]
    return _ratio(np.abs(np.add.reduceat(gap, starts, axis=-1)).sum(axis=-1), weights.sum(axis=-1))


def sensitivity_at(share: float) -> Callable[[Array, Array, Array], Array]:
    """Share of the outcomes that lie among the highest `share` of the rows; ties at the border count in proportion."""

    def sensitivity(labels: Array, logit: Array, weights: Array) -> Array:
        found, _, positives = _at(labels, logit, weights, share)
        return _ratio(found, positives)

    return sensitivity


def precision_at(share: float) -> Callable[[Array, Array, Array], Array]:
    """Positive predictive value of the highest `share` of the rows: how many of them had the outcome."""

    def precision(labels: Array, logit: Array, weights: Array) -> Array:
        found, listed, _ = _at(labels, logit, weights, share)
        return _ratio(found, listed)

    return precision


def _at(labels: Array, logit: Array, weights: Array, share: float) -> tuple[Array, Array, Array]:
    """Outcomes within the highest `share` of the weight, that weight, and all outcomes."""
    positive, negative = (part[..., ::-1] for part in _by_score(labels, logit, weights))
    weight = positive + negative
    listed = share * weight.sum(axis=-1)
    room = listed[..., None] - (np.cumsum(weight, axis=-1) - weight)
    taken = np.nan_to_num(_ratio(np.clip(room, 0.0, weight), weight))
    return (taken * positive).sum(axis=-1), listed, positive.sum(axis=-1)


def _by_score(labels: Array, logit: Array, weights: Array) -> tuple[Array, Array]:
    """Weight with and without the outcome at each distinct score, ascending."""
    order = np.argsort(logit, kind="stable")
    ranked = np.asarray(logit)[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    outcome = np.asarray(labels, dtype=float)[order]
    weight = np.asarray(weights, dtype=float)[..., order]
    positive = np.add.reduceat(weight * outcome, starts, axis=-1)
    return positive, np.add.reduceat(weight * (1.0 - outcome), starts, axis=-1)


def _recalibration(labels: Array, logit: Array, weights: Array, *, free_slope: bool) -> tuple[Array, Array]:
    """Intercept and slope of a logistic regression on the logit, by Newton's method in all resamples together."""
    weights = np.asarray(weights, dtype=float)
    intercept, slope = np.zeros(weights.shape[:-1]), np.ones(weights.shape[:-1])
    step = np.full(weights.shape[:-1], np.inf)
    for _ in range(25):
        risk = sigmoid(intercept[..., None] + slope[..., None] * logit)
        residual, spread = weights * (labels - risk), weights * risk * (1.0 - risk)
        gradient, curvature = residual.sum(axis=-1), spread.sum(axis=-1)
        if free_slope:
            cross, square = (spread * logit).sum(axis=-1), (spread * logit**2).sum(axis=-1)
            determinant = curvature * square - cross**2
            along = (residual * logit).sum(axis=-1)
            change = _ratio(square * gradient - cross * along, determinant)
            turn = _ratio(curvature * along - cross * gradient, determinant)
        else:
            change, turn = _ratio(gradient, curvature), np.zeros_like(gradient)
        # A bounded step keeps Newton's method from leaping away where the outcomes are nearly separated.
        intercept, slope = intercept + np.clip(change, -2, 2), slope + np.clip(turn, -0.5, 0.5)
        step = np.maximum(np.abs(change), np.abs(turn))
        if not (step > 1e-6).any():
            break
    converged = step < 1e-4
    return np.where(converged, intercept, np.nan), np.where(converged, slope, np.nan)


def _ratio(above: Array, below: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.true_divide(above, below)
    return np.where(np.isfinite(ratio), ratio, np.nan)
