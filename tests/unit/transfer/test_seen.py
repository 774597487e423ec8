from datetime import datetime

import numpy as np
import polars as pl
import pytest

from ehr_tl import schema
from ehr_tl.errors import CheckpointError
from ehr_tl.transfer.seen import SEEN, refuse_seen, write_seen


@pytest.fixture
def people(write_events):
    """Writes a hospital of subject number -> year of birth, and gender."""

    def write(folder, born, gender="female"):
        facts = [(subject, None, f"GENDER//{gender}") for subject in born]
        facts += [(subject, datetime(year, 1, 1), schema.BIRTH) for subject, year in born.items() if year]
        return write_events(facts, folder=write_events.base / folder)

    return write


def test_who_was_seen_is_refused_and_nobody_else(people, tmp_path):
    events = people("one", {1: 1950, 2: 1960, 3: None})
    write_seen(tmp_path, [(events, np.array([1, 3]))])
    refuse_seen(tmp_path, events, np.array([2]))
    with pytest.raises(CheckpointError, match=r"2 of the 3 subjects.*--exclude"):
        refuse_seen(tmp_path, events, np.array([3, 2, 2, 1]))


def test_the_same_number_in_another_hospital_is_another_person(people, tmp_path):
    write_seen(tmp_path, [(people("one", {1: 1950}), np.array([1]))])
    refuse_seen(tmp_path, people("two", {1: 1951}), np.array([1]))
    refuse_seen(tmp_path, people("three", {1: 1950}, "male"), np.array([1]))
    with pytest.raises(CheckpointError, match="1 of the 1"):
        refuse_seen(tmp_path, people("again", {1: 1950, 2: 1950}), np.array([1]))


def test_whom_the_checkpoint_before_saw_stays_seen(people, tmp_path):
    one, two = people("one", {1: 1950}), people("two", {2: 1950})
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    write_seen(tmp_path / "a", [(one, np.array([1]))])
    write_seen(tmp_path / "b", [(two, np.array([2]))], before=tmp_path / "a")
    for events, subject in ((one, 1), (two, 2)):
        with pytest.raises(CheckpointError, match="pretrained on"):
            refuse_seen(tmp_path / "b", events, np.array([subject]))


def test_the_file_tells_fingerprints_alone(people, tmp_path):
    write_seen(tmp_path, [(people("one", {10: 1950, 4: 1940}), np.array([10, 4, 4]))])
    found = pl.read_parquet(tmp_path / SEEN)
    assert found.columns == ["fingerprint"] and found.height == 2
    assert found["fingerprint"].str.contains("^[0-9a-f]{16}$").all() and found["fingerprint"].is_sorted()


def test_nothing_recorded_refuses_nobody_and_a_broken_record_is_named(people, tmp_path):
    events = people("one", {1: 1950})
    refuse_seen(tmp_path, events, np.array([1]))
    (tmp_path / SEEN).write_bytes(b"PAR1")
    with pytest.raises(CheckpointError, match=SEEN):
        refuse_seen(tmp_path, events, np.array([1]))


def test_a_record_that_was_taken_out_is_missed(people, tmp_path, caplog):
    (tmp_path / "pretraining.json").write_text("{}")
    refuse_seen(tmp_path, people("one", {1: 1950}), np.array([1]))
    assert "no longer tells whom it was pretrained on" in caplog.text
