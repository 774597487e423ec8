from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ehr_tl import schema
from ehr_tl.config import TransformerConfig
from ehr_tl.models import low_rank
from ehr_tl.models import trunk as trunk_module
from ehr_tl.models.checkpoint import load_checkpoint, save_checkpoint
from ehr_tl.models.network import EhrConfig, EhrModel
from ehr_tl.models.probe import Head, log_loss
from ehr_tl.models.trunk import Trunk
from ehr_tl.tokens.records import read_records
from ehr_tl.tokens.vocabulary import Vocabulary
from ehr_tl.transfer.arms.network import FinetunedLearner, PretrainedNetwork, ProbeLearner, SourceHeadLearner

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "buckets": 64}
TASKS = ["death", "sepsis", "stay"]


@pytest.fixture
def events(hospital):
    return hospital(60)


def ask(events, years=(2023, 2024, 2025)):
    """Yearly rows; the sick are positive."""
    sick = events.scan().filter(pl.col("code") == "RxNorm//860975").collect()["subject_id"].unique()
    rows = [(s, datetime(year, 1, 1), s in sick, "held_out") for s in range(1, 61) for year in years]
    return pl.DataFrame(rows, schema=schema.ROWS, orient="row").sort("subject_id", "prediction_time")


@pytest.fixture
def checkpoint(events, tmp_path):
    """Writes a checkpoint with random weights: its folder. Some codes of the hospital are known, some are not."""

    def write(tasks=TASKS, **sizes):
        vocabulary = Vocabulary.fit([read_records(events)], 20, buckets=64)
        torch.manual_seed(0)
        model = EhrModel(EhrConfig(**{**SIZES, **sizes}, tasks=tasks).fitted(vocabulary))
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                torch.nn.init.normal_(parameter, std=0.15)
        folder = tmp_path / "checkpoint"
        save_checkpoint(folder, model.eval(), vocabulary, "# A card\n")
        return folder

    return write


def pretrained(folder, tasks=("death",), **config):
    config = {"max_slots": 16, "players": 6, **config}
    return PretrainedNetwork(TransformerConfig(checkpoint=str(folder), **config), tasks)


def labels(rows):
    return rows["boolean_value"].to_numpy().astype(float)


def train_rows(rows, subjects=40):
    return np.flatnonzero(rows["subject_id"].to_numpy() <= subjects)


def fit(learner, events, folder, seed=0, subjects=40):
    rows = ask(events)
    inputs = learner.prepare(events, rows)
    return inputs, learner.fit(inputs, labels(rows), train_rows(rows, subjects), seed=seed, state=folder)


@pytest.mark.parametrize("sizes", [{}, {"num_hidden_layers": 1}, {"num_key_value_heads": 2}])
def test_rows_are_read_as_the_whole_network_reads_them(events, checkpoint, sizes):
    """Kept or not, by the last layer for query slots alone or by all of it for all slots."""
    folder, rows = checkpoint(**sizes), ask(events)
    expected = load_checkpoint(folder).embed(events, rows)
    own = pretrained(folder, max_slots=256)
    inputs = own.prepare(events, rows)
    index = np.random.default_rng(0).permutation(len(rows))[:70]
    assert np.allclose(inputs.vectors(own.trunk, index), expected[index], atol=1e-5)
    assert np.abs(expected).max() > 1


def test_what_is_kept_and_what_else_is_asked_make_no_difference(events, checkpoint, monkeypatch):
    own, rows = pretrained(checkpoint()), ask(events)
    kept = own.prepare(events, rows)
    all_rows = np.arange(len(rows))
    monkeypatch.setattr(trunk_module, "_KEPT", 2**14)
    fresh = pretrained(own.config.checkpoint).prepare(events, rows)
    assert kept._below and not fresh._below
    for asked in (all_rows, all_rows[5:6], all_rows[::-3], all_rows[:0]):
        vectors = kept.vectors(own.trunk, asked)
        assert np.array_equal(own.trunk.top.vectors(kept.below(own.trunk, asked)), vectors)
        assert np.allclose(fresh.vectors(Trunk.load(Path(own.config.checkpoint)), asked), vectors, atol=1e-5)


