"""Measures against scikit-learn and closed forms; weights against repeated rows."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from ehr_tl.evaluate import curves, metrics
from ehr_tl.evaluate.intervals import Bootstrap, resampled_weights

MEASURES = {
    "auroc": metrics.auroc,
    "auprc": metrics.auprc,
    "brier": metrics.brier,
    "brier_skill": metrics.brier_skill,
    "slope": metrics.calibration_slope,
    "intercept": metrics.calibration_intercept,
    "observed_over_expected": metrics.observed_over_expected,
    "sensitivity": metrics.sensitivity_at(0.1),
    "precision": metrics.precision_at(0.1),
}


@pytest.fixture(scope="module")
def sample():
    generator = np.random.default_rng(0)
    logit = np.round(generator.normal(-2, 1.5, 600), 1)  # rounded: with ties
    labels = (generator.random(600) < metrics.sigmoid(0.7 * logit + 0.4)).astype(int)
    return labels, logit, generator.integers(0, 4, 600)


def test_ranking_measures_agree_with_sklearn(sample):
    labels, logit, weights = sample
    for given in (np.ones(600), weights):
        reference = roc_auc_score(labels, logit, sample_weight=given)
        assert metrics.auroc(labels, logit, given) == pytest.approx(reference, abs=1e-12)
        reference = average_precision_score(labels, logit, sample_weight=given)
        assert metrics.auprc(labels, logit, given) == pytest.approx(reference, abs=1e-12)


def test_brier_agrees_with_sklearn(sample):
    labels, logit, weights = sample
    risk = 1 / (1 + np.exp(-logit))
    assert metrics.brier(labels, logit, weights) == pytest.approx(brier_score_loss(labels, risk, sample_weight=weights))


def test_calibration_agrees_with_logistic_regression(sample):
    labels, logit, weights = sample
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit[:, None], labels, sample_weight=weights)
    slope = metrics.calibration_slope(labels, logit, weights)
    assert slope == pytest.approx(fit.coef_[0, 0], abs=1e-5)
    intercept = metrics.calibration_intercept(labels, logit, weights)
    assert np.sum(weights * metrics.sigmoid(logit + intercept)) == pytest.approx(np.sum(weights * labels))


def test_calibration_is_nan_where_outcomes_are_separated():
    labels, logit = np.array([0, 0, 1, 1]), np.array([-2.0, -1.0, 1.0, 2.0])
    assert np.isnan(metrics.calibration_slope(labels, logit, np.ones(4)))


@pytest.mark.parametrize("name", MEASURES)
def test_weights_count_as_repeated_rows(sample, name):
    labels, logit, weights = sample
    many = np.stack([np.ones(600), weights])
    repeated = np.repeat(labels, weights), np.repeat(logit, weights)
    both = MEASURES[name](labels, logit, many)
    assert both.shape == (2,)
    assert both[0] == pytest.approx(float(MEASURES[name](labels, logit, np.ones(600))))
    assert both[1] == pytest.approx(float(MEASURES[name](*repeated, np.ones(weights.sum()))), rel=1e-6)


def test_no_outcome_is_nan_not_an_error():
    for name, measure in MEASURES.items():
        value = measure(np.zeros(20, int), np.linspace(-3, 0, 20), np.ones(20))
        assert np.isnan(value) or name in ("brier", "observed_over_expected", "precision")


def test_capacity_counts_the_highest_rows():
    labels, logit = np.array([1, 0, 1, 0, 0, 0, 1, 0, 0, 0]), np.arange(10, 0, -1).astype(float)
    assert metrics.sensitivity_at(0.3)(labels, logit, np.ones(10)) == pytest.approx(2 / 3)
    assert metrics.precision_at(0.3)(labels, logit, np.ones(10)) == pytest.approx(2 / 3)


def test_capacity_shares_ties_at_the_border():
    labels, logit = np.array([1, 1, 0, 0, 0]), np.array([3.0, 1.0, 1.0, 1.0, 1.0])
    assert metrics.sensitivity_at(0.6)(labels, logit, np.ones(5)) == pytest.approx((1 + 2 / 4) / 2)


def test_calibration_error_of_a_constant_score():
    labels = np.array([0] * 15 + [1] * 5)
    error = metrics.calibration_error(labels, np.zeros(20), np.ones(20), groups=1)
    assert error == pytest.approx(abs(0.25 - 0.5))


def test_bootstrap_interval_covers_clustered_rows():
    """Ten identical rows per subject: resampling subjects must give the spread of 40 draws, not of 400."""
    generator = np.random.default_rng(1)
    outcome = (generator.random(40) < 0.5).astype(int)
    labels, subjects = np.repeat(outcome, 10), np.repeat(np.arange(40), 10)
    boot = Bootstrap(labels, {"a": np.zeros(400)}, subjects, {"oe": metrics.observed_over_expected}, 2000, 0)
    estimate = boot.estimate("a", "oe")
    share = outcome.mean()
    half = 1.96 * np.sqrt(share * (1 - share) / 40) / 0.5
    assert estimate["upper"] - estimate["value"] == pytest.approx(half, rel=0.15)
    assert boot.difference("a", "a", "oe") == {"value": 0.0, "lower": 0.0, "upper": 0.0}


def test_resamples_do_not_depend_on_chunks(monkeypatch):
    subjects = np.repeat(np.arange(5), 2)
    whole = np.concatenate(list(resampled_weights(subjects, 7, 3)))
    monkeypatch.setattr("ehr_tl.evaluate.intervals._CHUNK", 30)
    parts = list(resampled_weights(subjects, 7, 3))
    assert len(parts) == 3
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (whole.sum(axis=1) == 10).all()
    np.testing.assert_array_equal(whole[:, ::2], whole[:, 1::2])


def test_roc_and_gain_curves(sample):
    labels, logit, _ = sample
    drawn = curves.ranking(labels, logit)
    roc = np.array(drawn["roc"])
    assert roc[0].tolist() == [0, 0] and roc[-1].tolist() == [1, 1]
    assert np.trapezoid(roc[:, 1], roc[:, 0]) == pytest.approx(roc_auc_score(labels, logit), abs=5e-3)
    assert len(drawn["gain"]) <= 160 and drawn["gain"][-1] == [1.0, 1.0]


def test_calibration_groups_expect_the_same_number(sample):
    labels, logit, _ = sample
    groups = curves.calibration_groups(labels, logit)
    expected = [group["rows"] * group["predicted"] for group in groups]
    assert sum(group["rows"] for group in groups) == 600
    assert sum(group["outcomes"] for group in groups) == labels.sum()
    assert max(expected) < 1.4 * min(expected)
    assert all(group["lower"] <= group["observed"] <= group["upper"] for group in groups)


def test_net_benefit_by_hand():
    labels, logit = np.array([1, 0, 1, 0]), np.array([2.0, 1.0, -3.0, -3.0])
    assert curves.net_benefit(labels, logit, np.array([0.5])) == [pytest.approx(1 / 4 - 1 / 4)]
    assert curves.net_benefit(labels, logit, np.array([0.2])) == [pytest.approx(1 / 4 - 1 / 4 * 0.25)]
    assert curves.treat_all(labels, np.array([0.2])) == [pytest.approx(0.5 - 0.5 * 0.25)]
