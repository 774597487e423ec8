"""The yearly task against a plain loop, and the boundaries of time: death and the as-of date."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ehr_tl.cohort import build_cohort
from ehr_tl.cohort.cohort import Cohort, _extract
from ehr_tl.config import TaskConfig

START, END = datetime(2015, 1, 1), datetime(2020, 1, 1)
CODES = ["visit", "risk", "outcome"]

TASK = TaskConfig(
    predicates={name: {"code": f"X//{name}"} for name in CODES},
    trigger="INDEX",
    every="200 days",
    windows={
        "lately": {
            "start": "end - 300 days",
            "end": "trigger",
            "start_inclusive": True,
            "end_inclusive": True,
            "has": {"visit": "(1, 3)"},
        },
        "history": {
            "start": None,
            "end": "trigger",
            "start_inclusive": True,
            "end_inclusive": True,
            "has": {"risk": "(1, None)", "outcome": "(None, 0)"},
            "index_timestamp": "end",
        },
        "outcome": {
            "start": "trigger",
            "end": "start + 400 days",
            "start_inclusive": False,
            "end_inclusive": True,
            "label": "outcome",
        },
    },
)

# Steps of ten days, so that events fall together, on prediction times and on bounds of windows.
LAST = (END - START).days // 10


def days(first: int = 0, last: int = LAST) -> st.SearchStrategy[datetime]:
    return st.integers(first, last).map(lambda n: START + timedelta(days=10 * n))


@st.composite
def records(draw) -> list[tuple]:
    """Events of three subjects, most of whom are asked about in some years."""
    events = [(1, datetime(1950, 1, 1), "MEDS_BIRTH")]
    for subject in (1, 2, 3):
        events += [(subject, time, "X//visit") for time in draw(st.lists(days(), min_size=4, max_size=14))]
        events += [(subject, time, "X//risk") for time in draw(st.lists(days(0, LAST // 3), max_size=2))]
        events += [(subject, time, "X//outcome") for time in draw(st.lists(days(LAST // 3), max_size=2))]
        events += [(subject, time, "MEDS_DEATH") for time in draw(st.lists(days(LAST // 3), max_size=1))]
    return events


as_ofs = days(LAST // 2)
quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def cohort_of(make_events) -> Callable[[list[tuple], datetime], Cohort]:
    """A cohort, empty ones too; folders of earlier examples stay, each has its own."""
    return lambda events, as_of: _extract(make_events(events, transaction_time=END), TASK, as_of)


def reference(events: list[tuple], as_of: datetime, end: datetime) -> tuple[list[tuple], list[tuple]]:
    """Labelled and current rows, by the definition."""
    labelled, current = [], []
    for subject in sorted({event[0] for event in events}):
        seen = [(time, code) for who, time, code in events if who == subject and time <= as_of]
        timed = [time for time, code in seen if code != "MEDS_BIRTH"]
        death = min((time for time, code in seen if code == "MEDS_DEATH"), default=None)
        index, latest = as_of, None
        while timed and index >= min(timed):
            at = index
            index -= timedelta(days=200)
            visits = sum(code == "X//visit" and at - timedelta(days=300) <= time <= at for time, code in seen)
            risk = any(code == "X//risk" and time <= at for time, code in seen)
            before = any(code == "X//outcome" and time <= at for time, code in seen)
            after = any(code == "X//outcome" and at < time <= at + timedelta(days=400) for time, code in seen)
            if not 1 <= visits <= 3 or not risk or before or (death is not None and at >= death):
                continue
            closes = at + timedelta(days=400)
            if closes <= min(as_of, end):
                labelled.append((subject, at, after))
            if closes > as_of and not after and death is None and latest is None:
                latest = at
        if latest is not None:
            current.append((subject, latest))
    return sorted(labelled), current


@quick
@given(records(), as_ofs)
def test_labelled_and_current_rows_are_those_of_a_plain_loop(cohort_of, events, as_of):
    cohort = cohort_of(events, as_of)
    labelled, current = reference(events, as_of, END)
    assert cohort.labelled.rows() == labelled
    assert cohort.current.rows() == current
    assert cohort.flow[-1]["rows"] == len(labelled)


@quick
@given(records(), as_ofs)
def test_no_row_lies_at_or_after_death(cohort_of, events, as_of):
    cohort = cohort_of(events, as_of)
    deaths = {subject: time for subject, time, code in events if code == "MEDS_DEATH"}
    assert all(time < deaths.get(subject, datetime.max) for subject, time, _ in cohort.labelled.rows())
    assert not {subject for subject, time in deaths.items() if time <= as_of} & set(cohort.current["subject_id"])


@quick
@given(records(), records(), as_ofs)
def test_nothing_after_the_as_of_date_changes_anything(cohort_of, past, others, as_of):
    past = [event for event in past if event[1] <= as_of] + [(1, as_of, "X//visit")]
    later = [(subject, max(time, as_of + timedelta(seconds=1)), code) for subject, time, code in others]
    without, with_future = cohort_of(past, as_of), cohort_of(past + later, as_of)
    assert without.labelled.equals(with_future.labelled)
    assert without.current.equals(with_future.current)
    assert (without.predicates, without.absent_codes) == (with_future.predicates, with_future.absent_codes)


@quick
@given(records())
def test_no_event_after_the_prediction_time_moves_or_removes_a_row(cohort_of, events):
    """Labels apart, a row depends on what came before it: the criteria look back only."""
    cut = END - timedelta(days=800)
    until = pl.col("prediction_time") <= cut
    rows = [
        cohort_of(seen, END).labelled.filter(until).select("subject_id", "prediction_time")
        for seen in (events, [event for event in events if event[1] <= cut])
    ]
    assert rows[0].equals(rows[1])


def test_the_public_function_extracts_the_same(make_events):
    events = [(who, START + timedelta(days=200 * n), "X//visit") for who in (1, 2) for n in range(9)]
    events += [(who, START, "X//risk") for who in (1, 2)] + [(1, START + timedelta(days=900), "X//outcome")]
    cohort = build_cohort(make_events(events, transaction_time=END), TASK)
    labelled, current = reference(events, END, END)
    assert (cohort.labelled.rows(), cohort.current.rows()) == (labelled, current)
    assert cohort.labelled["boolean_value"].any()
