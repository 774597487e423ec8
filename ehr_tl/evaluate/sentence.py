"""What a run found, in the one sentence that a clinician reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ehr_tl import schema
from ehr_tl.wording import counted

#: Models that other hospitals had a part in.
_TRANSFERRED = frozenset(
    [
        schema.SOURCE,
        schema.RECALIBRATED,
        schema.SOURCE_HEAD,
        schema.ANCHORED,
        schema.POOLED,
        schema.WEIGHTED,
        schema.PROBE,
        schema.FINETUNED,
    ]
)

#: The local models, the one that is compared with first.
_LOCAL = {schema.LIGHTGBM: "local LightGBM", schema.LOGISTIC: "local logistic regression"}


def sentence(held_out: Mapping[str, Any], models: Mapping[str, Any], chosen: str) -> str:
    """How well the chosen model ranks patients, beside one that the hospital could have made by itself.

    Args:
        held_out, models, chosen: As in `ehr_tl.evaluate.evaluate`. Figures are AUROCs with 95% intervals.

    Examples:
        >>> auroc = lambda *three: {"auroc": dict(zip(("value", "lower", "upper"), three))}
        >>> models = {"blend": auroc(0.81, 0.76, 0.86), "local_lightgbm": auroc(0.72, 0.66, 0.79), "source": auroc(0.8)}
        >>> sentence({"subjects": 212, "subjects_with_outcome": 31}, models, "blend")
        'With your 212 cases (31 with the outcome): transferred 0.81 (0.76-0.86), local LightGBM 0.72 (0.66-0.79).'
    """
    local = next((name for name in _LOCAL if name in models), None)
    name = "transferred" if _TRANSFERRED & models.keys() else _LOCAL.get(chosen, chosen)
    parts = [(name, chosen), *([(_LOCAL[local], local)] if local and local != chosen else [])]
    told = ", ".join(f"{name} {_told(models[model]['auroc'])}" for name, model in parts)
    cases, events = counted(held_out["subjects"], "case"), f"{held_out['subjects_with_outcome']:,}"
    return f"With your {cases} ({events} with the outcome): {told}."


def _told(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return "cannot be told"
    if estimate["lower"] is None:
        return f"{estimate['value']:.2f}"
    return f"{estimate['value']:.2f} ({estimate['lower']:.2f}-{estimate['upper']:.2f})"
