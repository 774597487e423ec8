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
