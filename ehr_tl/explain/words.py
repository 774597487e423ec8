"""An explanation in words."""

from __future__ import annotations

import re
from typing import Any

import polars as pl

from ehr_tl import schema

_KEY = ["subject_id", "prediction_time"]

#: SNOMED CT ends each name with the kind of thing it is.
_SEMANTIC_TAG = re.compile(
    r" \((?:context-dependent category|disorder|environment|event|finding|medicinal product|morphologic abnormality"
    r"|observable entity|person|physical object|procedure|product|qualifier value|regime/therapy|situation"
    r"|social concept|substance)\)$"
)

#: LOINC puts the kind of quantity in brackets; RxNorm's brand names stay.
_PROPERTY = re.compile(
    r" \[[^\]]*(?:/|Entitic|Ratio|Presence|Volume|Mass|Moles|Units|Titer|Time|Type|Identifier|#)[^\]]*\]"
)

#: HL7 v3 ActCode: classes of encounter.
_CLASSES = {
    "AMB": "outpatient",
    "EMER": "emergency",
    "HH": "home",
    "IMP": "inpatient",
    "ACUTE": "acute inpatient",
    "NONAC": "non-acute inpatient",
    "OBSENC": "observation",
    "PRENC": "pre-admission",
    "SS": "short stay",
    "VR": "virtual",
}

#: What an event of the visit's course says, by the head of its code.
_ROLES = {
    schema.VISIT_START: "Start of visit",
    schema.VISIT_END: "End of visit",
    schema.VISIT_TYPE: "Visit",
    "VISIT_REASON": "Reason for visit",
    schema.DISCHARGE: "Discharge",
}

#: By `value_flag` of events that have no numeric value.
_DOUBTS = {schema.IMPLAUSIBLE: "taken for implausible", schema.UNIT_UNKNOWN: "unit not understood"}


def name_of(code: str, description: str | None = None) -> str:
    """A readable name for a code of an explanation.

    Examples:
        >>> name_of("VISIT_START//IMP"), name_of("VISIT_REASON//SNOMED//10509002", "Acute bronchitis")
        ('Start of visit: inpatient', 'Reason for visit: Acute bronchitis')
        >>> name_of("AGE"), name_of("GROUP//other diagnoses"), name_of("LOCAL//X1"), name_of("LOCAL//X1", "Pulse")
        ('Age', 'Other diagnoses', 'LOCAL//X1', 'Pulse')
    """
    if code in (schema.AGE, schema.GENDER):
        return "Age" if code == schema.AGE else "Sex"
    head, _, rest = code.partition("//")
    if head == schema.GROUP:
        return rest[:1].upper() + rest[1:]
    if head in _ROLES:
        return f"{_ROLES[head]}: {description or _CLASSES.get(rest, rest)}"
    return description or code


def short_name(description: str, longest: int = 70) -> str:
    """A description without SNOMED CT's semantic tag and LOINC's property, cut at a word.

    Of a question with its answer ("Housing status: homeless") the question is cut.

    Examples:
        >>> short_name("Prediabetes (finding)")
        'Prediabetes'
        >>> short_name("Creatinine [Mass/volume] in Serum or Plasma")
        'Creatinine in Serum or Plasma'
        >>> short_name("Erythrocyte distribution width by Automated count", longest=30)
        'Erythrocyte distribution…'
        >>> short_name("How often do you feel lonely or isolated: Never", longest=30)
        'How often do you feel…: Never'
    """
    text = _PROPERTY.sub("", _SEMANTIC_TAG.sub("", description.strip()))
    if len(text) <= longest:
        return text
    question, colon, answer = text.rpartition(": ")
    if colon and len(answer) <= longest // 2:
        return f"{_cut(question, longest - len(answer) - 3)}: {answer}"
    return _cut(text, longest)


def _cut(text: str, longest: int) -> str:
    return text[:longest].rsplit(" ", 1)[0].rstrip(" ,;:([") + "…"


def value_of(part: dict[str, Any]) -> str:
    """The value of an explanation row with its unit, "" where it has none.

    Examples:
        >>> value_of({"numeric_value": 8.100000381, "unit": "%", "text_value": None})
        '8.1 %'
    """
    if part["numeric_value"] is None:
        return short_name(part["text_value"] or "", 40)
    return _quantity(part["numeric_value"], part["unit"])


def doubted(value: float, unit: str | None, flag: str) -> str:
    """A value that is on no scale, as it was written, and why no model looked at it.

    Examples:
        >>> doubted(370.0, "Cel", "implausible"), doubted(7.0, "shoes", "unit_unknown")
        ('370 Cel, taken for implausible', '7 shoes, unit not understood')
    """
    return f"{_quantity(value, unit)}, {_DOUBTS[flag]}"


def _quantity(value: float, unit: str | None) -> str:
    digits = f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}" if abs(value) < 1e15 else f"{value:g}"
    return f"{digits} {_plain(unit)}" if unit and not unit.startswith("{") else digits


def _plain(unit: str) -> str:
    """A UCUM unit without its brackets and braces: mmHg, not mm[Hg]."""
    return re.sub(r"[\[\]{}]", "", unit).replace("_", " ")


def phrase(part: dict[str, Any]) -> str:
    """One row of `schema.EXPLANATIONS` in words, without its effect.

    Examples:
        >>> row = {"kind": "feature", "description": "Glucose", "numeric_value": 140.0, "unit": "mg/dL"}
        >>> phrase(row | {"text_value": None, "time": None})
        'Glucose 140 mg/dL'
        >>> phrase(row | {"kind": "missing"})
        'no record of Glucose'
    """
    name = short_name(part["description"])
    if part["kind"] == "missing":
        return f"no record of {name}"
    words = " ".join(filter(None, [name, value_of(part)]))
    return f"{words} ({part['time']:%Y-%m-%d})" if part["time"] else words


def reasons(explanations: pl.DataFrame, raising: int = 3, resources: int = 5) -> pl.DataFrame:
    """What raises each score most, and the resources that weigh most in it either way.

    Args:
        explanations: `schema.EXPLANATIONS` of one model.
        raising: Most reasons per score. Groups of codes are no reasons.
        resources: Most FHIR resources per score.

    Returns:
        `subject_id`, `prediction_time`, `reasons` (list of str, strongest first), `resources` (list of "Type/id").
    """
    named = explanations.filter(~pl.col("code").str.starts_with(f"{schema.GROUP}//"))
    strongest = (
        named.filter(pl.col("shap") > 0)
        .sort("shap", descending=True, maintain_order=True)
        .group_by(_KEY, maintain_order=True)
        .head(raising)
    )
    phrases = pl.Series([phrase(part) for part in strongest.iter_rows(named=True)], dtype=pl.String)
    worded = strongest.select(*_KEY, reasons=phrases).group_by(_KEY, maintain_order=True).agg("reasons")
    cited = (
        named.drop_nulls("resource_id")
        .with_columns(size=pl.col("shap").abs())
        .sort("size", descending=True, maintain_order=True)
        .unique([*_KEY, "resource_id"], keep="first", maintain_order=True)
        .group_by(_KEY, maintain_order=True)
        .agg(resources=pl.col("resource_id").head(resources))
    )
    everyone = explanations.select(_KEY).unique(maintain_order=True)
    return (
        everyone.join(worded, on=_KEY, how="left")
        .join(cited, on=_KEY, how="left")
        .with_columns(pl.col("reasons", "resources").fill_null([]))
    )
