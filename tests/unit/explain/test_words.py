"""Reasons in words: strongest first, nothing that lowers the risk, no groups."""

from datetime import datetime

import polars as pl

from ehr_tl import schema
from ehr_tl.explain.words import phrase, reasons, short_name, value_of

TIME = datetime(2020, 6, 1)


def part(code, shap, subject=1, **more):
    row = dict.fromkeys(schema.EXPLANATIONS) | {"subject_id": subject, "prediction_time": TIME, "model": "blend"}
    return row | {"kind": "feature", "code": code, "description": code, "shap": shap} | more


def test_reasons_are_the_strongest_that_raise():
    parts = [
        part("A", 0.1),
        part("B", 0.9, time=datetime(2020, 1, 2), resource_id="Condition/b"),
        part("C", -2.0, resource_id="Observation/c"),
        part("D", 0.5, numeric_value=7.25, unit="%", resource_id="Observation/c"),
        part("GROUP//everything else", 3.0),
        part("E", 0.4),
        part("F", -0.1, subject=2),
    ]
    found = reasons(pl.DataFrame(parts, schema=schema.EXPLANATIONS))
    assert found["reasons"].to_list() == [["B (2020-01-02)", "D 7.25 %", "E"], []]
    assert found["resources"].to_list() == [["Observation/c", "Condition/b"], []]


def test_a_sex_and_age_read_well():
    assert (
        phrase(part("AGE", 1, kind="demographic", description="Age", numeric_value=83.0, unit="years"))
        == "Age 83 years"
    )
    assert phrase(part("GENDER", 1, kind="demographic", description="Sex", text_value="female")) == "Sex female"


def test_units_of_counts_are_left_out():
    assert value_of(part("PHQ", 1, numeric_value=3.0, unit="{score}")) == "3"
    assert value_of(part("X", 1, numeric_value=250000.0, unit="/uL")) == "250000 /uL"


def test_only_semantic_tags_are_cut():
    assert short_name("Stress (finding)") == "Stress"
    assert short_name("Aspirin 81 MG (oral)") == "Aspirin 81 MG (oral)"
