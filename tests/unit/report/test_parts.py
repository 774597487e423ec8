"""Worklist, drivers, examples, words and drawing."""

import csv
import re
from datetime import datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest

from ehr_tl import schema
from ehr_tl.events import ExportInfo
from ehr_tl.explain import reasons
from ehr_tl.report import charts, words, worklist, write_worklist
from ehr_tl.report.drivers import examples, top_drivers
from ehr_tl.report.svg import Plot, linear, log_odds, odds_ticks


@pytest.fixture(scope="module")
def listed(results):
    return worklist(results.scores, reasons(results.parts), results.subjects, results.export)


def test_worklist_holds_the_current_patients_highest_first(results, listed):
    assert listed.height == 350 and listed["patient_id"].n_unique() == 350
    answered = listed.filter(~pl.col("abstained"))
    assert listed.head(answered.height).equals(answered)
    assert answered["risk"].is_sorted(descending=True)
    assert (answered["lower"] <= answered["risk"]).all() and (answered["risk"] <= answered["upper"]).all()


def test_abstained_patients_have_a_reason_and_no_risk(listed):
    silent = listed.filter("abstained")
    assert silent.height > 0
    assert silent.select("risk", "lower", "upper", "reason_1").null_count().row(0) == (silent.height,) * 4
    assert silent["abstained_because"].null_count() == 0
    assert listed.filter(~pl.col("abstained"))["abstained_because"].null_count() == listed.height - silent.height


def test_worklist_says_that_it_is_synthetic(listed):
    assert listed["notice"].unique().to_list() == ["synthetic: nobody here exists"]


def test_csv_is_safe_in_a_spreadsheet(listed, tmp_path):
    risky = listed.head(3).with_columns(reason_1=pl.Series(["=HYPERLINK(1)", "-2 mg", None]))
    write_worklist(tmp_path / "worklist.csv", risky)
    with (tmp_path / "worklist.csv").open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["reason_1"] for row in rows] == ["'=HYPERLINK(1)", "'-2 mg", ""]
    assert rows[0]["prediction_time"] == "2026-11-01 00:00"
    assert float(rows[0]["risk"]) == pytest.approx(listed["risk"][0])


def test_csv_stays_whole_where_the_semicolon_divides(listed, tmp_path):
    """Excel takes the semicolon where the comma is the decimal sign, and UTF-8 only where a mark says so."""
    risky = listed.head(1).with_columns(reason_1=pl.lit("a;=cmd"), reason_2=pl.lit("Hömöglobin; -1"))
    write_worklist(tmp_path / "worklist.csv", risky)
    raw = (tmp_path / "worklist.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf") and "Hömöglobin" in raw.decode("utf-8-sig")
    text = raw.decode("utf-8-sig").splitlines()[1]
    assert '"a;\'=cmd"' in text and '"Hömöglobin; \'-1"' in text
    assert not [cell for cell in text.split(";") if cell.lstrip()[:1] in "=+-@"]
    assert pl.read_csv(tmp_path / "worklist.csv").columns == risky.columns


def test_nobody_current_gives_an_empty_worklist(results):
    past = results.scores.filter(pl.col("split") == schema.HELD_OUT)
    none = worklist(past, reasons(results.parts), results.subjects, ExportInfo("fhir_r4"))
    assert none.height == 0 and none.columns[:2] == ["patient_id", "prediction_time"]


def test_drivers_leave_out_groups_and_count_every_row(results):
    drivers, grouped = top_drivers(results)
    assert not [d for d in drivers if d["code"].startswith("GROUP")]
    assert 0 < grouped < 1
    rows = results.chosen.filter(pl.col("split") == "held_out").height
    parts = results.parts.join(
        results.chosen.filter(pl.col("split") == "held_out"), on=["subject_id", "prediction_time"], how="semi"
    )
    age = next(d for d in drivers if d["code"] == "AGE")
    assert age["raises"] + age["lowers"] == pytest.approx(parts.filter(code="AGE")["shap"].abs().sum() / rows)
    assert age["share"] == 1.0


def test_examples_lead_from_the_base_to_the_score(results):
    shown = examples(results)
    assert [e.title for e in shown] == [
        "Highest risk now",
        "A typical patient now",
        "Highest with the outcome",
        "Lowest with the outcome",
    ]
    for example in shown:
        assert example.steps[0]["start"] == example.row["base"]
        assert example.steps[-1]["end"] == pytest.approx(example.row["logit"])
        assert len(example.steps) <= 9
    assert shown[0].row["risk"] == results.current["risk"].drop_nulls()[0]
    assert shown[3].row["boolean_value"] is True


