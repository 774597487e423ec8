"""From logits of pair models to scores of rows, and the same for explanations.

An *audience* is a group of rows that is scored by the same models: a fold (by the models that did not see it), or, as
number K, everybody outside all folds (by all models).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from ehr_tl.models.base import PARTS, Attribution
from ehr_tl.models.calibration import level, sigmoid
from ehr_tl.models.combination import Combination
from ehr_tl.models.pairs import Pair, pairs_of


@dataclass(frozen=True)
class Pooling:
    """How the mean of an audience's members becomes its score: `intercept + slope * mean`."""

    intercept: float = 0.0
    slope: float = 1.0


@dataclass(frozen=True)
class Ensemble:
    """One model as it is scored: a combination for each fold, a pooling for each audience.

    Attributes:
        combinations: How fold i's base logits become its members' logits, in order of i.
        poolings: One for each audience, in order.
    """

    combinations: tuple[Combination, ...]
    poolings: tuple[Pooling, ...]

    @classmethod
    def fit(
        cls, combinations: tuple[Combination, ...], base: dict[str, dict[Pair, np.ndarray]], fold: np.ndarray
    ) -> Ensemble:
        """Finds the poolings of members that are calibrated one by one.

        Their mean is not calibrated: where members disagree it lies nearer to the middle than each of them, and with a
        rare outcome it expects too few. So it is spread out again, by how much the members disagree on rows that none
        of them saw: the audience's own. No outcome is looked at.

        Args:
            combinations: One for each fold.
            base: Learner -> pair -> logits of all labelled rows that lie in the pair's folds.
            fold: Fold of each labelled row, shape (n,).
        """
        folds = len(combinations)
        unpooled = cls(combinations, (Pooling(),) * (folds + 1))
        members = np.zeros((folds - 1, len(fold)))
        for number in range(folds):
            rows = np.flatnonzero(fold == number)
            found = {name: {pair: logit[rows] for pair, logit in by_pair.items()} for name, by_pair in base.items()}
            members[:, rows] = unpooled._members(number, found)[0]
        own = [_pooling(members[:, fold == number]) for number in range(folds)]
        return cls(combinations, (*own, _pooling(members, len(pairs_of(folds)))))

    @property
    def folds(self) -> int:
        return len(self.combinations)

    def members(self, audience: int) -> list[tuple[int, Pair]]:
        """The ways in which a row of the audience is scored: by which fold's combination, of which pair's models."""
        own = range(self.folds) if audience == self.folds else (audience,)
        return [(fold, pair) for fold in own for pair in pairs_of(self.folds) if fold in pair]

    def score(self, audience: int, base: dict[str, dict[Pair, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Calibrated logits, and their variance: the members' disagreement and the calibration's uncertainty.

        Members share most of their training rows, so they differ less than models of other samples would. How much
        less is known for models that are fitted without d of n parts: by the factor d / (n - d) (Shao and Wu, 1989,
        "A general theory for jackknife variance estimation", Ann. Statist. 17). What all members get wrong alike is
        not in it.

        Args:
            audience: Whose rows these are.
            base: Learner -> pair -> logits of the audience's rows.
        """
        logits, uncertainty = self._members(audience, base)
        pooling, left_out = self.poolings[audience], 2 if audience == self.folds else 1
        variance = np.var(logits, axis=0) * (self.folds - 2) / left_out + np.mean(uncertainty, axis=0)
        return pooling.intercept + pooling.slope * np.mean(logits, axis=0), pooling.slope**2 * variance

    def _members(self, audience: int, base: dict[str, dict[Pair, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Calibrated logits of the members, and the variance of their calibration; each of shape (members, rows)."""
        logits, variances = [], []
        for fold, pair in self.members(audience):
            combination = self.combinations[fold]
            raw = combination.uncalibrated({learner: base[learner][pair] for learner in combination.weights})
            logits.append(combination.calibration(raw))
            variances.append(combination.calibration.variance(raw))
        return np.array(logits), np.array(variances)

    def weights(self, audience: int, learner: str) -> dict[Pair, float]:
        """By how much the score's logit rises with each pair model's logit."""
        members = self.members(audience)
        weights = dict.fromkeys((pair for _, pair in members), 0.0)
        for fold, pair in members:
            share = self.poolings[audience].slope / len(members)
            weights[pair] += share * self.combinations[fold].weight(learner)
        return weights

    def weighs(self, audience: int, learner: str) -> bool:
        """Whether a learner has any weight in scores of the audience's rows."""
        return any(self.weights(audience, learner).values())

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
        pooling = self.poolings[audience]
        return pooling.intercept + pooling.slope * float(np.mean([self.combinations[f].intercept for f in folds]))

    @property
    def learners(self) -> tuple[str, ...]:
        return tuple(self.combinations[0].weights)

    @property
    def shares(self) -> dict[str, float]:
        """Each learner's share of a blend, mean over the folds; empty where the model is no blend."""
        names = self.combinations[0].shares
        return {name: float(np.mean([each.shares[name] for each in self.combinations])) for name in names}

    def to_json(self) -> dict[str, Any]:
        return {
            "combinations": [each.to_json() for each in self.combinations],
            "poolings": [asdict(each) for each in self.poolings],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Ensemble:
        return cls(
            tuple(map(Combination.from_json, value["combinations"])), tuple(Pooling(**p) for p in value["poolings"])
        )


def _pooling(members: np.ndarray, many: int | None = None) -> Pooling:
    """The pooling of members that were seen on some rows, shape (members, rows).

    With V the variance over rows of one member's logit and v that of the mean, members of slope 1 have the covariance V
    with the true logit, and so has their mean: its slope is V / v.

    Args:
        members: Calibrated logits.
        many: Of how many models the mean is taken in the end, if more than are seen here: their disagreement is then
            averaged out further.
    """
    mean, centre = members.mean(axis=0), float(members.mean())
    seen, apart = float(mean.var()), float(members.var(axis=0).mean())
    pooled = seen
    if many is not None:
        noise = apart * len(members) / (len(members) - 1)
        pooled = max(seen + apart - noise, 0.0) + noise / many
    if min(seen, pooled) < 1e-12:
        return Pooling()
    slope = min((seen + apart) / pooled, float(len(members)))
    stretched = centre + slope * (mean - centre) * (pooled / seen) ** 0.5
    shift = level(stretched, sigmoid(members).mean(axis=0))
    return Pooling(centre * (1 - slope) + shift, slope)


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
