import numpy as np
import polars as pl
import pytest
from scipy import sparse

from ehr_tl.config import LightGBMConfig
from ehr_tl.models.by_code import EXPLAINED, OTHERS
from ehr_tl.models.gradient_boosting import GradientBoostingLearner
from ehr_tl.models.screening import screen, without_twins
from ehr_tl.models.tuning import candidates, tune

CONFIG = LightGBMConfig(windows_days=(90, 365), rounds=60, trials=2)


@pytest.fixture
def fitted(cohort, tmp_path):
    events, rows = cohort(subjects=120)
    learner = GradientBoostingLearner(CONFIG)
    inputs = learner.prepare(events, rows)
    label = rows["boolean_value"].cast(pl.Float64).to_numpy()
    train = np.flatnonzero(rows["subject_id"].to_numpy() < 80)
    return learner, inputs, label, train, learner.fit(inputs, label, train, seed=1, state=tmp_path)


def test_it_learns_what_brings_the_outcome(fitted):
    _, inputs, label, train, model = fitted
    from sklearn.metrics import roc_auc_score

    test = np.setdiff1d(np.flatnonzero(~np.isnan(label)), train)
    assert roc_auc_score(label[test], model.logit(inputs, test)) > 0.75


def test_rows_outside_the_training_do_not_matter(fitted, tmp_path):
    learner, inputs, label, train, model = fitted
    every = np.arange(len(label))
    changed = np.where(np.isin(every, train), label, 1 - label)
    again = learner.fit(inputs, changed, train, seed=1, state=tmp_path)
    np.testing.assert_array_equal(model.logit(inputs, every), again.logit(inputs, every))
    blank = inputs.matrix.copy()
    blank.data[np.repeat(~np.isin(every, train), np.diff(blank.indptr))] = 7.0
    altered = type(inputs)(inputs.rows, blank, inputs.columns)
    again = learner.fit(altered, label, train, seed=1, state=tmp_path)
    np.testing.assert_array_equal(model.logit(inputs, every), again.logit(inputs, every))


def test_only_features_of_enough_training_subjects_are_used(fitted, tmp_path):
    _, inputs, label, train, _ = fitted
    learner = GradientBoostingLearner(LightGBMConfig(windows_days=(90, 365), min_subjects=15, rounds=5, trials=1))
    model = learner.fit(inputs, label, train, seed=1, state=tmp_path)
    counts = dict(zip(inputs.columns.rows(), inputs.subjects_with(train)))
    assert model.columns.height
    assert all(counts[column] >= 15 for column in model.columns.rows())
    assert min(counts.values()) < 15


def test_a_saved_model_says_the_same(fitted, tmp_path):
    learner, inputs, label, _, model = fitted
    model.save(tmp_path)
    every = np.arange(len(label))
    np.testing.assert_array_equal(learner.load(tmp_path).logit(inputs, every), model.logit(inputs, every))
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".txt", ".json"}


def test_explanations_add_up_and_name_what_matters(fitted):
    learner, inputs, _, _, model = fitted
    index = np.array([3, 0, 50, 100])
    (found,) = learner.explain([model], inputs, index)
    np.testing.assert_allclose(found.logit(), model.logit(inputs, index), atol=1e-6)
    np.testing.assert_array_equal(found.base, learner.base([model], inputs, index)[0])
    sizes = found.parts.group_by("code").agg(pl.col("shap").abs().sum()).sort("shap", descending=True)
    assert set(sizes["code"][:2]) == {"LAB", "RISK//1"}
    assert found.parts.group_by("row").len()["len"].max() <= EXPLAINED + 1


def test_kinds_say_how_often_a_code_was_seen(fitted):
    learner, inputs, _, _, model = fitted
    index = np.arange(inputs.rows.height)
    (found,) = learner.explain([model], inputs, index)
    risk = found.parts.filter(pl.col("code") == "RISK//1")
    seen = inputs.in_view(["RISK//1"], index).toarray().ravel()
    assert risk.height
    for row, kind in risk.select("row", "kind").iter_rows():
        assert kind == ("event" if seen[row] == 1 else "missing")
    kinds = dict(found.parts.select("code", "kind").unique().rows())
    assert kinds.get("AGE", "demographic") == "demographic"
    assert kinds.get("GENDER", "demographic") == "demographic"
    assert kinds[OTHERS] == "feature"


def test_models_are_explained_in_the_same_parts(fitted, tmp_path):
    learner, inputs, label, train, model = fitted
    other = learner.fit(inputs, label, train[: len(train) // 2], seed=2, state=tmp_path)
    first, second = learner.explain([model, other], inputs, np.arange(20))
    assert first.parts.drop("shap").equals(second.parts.drop("shap"))
    np.testing.assert_allclose(second.logit(), other.logit(inputs, np.arange(20)), atol=1e-6)


def test_nothing_asked_is_nothing_answered(fitted):
    learner, inputs, _, _, model = fitted
    nobody = np.zeros(0, dtype=int)
    assert model.logit(inputs, nobody).shape == (0,)
    (found,) = learner.explain([model], inputs, nobody)
    assert found.parts.is_empty() and found.base.shape == (0,)


def test_screening_finds_what_is_associated():
    random = np.random.default_rng(0)
    label = (random.random(400) < 0.1).astype(float)
    noise = random.normal(size=(400, 50)) * (random.random((400, 50)) < 0.5)
    noise[:, 7] = np.where(random.random(400) < 0.1 + 0.6 * label, 3.0, 0.0)  # present more often
    noise[:, 20] = np.exp(random.normal(size=400) + 2 * label)  # always present, larger
    assert set(screen(sparse.csr_matrix(noise), label, 2)) == {7, 20}
    assert screen(sparse.csr_matrix(noise), label, 50).tolist() == list(range(50))


def test_twins_are_dropped_but_near_twins_kept():
    random = np.random.default_rng(0)
    matrix = random.normal(size=(30, 4))
    near = matrix[:, 0].copy()
    near[3] += 1e-3
    both = sparse.csr_matrix(np.column_stack([matrix, matrix[:, 2], near]))
    assert without_twins(both).tolist() == [0, 1, 2, 3, 5]


def test_as_many_candidates_as_asked_for_and_none_too_deep():
    for trials in (1, 4, 9):
        tried = candidates(LightGBMConfig(trials=trials, max_depth=2), rows=1000, seed=3)
        assert len(tried) == trials
        assert all(trial["max_depth"] <= 2 for trial in tried)


def test_something_is_learned_from_a_few_dozen_rows():
    """Leaves of a size that suits thousands of rows would leave nothing to split."""
    rng = np.random.default_rng(0)
    label = (np.arange(36) % 3 == 0).astype(float)
    matrix = sparse.csr_matrix(np.column_stack([label + rng.normal(0, 0.3, 36) + 3, rng.normal(5, 1, 36)]))
    booster, kept, _ = tune(matrix, label, np.arange(36), LightGBMConfig(trials=1), seed=0)
    risk = booster.predict(matrix[:, kept], raw_score=True)
    assert risk[label == 1].mean() > risk[label == 0].mean() + 0.5


def test_one_positive_row_among_a_few_gives_a_model_that_does_not_run_away():
    rng = np.random.default_rng(0)
    label = (np.arange(12) == 3).astype(float)
    matrix = sparse.csr_matrix(rng.normal(5, 1, (12, 3)))
    booster, kept, tuned = tune(matrix, label, np.arange(12), LightGBMConfig(), seed=0)
    assert np.abs(booster.predict(matrix[:, kept], raw_score=True) + tuned.shift).max() < 5