def test_verdicts_follow_the_interval():
    def difference(lower, upper):
        return {"first": "blend", "second": "local_lightgbm", "auroc": {"value": 0.1, "lower": lower, "upper": upper}}

    assert words.verdict(difference(0.01, 0.2)) == "better: blend"
    assert words.verdict(difference(-0.3, -0.1)) == "better: local LightGBM"
    assert words.verdict(difference(-0.01, 0.2)) == "no difference shown"
    assert words.verdict(difference(None, None)) == "cannot be told from so few outcomes"


def test_the_answer_admits_poor_calibration(results):
    model = results.metrics["models"]["blend"]
    off = {"value": 1.6, "lower": 1.2, "upper": 2.0}
    metrics = results.metrics | {"models": {"blend": model | {"observed_over_expected": off}}}
    assert words._calibrated(metrics).endswith("the risks are too low.")
    fine = {"value": 1.0, "lower": 0.9, "upper": 1.1}
    steep = model | {"observed_over_expected": fine, "calibration_slope": {"value": 0.5, "lower": 0.4, "upper": 0.6}}
    assert "high risks are somewhat too high" in words._calibrated(results.metrics | {"models": {"blend": steep}})


def test_the_answer_admits_chance(results):
    model = results.metrics["models"]["blend"] | {"auroc": {"value": 0.6, "lower": 0.45, "upper": 0.7}}
    assert "may be chance" in words._ranked(results.metrics | {"models": {"blend": model}})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (timedelta(hours=24), "within 24 hours"),
        (timedelta(days=365), "within a year"),
        (timedelta(days=366), "within a year"),
        (timedelta(days=1096), "within 3 years"),
        (timedelta(days=400), "within 400 days"),
        (None, "by the end of its window"),
    ],
)
def test_horizons_in_words(given, expected):
    assert words.within(given) == expected


def test_dates_have_one_reading():
    assert words.day(datetime(2026, 3, 4)) == "4 March 2026"


def test_scales_map_their_ends_to_the_borders():
    plot = Plot("t", linear(2, 4), log_odds(0.01, 0.99), width=400, height=300)
    assert (plot.px(2), plot.px(4)) == (plot.left, 400 - plot.right)
    assert (plot.py(0.01), plot.py(0.99)) == (300 - plot.bottom, plot.top)
    assert plot.py(0) == plot.py(0.01) and plot.py(1) == plot.py(0.99)
    assert plot.py(0.5) == pytest.approx((300 - plot.bottom + plot.top) / 2)


@pytest.mark.parametrize(("low", "high"), [(0.0001, 0.999), (0.004, 0.02), (0.3, 0.6), (0.9, 0.999)])
def test_odds_ticks_keep_their_distance(low, high):
    scale = log_odds(low, high)
    places = [scale(tick) for tick, _ in odds_ticks(low, high)]
    assert len(places) >= 2
    assert all(b - a >= 0.1 for a, b in pairwise(places))


def test_charts_stay_inside_their_frame(results):
    for draw in (charts.roc, charts.gain, charts.calibration, charts.net_benefit):
        picture = draw(results.metrics)
        paths = re.findall(r'class="line[^"]*" d="([^"]+)"', picture)
        assert paths and "nan" not in picture
        for path in paths:
            for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path):
                assert -1 <= float(x) <= 451 and -1 <= float(y) <= 361


def test_text_in_a_drawing_is_escaped():
    plot = Plot("a < b", linear(0, 1), linear(0, 1))
    plot.label(0, 0, "<b>")
    assert "a &lt; b" in plot.svg() and "<b>" not in plot.svg()


def test_useless_scores_are_drawn_as_well(make_results):
    """Net benefit that leaves the frame and comes back is not drawn across the gap."""
    few = make_results(subjects=40, seed=5)
    model = few.metrics["models"]["blend"]
    values = [0.01 if i % 10 else -5.0 for i in range(41)]
    metrics = few.metrics | {"models": {"blend": model | {"net_benefit": values}}}
    paths = re.findall(r'class="line m-blend" d="([^"]+)"', charts.net_benefit(metrics))
    assert len(paths) == 4
