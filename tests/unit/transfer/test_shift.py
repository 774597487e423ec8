"""How far a hospital lies from the sources of a checkpoint, on made-up vocabularies."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_tl import schema
from ehr_tl.tokens.vocabulary import QUANTILES, Vocabulary
from ehr_tl.transfer import shift as module
from ehr_tl.transfer.shift import DIFFERS, ENOUGH, LIKE, OUTSIDE, Shift, shift, stability

DAY = datetime(2024, 1, 1)
GLUCOSE = "LOINC//2345-7"
ROWS = pl.DataFrame(
    {"subject_id": [1, 2, 3, 4], "prediction_time": [DAY] * 4, "boolean_value": [True, False, False, False]},
    schema=schema.COHORT,
)


def quantiles(values):
    return [float(f"{q:.6g}") for q in np.quantile(values.astype(np.float32), QUANTILES)]


def glucose(n, seed, times=1.0, spread=30.0):
    return times * np.random.default_rng(seed).normal(100, spread, n)


@pytest.fixture
def sources(tmp_path):
    """A checkpoint that knows glucose and one code without values; no weights are needed."""
    edges = {GLUCOSE: {"mg/dL": quantiles(glucose(20_000, 1))}}
    vocabulary = Vocabulary([GLUCOSE, "SNOMED//1"], [schema.AGE, GLUCOSE], edges, {}, {}, 64)
    vocabulary.save(tmp_path / "vocabulary.json")
    return tmp_path


def of(values, write_events, sources, more=(), **options) -> Shift:
    facts = [(i + 1, DAY, GLUCOSE, float(v), "mg/dL") for i, v in enumerate(values)]
    return shift(write_events([*facts, *more]), ROWS, sources, options.get("tasks", ()))


def test_values_drawn_as_at_the_sources_are_like_theirs(write_events, sources):
    found = of(glucose(400, 2), write_events, sources)
    assert found.verdict == LIKE and found.judged[0]["verdict"] == LIKE and not found.unlikely
    assert found.values[0]["quantile"] == pytest.approx(0.5, abs=0.1)
    assert found.values[0]["ratio"] == pytest.approx(1, abs=0.1)


def test_a_shift_lies_outside_and_a_small_one_differs(write_events, sources):
    assert of(glucose(400, 2) + 40, write_events, sources).verdict == OUTSIDE
    assert of(glucose(4000, 2) + 12, write_events, sources).verdict == DIFFERS


def test_another_unit_is_named(write_events, sources):
    (row,) = of(glucose(400, 2, times=1 / 18), write_events, sources).unlikely
    assert row["code"] == GLUCOSE and row["quantile"] == 0 and row["ratio"] == pytest.approx(1 / 18, rel=0.1)
    (row,) = of(glucose(400, 2, times=18), write_events, sources).unlikely
    assert row["quantile"] == 1 and row["ratio"] == pytest.approx(18, rel=0.1)


@pytest.mark.parametrize(("subjects", "judged"), [(ENOUGH - 1, 0), (ENOUGH, 1)])
def test_no_verdict_on_few_subjects(write_events, sources, subjects, judged):
    found = of(glucose(subjects, 2, times=18), write_events, sources)
    assert len(found.judged) == len(found.unlikely) == judged
    assert found.values[0]["subjects"] == subjects and (found.verdict is None) == (not judged)


def test_many_values_of_few_subjects_are_no_more_than_these(write_events, sources):
    """Ten days of one subject, all alike, are one observation of the population."""
    levels = np.repeat(glucose(40, 3), 10)
    facts = [(i // 10 + 1, DAY + timedelta(days=i), GLUCOSE, float(v), "mg/dL") for i, v in enumerate(levels)]
    (row,) = shift(write_events(facts), ROWS, sources, ()).values
    assert (row["subjects"], row["values"], row["verdict"]) == (40, 400, LIKE)


def test_chance_alone_seldom_gives_a_verdict():
    edges = quantiles(glucose(50_000, 1))
    for subjects in (30, 100, 400):
        verdicts = [module._place(glucose(subjects, seed), edges, subjects)["verdict"] for seed in range(200)]
        assert verdicts.count(LIKE) >= 190


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=60, max_size=300))
def test_the_index_of_the_same_values_is_next_to_nothing_however_they_tie(values):
    values = np.array(values, dtype=float)
    assert 0 <= stability(values, quantiles(values)) < 0.05


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 5), st.floats(-3, 3))
def test_the_index_is_that_of_the_definition_where_nothing_ties(seed, scale, move):
    values, edges = (
        np.random.default_rng(seed).normal(move, scale, 500),
        np.array(quantiles(glucose(9_000, 1))) / 100 - 1,
    )
    counts, _ = np.histogram(values.astype(np.float32), [-np.inf, *edges[1:-1].astype(np.float32), np.inf])
    q = np.diff([0, *QUANTILES[1:-1], 1])
    p = (counts + q) / 501
    assert stability(values, edges) == pytest.approx(np.sum((p - q) * np.log(p / q)), rel=1e-6)


def test_values_in_a_unit_without_quantiles_are_not_compared(write_events, sources):
    facts = [(i, DAY, GLUCOSE, 5.0, "mmol/L") for i in range(1, 50)]
    assert shift(write_events(facts), ROWS, sources, ()).values == []


def test_a_checkpoint_that_knows_no_values_gives_no_verdict(write_events, tmp_path):
    Vocabulary(["SNOMED//1"], [schema.AGE], {}, {}, {}, 64).save(tmp_path / "vocabulary.json")
    found = of(glucose(50, 2), write_events, tmp_path)
    assert found.values == [] and found.verdict is None and found.warnings == []


def test_names_common_codes_that_the_checkpoint_does_not_know(write_events, sources):
    more = [(i, DAY, code) for i in range(1, 11) for code in ("LOCAL//a", "SNOMED//1", "VISIT_START//IMP", "TEXT//b")]
    more += [(i, DAY, "LOCAL//rare") for i in range(1, 10)]
    found = of(glucose(50, 2), write_events, sources, more)
    assert found.added == [{"code": "LOCAL//a", "description": None, "share": 0.2}]


class Source:
    """Source models as far as a shift asks for them."""

    class Trees:
        columns = pl.DataFrame({"code": [GLUCOSE, "SNOMED//1", "SNOMED//1", "SNOMED//2"]})

        class booster:
            feature_importance = staticmethod(lambda kind: np.array([5.0, 2.0, 3.0, 0.0]))

    def __init__(self):
        self.models = {"stroke": self.Trees()}
        self.tasks = {"stroke": {"rows": 100, "positives": 5}, "falls": {"rows": 300, "positives": 3}}


def test_prevalence_is_compared_where_the_question_is_a_source_task(write_events, sources, monkeypatch):
    monkeypatch.setattr(module, "_source", lambda path: Source())
    found = of(glucose(50, 2), write_events, sources, tasks=["stroke", "falls"])
    assert found.prevalence == {"here": 0.25, "sources": 0.02}
    assert found.times == pytest.approx(12.5) and found.rarer_or_commoner
    assert of(glucose(50, 2), write_events, sources).prevalence is None
    assert not of(glucose(50, 2), write_events, sources).rarer_or_commoner


def test_names_what_the_sources_trees_rely_on_and_nobody_here_has(write_events, sources, monkeypatch):
    monkeypatch.setattr(module, "_source", lambda path: Source())
    found = of(glucose(50, 2), write_events, sources, tasks=["stroke"])
    assert found.lacking == [{"code": "SNOMED//1", "weight": 0.5, "share": 0.0}]


def test_a_code_that_others_here_stand_below_is_not_lacking(write_events, sources, monkeypatch):
    monkeypatch.setattr(module, "_source", lambda path: Source())
    facts = [(i, DAY, "LOCAL//below", 1.0, "mg") for i in range(1, 21)]
    events = write_events(facts, parents={"LOCAL//below": ["SNOMED//1"]})
    assert [each["code"] for each in shift(events, ROWS, sources, ["stroke"]).lacking] == [GLUCOSE]


def test_is_read_back_as_it_was_written(write_events, sources):
    found = of(glucose(50, 2), write_events, sources, tasks=["stroke"])
    assert Shift.from_json(found.to_json()) == found and found.to_json()["verdict"] == found.verdict


@pytest.mark.parametrize(
    ("verdicts", "overall"),
    [
        ([LIKE, LIKE, OUTSIDE], LIKE),
        ([LIKE, DIFFERS], DIFFERS),
        ([LIKE, LIKE, DIFFERS, OUTSIDE], DIFFERS),
        ([LIKE, OUTSIDE], OUTSIDE),
        ([None, None], None),
        ([], None),
    ],
)
def test_half_of_the_codes_decide(verdicts, overall):
    rows = [{"verdict": verdict} for verdict in verdicts]
    assert Shift("x", 100, rows, [], [], None).verdict == overall
