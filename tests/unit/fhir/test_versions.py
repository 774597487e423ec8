"""Exports of other versions than R4 are told from their shapes and refused; what is odd in R4 is not taken for one."""

import json

import pytest

from ehr_tl.convert import convert
from ehr_tl.errors import ExportError
from ehr_tl.fhir.export import open_export
from ehr_tl.fhir.versions import refuse_other_versions
from ehr_tl.resources import bundled, sample_export

PATIENT = {"resourceType": "Patient", "id": "p", "gender": "female"}
SUBJECT, VISIT = {"reference": "Patient/p"}, {"reference": "Encounter/e"}
CLASS = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"}
CORE = "http://hl7.org/fhir/{}StructureDefinition/Patient{}"


def made(kind, **elements):
    return {"resourceType": kind, "id": "x", "subject": SUBJECT, **elements}


OTHERS = [
    ("R5", "Encounter.class", made("Encounter", **{"class": [{"coding": [CLASS]}]})),
    ("R5", "Encounter.actualPeriod", made("Encounter", actualPeriod={"start": "2020-01-01"})),
    ("R5", "MedicationRequest.medication", made("MedicationRequest", medication={"concept": {"text": "x"}})),
    ("R5", "MedicationDispense.medication", made("MedicationDispense", medication={"reference": {"reference": "#m"}})),
    ("R5", "Condition.participant", made("Condition", participant=[{"actor": {"reference": "Practitioner/1"}}])),
    ("R5", "Procedure.occurrenceDateTime", made("Procedure", occurrenceDateTime="2020-01-01")),
    ("R5", "Patient.meta.profile", PATIENT | {"meta": {"profile": [CORE.format("5.0/", "")]}}),
    ("R5", "CapabilityStatement.fhirVersion", made("CapabilityStatement", fhirVersion="5.0.0")),
    ("STU3", "CapabilityStatement.fhirVersion", made("CapabilityStatement", fhirVersion="3.0.2")),
    ("STU3", "Patient.meta.profile", PATIENT | {"meta": {"profile": [CORE.format("", "|3.0.1")]}}),
    ("STU3", "Condition.clinicalStatus", made("Condition", clinicalStatus="active")),
    ("STU3", "Condition.verificationStatus", made("Condition", verificationStatus="entered-in-error")),
    ("STU3", "Observation.context", made("Observation", context=VISIT)),
    ("STU3", "MedicationRequest.context", made("MedicationRequest", context=VISIT)),
    ("STU3", "MedicationRequest.requester", made("MedicationRequest", requester={"agent": VISIT})),
    ("STU3", "Immunization.notGiven", made("Immunization", notGiven=False)),
]

SOUND = [
    PATIENT,
    PATIENT | {"meta": {"profile": ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient|5.0.1"]}},
    PATIENT | {"meta": {"profile": [CORE.format("", ""), CORE.format("4.3/", ""), 5]}},
    made("CapabilityStatement", fhirVersion="4.3.0"),
    made("CapabilityStatement", fhirVersion="4.0.1"),
    made("Encounter", **{"class": CLASS}, period={"start": "2020-01-01"}),
    made("MedicationAdministration", context=VISIT),
    made("MedicationDispense", context=VISIT),
    made("MedicationStatement", context=VISIT),
    made("Condition", clinicalStatus={"coding": [{"code": "active"}]}, encounter=VISIT),
    *(made("Encounter", **{"class": junk}) for junk in ([], [{"x": 1}], "x", None, 3)),
    *(made("MedicationRequest", medication=junk, requester=junk, context=junk) for junk in ({}, {"x": 1}, "x", [], 3)),
    *(made("Condition", participant=junk, clinicalStatus=junk) for junk in ([], [None], {"x": 1}, "", 7, True)),
]


@pytest.fixture
def write(tmp_path):
    def export(*resources):
        folder = tmp_path / "export"
        folder.mkdir()
        for number, resource in enumerate(resources):
            with (folder / f"{resource['resourceType']}.ndjson").open("a") as stream:
                stream.write(json.dumps(resource | {"id": f"r{number}"}) + "\n")
        return open_export(folder)

    return export


@pytest.mark.parametrize(("version", "sign", "resource"), OTHERS, ids=[f"{v}-{sign}" for v, sign, _ in OTHERS])
def test_other_versions_are_refused(version, sign, resource, write):
    with pytest.raises(ExportError, match=rf"looks like FHIR {version}: .*{sign}.*Expected: FHIR R4 .*R4B.*convert"):
        refuse_other_versions(write(PATIENT, resource))


def test_convert_refuses(write, tmp_path):
    export = write(PATIENT, made("Encounter", **{"class": [{"coding": [CLASS]}]}))
    with pytest.raises(ExportError, match="looks like FHIR R5"):
        convert(export, "fhir_r4", tmp_path / "events")
    assert not (tmp_path / "events").exists()


@pytest.mark.parametrize("resource", SOUND, ids=lambda resource: resource["resourceType"])
def test_r4_and_r4b_and_what_is_only_odd(resource, write):
    refuse_other_versions(write(PATIENT, resource))


def test_an_odd_one_among_sound_ones_is_a_fault_of_its_own(write):
    sound = made("Condition", clinicalStatus={"coding": [{"code": "active"}]})
    refuse_other_versions(write(PATIENT, sound, made("Condition", clinicalStatus="active")))


def test_bundles_are_looked_into(tmp_path):
    entries = [{"resource": PATIENT}, {"resource": made("Observation", context=VISIT)}]
    (tmp_path / "all.json").write_text(json.dumps({"resourceType": "Bundle", "entry": entries}))
    with pytest.raises(ExportError, match="STU3"):
        refuse_other_versions(open_export(tmp_path))


def test_what_ships_is_r4():
    folders = [sample_export(), *bundled("adapters").glob("*/examples/*/in")]
    assert len(folders) > 4
    for folder in folders:
        refuse_other_versions(open_export(folder))


def test_real_records_are_r4(data):
    refuse_other_versions(open_export(data / "mimic_iv_demo_fhir" / "fhir"))
    refuse_other_versions(open_export(data / "synthea" / "as_written" / "bundles.zip"))
