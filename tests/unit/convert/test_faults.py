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
            "code:56799-0",
        ),
    ],
)
def test_unused(converted, fhir, given, reason):
    found = converted(fhir.mary, fhir.observation(**given))
    assert reasons(found, "Observation") == ({reason: 1}, {})
    assert found.quarantine == []


OURS = {"system": "urn:hospital:certainty", "code": "X"}
CERTAINTY = "http://fhir.de/StructureDefinition/icd-10-gm-diagnosesicherheit"


def certainty(code):
    extension = [{"url": CERTAINTY, "valueCoding": {"code": code}}]
    return {
        "coding": [{"system": "http://fhir.de/CodeSystem/bfarm/icd-10-gm", "code": "J18.9", "extension": extension}]
    }


def allergy(key="a", **more):
    return {
        "resourceType": "AllergyIntolerance",
        "id": key,
        "patient": {"reference": "Patient/mary"},
        "recordedDate": "2020-01-01",
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "91936005"}]},
    } | more


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"verificationStatus": {"coding": [{"code": "refuted"}]}}, "verification:refuted"),
        ({"verificationStatus": {"coding": [{"code": "entered-in-error"}]}}, "verification:entered-in-error"),
        ({"verificationStatus": {"coding": [OURS, {"code": "refuted"}]}}, "verification:refuted"),
        (
            {"verificationStatus": {"coding": [{"system": "http://snomed.info/sct", "code": "410516002"}]}},
            "verification:410516002",
        ),
        ({"verificationStatus": {"text": "Refuted"}}, "verification_text:refuted"),
        ({"verificationStatus": {"text": "Entered in Error"}}, "verification_text:entered in error"),
        ({"code": certainty("A")}, "certainty:A"),
    ],
)
def test_what_is_refuted_or_excluded_is_no_event(converted, fhir, given, reason):
    found = converted(fhir.mary, fhir.condition(**given), allergy(**given))
    assert reasons(found, "Condition") == reasons(found, "AllergyIntolerance") == ({reason: 1}, {})


@pytest.mark.parametrize(
    "given",
    [
        {"verificationStatus": {"coding": [OURS, {"code": "confirmed"}], "text": "Confirmed"}},
        {"code": certainty("G")},
    ],
)
def test_what_is_confirmed_is_an_event(converted, fhir, given):
    found = converted(fhir.mary, fhir.condition(**given), allergy(**given))
    assert len(found.codes_of("Condition/c1")) == len(found.codes_of("AllergyIntolerance/a")) == 1


@pytest.mark.parametrize(
    "coding",
    [
        {"system": "http://snomed.info/sct", "code": "716186003"},
        {"system": "http://hl7.org/fhir/uv/ips/CodeSystem/absent-unknown-uv-ips", "code": "no-allergy-info"},
    ],
)
def test_nothing_known_is_no_event(converted, fhir, coding):
    found = converted(fhir.mary, allergy(code={"coding": [coding]}))
    assert reasons(found, "AllergyIntolerance") == ({"nothing_known": 1}, {})


def test_the_first_of_repeated_resources_counts(converted, fhir):
    later = {**fhir.mary, "gender": "male"}
    found = converted(fhir.mary, later, fhir.observation(), fhir.observation(status="entered-in-error"))
    assert found.codes_of("Patient/mary") == ["GENDER//female", "MEDS_BIRTH"]
    assert found.coverage["Patient"] == {"read": 2, "used": 1, "unused": {}, "set_aside": {"repeated": 1}}
    assert found.coverage["Observation"]["set_aside"] == {"repeated": 1}


def versions(resource, *of):
    """Versions of a resource: when it was written, its number, and what is different in it."""
    return [{**resource, "meta": {"lastUpdated": at, "versionId": number}, **more} for at, number, more in of]


DAY, LATER = "2020-01-01T00:00:00Z", "2020-01-01T00:30:00-01:00"  # half an hour into the next day, in UTC
OLD, NEW, NEWEST = {"gender": "other"}, {"gender": "male"}, {"gender": "unknown"}


