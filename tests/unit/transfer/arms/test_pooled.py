"""Trees on the rows of sources and of the hospital together."""

import pickle

import lightgbm as lgb
import numpy as np
import polars as pl
import pytest
from scipy import sparse

from ehr_tl import schema
from ehr_tl.config import LightGBMConfig
from ehr_tl.errors import PipelineError
from ehr_tl.evaluate.metrics import auroc
from ehr_tl.models.tuning import FIXED
from ehr_tl.transfer.arms.pooled import CLIP, PooledLearner, SourceRows, likeness

CONFIG = LightGBMConfig(windows_days=(30,), trials=1, rounds=40)


@pytest.fixture
def sources(ward):
    hospitals = [ward("source a", seed=10), ward("source b", seed=11)]
    return SourceRows([(each.events, each.rows) for each in hospitals], CONFIG)


@pytest.fixture(params=[False, True], ids=["pooled", "weighted"])
def learner(sources, request):
    return PooledLearner(sources, CONFIG, request.param)


def test_a_few_local_cases_and_many_at_the_sources_rank_well(learner, here, tmp_path):
    events, rows, label, index = here
    inputs, test = learner.prepare(events, rows), index[20:]
    model = learner.fit(inputs, label, index[:20], seed=0, state=tmp_path)
    assert auroc(label[test], model.logit(inputs, test), np.ones(len(test))) > 0.75
    (found,) = learner.explain([model], inputs, test)
    np.testing.assert_allclose(found.logit(), model.logit(inputs, test), atol=1e-6)
    model.save(tmp_path)
    np.testing.assert_array_equal(learner.load(tmp_path).logit(inputs, test), model.logit(inputs, test))


def test_local_cases_count_and_labels_of_others_do_not(learner, here, tmp_path):
    events, rows, label, index = here
    inputs, train = learner.prepare(events, rows), index[:200]
    turned = np.where(index < 200, label, 1 - label)
    first, second, other = (
        learner.fit(inputs, each, train, seed=0, state=tmp_path).logit(inputs, index)
        for each in (label, turned, 1 - label)
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).mean() > 0.2


def test_trees_are_grown_as_the_sources_say_and_not_settled_again(learner, sources, here, tmp_path):
    events, rows, label, index = here
    inputs = learner.prepare(events, rows)
    model = learner.fit(inputs, label, index[:100], seed=0, state=tmp_path)
    assert model.tuned == sources.settings.tuned and 0 < model.booster.num_trees() <= model.tuned.rounds
    taken = SourceRows(sources._sources, CONFIG, known=model)
    assert taken.settings is model
    assert PooledLearner(taken, CONFIG).config != learner.config  # fits that were grown otherwise are not taken


def test_who_is_here_and_at_a_source_is_refused(learner, sources, here):
    events, rows, *_ = here
    there, known = sources._sources[0]
    with pytest.raises(PipelineError, match=r"7 of the 7 subjects .* transfer\.sources"):
        learner.prepare(there, known[:7])
    assert learner.prepare(events, rows).rows.height == rows.height


def test_settings_change_with_the_sources_rows(sources):
    (events, rows), other = sources._sources
    fewer = SourceRows([(events, rows[1:]), other], CONFIG)
    digests = [PooledLearner(each, CONFIG).config.sources for each in (sources, fewer)]
    assert digests[0][0] != digests[1][0] and digests[0][1] == digests[1][1]


def test_it_goes_into_another_process(learner, here, tmp_path):
    events, rows, label, index = here
    inputs = learner.prepare(events, rows)
    again = pickle.loads(pickle.dumps(learner))
    first, second = (each.fit(inputs, label, index[:50], seed=0, state=tmp_path) for each in (learner, again))
    np.testing.assert_array_equal(first.logit(inputs, index), second.logit(inputs, index))
    assert again.name == learner.name in (schema.POOLED, schema.WEIGHTED)


def test_patients_of_one_number_at_two_hospitals_stay_two(sources):
    rows = pl.concat(rows for _, rows in sources._sources)
    assert len(np.unique(sources.features.subject)) == rows.height  # one row each, the same numbers at both
    np.testing.assert_array_equal(sources.label, rows["boolean_value"].to_numpy())


def weights_of(there, here):
    there, here = sparse.csr_matrix(there), sparse.csr_matrix(here)
    data = lgb.Dataset(sparse.vstack([there, here], format="csr"), params=FIXED).construct()
    return likeness(data, there, np.arange(here.shape[0]), seed=0)


def test_rows_like_those_here_weigh_more():
    random = np.random.default_rng(0)
    there, here = (random.normal(mean, 1, (2000, 3)) + 20 for mean in (0.0, 1.0))
    weights = weights_of(there, here)
    assert weights.mean() == pytest.approx(1)
    # The true ratio of the densities rises with the sum of the three.
    expected = there.sum(axis=1)
    assert np.corrcoef(np.argsort(np.argsort(weights)), np.argsort(np.argsort(expected)))[0, 1] > 0.8
    assert weights.max() / weights.min() <= CLIP[1] / CLIP[0] * (1 + 1e-9)


def test_where_all_are_alike_or_few_are_here_all_weigh_about_the_same():
    random = np.random.default_rng(1)
    there = random.normal(5, 1, (2000, 3))
    for rows, shift, most in ((2000, 0.0, 0.25), (16, 1.0, 0.5)):
        assert weights_of(there, random.normal(5 + shift, 1, (rows, 3))).std() < most
