from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehr_tl import schema
from ehr_tl.config import EvaluationConfig, LightGBMConfig, Pipeline, TaskConfig
from ehr_tl.errors import CohortError, RunError
from ehr_tl.files import read_json, write_json
from ehr_tl.models.base import PARTS, Attribution
from ehr_tl.models.combination import Combination
from ehr_tl.models.crossfit import CrossFit, fit_crossfit
from ehr_tl.models.fitting import Labelled
from ehr_tl.models.gradient_boosting import GradientBoostingLearner
from ehr_tl.models.pairs import PairFits, pair_folder, pairs_of

FOLDS = 4
CONFIG = Pipeline(
    "test",
    "Test",
    "?",
    "outcome",
    TaskConfig({}, "x", {}),
    lightgbm=LightGBMConfig(windows_days=(365,), rounds=25, trials=1),
    evaluation=EvaluationConfig(folds=FOLDS),
)


@dataclass
class RateConfig:
    scale: float = 1.0


@dataclass
class Rate:
    """A model whose logit is a line in the subject's number; it remembers whom it saw."""

    slope: float
    saw: list[int]

    def logit(self, inputs, index):
        return self.slope * inputs[index]

    def save(self, folder: Path) -> None:
        write_json(folder / "model.json", {"slope": self.slope, "saw": self.saw})


class RateLearner:
    comparison = False
    related = False

    @property
    def share(self):
        return float(self.as_is)

    def __init__(self, name: str, scale: float = 1.0, as_is: bool = False):
        self.name, self.config, self.as_is = name, RateConfig(scale), as_is

    def prepare(self, events, rows):
        return rows["subject_id"].to_numpy().astype(float) % 7 - 3

    def fit(self, inputs, labels, train, *, seed, state):
        (state / "began").touch()
        assert not np.isnan(labels[train]).any()
        slope = self.config.scale * (1 + (0 if self.as_is else seed % 1000) / 5000)
        return Rate(float(slope), sorted(set(train.tolist())))

    def load(self, folder):
        return Rate(**read_json(folder / "model.json"))

    def base(self, models, inputs, index):
        return [np.full(len(index), model.slope) for model in models]

    def explain(self, models, inputs, index):
        row = np.arange(len(index), dtype=np.uint32)
        return [
            Attribution(
                np.full(len(index), model.slope),
                pl.concat(
                    pl.DataFrame({"row": row, "kind": "feature", "code": code, "shap": part}, schema=PARTS)
                    for code, part in (
                        ("SHARED", model.logit(inputs, index)),
                        (self.name, np.full(len(row), -model.slope)),
                    )
                ).sort("row", maintain_order=True),
            )
            for model in models
        ]


def two_learners():
    return [RateLearner(schema.LIGHTGBM), RateLearner(schema.TRANSFORMER, 2.0)]


@pytest.fixture
def hospital(cohort):
    return cohort(subjects=60)


def test_no_fit_sees_its_pair_of_folds_or_unlabelled_subjects(hospital, tmp_path):
    events, rows = hospital
    fitted = fit_crossfit(two_learners(), events, rows, CONFIG, tmp_path / "models")
    labelled = rows.filter(pl.col("boolean_value").is_not_null())
    fold = labelled.join(fitted.folds, on="subject_id", how="left", maintain_order="left")["fold"].to_numpy()
    for pair in pairs_of(FOLDS):
        saw = read_json(pair_folder(tmp_path / "models", schema.TRANSFORMER, pair) / "model.json")["saw"]
        assert saw == np.flatnonzero(~np.isin(fold, pair)).tolist()
    assert not list((tmp_path / "models").rglob(".state*"))


def test_sites_are_held_out_whole_where_they_are_given(hospital, tmp_path):
    events, rows = hospital
    by_site = replace(CONFIG, evaluation=replace(CONFIG.evaluation, sites="NOISE//", folds=3))
    fitted = fit_crossfit(two_learners(), events, rows, by_site, tmp_path / "models")
    assert fitted.folds.group_by("site").agg(pl.col("fold").n_unique())["fold"].to_list() == [1, 1, 1]
    first = events.scan().filter(pl.col("code").str.starts_with("NOISE//")).sort("time", "code").collect()
    home = dict(first.group_by("subject_id").agg(pl.col("code").first()).iter_rows())
    assert all(home[subject] == site for subject, _, site in fitted.folds.iter_rows())
    assert CrossFit.load(tmp_path / "models", two_learners()).score(events, rows).equals(fitted.score(events, rows))


