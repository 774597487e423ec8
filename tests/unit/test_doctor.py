from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from ehr_tl import doctor
from ehr_tl.config import pipeline_names
from ehr_tl.doctor import Diagnosis, diagnose
from ehr_tl.errors import ExportError
from ehr_tl.events import ExportInfo
from ehr_tl.resources import sample_export
from ehr_tl.tokens.familiarity import Familiarity


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setattr(doctor, "_WIDTH", 100)


def fit(name: str, positive: int, **others) -> dict:
    numbers = {"rows": 900, "subjects": 300, "positives": positive, "positive_subjects": positive, "current": 200}
    words = {"enough": positive >= 20, "verdict": f"{positive} subjects", "predicates": {}, "absent_codes": []}
    return {"name": name, "title": name, "adapter": None, **numbers, **words, **others}


def known_of(unknown: int) -> Familiarity:
    levels = {"exactly": 900 - unknown, "related": 60, "described": 40, "unknown": unknown}
    return Familiarity(
        checkpoint="ehr_tl_base",
        events=levels,
        codes=levels,
        subjects={"half_or_more": 280, "less": 15, "none": 5},
        systems={"LOCAL": {"exactly": 0, "related": 1, "described": 0, "unknown": 3}, "LOINC": levels},
        missing=[{"code": "LOCAL//17", "events": 60, "subjects": 9}],
    )


def diagnosis(pipelines: list[dict], unknown: int = 100) -> Diagnosis:
    return Diagnosis(
        export="/data/fhir",
        adapter="synthea",
        reason="three of five files say so",
        concept_maps=(),
        info=ExportInfo("synthea", synthetic=True, latest_event=datetime(2026, 11, 1), patients=300),
        events=40_000,
        resources={
            "?": {"read": 2, "used": 0, "unused": {}, "set_aside": {"not_json": 2}},
            "Device": {"read": 70, "used": 0, "unused": {"no_view": 70}, "set_aside": {}},
            "Patient": {"read": 301, "used": 300, "unused": {}, "set_aside": {"repeated": 1}},
        },
        systems=[
            {"system": "LOCAL", "kept": 0, "mapped": 900, "unmapped": 100, "events": 100, "codes": 7},
            {"system": "NUBC", "kept": 0, "mapped": 68, "unmapped": 0, "events": None, "codes": None},
            {"system": "LOINC", "kept": 5000, "mapped": 0, "unmapped": 0, "events": 5900, "codes": 90},
        ],
        familiarity=[known_of(unknown)],
        pipelines=pipelines,
    )


def test_text_counts_and_says_what_to_do_next() -> None:
    elsewhere = fit("mimic_demo_long_stay", 55, adapter="mimic_iv")
    text = diagnosis([fit("demo", 25), fit("kidney_disease", 40), fit("diabetes_onset", 3), elsewhere]).text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "Adapter synthea: three of five files say so" in lines
    assert "Records 300 patients, 40,000 events, ends 2026-11-01, synthetic: nobody in it exists" in lines
    assert "Patient 301 300 0 1" in lines
    assert "Why unused: no_view 70" in lines
    assert "Why set aside: not_json 2, repeated 1" in lines
    assert "LOINC 5,000 0 0 5,900 90" in lines
    assert (
        lines[lines.index("Known to the checkpoint ehr_tl_base exactly related described unknown") + 1]
        == "LOCAL 0% 25% 0% 75%"
    )
    assert "LOINC 80% 6.0% 4.0% 10%" in lines and "all 80% 6.0% 4.0% 10%" in lines
    assert "Subjects of whose events it knows fewer than half: 15 of 295" in lines
    assert not any("Take care" in line for line in lines)
    assert "NUBC 0 68 0" in lines
    assert any("LOCAL//17 (60 events)" in line for line in lines)
    assert lines[lines.index("demo 900 300 25 200") + 1] == "25 subjects"
    assert lines[-1] == "Next: ehr-tl run kidney_disease --export /data/fhir --adapter synthea"
    assert max(map(len, text.splitlines())) <= 100


def test_text_warns_where_the_checkpoint_knows_little() -> None:
    text = " ".join(diagnosis([fit("demo", 25)], unknown=600).text.split())
    assert "Take care: It knows 40% of the events: what it learned elsewhere has little to say here." in text


def test_text_names_outcome_codes_only_where_there_is_no_outcome() -> None:
    absent = [f"ICD10CM//E11.{i}" for i in range(10)]
    with_outcome, without = fit("demo", 25, absent_codes=absent), fit("diabetes_onset", 0, absent_codes=absent)
    assert "never occur" not in diagnosis([with_outcome]).text
    text = " ".join(diagnosis([without]).text.split())
    assert "Outcome codes that never occur: ICD10CM//E11.0, " in text
    assert "ICD10CM//E11.7, and 2 more" in text
    assert "No shipped pipeline has enough cases here" in text


def test_sample_export_can_feed_the_demo() -> None:
    found = diagnose(sample_export())
    assert found.adapter == "synthea"
    assert found.info.patients == 353
    assert {row["system"] for row in found.systems} >= {"LOINC", "SNOMED", "RxNorm", "CVX"}
    assert all(
        n["read"] == n["used"] + sum(n["unused"].values()) + sum(n["set_aside"].values())
        for n in found.resources.values()
    )
    fits = {fit["name"]: fit for fit in found.pipelines}
    assert sorted(fits) == pipeline_names()
    assert fits["demo"]["enough"]
    assert not fits["mimic_demo_in_hospital_mortality"]["enough"]
    (known,) = found.familiarity
    assert known.checkpoint == "ehr_tl_base"
    assert known.systems["LOINC"]["exactly"] > 0.9 * sum(known.systems["LOINC"].values())
    assert "Next: ehr-tl run " in found.text


def test_missing_export_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        diagnose(tmp_path / "absent")


def test_mimic_is_recognised_and_can_feed_its_pipeline(data: Path) -> None:
    found = diagnose(data / "mimic_iv_demo_fhir" / "fhir")
    assert found.adapter == "mimic_iv"
    assert "dates shifted per patient" in found.text
    fits = {fit["name"]: fit for fit in found.pipelines}
    assert fits["mimic_demo_in_hospital_mortality"]["positive_subjects"] > 5
    assert all(fit["current"] == 0 for fit in found.pipelines)
