"""Calibration that is affine on the logit, so that explanations keep adding up.

An intercept that is free and a slope that is shrunk to 1: a handful of events hardly moves it, some hundred let it go
where the likelihood is highest. Isotonic regression is never used: it breaks additivity and does worst at these
numbers. Intervals take subjects, not rows, as independent (sandwich covariance).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

#: Standard deviation of the normal prior of the slope about 1: 85% of it lie from 0.5 to 1.5 (benchmarks/ranges.py).
SLOPE_SPREAD = 0.35

#: Intercept and slope that change nothing, and the precision of their prior: any intercept may be.
IDENTITY, PRECISION = np.array([0.0, 1.0]), np.array([0.0, SLOPE_SPREAD**-2])


@dataclass(frozen=True)
class Calibration:
    """`intercept + slope * logit`, and how sure it is.

    Attributes:
        intercept, slope: The map.
        covariance: Of intercept and slope, row by row: (aa, ab, ba, bb).
        events: Positive subjects that it was fitted on.
    """

    intercept: float = 0.0
    slope: float = 1.0
    covariance: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    events: int = 0

    def __call__(self, logit: np.ndarray) -> np.ndarray:
        return self.intercept + self.slope * logit

    def variance(self, logit: np.ndarray) -> np.ndarray:
        """Variance of the calibrated logit by the delta method; `logit` is the uncalibrated one."""
        aa, ab, ba, bb = self.covariance
        return np.maximum(aa + (ab + ba) * logit + bb * logit**2, 0.0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Calibration:
        return cls(**{**value, "covariance": tuple(value["covariance"])})


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logit)), without overflow.

    Examples:
        >>> sigmoid(np.array([-1000.0, 0.0])).tolist()
        [0.0, 0.5]
    """
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logit, dtype=float)))


def calibrate(logit: np.ndarray, label: np.ndarray, subject: np.ndarray) -> Calibration:
    """Fits intercept and slope on predictions for subjects that the model has not seen.

    Args:
        logit: Uncalibrated log odds, shape (n,).
        label: 0 or 1, shape (n,).
        subject: Whom each row belongs to, shape (n,).
    """
    design = np.column_stack([np.ones_like(logit), logit])
    fitted = fit_logistic(design, label, np.zeros_like(logit), centre=IDENTITY, precision=PRECISION)
    if fitted[1] < 0:  # worse than chance: never turned round
        rate = label.mean()
        fitted = np.array([np.log(rate / (1 - rate)), 0.0])
    covariance = _sandwich(design, label, fitted, subject)
    events = len(np.unique(subject[label == 1]))
    return Calibration(float(fitted[0]), float(fitted[1]), tuple(covariance.ravel().tolist()), events)


def level(logit: np.ndarray, label: np.ndarray) -> float:
    """What must be added to `logit` so that as many events are expected as there are in `label`."""
    ones = np.ones((len(label), 1))
    return float(fit_logistic(ones, label, logit, centre=np.zeros(1), precision=np.zeros(1))[0])


def fit_logistic(
    design: np.ndarray, label: np.ndarray, offset: np.ndarray, *, centre: np.ndarray, precision: np.ndarray
) -> np.ndarray:
    """Logistic regression with an offset and a normal prior (`centre`, `precision`), by damped Newton steps."""

    def loss(beta: np.ndarray) -> float:
        logit = offset + design @ beta
        prior = 0.5 * float(precision @ (beta - centre) ** 2)
        return float(np.sum(np.logaddexp(0.0, logit) - label * logit)) + prior

    beta = centre.astype(float)
    for _ in range(100):
        p = sigmoid(offset + design @ beta)
        gradient = design.T @ (p - label) + precision * (beta - centre)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + np.diag(precision) + 1e-10 * np.eye(len(beta))
        step, size, before = np.linalg.solve(hessian, gradient), 1.0, loss(beta)
        while loss(beta - size * step) > before and size > 1e-12:  # where all are certain, steps are far too long
            size /= 2
        beta = beta - size * step
        if np.max(np.abs(size * step)) < 1e-9:
            break
    return beta


def _sandwich(design: np.ndarray, label: np.ndarray, beta: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Covariance of `beta` when rows of one subject depend on each other (Liang and Zeger, Biometrika 1986).

    The prior counts as an observation, so that where there is little else its own spread remains.
    """
    p = sigmoid(design @ beta)
    bread = np.linalg.pinv((design * (p * (1 - p))[:, None]).T @ design + np.diag(PRECISION))
    _, cluster = np.unique(subject, return_inverse=True)
    scores = np.zeros((cluster.max() + 1, design.shape[1]))
    np.add.at(scores, cluster, design * (label - p)[:, None])
    return bread @ (scores.T @ scores + np.diag(PRECISION)) @ bread


def stacking_weights(logits: np.ndarray, label: np.ndarray, prior: np.ndarray, *, spread: float) -> np.ndarray:
    """Non-negative weights of several models, with sum 1, by likelihood of their weighted logit, shrunk to a prior.

    Few events hardly move them from the prior, hundreds let them go where the likelihood is highest. The problem is
    convex; a free intercept is fitted along.

    Args:
        logits: Calibrated log odds, shape (n, models).
        label: 0 or 1, shape (n,).
        prior: Weights to shrink to, none negative, with sum 1, shape (models,).
        spread: Standard deviation of the normal prior of one of two models' weight.

    Returns:
        Shape (models,).
    """
    from scipy.optimize import minimize

    precision = 0.5 / spread**2  # with two models both weights move, so that each counts half

    def loss(unknown: np.ndarray) -> tuple[float, np.ndarray]:
        weights, shift = unknown[:-1], unknown[-1]
        logit, away = logits @ weights + shift, weights - prior
        off = sigmoid(logit) - label
        value = float(np.sum(np.logaddexp(0.0, logit) - label * logit)) + 0.5 * precision * float(away @ away)
        return value, np.append(logits.T @ off + precision * away, off.sum())

    ones = np.append(np.ones(len(prior)), 0.0)
    found = minimize(
        loss,
        np.append(prior, 0.0),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * len(prior) + [(None, None)],
        constraints={"type": "eq", "fun": lambda unknown: ones @ unknown - 1, "jac": lambda unknown: ones},
        options={"maxiter": 200, "ftol": 1e-8},
    ).x[:-1]
    weights = np.clip(found, 0.0, None)
    return weights / weights.sum()
