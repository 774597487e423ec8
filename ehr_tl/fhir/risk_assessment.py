"""Scores as FHIR: one `RiskAssessment` (R4) per patient to act on.

See https://hl7.org/fhir/R4/riskassessment.html. The model is a contained `Device`; `probabilityDecimal` is a
percentage; the status stays `preliminary` until a clinician has reviewed it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from ehr_tl import schema
from ehr_tl.config import Pipeline
from ehr_tl.events import ExportInfo
from ehr_tl.files import whole

_KEY = ["subject_id", "prediction_time"]
_RISK = "http://terminology.hl7.org/CodeSystem/risk-probability"
_TEST_DATA = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason",
    "code": "HTEST",
    "display": "test health data",
}
_DISPLAY = {"low": "Low likelihood", "moderate": "Moderate likelihood", "high": "High likelihood"}


@dataclass(frozen=True)
class Issuer:
    """Who says so, and about what.

    Attributes:
        pipeline: The question, its outcome, and how many patients can be acted on.
        export: Whether its patients exist.
        version: Version of the fitted model.
        average: The outcome's share among the cohort's rows, to which a risk is compared.
        horizon: Time within which the outcome would come; None where another event ends it, such as discharge.
    """

    pipeline: Pipeline
    export: ExportInfo
    version: str
    average: float
    horizon: timedelta | None = None


def risk_assessments(
    scores: pl.DataFrame, reasons: pl.DataFrame, subjects: pl.DataFrame, issuer: Issuer
) -> Iterator[dict[str, Any]]:
    """Builds and validates one `RiskAssessment` for each current, chosen, not abstained score; highest risk first.

    Args:
        scores: `schema.SCORES`.
        reasons: `subject_id`, `prediction_time`, `reasons` and `resources` (lists of str), as `ehr_tl.explain.reasons`
            gives them for the chosen model.
        subjects: `schema.SUBJECTS`.
        issuer: What is the same for all.

    Yields:
        Resources as plain JSON objects that `fhir.resources.R4B` accepts.
    """
    from fhir.resources.R4B.riskassessment import RiskAssessment

    asked = pl.col("chosen") & (pl.col("split") == schema.CURRENT_SPLIT) & ~pl.col("abstained")
    rows = scores.filter(asked).join(subjects, on="subject_id").join(reasons, on=_KEY, how="left")
    rows = rows.sort("risk", "patient_id", descending=[True, False])
    for rank, row in enumerate(rows.iter_rows(named=True), start=1):
        resource = _resource(row, rank, issuer)
        RiskAssessment.model_validate(resource)
        yield resource


def write_risk_assessments(path: str | Path, resources: Iterable[dict[str, Any]]) -> int:
    """Writes NDJSON, whole or not at all, and says how many resources it holds."""
    count = 0
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for resource in resources:
            stream.write(json.dumps(resource, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n")
            count += 1
    return count


def qualitative_risk(risk: float, rank: int, capacity: int, average: float) -> str:
    """ "high" for the `capacity` highest risks, "moderate" from the average on, else "low".

    Examples:
        >>> qualitative_risk(0.3, rank=1, capacity=20, average=0.05)
        'high'
        >>> qualitative_risk(0.3, rank=21, capacity=20, average=0.05)
        'moderate'
        >>> qualitative_risk(0.01, rank=99, capacity=20, average=0.05)
        'low'
    """
    if rank <= capacity:
        return "high"
    return "moderate" if risk >= average else "low"


def _resource(row: dict[str, Any], rank: int, issuer: Issuer) -> dict[str, Any]:
    pipeline, time = issuer.pipeline, row["prediction_time"]
    name = f"ehr_tl {pipeline.name} {issuer.version} {row['patient_id']} {time.isoformat()}"
    resource = {
        "resourceType": "RiskAssessment",
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
        "contained": [_device(issuer)],
        "status": "preliminary",
        "method": {"text": f"ehr_tl, pipeline {pipeline.name}: cross-fitted, calibrated model ({row['model']})"},
        "code": {"text": pipeline.question},
        "subject": {"reference": f"Patient/{row['patient_id']}"},
        "occurrenceDateTime": _instant(time),
        "performer": {"reference": "#model"},
        "basis": [{"reference": reference} for reference in row["resources"] or []],
        "prediction": [_prediction(row, rank, issuer)],
        "note": [{"text": text} for text in _notes(issuer.export)],
    }
    if issuer.export.synthetic:
        resource["meta"] = {"security": [_TEST_DATA]}
    # FHIR allows no empty list.
    return {key: value for key, value in resource.items() if value != []}


def _device(issuer: Issuer) -> dict[str, Any]:
    return {
        "resourceType": "Device",
        "id": "model",
        "status": "active",
        "type": {"coding": [{"system": "http://snomed.info/sct", "code": "706687001", "display": "Software"}]},
        "deviceName": [{"name": f"ehr_tl {issuer.pipeline.name}", "type": "model-name"}],
        "version": [{"value": issuer.version}],
    }


def _prediction(row: dict[str, Any], rank: int, issuer: Issuer) -> dict[str, Any]:
    capacity = issuer.pipeline.evaluation.capacity
    level = qualitative_risk(row["risk"], rank, capacity, issuer.average)
    prediction = {
        "outcome": {"text": issuer.pipeline.outcome},
        "probabilityDecimal": _percent(row["risk"]),
        "qualitativeRisk": {
            "coding": [{"system": _RISK, "code": level, "display": _DISPLAY[level]}],
            "text": f"{level} (high: the {capacity} highest of this list; moderate: at least the average risk)",
        },
        "rationale": _rationale(row, issuer.average),
    }
    if issuer.average > 0:
        prediction["relativeRisk"] = round(row["risk"] / issuer.average, 2)
    if issuer.horizon is not None:
        time = row["prediction_time"]
        prediction["whenPeriod"] = {"start": _instant(time), "end": _instant(time + issuer.horizon)}
    return prediction


def _rationale(row: dict[str, Any], average: float) -> str:
    risk, lower, upper, usual = map(_rounded, (row["risk"], row["lower"], row["upper"], average))
    why = "; ".join(row["reasons"] or []) or "no single fact of the record"
    return f"Risk {risk}% (range between models {lower}% to {upper}%; average {usual}%), raised most by: {why}."


def _notes(export: ExportInfo) -> list[str]:
    notes = ["Preliminary: not reviewed by a clinician. Supports, and does not replace, clinical judgement."]
    if export.synthetic:
        notes.append("Synthetic data: this patient does not exist.")
    return notes + ([export.notice] if export.notice else [])


def _rounded(share: float) -> str:
    """A percentage with as many digits as mean something.

    Examples:
        >>> [_rounded(share) for share in (0.3456, 0.0123, 0.00089)]
        ['35', '1.2', '0.09']
    """
    value = 100 * share
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _instant(time: datetime) -> str:
    return time.isoformat(timespec="seconds") + "Z"
