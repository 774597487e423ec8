"""Plausible results of a run, made from random numbers."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from ehr_tl import schema
from ehr_tl.config import EvaluationConfig, Pipeline, TaskConfig
from ehr_tl.evaluate import FROM_SCRATCH, evaluate
from ehr_tl.evaluate.metrics import sigmoid
from ehr_tl.events import ExportInfo
from ehr_tl.report import ReportInputs
from ehr_tl.tokens.familiarity import Familiarity
from ehr_tl.transfer.shift import DIFFERS, LIKE, OUTSIDE, Shift

NOW = datetime(2026, 11, 1)
YEARS = 7
BASE = -4.6

#: Code, description, unit, typical value.
FACTS = [
    ("SNOMED//433144002", "Chronic kidney disease stage 3 (disorder)", None, None),
    (
        "LOINC//33914-3",
        "Glomerular filtration rate/1.73 sq M.predicted [Volume Rate/Area] in Serum",
        "mL/min/{1.73_m2}",
        48.0,
    ),
    ("SNOMED//88805009", "Chronic congestive heart failure (disorder)", None, None),
    ("RxNorm//310798", "hydroCHLOROthiazide 25 MG Oral Tablet", None, None),
    ("LOINC//4548-4", "Hemoglobin A1c/Hemoglobin.total in Blood", "%", 6.9),
    ("LOINC//8480-6", "Systolic Blood Pressure", "mm[Hg]", 131.0),
    ("VISIT_START//EMER", "Start of visit: emergency", None, None),
    ("LOINC//718-7", "Hemoglobin [Mass/volume] in Blood", "g/dL", 11.2),
    ("SNOMED//254637007", "Non-small cell lung cancer (disorder)", None, None),
    ("LOINC//2160-0", "Creatinine [Mass/volume] in Serum or Plasma", "mg/dL", 1.9),
    ("SNOMED//15777000", "Prediabetes (finding)", None, None),
]


def people(subjects, generator):
    rows = {
        "subject_id": np.arange(subjects),
        "birth": [datetime(1930, 1, 1) + timedelta(days=int(d)) for d in generator.integers(0, 27_000, subjects)],
        "sex": generator.choice(["female", "male"], subjects),
    }
    return pl.DataFrame(rows).cast({"birth": schema.TIME})


def frames(subjects, generator):
    """Rows held out (one a year) and current, with the true log odds and the outcome."""
    truth = BASE + generator.normal(0, 2.2, subjects)
    when = {schema.CURRENT_SPLIT: [NOW]} | {
        schema.HELD_OUT: [NOW - timedelta(days=365 * i) for i in range(1, YEARS + 1)]
    }
    rows = [
        {"subject_id": s, "prediction_time": time, "split": split, "truth": truth[s]}
        for split, times in when.items()
        for s in range(subjects)
        for time in times
    ]
    asked = pl.DataFrame(rows).cast({"prediction_time": schema.TIME})
    return asked.with_columns(
        boolean_value=pl.Series(generator.random(asked.height) < sigmoid(asked["truth"].to_numpy()))
    )


def explained(scores, generator):
    """Three to nine facts, age, sex and a group, which add up to each score."""
    made = []
    for row in scores.iter_rows(named=True):
        picked = generator.choice(len(FACTS), generator.integers(3, 9), replace=False)
        weights = generator.normal(0.15, 0.6, len(picked) + 3)
        weights += (row["logit"] - row["base"] - weights.sum()) / len(weights)
        key = {name: row[name] for name in ("subject_id", "prediction_time", "model")}
        parts = [("demographic", "AGE", "Age", "years", 71.0), ("demographic", "GENDER", "Sex", None, None)]
        parts += [("feature", "GROUP//everything else", "Everything else", None, None)]
        parts += [("missing" if i % 5 == 4 else "feature", *FACTS[j]) for i, j in enumerate(picked)]
        for (kind, code, description, unit, value), shap in zip(parts, weights):
            seen = kind == "feature" and not code.startswith("GROUP")
            fact = {
                "time": row["prediction_time"] - timedelta(days=40) if seen else None,
                "resource_id": f"Observation/o{row['subject_id']}" if seen else None,
                "numeric_value": value if kind != "missing" else None,
                "unit": unit,
                "text_value": "female" if code == "GENDER" else None,
            }
            made.append({**key, "kind": kind, "code": code, "description": description, "shap": shap, **fact})
    return pl.DataFrame(made, schema=schema.EXPLANATIONS)


def scored(asked, model, noise, generator):
    logit = asked["truth"].to_numpy() + generator.normal(0, noise, asked.height)
    half = generator.uniform(0.4, 1.1, asked.height)
    silent = generator.random(asked.height) < 0.03
    return asked.select(
        "subject_id",
        "prediction_time",
        model=pl.lit(model),
        split="split",
        chosen=pl.lit(model == schema.BLEND),
        logit=pl.Series(logit),
        risk=pl.Series(sigmoid(logit)),
        base=pl.lit(BASE),
        lower=pl.Series(sigmoid(logit - half)),
        upper=pl.Series(sigmoid(logit + half)),
        abstained=pl.Series(silent),
        reason=pl.when(pl.Series(silent)).then(pl.lit("only 2 events before the prediction time, 3 are needed")),
    ).cast(schema.SCORES)


FLOW = [
    ("A year has passed since the last index", 3480, 353, 0, 0),
    ("at least 18 years old", 2960, 301, 520, 52),
    ("outcome window closed by the export's end", 2702, 300, 258, 1),
]

COVERAGE = {
    "events": 411_250,
    "resources": {
        "Observation": {"read": 222_306, "used": 221_900, "unused": {"no_value": 401}, "set_aside": {"not_json": 5}},
        "Encounter": {"read": 20_410, "used": 20_410, "unused": {}, "set_aside": {}},
        "Condition": {"read": 11_512, "used": 11_300, "unused": {"refuted": 212}, "set_aside": {}},
        "Patient": {"read": 353, "used": 353, "unused": {}, "set_aside": {}},
        "Claim": {"read": 900, "used": 0, "unused": {"no_view": 900}, "set_aside": {}},
        "?": {"read": 2, "used": 0, "unused": {}, "set_aside": {"not_json": 2}},
    },
    "codes": {
        "LOINC": {"kept": 221_900, "mapped": 0, "unmapped": 0},
        "SNOMED": {"kept": 31_000, "mapped": 1_200, "unmapped": 0},
        "LOCAL": {"kept": 0, "mapped": 0, "unmapped": 340},
    },
    "rows": {"Observation": 300_000, "Encounter": 99_500, "Condition": 11_300, "Patient": 450},
    "dates": {
        "first": "1999-05-03",
        "last": "2026-11-01",
        "years": {"1999": 10, "2025": 300_000, "2026": 110_534},
        "undated": 353,
        "births": 353,
    },
    "unmapped": {
        "LOCAL": {
            "codes": 3,
            "times": 340,
            "common": [{"code": "LOCAL//17", "name": "Ward round", "times": 330, "subjects": 60}],
        }
    },
    "units": {"LOINC//2345-7": {"mmol/L -> mg/dL": 40}},
    "concept_maps": {},
    "ignored_files": ["*.pdf"],
    "patients_sharing_an_identifier": 0,
}

LEVELS = {"exactly": 70, "related": 15, "described": 5, "unknown": 10}
FAMILIARITY = Familiarity(
    checkpoint="ehr_tl_base",
    events=LEVELS,
    codes=LEVELS,
    subjects={"half_or_more": 340, "less": 10, "none": 3},
    systems={"LOINC": LEVELS},
    missing=[{"code": "LOCAL//17", "events": 10, "subjects": 9}],
)

SHIFT = Shift(
    checkpoint="ehr_tl_base",
    subjects=353,
    values=[
        {
            **{"code": code, "description": text, "unit": unit, "subjects": 240, "values": 900, "index": index},
            **{"quantile": quantile, "ratio": ratio, "verdict": verdict},
        }
        for code, text, unit, index, quantile, ratio, verdict in (
            ("LOINC//2345-7", "Glucose [Mass/volume] in Serum or Plasma", "mg/dL", 5.1, 0.0, 0.056, OUTSIDE),
            ("LOINC//2160-0", "Creatinine [Mass/volume] in Serum or Plasma", "mg/dL", 0.19, 0.62, 1.2, DIFFERS),
            ("LOINC//8480-6", "Systolic Blood Pressure", "mm[Hg]", 0.04, 0.47, 0.99, LIKE),
            ("LOINC//9279-1", "Respiratory rate", "/min", 0.02, 0.5, 1.0, LIKE),
            ("LOINC//33959-8", "Procalcitonin", "ng/mL", 0.4, 0.3, None, None),
        )
    ],
    added=[{"code": "LOCAL//17", "description": "Ward round", "share": 0.31}],
    lacking=[{"code": "LOINC//9269-2", "weight": 0.19, "share": 0.0}],
    prevalence={"here": 0.12, "sources": 0.145},
)

WEIGHTS = {schema.LIGHTGBM: 0.125, schema.SOURCE: 0.5, schema.POOLED: 0.125, schema.FINETUNED: 0.25}

MANIFEST = {
    "environment": {"ehr_tl": "0.1.0", "python": "3.11.7", "libraries": {"torch": "2.13.0", "lightgbm": "4.7.0"}},
    "stages": {
        name: {"cost": {"seconds": s, "cpu_seconds": 1.2 * s, "peak_memory_mib": 812.5}, "notes": {"rows": 2702}}
        for name, s in (("convert", 6.2), ("cohort", 1.4), ("train", 140.1), ("score", 5.8), ("explain", 31.0))
    },
}


def run_results(subjects=350, seed=0, **export):
    """`ReportInputs` of a made-up run."""
    generator = np.random.default_rng(seed)
    asked, known = frames(subjects, generator), people(subjects, generator)
    models = (
        *((schema.LIGHTGBM, 0.9), (schema.LOGISTIC, 1.1), (schema.SOURCE, 0.8), (schema.RECALIBRATED, 0.8)),
        *((schema.POOLED, 0.6), (schema.PROBE, 0.75), (schema.FINETUNED, 0.7), (schema.BLEND, 0.4)),
    )
    scores = pl.concat([scored(asked, model, noise, generator) for model, noise in models])
    held_out = asked.filter(pl.col("split") == schema.HELD_OUT)
    comparison = held_out.select("subject_id", "prediction_time", "truth").with_columns(
        model=pl.lit(FROM_SCRATCH), logit=pl.col("truth") + pl.Series(generator.normal(0, 2, held_out.height))
    )
    pipeline = Pipeline(
        name="demo",
        title="Death within a year",
        question="Which of our patients are likely to die within the next year?",
        outcome="Death from any cause within 365 days",
        intended_use="Drawing attention to patients with whom to talk about goals of care.",
        task=TaskConfig(predicates={}, trigger="INDEX", windows={}),
        evaluation=EvaluationConfig(resamples=100),
    )
    ids = known.select("subject_id", patient_id=pl.format("p{}", "subject_id")).cast(schema.SUBJECTS)
    labelled = held_out.select(list(schema.COHORT)).cast(schema.COHORT)
    metrics = evaluate(scores, labelled, comparison, pipeline.evaluation, known)
    return ReportInputs(
        pipeline=pipeline,
        export=ExportInfo(**{"adapter": "synthea", "synthetic": True, "patients": subjects, **export}),
        coverage=COVERAGE,
        labelled=labelled,
        flow=[dict(zip(("step", "rows", "subjects", "lost_rows", "lost_subjects"), step)) for step in FLOW],
        predicates={"death": {"events": 41, "subjects": 41}, "INDEX": {"events": 3480, "subjects": 353}},
        absent_codes=["ICD10CM//R99"],
        as_of=NOW,
        horizon=timedelta(days=365),
        metrics={**metrics, "weights": WEIGHTS},
        scores=scores,
        explanations=explained(scores.filter("chosen"), generator),
        subjects=ids,
        manifest=MANIFEST,
        version="0.1.0+3f9a2c1d",
        familiarity=FAMILIARITY,
        shift=SHIFT,
    )


@pytest.fixture(scope="session")
def results():
    return run_results()


@pytest.fixture(scope="session")
def make_results():
    return run_results
