"""Calibration against a known truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_tl.models.calibration import Calibration, calibrate, level, sigmoid, stacking_weights
from ehr_tl.models.combination import FIRM


def population(n: int, seed: int, centre: float = -2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True logits, labels, subjects (one row each)."""
    random = np.random.default_rng(seed)
    truth = random.normal(centre, 1.2, n)
    return truth, (random.random(n) < sigmoid(truth)).astype(float), np.arange(n)


def test_a_calibrated_model_stays_about_as_it_is():
    fits = [calibrate(*population(400, seed)) for seed in range(40)]
    assert np.mean([fit.slope for fit in fits]) == pytest.approx(1.0, abs=0.1)
    assert max(abs(fit(np.array(-2.0)) + 2.0) for fit in fits) < 0.75


@pytest.mark.parametrize("shift", [3.0, -3.0])
def test_a_shifted_model_with_few_events_gets_its_level_back_and_about_keeps_its_slope(shift):
    truth, label, subject = population(250, 0, centre=-2.5)
    fitted = calibrate(truth + shift, label, subject)
    assert fitted.events < 50
    assert fitted.slope == pytest.approx(1.0, abs=0.25)
    assert np.sum(sigmoid(fitted(truth + shift))) == pytest.approx(label.sum(), rel=1e-3)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), events=st.integers(1, 3))
def test_a_handful_of_events_turns_no_score_round(seed, events):
    """Labels that contradict the model in every way: its order stays."""
    logit = np.random.default_rng(seed).normal(-2.0, 1.0, 60)
    label = np.zeros(60)
    label[np.argsort(logit)[:events]] = 1
    assert 0 < calibrate(logit, label, np.arange(60)).slope < 1


def test_an_overconfident_model_with_many_events_gets_its_slope_back():
    truth, label, subject = population(8_000, 1)
    fitted = calibrate(0.5 + 2.5 * truth, label, subject)
    assert fitted.slope == pytest.approx(0.4, abs=0.05)
    assert np.abs(sigmoid(fitted(0.5 + 2.5 * truth)) - sigmoid(truth)).mean() < 0.01


def test_the_slope_is_shrunk_when_events_are_scarce():
    truth, label, subject = population(500, 2)
    free = calibrate(4 * truth, np.tile(label, 1), subject).slope
    assert 0.25 < free < 0.6


@pytest.mark.parametrize(("patients", "least", "most"), [(100, 0.5, 4.0), (2_000, 0.5, 2.0)])
def test_stated_variance_covers_the_error_over_repetitions(patients, least, most):
    at = np.array([-3.0, -1.0])
    fits = [calibrate(2 * t - 1, y, s) for t, y, s in (population(patients, seed) for seed in range(60))]
    error = np.mean([(fit(2 * at - 1) - at) ** 2 for fit in fits], axis=0)
    stated = np.mean([fit.variance(2 * at - 1) for fit in fits], axis=0)
    assert np.all((stated / error > least) & (stated / error < most))


def test_repeating_each_row_adds_no_certainty():
    truth, label, subject = population(300, 3)
    once = calibrate(truth + 1, label, subject)
    often = calibrate(*(np.repeat(x, 5) for x in (truth + 1, label, subject)))
    assert often.covariance[0] == pytest.approx(once.covariance[0], rel=0.05)


def test_survives_json_and_extreme_logits():
    fitted = calibrate(np.array([-800.0, 800.0, 0.1, 0.2]), np.array([0.0, 1.0, 0.0, 1.0]), np.arange(4))
    assert Calibration.from_json(fitted.to_json()) == fitted
    assert np.isfinite([fitted.intercept, *fitted.covariance]).all()


EQUAL = np.array([0.5, 0.5])


def test_the_blend_stays_near_equal_with_few_events_and_finds_the_better_model_with_many():
    random = np.random.default_rng(0)
    truth, label, _ = population(20_000, 4)
    noise = random.normal(-2, 1.2, len(truth))
    both = np.column_stack([truth, noise])
    assert stacking_weights(both, label, EQUAL, spread=FIRM)[0] > 0.9
    assert stacking_weights(both[:, ::-1], label, EQUAL, spread=FIRM)[0] < 0.1
    assert 0.3 <= stacking_weights(both[:60], label[:60], EQUAL, spread=FIRM)[0] <= 0.8
    assert stacking_weights(np.column_stack([truth, truth]), label, EQUAL, spread=FIRM)[0] == pytest.approx(0.5)


def test_two_models_get_the_weight_that_a_search_over_all_weights_finds():
    truth, label, _ = population(400, 5)
    other = truth + np.random.default_rng(1).normal(0, 1.5, len(truth))

    def loss(weight: float) -> float:
        logit = weight * truth + (1 - weight) * other
        logit = logit + level(logit, label)
        return np.sum(np.logaddexp(0, logit) - label * logit) + 0.5 * ((weight - 0.5) / FIRM) ** 2

    best = min(np.linspace(0, 1, 401), key=loss)
    found = stacking_weights(np.column_stack([truth, other]), label, EQUAL, spread=FIRM)
    assert found[0] == pytest.approx(best, abs=0.005)


@settings(deadline=None, max_examples=30)
@given(models=st.integers(1, 8), rows=st.integers(6, 200), seed=st.integers(0, 1000), scale=st.floats(0.01, 50))
def test_weights_lie_on_the_simplex_and_no_model_alone_fits_better(models, rows, seed, scale):
    random = np.random.default_rng(seed)
    logits, label = random.normal(-1, scale, (rows, models)), (np.arange(rows) % 4 == 0).astype(float)
    prior = random.dirichlet(np.ones(models))
    found = stacking_weights(logits, label, prior, spread=FIRM)
    assert (found >= 0).all() and found.sum() == pytest.approx(1)

    def loss(weights: np.ndarray) -> float:
        logit = logits @ weights
        logit = logit + level(logit, label)
        penalty = 0.25 * np.sum((weights - prior) ** 2) / FIRM**2
        return float(np.sum(np.logaddexp(0, logit) - label * logit) + penalty)

    assert all(loss(found) <= loss(each) + 1e-3 for each in [prior, *np.eye(models)])
