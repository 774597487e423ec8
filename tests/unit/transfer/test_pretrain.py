import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch

from ehr_tl import schema
from ehr_tl.models import training
from ehr_tl.models.network import EhrConfig
from ehr_tl.tokens.batches import collate
from ehr_tl.tokens.sequences import build_sequences
from ehr_tl.tokens.vocabulary import Vocabulary
from ehr_tl.transfer.card import pretraining_card
from ehr_tl.transfer.foresight import Foresight, next_codes, read_hospital
from ehr_tl.transfer.pretrain import PretrainConfig, pretrain

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "buckets": 64}
CONFIG = PretrainConfig(epochs=3, queries=3, batch_subjects=8, min_subjects=5, validation=0.2)
START = datetime(2020, 1, 1)


def rows(*moments):
    return pl.DataFrame(
        {"subject_id": [s for s, _ in moments], "prediction_time": [START + timedelta(days=d) for _, d in moments]},
        schema={"subject_id": pl.Int64, "prediction_time": schema.TIME},
    )


def test_targets_are_what_follows_within_the_horizon(write_events):
    day = lambda d: START + timedelta(days=d)
    facts = [(1, day(0), "X//a"), (1, day(10), "X//b"), (1, day(40), "X//a"), (1, day(60), "MEDS_DEATH")]
    facts += [(2, day(5), "X//c"), (2, day(300), "X//a")]
    source = read_hospital(write_events(facts, {"X//b": ["X//up"]}, end=day(100)), 24)
    foresight = Foresight(source, ["MEDS_DEATH", "X//a", "X//b", "X//up"], [30, 60])
    asked = build_sequences(source.records, rows((1, 0), (1, 10), (2, 5), (2, 50)), 8)
    target, closed = foresight.targets(asked, np.arange(4))
    assert target[0].tolist() == [[0, 1], [0, 1], [1, 1], [1, 1]]  # after day 0: b at 10, a at 40, death at 60
    assert target[1].tolist() == [[0, 1], [1, 1], [0, 0], [0, 0]]  # what stands at the prediction time is known
    assert target[2:].sum() == 0
    assert closed.tolist() == [[True, True], [True, True], [True, True], [True, False]]


def test_the_next_slot_is_that_of_the_same_subject(write_events):
    day = lambda d: START + timedelta(days=d)
    facts = [(1, day(0), "X//a"), (1, day(1), "X//b"), (1, day(1), "X//c"), (1, day(2), "X//a"), (2, day(0), "X//d")]
    source = read_hospital(write_events(facts), 24)
    asked = build_sequences(source.records, rows((1, 9), (2, 9)), 8)
    batch = collate(asked, asked.group(np.arange(2)), Vocabulary.fit([source.records], 1).encode(source.records))
    place, code, weight = next_codes(batch, len(source.records.codes))
    found = sorted(zip(place.tolist(), [source.records.codes[c] for c in code], weight.tolist()))
    assert found == [(0, "X//b", 0.5), (0, "X//c", 0.5), (1, "X//a", 1.0)]


def test_prediction_times_lie_in_the_honest_range(hospital):
    events = hospital(20)
    source = read_hospital(events, 24)
    drawn = source.random_rows(50, np.arange(20), np.random.default_rng(0))
    first = events.scan().filter(pl.col("code") == "VISIT_START//AMB").group_by("subject_id").agg(pl.col("time").min())
    joined = drawn.join(first.collect(), on="subject_id")
    assert joined.height == 1000
    assert (joined["prediction_time"] >= joined["time"]).all()
    assert (joined["prediction_time"] <= events.export.end).all()


def test_the_loss_falls_and_the_seed_fixes_the_result(hospital, tmp_path):
    sources = [hospital(40), hospital(30, 1, tmp_path / "second")]
    first, again = (pretrain(sources, CONFIG, EhrConfig(**SMALL), tmp_path / name) for name in ("a", "b"))
    losses = [epoch["validation_loss"] for epoch in first.history]
    assert losses[-1] < losses[0] and first.history == again.history
    assert all(torch.equal(a, b) for a, b in zip(first.model.state_dict().values(), again.model.state_dict().values()))
    card = pretraining_card("small", first, CONFIG, sources)
    assert "synthetic" in card and "hospital: 40 subjects" in card and "must not be used" in card


def test_a_state_of_other_settings_is_not_taken_up(hospital, tmp_path):
    sources = [hospital(20)]
    pretrain(sources, CONFIG, EhrConfig(**SMALL), tmp_path / "state")
    other = PretrainConfig(**{**CONFIG.__dict__, "epochs": 1, "learning_rate": 5e-4})
    assert len(pretrain(sources, other, EhrConfig(**SMALL), tmp_path / "state").history) == 1


SCRIPT = """
import sys, pathlib
sys.path.insert(0, {repository!r})
from ehr_tl.events import Events
from ehr_tl.models.network import EhrConfig
from ehr_tl.transfer.pretrain import PretrainConfig, pretrain
pretrain([Events({events!r})], PretrainConfig(**{config!r}), EhrConfig(**{small!r}), pathlib.Path({state!r}))
"""


def test_killed_in_the_middle_it_goes_on_to_the_same_weights(hospital, tmp_path, repository):
    events, state = hospital(40), tmp_path / "state"
    config = {**CONFIG.__dict__, "epochs": 12}
    values = {"repository": str(repository), "events": str(events.folder), "config": config}
    script = SCRIPT.format(**values, small=SMALL, state=str(state))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    deadline = time.monotonic() + 60
    while not (state / training.STATE).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    whole = PretrainConfig(**config)
    resumed = pretrain([events], whole, EhrConfig(**SMALL), state)
    straight = pretrain([events], whole, EhrConfig(**SMALL), tmp_path / "other")
    assert resumed.history == straight.history
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_an_export_without_an_end_is_refused(write_events):
    from ehr_tl.errors import RunError

    with pytest.raises(RunError, match="when its export ended"):
        read_hospital(write_events([(1, START, "X//a")], end=None), 24)
