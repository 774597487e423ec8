"""From attributions to `explanations.parquet`: what the record says beside every part of a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from ehr_tl import schema
from ehr_tl.concepts import Hierarchy, concept
from ehr_tl.evaluate.subgroups import age_years, demographics
from ehr_tl.events import Events
from ehr_tl.explain.words import doubted, name_of
from ehr_tl.models.base import Attribution

#: How far base and parts may be from the logit.
TOLERANCE = 1e-3

_KEY = ["subject_id", "prediction_time"]
_FACTS = ["time", "numeric_value", "text_value", "unit", "resource_id"]
_WRITTEN = ["source_value", "source_unit", "value_flag"]


def assemble(attributions: Mapping[str, Attribution], events: Events, rows: pl.DataFrame) -> pl.DataFrame:
    """Joins each part with its description and the last event of its code at or before the prediction time.

    Args:
        attributions: Model -> its attribution of all `rows`, in their order.
        events: The events that were scored.
        rows: `schema.ROWS`.

    Returns:
        `schema.EXPLANATIONS`, at least one row per model and row, the strongest first. The part of a parent code shows
        the last event of any code below it; a group and what is missing show none.
    """
    parts = _parts(attributions, rows)
    facts = pl.concat([_last_events(parts, events), _personal(parts, events)])
    joined = parts.join(_names(parts, events), on="code").join(facts, on=[*_KEY, "code", "kind"], how="left")
    return (
        joined.with_columns(size=pl.col("shap").abs())
        .sort(*_KEY, "model", "size", "code", descending=[False, False, False, True, False])
        .select(list(schema.EXPLANATIONS))
        .cast(schema.EXPLANATIONS)
    )


def check_additivity(scores: pl.DataFrame, explanations: pl.DataFrame) -> dict[str, Any]:
    """Proves that base and explanation add up to the logit for every score.

    Returns:
        `rows` checked, `largest_error` and `tolerance`, on the logit.

    Raises:
        RuntimeError: A score has no explanation, or one that does not add up.
    """
    key = [*_KEY, "model"]
    sums = explanations.group_by(key).agg(pl.col("shap").sum())
    checked = scores.join(sums, on=key, how="left")
    unexplained = checked["shap"].null_count()
    if unexplained:
        raise RuntimeError(f"{unexplained} of {checked.height} scores have no explanation")
    errors = (checked["base"] + checked["shap"] - checked["logit"]).abs()
    largest = float(errors.fill_nan(float("inf")).max() or 0.0)
    if largest > TOLERANCE:
        raise RuntimeError(f"explanations do not add up: off by {largest:.2g} on the logit (allowed {TOLERANCE})")
    return {"rows": checked.height, "largest_error": float(f"{largest:.2g}"), "tolerance": TOLERANCE}


def _parts(attributions: Mapping[str, Attribution], rows: pl.DataFrame) -> pl.DataFrame:
    """All models' parts with their rows' keys; a row without any part gets one of zero."""
    keys = rows.select(_KEY).with_row_index("row")
    frames = []
    for model, attribution in attributions.items():
        parts = keys.join(attribution.parts.with_columns(pl.col("row").cast(pl.UInt32)), on="row", how="left")
        empty = pl.col("code").is_null()
        frames.append(
            parts.select(
                *_KEY,
                model=pl.lit(model),
                kind=pl.when(empty).then(pl.lit("feature")).otherwise("kind"),
                code=pl.when(empty).then(pl.lit(f"{schema.GROUP}//everything else")).otherwise("code"),
                shap=pl.col("shap").fill_null(0.0),
            )
        )
    return pl.concat(frames)


def _names(parts: pl.DataFrame, events: Events) -> pl.DataFrame:
    """`code` and `description` of every code that occurs in the parts."""
    used = parts.select("code").unique().join(events.codes.select("code", "description"), on="code", how="left")
    return used.with_columns(description=pl.Series([name_of(*row) for row in used.iter_rows()], dtype=pl.String))


def _last_events(parts: pl.DataFrame, events: Events) -> pl.DataFrame:
    """Per row and code the last event that was known."""
    wanted = parts.filter(pl.col("kind").is_in(["event", "feature"])).select(*_KEY, "code", "kind").unique()
    scan = events.history().with_columns(concept=concept())
    family = _called(wanted["code"].unique(), scan, events.hierarchy)
    known = (
        scan.filter(pl.col("time").is_not_null())
        .join(wanted.lazy().select("subject_id").unique(), on="subject_id", how="semi")
        .drop("code")
        .join(family.lazy(), on="concept")
        .select("subject_id", "code", *_FACTS, *_WRITTEN, at="time")
        .collect()
        .sort("at", maintain_order=True)
    )
    last = wanted.sort("prediction_time").join_asof(
        known, left_on="prediction_time", right_on="at", by=["subject_id", "code"], check_sortedness=False
    )
    return last.with_columns(text_value=_said(last)).select(*_KEY, "code", "kind", *_FACTS)


def _said(facts: pl.DataFrame) -> pl.Series:
    """The text of each fact; of a number that is on no scale what was written and what is wrong with it."""
    written = facts.select("text_value", "numeric_value", *_WRITTEN).rows()
    texts = [
        doubted(value, unit, flag) if flag and number is None else text for text, number, value, unit, flag in written
    ]
    return pl.Series(texts, dtype=pl.String)


def _called(wanted: pl.Series, scan: pl.LazyFrame, hierarchy: Hierarchy) -> pl.DataFrame:
    """Every `concept` of events that may be called a wanted `code`."""
    codes = set(wanted)
    concepts = scan.select(pl.col("concept").unique()).collect()["concept"]
    pairs = [(each, code) for each in concepts for code in hierarchy.names(each) if code in codes]
    return pl.DataFrame(pairs, schema={"concept": pl.String, "code": pl.String}, orient="row")


def _personal(parts: pl.DataFrame, events: Events) -> pl.DataFrame:
    """Age in years and sex, as they stood at the prediction time."""
    asked = parts.filter(pl.col("code").is_in([schema.AGE, schema.GENDER])).select(*_KEY, "code", "kind").unique()
    age = pl.when(pl.col("code") == schema.AGE)
    return asked.join(demographics(events), on="subject_id", how="left").select(
        *_KEY,
        "code",
        "kind",
        time=pl.lit(None, schema.TIME),
        numeric_value=age.then(age_years(pl.col("prediction_time"), pl.col("birth")).floor()).cast(pl.Float32),
        text_value=pl.when(pl.col("code") == schema.GENDER).then("sex"),
        unit=age.then(pl.lit("years")),
        resource_id=pl.lit(None, pl.String),
    )
