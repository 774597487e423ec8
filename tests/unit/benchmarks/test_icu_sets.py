"""Two open sets of intensive care, from files as they are published (made up here) to events."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ehr_tl.cohort import build_cohort
from ehr_tl.config import load_pipeline
from ehr_tl.errors import CohortError
from ehr_tl.events import Events

OUTCOMES = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n"
HEADER = (
    "HR|O2Sat|Temp|SBP|MAP|DBP|Resp|EtCO2|BaseExcess|HCO3|FiO2|pH|PaCO2|SaO2|AST|BUN|Alkalinephos|Calcium|Chloride|"
    "Creatinine|Bilirubin_direct|Glucose|Lactate|Magnesium|Phosphate|Potassium|Bilirubin_total|TroponinI|Hct|Hgb|PTT|"
    "WBC|Fibrinogen|Platelets|Age|Gender|Unit1|Unit2|HospAdmTime|ICULOS|SepsisLabel"
)
COLUMNS = HEADER.split("|")


def converted(repository: Path, script: str, source: Path, folder: Path) -> Events:
    command = [sys.executable, str(repository / "benchmarks" / "data" / script), str(source)]
    subprocess.run([*command, "--out", str(folder / "tables"), "--events", str(folder / "events")], check=True)
    return Events(folder / "events")


def facts(events: Events, patient: str) -> set[tuple]:
    """Hours since the beginning of intensive care, code and value of what is on record of a patient."""
    number = events.subjects.filter(pl.col("patient_id") == patient)["subject_id"].item()
    rows = events.scan().filter(pl.col("subject_id") == number, pl.col("time").is_not_null()).collect()
    return {
        ((time - datetime(2000, 1, 1)) / timedelta(hours=1), code, None if value is None else round(value, 3))
        for time, code, value in rows.select("time", "code", "numeric_value").iter_rows()
    }


def stay_2012(number: int, kind: int, *rows: str, age: int = 60, gender: int = 1) -> str:
    head = [f"00:00,RecordID,{number}", f"00:00,Age,{age}", f"00:00,Gender,{gender}", "00:00,Height,-1"]
    return "\n".join(["Time,Parameter,Value", *head, f"00:00,ICUType,{kind}", "00:00,Weight,-1", *rows]) + "\n"


@pytest.fixture(scope="module")
def set_2012(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Events:
    folder = tmp_path_factory.mktemp("set_2012")
    dies = [
        "00:30,HR,90",
        "01:00,Weight,80",
        "02:00,Weight,80",
        "03:00,Weight,82",
        "04:00,MechVent,1",
        "05:00,FiO2,0.4",
    ]
    lives = ["00:10,MAP,4", "00:20,MAP,61", "00:20,NIMAP,59", "01:00,Temp,-17.8", "02:00,Temp,36.5", "47:30,Urine,0"]
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.writestr("set-a/11.txt", stay_2012(11, 3, *dies))
        archive.writestr("set-a/12.txt", stay_2012(12, 1, *lives, gender=0))
        archive.writestr("set-b/13.txt", stay_2012(13, 4, "00:10,HR,70", gender=-1))
        archive.writestr("Outcomes-a.txt", OUTCOMES + "11,20,9,3,3,1\n12,4,1,5,300,0\n")
        archive.writestr("Outcomes-b.txt", OUTCOMES + "13,4,1,-1,-1,0\n")
    return converted(repository, "physionet_2012.py", folder / "set.zip", folder)


def test_a_stay_of_2012_begins_with_intensive_care_and_a_death_comes_at_its_end(set_2012: Events) -> None:
    found = facts(set_2012, "11")
    assert {(hours, code) for hours, code, _ in found if code.startswith(("VISIT", "MEDS_DEATH", "DISCHARGE"))} == {
        (0, "VISIT_START//IMP"),
        (0, "VISIT_START//ACUTE"),
        (0, "VISIT_TYPE//CARE_UNIT//MICU"),
        (72, "VISIT_END//IMP"),
        (72, "DISCHARGE//exp"),
        (72, "MEDS_DEATH"),
    }
    assert {(0.5, "LOINC//8867-4", 90), (4, "SNOMED//40617009", None), (5, "LOINC//3150-6", 40)} <= found
    assert {each for each in found if each[1] == "LOINC//29463-7"} == {
        (1, "LOINC//29463-7", 80),
        (3, "LOINC//29463-7", 82),
    }, "a weight that is said again is no new one"
    birth = next(hours for hours, code, _ in found if code == "MEDS_BIRTH")
    assert datetime(2000, 1, 1) + timedelta(hours=birth) == datetime(1940, 1, 1)


def test_who_left_alive_has_no_death_and_who_left_at_an_unknown_time_no_end(set_2012: Events) -> None:
    alive, open_end = facts(set_2012, "12"), facts(set_2012, "13")
    assert (120, "VISIT_END//IMP", None) in alive
    assert not any(code in ("MEDS_DEATH", "DISCHARGE//exp") for _, code, _ in alive | open_end)
    assert not any(code.startswith("VISIT_END") for _, code, _ in open_end)
    assert max(hours for hours, _, _ in open_end) < 1


def test_artefacts_are_flagged_and_missing_values_are_none(set_2012: Events) -> None:
    found = facts(set_2012, "12")
    assert {(round(hours, 2), value) for hours, code, value in found if code == "LOINC//8478-0"} == {
        (0.17, None),
        (0.33, 61),
        (0.33, 59),
    }
    assert {value for _, code, value in found if code == "LOINC//8310-5"} == {None, 36.5}
    assert "LOINC//8302-2" not in {code for _, code, _ in found}
    assert set_2012.export.dates_shifted and set_2012.export.slot_hours == 1
    assert "Open Data Commons" in set_2012.export.notice


def stay_2019(hours: list[dict[str, float]], **always: float) -> str:
    fixed = {"Age": 70.5, "Gender": 0, "HospAdmTime": -12.5, "SepsisLabel": 0, **always}
    rows = [{**fixed, "ICULOS": hour, **row} for hour, row in enumerate(hours, start=1)]
    return "\n".join([HEADER, *("|".join(str(row.get(name, "NaN")) for name in COLUMNS) for row in rows)])


@pytest.fixture(scope="module")
def set_2019(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Events:
    folder = tmp_path_factory.mktemp("set_2019")
    (folder / "training_setB").mkdir()
    septic = [{"HR": 80}, {"SepsisLabel": 1}, *[{"SepsisLabel": 1, "MAP": 55}] * 9]
    for name, text in {
        "p1": stay_2019(septic, Unit1=0, Unit2=1),
        "p2": stay_2019([{}, {"FiO2": 0.21, "Creatinine": 1.3}, {}]),
    }.items():
        (folder / "training_setB" / f"{name}.psv").write_text(text)
    return converted(repository, "physionet_2019.py", folder / "training_setB", folder)


def test_sepsis_is_an_event_at_its_onset_and_not_six_hours_before(set_2019: Events) -> None:
    found = facts(set_2019, "p1")
    assert {(hours, code) for hours, code, _ in found if not code.startswith(("LOINC", "MEDS"))} == {
        (-12.5, "VISIT_START//IMP"),
        (0, "VISIT_START//ACUTE"),
        (0, "VISIT_TYPE//CARE_UNIT//SICU"),
        (8, "SNOMED//91302008"),
    }, "the record of a septic stay stops before the stay does"
    assert (1, "LOINC//8867-4", 80) in found, "what was so in an hour is known at its end"
    assert {hours for hours, code, _ in found if code == "LOINC//8478-0"} == set(range(3, 12))


def test_the_end_of_a_record_without_sepsis_is_that_of_intensive_care(set_2019: Events) -> None:
    found = {each for each in facts(set_2019, "p2") if not each[1].startswith("MEDS")}
    assert found == {
        (-12.5, "VISIT_START//IMP", None),
        (0, "VISIT_START//ACUTE", None),
        (2, "LOINC//3150-6", 21),
        (2, "LOINC//2160-0", 1.3),
        (3, "VISIT_END//ACUTE", None),
    }


def test_a_folder_without_the_set_is_refused(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(repository / "benchmarks" / "data" / "physionet_2019.py"), str(tmp_path)]
    found = subprocess.run([*command, "--out", str(tmp_path / "out")], check=False, capture_output=True, text=True)
    assert found.returncode and "holds no *.psv" in found.stderr
    assert not (tmp_path / "out").exists()


# --- the sets themselves ----------------------------------------------------------------------------------------------


def labelled(events: Events, pipeline: str) -> tuple[int, int] | None:
    """Rows and positive rows of a pipeline's cohort; None where the set cannot tell its outcome."""
    try:
        cohort = build_cohort(events, load_pipeline(pipeline).task)
    except CohortError:
        return None
    return cohort.labelled.height, cohort.positives