def test_folds_share_positive_subjects_evenly(hospital, tmp_path):
    events, rows = hospital
    fitted = fit_crossfit(two_learners(), events, rows, CONFIG, tmp_path / "models")
    positive = rows.filter("boolean_value")["subject_id"].unique()
    counts = fitted.folds.group_by("fold").agg(n=pl.len(), p=pl.col("subject_id").is_in(positive.implode()).sum())
    assert counts["n"].max() - counts["n"].min() <= 1 and counts["p"].max() - counts["p"].min() <= 1
    assert fitted.folds.height == rows.filter(pl.col("boolean_value").is_not_null())["subject_id"].n_unique()


def test_scores_are_the_mean_of_models_that_did_not_see_the_subject(hospital, tmp_path):
    events, rows = hospital
    learners = two_learners()
    fitted = fit_crossfit(learners, events, rows, CONFIG, tmp_path / "models")
    scores = fitted.score(events, rows).filter(pl.col("model") == schema.LIGHTGBM)
    fold = dict(fitted.folds.rows())
    inputs = learners[0].prepare(events, rows)
    slopes = {p: learners[0].load(pair_folder(tmp_path / "models", schema.LIGHTGBM, p)).slope for p in pairs_of(FOLDS)}
    combinations = fitted.ensembles[schema.LIGHTGBM].combinations

    def expected(i: int, x: float) -> float:
        logits = [combinations[i].calibration(np.array(s * x)) for p, s in slopes.items() if i in p]
        assert len(logits) == FOLDS - 1
        return float(np.mean(logits))

    poolings = fitted.ensembles[schema.LIGHTGBM].poolings
    for subject, x, logit in zip(rows["subject_id"], inputs, scores["logit"]):
        own = [fold[subject]] if subject in fold else range(FOLDS)
        pooling = poolings[fold.get(subject, FOLDS)]
        mean = np.mean([expected(i, x) for i in own])
        assert logit == pytest.approx(pooling.intercept + pooling.slope * mean, abs=1e-9)


def test_scores_keep_their_contract(hospital, tmp_path):
    events, rows = hospital
    fitted = fit_crossfit(two_learners(), events, rows, CONFIG, tmp_path / "models")
    scores = fitted.score(events, rows)
    assert scores.schema == pl.Schema(schema.SCORES)
    assert scores.height == 3 * rows.height
    assert scores.filter("chosen")["model"].unique().to_list() == [schema.BLEND]
    assert (scores["lower"] < scores["risk"]).all() and (scores["risk"] < scores["upper"]).all()
    assert np.allclose(scores["risk"], 1 / (1 + np.exp(-scores["logit"].to_numpy())))
    assert (scores["abstained"] == scores["reason"].is_not_null()).all()


def test_explanations_of_every_model_add_up_to_its_scores(hospital, tmp_path):
    events, rows = hospital
    fitted = fit_crossfit(two_learners(), events, rows, CONFIG, tmp_path / "models")
    scores, found = fitted.score(events, rows), fitted.attributions(events, rows)
    assert list(found) == [schema.LIGHTGBM, schema.TRANSFORMER, schema.BLEND]
    for model, attribution in found.items():
        own = scores.filter(pl.col("model") == model)
        np.testing.assert_allclose(attribution.logit(), own["logit"], atol=1e-6)
        np.testing.assert_allclose(attribution.base, own["base"], atol=1e-9)
    codes = found[schema.BLEND].parts.filter(pl.col("row") == 3)["code"].to_list()
    assert sorted(codes) == sorted(["SHARED", schema.LIGHTGBM, schema.TRANSFORMER])


def test_held_out_labels_do_not_reach_a_subjects_score(hospital, tmp_path):
    events, rows = hospital
    before = fit_crossfit([GradientBoostingLearner(CONFIG.lightgbm)], events, rows, CONFIG, tmp_path / "one")
    # Two subjects of one fold exchange their outcomes: the dealing stays as it is.
    fold = dict(before.folds.rows())
    label = dict(rows.drop_nulls("boolean_value").select("subject_id", "boolean_value").rows())
    positive = next(s for s in label if label[s])
    negative = next(s for s in label if not label[s] and fold[s] == fold[positive])
    swapped = rows.with_columns(
        boolean_value=pl.when(pl.col("subject_id").is_in([positive, negative]))
        .then(~pl.col("boolean_value"))
        .otherwise("boolean_value")
    )
    same_folds = before.folds
    after = _fit_with_folds(events, swapped, same_folds, tmp_path / "two")
    first, second = (fitted.score(events, rows) for fitted in (before, after))
    own = rows["subject_id"].is_in([s for s in fold if fold[s] == fold[positive]]).to_numpy()
    np.testing.assert_array_equal(first["logit"].to_numpy()[own], second["logit"].to_numpy()[own])
    assert (first["logit"].to_numpy()[~own] != second["logit"].to_numpy()[~own]).any()


