"""What is drawn of a score: lists of points, small enough for JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from ehr_tl.evaluate.intervals import number
from ehr_tl.models.calibration import sigmoid

#: Most points of a curve.
_POINTS = 160


def ranking(labels: np.ndarray, logit: np.ndarray) -> dict[str, list[list[float]]]:
    """The ROC curve and the gain curve, from the highest score to the lowest.

    Returns:
        `roc`: [false positive rate, sensitivity]; `gain`: [share of rows listed, sensitivity]. Both start at [0, 0] and
        end at [1, 1]; tied scores are one step.
    """
    order = np.argsort(-logit, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(logit[order]) != 0, True])
    found = np.r_[0, np.cumsum(labels[order])[ends]]
    listed = np.r_[0, ends + 1]
    sensitivity = found / max(found[-1], 1)
    false = (listed - found) / max(listed[-1] - found[-1], 1)
    return {"roc": _thin(false, sensitivity), "gain": _thin(listed / listed[-1], sensitivity)}


def calibration_groups(labels: np.ndarray, logit: np.ndarray) -> list[dict[str, Any]]:
    """Predicted and observed risk in groups that expect the same number of outcomes.

    With a rare outcome, groups of equal size would put nearly all outcomes into the last. The interval is Wilson's.

    Returns:
        Per group, ascending: `rows`, `outcomes`, `predicted` (mean risk), `observed`, `lower`, `upper`.
    """
    order = np.argsort(logit, kind="stable")
    risk, outcome = sigmoid(logit)[order], labels[order]
    count = int(np.clip(outcome.sum() // 5, 3, 8))
    before = np.cumsum(risk) - risk
    group = np.minimum((before / risk.sum() * count).astype(int), count - 1)
    groups = []
    for members in (group == g for g in np.unique(group)):
        rows, outcomes = int(members.sum()), int(outcome[members].sum())
        lower, upper = wilson(outcomes, rows)
        groups.append(
            {
                "rows": rows,
                "outcomes": outcomes,
                "predicted": number(risk[members].mean()),
                "observed": number(outcomes / rows),
                "lower": number(lower),
                "upper": number(upper),
            }
        )
    return groups


def wilson(count: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95% interval of a share (Wilson 1927).

    Examples:
        >>> tuple(round(x, 3) for x in wilson(0, 10))
        (0.0, 0.278)
    """
    share, spread = count / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * np.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def thresholds(labels: np.ndarray) -> np.ndarray:
    """Risk thresholds at which a decision about this outcome may stand: a fifth to ten times its prevalence."""
    prevalence = float(np.mean(labels))
    return np.geomspace(prevalence / 5, min(0.8, prevalence * 10), 41)


def net_benefit(labels: np.ndarray, logit: np.ndarray, at: np.ndarray) -> list[float | None]:
    """True positives less false ones, weighed by the threshold's odds, per row (Vickers and Elkin 2006)."""
    risk = sigmoid(logit)
    listed = risk[None, :] >= at[:, None]
    true, false = (listed & (labels == 1)).mean(axis=1), (listed & (labels == 0)).mean(axis=1)
    return [number(value) for value in true - false * at / (1 - at)]


def treat_all(labels: np.ndarray, at: np.ndarray) -> list[float | None]:
    """Net benefit of listing everybody."""
    prevalence = labels.mean()
    return [number(value) for value in prevalence - (1 - prevalence) * at / (1 - at)]


def _thin(x: np.ndarray, y: np.ndarray) -> list[list[float]]:
    """At most `_POINTS` points; corners where the curve rises are kept before those on flat stretches."""
    rises = np.flatnonzero(np.diff(y) > 0)
    corners = np.unique(np.r_[0, rises, rises + 1, len(x) - 1])
    if len(corners) > _POINTS:
        corners = corners[np.unique(np.linspace(0, len(corners) - 1, _POINTS).astype(int))]
    return [[number(x[i]), number(y[i])] for i in corners]
