"""Everything that the templates name, computed from a run's results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from ehr_tl.explain.words import reasons
from ehr_tl.models.calibration import sigmoid
from ehr_tl.report import charts, words
from ehr_tl.report.arms import ARMS, drawn
from ehr_tl.report.context import ReportInputs
from ehr_tl.report.coverage import coverage_content
from ehr_tl.report.domain import shift_content
from ehr_tl.report.drivers import Example, examples, top_drivers
from ehr_tl.report.learning_curve import chart
from ehr_tl.report.study import answers, told
from ehr_tl.report.svg import logit, odds_ticks
from ehr_tl.transfer.study.outlook import tightness

#: Patients of the worklist that the page shows at most; worklist.csv has all.
_PREVIEW = 25


def content(inputs: ReportInputs) -> dict[str, Any]:
    """Everything that the templates name."""
    metrics = inputs.metrics
    drivers, grouped = top_drivers(inputs)
    return {
        "inputs": inputs,
        "pipeline": inputs.pipeline,
        "metrics": metrics,
        "best": metrics["models"][metrics["chosen"]],
        "within": words.within(inputs.horizon),
        "answer": [sentence for sentence in words.answer(inputs) if sentence],
        "worklist": _worklist(inputs),
        "silent": _silent(inputs),
        "flow": _flow(inputs.flow),
        "coverage": coverage_content(inputs.coverage, inputs.export, inputs.familiarity),
        "shift": shift_content(inputs.shift),
        "charts": {name: getattr(charts, name)(metrics) for name in ("roc", "gain", "calibration", "net_benefit")},
        "legend": [
            (ARMS[name].heading, ARMS[name].style) for name in reversed(drawn(metrics["models"], metrics["chosen"]))
        ],
        "models": _models(inputs),
        "weights": _weights(inputs),
        "curve": _curve(inputs),
        "model_names": {name: arm.heading for name, arm in ARMS.items()},
        "drivers": drivers,
        "driver_scale": max((d["raises"] + d["lowers"] for d in drivers), default=1.0) or 1.0,
        "grouped": grouped,
        "examples": [_drawn(example) for example in examples(inputs)],
        "limits": words.limits(inputs),
        "folds": _training(inputs).get("folds", inputs.pipeline.evaluation.folds),
        "sites": _training(inputs).get("sites"),
        "stages": _stages(inputs.manifest),
        "environment": _environment_in_words(inputs.manifest),
    }


def _training(inputs: ReportInputs) -> dict[str, Any]:
    """What the stage noted: how many folds there were (few outcomes allow fewer than were asked for), and sites."""
    return inputs.manifest.get("stages", {}).get("train", {}).get("notes", {})


def _stages(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, **stage["cost"], "notes": ", ".join(f"{key} {value}" for key, value in stage["notes"].items())}
        for name, stage in manifest.get("stages", {}).items()
    ]


def _environment_in_words(manifest: dict[str, Any]) -> str:
    made = manifest.get("environment", {})
    libraries = [f"{name} {version}" for name, version in made.get("libraries", {}).items()]
    names = [f"{name} {made[name]}" for name in ("ehr_tl", "python", "platform") if name in made]
    return ", ".join(names + libraries)


def _worklist(inputs: ReportInputs) -> list[dict[str, Any]]:
    """The highest current risks with their reasons, and places of the interval's ends on a common scale, in percent."""
    rows = inputs.current.filter(~pl.col("abstained")).head(max(_PREVIEW, inputs.metrics["capacity"]["patients"]))
    if rows.is_empty():
        return []
    why = reasons(inputs.parts.join(rows, on=["subject_id", "prediction_time"], how="semi"))
    listed = rows.join(why, on=["subject_id", "prediction_time"], how="left", maintain_order="left")
    widest = listed["upper"].max()
    return [
        {**row, **{f"{name}_at": 100 * row[name] / widest for name in ("risk", "lower", "upper")}}
        for row in listed.head(_PREVIEW).iter_rows(named=True)
    ]


