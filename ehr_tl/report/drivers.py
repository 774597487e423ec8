"""What drives a score: over everybody, and for a few patients step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from ehr_tl import schema
from ehr_tl.explain.words import short_name, value_of
from ehr_tl.report.context import ReportInputs

_KEY = ["subject_id", "prediction_time"]


def top_drivers(inputs: ReportInputs, most: int = 15) -> tuple[list[dict[str, Any]], float]:
    """The codes that move the chosen score most on held-out rows.

    Returns:
        Per code `name`, `code`, `raises` and `lowers` (mean effect on the logit over all rows), `share` of rows in
        whose record it stands; strongest first. And the share of all effect that groups of codes have: they are left
        out.
    """
    rows = inputs.chosen.filter(pl.col("split") == schema.HELD_OUT).select(_KEY)
    parts = inputs.parts.join(rows, on=_KEY, how="semi").with_columns(size=pl.col("shap").abs())
    group = pl.col("code").str.starts_with(f"{schema.GROUP}//")
    total = parts["size"].sum() or 1.0
    grouped = parts.filter(group)["size"].sum() / total
    strongest = (
        parts.filter(~group)
        .group_by("code")
        .agg(
            pl.col("description").first(),
            raises=pl.col("shap").clip(lower_bound=0).sum() / rows.height,
            lowers=-pl.col("shap").clip(upper_bound=0).sum() / rows.height,
            share=(pl.col("kind") != "missing").sum() / rows.height,
            size=pl.col("size").sum(),
        )
        .sort("size", "code", descending=[True, False])
        .head(most)
    )
    named = [{**row, "name": short_name(row["description"], 90)} for row in strongest.iter_rows(named=True)]
    return named, float(grouped)


@dataclass(frozen=True)
class Example:
    """One patient's score, taken apart.

    Attributes:
        title, note: Why this patient is shown, and what came of it.
        row: The score, with `patient_id`.
        steps: From the base to the score: `name`, `detail`, `source`, `shap`, `start`, `end` (logits).
    """

    title: str
    note: str
    row: dict[str, Any]
    steps: list[dict[str, Any]]


def examples(inputs: ReportInputs, steps: int = 8) -> list[Example]:
    """A few patients to learn from: the highest and a typical current one, and past ones who were easy and hard to see.

    Args:
        inputs: The run's results.
        steps: Parts shown one by one; the others are summed up.
    """
    answered = inputs.chosen.filter(~pl.col("abstained")).sort("risk", "patient_id", descending=[True, False])
    current = answered.filter(pl.col("split") == schema.CURRENT_SPLIT)
    past = answered.filter(pl.col("split") == schema.HELD_OUT)
    happened = past.filter(pl.col("boolean_value"))
    spared = past.filter(~pl.col("boolean_value"))
    middle = current.slice(current.height // 2, 1)
    wanted = [
        ("Highest risk now", "The outcome is not known yet.", current.head(1)),
        ("A typical patient now", "The median of the current patients.", middle),
        ("Highest with the outcome", "Had the outcome, and was seen coming most clearly.", happened.head(1)),
        ("Lowest with the outcome", "Had the outcome, and was hardest to see coming.", happened.tail(1)),
        ("Highest without the outcome", "Was spared, against the score.", spared.head(1)),
    ]
    shown = [(title, note, row) for title, note, row in wanted if row.height][:4]
    return [Example(title, note, row.row(0, named=True), _steps(inputs, row, steps)) for title, note, row in shown]


def _steps(inputs: ReportInputs, row: pl.DataFrame, most: int) -> list[dict[str, Any]]:
    parts = inputs.parts.join(row, on=_KEY, how="semi").with_columns(size=pl.col("shap").abs())
    parts = parts.sort("size", "code", descending=[True, False])
    lines = [_step(part) for part in parts.head(most).iter_rows(named=True)]
    rest = parts.slice(most)
    if rest.height:
        name = f"{rest.height} smaller parts together"
        lines.append({"name": name, "detail": "", "source": "", "shap": rest["shap"].sum()})
    at = row["base"][0]
    for line in lines:
        line["start"], at = at, at + line["shap"]
        line["end"] = at
    return lines


def _step(part: dict[str, Any]) -> dict[str, Any]:
    when = f"{part['time']:%Y-%m-%d}" if part["time"] else ""
    value = "not in the record" if part["kind"] == "missing" else value_of(part)
    return {
        "name": short_name(part["description"], 90),
        "detail": " · ".join(filter(None, [value, when])),
        "source": part["resource_id"] or "",
        "shap": part["shap"],
    }
