"""A linear head on the vectors of a frozen network, anchored at what the network answered before.

With few cases the anchor is nearly all there is: `intercept + slope * anchor`, the slope held near 1 by a normal prior.
Only where cases allow is a step away from it learned, `delta` on the standardised vectors, with a normal prior whose
width is chosen by cross-validation over subjects; of widths that do about as well the smallest is taken, and none at
all counts as one. So a head from a handful of cases ranks as the network's own does and never against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ehr_tl.models.calibration import SLOPE_SPREAD, fit_logistic, level
from ehr_tl.models.folds import subject_folds

FREE = 10  # positive subjects, and negative ones, from which on a step away from the anchor is learned
_FLATTEST = 0.1  # slope of the anchor: it may be weakened, never turned round
_SPREADS = (0.25, 0.5, 1.0, 2.0)  # standard deviations of what `delta` adds to the logit, a priori
_PARTS = 5  # of cross-validation


@dataclass(frozen=True)
class Head:
    """Log odds that are linear in a vector: `weight . vector + bias`."""

    weight: np.ndarray
    bias: float

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Log odds of vectors, shape (..., width) to (...)."""
        # Not a matrix product: that adds in another order for few rows than for many.
        return (vectors.astype(np.float64) * self.weight).sum(-1) + self.bias


def rarer(label: np.ndarray, subject: np.ndarray) -> int:
    """Number of positive or of negative subjects, whichever are fewer."""
    positive = len(np.unique(subject[label == 1]))
    return min(positive, len(np.unique(subject)) - positive)


def fit_probe(vectors: np.ndarray, label: np.ndarray, subject: np.ndarray, anchor: Head | None, seed: int) -> Head:
    """Fits a head.

    Args:
        vectors: What the network makes of each row, shape (n, width).
        label: 0 or 1, shape (n,).
        subject: Whom each row belongs to, shape (n,).
        anchor: The network's own head; None: it has none, and the head is a ridge regression alone.
        seed: Deals the folds of cross-validation.
    """
    fit = _Fit(vectors.astype(np.float64), label, anchor)
    spreads = _SPREADS if anchor is None else (0.0, *_SPREADS)
    enough = rarer(label, subject) >= FREE
    return fit(_spread(fit, subject, spreads, seed) if enough else spreads[0], np.arange(len(label)))


@dataclass(frozen=True)
class _Fit:
    vectors: np.ndarray
    label: np.ndarray
    anchor: Head | None

    def __call__(self, spread: float, rows: np.ndarray) -> Head:
        """Fits on some rows; `spread` is the standard deviation of what `delta` may add to the logit."""
        vectors, label = self.vectors[rows], self.label[rows]
        mean, scale = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
        width = vectors.shape[1] if spread else 0
        step = ((vectors - mean) / scale)[:, :width]
        known = [] if self.anchor is None else [self.anchor(vectors)]
        beta = _slope_kept(known, step, label, width / spread**2 if spread else 0.0)
        weight = np.zeros(vectors.shape[1])
        weight[:width] = beta[1 + len(known) :] / scale[:width]
        bias = beta[0] - weight @ mean
        if self.anchor is not None:
            weight, bias = weight + beta[1] * self.anchor.weight, bias + beta[1] * self.anchor.bias
        return Head(weight, float(bias))


def _slope_kept(known: list[np.ndarray], step: np.ndarray, label: np.ndarray, precision: float) -> np.ndarray:
    """Intercept, slope of the anchor if there is one, and `delta`."""
    ones = np.ones(len(label))
    design = np.column_stack([ones, *known, step])
    centre = np.concatenate([[0.0], np.ones(len(known)), np.zeros(step.shape[1])])
    priors = np.concatenate([[0.0], np.full(len(known), SLOPE_SPREAD**-2), np.full(step.shape[1], precision)])
    beta = fit_logistic(design, label, np.zeros(len(label)), centre=centre, precision=priors)
    if not known or beta[1] >= _FLATTEST:
        return beta
    if not step.shape[1]:
        return np.array([level(_FLATTEST * known[0], label), _FLATTEST])
    rest = fit_logistic(
        design[:, [0, *range(2, design.shape[1])]],
        label,
        _FLATTEST * known[0],
        centre=np.delete(centre, 1),
        precision=np.delete(priors, 1),
    )
    return np.insert(rest, 1, _FLATTEST)


def _spread(fit: _Fit, subject: np.ndarray, spreads: tuple[float, ...], seed: int) -> float:
    """The smallest of `spreads` that is within one standard error of the best in cross-validation over subjects."""
    parts = subject_folds(subject, fit.label, _PARTS, seed)
    loss = np.empty((len(spreads), len(subject)))
    for part in range(_PARTS):
        train, test = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
        for i, spread in enumerate(spreads):
            loss[i, test] = log_loss(fit(spread, train)(fit.vectors[test]), fit.label[test])
    return spreads[simplest(by_subject(loss, subject))]


def log_loss(logit: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Log loss of each row, shape (n,)."""
    return np.logaddexp(0.0, logit) - label * logit


def by_subject(loss: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Sums over each subject's rows, shape (choices, n) to (choices, subjects)."""
    _, which = np.unique(subject, return_inverse=True)
    return np.stack([np.bincount(which, weights=each) for each in loss])


def simplest(loss: np.ndarray) -> int:
    """The first choice whose loss is within one standard error (of the paired difference) of the best.

    Args:
        loss: Of each choice, the simplest first, and subject, shape (choices, subjects).

    Examples:
        >>> simplest(np.array([[1.0, 1.0, 1.0], [0.9, 1.2, 0.8], [0.5, 0.4, 0.6]]))
        2
        >>> simplest(np.array([[1.0, 1.0, 1.0], [0.2, 1.5, 0.9], [0.9, 1.2, 1.1]]))
        0
    """
    best = int(np.argmin(loss.sum(axis=1)))
    excess = loss - loss[best]
    error = excess.std(axis=1) * np.sqrt(loss.shape[1])
    return int(np.flatnonzero(excess.sum(axis=1) <= error)[0])
