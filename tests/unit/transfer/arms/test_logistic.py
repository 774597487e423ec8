"""The regression on a few variables, against scikit-learn's and against what is known of made-up records."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from ehr_tl.evaluate.metrics import auroc
from ehr_tl.transfer.arms import logistic
from ehr_tl.transfer.arms.logistic import FARTHEST, MUCH, SERIES, LogisticConfig, LogisticLearner


@pytest.fixture
def learner():
    return LogisticLearner(LogisticConfig((30.0,)))


@pytest.fixture
def fitted(learner, here, tmp_path):
    events, rows, label, index = here
    inputs = learner.prepare(events, rows)
    return inputs, label, index, learner.fit(inputs, label, index[:200], seed=0, state=tmp_path)


def test_it_learns_from_values_and_ranks_patients_it_has_not_seen(fitted):
    inputs, label, index, model = fitted
    test = index[200:]
    assert auroc(label[test], model.logit(inputs, test), np.ones(len(test))) > 0.65
    assert model.variables["code"].to_list()[-1] == MUCH and {"LAB", "AGE"} <= set(model.variables["code"])


def test_it_is_the_ridge_regression_that_scikit_learn_fits(learner, here, tmp_path):
    from sklearn.linear_model import LogisticRegression

    events, rows, label, index = here
    few = index[np.cumsum(label) < 9]
    inputs = learner.prepare(events, rows)
    model = learner.fit(inputs, label, few, seed=0, state=tmp_path)
    values = logistic._standardised(logistic._values(inputs, model.variables, few), model.mean, model.spread)
    same = LogisticRegression(C=1 / logistic.GIVEN, tol=1e-10).fit(values, label[few])
    np.testing.assert_allclose(same.coef_[0], model.coefficients, atol=1e-4)
    assert same.intercept_[0] == pytest.approx(model.intercept, abs=1e-3)


def test_explanations_add_up_and_say_what_kind_a_part_is(learner, fitted):
    inputs, _, index, model = fitted
    some = index[[3, 250, 0]]
    (found,) = learner.explain([model], inputs, some)
    np.testing.assert_allclose(found.logit(), model.logit(inputs, some), atol=1e-9)
    np.testing.assert_array_equal(found.base, learner.base([model], inputs, some)[0])
    kinds = dict(found.parts.select("code", "kind").unique().rows())
    assert (kinds["AGE"], kinds["GENDER"], kinds["LAB"], kinds[MUCH]) == (
        "demographic",
        "demographic",
        "event",
        "feature",
    )


def test_a_saved_model_says_the_same(learner, fitted, tmp_path):
    inputs, _, index, model = fitted
    model.save(tmp_path)
    np.testing.assert_array_equal(learner.load(tmp_path).logit(inputs, index), model.logit(inputs, index))


def test_labels_outside_the_training_rows_do_not_matter(learner, fitted, tmp_path):
    inputs, label, index, model = fitted
    again = learner.fit(inputs, np.where(index < 200, label, 1 - label), index[:200], seed=0, state=tmp_path)
    np.testing.assert_array_equal(again.logit(inputs, index), model.logit(inputs, index))


def test_who_lacks_a_value_lies_at_the_mean_and_a_wild_one_does_not_rule(learner, write_events, tmp_path):
    now, values = datetime(2020, 1, 1), [*range(30), 1e9, None]
    facts = [(i, now - timedelta(days=1), "LAB", float(v), "mg") for i, v in enumerate(values) if v is not None]
    facts += [(i, now - timedelta(days=1), f"SERIES//{k}", 1.0, "mg") for i in range(40) for k in range(30)]
    events = write_events(facts)
    rows = pl.DataFrame({"subject_id": range(len(values)), "prediction_time": [now] * len(values)})
    inputs, index = learner.prepare(events, rows), np.arange(len(values))
    model = learner.fit(inputs, (index % 30 > 20).astype(float), index[:30], seed=0, state=tmp_path)
    own = model.contributions(inputs, index)[:, model.variables["code"].to_list().index("LAB")]
    slope = model.coefficients[model.variables["code"].to_list().index("LAB")]
    assert own[-1] == 0.0 and own[-2] == pytest.approx(FARTHEST * slope)
    assert own[:30].mean() == pytest.approx(0.0, abs=1e-9)
    assert model.variables.filter(pl.col("statistic") == "last").height == SERIES
