"""However many processes share the work and wherever an export is cut, the events are the same."""

import json

import polars as pl

from ehr_tl import threads
from ehr_tl.convert import convert, engine
from ehr_tl.fhir import pieces


def test_pieces_and_processes_do_not_show(mixed_export, everything, tmp_path, monkeypatch):
    events = convert(mixed_export, "fhir_r4", tmp_path / "whole")
    assert len(events.hierarchy.parents["SNOMED//44054006"]) == 60
    whole = everything(events.folder)
    monkeypatch.setattr(pieces, "SIZE", 2000)
    monkeypatch.setattr(engine, "_WORTH_SHARING", 0)
    assert everything(convert(mixed_export, "fhir_r4", tmp_path / "here", threads=1).folder) == whole
    monkeypatch.setattr(threads, "available", lambda: 3)
    assert everything(convert(mixed_export, "fhir_r4", tmp_path / "shared", threads=3).folder) == whole


def test_of_repeated_resources_the_newest_counts(mixed_export, tmp_path):
    events = convert(mixed_export, "fhir_r4", tmp_path / "events")
    counts = events.coverage["resources"]
    assert counts["Observation"]["set_aside"] == {"repeated": 2, "unknown_patient": 1}
    assert counts["Observation"]["unused"] == {"status:entered-in-error": 1}
    assert counts["Condition"]["set_aside"] == {"repeated": 1}
    frame = events.scan().collect()
    assert frame.filter(pl.col("resource_id") == "Observation/o5").is_empty()
    assert frame.filter(pl.col("resource_id") == "Observation/o3").height == 1
    lines = [json.loads(line) for line in (events.folder / "quarantine.ndjson").read_text().splitlines()]
    # The first of two equal ones counts, and of two versions the second.
    lost = [(one["resource_id"], one["line"]) for one in lines if one["reason"] == "repeated"]
    assert sorted(lost) == [("Condition/c0", 61), ("Observation/o3", 60), ("Observation/o5", 58)]


def test_what_is_set_aside_is_kept_only_if_asked_for(mixed_export, tmp_path):
    plain = convert(mixed_export, "fhir_r4", tmp_path / "plain").folder / "quarantine.ndjson"
    assert all(json.loads(line).keys() == {"file", "line", "resource_id", "reason"} for line in plain.open())
    kept = convert(mixed_export, "fhir_r4", tmp_path / "kept", keep_quarantined=True).folder / "quarantine.ndjson"
    lines = {one["resource_id"]: one for one in map(json.loads, kept.open())}
    assert lines["Observation/orphan"]["resource"]["subject"] == {"reference": "Patient/nobody"}
    assert lines[None]["text"] == "{broken"


def test_patients_who_share_an_identifier_are_kept_apart_and_named_by_none(tmp_path, fhir):
    folder = tmp_path / "export"
    folder.mkdir()
    number = [{"system": "urn:mrn", "value": "7"}]
    old = {"link": [{"type": "replaced-by", "other": {"reference": "Patient/a"}}]}
    people = [{"resourceType": "Patient", "id": key, "identifier": number, "gender": "male"} for key in "abc"]
    asks = fhir.observation("asks", subject={"reference": "Patient?identifier=urn:mrn|7"})
    fhir.write(folder / "all.ndjson", *people, asks)
    events = convert(folder, "fhir_r4", tmp_path / "events")
    assert events.coverage["patients_sharing_an_identifier"] == 3
    assert events.coverage["resources"]["Observation"]["set_aside"] == {"unknown_patient": 1}
    assert events.subjects.height == 3
    fhir.write(folder / "all.ndjson", people[0], people[1] | old, asks)  # one person: nothing is shared
    events = convert(folder, "fhir_r4", tmp_path / "events")
    assert events.coverage["patients_sharing_an_identifier"] == 0
    assert events.coverage["resources"]["Observation"]["used"] == 1


def test_both_passes_refuse_the_same_texts(tmp_path, fhir):
    """A number that no double holds, where nobody reads it, makes no patient unknown."""
    folder = tmp_path / "export"
    folder.mkdir()
    mary = json.dumps({**fhir.mary, "extension": [{"url": "urn:x", "valueDecimal": "HERE"}]}).replace('"HERE"', "1e999")
    fhir.write(folder / "all.ndjson", mary, fhir.observation())
    coverage = convert(folder, "fhir_r4", tmp_path / "events").coverage["resources"]
    assert coverage["Patient"]["used"] == coverage["Observation"]["used"] == 1


