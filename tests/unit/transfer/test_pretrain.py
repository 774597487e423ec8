import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ehr_tl import schema
from ehr_tl.cli import pretrain as cli
from ehr_tl.config import TransformerConfig
from ehr_tl.errors import EhrTlError, PipelineError, RunError
from ehr_tl.events import Events
from ehr_tl.files import locked
from ehr_tl.models import training
from ehr_tl.models.checkpoint import load_checkpoint, save_checkpoint
from ehr_tl.models.network import EhrConfig, EhrModel
from ehr_tl.tokens.batches import collate
from ehr_tl.tokens.sequences import build_sequences
from ehr_tl.tokens.vocabulary import Vocabulary
from ehr_tl.transfer.arms.network import network_arms
from ehr_tl.transfer.foresight import Foresight, read_hospital
from ehr_tl.transfer.held_out import TEST, TRAIN, VALIDATION, parts
from ehr_tl.transfer.loop import exercise
from ehr_tl.transfer.objectives import Exercise, Objective, next_slot
from ehr_tl.transfer.pretrain import make_checkpoint, prepare, pretrain, train
from ehr_tl.transfer.recipe import NetworkConfig, Recipe, TrainingConfig, load_recipe
from ehr_tl.transfer.seen import refuse_seen

SMALL = NetworkConfig(width=32, layers=1, heads=2, feed_forward=64, buckets=64)
QUICK = TrainingConfig(epochs=3, queries=3, batch_slots=256, lane_slots=64, min_subjects=5, horizons_days=(30, 365))
RECIPE = Recipe("small", "A small one", network=SMALL, training=QUICK)
START = datetime(2020, 1, 1)


def day(number):
    return START + timedelta(days=number)


def rows(*moments):
    return pl.DataFrame(
        {"subject_id": [s for s, _ in moments], "prediction_time": [day(d) for _, d in moments]},
        schema={"subject_id": pl.Int64, "prediction_time": schema.TIME},
    )


def test_targets_are_what_follows_within_the_horizon(write_events):
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


def test_a_record_that_is_cut_is_followed_no_longer(write_events):
    facts = [(s, day(d), f"X//{'ab'[d // 20]}") for s in (1, 2, 3) for d in (0, 10, 20)] + [(1, day(30), "MEDS_DEATH")]
    source = read_hospital(write_events(facts, end=day(100)), 24, until=rows((1, 5), (1, 15), (2, 70)))
    assert source.records.subjects.tolist() == [1, 2]
    foresight = Foresight(source, ["MEDS_DEATH", "X//a", "X//b"], [7, 30])
    target, closed = foresight.targets(build_sequences(source.records, rows((1, 5), (2, 5)), 8), np.arange(2))
    assert target.tolist() == [[[0, 0], [1, 1], [0, 0]], [[0, 0], [1, 1], [0, 1]]]
    assert closed.tolist() == [[True, False], [True, True]]
    drawn = source.random_rows(200, np.array([0, 1]), 8, np.random.default_rng(0))
    last = dict(drawn.group_by("subject_id").agg(pl.col("prediction_time").max()).rows())
    assert last[1] <= day(15) < day(60) < last[2] <= day(70)


def test_the_next_slot_is_that_of_the_same_sequence(write_events):
    facts = [(1, day(0), "X//a"), (1, day(1), "X//b"), (1, day(1), "X//c"), (1, day(2), "X//a"), (2, day(0), "X//d")]
    values = [(s, day(d), "X//v", 10.0 * d, "mg") for s in (1, 2) for d in range(10)]
    source = read_hospital(write_events(facts + values), 24)
    asked = build_sequences(source.records, rows((1, 2), (2, 1)), 8)
    encoding = Vocabulary.fit([source.records], 1).encode(source.records)
    batch = collate(asked, [asked.group(np.arange(2))], encoding)
    following = next_slot(batch, len(source.records.codes))
    names = [source.records.codes[code] for code in following.code]
    assert sorted(zip(following.place.tolist(), names)) == [(0, "X//b"), (0, "X//c"), (0, "X//v")]
    assert following.weight == pytest.approx(1 / 3)
    # A value of 10 on day 1 is asked for after day 0; nobody's day 0 follows another's last day.
    assert following.valued_place.tolist() == [0]
    assert 0 < following.bin[0] + following.fraction[0] < encoding.bin.max()


