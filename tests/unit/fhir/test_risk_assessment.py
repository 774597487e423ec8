"""RiskAssessment resources: only rows to act on, valid, deterministic, honest about what they are."""

import json
from dataclasses import replace
from datetime import datetime, timedelta

import polars as pl
import pytest
from fhir.resources.R4B.riskassessment import RiskAssessment

from ehr_tl import schema
from ehr_tl.config import EvaluationConfig, Pipeline, TaskConfig
from ehr_tl.events import ExportInfo
from ehr_tl.fhir.risk_assessment import Issuer, risk_assessments, write_risk_assessments

NOW = datetime(2026, 11, 1)
PIPELINE = Pipeline(
    name="demo",
    title="Death within a year",
    question="Who will die within a year?",
    outcome="Death within a year",
    task=TaskConfig(predicates={}, trigger="INDEX", windows={}),
    evaluation=EvaluationConfig(capacity=1),
)
ISSUER = Issuer(PIPELINE, ExportInfo("synthea", synthetic=True, notice="Made by Synthea."), "1.2", 0.05, timedelta(365))
SUBJECTS = pl.DataFrame({"subject_id": [1, 2, 3, 4], "patient_id": ["a", "b", "c", "d"]}, schema=schema.SUBJECTS)


def score(subject, risk, **more):
    row = dict.fromkeys(schema.SCORES) | {"subject_id": subject, "prediction_time": NOW, "model": "blend"}
    row |= {"split": "current", "chosen": True, "risk": risk, "lower": risk / 2, "upper": min(1, risk * 2)}
    return row | {"abstained": False} | more


@pytest.fixture
def scores():
    rows = [
        score(1, 0.08),
        score(2, 0.4),
        score(2, 0.5, model="transformer", chosen=False),
        score(3, 0.01),
        score(4, 0.9, abstained=True, reason="too few events"),
        score(4, 0.9, split="held_out"),
    ]
    return pl.DataFrame(rows, schema=schema.SCORES)


@pytest.fixture
def reasons():
    rows = [
        (1, NOW, ["Age 80"], ["Condition/x"]),
        (2, NOW, ["CKD (2020-01-01)", "Age 91"], ["Observation/y"]),
        (3, NOW, [], []),
    ]
    types = {"subject_id": pl.Int64, "prediction_time": schema.TIME}
    types |= {"reasons": pl.List(pl.String), "resources": pl.List(pl.String)}
    return pl.DataFrame(rows, schema=types, orient="row")


def test_one_valid_resource_per_patient_to_act_on(scores, reasons):
    made = list(risk_assessments(scores, reasons, SUBJECTS, ISSUER))
    assert [r["subject"]["reference"] for r in made] == ["Patient/b", "Patient/a", "Patient/c"]
    for resource in made:
        again = RiskAssessment.model_validate_json(json.dumps(resource))
        assert again.status == "preliminary"
        assert again.contained[0].version[0].value == "1.2"


def test_the_prediction_says_what_was_scored(scores, reasons):
    first, second, third = risk_assessments(scores, reasons, SUBJECTS, ISSUER)
    prediction = first["prediction"][0]
    assert prediction["probabilityDecimal"] == 40.0
    assert prediction["relativeRisk"] == 8.0
    assert prediction["whenPeriod"] == {"start": "2026-11-01T00:00:00Z", "end": "2027-11-01T00:00:00Z"}
    assert prediction["rationale"] == (
        "Risk 40% (range between models 20% to 80%; average 5.0%), raised most by: CKD (2020-01-01); Age 91."
    )
    assert first["basis"] == [{"reference": "Observation/y"}]
    assert "basis" not in third
    levels = [r["prediction"][0]["qualitativeRisk"]["coding"][0]["code"] for r in (first, second, third)]
    assert levels == ["high", "moderate", "low"]


def test_synthetic_patients_are_labelled(scores, reasons):
    made = next(risk_assessments(scores, reasons, SUBJECTS, ISSUER))
    assert made["meta"]["security"][0]["code"] == "HTEST"
    assert [note["text"] for note in made["note"]][1:] == [
        "Synthetic data: this patient does not exist.",
        "Made by Synthea.",
    ]
    real = replace(ISSUER, export=ExportInfo("fhir_r4"), horizon=None)
    made = next(risk_assessments(scores, reasons, SUBJECTS, real))
    assert "meta" not in made and len(made["note"]) == 1
    assert "whenPeriod" not in made["prediction"][0]


def test_the_same_score_has_the_same_id(scores, reasons):
    ids = [[r["id"] for r in risk_assessments(scores, reasons, SUBJECTS, ISSUER)] for _ in range(2)]
    assert ids[0] == ids[1] and len(set(ids[0])) == 3
    newer = risk_assessments(scores, reasons, SUBJECTS, replace(ISSUER, version="1.3"))
    assert not set(ids[0]) & {r["id"] for r in newer}


def test_ndjson_is_written_whole_or_not_at_all(tmp_path, scores, reasons):
    path = tmp_path / "risk_assessments.ndjson"
    assert write_risk_assessments(path, risk_assessments(scores, reasons, SUBJECTS, ISSUER)) == 3
    before = path.read_text()
    assert [json.loads(line)["resourceType"] for line in before.splitlines()] == ["RiskAssessment"] * 3

    def broken():
        yield {"resourceType": "RiskAssessment"}
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_risk_assessments(path, broken())
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
