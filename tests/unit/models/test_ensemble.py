"""The mean of calibrated members is a calibrated score, and says how far it may be off."""

import numpy as np
import pytest

from ehr_tl.models.calibration import Calibration, sigmoid
from ehr_tl.models.combination import Combination
from ehr_tl.models.ensemble import Ensemble
from ehr_tl.models.pairs import pairs_of

FOLDS = 5


def world(rows: int, noise: float, seed: int = 0):
    """True logits of a rare outcome, and pair models that see them through noise of their own, each calibrated.

    With truth of variance 1 and noise of variance n, the best guess from one model is its logit shrunk by 1 / (1 + n).
    """
    rng = np.random.default_rng(seed)
    fold = rng.integers(0, FOLDS, rows)
    truth = rng.normal(0.0, 1.0, rows)
    base = {}
    for pair in pairs_of(FOLDS):
        told = (truth + rng.normal(0.0, noise**0.5, rows)) / (1 + noise)
        base[pair] = np.where(np.isin(fold, pair), told, np.nan)
    return fold, truth - 4.0, {"m": {pair: values - 4.0 for pair, values in base.items()}}


def scored(ensemble: Ensemble, fold: np.ndarray, base) -> np.ndarray:
    logit = np.zeros(len(fold))
    for number in range(FOLDS):
        rows = np.flatnonzero(fold == number)
        logit[rows] = ensemble.score(number, {"m": {pair: v[rows] for pair, v in base["m"].items()}})[0]
    return logit


def slope_of(truth: np.ndarray, logit: np.ndarray) -> float:
    return float(np.cov(truth, logit)[0, 1] / np.var(logit))


IDENTITY = (Combination(0.0, {"m": 1.0}, Calibration()),) * FOLDS


def test_the_mean_of_members_that_disagree_is_spread_out_again():
    fold, truth, base = world(40_000, noise=1.0)
    ensemble = Ensemble.fit(IDENTITY, base, fold)
    plain = Ensemble(ensemble.combinations, (type(ensemble.poolings[0])(),) * (FOLDS + 1))
    assert slope_of(truth, scored(plain, fold, base)) > 1.3
    assert slope_of(truth, scored(ensemble, fold, base)) == pytest.approx(1.0, abs=0.05)


def test_as_many_events_are_expected_as_by_its_members():
    fold, _, base = world(20_000, noise=2.0)
    ensemble = Ensemble.fit(IDENTITY, base, fold)
    members = np.concatenate([sigmoid(v[~np.isnan(v)]) for v in base["m"].values()])
    assert sigmoid(scored(ensemble, fold, base)).mean() == pytest.approx(members.mean(), rel=0.05)


def test_members_that_agree_are_left_as_they_are():
    fold, truth, _ = world(2_000, noise=1.0)
    base = {"m": {pair: np.where(np.isin(fold, pair), truth, np.nan) for pair in pairs_of(FOLDS)}}
    ensemble = Ensemble.fit(IDENTITY, base, fold)
    np.testing.assert_allclose(scored(ensemble, fold, base), truth, atol=1e-6)


def test_a_constant_model_stays_constant():
    fold = np.arange(50) % FOLDS
    base = {"m": {pair: np.where(np.isin(fold, pair), -2.0, np.nan) for pair in pairs_of(FOLDS)}}
    assert np.allclose(scored(Ensemble.fit(IDENTITY, base, fold), fold, base), -2.0)


def test_an_ensemble_is_read_back_as_it_was_written():
    fold, _, base = world(500, noise=1.0)
    ensemble = Ensemble.fit(IDENTITY, base, fold)
    assert Ensemble.from_json(ensemble.to_json()) == ensemble
