"""Outcomes that are a rise of a value, or that count only if they come more than once."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from ehr_tl.cohort import build_cohort, compile_task
from ehr_tl.config import TaskConfig
from ehr_tl.errors import PipelineError

ADMISSION = datetime(2020, 1, 1)
RISE = {"add": 0.3, "times": 1.5, "over": "48 hours"}


def task(at_least: int = 1, **outcome) -> TaskConfig:
    """An outcome on the second day, asked at the end of the first."""
    return TaskConfig(
        predicates={"admission": {"code": "VISIT_START//ACUTE"}, "outcome": {"code": "LAB", **outcome}},
        trigger="admission",
        at_least=at_least,
        windows={
            "first_day": {
                "start": "trigger",
                "end": "start + 24 hours",
                "start_inclusive": False,
                "end_inclusive": True,
                "index_timestamp": "end",
            },
            "second_day": {
                "start": "first_day.end",
                "end": "start + 24 hours",
                "start_inclusive": False,
                "end_inclusive": True,
                "label": "outcome",
            },
        },
    )


@pytest.fixture
def who_has(make_events):
    def label(config: TaskConfig, patients: dict[str, list[tuple]]) -> set[str]:
        """Of patients with values (hour, value) those who are labelled with the outcome; two are always there."""
        patients = {"never": [(1, 1.0), (30, 1.0)], "always": [(1, 1.0), (30, 9.0), (31, 9.0)], **patients}
        names, facts = list(patients), []
        for subject, values in enumerate(patients.values()):
            facts += [(subject, ADMISSION, "VISIT_START//ACUTE"), (subject, ADMISSION + timedelta(days=9), "LATER")]
            facts += [(subject, ADMISSION + timedelta(hours=hour), "LAB", value) for hour, value in values]
        rows = build_cohort(make_events(facts), config).labelled
        assert rows.height == len(patients)
        return {names[subject] for subject in rows.filter("boolean_value")["subject_id"]} - {"always"}

    return label


def test_a_value_is_risen_that_lies_above_the_lowest_of_the_hours_before(who_has):
    assert who_has(
        task(rise=RISE),
        {
            "by-the-sum": [(1, 1.0), (30, 1.3)],
            "not-quite": [(1, 1.0), (30, 1.29)],
            "by-the-factor": [(1, 0.4), (30, 0.6)],
            "above-the-lowest-not-the-last": [(1, 1.0), (10, 1.2), (30, 1.35)],
            "after-a-fall": [(1, 2.0), (26, 1.0), (40, 1.4)],
            "on-the-first-day": [(1, 1.0), (20, 2.0), (30, 1.1)],
            "fallen": [(1, 2.0), (30, 1.0)],
            "never-before": [(30, 5.0)],
            "at-one-time": [(30, 1.0), (30, 5.0)],
            "no-value": [(1, None), (30, 5.0), (31, None)],
            "too-long-ago": [(-20, 1.0), (30, 5.0)],
            "just-in-time": [(-18, 1.0), (30, 5.0)],
            "after-the-window": [(1, 1.0), (49, 5.0)],
        },
    ) == {"by-the-sum", "by-the-factor", "above-the-lowest-not-the-last", "after-a-fall", "just-in-time"}


def test_of_sum_and_factor_one_is_enough_and_a_bound_on_the_value_holds_too(who_has):
    patients = {"sum": [(1, 4.0), (30, 4.4)], "factor": [(1, 0.2), (30, 0.4)], "both": [(1, 1.0), (30, 2.0)]}
    assert who_has(task(rise={"add": 0.3, "over": "2 days"}), patients) == {"sum", "both"}
    assert who_has(task(rise={"times": 1.5, "over": "2 days"}), patients) == {"factor", "both"}
    assert who_has(task(rise=RISE, value_min=1.5), patients) == {"sum", "both"}


def test_values_in_another_unit_are_not_compared(tmp_path, make_events):
    import polars as pl

    facts = [(s, ADMISSION, "VISIT_START//ACUTE") for s in (1, 2)]
    facts += [(s, ADMISSION + timedelta(hours=hour), "LAB", float(hour)) for s in (1, 2) for hour in (1, 30)]
    events = make_events([*facts, (1, ADMISSION + timedelta(days=9), "LATER")])
    file = events.folder / "data" / "0.parquet"
    other = (pl.col("subject_id") == 2) & (pl.col("numeric_value") > 20)
    table = pl.read_parquet(file).with_columns(unit=pl.when(other).then(pl.lit("umol/L")).otherwise(pl.lit("mg/dL")))
    table.write_parquet(file)
    assert dict(build_cohort(events, task(rise=RISE)).labelled.select("subject_id", "boolean_value").iter_rows()) == {
        1: True,
        2: False,
    }


def test_an_outcome_may_have_to_come_more_than_once(who_has):
    patients = {"once": [(30, 9.0)], "twice": [(30, 9.0), (47, 8.0)], "once-in-time": [(20, 9.0), (30, 9.0)]}
    assert who_has(task(value_min=5), patients) == {"once", "twice", "once-in-time"}
    assert who_has(task(value_min=5, at_least=2), patients) == {"twice"}


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        ({"rise": 0.3}, "'outcome': rise is 0.3. Expected: keys over"),
        ({"rise": {"over": "2 days"}}, "rise does not say how high"),
        ({"rise": {"add": 0.3}}, "rise: .*over"),
        ({"rise": {"add": -1, "over": "2 days"}}, "rise: add is -1"),
        ({"rise": {"times": 0.5, "over": "2 days"}}, "rise: times is 0.5"),
        ({"rise": {"add": 1, "over": "often"}}, "rise: over is 'often'"),
        ({"rise": {"add": 1, "ovr": "2 days"}}, "rise: unknown key 'ovr'"),
        ({"rise": RISE, "static": True}, "is static and asks for a rise"),
        ({"rize": RISE}, "unknown key 'rize'.*Did you mean 'rise'"),
    ],
)
def test_what_is_wrong_in_a_rise_is_told(outcome, message):
    with pytest.raises(PipelineError, match=message):
        compile_task(task(**outcome))