def test_the_source_head_gives_the_mean_answer_of_its_tasks(events, checkpoint, tmp_path):
    folder, rows = checkpoint(), ask(events)
    learner = SourceHeadLearner(pretrained(folder, ("death", "stay"), max_slots=256))
    inputs, model = fit(learner, events, tmp_path)
    own = load_checkpoint(folder)
    expected = (own.answer("death", events, rows) + own.answer("stay", events, rows)) / 2
    assert np.allclose(model.logit(inputs, np.arange(len(rows))), expected, atol=1e-5)


@pytest.mark.parametrize("learner", [SourceHeadLearner, ProbeLearner, FinetunedLearner])
class TestArm:
    def test_a_saved_model_gives_the_same_logits_to_the_last_bit(self, events, checkpoint, tmp_path, learner):
        own = learner(pretrained(checkpoint()))
        inputs, model = fit(own, events, tmp_path)
        (tmp_path / "model").mkdir()
        model.save(tmp_path / "model")
        index = np.arange(len(inputs))
        loaded = learner(pretrained(tmp_path / "checkpoint")).load(tmp_path / "model")
        assert np.array_equal(loaded.logit(inputs, index), model.logit(inputs, index))
        assert loaded.salience == model.salience
        saved = {p.name for p in (tmp_path / "model").iterdir()}
        network = {"config.json", "model.safetensors", "vocabulary.json"}
        assert saved - network == {"head.safetensors", "salience.json"}
        assert (network <= saved) == (model.trunk is not own.pretrained.trunk)

    def test_labels_outside_training_are_not_looked_at(self, events, checkpoint, tmp_path, learner):
        rows, own = ask(events), learner(pretrained(checkpoint()))
        inputs, train = own.prepare(events, rows), train_rows(rows)
        hidden = np.full(len(rows), np.nan)
        hidden[train] = labels(rows)[train]
        models = [
            own.fit(inputs, y, train, seed=0, state=tmp_path / str(i)) for i, y in enumerate((labels(rows), hidden))
        ]
        assert np.array_equal(*(model.logit(inputs, np.arange(len(rows))) for model in models))

    def test_base_and_parts_add_up_to_the_logit(self, events, checkpoint, tmp_path, learner):
        own = learner(pretrained(checkpoint()))
        inputs, model = fit(own, events, tmp_path)
        _, other = fit(own, events, tmp_path / "other", seed=1, subjects=50)
        index = np.random.default_rng(1).permutation(len(inputs))[:40]
        found = own.explain([model, other], inputs, index)
        for each, attribution in zip((model, other), found):
            assert np.abs(attribution.logit() - each.logit(inputs, index)).max() < 1e-4
            assert np.allclose(attribution.base, own.base([each], inputs, index)[0], atol=1e-5)
        assert found[0].parts.drop("shap").equals(found[1].parts.drop("shap"))
        assert found[0].parts["row"].n_unique() == len(index)

    def test_two_positive_subjects_are_enough_to_fit(self, events, checkpoint, tmp_path, learner):
        rows, own = ask(events), learner(pretrained(checkpoint()))
        inputs = own.prepare(events, rows)
        label = np.isin(rows["subject_id"].to_numpy(), [3, 17]).astype(float)
        model = own.fit(inputs, label, train_rows(rows), seed=0, state=tmp_path)
        assert np.isfinite(model.logit(inputs, np.arange(len(rows)))).all()


def test_the_probe_learns_what_the_head_does_not_know(events, checkpoint, tmp_path):
    from sklearn.metrics import roc_auc_score

    folder, rows = checkpoint(), ask(events)
    found = {}
    for learner in (SourceHeadLearner, ProbeLearner):
        inputs, model = fit(learner(pretrained(folder)), events, tmp_path)
        test = np.setdiff1d(np.arange(len(rows)), train_rows(rows))
        found[learner.name] = roc_auc_score(labels(rows)[test], model.logit(inputs, test))
    assert found["probe"] > max(0.8, found["source_head"] + 0.05)


