"""Bad input: each resource is used, unused or set aside, with its reason, and the counts add up."""

import json

import pytest

from ehr_tl.convert import convert, coverage_text
from ehr_tl.errors import ExportError, RunError

ERROR = {"coding": [{"code": "entered-in-error"}]}


def reasons(found, kind):
    return found.coverage[kind]["unused"], found.coverage[kind]["set_aside"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"subject": {"reference": "Patient/nobody"}}, "unknown_patient"),
        ({"subject": {}}, "no_patient"),
        ({"effectiveDateTime": "0000-01-01"}, "impossible_time"),
        ({"effectiveDateTime": "2020-02-30"}, "impossible_time"),
        ({"effectiveDateTime": "2999-01-01"}, "implausible_time"),
        ({"issued": "2999-01-01T00:00:00Z"}, "implausible_time"),
        ({"valueQuantity": {"value": "NaN"}}, "bad_value"),
        ({"valueQuantity": {"value": True}}, "bad_value"),
        ({"valueQuantity": {"value": 1e300}}, "implausible_value"),
        (
            {"code": {"text": "Pulse"}, "subject": [{"reference": "Patient/mary"}, {"reference": "Patient/x"}]},
            "does_not_fit",
        ),
    ],
)
def test_set_aside(converted, fhir, given, reason):
    found = converted(fhir.mary, fhir.observation("bad", **given), fhir.observation("good"))
    assert reasons(found, "Observation") == ({}, {reason: 1})
    assert found.quarantine == [{"file": "all.ndjson", "line": 2, "resource_id": "Observation/bad", "reason": reason}]
    assert found.codes_of("Observation/bad") == []
    assert found.codes_of("Observation/good") == ["LOINC//2345-7"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"status": "entered-in-error"}, "status:entered-in-error"),
        ({"code": {}}, "no_code"),
        ({"dataAbsentReason": {"text": "unknown"}}, "value_absent"),
        ({"effectiveDateTime": None}, "no_time"),
        ({"subject": {"reference": "Group/g"}}, "not_a_patient"),
        (
            {
                "valueCodeableConcept": {
                    "coding": [
                        {"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "unknown"}
                    ]
                }
            },
            "value_absent",
        ),
        (
            {"code": {"coding": [{"system": "http://loinc.org", "code": "56799-0"}]}, "valueString": "1 Elm St"},
            "part:56799-0",
        ),
    ],
)
def test_unused(converted, fhir, given, reason):
    found = converted(fhir.mary, fhir.observation(**given))
    assert reasons(found, "Observation") == ({reason: 1}, {})
    assert found.quarantine == []


@pytest.mark.parametrize("status", ["refuted", "entered-in-error"])
def test_refuted_conditions_are_no_events(converted, fhir, status):
    found = converted(fhir.mary, fhir.condition(verificationStatus={"coding": [{"code": status}]}))
    assert reasons(found, "Condition") == ({f"verification:{status}": 1}, {})


@pytest.mark.parametrize(
    "coding",
    [
        {"system": "http://snomed.info/sct", "code": "716186003"},
        {"system": "http://hl7.org/fhir/uv/ips/CodeSystem/absent-unknown-uv-ips", "code": "no-allergy-info"},
    ],
)
def test_nothing_known_is_no_event(converted, fhir, coding):
    allergy = {
        "resourceType": "AllergyIntolerance",
        "id": "a",
        "patient": {"reference": "Patient/mary"},
        "recordedDate": "2020-01-01",
        "code": {"coding": [coding]},
    }
    found = converted(fhir.mary, allergy)
    assert reasons(found, "AllergyIntolerance") == ({"nothing_known": 1}, {})


def test_the_first_of_repeated_resources_counts(converted, fhir):
    later = {**fhir.mary, "gender": "male"}
    found = converted(fhir.mary, later, fhir.observation(), fhir.observation(status="entered-in-error"))
    assert found.codes_of("Patient/mary") == ["GENDER//female", "MEDS_BIRTH"]
    assert found.coverage["Patient"] == {"read": 2, "used": 1, "unused": {}, "set_aside": {"repeated": 1}}
    assert found.coverage["Observation"]["set_aside"] == {"repeated": 1}


def test_a_birth_date_that_cannot_be_does_not_cost_the_patient(converted, fhir):
    found = converted({**fhir.mary, "birthDate": "0000-01-01"}, fhir.observation())
    assert found.codes_of("Patient/mary") == ["GENDER//female"]
    assert found.codes_of("Observation/o1") == ["LOINC//2345-7"]
    assert found.coverage["Patient"]["faults"] == {"impossible_time": 1}


def test_merged_patients_are_one_subject(converted, fhir):
    old = {
        "resourceType": "Patient",
        "id": "old",
        "birthDate": "1950-02-02",
        "link": [{"type": "replaced-by", "other": {"reference": "Patient/mary"}}],
    }
    found = converted(old, fhir.mary, fhir.observation(subject={"reference": "Patient/old"}), fhir.condition())
    assert found.frame["subject_id"].n_unique() == 1
    assert found.coverage["Patient"]["unused"] == {"replaced": 1}
    assert found.events.subjects["patient_id"].to_list() == ["mary"]
    assert found.events.export.patients == 1


def test_everything_is_counted(converted, fhir):
    lines = [
        fhir.mary,
        "not json",
        '{"resourceType": "Observation", "id": "cut", "sta',
        '{"resourceType": "Observation", "value": NaN}',
        "[1, 2]",
        {"resourceType": "Spaceship", "id": "s"},
        {"resourceType": "Observation"},
        {"resourceType": "Medication", "id": "m", "code": {"text": "Aspirin"}},
        fhir.observation(),
    ]
    found = converted(*lines)
    assert found.coverage["?"]["set_aside"] == {"not_json": 3, "not_a_resource": 1}
    assert found.coverage["Spaceship"]["unused"] == {"no_view": 1}
    assert found.coverage["Medication"]["unused"] == {"not_referenced": 1}
    assert sum(counts["read"] for counts in found.coverage.values()) == len(lines)
    for counts in found.coverage.values():
        assert counts["read"] == counts["used"] + sum(counts["unused"].values()) + sum(counts["set_aside"].values())
    aside = sum(sum(counts["set_aside"].values()) for counts in found.coverage.values())
    assert len(found.quarantine) == aside
    assert "1 set aside (no_patient)" in coverage_text(found.events.coverage)


def test_an_export_without_patients_is_an_error_and_leaves_nothing(tmp_path, fhir):
    export = tmp_path / "export"
    export.mkdir()
    (export / "Observation.ndjson").write_text(json.dumps(fhir.observation()))
    with pytest.raises(ExportError, match="holds no Patient"):
        convert(export, "fhir_r4", tmp_path / "events")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path, fhir):
    export = tmp_path / "export"
    export.mkdir()
    (export / "Patient.ndjson").write_text(json.dumps(fhir.mary))
    with pytest.raises(RunError, match="is not replaced"):
        convert(export, "fhir_r4", export)
    assert (export / "Patient.ndjson").is_file()
    for _ in range(2):  # an older events folder is
        assert convert(export, "fhir_r4", tmp_path / "events").coverage["events"] == 2
