import re

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from ehr_tl.evaluate.metrics import calibration_slope
from ehr_tl.report.learning_curve import MEASURES, _ticks, chart
from ehr_tl.report.study import answers, differences, markdown, table
from ehr_tl.report.svg import Plot
from ehr_tl.schema import BLEND, LIGHTGBM, LOGISTIC, POOLED, RECALIBRATED, SOURCE
from ehr_tl.transfer.study.contest import CONTINUED, TABULAR_BLEND
from ehr_tl.transfer.study.outlook import _fit, outlook, reached
from ehr_tl.transfer.study.results import Measured, sizes_of

RESAMPLES = 300
ROWS = 400


@pytest.fixture
def truth():
    random = np.random.default_rng(7)
    logit = random.normal(-1, 1.2, ROWS)
    return logit, (random.random(ROWS) < 1 / (1 + np.exp(-logit))).astype(float), np.arange(ROWS) // 2


def cell(truth, size, repeat, **noise):
    random = np.random.default_rng((size, repeat))
    logits = {arm: truth + random.normal(0, wobble, len(truth)) for arm, wobble in noise.items()}
    told = {"size": size, "repeat": repeat, "seed": repeat % 2, "subjects": size, "events": size // 4, "seconds": 1.0}
    return told | {"weights": {LIGHTGBM: 0.25, SOURCE: 0.75}}, pl.DataFrame(logits)


@pytest.fixture
def cells(truth):
    return [
        cell(truth[0], size, repeat, **{LIGHTGBM: 40 / size, LOGISTIC: 60 / size, SOURCE: 0.8, POOLED: 1.6, BLEND: 0.7})
        for size in (64, 16)
        for repeat in range(3)
    ]


def test_intervals_are_those_of_a_bootstrap_done_by_hand(truth, cells):
    _, labels, subject = truth
    small, large = sizes_of(cells, labels, subject, RESAMPLES, 3)
    assert (small.subjects, large.subjects) == (16, 64)
    weights, turns = Measured(labels, subject, RESAMPLES, 3).weights, large.turns
    mine = [logits for told, logits in cells if told["size"] == 64]

    def mean_auroc(arm, resample):
        drawn = [mine[repeat][arm].to_numpy() for repeat in turns[resample]]
        return np.mean([roc_auc_score(labels, logit, sample_weight=weights[resample]) for logit in drawn])

    by_hand = [mean_auroc(BLEND, each) - mean_auroc(LIGHTGBM, each) for each in range(40)]
    draws = large.draws(BLEND, "auroc") - large.draws(LIGHTGBM, "auroc")
    assert draws[:40] == pytest.approx(by_hand, abs=1e-9)
    assert (weights[:, 0::2] == weights[:, 1::2]).all()  # a subject's rows come and go together
    values = [roc_auc_score(labels, logits[BLEND]) for logits in mine]
    told = large.to_json()
    assert told["arms"][BLEND]["auroc"]["value"] == pytest.approx(np.mean(values), abs=1e-6)
    assert told["seeds"][BLEND]["0"] == pytest.approx(np.mean([values[0], values[2]]), abs=1e-6)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert told["differences"]["chosen - best local"]["lower"] == pytest.approx(low, rel=1e-4)
    assert told["differences"]["chosen - best local"]["upper"] == pytest.approx(high, rel=1e-4)


def test_a_slopes_linearised_resamples_are_close_to_those_of_a_regression_in_each(truth):
    logit, labels, subject = truth
    measured = Measured(labels, subject, RESAMPLES, 3)
    value, draws = measured(2 * logit)["calibration_slope"]
    exact = calibration_slope(labels, 2 * logit, measured.weights)
    assert value == pytest.approx(float(calibration_slope(labels, 2 * logit, np.ones(ROWS))), abs=1e-6)
    assert np.corrcoef(draws, exact)[0, 1] > 0.98
    assert draws.std() == pytest.approx(exact.std(), rel=0.1)


def test_best_arms_and_pairs_are_those_of_the_means(truth, cells):
    small, large = (size.to_json() for size in sizes_of(cells, *truth[1:], RESAMPLES, 3))
    assert small["best_local"] == LIGHTGBM and small["best_single"] == SOURCE
    assert large["best_single"] == LIGHTGBM  # 64 cases and less noise than the source's
    assert "chosen - the same without networks" not in small["differences"]
    assert small["differences"]["source - best local"]["value"] > 0
    assert small["differences"]["chosen - best single without networks"]["second"] == SOURCE
    assert small["weights"] == {LIGHTGBM: 0.25, SOURCE: 0.75} and small["seconds"] == 3.0


def test_a_constant_score_has_no_slope_and_the_median_leaves_it_out(truth):
    logit, labels, subject = truth
    told = {"size": 16, "seed": 0, "subjects": 16, "events": 4, "seconds": 1.0, "weights": {}}
    cells = [(told, pl.DataFrame({SOURCE: values})) for values in (logit, np.zeros(ROWS), logit)]
    [size] = sizes_of(cells, labels, subject, RESAMPLES, 0)
    assert size.value(SOURCE, "calibration_slope") == pytest.approx(1, abs=0.3)
    assert size.chosen is None and size.to_json()["differences"] == {}
    [size] = sizes_of(cells[1:2], labels, subject, RESAMPLES, 0)
    assert size.to_json()["arms"][SOURCE]["calibration_slope"]["value"] is None


@pytest.fixture
def results(truth, cells):
    found = sizes_of(cells, *truth[1:], RESAMPLES, 3)
    told = {"name": "made_up", "title": "Made <up>", "question": "Who?", "outcome": "Ill", "target": "here"}
    told |= {"source": "there", "checkpoint": None, "synthetic": True, "notice": "", "shots": False, "seeds": [0, 1]}
    told |= {"repeats": 3, "resamples": RESAMPLES, "seconds": 6.0}
    told["test"] = {"subjects": 200, "events": 60, "sites": None}
    return told | {"sizes": [size.to_json() for size in found]}


def test_tables_say_what_was_found(results):
    rows = dict(table(results, "auroc"))
    small = results["sizes"][0]["arms"][BLEND]["auroc"]
    assert rows["blend"][0] == f"{small['value']:.3f} ({small['lower']:.3f} to {small['upper']:.3f})"
    assert TABULAR_BLEND not in rows and list(rows)[-1] == "blend"
    [local, *_] = differences(results)
    assert local[0] == "blend less best local arm" and local[1][0].endswith(", local LightGBM")
    text = markdown(results)
    assert text.startswith(
        "# Made <up>\n\nSynthetic data. 200 subjects tested on, 60 of them with the outcome; 3 repeats"
    )
    told = markdown(results | {"test": results["test"] | {"sites": 3}})
    assert "60 of them with the outcome, all of 3 sites that no case is from; 3 repeats" in told
    assert "3 repeats, 2 seeds of pretraining. Mean" in text
    once = markdown(results | {"checkpoint": "shipped", "repeats": 1})  # it is one, whatever the study's seeds
    assert "; 1 repeat. Mean" in once
    results["sizes"][0]["arms"][CONTINUED] = results["sizes"][0]["arms"][BLEND]
    assert "; 3 repeats, 2 seeds of pretraining. Mean" in markdown(results | {"checkpoint": "shipped"})
    assert "| source trees as they are |" in text and "| arm | 16 (4 of 16) | 64 (16 of 64) |" in text


def test_the_page_shows_a_curve_for_each_arm_and_says_that_the_data_are_synthetic(results, tmp_path):
    from ehr_tl.report.page import write_study

    write_study(tmp_path / "study.html", results)
    page = (tmp_path / "study.html").read_text()
    assert page.count("<svg") == 3 and "Synthetic data." in page and "Made &lt;up&gt;" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "<script" not in page
    for arm in ("local LightGBM", "pooled trees", "blend"):
        assert page.count(arm) >= 6


def test_every_point_of_a_chart_lies_within_its_axes(results):
    results["sizes"][0]["arms"][LIGHTGBM]["calibration_slope"]["value"] = 80.0  # of two cases a slope runs away
    for measure in MEASURES:
        drawn = re.findall(r'<circle [^>]*cx="([\d.]+)" cy="([-\d.]+)"', chart(results, measure, 900, 440))
        assert len(drawn) == 2 * len(results["sizes"][0]["arms"])
        assert all(Plot.left <= float(x) <= 690 and Plot.top <= float(y) <= 440 - Plot.bottom for x, y in drawn)


@pytest.mark.parametrize("low", [0.0, 0.93, 1.19, 12.0])
@pytest.mark.parametrize("span", [0.013, 0.2, 3.0])
def test_no_two_ticks_read_alike(low, span):
    ticks = _ticks(low, low + span)
    assert len({text for _, text in ticks}) == len(ticks)
    assert [float(text) for _, text in ticks] == pytest.approx([at for at, _ in ticks])


@pytest.mark.parametrize("measure", ["auroc", "brier"])
def test_intervals_are_drawn_whole(results, measure):
    low, high = Plot.top, 440 - Plot.bottom
    outlines = re.findall(r'<path class="interval" d="M([^"]+)Z"', chart(results, measure, 900, 440))
    drawn = [float(y) for outline in outlines for y in re.findall(r" ([\d.]+)", outline)]
    assert len(drawn) == 2 * 2 * len(results["sizes"]) and low < min(drawn) < max(drawn) < high


def test_a_local_curve_that_rises_to_the_target_is_foreseen(truth):
    sizes = sizes_of(
        [
            cell(truth[0], size, repeat, **{LIGHTGBM: 24 / np.sqrt(size), BLEND: 0.5, SOURCE: 1.0})
            for size in (16, 64, 256)
            for repeat in range(4)
        ],
        *truth[1:],
        RESAMPLES,
        0,
    )
    found = outlook(sizes, BLEND, 512, 128)
    assert found["local"]["arm"] == LIGHTGBM and found["local"]["cases"] > 256
    assert found["local"]["more"] == max(0, found["local"]["cases"] - 512)
    half = found["estimate"]["half_width"]
    assert found["estimate"]["more"] == pytest.approx(max(0, 512 * ((half / 0.05) ** 2 - 1)), abs=1)
    assert len(answers(told_of(sizes, found))) == 2


def told_of(sizes, found):
    return {"sizes": [{"subjects": size.subjects} for size in sizes], "outlook": found}


def test_what_the_cases_that_there_are_are_enough_for_is_said_of_them(truth):
    arms = {LIGHTGBM: 0.0, BLEND: 0.5, SOURCE: 1.0}
    for at in ((64,), (16, 64, 256)):
        sizes = sizes_of([cell(truth[0], size, 0, **arms) for size in at], *truth[1:], RESAMPLES, 0)
        local, _ = answers(told_of(sizes, outlook(sizes, BLEND, 512, 128)))
        assert local.startswith(f"Local LightGBM does as well as the model in use with the same {at[-1]} cases (0.")


@pytest.mark.parametrize(
    ("local", "said"),
    [
        ((400, 300, 600, 0), "With 400 cases in all (95% interval 300 to 600), no more than there are, local LightGBM"),
        ((513, 300, None, 1), "About 1 more case until local LightGBM would do as well as the model in use does with"),
        ((513, 300, None, 1), "it would take 513 cases in all (95% interval 300 to more than can be told)."),
        ((513, None, None, 1), "513 cases in all (95% interval more than can be told)."),
    ],
)
def test_what_is_foretold_is_said_plainly(local, said):
    known = {"half_width": 0.02, "tight": 0.05, "more": 0, "events": 60}
    found = dict(zip(("cases", "lower", "upper", "more"), local)) | {"arm": LIGHTGBM, "target": 0.8}
    first, second = answers({"sizes": [{"subjects": 256.0}], "outlook": {"local": found, "estimate": known}})
    assert said in first and second.endswith(
        "± 0.020 with all cases, as reckoned from 60 with the outcome: tight enough (± 0.05)."
    )


def test_an_auroc_that_no_resample_changes_is_not_called_known(truth):
    _, labels, subject = truth
    sizes = sizes_of([cell(10 * labels, 64, 0, **{BLEND: 0.0, SOURCE: 20.0})], labels, subject, RESAMPLES, 0)
    found = outlook(sizes, BLEND, 512, 128)
    assert "cannot be told" in answers(told_of(sizes, found))[0]


def test_what_lies_too_far_is_not_told(truth):
    flat = [cell(truth[0], size, 0, **{LIGHTGBM: 3.0, BLEND: 0.2, SOURCE: 1.0}) for size in (16, 64, 256)]
    sizes = sizes_of(flat, *truth[1:], RESAMPLES, 0)
    found = outlook(sizes, BLEND, 512, 128)
    assert found["local"]["more"] is None
    assert "more than 10 times the cases that there are" in answers(told_of(sizes, found))[0]
    for number in (1, 2):
        found = outlook(sizes[:number], BLEND, 512, 128)
        said, _ = answers(told_of(sizes[:number], found))
        assert said.endswith(f"is not known: a curve takes 3 numbers of cases, and it was learned at {number}.")
    alone = [cell(truth[0], 16, 0, **{BLEND: 1.0, SOURCE: 1.0})]
    assert outlook(sizes_of(alone, *truth[1:], RESAMPLES, 0), BLEND, 512, 128)["local"] is None


def test_the_one_learner_beside_a_comparison_is_in_use(truth):
    def chosen(learner, *arms):
        told, logits = cell(truth[0], 16, 0, **dict.fromkeys(arms, 1.0))
        [found] = sizes_of([(told | {"weights": {learner: 1.0}}, logits)], *truth[1:], RESAMPLES, 0)
        return found.chosen

    assert chosen(LIGHTGBM, "transformer_from_scratch", LIGHTGBM) == LIGHTGBM
    assert chosen(SOURCE, SOURCE, RECALIBRATED) == RECALIBRATED


def test_what_would_take_more_cases_than_can_be_counted_is_infinite():
    at = np.array([16.0, 64.0, 256.0])
    values = 0.9 - 9.0 * at**-0.05
    _, ceiling, *_ = _fit(at, values, 0.05)
    assert reached(at, values, np.nextafter(ceiling, 0)) == np.inf


def test_sizes_at_which_no_arm_can_be_learned_give_an_empty_chart(truth):
    logit, labels, subject = truth
    cells = [cell(logit, 1, repeat) for repeat in range(2)]
    [size] = sizes_of(cells, labels, subject, RESAMPLES, 0)
    results = {"sizes": [{**size.to_json(), "weights": {}}], "shots": True}
    assert chart(results) == "" and table(results, "auroc") == []


def test_a_measure_that_no_arm_has_a_value_of_gives_an_empty_chart(truth):
    _, labels, subject = truth
    [size] = sizes_of([cell(0 * labels, 16, 0, **{LIGHTGBM: 0.0, BLEND: 0.0})], labels, subject, RESAMPLES, 0)
    results = {"sizes": [size.to_json()], "shots": False}
    assert chart(results, "calibration_slope") == "" != chart(results, "auroc")