@pytest.mark.usefixtures("always")
def test_learners_of_one_network_are_explained_together_as_they_are_one_by_one(events, checkpoint, tmp_path):
    own = pretrained(checkpoint(), epochs=2)
    learners = [SourceHeadLearner(own), ProbeLearner(own), FinetunedLearner(own)]
    inputs, index = own.prepare(events, ask(events)), np.arange(3, 40)
    models = [[fit(each, events, tmp_path, seed, 30 + 10 * seed)[1] for seed in range(2)] for each in learners]
    assert len({each.explain for each in learners}) == 1 and models[2][0].trunk is not own.trunk
    together = own.explain([model for two in models for model in two], inputs, index)
    for two, found in zip(models[:2], (together[:2], together[2:4])):
        for alone, shared in zip(own.explain(two, inputs, index), found):
            assert alone.parts.drop("shap").equals(shared.parts.drop("shap"))
            assert np.allclose(alone.parts["shap"], shared.parts["shap"], rtol=0, atol=1e-9)
            assert np.allclose(alone.base, shared.base, rtol=0, atol=1e-9)
    for model, found in zip(models[2], together[4:]):
        assert np.abs(found.logit() - model.logit(inputs, index)).max() < 1e-4


def test_learners_share_what_the_network_made_of_the_rows(events, checkpoint):
    own, rows = pretrained(checkpoint()), ask(events)
    assert SourceHeadLearner(own).prepare(events, rows) is ProbeLearner(own).prepare(events, rows)
    assert own.prepare(events, rows.clone()) is not own.prepare(events, rows)


def test_what_is_explained_first_is_what_the_cases_have_and_the_network_hears(events, checkpoint, tmp_path):
    _, model = fit(SourceHeadLearner(pretrained(checkpoint())), events, tmp_path)
    sick = ask(events).filter(pl.col("subject_id") <= 40, pl.col("boolean_value"))["subject_id"].n_unique()
    assert model.salience["RxNorm//860975"] > 0
    assert set(model.salience) > {"LOINC//2345-7", "VISIT_START//AMB"}
    assert sick >= 10


def test_without_heads_the_probe_is_a_regression_on_the_vectors(events, checkpoint, tmp_path):
    own = ProbeLearner(pretrained(checkpoint(tasks=None), tasks=()))
    inputs, model = fit(own, events, tmp_path)
    assert np.isfinite(model.logit(inputs, np.arange(len(inputs)))).all()
    assert replace(own.config, tasks=("death",)) != own.config


# --- tuning -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def taught(checkpoint, hospital, tmp_path):
    """Cases whose labels a network with another last layer gave, or the network's own probe."""

    def make(strength):
        own = pretrained(checkpoint())
        events = hospital(300, seed=3, folder=tmp_path / "larger")
        rows = pl.DataFrame(
            [(s, datetime(2025, 1, 1), False, "held_out") for s in range(1, 301)], schema=schema.ROWS, orient="row"
        )
        inputs = own.prepare(events, rows)
        top = deepcopy(own.trunk.top)
        generator = torch.Generator().manual_seed(1)
        for matrix in low_rank._matrices(top):
            into = matrix.weight.shape[1]
            matrix.weight += strength * torch.randn(matrix.weight.shape, generator=generator) / into**0.5
        vectors = top.vectors(inputs.below(own.trunk, np.arange(300)))
        weight = own.head.weight * 3 / own.head(vectors).std()  # a head that tells who is at risk, and by how much
        own.head = Head(weight, float(-np.median(vectors @ weight)))
        label = (own.head(vectors) + np.random.default_rng(0).logistic(size=300) > 0).astype(float)
        return own, inputs, label, rows

    return make