def test_prediction_times_lie_in_the_honest_range(hospital):
    events = hospital(20)
    source = read_hospital(events, 24)
    drawn = source.random_rows(50, np.arange(20), 256, np.random.default_rng(0))
    first = events.scan().filter(pl.col("code") == "VISIT_START//AMB").group_by("subject_id").agg(pl.col("time").min())
    joined = drawn.join(first.collect(), on="subject_id")
    assert joined.height == 1000
    assert (joined["prediction_time"] >= joined["time"]).all()
    assert (joined["prediction_time"] <= events.export.end).all()


def test_where_dates_are_shifted_nothing_is_foretold_at_random_times(hospital):
    events = hospital(20)
    source = replace(read_hospital(events, 24), follows=False)
    asked = source.random_rows(50, np.arange(20), 256, np.random.default_rng(0))
    last = events.scan().filter(pl.col("code") != schema.DEATH).group_by("subject_id").agg(pl.col("time").max())
    joined = asked.join(last.collect(), on="subject_id")
    assert joined.height == 20 and (joined["prediction_time"] == joined["time"]).all()


def test_every_stretch_of_a_long_record_with_shifted_dates_is_asked_about(write_events):
    facts = [(s, day(d), "X//a") for s, days in ((1, 21), (2, 4), (3, 1)) for d in range(days)]
    source = replace(read_hospital(write_events(facts, end=day(100)), 24), follows=False)
    asked = source.random_rows(1, np.array([0, 1, 2]), 8, np.random.default_rng(0))
    assert asked.rows() == rows((1, 3), (1, 7), (1, 11), (1, 15), (1, 19), (1, 20), (2, 3), (3, 0)).rows()
    sequences = build_sequences(source.records, asked, 8)
    seen = {slot for sequence in sequences.group(np.arange(8)) for slot in range(sequence.start, sequence.stop + 1)}
    assert seen == set(range(26))


@pytest.fixture
def prepared(hospital, tmp_path):
    return prepare([hospital(40), hospital(30, 1, tmp_path / "second")], RECIPE)


def test_nothing_of_who_does_not_train_reaches_the_vocabulary(write_events, tmp_path):
    part = parts(np.arange(1, 200))
    ids = {name: (np.flatnonzero(part == name) + 1).tolist() for name in (TRAIN, VALIDATION, TEST)}
    facts = [(s, day(d), f"X//{name}", float(d), "mg") for name, some in ids.items() for s in some for d in range(3)]
    found = prepare([write_events(facts, end=day(100))], RECIPE)
    assert "X//train" in found.vocabulary.codes
    assert not {"X//validation", "X//test"} & {*found.vocabulary.codes, *found.vocabulary.edges}
    _, seen = found.subjects(TRAIN, VALIDATION)[0]
    assert sorted(seen.tolist()) == sorted(ids[TRAIN] + ids[VALIDATION])


def test_the_losses_fall_and_the_seed_fixes_the_result(prepared, tmp_path):
    first, again, other = (train(prepared, seed, tmp_path / name) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    losses = [epoch["validation"]["loss"] for epoch in first.progress.history]
    assert losses[-1] < losses[0] and first.progress.history == again.progress.history
    weights = [trained.model.state_dict() for trained in (first, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values()))
    assert not all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[2].values()))