@pytest.mark.parametrize(
    ("given", "gender", "line"),
    [
        ([(DAY, "9", OLD), (LATER, "1", NEW)], "male", 2),
        ([(LATER, "1", NEW), (DAY, "9", OLD)], "male", 1),
        ([(DAY, "9", OLD), (DAY, "10", NEW)], "male", 2),
        ([(DAY, "2", OLD), (LATER, "3", NEW), (LATER, "4", NEWEST), (LATER, "4", OLD)], "unknown", 3),
        ([(None, "2", OLD), (None, "3", NEW)], "male", 2),
        ([(None, "x", OLD), (None, "y", NEW)], "other", 1),
        ([("yesterday", None, OLD), (DAY, "1", NEW)], "male", 2),
    ],
)
def test_the_newest_version_of_a_patient_counts(converted, fhir, given, gender, line):
    found = converted(*versions(fhir.mary, *given), fhir.observation())
    assert found.codes_of("Patient/mary") == [f"GENDER//{gender}", "MEDS_BIRTH"]
    assert found.coverage["Patient"]["set_aside"] == {"repeated": len(given) - 1}
    assert {row["line"] for row in found.quarantine} == {*range(1, len(given) + 1)} - {line}


def test_the_newest_version_of_a_visit_and_of_a_drug_counts(converted, fhir):
    running = {"status": "in-progress", "period": {"start": "2020-01-01T08:00:00Z"}}
    drug = {"resourceType": "Medication", "id": "d", "code": {"text": "Aspirin"}}
    ordered = {
        "resourceType": "MedicationRequest",
        "id": "r",
        "status": "active",
        "intent": "order",
        "subject": {"reference": "Patient/mary"},
        "authoredOn": "2020-01-02",
        "medicationReference": {"reference": "Medication/d"},
    }
    found = converted(
        fhir.mary,
        *versions(fhir.visit(), (DAY, "1", running), (LATER, "2", {})),
        *versions(drug, (LATER, "2", {"code": {"text": "Ibuprofen"}}), (DAY, "1", {})),
        fhir.condition(recordedDate=None, encounter={"reference": "Encounter/e1"}),
        ordered,
    )
    assert found.codes_of("Encounter/e1") == ["VISIT_START//IMP", "VISIT_END//IMP"]
    assert found.codes_of("Condition/c1") == ["SNOMED//44054006"]
    assert found.codes_of("MedicationRequest/r") == ["TEXT//Ibuprofen"]
    assert found.coverage["Encounter"]["set_aside"] == {"repeated": 1}
    assert found.coverage["Medication"] == {"read": 2, "used": 1, "unused": {}, "set_aside": {"repeated": 1}}


def test_a_newer_version_may_take_back_that_a_record_was_merged(converted, fhir):
    link = {"link": [{"type": "replaced-by", "other": {"reference": "Patient/mary"}}]}
    found = converted(fhir.mary, *versions({**fhir.mary, "id": "ann"}, (DAY, "1", link), (LATER, "2", {})))
    assert found.coverage["Patient"]["unused"] == {}
    assert found.frame["subject_id"].n_unique() == 2


@pytest.mark.parametrize(("born", "fault"), [("0000-01-01", "impossible_time"), (1950, "does_not_fit")])
def test_a_birth_date_that_cannot_be_does_not_cost_the_patient(converted, fhir, born, fault):
    found = converted({**fhir.mary, "birthDate": born, "deceasedDateTime": "2020-05-01"}, fhir.observation())
    assert found.codes_of("Patient/mary") == ["GENDER//female", "MEDS_DEATH"]
    assert found.codes_of("Observation/o1") == ["LOINC//2345-7"]
    assert found.coverage["Patient"]["faults"] == {fault: 1}


def test_a_patient_of_whom_nothing_can_be_believed_is_set_aside(converted):
    found = converted({"resourceType": "Patient", "id": "mary", "birthDate": "0000-01-01"})
    assert found.coverage["Patient"] == {"read": 1, "used": 0, "unused": {}, "set_aside": {"impossible_time": 1}}


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


def test_patients_whose_links_go_in_a_circle_stay_apart(converted, fhir):
    links = {"ann": "eve", "eve": "ann", "old": "ann"}
    circle = [
        {**fhir.mary, "id": key, "link": [{"type": "replaced-by", "other": {"reference": f"Patient/{other}"}}]}
        for key, other in links.items()
    ]
    found = converted(fhir.mary, *circle)
    assert found.coverage["Patient"] == {"read": 4, "used": 4, "unused": {}, "set_aside": {}}
    assert found.events.subjects.height == found.frame["subject_id"].n_unique() == 4


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
    with pytest.raises(ExportError, match=r"holds no Patient \(read: 1 Observation\)"):
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