def test_tuning_begins_at_the_probe_and_learns_what_another_last_layer_says(taught):
    own, inputs, label, _ = taught(1.0)
    cases = low_rank.Cases.of(own.trunk, inputs, label, np.arange(300), own.head)
    probe = cases.probe(0)
    tuning = low_rank._Tuning(cases, probe, replace(own.config, epochs=8, learning_rate=1e-3), 0)
    before = log_loss(probe(cases.vectors), cases.label)
    assert np.allclose(tuning.loss(cases), before, atol=1e-4)
    for _ in range(8):
        tuning.epoch()
    after = tuning.loss(cases)
    assert after.mean() < 0.9 * before.mean()
    tuned = own.trunk.capped(tuning.merged())
    assert np.allclose(log_loss(probe(inputs.vectors(tuned, np.arange(300))), label), after, atol=0.05)  # halves


def test_where_the_probe_is_right_it_stays(taught, tmp_path):
    own, inputs, label, _ = taught(0.0)
    model = FinetunedLearner(own).fit(inputs, label, np.arange(200), seed=0, state=tmp_path)
    assert model.trunk is own.trunk


def test_with_few_positive_subjects_it_is_the_probe(taught, tmp_path):
    own, inputs, label, _ = taught(1.0)
    positive, negative = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    for cases in ((9, 120), (120, 9)):
        train = np.sort(np.concatenate([positive[: cases[0]], negative[: cases[1]]]))
        tuned, probe, head = (
            learner(own).fit(inputs, label, train, seed=0, state=tmp_path).logit(inputs, np.arange(300))
            for learner in (FinetunedLearner, ProbeLearner, SourceHeadLearner)
        )
        assert np.array_equal(tuned, probe)
        assert np.array_equal(np.argsort(tuned), np.argsort(head))


@pytest.fixture
def always(monkeypatch):
    """Tunes whether or not it helps."""
    monkeypatch.setattr(low_rank, "_epochs", lambda *arguments: 2)


@pytest.mark.usefixtures("always")
def test_a_tuned_network_is_whole(events, checkpoint, tmp_path):
    """Saved, opened, read by all slots as by query slots, explained."""
    own = FinetunedLearner(pretrained(checkpoint(), epochs=2, max_slots=256))
    inputs, model = fit(own, events, tmp_path / "state")
    assert model.trunk is not own.pretrained.trunk
    (tmp_path / "model").mkdir()
    model.save(tmp_path / "model")
    loaded, index = own.load(tmp_path / "model"), np.arange(len(inputs))
    assert np.array_equal(loaded.logit(inputs, index), model.logit(inputs, index))
    assert (tmp_path / "model" / "model.safetensors").is_file()
    reading = inputs.read(model.trunk)
    batch = reading.batch([[each] for each in inputs.sequences.group(index)])
    whole = np.empty((len(index), 32))
    with torch.no_grad():
        whole[batch.rows] = model.trunk.body(batch, reading.book).numpy()
    assert np.allclose(whole, inputs.vectors(model.trunk, index), atol=1e-4)
    _, other = fit(own, events, tmp_path / "other", seed=1)
    for each, found in zip((model, other), own.explain([model, other], inputs, index[:20])):
        assert np.abs(found.logit() - each.logit(inputs, index[:20])).max() < 1e-4


@pytest.mark.usefixtures("always")
def test_tuning_looks_at_no_held_out_label_and_the_seed_fixes_it(events, checkpoint, tmp_path):
    rows, own = ask(events), FinetunedLearner(pretrained(checkpoint(), epochs=2))
    inputs, train = own.prepare(events, rows), train_rows(rows)
    hidden = np.full(len(rows), np.nan)
    hidden[train] = labels(rows)[train]
    said = [
        own.fit(inputs, label, train, seed=seed, state=tmp_path / f"{i}").logit(inputs, np.arange(len(rows)))
        for i, (label, seed) in enumerate([(labels(rows), 0), (hidden, 0), (hidden, 1)])
    ]
    assert np.array_equal(said[0], said[1]) and not np.array_equal(said[1], said[2])
