"""However a reference is written, it finds its patient, visit and drug."""

import json
import zipfile

import pytest

from ehr_tl.convert import convert

RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"


@pytest.mark.parametrize(
    "reference",
    [
        "Patient/mary",
        "https://hospital.example/fhir/Patient/mary",
        "Patient/mary/_history/3",
        "https://hospital.example/fhir/Patient/mary/_history/3",
        "Patient?identifier=urn:mrn|77",
        "Patient?identifier=urn:mrn%7C77",
    ],
)
def test_patient(converted, fhir, reference):
    mary = {**fhir.mary, "identifier": [{"system": "urn:mrn", "value": "77"}]}
    found = converted(mary, fhir.observation(subject={"reference": reference}))
    assert found.codes_of("Observation/o1") == ["LOINC//2345-7"]


def test_bundle_with_urns(tmp_path, fhir):
    """Synthea's form: ids in `fullUrl`, references to them, in a zip."""
    entries = [
        ("urn:uuid:aaaa", {**fhir.mary, "id": None}),
        ("urn:uuid:bbbb", fhir.visit("other-id", subject={"reference": "urn:uuid:aaaa"})),
        (
            "urn:uuid:cccc",
            fhir.condition(
                None,
                recordedDate=None,
                subject={"reference": "urn:uuid:aaaa"},
                encounter={"reference": "urn:uuid:bbbb"},
            ),
        ),
    ]
    for _, resource in entries:
        for key in [key for key, value in resource.items() if value is None]:
            del resource[key]
    bundle = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [{"fullUrl": url, "resource": resource} for url, resource in entries],
    }
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("one.json", json.dumps(bundle))
    events = convert(tmp_path / "export.zip", "fhir_r4", tmp_path / "events")
    rows = {row["resource_id"]: row for row in events.scan().collect().to_dicts()}
    assert rows["Condition/cccc"]["time"] == rows["Encounter/other-id"]["time"]  # the end of its visit
    assert rows["Condition/cccc"]["visit_id"] == "other-id"
    assert events.subjects["patient_id"].to_list() == ["aaaa"]
    assert events.coverage["resources"]["Patient"] == {"read": 1, "used": 1, "unused": {}, "set_aside": {}}
    assert rows["Patient/aaaa"]["subject_id"] == rows["Condition/cccc"]["subject_id"]


def request(key, reference, **more):
    return {
        "resourceType": "MedicationRequest",
        "id": key,
        "status": "stopped",
        "intent": "order",
        "subject": {"reference": "Patient/mary"},
        "authoredOn": "2020-01-01T10:00:00Z",
        "medicationReference": {"reference": reference},
    } | more


def drug(key, code, **more):
    coding = {"coding": [{"system": RXNORM, "code": code}]} if code else {}
    return {"resourceType": "Medication", "id": key, "code": coding} | more


def test_drugs(converted, fhir):
    mixture = [{"itemReference": {"reference": "Medication/a"}}, {"itemReference": {"reference": "Medication/b"}}]
    found = converted(
        fhir.mary,
        request("plain", "Medication/a"),
        request("inside", "#d", contained=[drug("d", "3")]),
        request("mixture", "Medication/mix"),
        request("absent", "Medication/none"),
        drug("a", "1"),
        drug("b", "2"),
        drug("mix", None, ingredient=mixture),
        drug("idle", "4"),
    )
    assert found.codes_of("MedicationRequest/plain") == ["RxNorm//1"]
    assert found.codes_of("MedicationRequest/inside") == ["RxNorm//3"]
    assert found.codes_of("MedicationRequest/mixture") == ["RxNorm//1", "RxNorm//2"]
    assert found.coverage["MedicationRequest"]["unused"] == {"unknown_drug": 1}
    assert found.coverage["Medication"] == {"read": 4, "used": 3, "unused": {"not_referenced": 1}, "set_aside": {}}


def rxnorm(code):
    return {"coding": [{"system": RXNORM, "code": code}]}


def test_what_a_drug_is_mixed_of(converted, fhir):
    """Ingredients as codes, as contained drugs or substances, and as references; several codings are one of them."""
    ours = {"coding": [{"system": "urn:ours", "code": "A"}, {"system": RXNORM, "code": "1"}]}
    inside = [drug("d", "2"), {"resourceType": "Substance", "id": "s", "code": rxnorm("3")}]
    parts = [
        {"itemCodeableConcept": ours},
        {"itemCodeableConcept": {"text": "Water"}},
        {"itemReference": {"reference": "#d"}},
        {"itemReference": {"reference": "#s"}},
        {"itemReference": {"reference": "Medication/other"}},
        {"itemReference": {"reference": "#none"}},
        {"itemReference": {"reference": "Substance/none"}},
    ]
    mixture = drug("mix", None, contained=inside, ingredient=parts)
    circle = drug("circle", None, ingredient=[{"itemReference": {"reference": "#circle"}}])
    found = converted(
        fhir.mary,
        drug("other", "4"),
        mixture,
        request("outside", "Medication/mix"),
        request("inside", "#mix", contained=[drug("mix", None, ingredient=parts), *inside]),
        request("circle", "#circle", contained=[circle]),
    )
    expected = ["RxNorm//1", "RxNorm//2", "RxNorm//3", "RxNorm//4", "TEXT//Water"]
    assert found.codes_of("MedicationRequest/outside") == found.codes_of("MedicationRequest/inside") == expected
    assert found.coverage["MedicationRequest"]["unused"] == {"unknown_drug": 1}
    assert found.coverage["Medication"] == {"read": 2, "used": 2, "unused": {}, "set_aside": {}}


def test_a_drug_is_used_only_if_an_event_came_of_it(converted, fhir):
    found = converted(
        fhir.mary,
        drug("empty", None),
        drug("undated", "1"),
        drug("none", None) | {"code": {"coding": [{"system": "http://snomed.info/sct", "code": "787482006"}]}},
        request("a", "Medication/empty"),
        request("b", "Medication/undated", authoredOn="0000-01-01"),
        request("c", "Medication/none"),
    )
    assert found.coverage["MedicationRequest"]["unused"] == {"unknown_drug": 1, "nothing_known": 1}
    assert found.coverage["MedicationRequest"]["set_aside"] == {"impossible_time": 1}
    assert found.coverage["Medication"]["unused"] == {"not_referenced": 3}


@pytest.mark.parametrize(
    ("identifier", "codes"),
    [
        ({"system": "urn:formulary", "value": "7 %2F/8"}, ["RxNorm//1"]),
        ({"value": "9"}, ["RxNorm//1"]),
        ({"system": "urn:other", "value": "9"}, []),
    ],
)
def test_a_drug_by_its_identifier(converted, fhir, identifier, codes):
    known = [{"system": "urn:formulary", "value": "7 %2F/8"}, {"value": "9"}]
    found = converted(
        fhir.mary, drug("a", "1", identifier=known), request("r", None, medicationReference={"identifier": identifier})
    )
    assert found.codes_of("MedicationRequest/r") == codes
    assert found.coverage["MedicationRequest"]["unused"] == ({} if codes else {"unknown_drug": 1})
