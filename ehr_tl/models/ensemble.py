"""From logits of pair models to scores of rows, and the same for explanations.

An *audience* is a group of rows that is scored by the same models: a fold (by the models that did not see it), or, as
number K, everybody outside all folds (by all models).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ehr_tl.models.base import PARTS, Attribution
from ehr_tl.models.combination import Combination
from ehr_tl.models.pairs import Pair, pairs_of


@dataclass(frozen=True)
class Ensemble:
    """One model as it is scored: a combination for each fold.

    Attributes:
        combinations: How fold i's base logits become its score, in order of i.
    """

    combinations: tuple[Combination, ...]

    @property
    def folds(self) -> int:
        return len(self.combinations)

    def members(self, audience: int) -> list[tuple[int, Pair]]:
        """The ways in which a row of the audience is scored: by which fold's combination, of which pair's models."""
        own = range(self.folds) if audience == self.folds else (audience,)
        return [(fold, pair) for fold in own for pair in pairs_of(self.folds) if fold in pair]

    def score(self, audience: int, base: dict[str, dict[Pair, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Calibrated logits, and their variance: the members' spread and the calibration's uncertainty.

        Args:
            audience: Whose rows these are.
            base: Learner -> pair -> logits of the audience's rows.
        """
        logits, variances = [], []
        for fold, pair in self.members(audience):
            combination = self.combinations[fold]
            raw = combination.uncalibrated({learner: base[learner][pair] for learner in combination.weights})
            logits.append(combination.calibration(raw))
            variances.append(combination.calibration.variance(raw))
        return np.mean(logits, axis=0), np.var(logits, axis=0, ddof=1) + np.mean(variances, axis=0)

    def weights(self, audience: int, learner: str) -> dict[Pair, float]:
        """By how much the score's logit rises with each pair model's logit."""
        members = self.members(audience)
        weights = dict.fromkeys((pair for _, pair in members), 0.0)
        for fold, pair in members:
            weights[pair] += self.combinations[fold].weight(learner) / len(members)
        return weights

    def linear(self, audience: int, base: dict[str, dict[Pair, np.ndarray]]) -> np.ndarray:
        """The score's logit as the linear function that it is, of whatever stands for the base logits."""
        total: np.ndarray | float = self.intercept(audience)
        for learner in self.learners:
            for pair, weight in self.weights(audience, learner).items():
                total = total + weight * base[learner][pair]
        return np.asarray(total)

    def intercept(self, audience: int) -> float:
        """The score's logit where all base logits are 0."""
        folds = range(self.folds) if audience == self.folds else (audience,)
        return float(np.mean([self.combinations[fold].intercept for fold in folds]))

    @property
    def learners(self) -> tuple[str, ...]:
        return tuple(self.combinations[0].weights)


def combine(ensemble: Ensemble, audience: int, explained: dict[str, dict[Pair, Attribution]]) -> Attribution:
    """Explains the ensemble's scores of an audience's rows by its models' attributions (learner -> pair -> these).

    Parts of one row and code that several learners name are added up.
    """
    frames = []
    for learner in ensemble.learners:
        weights = ensemble.weights(audience, learner)
        shap = sum(weight * explained[learner][pair].parts["shap"].to_numpy() for pair, weight in weights.items())
        frames.append(next(iter(explained[learner].values())).parts.with_columns(shap=pl.Series(shap)))
    parts = frames[0]
    if len(frames) > 1:
        added = pl.concat(frames).group_by("row", "code", maintain_order=True).agg(pl.first("kind"), pl.sum("shap"))
        parts = added.select(list(PARTS)).sort("row", maintain_order=True)
    bases = {name: {pair: a.base for pair, a in by_pair.items()} for name, by_pair in explained.items()}
    return Attribution(ensemble.linear(audience, bases), parts)