# The figures of kidney injury, low pressure and sepsis were also counted from the files as published, by other means.
@pytest.mark.slow
def test_the_set_of_2012(data: Path, repository: Path, tmp_path: Path) -> None:
    events = converted(repository, "physionet_2012.py", data / "physionet_2012" / "set-a-b.zip", tmp_path)
    counts = dict(events.scan().select(pl.col("code").value_counts()).unnest("code").collect().iter_rows())
    assert events.export.patients == counts["VISIT_START//ACUTE"] == 8_000
    assert counts["MEDS_DEATH"] == counts["DISCHARGE//exp"] == 1_122
    assert counts["VISIT_END//IMP"] == 8_000 - 114
    assert labelled(events, "icu_mortality") == (7_885, 1_122)
    assert labelled(events, "icu_long_hospital_stay") == (7_885, 2_436)
    assert labelled(events, "icu_kidney_injury") == (1_651, 506)
    assert labelled(events, "icu_hypotension") == (7_843, 2_221)
    assert labelled(events, "icu_sepsis") is None


@pytest.mark.slow
def test_the_set_of_2019(data: Path, repository: Path, tmp_path: Path) -> None:
    events = converted(repository, "physionet_2019.py", data / "physionet_2019_b" / "training_setB.zip", tmp_path)
    counts = dict(events.scan().select(pl.col("code").value_counts()).unnest("code").collect().iter_rows())
    assert events.export.patients == counts["VISIT_START//ACUTE"] == 9_271
    assert counts["SNOMED//91302008"] == 9_271 - counts["VISIT_END//ACUTE"] == 516
    assert labelled(events, "icu_sepsis") == (6_698, 302)
    assert labelled(events, "icu_kidney_injury") == (4_645, 638)
    assert labelled(events, "icu_hypotension") == (6_593, 487)
    assert labelled(events, "icu_mortality") is None
    assert labelled(events, "icu_long_hospital_stay") is None
