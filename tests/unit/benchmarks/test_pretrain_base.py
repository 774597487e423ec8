from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import pytest

from ehr_tl.files import read_json
from ehr_tl.models.checkpoint import load_checkpoint
from ehr_tl.transfer import pretrain
from ehr_tl.transfer.recipe import NetworkConfig, Recipe, TrainingConfig

PIPELINE = """
name: treatment
title: Treatment
question: Who is treated?
outcome: Metformin within a year
task:
  every: 365 days
  trigger: INDEX
  predicates:
    outcome: {code: RxNorm//860975}
  windows:
    history: {start: null, end: trigger, start_inclusive: true, end_inclusive: true, index_timestamp: end}
    after: {start: trigger, end: start + 365 days, start_inclusive: false, end_inclusive: true, label: outcome}
lightgbm: {trials: 1, rounds: 20}
"""
NETWORK = NetworkConfig(width=16, layers=1, heads=2, feed_forward=16, buckets=64, max_slots=16)
TRAINING = TrainingConfig(epochs=1, queries=2, min_subjects=3, horizons_days=(365,))


@pytest.fixture
def script(repository, monkeypatch: Path):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    spec = importlib.util.spec_from_file_location("pretrain_base", repository / "benchmarks" / "pretrain_base.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_seed_with_the_lowest_validation_loss_is_shipped_and_nothing_is_made_twice(
    script, hospital, tmp_path, monkeypatch
):
    (tmp_path / "treatment.yaml").write_text(PIPELINE)
    recipe = Recipe("tiny", "Tiny", {"test": (str(tmp_path / "treatment.yaml"),)}, NETWORK, TRAINING)
    sources = [hospital(60), hospital(60, 1, tmp_path / "second")]
    work, out = tmp_path / "work", tmp_path / "shipped"

    def make():
        script.make(sources, recipe, work, out, [0, 1], script.Measured(work / "measured.json"))
        return read_json(work / "measured.json"), load_checkpoint(out)

    told, checkpoint = make()
    losses = {seed: told["validation"][seed]["loss"] for seed in ("0", "1")}
    chosen = min(losses, key=losses.get)
    assert str(told["chosen"]) == chosen and losses["0"] != losses["1"]
    weights = [folder / "model.safetensors" for folder in (work / f"seed_{chosen}", out)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert "# shipped" in checkpoint.card and "the part `test`" in checkpoint.card and "Treatment" in checkpoint.card
    assert list(checkpoint.source.tasks) == ["treatment"]
    assert told["test"]["part"] == "test" and {"seed 0", "seed 1", "last examination"} <= set(told["seconds"])

    for name in ("train", "write"):
        monkeypatch.setattr(pretrain, name, lambda *_: pytest.fail("made twice"))
    again, _ = make()
    assert (again["validation"], again["chosen"]) == (told["validation"], told["chosen"])


def test_events_that_are_there_are_taken_as_they_are(script, hospital, tmp_path):
    events = hospital(5, 0, tmp_path / "events" / "texas")
    options = argparse.Namespace(work=tmp_path, data=tmp_path / "none", threads=1)
    found = script.converted("texas", options, script.Measured(tmp_path / "measured.json"))
    assert found.subjects.height == events.subjects.height
