"""What comes before a pretrained model is used on a hospital's records: does it know them, and has it seen them?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ehr_tl.errors import RunError
from ehr_tl.events import Events
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
