"""A score as a linear function of base logits: stacking and calibration of one fold's ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ehr_tl.models.calibration import Calibration, calibrate, stacking_weight


@dataclass(frozen=True)
class Combination:
    """`calibration(offset + sum of weights * base logits)`.

    Attributes:
        offset: Added before calibration.
        weights: Learner -> weight of its base logit, none negative.
        calibration: Affine.
    """

    offset: float
    weights: dict[str, float]
    calibration: Calibration

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
        return {"offset": self.offset, "weights": self.weights, "calibration": self.calibration.to_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Combination:
        return cls(value["offset"], value["weights"], Calibration.from_json(value["calibration"]))


def single(learner: str, base: np.ndarray, label: np.ndarray, subject: np.ndarray) -> Combination:
    """Calibrates one learner on base logits for subjects that its models have not seen."""
    return Combination(0.0, {learner: 1.0}, calibrate(base, label, subject))


def blend(
    learners: tuple[str, str], base: dict[str, np.ndarray], label: np.ndarray, subject: np.ndarray
) -> Combination:
    """Stacks two learners, each calibrated first, and calibrates the result."""
    first, second = (single(learner, base[learner], label, subject).calibration for learner in learners)
    share = stacking_weight(first(base[learners[0]]), second(base[learners[1]]), label)
    weights = {learners[0]: share * first.slope, learners[1]: (1 - share) * second.slope}
    offset = share * first.intercept + (1 - share) * second.intercept
    uncalibrated = Combination(offset, weights, Calibration()).uncalibrated(base)
    return Combination(offset, weights, calibrate(uncalibrated, label, subject))
