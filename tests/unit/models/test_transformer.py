from dataclasses import replace
from datetime import datetime, timedelta
from itertools import permutations as orders

import numpy as np
import polars as pl
import pytest
import torch

from ehr_tl import schema
from ehr_tl.config import TransformerConfig
from ehr_tl.files import read_json, write_json
from ehr_tl.models import removal, training
from ehr_tl.models.checkpoint import save_checkpoint
from ehr_tl.models.network import EhrConfig, EhrModel
from ehr_tl.models.transformer import TransformerLearner
from ehr_tl.tokens.vocabulary import Vocabulary

CONFIG = TransformerConfig(checkpoint=None, epochs=3, max_slots=16, players=6, patience=3, learning_rate=3e-3)
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "buckets": 256}


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    """Networks from scratch are small here."""
    usual = TransformerLearner._architecture.func
    small = property(lambda self: EhrConfig(**SIZES) if self.config.checkpoint is None else usual(self))
    monkeypatch.setattr(TransformerLearner, "_architecture", small)


@pytest.fixture
def events(hospital):
    return hospital(60)


def ask(events, years=range(2020, 2026), until=60):
    """Yearly rows; the sick are positive."""
    sick = events.scan().filter(pl.col("code") == "RxNorm//860975").collect()["subject_id"].unique()
    rows = [(s, datetime(year, 1, 1), s in sick, "held_out") for s in range(1, until + 1) for year in years]
    return pl.DataFrame(rows, schema=schema.ROWS, orient="row").sort("subject_id", "prediction_time")


def fit(events, folder, seed=0, config=CONFIG):
    rows = ask(events)
    learner = TransformerLearner(config)
    inputs = learner.prepare(events, rows)
    train = np.flatnonzero(rows["subject_id"].to_numpy() <= 40)
    model = learner.fit(inputs, rows["boolean_value"].to_numpy().astype(float), train, seed=seed, state=folder)
    return learner, inputs, model


def test_slots_are_as_wide_as_the_adapter_of_the_events_says_unless_the_configuration_does(events):
    def width(**config):
        learner = TransformerLearner(replace(CONFIG, **config))
        return learner.prepare(type(events)(events.folder), ask(events)).records.slot_hours

    assert width() == 24
    told = read_json(events.folder / "metadata" / "export.json")
    write_json(events.folder / "metadata" / "export.json", told | {"slot_hours": 1.0})
    assert width() == 1
    assert width(slot_hours=6) == 6
    del told["slot_hours"]  # as folders of earlier versions
    write_json(events.folder / "metadata" / "export.json", told)
    assert width() == 24


def test_it_learns_what_can_be_learned(events, tmp_path):
    from sklearn.metrics import roc_auc_score

    rows = ask(events).with_row_index().filter(pl.col("subject_id") > 40, pl.col("prediction_time").dt.year() == 2025)
    config = TransformerConfig(checkpoint=None, epochs=30, max_slots=16, learning_rate=3e-3, patience=30)
    _, inputs, model = fit(events, tmp_path, config=config)
    assert roc_auc_score(rows["boolean_value"], model.logit(inputs, rows["index"].to_numpy())) > 0.9


def test_what_is_trained_from_scratch_beside_a_checkpoint_is_the_same_network(events, tmp_path):
    vocabulary = Vocabulary([], [schema.AGE], {}, {}, {}, 64)
    sizes = {**SIZES, "hidden_size": 16, "buckets": 64, "outcomes": ["MEDS_DEATH"], "horizons_days": [365]}
    save_checkpoint(tmp_path / "checkpoint", EhrModel(EhrConfig(**sizes).fitted(vocabulary)), vocabulary, "# A card\n")
    _, _, model = fit(events, tmp_path, config=replace(CONFIG, epochs=1, checkpoint=str(tmp_path / "checkpoint")))
    config = model.network.body.config
    assert (config.hidden_size, config.num_hidden_layers, config.buckets) == (16, 2, 64)
    assert config.outcomes is None


def test_two_positive_subjects_are_enough_to_fit(events, tmp_path):
    """One decides when to stop, one is learned from."""
    rows = ask(events)
    learner = TransformerLearner(replace(CONFIG, epochs=1))
    inputs = learner.prepare(events, rows)
    for seed in range(5):
        positive = np.random.default_rng(seed).choice(40, 2, replace=False) + 1
        label = np.isin(rows["subject_id"].to_numpy(), positive).astype(float)
        train = np.flatnonzero(rows["subject_id"].to_numpy() <= 40)
        model = learner.fit(inputs, label, train, seed=seed, state=tmp_path / str(seed))
        assert np.isfinite(model.logit(inputs, np.arange(len(inputs)))).all()


