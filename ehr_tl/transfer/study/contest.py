"""The arms of a study, sorted, and two of its own."""

from __future__ import annotations

import time
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from ehr_tl import schema
from ehr_tl.evaluate import FROM_SCRATCH
from ehr_tl.models.base import Learner, RiskModel

#: The probe on the checkpoint that was carried on with the target's records, and the blend of all but networks.
CONTINUED, TABULAR_BLEND = "continued", "blend_without_network"

#: Arms that know of local cases alone.
LOCAL = (schema.LIGHTGBM, schema.LOGISTIC, schema.TRANSFORMER, FROM_SCRATCH)

#: Arms that are a network.
NETWORKS = (schema.SOURCE_HEAD, schema.PROBE, schema.FINETUNED, schema.TRANSFORMER, FROM_SCRATCH, CONTINUED)

#: Arms that are made of others.
BLENDS = (TABULAR_BLEND, schema.BLEND)


def aside(learner: Learner, name: str) -> Learner:
    """The same learner under another name, compared with the others and no part of the blend."""
    found = copy(learner)
    found.name, found.comparison = name, True
    return found


class Remembering:
    """A learner that fits once on the same rows: two blends of one cell share their fits.

    Args:
        learner: It.

    Attributes:
        seconds: How long its fits took.
    """

    def __init__(self, learner: Learner):
        self._learner = learner
        self._fits: dict[bytes, RiskModel] = {}
        self.seconds = 0.0

    def fit(self, inputs: Any, labels: np.ndarray, train: np.ndarray, *, seed: int, state: Path) -> RiskModel:
        """As the learner's own, if it was not asked for before."""
        asked = np.append(train, seed).tobytes()
        if asked not in self._fits:
            began = time.monotonic()
            self._fits[asked] = self._learner.fit(inputs, labels, train, seed=seed, state=state)
            self.seconds += time.monotonic() - began
        return self._fits[asked]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._learner, name)