def _silent(inputs: ReportInputs) -> list[dict[str, Any]]:
    """Why current patients have no score: `reason`, `patients`, and up to five `ids`."""
    silent = (
        inputs.current.filter("abstained").group_by("reason").agg(patients=pl.len(), ids=pl.col("patient_id").head(5))
    )
    return silent.sort("patients", "reason", descending=[True, False]).to_dicts()


def _flow(flow: list[dict[str, Any]]) -> list[dict[str, Any]]:
    widest = max((step["rows"] for step in flow), default=1) or 1
    return [{**step, "width": 100 * step["rows"] / widest} for step in flow]


def _models(inputs: ReportInputs) -> list[dict[str, Any]]:
    """The models side by side, with what each is, and the place of its AUROC's interval on [0.5 or less, 1]."""
    transformer = inputs.pipeline.transformer
    checkpoint = Path(transformer.checkpoint).name if transformer and transformer.checkpoint else ""
    models = inputs.metrics["models"]
    shown = [name for name in reversed(ARMS) if name in models]
    low = _axis_start(models[name]["auroc"]["lower"] for name in shown)
    return [
        {
            "name": ARMS[name].heading,
            "kind": ARMS[name].kind.format(checkpoint=checkpoint),
            "style": ARMS[name].style,
            "chosen": name == inputs.metrics["chosen"],
            "start": low,
            "at": _placed(models[name]["auroc"], low),
            **models[name],
        }
        for name in shown
    ]


def _weights(inputs: ReportInputs) -> list[dict[str, Any]]:
    """What the blend is made of, the weightiest first."""
    weights = inputs.metrics["weights"]
    return [
        {"name": ARMS[name].heading, "style": ARMS[name].style, "weight": weight}
        for name, weight in sorted(weights.items(), key=lambda item: -item[1])
    ]


def _curve(inputs: ReportInputs) -> dict[str, Any] | None:
    """The learning curve's chart and what it says; None where there is none.

    How closely the AUROC is known the curve reckons from its test part; here it was measured with all cases.
    """
    found, metrics = inputs.learning_curve, inputs.metrics
    if found is None:
        return None
    auroc = metrics["models"][metrics["chosen"]]["auroc"]
    if "outlook" in found and auroc["lower"] is not None:
        known = tightness(0.5 * (auroc["upper"] - auroc["lower"]), metrics["held_out"]["subjects"])
        found = {**found, "outlook": {**found["outlook"], "estimate": known}}
    return {"chart": chart(found), "answers": answers(found), "told": told(found)}


def _axis_start(lowers: Iterable[float | None]) -> float:
    """Where an axis of AUROCs begins: 0.5, or lower where an interval does."""
    return min([0.5, *(int(10 * value) / 10 for value in lowers if value is not None)])


def _placed(estimate: dict[str, Any], low: float) -> dict[str, float] | None:
    """Value and interval as percent of an axis from `low` to 1; None where something is missing."""
    if estimate["value"] is None or estimate["lower"] is None:
        return None
    return {key: 100 * (estimate[key] - low) / (1 - low) for key in ("value", "lower", "upper")}


def _drawn(example: Example) -> dict[str, Any]:
    """An example with the places of its bars on a log-odds axis, in percent of its width."""
    base, score = example.row["base"], example.row["logit"]
    logits = [base, score, *(step["end"] for step in example.steps)]
    low, high = min(logits) - 0.35, max(logits) + 0.35

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    steps = [
        {**step, "left": place(min(step["start"], step["end"])), "width": place(low + abs(step["shap"]))}
        for step in example.steps
    ]
    return {
        "title": example.title,
        "note": example.note,
        "row": example.row,
        "steps": steps,
        "ticks": [(place(logit(at)), text) for at, text in odds_ticks(float(sigmoid(low)), float(sigmoid(high)))],
        "base": float(sigmoid(base)),
        "base_at": place(base),
        "risk_at": place(score),
    }