def test_a_saved_model_gives_the_same_logits_to_the_last_bit(events, tmp_path):
    learner, inputs, model = fit(events, tmp_path)
    (tmp_path / "model").mkdir()
    model.save(tmp_path / "model")
    index = np.arange(len(inputs))
    assert np.array_equal(learner.load(tmp_path / "model").logit(inputs, index), model.logit(inputs, index))
    assert {p.suffix for p in (tmp_path / "model").iterdir()} == {".json", ".safetensors"}


def test_logits_come_in_the_order_that_was_asked(events, tmp_path):
    _, inputs, model = fit(events, tmp_path)
    index = np.random.default_rng(0).permutation(len(inputs))[:50]
    assert np.array_equal(model.logit(inputs, index), model.logit(inputs, np.arange(len(inputs)))[index])


def test_the_seed_fixes_the_model(events, tmp_path):
    index = np.arange(20)
    first, again, other = (fit(events, tmp_path / str(i), seed)[2] for i, seed in enumerate((0, 0, 1)))
    inputs = fit(events, tmp_path / "0")[1]
    assert np.array_equal(first.logit(inputs, index), again.logit(inputs, index))
    assert not torch.equal(first.network.body.words.weight, other.network.body.words.weight)


def test_a_fit_that_was_stopped_goes_on_to_the_same_weights(events, tmp_path, monkeypatch):
    whole = fit(events, tmp_path / "whole")[2]
    saved, count = training.save_state, []

    def stop(*arguments):
        saved(*arguments)
        count.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_state", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(events, tmp_path / "stopped")
    monkeypatch.setattr(training, "save_state", lambda *arguments: (saved(*arguments), count.append(1)))
    resumed = fit(events, tmp_path / "stopped")[2]
    assert len(count) == CONFIG.epochs
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name


def test_labels_outside_training_are_not_looked_at(events, tmp_path):
    rows = ask(events)
    learner = TransformerLearner(CONFIG)
    inputs = learner.prepare(events, rows)
    labels = rows["boolean_value"].to_numpy().astype(float)
    train = np.flatnonzero(rows["subject_id"].to_numpy() <= 40)
    hidden = np.full_like(labels, np.nan)
    hidden[train] = labels[train]
    models = [learner.fit(inputs, y, train, seed=0, state=tmp_path / str(i)) for i, y in enumerate((labels, hidden))]
    assert np.array_equal(models[0].logit(inputs, np.arange(9)), models[1].logit(inputs, np.arange(9)))


@pytest.mark.parametrize(("own", "pretrained", "width"), [(None, None, 24.0), (None, 6.0, 6.0), (1.0, 6.0, 1.0)])
def test_slots_are_as_wide_as_configured_else_as_pretrained_else_a_day(write_events, tmp_path, own, pretrained, width):
    """Never as the records suggest: a stay in intensive care has the slots that sparse records have."""
    start = datetime(2020, 1, 1)
    config = TransformerConfig(checkpoint=None, slot_hours=own)
    if pretrained:
        vocabulary = Vocabulary([], [schema.AGE], {}, {}, {}, 64)
        network = EhrModel(EhrConfig(**SIZES, slot_hours=pretrained).fitted(vocabulary))
        save_checkpoint(tmp_path / "checkpoint", network, vocabulary, "# A card\n")
        config = replace(config, checkpoint=str(tmp_path / "checkpoint"))
    for step in (timedelta(hours=1), timedelta(days=20)):
        events = write_events([(1, start + i * step, "X//1") for i in range(50)], folder=tmp_path / str(step.days))
        rows = pl.DataFrame([(1, start + 60 * step, True, "held_out")], schema=schema.ROWS, orient="row")
        assert TransformerLearner(config).prepare(events, rows).records.slot_hours == width


# --- explanations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("players", [3, 6, 16])
def test_base_and_parts_add_up_to_the_logit(events, tmp_path, players):
    _, inputs, model = fit(events, tmp_path)
    learner = TransformerLearner(TransformerConfig(checkpoint=None, max_slots=16, players=players))
    index = np.random.default_rng(1).permutation(len(inputs))[:40]
    (found,) = learner.explain([model], inputs, index)
    assert np.abs(found.logit() - model.logit(inputs, index)).max() < 1e-4
    assert np.allclose(found.base, learner.base([model], inputs, index)[0], atol=1e-5)
    assert found.parts.group_by("row", "code").len()["len"].max() == 1
    assert found.parts["row"].n_unique() == len(index)