def test_a_batch_of_packed_sequences_has_the_loss_of_the_same_ones_apart(prepared):
    source = prepared.sources[0]
    drawn = source.draw(TRAIN, 3, 16, np.random.default_rng(0))
    trained = Objective(train(replace(prepared, recipe=RECIPE), 0, prepared.events[0].folder / "s").model, QUICK, False)
    found = []
    for lanes in ([drawn.every()], [[sequence] for sequence in drawn.every()]):
        batch = drawn.reading.batch(lanes)
        following = next_slot(batch, len(drawn.reading.asked.records.codes))
        with torch.no_grad():
            parts_, _ = trained.parts(Exercise(drawn, batch, batch, following))
        found.append({name: float(loss) for name, loss in parts_.items()})
    assert found[0] == pytest.approx(found[1], rel=1e-4) and set(found[0]) == {"codes", "values", "outcomes"}


def test_what_is_hidden_is_not_shown_but_asked_for(prepared):
    drawn = prepared.sources[0].draw(TRAIN, 3, 64, np.random.default_rng(0))
    lanes = [[sequence] for sequence in drawn.every()]
    shown = exercise(drawn, lanes, replace(QUICK, event_dropout=0.9), np.random.default_rng(0))
    assert len(shown.seen.code) < 0.6 * len(shown.batch.code)
    assert len(shown.following.place) == len(next_slot(shown.batch, len(shown.hidden)).place)


def test_one_process_alone_trains_in_a_state(prepared, tmp_path):
    (tmp_path / "state").mkdir()
    with locked(tmp_path / "state"), pytest.raises(RunError, match="Another ehr-tl is at work"):
        train(prepared, 0, tmp_path / "state")


def test_missing_tensorboard_is_told_before_records_are_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(EhrTlError, match="TensorBoard is not installed"):
        make_checkpoint([], RECIPE, tmp_path / "out", tensorboard=tmp_path / "logs")


def test_of_several_processes_the_main_one_speaks(monkeypatch, capsys):
    monkeypatch.setattr("ehr_tl.transfer.pretrain.pretrain", lambda *_, **__: Path("out"))
    monkeypatch.setattr("ehr_tl.threads.limit", lambda _: None)
    level = logging.getLogger("ehr_tl").level
    try:
        for rank in ("0", "1"):
            monkeypatch.setenv("RANK", rank)
            cli.pretrain([Path("events")], Path("out"), threads=1)
            assert bool(capsys.readouterr().out) == (rank == "0")
    finally:
        logging.getLogger("ehr_tl").setLevel(level)


def test_a_state_of_other_settings_is_not_taken_up(prepared, tmp_path):
    train(prepared, 0, tmp_path / "state")
    other = replace(prepared, recipe=replace(RECIPE, training=replace(QUICK, epochs=1, learning_rate=5e-4)))
    assert len(train(other, 0, tmp_path / "state").progress.history) == 1


SCRIPT = """
import sys, pathlib
sys.path.insert(0, {repository!r})
from ehr_tl.events import Events
from ehr_tl.transfer import loop
from ehr_tl.transfer.pretrain import prepare, train
from ehr_tl.transfer.recipe import load_recipe
loop._SAVE_SECONDS = 0.0
train(prepare([Events({events!r})], load_recipe({recipe!r})), 0, pathlib.Path({state!r}))
"""