def test_what_crosses_to_another_process_means_the_same_there(tmp_path, fhir, everything, monkeypatch):
    """The end of an open visit, who was merged into whom, and a mixture of one drug twice."""
    folder = tmp_path / "export"
    folder.mkdir()

    def patient(key, number=None, after=None):
        link = [{"type": "replaced-by", "other": {"reference": after}}] if after else []
        return {**fhir.mary, "id": key, "identifier": [{"value": number}] if number else [], "link": link}

    people = [patient("a", after="Patient?identifier=%7CX"), patient("b", "X"), patient("c", "X", "Patient/b")]
    visit = fhir.visit(status="in-progress", period={"start": "2020-01-01T08:00:00Z"})
    undated = fhir.condition(recordedDate=None, encounter={"reference": "Encounter/e1"})
    drug = {"coding": [{"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": "1"}]}
    drugs = [{"resourceType": "Medication", "id": key, "code": drug} for key in ("m1", "m2")]
    parts = [{"itemReference": {"reference": f"Medication/{key}"}} for key in ("m1", "m2")]
    mixture = {"resourceType": "Medication", "id": "mix", "ingredient": parts}
    order = {
        **{"resourceType": "MedicationRequest", "id": "r1", "status": "active", "intent": "order"},
        **{"subject": {"reference": "Patient/mary"}, "authoredOn": "2020-01-01T10:00:00Z"},
        "medicationReference": {"reference": "Medication/mix"},
    }
    told = fhir.condition("told", subject={"reference": "Patient/a"})
    fhir.write(folder / "all.ndjson", fhir.mary, *people, visit, undated, *drugs, mixture, order, told)
    events = convert(folder, "fhir_r4", tmp_path / "alone", threads=1)
    monkeypatch.setattr(pieces, "SIZE", 1)
    monkeypatch.setattr(engine, "_WORTH_SHARING", 0)
    monkeypatch.setattr(threads, "available", lambda: 2)
    there = convert(folder, "fhir_r4", tmp_path / "shared", threads=2)
    assert everything(there.folder) == everything(events.folder)
    assert events.coverage["resources"]["Condition"]["unused"] == {"visit_open": 1}
    assert events.scan().collect().filter(pl.col("resource_id") == "MedicationRequest/r1").height == 1


def test_of_two_versions_the_one_that_can_be_read_counts(tmp_path, fhir):
    """A newer one that is not UTF-8 is none, and a fault where nobody looks hides no repeat."""
    folder = tmp_path / "export"
    folder.mkdir()
    newer = json.dumps(fhir.observation(meta={"versionId": "2"}, note=[{"text": "HERE"}])).encode()
    lines = [json.dumps(fhir.mary).encode(), json.dumps(fhir.observation()).encode(), newer.replace(b"HERE", b"\xff")]
    odd = json.dumps(fhir.observation("o2", meta={"x": "HERE"})).replace('"HERE"', "1e999").encode()
    (folder / "all.ndjson").write_bytes(b"\n".join([*lines, odd, odd]) + b"\n")
    counts = convert(folder, "fhir_r4", tmp_path / "events").coverage["resources"]
    assert counts["Observation"] == {"read": 3, "used": 2, "unused": {}, "set_aside": {"repeated": 1}}
    assert counts["?"]["set_aside"] == {"not_json": 1}


def test_what_an_older_version_was_called_names_nobody(tmp_path, fhir):
    folder = tmp_path / "export"
    folder.mkdir()
    old = {**fhir.mary, "id": "a", "identifier": [{"value": "B"}]}
    new = {**old, "identifier": [{"value": "A"}], "meta": {"versionId": "2"}}
    other = {**fhir.mary, "id": "b", "identifier": [{"value": "B"}]}
    fhir.write(
        folder / "all.ndjson", old, new, other, fhir.observation(subject={"reference": "Patient?identifier=%7CB"})
    )
    events = convert(folder, "fhir_r4", tmp_path / "events")
    assert events.coverage["patients_sharing_an_identifier"] == 0
    told = events.scan().filter(pl.col("resource_id") == "Observation/o1").collect()["subject_id"].to_list()
    assert told == events.subjects.filter(pl.col("patient_id") == "b")["subject_id"].to_list()


def test_visits_are_not_patients(tmp_path, fhir):
    """That patient 2 became patient 1 does not make visits 1 and 2 one."""
    folder = tmp_path / "export"
    folder.mkdir()
    merged = {**fhir.mary, "id": "2", "link": [{"type": "replaced-by", "other": {"reference": "Patient/1"}}]}
    visits = [fhir.visit(key, identifier=[{"value": "V"}]) for key in "12"]
    asks = fhir.condition(recordedDate=None, encounter={"reference": "Encounter?identifier=%7CV"})
    fhir.write(folder / "all.ndjson", fhir.mary, {**fhir.mary, "id": "1"}, merged, *visits, asks)
    counts = convert(folder, "fhir_r4", tmp_path / "events").coverage["resources"]
    assert counts["Condition"]["unused"] == {"no_time": 1}


def test_drugs_that_are_read_are_counted(tmp_path, fhir):
    folder = tmp_path / "export"
    folder.mkdir()
    drug = json.dumps({"resourceType": "Medication", "id": "m", "code": {"text": "x"}, "x": "HERE"})
    order = {**fhir.condition("r1"), "resourceType": "MedicationRequest", "status": "active", "intent": "order"}
    order = {**order, "authoredOn": "2020-01-01", "medicationReference": {"reference": "Medication/m"}}
    fhir.write(folder / "all.ndjson", fhir.mary, drug.replace('"HERE"', "1e999"), order)
    counts = convert(folder, "fhir_r4", tmp_path / "events").coverage["resources"]
    assert counts["Medication"] == {"read": 1, "used": 1, "unused": {}, "set_aside": {}} and "?" not in counts
