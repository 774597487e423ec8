"""Explanations name the right fact of the record, and add up."""

from datetime import datetime

import numpy as np
import polars as pl
import pytest

from ehr_tl import schema
from ehr_tl.events import Events, ExportInfo
from ehr_tl.explain import assemble, check_additivity
from ehr_tl.explain.words import phrase
from ehr_tl.files import write_json
from ehr_tl.models.base import PARTS, Attribution

JUNE = datetime(2020, 6, 1)


def event(subject, time, code, value=None, resource=None, unit=None):
    row = dict.fromkeys(schema.EVENTS)
    return row | {
        "subject_id": subject,
        "time": time,
        "code": code,
        "numeric_value": value,
        "resource_id": resource,
        "unit": unit,
    }


@pytest.fixture
def events(tmp_path):
    facts = [
        event(1, None, "GENDER//female"),
        event(1, datetime(1950, 6, 2), "MEDS_BIRTH"),
        event(1, datetime(2019, 1, 1), "LOINC//4548-4", 6.0, "Observation/a", "%"),
        event(1, JUNE, "LOINC//4548-4", 8.1, "Observation/b", "%"),
        event(1, datetime(2020, 6, 1, 0, 0, 1), "LOINC//4548-4", 9.9, "Observation/future", "%"),
        event(1, datetime(2018, 1, 1), "ICD10CM//E11.9", None, "Condition/c"),
        event(2, datetime(2018, 1, 1), "LOINC//4548-4", 5.0, "Observation/d", "%"),
    ]
    (tmp_path / "data").mkdir()
    pl.DataFrame(facts, schema=schema.EVENTS).write_parquet(tmp_path / "data" / "0.parquet")
    meta = tmp_path / "metadata"
    write_json(meta / "export.json", ExportInfo("fhir_r4").to_json())
    codes = [
        {"code": "LOINC//4548-4", "description": "Hemoglobin A1c", "parent_codes": []},
        {"code": "ICD10CM//E11.9", "description": "Type 2 diabetes", "parent_codes": ["ICD10CM//E11"]},
        {"code": "ICD10CM//E11", "description": None, "parent_codes": ["ICD10CM//E"]},
        {"code": "ICD10CM//E", "description": "Endocrine", "parent_codes": None},
    ]
    pl.DataFrame(codes, schema=schema.CODES).write_parquet(meta / "codes.parquet")
    subjects = {"subject_id": [1, 2], "patient_id": ["p1", "p2"]}
    pl.DataFrame(subjects, schema=schema.SUBJECTS).write_parquet(meta / "subjects.parquet")
    return Events(tmp_path)


@pytest.fixture
def rows():
    values = {
        "subject_id": [1, 2],
        "prediction_time": [JUNE, JUNE],
        "boolean_value": [True, None],
        "split": ["held_out", "current"],
    }
    return pl.DataFrame(values, schema=schema.ROWS)


def attribution(*parts, base=(-2.0, -1.0)):
    frame = pl.DataFrame(parts, schema=PARTS, orient="row")
    return Attribution(np.array(base), frame)


def line(explanations, code, subject=1):
    found = explanations.filter((pl.col("code") == code) & (pl.col("subject_id") == subject))
    assert found.height == 1
    return found.row(0, named=True)


def test_a_part_shows_the_last_event_at_or_before_the_prediction(events, rows):
    found = assemble({"blend": attribution((0, "feature", "LOINC//4548-4", 0.5))}, events, rows)
    part = line(found, "LOINC//4548-4")
    assert (part["resource_id"], part["unit"], part["time"]) == ("Observation/b", "%", JUNE)
    assert part["numeric_value"] == pytest.approx(8.1)
    assert part["description"] == "Hemoglobin A1c"