def _fit_with_folds(events, rows, folds: pl.DataFrame, folder: Path) -> CrossFit:
    from ehr_tl.models import fitting

    def dealt(subject, label, count, seed):
        return (
            pl.DataFrame({"subject_id": subject})
            .join(folds, on="subject_id", how="left", maintain_order="left")["fold"]
            .to_numpy()
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "subject_folds", dealt)
        return fit_crossfit([GradientBoostingLearner(CONFIG.lightgbm)], events, rows, CONFIG, folder)


def test_an_interrupted_fit_goes_on_where_it_stopped(hospital, tmp_path, monkeypatch):
    events, rows = hospital
    whole = fit_crossfit(two_learners(), events, rows, CONFIG, tmp_path / "whole").score(events, rows)
    fitted, original = [], PairFits.fit

    def dies_at_the_fourth(self, pair):
        if len(fitted) == 3:
            raise KeyboardInterrupt
        original(self, pair)
        fitted.append((self.learner.name, pair))

    monkeypatch.setattr(PairFits, "fit", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        fit_crossfit(two_learners(), events, rows, CONFIG, tmp_path / "models")
    with pytest.raises(RunError, match=r"crossfit\.json"):
        CrossFit.load(tmp_path / "models", two_learners())
    first = list(fitted)

    def counted(self, pair):
        original(self, pair)
        fitted.append((self.learner.name, pair))

    monkeypatch.setattr(PairFits, "fit", counted)
    resumed = fit_crossfit(two_learners(), events, rows, CONFIG, tmp_path / "models")
    assert len(first) == 3 and len(fitted) == len(set(fitted)) == 2 * len(pairs_of(FOLDS))
    assert resumed.score(events, rows).equals(whole)


def test_fits_of_other_rows_are_not_taken_for_these(hospital, tmp_path):
    events, rows = hospital
    fit_crossfit(two_learners(), events, rows, CONFIG, tmp_path / "models")
    fewer = rows.filter(pl.col("subject_id") != rows["subject_id"][0])
    again = fit_crossfit(two_learners(), events, fewer, CONFIG, tmp_path / "models")
    fresh = fit_crossfit(two_learners(), events, fewer, CONFIG, tmp_path / "fresh")
    assert again.score(events, fewer).equals(fresh.score(events, fewer))


def test_workers_give_what_one_process_gives(hospital, tmp_path):
    events, rows = hospital
    learner = GradientBoostingLearner(CONFIG.lightgbm)
    alone = fit_crossfit([learner], events, rows, CONFIG, tmp_path / "alone")
    together = fit_crossfit([learner], events, rows, CONFIG, tmp_path / "together", threads=2)
    assert alone.score(events, rows).equals(together.score(events, rows))


def test_a_loaded_crossfit_scores_new_subjects_and_known_ones_held_out(cohort, tmp_path):
    events, rows = cohort(subjects=60)
    learners = [GradientBoostingLearner(CONFIG.lightgbm)]
    fitted = fit_crossfit(learners, events, rows, CONFIG, tmp_path / "models")
    loaded = CrossFit.load(tmp_path / "models", learners)
    assert loaded.score(events, rows).equals(fitted.score(events, rows))
    assert loaded.chosen == schema.LIGHTGBM
    other, new = cohort(subjects=8, seed=1, first=1_000, current=8, folder="other")
    scores = loaded.score(other, new)
    assert scores.height == new.height and scores["logit"].is_finite().all()
    np.testing.assert_allclose(loaded.attributions(other, new)[schema.LIGHTGBM].logit(), scores["logit"], atol=1e-6)
    assert loaded.score(other, new.clear()).is_empty()


def test_a_comparison_is_evaluated_but_not_scored(hospital, tmp_path):
    events, rows = hospital
    beside = RateLearner("transformer_from_scratch", 0.5)
    beside.comparison = True
    fitted = fit_crossfit([*two_learners(), beside], events, rows, CONFIG, tmp_path / "models")
    assert "transformer_from_scratch" not in fitted.score(events, rows)["model"]
    compared = pl.read_parquet(tmp_path / "models" / "comparison.parquet")
    assert compared["model"].unique().to_list() == ["transformer_from_scratch"]
    assert compared.height == rows["boolean_value"].count() and compared["logit"].is_finite().all()


def test_a_learner_without_weight_is_not_explained(hospital, tmp_path, monkeypatch):
    events, rows = hospital
    fitted = fit_crossfit(two_learners(), events, rows, CONFIG, tmp_path / "models")

    def without(each: Combination) -> Combination:
        return replace(each, weights={**each.weights, schema.TRANSFORMER: 0.0})

    blend = fitted.ensembles[schema.BLEND]
    blend = replace(blend, combinations=tuple(map(without, blend.combinations)))
    alone = replace(fitted, ensembles={schema.LIGHTGBM: fitted.ensembles[schema.LIGHTGBM], schema.BLEND: blend})
    scores = alone.score(events, rows)
    monkeypatch.setattr(alone.learners[schema.TRANSFORMER], "explain", None)
    for name, attribution in alone.attributions(events, rows).items():
        np.testing.assert_allclose(attribution.logit(), scores.filter(model=name)["logit"], atol=1e-6)


def test_what_the_sources_taught_is_scored_as_it_stands(hospital, tmp_path):
    events, rows = hospital
    learners = [RateLearner(schema.LIGHTGBM), RateLearner(schema.SOURCE, 1.5, as_is=True)]
    fitted = fit_crossfit(learners, events, rows, CONFIG, tmp_path / "models")
    scores, found = fitted.score(events, rows), fitted.attributions(events, rows)
    assert list(found) == [schema.LIGHTGBM, schema.SOURCE, schema.RECALIBRATED, schema.BLEND] == list(fitted.ensembles)
    own = scores.filter(pl.col("model") == schema.SOURCE)
    expected = fitted._fitted[schema.SOURCE][(0, 1)].logit(learners[1].prepare(events, rows), np.arange(rows.height))
    np.testing.assert_allclose(own["logit"], expected, atol=1e-9)
    assert (own["lower"] < own["risk"]).all() and (own["risk"] < own["upper"]).all()  # it may not hold here
    for name, attribution in found.items():
        np.testing.assert_allclose(attribution.logit(), scores.filter(model=name)["logit"], atol=1e-6)
    blended = [each.shares for each in fitted.ensembles[schema.BLEND].combinations]
    assert all(sum(shares.values()) == pytest.approx(1) for shares in blended)
    assert CrossFit.load(tmp_path / "models", learners).score(events, rows).equals(scores)


def test_too_few_cases_are_the_users_to_know(cohort, tmp_path):
    events, rows = cohort(subjects=30)
    positive = rows.filter("boolean_value")["subject_id"].unique().sort()[:2]
    few = rows.with_columns(boolean_value=pl.col("boolean_value") & pl.col("subject_id").is_in(positive.implode()))
    with pytest.raises(CohortError, match="2 of them"):
        fit_crossfit(two_learners(), events, few, CONFIG, tmp_path / "models")


@pytest.mark.parametrize("wanted", [3, 5, 10])
@pytest.mark.parametrize("positive", range(4, 13))
def test_four_subjects_of_each_kind_are_enough(wanted, positive):
    """And every fit then sees two of each at least."""
    subject = np.arange(40)
    rows = pl.DataFrame(
        {"subject_id": subject, "prediction_time": None, "boolean_value": subject < positive, "split": "held_out"},
        schema=schema.ROWS,
    )
    dealt = Labelled.of(rows, EvaluationConfig(folds=wanted))
    for pair in pairs_of(dealt.folds):
        assert dealt.label[~np.isin(dealt.fold, pair)].sum() >= 2


def test_models_of_another_format_or_pipeline_are_refused(hospital, tmp_path):
    events, rows = hospital
    fit_crossfit(two_learners(), events, rows, CONFIG, tmp_path / "models")
    with pytest.raises(RunError, match="transformer"):
        CrossFit.load(tmp_path / "models", [RateLearner(schema.LIGHTGBM)])
    write_json(tmp_path / "models" / "crossfit.json", {"version": 0})
    with pytest.raises(RunError, match="another version"):
        CrossFit.load(tmp_path / "models", two_learners())
