"""`--concept-map`, wherever it may be given."""

from __future__ import annotations

import json
import os
from pathlib import Path

import polars as pl
import pytest

from ehr_tl.config import load_pipeline
from ehr_tl.stages import STAGES, Job

OURS = "urn:ours:dx"


def map_of(code: str, target: str) -> str:
    targets = [{"code": target, "equivalence": "equivalent"}]
    group = {"source": OURS, "target": "http://snomed.info/sct", "element": [{"code": code, "target": targets}]}
    return json.dumps({"resourceType": "ConceptMap", "status": "active", "group": [group]})


@pytest.fixture
def maps(tmp_path: Path) -> list[Path]:
    """Two maps of one code."""
    paths = [tmp_path / "maps" / name for name in ("first.json", "second.json")]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths, start=1):
        path.write_text(map_of("D1", str(number)))
    return paths


@pytest.fixture
def export(tmp_path: Path, clinic) -> Path:
    diagnosis = {
        "resourceType": "Condition",
        "id": "ours",
        "subject": {"reference": "Patient/p0"},
        "recordedDate": "2020-01-01",
        "code": {"coding": [{"system": OURS, "code": "D1"}]},
    }
    patient = {"resourceType": "Patient", "id": "p0", "gender": "female", "birthDate": "1950-01-01"}
    return clinic.write_export(tmp_path / "export", {"Patient": [patient], "Condition": [diagnosis]})


def code(events: Path) -> str:
    frame = pl.read_parquet(events / "data" / "*.parquet")
    return frame.filter(pl.col("resource_id") == "Condition/ours")["code"].item()


def test_convert_takes_files_and_folders_in_their_order(ehr_tl, export, maps, tmp_path) -> None:
    def converted(*given: Path) -> str:
        options = [each for path in given for each in ("--concept-map", path)]
        assert ehr_tl("convert", export, "--adapter", "fhir_r4", "--out", tmp_path / "events", *options).code == 0
        return code(tmp_path / "events")

    first, second = maps
    assert converted() == "dx//D1"
    assert converted(first.parent) == "SNOMED//1"
    assert converted(second) == "SNOMED//2"
    assert converted(second, first) == "SNOMED//2"


def test_a_wrong_map_is_told_before_anything_is_read(ehr_tl, export, tmp_path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(map_of("D1", "1").replace("equivalent", "alike"))
    for command in (
        ("convert", export, "--adapter", "fhir_r4", "--out", tmp_path / "events"),
        ("run", "demo", "--export", export, "--adapter", "fhir_r4", "--out", tmp_path / "run"),
        ("doctor", export, "--adapter", "fhir_r4"),
        ("adapters", "check", "fhir_r4", export),
    ):
        told = ehr_tl(*command, "--concept-map", wrong)
        assert told.code == 2
        assert "wrong.json: group[0].element[0].target[0].equivalence is 'alike'" in " ".join(told.text.split())
    assert not (tmp_path / "events").exists() and not (tmp_path / "run").exists()


def test_what_is_mapped_is_not_left_out(ehr_tl, export, maps) -> None:
    assert OURS in ehr_tl("adapters", "check", "fhir_r4", export).out
    assert OURS not in ehr_tl("adapters", "check", "fhir_r4", export, "--concept-map", maps[0]).out


def test_a_run_is_made_anew_where_maps_or_their_order_change(export, maps, tmp_path) -> None:
    convert, *_ = STAGES

    def job(*given: Path) -> Job:
        return Job(tmp_path, load_pipeline("demo"), export, "fhir_r4", given, None, 1, tmp_path)

    assert {str(path) for path in convert.outside(job(*maps)).values()} >= set(map(os.fspath, maps))
    assert convert.settings(job(*maps)) != convert.settings(job(*reversed(maps)))
    assert convert.settings(job()) is None  # runs from before there were maps stay as they are
