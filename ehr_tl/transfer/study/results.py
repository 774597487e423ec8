"""What a study found: each arm by number of cases, differences between arms, and how sure that is.

Intervals are paired: one resample of the test part's subjects holds for all arms, sizes and repeats, and one resample
of the repeats of a size for all its arms. Which local arm, and which single arm, is best is read from the same results,
by the mean over repeats at that size: what the chosen arm gains on it is, if anything, told too small.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from ehr_tl.evaluate.intervals import number, resampled_weights, summary
from ehr_tl.evaluate.metrics import auroc, calibration_slope
from ehr_tl.models.calibration import level, sigmoid
from ehr_tl.schema import BLEND, RECALIBRATED, SOURCE
from ehr_tl.transfer.study.contest import BLENDS, LOCAL, NETWORKS, TABULAR_BLEND

MEASURES = ("auroc", "brier", "calibration_slope")

Cell = tuple[Mapping[str, Any], pl.DataFrame]


def _middle(measure: str, values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Brings repeats together, those without a value left out: the mean; of slopes, which may run away, the median."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # none has a value
        return (np.nanmedian if measure == "calibration_slope" else np.nanmean)(values, axis=axis)


class Measured:
    """Measures of logits of the test part, in the sample and in resamples of its subjects.

    AUROC and Brier score are computed in each resample. The slope's resamples are its linearisation (the infinitesimal
    jackknife; Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982): a regression in each of a thousand
    resamples of each of a thousand cells would take hours.

    Args:
        labels: 0 or 1 of each row of the test part, shape (n,).
        subject: Subject of each, shape (n,).
        resamples, seed: Of the bootstrap.
    """

    def __init__(self, labels: np.ndarray, subject: np.ndarray, resamples: int, seed: int):
        self.labels = labels
        self.weights = np.concatenate(list(resampled_weights(subject, resamples, seed)))
        self._known: dict[bytes, dict[str, tuple[float, np.ndarray]]] = {}

    def __call__(self, logit: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
        """Measure -> value in the sample, and in each resample, shape (resamples,). Arms that are alike cost once."""
        asked = logit.tobytes()
        if asked not in self._known:
            once, error = np.ones(len(logit)), (sigmoid(logit) - self.labels) ** 2
            self._known[asked] = {
                "auroc": (
                    float(auroc(self.labels, logit, once)),
                    auroc(self.labels, logit, self.weights),
                ),
                "brier": (float(error.mean()), self.weights @ error / self.weights.sum(axis=1)),
                "calibration_slope": self._slope(logit),
            }
        return self._known[asked]

    def _slope(self, logit: np.ndarray) -> tuple[float, np.ndarray]:
        once = np.ones(len(logit))
        slope = float(calibration_slope(self.labels, logit, once))
        if not np.isfinite(slope):
            return slope, np.full(len(self.weights), np.nan)
        design = np.column_stack([once, logit])
        risk = sigmoid(design @ _fitted(self.labels, logit, slope))
        curvature = (design * (risk * (1 - risk))[:, None]).T @ design
        moved = (design * (self.labels - risk)[:, None]) @ np.linalg.pinv(curvature)[1]
        return slope, slope + (self.weights - 1) @ moved


def _fitted(labels: np.ndarray, logit: np.ndarray, slope: float) -> np.ndarray:
    """Intercept and slope of the outcome on the logit, where the slope is known."""
    return np.array([level(slope * logit, labels), slope])


@dataclass(frozen=True)
class Size:
    """The cells of one size.

    Attributes:
        told: What is told of each cell (`cells`).
        found: For each cell: arm -> measure -> value and resamples.
        turns: Which repeats each resample takes, shape (resamples, repeats).
        test_events: Subjects with the outcome in the test part.
    """

    told: Sequence[Mapping[str, Any]]
    found: Sequence[Mapping[str, Mapping[str, tuple[float, np.ndarray]]]]
    turns: np.ndarray
    test_events: int

    @property
    def subjects(self) -> float:
        """Mean number of local cases."""
        return float(np.mean([each["subjects"] for each in self.told]))

    @property
    def chosen(self) -> str | None:
        """The blend, or the one learner beside comparisons; None where nothing can be learned from so few cases."""
        if BLEND in self.arms:
            return BLEND
        used = list(self.told[0]["weights"])
        return {SOURCE: RECALIBRATED}.get(used[0], used[0]) if len(used) == 1 else None

    @property
    def best_local(self) -> str | None:
        return self.best(LOCAL)

    @cached_property
    def arms(self) -> list[str]:
        """Arms that every cell has, as the first names them."""
        return [arm for arm in self.found[0] if all(arm in each for each in self.found)]

    def value(self, arm: str, measure: str) -> float:
        return float(_middle(measure, self.values(arm, measure)))

    def values(self, arm: str, measure: str) -> np.ndarray:
        """By repeat, shape (repeats,)."""
        return np.array([each[arm][measure][0] for each in self.found])

    def draws(self, arm: str, measure: str) -> np.ndarray:
        """In each resample of repeats and subjects, shape (resamples,)."""
        every = np.array([each[arm][measure][1] for each in self.found])
        chosen = every[self.turns, np.arange(len(self.turns))[:, None]]
        return _middle(measure, chosen, axis=1)

    def estimate(self, arm: str, measure: str) -> dict[str, Any]:
        return summary(self.value(arm, measure), self.draws(arm, measure))

    def difference(self, first: str, second: str) -> dict[str, Any]:
        """Of the AUROC, first minus second, paired."""
        value = self.value(first, "auroc") - self.value(second, "auroc")
        draws = self.draws(first, "auroc") - self.draws(second, "auroc")
        return {"first": first, "second": second, **summary(value, draws)}

    def best(self, among: Sequence[str]) -> str | None:
        """The arm with the highest mean AUROC."""
        there = [arm for arm in among if arm in self.arms]
        return max(there, key=lambda arm: self.value(arm, "auroc"), default=None)

    def to_json(self) -> dict[str, Any]:
        alone = [arm for arm in self.arms if arm not in BLENDS]
        tabular = [arm for arm in alone if arm not in NETWORKS]
        local, single = self.best_local, self.best(alone)
        chosen = self.chosen
        pairs = {
            "chosen - best local": (chosen, local),
            "chosen - best single": (chosen, single),
            "chosen - best single without networks": (chosen, self.best(tabular)),
            "chosen - the same without networks": (chosen, TABULAR_BLEND if TABULAR_BLEND in self.arms else None),
            "source - best local": (SOURCE if SOURCE in self.arms else None, local),
        }
        return {
            "size": self.told[0]["size"],
            "subjects": self.subjects,
            "events": float(np.mean([each["events"] for each in self.told])),
            "repeats": len(self.told),
            "chosen": chosen,
            "best_local": local,
            "best_single": single,
            "arms": {arm: {measure: self.estimate(arm, measure) for measure in MEASURES} for arm in self.arms},
            "seeds": {arm: self._by_seed(arm) for arm in self.arms},
            "values": {arm: [number(value) for value in self.values(arm, "auroc")] for arm in self.arms},
            "differences": {name: self.difference(*pair) for name, pair in pairs.items() if _two(pair)},
            "weights": self._weights(),
            "seconds": round(sum(each["seconds"] for each in self.told), 1),
        }

    def _by_seed(self, arm: str) -> dict[str, float | None]:
        """Mean AUROC of the repeats of each seed of pretraining."""
        seeds = np.array([each["seed"] for each in self.told])
        values = self.values(arm, "auroc")
        return {str(seed): number(float(values[seeds == seed].mean())) for seed in np.unique(seeds).tolist()}

    def _weights(self) -> dict[str, float]:
        """The blend's mean weights."""
        names = list(dict.fromkeys(name for each in self.told for name in each["weights"]))
        return {name: float(np.mean([each["weights"].get(name, 0.0) for each in self.told])) for name in names}


def _two(pair: tuple[str | None, str | None]) -> bool:
    """Whether there are both, and they are two."""
    return None not in pair and pair[0] != pair[1]


def sizes_of(cells: Sequence[Cell], labels: np.ndarray, subject: np.ndarray, resamples: int, seed: int) -> list[Size]:
    """Measures every cell, and gathers them by size, in order of the first that each has.

    Args:
        cells: As `cells.read_cells` gives them.
        labels: 0 or 1 of each row of the test part, shape (n,).
        subject: Subject of each, shape (n,).
        resamples, seed: Of the bootstrap.
    """
    measured = Measured(labels, subject, resamples, seed)
    events = len(np.unique(subject[labels == 1]))
    by_size: dict[Any, list[Cell]] = {}
    for cell in cells:
        by_size.setdefault(cell[0]["size"], []).append(cell)
    found = []
    for mine in by_size.values():
        turns = np.random.default_rng((seed, 1)).integers(len(mine), size=(resamples, len(mine)))
        values = [{arm: measured(table[arm].to_numpy().astype(float)) for arm in table.columns} for _, table in mine]
        found.append(Size([told for told, _ in mine], values, turns, events))
    return sorted(found, key=lambda size: size.subjects)
