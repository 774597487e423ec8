"""What comes before a pretrained model is used on a hospital's records: does it know them, and has it seen them?"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehr_tl.errors import RunError
from ehr_tl.events import Events
from ehr_tl.schema import CURRENT
from ehr_tl.transfer.seen import write_seen

BLOOD_PRESSURE = "LOINC//8480-6"


@pytest.fixture
def started(case, clinic, ehr_tl, monkeypatch, tmp_path):
    """Runs the clinic's pipeline with a checkpoint until something is to be fitted."""

    def stop(*arguments, **more):
        raise RunError("stopped")

    def start(checkpoint: Path, *options, **transformer):
        settings = {"checkpoint": str(checkpoint), **transformer}
        pipeline = clinic.write_pipeline(tmp_path / "stroke.yaml", transformer=settings)
        return ehr_tl("run", pipeline, "--export", case.export, "--out", tmp_path / "run", "--threads", 1, *options)

    monkeypatch.setattr("ehr_tl.models.crossfit.fit_crossfit", stop)
    return start


def test_a_run_refuses_a_checkpoint_that_knows_too_little_unless_that_is_accepted(
    started, write_checkpoint, ehr_tl, tmp_path
) -> None:
    checkpoint = write_checkpoint(tmp_path / "stranger", {"SNOMED//1": None})
    said = started(checkpoint)
    assert said.code == 2 and "stopped" not in said.err
    assert "knows 0.0% of the events" in said.err and "at least 50.0%" in said.err and "--accept-coverage" in said.err
    assert f"ehr-tl coverage {checkpoint} {tmp_path / 'run' / 'events'}" in said.err
    assert "--accept-coverage" in ehr_tl("train", tmp_path / "run").err

    assert "stopped" in ehr_tl("train", tmp_path / "run", "--accept-coverage").err
    settings = json.loads((tmp_path / "run" / "manifest.json").read_text())["settings"]
    assert settings["accept_coverage"] is True
    assert "stopped" in started(checkpoint, "--accept-coverage").err
    assert "stopped" in started(checkpoint, min_known=0).err


def test_a_run_goes_on_with_a_checkpoint_that_knows_enough(started, write_checkpoint, tmp_path) -> None:
    assert "stopped" in started(write_checkpoint(tmp_path / "known", {BLOOD_PRESSURE: None})).err


def test_a_run_refuses_a_checkpoint_that_has_seen_its_patients(started, case, write_checkpoint, tmp_path) -> None:
    checkpoint = write_checkpoint(tmp_path / "known", {BLOOD_PRESSURE: None})
    events = Events(case.folder / "events")
    write_seen(checkpoint, [(events, np.array([1]))])  # nobody's number
    assert "stopped" in started(checkpoint).err
    write_seen(checkpoint, [(events, events.subjects["subject_id"].to_numpy())])
    said = started(checkpoint)
    assert said.code == 2 and "was pretrained on" in said.err and "--exclude" in said.err


def shares(text: str, row: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.strip().startswith(row))
    return line.split()[len(row.split()) :]


def test_coverage_tells_what_is_known_and_lists_of_whom_little_is(case, write_checkpoint, ehr_tl, tmp_path) -> None:
    checkpoint = write_checkpoint(tmp_path / "tiny", {BLOOD_PRESSURE: None, "X//1": "Disorder"})
    said = ehr_tl("coverage", checkpoint, case.folder / "events", "--subjects", tmp_path / "strangers.parquet")
    assert said.code == 0
    assert shares(said.out, "LOINC") == ["100%", "0%", "0%", "0%"]
    assert shares(said.out, "SNOMED") == ["0%", "0%", "100%", "0%"]  # "Disorder 123": half of it is no word
    strangers = pl.read_parquet(tmp_path / "strangers.parquet")
    assert strangers.columns == ["subject_id", "events", "known"] and strangers.height == 0

    checkpoint = write_checkpoint(tmp_path / "stranger", {"X//1": None})
    said = ehr_tl("coverage", checkpoint, case.folder / "events", "--subjects", tmp_path / "strangers.parquet")
    assert shares(said.out, "all") == ["0%", "0%", "0%", "100%"]
    events = Events(case.folder / "events")
    assert set(pl.read_parquet(tmp_path / "strangers.parquet")["subject_id"]) <= set(events.subjects["subject_id"])
    assert pl.read_parquet(tmp_path / "strangers.parquet").height > 50


def test_embed_writes_a_vector_per_subject_or_row(case, write_checkpoint, ehr_tl, tmp_path) -> None:
    checkpoint = write_checkpoint(tmp_path / "tiny", {BLOOD_PRESSURE: None})
    events, out = Events(case.folder / "events"), tmp_path / "vectors.parquet"
    assert ehr_tl("embed", checkpoint, events.folder, "--out", out, "--at", "2024-06-30").code == 0
    found = pl.read_parquet(out)
    assert dict(found.schema) == {**CURRENT, "embedding": pl.Array(pl.Float32, 32)}
    assert sorted(found["subject_id"]) == sorted(events.subjects["subject_id"])
    assert found["prediction_time"].unique().to_list() == [datetime(2024, 6, 30, 23, 59, 59, 999999)]
    assert ehr_tl("embed", checkpoint, events.folder, "--out", out, "--rows", case.folder / "cohort.parquet").code == 0
    cohort = pl.read_parquet(case.folder / "cohort.parquet").select(CURRENT.keys())
    assert pl.read_parquet(out).select(CURRENT.keys()).equals(cohort)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"subject_id": [-5], "prediction_time": [datetime(2024, 1, 1)]}, "1 of the 1 rows"),
        ({"subject_id": [1]}, "no rows (ColumnNotFoundError)"),
        ({"subject_id": [None], "prediction_time": [datetime(2024, 1, 1)]}, "without subject or time"),
    ],
)
def test_rows_that_cannot_be_embedded_are_named(case, write_checkpoint, ehr_tl, tmp_path, rows, said) -> None:
    checkpoint = write_checkpoint(tmp_path / "tiny", {BLOOD_PRESSURE: None})
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    out = tmp_path / "vectors.parquet"
    shown = ehr_tl("embed", checkpoint, case.folder / "events", "--out", out, "--rows", tmp_path / "rows.parquet")
    assert shown.code == 2 and said in shown.err and not out.exists()


def test_a_checkpoint_is_pushed_and_pulled(write_checkpoint, ehr_tl, tmp_path) -> None:
    checkpoint = write_checkpoint(tmp_path / "tiny", {BLOOD_PRESSURE: None})
    assert ehr_tl("push", checkpoint, tmp_path / "share").code == 0
    assert "4 files" in ehr_tl("pull", tmp_path / "share", tmp_path / "mine").out
    said = ehr_tl("pull", "hf://owner/name", tmp_path / "other")
    assert said.code == 2 and "--online" in said.err
