"""The sources' trees as they are, and local trees on top of them."""

from dataclasses import replace

import numpy as np
import pytest

from ehr_tl.evaluate.metrics import auroc
from ehr_tl.features import Remembered
from ehr_tl.models.calibration import calibrate
from ehr_tl.models.checkpoint import keep_checkpoint
from ehr_tl.models.source import SourceModels
from ehr_tl.transfer.arms.anchored import ENOUGH, AnchoredConfig, AnchoredLearner
from ehr_tl.transfer.arms.source import SourceConfig, SourceLearner

BOTH = ("decline", "rise")


@pytest.fixture
def source(checkpoint):
    return SourceLearner(SourceConfig(str(checkpoint), BOTH), Remembered())


@pytest.fixture
def anchored(checkpoint):
    return AnchoredLearner(AnchoredConfig(str(checkpoint), ("decline",), (30.0,), 5), Remembered())


def test_the_logit_is_the_mean_over_the_tasks_that_each_booster_gives(source, checkpoint, here, tmp_path):
    events, rows, label, index = here
    inputs = source.prepare(events, rows)
    model = source.fit(inputs, np.full(len(label), np.nan), index, seed=0, state=tmp_path)
    models = SourceModels.load(checkpoint / "source")
    expected = np.mean([models.score(task, events, rows) for task in BOTH], axis=0)
    np.testing.assert_allclose(model.logit(inputs, index), expected, rtol=1e-12)


def test_explanations_of_the_source_add_up(source, here, tmp_path):
    events, rows, label, _ = here
    inputs, some = source.prepare(events, rows), np.array([7, 0, 31])
    model = source.fit(inputs, label, some, seed=0, state=tmp_path)
    (found,) = source.explain([model], inputs, some)
    np.testing.assert_allclose(found.logit(), model.logit(inputs, some), atol=1e-6)
    np.testing.assert_array_equal(found.base, source.base([model], inputs, some)[0])
    assert {"LAB", "RISK"} & set(found.parts["code"])


@pytest.mark.parametrize("cases", [20, 300])
def test_what_is_saved_reads_the_checkpoint_that_was_kept(source, anchored, checkpoint, here, tmp_path, cases):
    events, rows, label, index = here
    keep_checkpoint(checkpoint, tmp_path / "kept")
    for learner in (source, anchored):
        inputs = learner.prepare(events, rows)
        model = learner.fit(inputs, label, index[:cases], seed=0, state=tmp_path)
        (tmp_path / learner.name).mkdir()
        model.save(tmp_path / learner.name)
        later = type(learner)(replace(learner.config, checkpoint=str(tmp_path / "kept")))
        found = later.load(tmp_path / learner.name).logit(later.prepare(events, rows), index)
        np.testing.assert_array_equal(found, model.logit(inputs, index))


def test_with_few_cases_it_is_the_recalibrated_source(anchored, here, tmp_path):
    events, rows, label, index = here
    few = index[np.cumsum(label) < ENOUGH]
    inputs = anchored.prepare(events, rows)
    model = anchored.fit(inputs, label, few, seed=0, state=tmp_path)
    source = anchored.trees.logit(inputs.source, index)
    assert model.own is None
    np.testing.assert_allclose(model.logit(inputs, index), calibrate(source[few], label[few], few)(source))


def test_local_trees_learn_what_the_sources_did_not_know(anchored, here, tmp_path):
    """Here the outcome depends on the laboratory value the other way round."""
    events, rows, _, index = here
    inputs = anchored.prepare(events, rows)
    lab = inputs.own.take(inputs.own.columns.filter(inputs.own.columns["statistic"] == "last"), index).toarray()
    label = (lab.ravel() + np.random.default_rng(0).normal(0, 1, len(index)) < 5).astype(float)
    train, test = index[:250], index[250:]
    model = anchored.fit(inputs, label, train, seed=0, state=tmp_path)
    assert model.own is not None
    ones, source = np.ones(len(test)), anchored.trees.logit(inputs.source, test)
    assert auroc(label[test], model.logit(inputs, test), ones) > auroc(label[test], source, ones) + 0.2
    (found,) = anchored.explain([model], inputs, test)
    np.testing.assert_allclose(found.logit(), model.logit(inputs, test), atol=1e-6)


def test_no_trees_grow_where_the_source_knows_all(anchored, here, tmp_path):
    events, rows, _, index = here
    inputs = anchored.prepare(events, rows)
    source = anchored.trees.logit(inputs.source, index)
    label = (np.random.default_rng(1).random(len(index)) < 1 / (1 + np.exp(-source))).astype(float)
    model = anchored.fit(inputs, label, index[:300], seed=0, state=tmp_path)
    assert np.corrcoef(model.logit(inputs, index[300:]), source[300:])[0, 1] > 0.97


def test_labels_outside_the_training_rows_do_not_matter(anchored, here, tmp_path):
    events, rows, label, index = here
    inputs, train = anchored.prepare(events, rows), index[:200]
    turned = np.where(index < 200, label, 1 - label)
    first, second = (anchored.fit(inputs, each, train, seed=0, state=tmp_path) for each in (label, turned))
    np.testing.assert_array_equal(first.logit(inputs, index), second.logit(inputs, index))


def test_where_no_feature_is_common_enough_no_trees_grow(checkpoint, here, tmp_path):
    events, rows, label, index = here
    learner = AnchoredLearner(AnchoredConfig(str(checkpoint), ("decline",), (30.0,), 1000), Remembered())
    inputs = learner.prepare(events, rows)
    model = learner.fit(inputs, label, index, seed=0, state=tmp_path)
    assert model.own is None and model.calibration.events > ENOUGH