def test_a_value_that_was_not_believed_is_shown_as_it_was_written(tmp_path, events, rows):
    fever = event(1, JUNE, "LOINC//8310-5", None, "Observation/fever")
    fever |= {"source_value": 370.0, "source_unit": "Cel", "value_flag": "implausible"}
    pl.DataFrame([fever], schema=schema.EVENTS).write_parquet(tmp_path / "data" / "1.parquet")
    code = {"code": "LOINC//8310-5", "description": "Body temperature", "parent_codes": []}
    codes = pl.concat([events.codes, pl.DataFrame([code], schema=schema.CODES)])
    codes.write_parquet(tmp_path / "metadata" / "codes.parquet")
    found = assemble({"blend": attribution((0, "feature", "LOINC//8310-5", 0.5))}, Events(tmp_path), rows)
    part = line(found, "LOINC//8310-5")
    assert (part["numeric_value"], part["resource_id"]) == (None, "Observation/fever")
    assert phrase(part) == "Body temperature 370 Cel, taken for implausible (2020-06-01)"


def test_a_parent_shows_an_event_below_it(events, rows):
    found = assemble({"blend": attribution((0, "feature", "ICD10CM//E", 0.5))}, events, rows)
    assert line(found, "ICD10CM//E")["resource_id"] == "Condition/c"


def test_missing_codes_and_groups_show_no_event(events, rows):
    parts = [(0, "missing", "LOINC//4548-4", 0.1), (0, "feature", "GROUP//other diagnoses", 0.2)]
    found = assemble({"blend": attribution(*parts)}, events, rows)
    assert line(found, "LOINC//4548-4")["resource_id"] is None
    assert line(found, "GROUP//other diagnoses")["description"] == "Other diagnoses"


def test_the_same_code_missing_and_present_keeps_them_apart(events, rows):
    parts = [(0, "missing", "LOINC//4548-4", 0.1), (1, "event", "LOINC//4548-4", 0.2)]
    found = assemble({"blend": attribution(*parts)}, events, rows)
    assert line(found, "LOINC//4548-4", 1)["resource_id"] is None
    assert line(found, "LOINC//4548-4", 2)["resource_id"] == "Observation/d"


def test_age_and_sex_are_told(events, rows):
    parts = [(0, "demographic", "AGE", 1.0), (0, "demographic", "GENDER", 0.1), (1, "demographic", "AGE", 1.0)]
    found = assemble({"blend": attribution(*parts)}, events, rows)
    assert (line(found, "AGE")["numeric_value"], line(found, "AGE")["unit"]) == (69.0, "years")
    assert line(found, "GENDER")["text_value"] == "female"
    assert line(found, "AGE", 2)["numeric_value"] is None


def test_every_row_and_model_is_explained_strongest_first(events, rows):
    first = attribution((0, "feature", "ICD10CM//E", 0.1), (0, "feature", "LOINC//4548-4", -0.5))
    found = assemble({"blend": first, "transformer": attribution()}, events, rows)
    assert dict(found.schema) == schema.EXPLANATIONS
    assert found.group_by("subject_id", "prediction_time", "model").len().height == 4
    blend = found.filter((pl.col("model") == "blend") & (pl.col("subject_id") == 1))
    assert blend["shap"].to_list() == [-0.5, 0.1]
    assert found.filter(pl.col("model") == "transformer")["shap"].to_list() == [0.0, 0.0]


def scores(*logits):
    values = dict.fromkeys(schema.SCORES)
    made = [values | {"subject_id": i + 1, "prediction_time": JUNE, "model": "blend", "base": -2.0} for i in range(2)]
    return pl.DataFrame([row | {"logit": x} for row, x in zip(made, logits)], schema=schema.SCORES)


def test_additivity_is_checked(events, rows):
    found = assemble({"blend": attribution((0, "feature", "ICD10CM//E", 0.75))}, events, rows)
    assert check_additivity(scores(-1.25, -2.0), found) == {"rows": 2, "largest_error": 0.0, "tolerance": 1e-3}
    with pytest.raises(RuntimeError, match="do not add up"):
        check_additivity(scores(-1.24, -2.0), found)
    with pytest.raises(RuntimeError, match="do not add up"):
        check_additivity(scores(float("nan"), -2.0), found)
    with pytest.raises(RuntimeError, match="1 of 2 scores have no explanation"):
        check_additivity(scores(-1.25, -2.0), found.filter(pl.col("subject_id") == 1))