def test_killed_in_the_middle_of_an_epoch_it_goes_on_to_the_same_weights(hospital, tmp_path, repository):
    events, state, recipe = hospital(40), tmp_path / "state", tmp_path / "recipe.yaml"
    network = {key: value for key, value in SMALL.__dict__.items()}
    settings = {**QUICK.__dict__, "epochs": 6, "batch_slots": 64, "horizons_days": [30, 365]}
    told = {"name": "small", "title": "A small one", "network": network, "training": settings}
    recipe.write_text(json.dumps(told))
    script = SCRIPT.format(repository=str(repository), events=str(events.folder), recipe=str(recipe), state=str(state))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    deadline = time.monotonic() + 60
    while not (state / training.STATE).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    ready = prepare([events], load_recipe(recipe))
    resumed, straight = train(ready, 0, state), train(ready, 0, tmp_path / "other")
    assert resumed.progress.history == straight.progress.history
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_a_checkpoint_is_written_continued_and_knows_whom_it_has_seen(hospital, tmp_path, capsys):
    sources = [hospital(40), hospital(30, 1, tmp_path / "second")]
    first = load_checkpoint(make_checkpoint(sources, RECIPE, tmp_path / "first"))
    assert "synthetic" in first.card and not (tmp_path / "first.state").exists()
    ours = hospital(30, 2, tmp_path / "ours")
    subjects = ours.subjects["subject_id"].to_numpy()
    held = subjects[:10]
    pl.DataFrame({"subject_id": held}).write_parquet(tmp_path / "held.parquet")
    brief = tmp_path / "brief.yaml"
    brief.write_text("name: brief\ntitle: A short one\ntraining: {epochs: 1, batch_slots: 256, min_subjects: 5}\n")
    told = {"recipe": brief, "start": tmp_path / "first", "exclude": tmp_path / "held.parquet"}
    (tmp_path / "first" / "MODEL_CARD.md").write_text("---\nlicense: odc-by\n---\n\n# First\n\nPhysioNet, ODC-By.\n")
    second = load_checkpoint(pretrain([ours.folder], tmp_path / "next", **told))
    assert "goes on from `first`" in second.card and "\n### First\n\nPhysioNet, ODC-By.\n" in second.card
    assert "`test`" not in second.card and "license:" not in second.card
    assert (
        "ehr-tl pretrain ours --from first --exclude held.parquet --recipe brief.yaml --out next --seed 0"
        in second.card
    )
    assert str(tmp_path) not in second.card
    assert second.vocabulary.codes[: len(first.vocabulary.codes)] == first.vocabulary.codes
    assert second.model.config.outcomes == first.model.config.outcomes
    assert not torch.equal(first.model.words.weight, second.model.words.weight)
    refuse_seen(tmp_path / "next", ours, held)
    for events, some in ((ours, subjects[10:]), (sources[0], sources[0].subjects["subject_id"].to_numpy())):
        with pytest.raises(Exception, match="was pretrained on"):
            refuse_seen(tmp_path / "next", events, some)


def test_nobody_left_and_no_end_are_refused(hospital, write_events, tmp_path):
    events = hospital(20)
    with pytest.raises(RunError, match="Nobody is left"):
        prepare([events], RECIPE, exclude=events.subjects["subject_id"].to_numpy())
    with pytest.raises(RunError, match="when its export ended"):
        read_hospital(write_events([(1, START, "X//a")], folder=tmp_path / "open", end=None), 24)


@pytest.mark.parametrize("name", ["ehr_tl_base", "continued"])
def test_shipped_recipes_are_read(name):
    assert load_recipe(name).name == name


def test_a_recipe_is_read_strictly(tmp_path):
    (tmp_path / "r.yaml").write_text("name: r\ntitle: R\ntraining: {epoch: 1}\n")
    with pytest.raises(PipelineError, match="Did you mean 'epochs'"):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(PipelineError, match="There is no recipe 'bas'"):
        load_recipe("bas")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("network: {width: 34, heads: 4}", "width is 34 and heads is 4"),
        ("network: {width: 12, heads: 4}", "multiple of twice the heads"),
        ("training: {horizons_days: []}", "horizons_days"),
        ("training: {horizons_days: [365, 30]}", "ascending"),
    ],
)
def test_a_recipe_that_makes_no_network_is_refused(line, problem, tmp_path):
    (tmp_path / "r.yaml").write_text(f"name: r\ntitle: R\n{line}\n")
    with pytest.raises(PipelineError, match=problem):
        load_recipe(tmp_path / "r.yaml")


