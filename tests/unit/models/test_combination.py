import numpy as np
import pytest

from ehr_tl.evaluate.metrics import calibration_slope, observed_over_expected
from ehr_tl.models.calibration import calibrate, sigmoid
from ehr_tl.models.combination import FIRM, blend


@pytest.mark.parametrize("views", [2, 3])
def test_a_blend_of_models_that_see_different_things_is_no_nearer_to_the_middle_than_they_are(views):
    random = np.random.default_rng(views)
    truth = random.normal(-2, 1.5, 20_000)
    seen = truth[:, None] + random.normal(size=(len(truth), views))  # each sees the truth through a fog of its own
    label = (random.random(len(truth)) < sigmoid(truth)).astype(float)
    subject, everybody = np.arange(len(seen)), np.ones(len(seen))
    base = {f"view {i}": seen[:, i] for i in range(views)}
    prior = dict.fromkeys(base, 1 / views)
    singles = {name: calibrate(logit, label, subject)(logit) for name, logit in base.items()}
    plain = sum(prior[name] * logit for name, logit in singles.items())
    found = blend(prior, FIRM, base, label, subject).uncalibrated(base)
    assert calibration_slope(label, plain, everybody) > 1.1
    assert calibration_slope(label, found, everybody) == pytest.approx(1, abs=0.1)
    assert observed_over_expected(label, found, everybody) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("cases", [64, 2_000])
def test_models_that_say_the_same_are_calibrated_once_and_no_further(cases):
    random = np.random.default_rng(0)
    logit = random.normal(size=cases) - 1
    label, subject = (random.random(cases) < sigmoid(2 * logit)).astype(float), np.arange(cases)
    base = {"a": logit, "b": logit}
    found = blend({"a": 0.5, "b": 0.5}, FIRM, base, label, subject)
    once = calibrate(logit, label, subject)(logit)
    assert np.allclose(found.calibration(found.uncalibrated(base)), once, atol=1e-6)
