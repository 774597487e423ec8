"""Every shipped pipeline loads, is a task that ACES accepts, knows the codes it speaks of, and finds its cohort."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from filelock import FileLock

from ehr_tl.cohort import Cohort, build_cohort, compile_task, feasibility
from ehr_tl.config import load_pipeline, pipeline_names, pipeline_path
from ehr_tl.events import Events
from ehr_tl.resources import sample_export

NAMES = [
    "demo",
    "diabetes_onset",
    "diabetic_complications",
    "icu_hypotension",
    "icu_kidney_injury",
    "icu_long_hospital_stay",
    "icu_mortality",
    "icu_sepsis",
    "kidney_disease",
    "mimic_demo_in_hospital_mortality",
    "mimic_demo_long_stay",
    "mortality_1y",
    "readmission_30d",
]


def test_these_pipelines_ship():
    assert pipeline_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_is_whole(name):
    pipeline = load_pipeline(name)
    assert pipeline.name == name
    assert pipeline.question.endswith("?")
    assert pipeline.intended_use, "says who may use the scores for what"
    text = pipeline_path(name).read_text(encoding="utf-8")
    assert text.startswith("# ") and f"ehr-tl run {name}" in text, "opens with what it asks and how to run it"


@pytest.mark.parametrize("name", NAMES)
def test_its_task_is_valid_and_every_predicate_can_be_evaluated(name):
    task = compile_task(load_pipeline(name).task)
    events = pl.DataFrame({"code": ["ICD10CM//E11.9"], "numeric_value": [7.0]})
    for predicate in task.plain().values():
        assert events.select(predicate.MEDS_eval_expr()).height == 1
    assert task.aces().label_window == task.label_window
    used = {task.config.trigger, task.label, *(constraint.predicate for constraint in task.constraints), *task.ahead}
    used |= {part for predicate in task.derived().values() for part in predicate.input_predicates}
    assert set(task.config.predicates) <= used, "a predicate that nothing refers to is a slip"


def satisfied(pipeline: str, code: str, value: float | None = None) -> set[str]:
    """Plain predicates of a pipeline that one event satisfies."""
    event = pl.DataFrame(
        {"code": [code], "numeric_value": [value]}, schema={"code": pl.String, "numeric_value": pl.Float32}
    )
    plain = compile_task(load_pipeline(pipeline).task).plain()
    return {
        name for name, predicate in plain.items() if event.select(predicate.MEDS_eval_expr().fill_null(False)).item()
    }


@pytest.mark.parametrize(
    ("pipeline", "code", "value", "expected"),
    [
        ("diabetes_onset", "SNOMED//44054006", None, {"diabetes_snomed"}),
        ("diabetes_onset", "SNOMED//46635009", None, {"known_snomed"}),  # type 1
        ("diabetes_onset", "ICD10CM//E11.9", None, {"diabetes_icd10cm", "known_icd10"}),
        ("diabetes_onset", "ICD10CM//E10.9", None, {"known_icd10"}),
        ("diabetes_onset", "ICD10CM//E08.9", None, {"known_icd10"}),
        ("diabetes_onset", "ICD10CM//O24.011", None, {"known_icd10"}),
        ("diabetes_onset", "ICD10CM//O24.410", None, set()),  # gestational
        ("diabetes_onset", "ICD10GM//E11.90", None, {"diabetes_icd10", "known_icd10"}),
        ("diabetes_onset", "ICD10//E14", None, {"diabetes_icd10", "known_icd10"}),
        ("diabetes_onset", "ICD9CM//250.00", None, {"diabetes_icd9", "known_icd9"}),
        ("diabetes_onset", "ICD9CM//250.01", None, {"known_icd9"}),  # type 1
        ("diabetes_onset", "ICD9CM//648.80", None, set()),  # gestational
        ("diabetes_onset", "LOINC//4548-4", 6.5, {"hba1c_percent"}),
        ("diabetes_onset", "LOINC//4548-4", 36.0, set()),  # mmol/mol
        ("diabetes_onset", "LOINC//4548-4", 6.4, set()),
        ("diabetes_onset", "LOINC//4548-4", None, set()),
        ("diabetes_onset", "LOINC//59261-8", 48.0, {"hba1c_molar"}),
        ("diabetic_complications", "SNOMED//15777000", None, {"diabetes_snomed"}),
        ("diabetic_complications", "SNOMED//714628002", None, {"diabetes_snomed"}),
        ("diabetic_complications", "SNOMED//1501000119109", None, {"complication_snomed"}),
        ("diabetic_complications", "SNOMED//60951000119105", None, {"complication_snomed"}),
        ("diabetic_complications", "SNOMED//421895002", None, {"complication_snomed"}),
        ("diabetic_complications", "ICD10CM//R73.03", None, {"prediabetes_icd10"}),
        ("diabetic_complications", "ICD10CM//R73.9", None, set()),
        ("diabetic_complications", "ICD10GM//R73.0", None, {"prediabetes_icd10"}),
        ("diabetic_complications", "ICD10GM//R73.9", None, set()),
        ("diabetic_complications", "ICD9CM//790.21", None, {"prediabetes_icd9"}),
        ("diabetic_complications", "ICD10CM//E11.21", None, {"diabetes_icd10", "complication_icd10cm"}),
        ("diabetic_complications", "ICD10CM//E11.649", None, {"diabetes_icd10"}),  # hypoglycaemia
        ("diabetic_complications", "ICD10CM//E11.65", None, {"diabetes_icd10"}),  # hyperglycaemia
        ("diabetic_complications", "ICD10CM//E11.621", None, {"diabetes_icd10", "complication_icd10cm"}),
        ("diabetic_complications", "ICD10CM//E11.9", None, {"diabetes_icd10"}),
        ("diabetic_complications", "ICD10GM//E11.60", None, {"diabetes_icd10"}),  # hypoglycaemia among others
        ("diabetic_complications", "ICD10GM//E11.74", None, {"diabetes_icd10", "complication_icd10"}),
        ("diabetic_complications", "ICD9CM//250.40", None, {"diabetes_icd9", "complication_icd9"}),
        ("kidney_disease", "ICD10CM//N18.31", None, {"stage3_icd10"}),
        ("kidney_disease", "ICD10GM//N18.3", None, {"stage3_icd10"}),
        ("kidney_disease", "ICD10CM//N18.2", None, {"risk_icd10"}),
        ("kidney_disease", "ICD10CM//N18.9", None, set()),
        ("kidney_disease", "ICD9CM//585.6", None, {"stage3_icd9"}),
        ("kidney_disease", "ICD9CM//401.9", None, {"risk_icd9"}),
        ("kidney_disease", "ICD10GM//R73.0", None, {"prediabetes_icd10"}),
        ("kidney_disease", "SNOMED//714628002", None, {"risk_snomed"}),
        ("kidney_disease", "SNOMED//741000119101", None, {"risk_snomed"}),
        ("kidney_disease", "SNOMED//751000119104", None, {"risk_snomed"}),
        ("kidney_disease", "SNOMED//433144002", None, {"stage3_snomed"}),
        ("kidney_disease", "SNOMED//731000119105", None, {"stage3_snomed"}),
        ("kidney_disease", "SNOMED//721000119107", None, {"stage3_snomed"}),
        ("kidney_disease", "SNOMED//711000119100", None, {"stage3_snomed"}),
        ("kidney_disease", "SNOMED//714152005", None, {"stage3_snomed"}),
        ("mimic_demo_in_hospital_mortality", "DISCHARGE//exp", None, {"died_in_hospital"}),
        ("mimic_demo_in_hospital_mortality", "DISCHARGE//HOME", None, set()),
        ("readmission_30d", "VISIT_END//ACUTE", None, {"discharge"}),
    ],
)
def test_codes_of_each_system_are_known(pipeline, code, value, expected):
    assert satisfied(pipeline, code, value) == expected


def test_whoever_has_a_complication_of_diabetes_is_known_to_have_diabetes():
    named = load_pipeline("diabetic_complications").task.predicates
    codes = [*named["complication_snomed"]["code"]["any"], "ICD10CM//E11.21", "ICD10GM//E14.7", "ICD9CM//250.41"]
    for code in codes:
        assert satisfied("diabetes_onset", code) & {"known_snomed", "known_icd10", "known_icd9"}, code


# --- on made-up patients ----------------------------------------------------------------------------------------------

SYSTEMS = {
    "SNOMED": "http://snomed.info/sct",
    "LOINC": "http://loinc.org",
    "ICD10CM": "http://hl7.org/fhir/sid/icd-10-cm",
    "ICD10GM": "http://fhir.de/CodeSystem/bfarm/icd-10-gm",
    "ICD9CM": "http://hl7.org/fhir/sid/icd-9-cm",
}


def became(pipeline: str, patients: dict[str, list[tuple]], folder: Path) -> dict[str, bool | None]:
    """What a pipeline makes of patients with facts (year, code[, value]): had the outcome, had not, None: not asked."""
    from ehr_tl.convert import convert

    resources = []
    for name, facts in patients.items():
        resources.append({"resourceType": "Patient", "id": name, "gender": "female", "birthDate": "1960-01-01"})
        for year, code, *value in facts:
            system, _, code = code.partition("//")
            fact = {
                "id": f"{name}-{year}-{code}",
                "subject": {"reference": f"Patient/{name}"},
                "code": {"coding": [{"system": SYSTEMS[system], "code": code}]},
            }
            when = f"{year}-06-01T12:00:00Z"
            if value:
                more = {"resourceType": "Observation", "status": "final", "effectiveDateTime": when}
                resources.append(fact | more | {"valueQuantity": {"value": value[0]}})
            else:
                resources.append(fact | {"resourceType": "Condition", "recordedDate": when})
    (folder / "export").mkdir()
    for kind in ("Patient", "Condition", "Observation"):
        lines = [json.dumps(resource) for resource in resources if resource["resourceType"] == kind]
        (folder / "export" / f"{kind}.ndjson").write_text("\n".join(lines), encoding="utf-8")
    events = convert(folder / "export", "fhir_r4", folder / "events")
    rows = build_cohort(events, load_pipeline(pipeline).task).labelled
    had = dict(rows.group_by("subject_id").agg(pl.col("boolean_value").any()).iter_rows())
    return {name: had.get(subject) for subject, name in events.subjects.select("subject_id", "patient_id").iter_rows()}


def test_only_who_has_no_diabetes_can_be_found_to_have_it(tmp_path):
    cold, high, end = (2016, "ICD10CM//J00"), (2021, "LOINC//4548-4", 7.9), (2024, "ICD10CM//J00")
    patients = {
        "first-diagnosis": ([cold, (2021, "ICD10CM//E11.65"), end], True),
        "first-high-value": ([cold, high, end], True),
        "molar-value-as-percent": ([cold, (2021, "LOINC//4548-4", 36), end], False),
        "gestational-before": ([(2016, "ICD10CM//O24.410"), high, end], True),
        "type-1": ([(2016, "ICD10CM//E10.9"), high, end], None),
        "type-1-icd9": ([(2016, "ICD9CM//250.01"), high, end], None),
        "type-1-snomed": ([(2016, "SNOMED//46635009"), high, end], None),
        "type-1-in-pregnancy": ([(2016, "ICD10CM//O24.011"), high, end], None),
        "pancreatic": ([(2016, "ICD10CM//E08.9"), high, end], None),
        "complication-alone": ([(2016, "SNOMED//127013003"), high, end], None),
    }
    found = became("diabetes_onset", {name: facts for name, (facts, _) in patients.items()}, tmp_path)
    assert found == {name: expected for name, (_, expected) in patients.items()}


def test_acute_derangement_is_no_complication_and_high_blood_sugar_no_risk(tmp_path):
    ill, end = (2016, "ICD10CM//E11.9"), (2024, "ICD10CM//J00")
    patients = {
        "foot-ulcer": ([ill, (2021, "ICD10CM//E11.621"), end], True),
        "foot": ([ill, (2021, "ICD10GM//E11.74"), end], True),
        "vessels": ([ill, (2021, "SNOMED//421895002"), end], True),
        "hyperglycaemia": ([ill, (2021, "ICD10CM//E11.65"), end], False),
        "hypoglycaemia": ([ill, (2021, "ICD10GM//E11.60"), end], False),
        "prediabetes": ([(2016, "SNOMED//714628002"), end], False),
        "prediabetes-gm": ([(2016, "ICD10GM//R73.0"), end], False),
        "prediabetes-icd9": ([(2016, "ICD9CM//790.21"), end], False),
        "high-once": ([(2016, "ICD10CM//R73.9"), end], None),
    }
    found = became("diabetic_complications", {name: facts for name, (facts, _) in patients.items()}, tmp_path)
    assert found == {name: expected for name, (_, expected) in patients.items()}


# --- in intensive care ------------------------------------------------------------------------------------------------


def stays(pipeline: str, patients: dict[str, list[tuple]], folder: Path) -> dict[str, bool | None]:
    """What a pipeline makes of stays with facts (hours since admission to intensive care, code[, value])."""
    from datetime import datetime, timedelta

    from ehr_tl.events import ExportInfo
    from ehr_tl.files import write_json
    from ehr_tl.schema import CODES, EVENTS, SUBJECTS

    begin = datetime(2000, 1, 1)
    facts = [
        {
            "subject_id": number,
            "time": begin + timedelta(hours=fact[0]),
            "code": fact[1],
            "numeric_value": fact[2] if len(fact) > 2 else None,
        }
        for number, found in enumerate(patients.values())
        for fact in [(0, "VISIT_START//IMP"), (0, "VISIT_START//ACUTE"), *found]
    ]
    for part in ("data", "metadata"):
        (folder / part).mkdir(parents=True)
    pl.DataFrame(facts, schema=EVENTS).sort("subject_id", "time").write_parquet(folder / "data" / "0.parquet")
    pl.DataFrame(schema=CODES).write_parquet(folder / "metadata" / "codes.parquet")
    subjects = pl.DataFrame(list(enumerate(patients)), schema=SUBJECTS, orient="row")
    subjects.write_parquet(folder / "metadata" / "subjects.parquet")
    info = ExportInfo("test", dates_shifted=True, latest_event=begin + timedelta(days=90), patients=len(patients))
    write_json(folder / "metadata" / "export.json", info.to_json())
    rows = build_cohort(Events(folder), load_pipeline(pipeline).task).labelled
    assert (rows["prediction_time"] == begin + timedelta(hours=24)).all()
    had = dict(rows.select("subject_id", "boolean_value").iter_rows())
    return {name: had.get(number) for number, name in enumerate(patients)}


DIED, LEFT, LEFT_UNIT = "DISCHARGE//exp", "VISIT_END//IMP", "VISIT_END//ACUTE"
SEPSIS, CREATININE, PRESSURE = "SNOMED//91302008", "LOINC//2160-0", "LOINC//8478-0"


@pytest.mark.parametrize(
    ("pipeline", "patients"),
    [
        (
            "icu_mortality",
            {
                "died-on-the-ward": ([(48, LEFT_UNIT), (700, LEFT), (700, DIED), (700, "MEDS_DEATH")], True),
                "died-at-home": ([(100, LEFT), (200, "MEDS_DEATH")], False),
                "left": ([(100, LEFT)], False),
                "died-on-the-first-day": ([(20, LEFT), (20, DIED)], None),
                "left-on-the-first-day": ([(24, LEFT)], None),
                "end-not-told": ([(48, LEFT_UNIT)], None),
            },
        ),
        (
            "icu_long_hospital_stay",
            {
                "three-weeks": ([(500, LEFT)], True),
                "two-weeks": ([(336, LEFT)], False),
                "died": ([(100, "MEDS_DEATH")], False),
                "end-not-told": ([(500, PRESSURE, 80)], None),
                "left-on-the-first-day": ([(24, LEFT)], None),
            },
        ),
        (
            "icu_sepsis",
            {
                "later": ([(90, SEPSIS)], True),
                "shock": ([(25, "SNOMED//76571007")], True),
                "none": ([(100, LEFT_UNIT)], False),
                "died": ([(100, "MEDS_DEATH")], False),
                "after-the-stay": ([(100, LEFT_UNIT), (120, SEPSIS)], False),
                "on-the-first-day": ([(24, SEPSIS), (50, SEPSIS)], None),
                "before": ([(-5, SEPSIS), (50, SEPSIS)], None),
                "left-on-the-first-day": ([(10, LEFT_UNIT), (50, SEPSIS)], None),
                "end-not-told": ([(50, PRESSURE, 80)], None),
            },
        ),
        (
            "icu_kidney_injury",
            {
                "risen": ([(1, CREATININE, 1.0), (30, CREATININE, 1.3)], True),
                "stable": ([(1, CREATININE, 1.0), (30, CREATININE, 1.1)], False),
                "risen-before": ([(1, CREATININE, 1.0), (20, CREATININE, 3.0), (30, CREATININE, 1.2)], False),
                "first-day-alone": ([(1, CREATININE, 1.0)], None),
                "second-day-alone": ([(30, CREATININE, 3.0)], None),
                "no-value": ([(1, CREATININE, 1.0), (30, CREATININE)], None),
            },
        ),
        (
            "icu_hypotension",
            {
                "twice": ([(25, PRESSURE, 59), (40, PRESSURE, 50)], True),
                "once": ([(25, PRESSURE, 59), (40, PRESSURE, 60)], False),
                "once-each-day": ([(23, PRESSURE, 50), (25, PRESSURE, 50)], False),
                "too-late": ([(40, PRESSURE, 90), (49, PRESSURE, 50), (50, PRESSURE, 50)], False),
                "not-measured": ([(23, PRESSURE, 50)], None),
            },
        ),
    ],
)
def test_what_counts_in_intensive_care(pipeline, patients, tmp_path):
    found = stays(pipeline, {name: facts for name, (facts, _) in patients.items()}, tmp_path)
    assert found == {name: expected for name, (_, expected) in patients.items()}


# --- on records -------------------------------------------------------------------------------------------------------


def summary(cohort: Cohort) -> tuple[int, int, int]:
    return cohort.labelled.height, cohort.positives, cohort.positive_subjects


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[Path, str], Events]:
    """`converted(export, adapter)`: its events, converted once for all processes."""
    from ehr_tl.convert import convert

    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent  # each xdist worker has a folder of its own below the common one

    def events(export: Path, adapter: str) -> Events:
        folder = shared / f"events_{adapter}"
        with FileLock(f"{folder}.lock"):
            return Events(folder) if folder.is_dir() else convert(export, adapter, folder)

    return events


@pytest.fixture
def sample_events(converted) -> Events:
    return converted(sample_export(), "synthea")


@pytest.fixture
def mimic_events(converted, data: Path) -> Events:
    return converted(data / "mimic_iv_demo_fhir" / "fhir", "mimic_iv")


# Rows, positive rows and positive subjects. An independent count of all but the last gave the same, but for 814 rows of
# kidney disease. In diabetes_onset, Synthea's kidney disorder due to diabetes (127013003) beside prediabetes costs 217
# rows: who has it has diabetes.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("demo", (2702, 25, 25)),
        ("mortality_1y", (2702, 25, 25)),
        ("diabetic_complications", (660, 11, 8)),
        ("kidney_disease", (819, 11, 6)),
        ("diabetes_onset", (1523, 10, 5)),
        ("readmission_30d", (290, 57, 11)),
    ],
)
def test_cohorts_of_the_sample(sample_events, name, expected):
    cohort = build_cohort(sample_events, load_pipeline(name).task)
    assert summary(cohort) == expected
    assert cohort.current.height > 0
    assert cohort.labelled["prediction_time"].min() >= sample_events.export.index_from


def test_the_outcome_codes_that_never_occur_in_the_sample_are_listed(sample_events):
    absent = build_cohort(sample_events, load_pipeline("diabetes_onset").task).absent_codes
    assert "/^ICD10CM//E11/" in absent and "SNOMED//44054006" not in absent


def test_feasibility_tells_what_the_sample_is_enough_for(sample_events):
    told = {name: feasibility(sample_events, load_pipeline(name)) for name in NAMES}
    assert told["demo"]["enough"]
    assert not told["kidney_disease"]["enough"] and "6 subjects" in told["kidney_disease"]["verdict"]


def test_deaths_in_hospital_of_the_mimic_demo(mimic_events):
    cohort = build_cohort(mimic_events, load_pipeline("mimic_demo_in_hospital_mortality").task)
    assert cohort.predicates["admission"]["events"] == 275
    assert cohort.predicates["died_in_hospital"]["events"] == 15
    assert cohort.current.is_empty(), "dates are shifted: nobody is current"
    assert summary(cohort) == (244, 14, 14), "30 stays ended, and one of the 15 deaths came, within the first day"


def test_long_stays_of_the_mimic_demo(mimic_events):
    cohort = build_cohort(mimic_events, load_pipeline("mimic_demo_long_stay").task)
    assert cohort.current.is_empty()
    assert summary(cohort) == (244, 92, 55)