def test_all_models_have_the_same_parts_in_the_same_order(events, tmp_path):
    learner, inputs, model = fit(events, tmp_path / "0", seed=0)
    _, _, other = fit(events, tmp_path / "1", seed=1)
    first, second = learner.explain([model, other], inputs, np.arange(30))
    assert first.parts.drop("shap").equals(second.parts.drop("shap"))
    assert np.abs(second.logit() - other.logit(inputs, np.arange(30))).max() < 1e-4


def test_all_permutations_give_the_shapley_values_of_removed_events(events, tmp_path, monkeypatch):
    """The players' values, by their definition, from logits of events folders that lack the players' events."""
    _, inputs, model = fit(events, tmp_path)
    monkeypatch.setattr(removal, "antithetic_permutations", lambda n, pairs, seed: np.array(list(orders(range(n)))))
    learner = TransformerLearner(TransformerConfig(checkpoint=None, max_slots=16, players=5))
    row = np.array([5])
    (found,) = learner.explain([model], inputs, row)
    reading = model.read(inputs)
    batch = reading.batch([inputs.group(row)])
    names = np.array(inputs.records.codes)[batch.code]
    parts = found.parts["code"].to_list()
    single = [part for part in parts if part in set(names) and part != "AGE"]
    owner = np.select(
        [names == "AGE", np.char.startswith(names.astype(str), "GENDER"), *(names == code for code in single)],
        ["AGE", "GENDER", *single],
        "GROUP//other events",
    )

    def logit(coalition):
        with torch.no_grad():
            return float(model.network(batch.keep(np.isin(owner, list(coalition))), reading.book)[0])

    expected = dict.fromkeys(parts, 0.0)
    sequences = list(orders(parts))
    for order in sequences:
        for i, part in enumerate(order):
            expected[part] += (logit(order[: i + 1]) - logit(order[:i])) / len(sequences)
    assert len(parts) >= 4
    assert dict(zip(parts, found.parts["shap"])) == pytest.approx(expected, abs=1e-5)


def test_nothing_after_the_prediction_time_changes_an_explanation(events, write_events, tmp_path):
    _, inputs, model = fit(events, tmp_path)
    learner = TransformerLearner(TransformerConfig(checkpoint=None, max_slots=16, players=12))
    rows = ask(events)
    before = learner.explain([model], inputs, np.arange(len(rows)))[0].parts.to_dicts()
    limit = datetime(2023, 1, 1)
    frame = events.scan().filter(pl.col("time").is_null() | (pl.col("time") <= limit)).collect()
    facts = frame.select("subject_id", "time", "code", "numeric_value", "unit").rows()
    later = [(s, limit + timedelta(days=d), f"NEW//{d}") for s in range(1, 61) for d in range(1, 40)]
    changed = write_events(facts + later, folder=tmp_path / "changed")
    after = learner.explain([model], learner.prepare(changed, rows), np.arange(len(rows)))[0].parts.to_dicts()
    asked = rows["prediction_time"].to_list()
    early = [part for part in before if asked[part["row"]] <= limit]
    assert early == [part for part in after if asked[part["row"]] <= limit]
    assert len(early) > 100


def test_a_part_is_an_event_only_when_one_event_of_its_code_is_in_view(events, tmp_path):
    _, inputs, model = fit(events, tmp_path)
    learner = TransformerLearner(TransformerConfig(checkpoint=None, max_slots=64, players=12))
    rows = ask(events)
    (found,) = learner.explain([model], inputs, np.arange(len(rows)))
    frame = events.scan().select("subject_id", "time", "code").collect()
    for part in found.parts.filter(pl.col("kind").is_in(["event", "feature"])).sample(60, seed=0).to_dicts():
        subject, asked = rows.row(part["row"])[:2]
        seen = frame.filter((pl.col("subject_id") == subject) & (pl.col("time") <= asked))
        count = (seen["code"] == part["code"]).sum()
        assert (part["kind"] == "event") == (count == 1) or part["code"].startswith("GROUP//")
    assert set(found.parts["kind"]) <= set(schema.KINDS)
