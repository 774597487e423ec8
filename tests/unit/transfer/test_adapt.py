"""All learners on a hospital's cases, against what each would do by itself."""

from dataclasses import dataclass

import numpy as np
import pytest

from ehr_tl import schema
from ehr_tl.errors import CohortError
from ehr_tl.models.calibration import sigmoid
from ehr_tl.transfer.adapt import adapt


@dataclass
class Line:
    slope: float
    saw: np.ndarray

    def logit(self, inputs, index):
        return self.slope * inputs[index]


class LineLearner:
    comparison = False
    related = False

    @property
    def share(self):
        return float(self.as_is)

    def __init__(self, name: str, slope: float = 1.0, as_is: bool = False):
        self.name, self.slope, self.as_is, self.fits = name, slope, as_is, []

    def fit(self, inputs, labels, train, *, seed, state):
        assert state.is_dir()
        self.fits.append(train)
        return Line(self.slope, train)


def hospital(rows: int, seed: int = 0):
    """One row each: true logits, labels, subjects."""
    random = np.random.default_rng(seed)
    truth = random.normal(-1, 1.5, rows)
    return truth, (random.random(rows) < sigmoid(truth)).astype(float), np.arange(rows) + 100


def of(truth, *learners):
    """Inputs: what a name begins with, the learner sees; all else is noise."""
    noise = np.random.default_rng(9).normal(-1, 1.5, len(truth))
    return {each.name: noise if each.name.startswith("noise") else truth for each in learners}


def test_what_the_sources_taught_leads_while_cases_are_few_and_cases_decide_in_the_end():
    truth, label, subject = hospital(6_000)
    source, local = LineLearner("noise_of_the_source", as_is=True), LineLearner(schema.LIGHTGBM)
    inputs, weights = of(truth, source, local), {}
    for cases in (16, 6_000):
        train = np.arange(cases)
        weights[cases] = adapt([local, source], inputs, label, subject, train, seed=0).weights[source.name]
    assert weights[16] > 0.6 and weights[6_000] < 0.1


def test_cases_leave_sources_sooner_that_were_asked_something_else():
    truth, label, subject = hospital(200)
    source, local = LineLearner("noise_of_the_source", as_is=True), LineLearner(schema.LIGHTGBM)
    inputs, weights = of(truth, source, local), []
    for source.related in (False, True):
        weights.append(adapt([local, source], inputs, label, subject, np.arange(200), seed=0).weights[source.name])
    assert weights[1] < weights[0] - 0.05


def test_as_is_learners_are_fitted_once_and_no_fit_sees_its_fold():
    truth, label, subject = hospital(300)
    source, local = LineLearner(schema.SOURCE, as_is=True), LineLearner(schema.LIGHTGBM)
    train = np.arange(50, 250)
    adapted = adapt([local, source], of(truth, source, local), label, subject, train, seed=0)
    assert len(source.fits) == 1 and len(local.fits) == 6
    assert sorted(map(len, local.fits)) == [160] * 5 + [200]
    assert all(set(fit) <= set(train) for fit in local.fits)
    assert list(adapted.combinations) == [schema.LIGHTGBM, schema.SOURCE, schema.RECALIBRATED, schema.BLEND]
    assert adapted.events == label[train].sum()


def test_a_source_that_is_far_off_is_scored_as_it_is_and_recalibrated_beside():
    truth, label, subject = hospital(800)
    source, local = LineLearner(schema.SOURCE, slope=3.0, as_is=True), LineLearner("noise")
    inputs = of(truth, source, local)
    test = np.arange(400, 800)
    scored = adapt([local, source], inputs, label, subject, np.arange(400), seed=0).logits(inputs, test)
    np.testing.assert_array_equal(scored[schema.SOURCE], 3.0 * truth[test])
    assert np.abs(scored[schema.RECALIBRATED] - truth[test]).mean() < 0.5
    assert sigmoid(scored[schema.BLEND]).mean() == pytest.approx(label.mean(), abs=0.05)


@pytest.mark.parametrize("comparison", [False, True])
def test_one_learner_has_no_blend_and_a_comparison_takes_no_part(comparison):
    truth, label, subject = hospital(100)
    local, other = LineLearner(schema.LIGHTGBM), LineLearner("beside")
    other.comparison = True
    learners = [local, other] if comparison else [local]
    adapted = adapt(learners, of(truth, local, other), label, subject, np.arange(100), seed=0)
    assert schema.BLEND not in adapted.combinations
    assert set(adapted.combinations) == {each.name for each in learners}
    assert adapted.weights == {schema.LIGHTGBM: 1.0}


def test_labels_of_other_rows_are_not_looked_at():
    truth, label, subject = hospital(200)
    local, source = LineLearner(schema.LIGHTGBM), LineLearner(schema.SOURCE, as_is=True)
    inputs, train = of(truth, local, source), np.arange(60)
    hidden = np.where(np.isin(np.arange(200), train), label, np.nan)
    first, second = (adapt([local, source], inputs, each, subject, train, seed=0) for each in (label, hidden))
    assert first.combinations == second.combinations


def test_two_with_the_outcome_are_enough_and_one_is_not():
    truth, _, subject = hospital(16)
    learners = [LineLearner(schema.LIGHTGBM), LineLearner(schema.SOURCE, as_is=True)]
    inputs, index = of(truth, *learners), np.arange(16)
    scored = adapt(learners, inputs, (index < 2) * 1.0, subject, index, seed=0).logits(inputs, index)
    assert all(np.isfinite(each).all() for each in scored.values())
    with pytest.raises(CohortError, match="1 of them"):
        adapt(learners, inputs, (index < 1) * 1.0, subject, index, seed=0)


def test_sites_are_held_out_whole():
    truth, label, subject = hospital(240)
    site, local = np.array([f"site {i % 6}" for i in range(240)]), LineLearner(schema.LIGHTGBM)
    adapt([local], of(truth, local), label, subject, np.arange(240), seed=0, site=site)
    for fit in local.fits:
        assert len(set(site[fit]) & set(site[np.setdiff1d(np.arange(240), fit)])) == 0


def test_where_sites_are_too_few_subjects_are_held_out():
    truth, label, subject = hospital(240)
    positive = np.where(label == 1, "all who have it", "the others")
    logits = []
    for site in (None, np.full(240, "one"), positive):
        local = LineLearner(schema.LIGHTGBM)
        adapted = adapt([local], of(truth, local), label, subject, np.arange(240), seed=0, site=site)
        logits.append(adapted.logits(of(truth, local), np.arange(240))[schema.LIGHTGBM])
    assert (logits[0] == logits[1]).all() and (logits[0] == logits[2]).all()
