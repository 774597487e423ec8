"""A score as a linear function of base logits: stacking and calibration.

From learners to models as they are scored (`recipes`): a learner that the sources alone taught stands as it is, under
its own name, the source's trees recalibrated as well; every other is calibrated; and the blend takes all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ehr_tl.models.base import Learner
from ehr_tl.models.calibration import Calibration, calibrate, level, sigmoid, stacking_weights
from ehr_tl.schema import BLEND, RECALIBRATED, SOURCE

#: Standard deviation of the prior of a blend's weights (`stacking_weights`): about what sources found that were asked
#: the same, and about what they found of other questions. Settled on subjects outside of the test part of six studies
#: of intensive care (benchmarks/RESULTS.md).
FIRM, LOOSE = 0.15, 0.3

#: A mixture of models that disagree more than that is of models of which some know nothing.
MOST_STRETCH = 1.5


@dataclass(frozen=True)
class Combination:
    """`calibration(offset + sum of weights * base logits)`.

    Attributes:
        offset: Added before calibration.
        weights: Learner -> weight of its base logit, none negative.
        calibration: Affine.
        shares: Learner -> its share of a blend, before its own calibration's slope; none negative, with sum 1.
    """

    offset: float
    weights: dict[str, float]
    calibration: Calibration
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def intercept(self) -> float:
        """The logit where all base logits are 0."""
        return float(self.calibration(np.array(self.offset)))

    def weight(self, learner: str) -> float:
        """By how much the logit rises with a learner's base logit."""
        return self.calibration.slope * self.weights.get(learner, 0.0)

    def uncalibrated(self, base: dict[str, np.ndarray]) -> np.ndarray:
        return self.offset + sum(weight * base[learner] for learner, weight in self.weights.items())

    def to_json(self) -> dict[str, Any]:
        return {
            "offset": self.offset,
            "weights": self.weights,
            "calibration": self.calibration.to_json(),
            "shares": self.shares,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Combination:
        calibration = Calibration.from_json(value["calibration"])
        return cls(value["offset"], value["weights"], calibration, value["shares"])


#: Makes a combination of base logits by learner, labels and subjects: each of shape (n,), of subjects that the base
#: models have not seen.
Recipe = Callable[[dict[str, np.ndarray], np.ndarray, np.ndarray], Combination]


def recipes(learners: Sequence[Learner]) -> dict[str, Recipe]:
    """How each model is made as it is scored, by its name: comparisons first, and the model in use last.

    That is the blend, else the only model.
    """
    made: dict[str, Recipe] = {}
    for learner in sorted(learners, key=lambda each: not each.comparison):
        if learner.as_is:
            made[learner.name] = partial(as_is, learner.name)
        if not learner.as_is or learner.name == SOURCE:
            made[RECALIBRATED if learner.as_is else learner.name] = partial(single, learner.name)
    taking_part = [learner for learner in learners if not learner.comparison]
    if len(taking_part) > 1:
        made[BLEND] = partial(blend, prior_weights(taking_part), prior_spread(taking_part))
    return made


def prior_weights(learners: Sequence[Learner]) -> dict[str, float]:
    """Weights before any case was looked at: those of what the sources taught, as it did there, else equal ones.

    Examples:
        >>> from types import SimpleNamespace as Some
        >>> prior_weights([Some(name="local", share=0.0), Some(name="source", share=0.6)])
        {'local': 0.0, 'source': 1.0}
    """
    shares = {learner.name: learner.share for learner in learners}
    total = sum(shares.values())
    return {name: share / total if total else 1 / len(shares) for name, share in shares.items()}


def prior_spread(learners: Sequence[Learner]) -> float:
    """How far cases may move a blend's weights: `LOOSE` where the sources taught nothing but other questions."""
    taught = [learner.related for learner in learners if learner.share]
    return LOOSE if taught and all(taught) else FIRM


def as_is(learner: str, base: dict[str, np.ndarray], label: np.ndarray, subject: np.ndarray) -> Combination:
    """A learner's logit as it stands. Labels tell only how unsure it is that it holds here, as if it was calibrated."""
    unsure = calibrate(base[learner], label, subject)
    return Combination(0.0, {learner: 1.0}, replace(unsure, intercept=0.0, slope=1.0))


def single(learner: str, base: dict[str, np.ndarray], label: np.ndarray, subject: np.ndarray) -> Combination:
    """Calibrates one learner."""
    return Combination(0.0, {learner: 1.0}, calibrate(base[learner], label, subject))


def blend(
    prior: dict[str, float], spread: float, base: dict[str, np.ndarray], label: np.ndarray, subject: np.ndarray
) -> Combination:
    """Stacks the learners that `prior` names, each calibrated first, and sets the level of the result.

    The weights are shrunk to `prior`, the less the larger `spread` is, so that it takes cases to move away from it. The
    weighted mean of calibrated logits lies nearer to the middle than they do, and is spread out again: if each has the
    covariance V_i with the true logit that is its own variance, the mean has the sum of w_i V_i, and its slope is that
    by its variance. No outcome is looked at for this; and no slope is fitted to outcomes a second time, which goes too
    far where these are few.
    """
    calibrations = {name: calibrate(base[name], label, subject) for name in prior}
    logits = np.column_stack([calibration(base[name]) for name, calibration in calibrations.items()])
    mixture = stacking_weights(logits, label, np.array(list(prior.values())), spread=spread)
    shift, stretch = _spread_out(logits, mixture)
    shares = dict(zip(prior, mixture.tolist()))
    weights = {name: stretch * share * calibrations[name].slope for name, share in shares.items()}
    offset = shift + stretch * sum(share * calibrations[name].intercept for name, share in shares.items())
    uncalibrated = Combination(offset, weights, Calibration()).uncalibrated(base)
    unsure = calibrate(uncalibrated, label, subject)
    calibration = replace(unsure, intercept=level(uncalibrated, label), slope=1.0)
    return Combination(offset, weights, calibration, shares)


def _spread_out(logits: np.ndarray, mixture: np.ndarray) -> tuple[float, float]:
    """Shift and factor that give a mixture of calibrated logits, shape (n, models), their slope and mean risk."""
    mean = logits @ mixture
    variance = float(mean.var())
    if variance < 1e-12:
        return 0.0, 1.0
    stretch = min(float(logits.var(axis=0) @ mixture) / variance, MOST_STRETCH)
    return level(stretch * mean, sigmoid(mean)), stretch
