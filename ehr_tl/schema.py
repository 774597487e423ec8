"""Names and types of every column that one stage writes and another reads.

Events follow MEDS 0.4 (`meds.DataSchema`), cohorts its label schema (`meds.LabelSchema`). Times are naive and mean
UTC.
"""

from __future__ import annotations

import polars as pl

TIME = pl.Datetime("us")

# --- events -----------------------------------------------------------------------------------------------------------

#: One row per fact; sorted by subject and time, static facts (no time) first. A shard holds whole subjects.
EVENTS = {
    "subject_id": pl.Int64,
    "time": TIME,
    "code": pl.String,
    "numeric_value": pl.Float32,  # on the scale of the code
    "text_value": pl.String,
    "unit": pl.String,
    "visit_id": pl.String,  # id of the Encounter, without "Encounter/"
    "resource_id": pl.String,  # "Type/id" of the FHIR resource that said so
    "source_code": pl.String,  # what the hospital wrote, where `code` is the target of a concept map
    "other_codes": pl.List(pl.String),  # further codes of the same fact, null where there are none
    "source_value": pl.Float64,  # what the hospital wrote, where number or unit are not as it was written
    "source_unit": pl.String,
    "value_flag": pl.String,  # why a number is doubted, one of the flags below
}

#: Flags of numbers that are doubted. Only with the first the event has a numeric value: the unit of its code was taken.
UNIT_MISSING, UNIT_UNKNOWN, IMPLAUSIBLE = "unit_missing", "unit_unknown", "implausible"

#: `metadata/codes.parquet`: every code of the events and every parent named.
CODES = {"code": pl.String, "description": pl.String, "parent_codes": pl.List(pl.String)}

#: Further column there: whether the description is a terminology's, or enough subjects' records say it alike. Any other
#: may be what somebody typed about one patient, and stays in the hospital.
COMMON = "common"

#: `metadata/subjects.parquet`.
SUBJECTS = {"subject_id": pl.Int64, "patient_id": pl.String}

BIRTH, DEATH = "MEDS_BIRTH", "MEDS_DEATH"
VISIT_START, VISIT_END, VISIT_TYPE, DISCHARGE, GENDER = "VISIT_START", "VISIT_END", "VISIT_TYPE", "DISCHARGE", "GENDER"

#: Events that say no more than that a visit began or ended; every hospital writes the same.
COURSE = (VISIT_START, VISIT_END, DISCHARGE)

# --- cohort -----------------------------------------------------------------------------------------------------------

#: `cohort.parquet`: rows whose outcome is known (MEDS label rows).
COHORT = {"subject_id": pl.Int64, "prediction_time": TIME, "boolean_value": pl.Boolean}

#: `current.parquet`: rows to act on, outcome unknown, at most one per subject.
CURRENT = {"subject_id": pl.Int64, "prediction_time": TIME}

#: What models are asked about: the cohort's rows and the current ones; `boolean_value` is null for the latter.
HELD_OUT, CURRENT_SPLIT = "held_out", "current"
ROWS = {"subject_id": pl.Int64, "prediction_time": TIME, "boolean_value": pl.Boolean, "split": pl.String}

# --- scores and explanations ------------------------------------------------------------------------------------------

#: `scores.parquet`. `risk`, `lower` and `upper` are probabilities, `logit` and `base` log odds after calibration.
SCORES = {
    "subject_id": pl.Int64,
    "prediction_time": TIME,
    "model": pl.String,
    "split": pl.String,
    "chosen": pl.Boolean,
    "logit": pl.Float64,
    "risk": pl.Float64,
    "base": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "abstained": pl.Boolean,
    "reason": pl.String,
}

#: Models, the arms of a comparison. Of local cases alone: trees, a regression on a few variables, a network.
LIGHTGBM, LOGISTIC, TRANSFORMER = "local_lightgbm", "local_logistic", "transformer"
#: Of source hospitals alone: the trees of a checkpoint as they are, and recalibrated here; the network's head as it is.
SOURCE, RECALIBRATED, SOURCE_HEAD = "source", "recalibrated", "source_head"
#: Of both: trees on top of the source's logit; trees on the rows of both, in the latter the source's weighted by
#: likeness; a linear head on the network's vectors; the network tuned from there.
ANCHORED, POOLED, WEIGHTED, PROBE, FINETUNED = "anchored", "pooled", "weighted", "probe", "finetuned"
#: Those that a pipeline or a study can ask for by name.
ARMS = (LIGHTGBM, LOGISTIC, SOURCE, ANCHORED, POOLED, WEIGHTED, SOURCE_HEAD, PROBE, FINETUNED, TRANSFORMER)
#: All that take part, weighted.
BLEND = "blend"

#: `explanations.parquet`: per score, rows whose `shap` and the score's `base` add up to its `logit`.
EXPLANATIONS = {
    "subject_id": pl.Int64,
    "prediction_time": TIME,
    "model": pl.String,
    "kind": pl.String,
    "code": pl.String,
    "description": pl.String,
    "time": TIME,
    "numeric_value": pl.Float32,
    "text_value": pl.String,
    "unit": pl.String,
    "resource_id": pl.String,
    "shap": pl.Float64,
}

#: Kinds of explanation row. An *event* is one fact; a *feature* several facts of one code, or a group of codes that is
#: explained as one; *demographic* is age or sex; *missing* is the absence of a code.
KINDS = ("event", "feature", "demographic", "missing")

#: Codes of explanation rows that are no event code: age, and the prefix of a group of codes (`GROUP//other visits`).
AGE, GROUP = "AGE", "GROUP"
