"""What the report is made from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import polars as pl

from ehr_tl import schema
from ehr_tl.config import Pipeline
from ehr_tl.events import ExportInfo
from ehr_tl.tokens.familiarity import Familiarity
from ehr_tl.transfer.shift import Shift


@dataclass(frozen=True)
class ReportInputs:
    """The results of a run, as plain objects.

    Attributes:
        pipeline: The question.
        export, coverage: What was read (`events/metadata/export.json` and `coverage.json`).
        labelled: The cohort, `schema.COHORT`.
        flow, predicates, absent_codes, as_of, horizon: As in `ehr_tl.cohort.Cohort`.
        metrics: As `ehr_tl.evaluate.evaluate` gives it, and `weights`: learner -> its share of the blend.
        scores, explanations: `schema.SCORES` and `schema.EXPLANATIONS`.
        subjects: `schema.SUBJECTS`.
        manifest: `manifest.json` up to now.
        version: Version of the fitted model.
        familiarity: How much of the events the pretrained vocabulary knows; None where nothing was pretrained.
        learning_curve: What `ehr-tl learning-curve` found (`ehr_tl.studies.learning_curve`), if anybody asked.
        shift: How the hospital differs from the checkpoint's sources; None where nothing was pretrained.
    """

    pipeline: Pipeline
    export: ExportInfo
    coverage: dict[str, Any]
    labelled: pl.DataFrame
    flow: list[dict[str, Any]]
    predicates: dict[str, dict[str, int]]
    absent_codes: list[str]
    as_of: datetime
    horizon: timedelta | None
    metrics: dict[str, Any]
    scores: pl.DataFrame
    explanations: pl.DataFrame
    subjects: pl.DataFrame
    manifest: dict[str, Any]
    version: str
    familiarity: Familiarity | None = None
    shift: Shift | None = None
    learning_curve: dict[str, Any] | None = None

    @cached_property
    def chosen(self) -> pl.DataFrame:
        """Scores of the chosen model with `patient_id` and, where it is known, the outcome (`boolean_value`)."""
        key = ["subject_id", "prediction_time"]
        rows = self.scores.filter("chosen").join(self.subjects, on="subject_id", how="left")
        held_out = pl.col("split") == schema.HELD_OUT
        labels = self.labelled.select(*key, "boolean_value")
        return rows.join(labels, on=key, how="left").with_columns(pl.when(held_out).then("boolean_value"))

    @cached_property
    def current(self) -> pl.DataFrame:
        """Current patients, highest risk first, those without a score last."""
        rows = self.chosen.filter(pl.col("split") == schema.CURRENT_SPLIT)
        return rows.sort("abstained", "risk", "patient_id", descending=[False, True, False])

    @cached_property
    def parts(self) -> pl.DataFrame:
        """Explanations of the chosen model."""
        return self.explanations.filter(pl.col("model") == self.metrics["chosen"])
