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
        ("urn:uuid:aaaa", {**fhir.mary, "id": "aaaa"}),
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