def test_who_is_excluded_leaves_no_trace(hospital, tmp_path):
    events = hospital(40)
    held = np.arange(1, 8)
    frame, code = pl.read_parquet(events.folder / "data" / "0.parquet"), pl.col("code")
    theirs = pl.col("subject_id").is_in(held.tolist())
    # Only they have this code; and one of them has died.
    frame = frame.with_columns(code=pl.when(theirs & (code == "SNOMED//100")).then(pl.lit("X//held")).otherwise(code))
    death = frame.filter(theirs).tail(1).with_columns(code=pl.lit(schema.DEATH))
    pl.concat([frame, death]).write_parquet(events.folder / "data" / "0.parquet")
    left_out = train(prepare([Events(events.folder)], RECIPE, exclude=held), 0, tmp_path / "a")
    frame.filter(~theirs).write_parquet(events.folder / "data" / "0.parquet")
    people = events.subjects.filter(~theirs)
    people.write_parquet(events.folder / "metadata" / "subjects.parquet")
    absent = train(prepare([Events(events.folder)], RECIPE), 0, tmp_path / "b")
    assert left_out.progress.history == absent.progress.history
    for name, tensor in absent.model.state_dict().items():
        assert torch.equal(tensor, left_out.model.state_dict()[name]), name


def test_a_state_of_other_records_is_not_taken_up(hospital, tmp_path, caplog):
    brief = replace(RECIPE, training=replace(QUICK, epochs=1))
    events = hospital(40)
    first = train(prepare([events], brief), 0, tmp_path / "state")
    changed = pl.read_parquet(events.folder / "data" / "0.parquet").with_columns(pl.col("numeric_value") * 1.1)
    changed.write_parquet(events.folder / "data" / "0.parquet")
    ready = prepare([Events(events.folder)], brief)
    assert len(ready.vocabulary.codes) == first.model.config.vocab_size - 1
    second, straight = train(ready, 0, tmp_path / "state"), train(ready, 0, tmp_path / "other")
    assert "begins anew" in caplog.text
    assert second.progress.history == straight.progress.history


def test_questions_of_the_checkpoint_are_kept_where_nobody_asks_them(hospital, tmp_path):
    brief = replace(RECIPE, training=replace(QUICK, epochs=1))
    first = load_checkpoint(make_checkpoint([hospital(40)], brief, tmp_path / "first"))
    config = EhrConfig.from_dict({**first.model.config.to_dict(), "tasks": ["decline"]})
    start = replace(first, model=EhrModel(config).eval())
    asking = replace(brief, tasks={"test": ("no such pipeline",)})  # nor are those of the recipe labelled
    prepared = prepare([hospital(30, 2, tmp_path / "ours")], asking, start)
    found = train(prepared, 0, tmp_path / "state")
    assert found.model.config.tasks == ["decline"]
    assert torch.equal(found.model.tasks.weight, start.model.tasks.weight.half().float())
    save_checkpoint(tmp_path / "continued", found.model, prepared.vocabulary, "# A card\n")
    config = TransformerConfig(checkpoint=str(tmp_path / "continued"))
    learners = network_arms(config, ["decline"])
    assert [each.name for each in learners] == [schema.SOURCE_HEAD, schema.PROBE, schema.FINETUNED]
    expected = found.model.tasks.weight[0].double().detach().numpy()
    assert np.array_equal(learners[0].pretrained.head.weight, expected)


def test_what_is_wrong_with_folders_is_told_before_the_work(hospital, tmp_path):
    events = hospital(20)
    with pytest.raises(RunError, match="named twice"):
        pretrain([events.folder, events.folder / ".." / events.folder.name], tmp_path / "new")
    pl.DataFrame({"subject_id": [98, 99]}).write_parquet(tmp_path / "others.parquet")
    with pytest.raises(RunError, match="None of the 2 subjects to exclude"):
        pretrain([events.folder], tmp_path / "new", exclude=tmp_path / "others.parquet")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "config.json").write_text("{}")
    with pytest.raises(RunError, match="holds something else"):
        pretrain([events.folder], tmp_path / "site")
    with pytest.raises(OSError, match="Read-only"):
        pretrain([events.folder], Path("/proc/checkpoint"))


def test_records_without_dated_events_are_refused(write_events, tmp_path):
    events = write_events([(subject, None, "GENDER//female") for subject in range(1, 30)])
    with pytest.raises(RunError, match="anything to learn from"):
        train(prepare([events], RECIPE), 0, tmp_path / "state")
