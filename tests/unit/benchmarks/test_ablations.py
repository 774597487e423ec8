import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from ehr_tl.tokens.batches import Batch
from ehr_tl.transfer.held_out import TRAIN
from ehr_tl.transfer.recipe import NetworkConfig, Recipe, TrainingConfig

START = datetime(2020, 1, 1)
WIDTHS = ("slots of 6 h", "slots of 168 h", "slots of 720 h")


@pytest.fixture
def ablations(repository: Path, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    sys.modules.pop("ablations", None)
    import ablations

    return ablations


@pytest.fixture
def events(write_events):
    """40 subjects with a value on each of 5 days, a week apart."""
    random, facts = np.random.default_rng(0), []
    for subject in range(1, 41):
        facts += [(subject, START - timedelta(days=9_000), "MEDS_BIRTH"), (subject, None, "GENDER//female")]
        facts += [(subject, START + timedelta(days=7 * k), "LAB//x", float(random.normal()), "mg") for k in range(5)]
    return write_events(facts)


@pytest.fixture
def prepared(ablations, events):
    network = NetworkConfig(width=16, layers=1, heads=2, feed_forward=16, buckets=64)
    training = TrainingConfig(epochs=1, batch_slots=64, lane_slots=32, min_subjects=5)
    return ablations.prepare([events], Recipe("small", "A small one", {}, network, training))


def test_gaps_are_since_the_last_whole_slot_of_the_same_sequence(ablations):
    none = np.zeros(0, dtype=np.int64)
    batch = Batch(
        *(none,) * 5,
        sequence=np.array([[0, 0, 0, 1, 1, -1]]),
        position=np.array([[0, 24, 30, 0, 5, 0]], dtype=np.float32),
        whole=np.array([[True, False, True, False, True, False]]),  # the others of a sequence are query slots
        query=np.array([1, 3]),
        rows=np.array([0, 1]),
    )
    place, hours, index = ablations.gaps(batch)
    assert dict(zip(place.tolist(), hours.tolist())) == {1: 24, 2: 30}
    assert index[:5].tolist() == [0, 1, 1, 0, 0]


def test_continuous_values_lie_between_two_edges(ablations, prepared):
    (source,), (shipped,) = ablations.continuous(prepared).sources, prepared.sources
    valued = shipped.encoding.bin >= 0
    assert set(source.encoding.bin[valued]) == {0}
    value, edges = source.hospital.records.value[valued], prepared.vocabulary.edges["LAB//x"]["mg"]
    expected = np.clip((value - edges[0]) / (edges[-1] - edges[0]), 0, 1)
    assert source.encoding.fraction[valued] == pytest.approx(expected)
    assert len(set(shipped.encoding.bin[valued])) > 5


def test_time_as_gaps_is_told_by_events(ablations, prepared):
    (source,) = ablations.with_gaps(prepared).sources
    drawn = source.draw(TRAIN, 2, 16, np.random.default_rng(0))
    batch = drawn.reading.batch([[sequence] for sequence in drawn.every()[:4]])
    told = batch.code == source.hospital.records.codes.index(ablations.GAP)
    assert told.sum() == len(ablations.gaps(prepared_batch(prepared, drawn))[0])
    assert set(batch.position.ravel() % 24) == {0}
    assert batch.position.max() <= 24 * 5


def prepared_batch(prepared, drawn):
    """The same rows as they are read without gaps."""
    from ehr_tl.models.risk_network import Reading

    plain = Reading(drawn.reading.asked, prepared.sources[0].encoding)
    return plain.batch([[sequence] for sequence in drawn.every()[:4]])


def test_every_way_trains(ablations, events, monkeypatch, capsys):
    arguments = ["--epochs", "1", "--width", "16", "--layers", "1", "--seeds", "1", "--tasks"]
    monkeypatch.setattr(sys, "argv", ["ablations.py", str(events.folder), *arguments])
    ablations.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert lines[0] == "| way | codes | outcomes | seconds |"
    names = [line.split("|")[1].strip() for line in lines[2:]]
    assert names == [ablations.SHIPPED, "values as deciles", "values continuous", "time as gaps", *WIDTHS]
