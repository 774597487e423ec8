"""The whole of metrics.json on made-up scores."""

import json
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from ehr_tl import schema
from ehr_tl.config import EvaluationConfig
from ehr_tl.evaluate import FROM_SCRATCH, evaluate
from ehr_tl.evaluate.metrics import sigmoid
from ehr_tl.evaluate.sentence import sentence

CONFIG = EvaluationConfig(resamples=60, capacity=20)
MODELS = (schema.LIGHTGBM, schema.FINETUNED, schema.BLEND)


def made_up(subjects=300, years=4, base=-2.5, seed=0):
    """Scores, cohort, comparison and people: three models of rising skill and one for comparison."""
    generator = np.random.default_rng(seed)
    ids = np.repeat(np.arange(subjects), years)
    times = [datetime(2020, 1, 1) + timedelta(days=365 * int(i)) for i in np.tile(np.arange(years), subjects)]
    truth = base + generator.normal(0, 1.5, subjects)[ids]
    labels = generator.random(len(ids)) < sigmoid(truth)
    key = pl.DataFrame({"subject_id": ids, "prediction_time": times}).cast({"prediction_time": schema.TIME})
    cohort = key.with_columns(boolean_value=pl.Series(labels))
    current = pl.DataFrame({"subject_id": np.arange(subjects), "prediction_time": [datetime(2026, 1, 1)] * subjects})

    def scored(name, noise):
        frames = []
        for split, rows, truths in ((schema.HELD_OUT, key, truth), (schema.CURRENT_SPLIT, current, truth[::years])):
            logit = truths + generator.normal(0, noise, len(truths))
            frames.append(
                rows.with_columns(
                    pl.col("prediction_time").cast(schema.TIME),
                    model=pl.lit(name),
                    split=pl.lit(split),
                    chosen=pl.lit(name == schema.BLEND),
                    logit=pl.Series(logit),
                    risk=pl.Series(sigmoid(logit)),
                    base=pl.lit(base),
                    lower=pl.Series(sigmoid(logit - 1)),
                    upper=pl.Series(sigmoid(logit + 1)),
                    abstained=pl.Series(generator.random(len(truths)) < 0.05),
                    reason=pl.lit(None, pl.String),
                ).select(list(schema.SCORES))
            )
        return pl.concat(frames)

    scores = pl.concat([scored(name, noise) for name, noise in zip(MODELS, (1.5, 1.0, 0.3))])
    comparison = key.with_columns(model=pl.lit(FROM_SCRATCH), logit=pl.Series(truth + generator.normal(0, 3, len(ids))))
    people = pl.DataFrame(
        {
            "subject_id": np.arange(subjects),
            "birth": [datetime(1930 + 80 * i // subjects, 5, 1) for i in range(subjects)],
            "sex": ["female" if i % 2 else "male" for i in range(subjects)],
        }
    ).cast({"birth": schema.TIME})
    return scores, cohort, comparison, people


@pytest.fixture(scope="module")
def inputs():
    return made_up()


@pytest.fixture(scope="module")
def result(inputs):
    scores, cohort, comparison, people = inputs
    return evaluate(scores, cohort, comparison, CONFIG, people)


def test_is_json_without_nan(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_rows_need_not_be_in_order(inputs, result):
    scores, cohort, comparison, people = inputs
    shuffled = scores.sample(fraction=1, shuffle=True, seed=1), cohort.sample(fraction=1, shuffle=True, seed=2)
    assert evaluate(*shuffled, comparison, CONFIG, people) == result


def test_every_model_is_measured_on_all_held_out_rows(inputs, result):
    scores, cohort, _, _ = inputs
    assert result["held_out"]["rows"] == cohort.height
    assert result["held_out"]["outcomes"] == cohort["boolean_value"].sum()
    assert set(result["models"]) == {*MODELS, FROM_SCRATCH}
    rows = scores.filter((pl.col("split") == "held_out") & (pl.col("model") == "blend"))
    joined = rows.join(cohort, on=["subject_id", "prediction_time"])
    estimate = result["models"]["blend"]["auroc"]
    assert estimate["value"] == pytest.approx(roc_auc_score(joined["boolean_value"], joined["logit"]), rel=1e-5)
    assert estimate["lower"] < estimate["value"] < estimate["upper"]


def test_differences_are_paired_and_signed(result):
    pairs = {(d["first"], d["second"]): d for d in result["differences"]}
    assert set(pairs) == {
        ("blend", "local_lightgbm"),
        ("blend", "finetuned"),
        ("finetuned", FROM_SCRATCH),
    }
    difference = pairs["finetuned", FROM_SCRATCH]["auroc"]
    models = result["models"]
    assert difference["value"] == pytest.approx(
        models["finetuned"]["auroc"]["value"] - models[FROM_SCRATCH]["auroc"]["value"], abs=1e-5
    )
    assert 0 < difference["lower"] < difference["upper"]


def test_the_best_single_model_is_none_of_the_blend_and_the_comparison(inputs, result):
    scores, cohort, comparison, people = inputs
    assert result["best_single"] == schema.FINETUNED
    better = comparison.with_columns(logit=pl.lit(0.0)).join(cohort, on=["subject_id", "prediction_time"])
    better = better.with_columns(logit=pl.col("boolean_value").cast(pl.Float64)).drop("boolean_value")
    assert evaluate(scores, cohort, better, CONFIG, people)["best_single"] == schema.FINETUNED


def test_the_sentence_has_the_figures_of_the_models(result):
    blend, local = (result["models"][name]["auroc"] for name in (schema.BLEND, schema.LIGHTGBM))
    shown = [f"{each['value']:.2f} ({each['lower']:.2f}-{each['upper']:.2f})" for each in (blend, local)]
    people = result["held_out"]["subjects_with_outcome"]
    told = f"transferred {shown[0]}, local LightGBM {shown[1]}."
    assert result["sentence"] == f"With your 300 cases ({people} with the outcome): {told}"


def test_the_sentence_without_transfer_and_without_figures():
    nothing = {"auroc": {"value": None, "lower": None, "upper": None}}
    held_out = {"subjects": 1234, "subjects_with_outcome": 1}
    found = sentence(held_out, {schema.LIGHTGBM: nothing}, schema.LIGHTGBM)
    assert found == "With your 1,234 cases (1 with the outcome): local LightGBM cannot be told."
    found = sentence(held_out, {schema.LOGISTIC: nothing, schema.BLEND: nothing}, schema.BLEND)
    assert found.endswith(": blend cannot be told, local logistic regression cannot be told.")


def test_capacity_is_a_share_of_the_current_patients(result):
    assert result["capacity"] == {
        "patients": 20,
        "of": 300,
        "current": True,
        "share": 20 / 300,
        "held_out_rows": 80,
    }


def test_capacity_without_current_patients_counts_held_out_rows(inputs):
    scores, cohort, comparison, people = inputs
    result = evaluate(scores.filter(pl.col("split") == "held_out"), cohort, comparison, CONFIG, people)
    assert result["capacity"]["of"] == 1200 and not result["capacity"]["current"]


def test_subgroups_cover_every_row_and_refuse_small_ones(result):
    for group in ("sex", "age"):
        assert sum(s["rows"] for s in result["subgroups"] if s["group"] == group) == 1200
    refused = [s for s in result["subgroups"] if s["auroc"]["value"] is None]
    assert refused and all("fewer than 10 people" in s["auroc"]["reason"] for s in refused)
    stated = [s for s in result["subgroups"] if s["auroc"]["value"] is not None]
    assert {s["value"] for s in stated} >= {"female", "male"}


def test_few_outcomes_are_flagged():
    result = evaluate(*made_up(subjects=60, base=-4.0, seed=3)[:2], None, CONFIG, made_up(60)[3])
    assert result["enough"]["ok"] is False
    assert FROM_SCRATCH not in result["models"]


def test_abstained_rows_are_counted_and_left_out_of_one_figure_only(inputs, result):
    scores = inputs[0].filter("chosen")
    expected = scores.filter((pl.col("split") == "held_out") & pl.col("abstained")).height
    assert result["abstained"]["held_out"] == {"rows": 1200, "abstained": expected}
    assert result["abstained"]["auroc_of_the_rest"] is not None
