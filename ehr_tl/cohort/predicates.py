"""Which events satisfy which predicate, as the table that ACES counts in: one row per subject and time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from ehr_tl.cohort.rise import Rise
from ehr_tl.cohort.task import INDEX, OR_EXPORT_END, Task
from ehr_tl.concepts import Hierarchy, concept, names_of
from ehr_tl.convert.units import meeting_codes
from ehr_tl.errors import PipelineError
from ehr_tl.events import Events
from ehr_tl.schema import BIRTH, DEATH, DISCHARGE, TIME

#: Codes after which nobody is at risk: a death, or a discharge whose disposition is HL7's "expired".
DEATH_CODES = (DEATH, f"{DISCHARGE}//exp")

ANY, RECORD_START = "_ANY_EVENT", "_RECORD_START"

_DAY = timedelta(days=1) - timedelta(microseconds=1)

#: Between the export's end and the row that stands for it: later than any prediction time, planned ones too.
AFTER = timedelta(days=36_525)


@dataclass(frozen=True)
class Predicates:
    """What the events say of a task's predicates up to the as-of date.

    Attributes:
        frame: `subject_id`, `timestamp` (unique together) and a count per predicate; only rows that matter.
        lives: `subject_id`, `first` (first event, birth excepted), `_death` (null while alive) and `_until` (the last
            event of those who are dead since nobody knows when; null for all others), static criteria met.
        counts: Predicate -> `events` and `subjects` that satisfy it.
        absent_codes: Codes and patterns of the outcome that no event has.
    """

    frame: pl.DataFrame
    lives: pl.DataFrame
    counts: dict[str, dict[str, int]]
    absent_codes: list[str]


def find_predicates(events: Events, task: Task, as_of: datetime, index_from: datetime | None) -> Predicates:
    """Evaluates a task's predicates over the events up to `as_of`.

    An event satisfies a predicate if its code, one of its other codes or one of their parents does, so a predicate may
    name the category or any of the codes that the hospital gave for the same fact. A code under a role
    (`VISIT_REASON//SNOMED//44054006`) does so by its whole name only. Bounds on the value are in the unit of the
    event. Dates at which nothing of use happened have no row. What a value must have risen above was measured before
    it, so a rise is known when it is.
    """
    known = (pl.col("time") <= as_of) | pl.col("time").is_null()
    seen = events.scan().filter(known)
    called = seen.with_columns(code=concept())
    names = _Names(called, events.hierarchy)
    plain = {name: predicate for name, predicate in task.plain().items() if name != INDEX}
    rises = task.rises()
    matched = {name: names.matching(name, predicate) for name, predicate in plain.items()}
    tests = [
        _test(predicate, matched[name], names).fill_null(False).cast(pl.Int64).alias(name)
        for name, predicate in plain.items()
        if name not in rises
    ]
    wanted = pl.Series(sorted(set().union(*matched.values())), dtype=pl.String).implode()
    columns = ["subject_id", pl.col("time").cast(TIME).alias("timestamp"), *tests]
    facts = called.filter(pl.col("code").is_in(wanted)).select(columns).collect()
    static = [name for name, predicate in plain.items() if predicate.static]
    lives = _lives(events.scan(), as_of)
    for name in static:
        met = facts.filter(pl.col("timestamp").is_null() & (pl.col(name) > 0))
        lives = lives.join(met, on="subject_id", how="semi")
    frame = facts.drop(static).drop_nulls("timestamp").join(lives.select("subject_id"), on="subject_id", how="semi")
    counts = {name: _count(facts, name) for name in plain if name not in rises}
    additions = [frame, lives.select("subject_id", timestamp="first")]
    for name, rise in rises.items():
        risen = _risen(called, rise, name, plain[name], matched[name], names)
        counts[name] = _count(risen, name)
        additions.append(risen.join(lives.select("subject_id"), on="subject_id", how="semi"))
    if task.every:
        additions.append(_index_times(lives, task.every, as_of, index_from))
        counts[INDEX] = _count(additions[-1], INDEX)
    frame = pl.concat(additions, how="diagonal").group_by("subject_id", "timestamp").agg(pl.all().sum())
    if _uses(task, ANY):
        frame = _with_any_event(frame, seen, lives)
    frame = _with_derived(_with_end(frame, lives, as_of), task, static, as_of)
    counts |= {name: _count(frame, name) for name in task.derived()}
    return Predicates(frame, lives, counts, _absent(task, plain, names))


class _Names:
    """The concepts of the events, each with everything it may be called."""

    def __init__(self, called: pl.LazyFrame, hierarchy: Hierarchy):
        concepts = called.select(pl.col("code").unique()).collect()["code"].drop_nulls().to_list()
        pairs = [(each, name) for each in concepts for code in names_of(each) for name in _known_as(code, hierarchy)]
        self.pairs = pl.DataFrame(pairs, schema={"concept": pl.String, "code": pl.String}, orient="row")

    def matching(self, name: str, predicate: Any) -> set[str]:
        """Concepts of events that satisfy a plain predicate, values left aside."""
        try:
            called = self.pairs.filter(_calls(predicate))
        except (ValueError, TypeError, pl.exceptions.PolarsError) as error:
            raise PipelineError(
                f"The task is wrong: the predicate {name!r} cannot be evaluated: {str(error).splitlines()[0]}",
                expected="a code, {any: [codes]} or {regex: pattern}",
            ) from None
        return set(called["concept"])

    def matching_on_scale(self, predicate: Any) -> set[str]:
        """Concepts that do so by another name than that of a code whose values are brought to another's scale."""
        on_scale = self.pairs.filter(~pl.col("code").is_in(meeting_codes()))
        return set(on_scale.filter(_calls(predicate))["concept"])


def _calls(predicate: Any) -> pl.Expr:
    from aces.config import PlainPredicateConfig

    return PlainPredicateConfig(code=predicate.code).MEDS_eval_expr()


def _known_as(code: str, hierarchy: Hierarchy) -> Iterable[str]:
    # A code under a role is not the fact itself: a visit because of a disease may be to rule it out, an allergy to a
    # drug is no dose of it. Such a code's last part is one of its parents, and it is called by its own name only.
    if any(code.endswith(f"//{parent}") for parent in hierarchy.parents.get(code, ())):
        return [code]
    return hierarchy.above(code)


def _test(predicate: Any, concepts: set[str], names: _Names) -> pl.Expr:
    if not concepts:
        return pl.lit(False)
    holds = dataclasses.replace(predicate, code={"any": sorted(concepts)}).MEDS_eval_expr()
    if predicate.value_min is None and predicate.value_max is None:
        return holds
    # A bound on glucose in mmol/L says nothing of a number that was brought to mg/dL.
    elsewhere = concepts - names.matching_on_scale(predicate)
    return holds & ~(pl.col("code").is_in(sorted(elsewhere)) & pl.col("source_value").is_not_null())


def _risen(
    called: pl.LazyFrame, rise: Rise, name: str, predicate: Any, concepts: set[str], names: _Names
) -> pl.DataFrame:
    """The times at which a predicate with a rise holds: `subject_id`, `timestamp` and its count."""
    values = called.filter(pl.col("code").is_in(sorted(concepts))).select(
        "subject_id",
        "unit",
        "numeric_value",
        timestamp=pl.col("time").cast(TIME),
        _holds=_test(predicate, concepts, names).fill_null(False),
    )
    risen = rise.found(values.collect()).filter("_holds")
    return risen.select("subject_id", "timestamp", pl.lit(1, pl.Int64).alias(name))


def _lives(events: pl.LazyFrame, as_of: datetime) -> pl.DataFrame:
    time, died = pl.col("time").cast(TIME), pl.col("code").is_in(DEATH_CODES)
    # A day of death ends at its last moment. Where no hour is told, nobody is known to be alive on that day.
    by_day = died & (time.dt.second() == 59) & (time.dt.microsecond() == 999_999)
    begun = pl.when(by_day).then(time - _DAY).otherwise(time) <= as_of
    timed = events.filter(pl.col("time").is_not_null() & (pl.col("code") != BIRTH) & begun)
    hour, day = time.filter(died & ~by_day).min(), time.filter(by_day).min()
    exact = hour.is_not_null() & (day.is_null() | (hour <= day))
    lives = timed.group_by("subject_id").agg(
        first=time.min(), last=time.max(), _death=pl.when(exact).then(hour).otherwise(day - _DAY)
    )
    undated = events.filter(pl.col("time").is_null() & (pl.col("code") == DEATH)).select("subject_id", undated=True)
    until = pl.when(pl.col("undated") & pl.col("_death").is_null()).then("last")
    joined = lives.join(undated.unique(), on="subject_id", how="left", maintain_order="left")
    return joined.select("subject_id", "first", "_death", _until=until).sort("subject_id").collect()


def _index_times(lives: pl.DataFrame, every: timedelta, as_of: datetime, index_from: datetime | None) -> pl.DataFrame:
    """as_of, as_of - every, ...: while the subject was known and alive, and not before `index_from`."""
    start = max(filter(None, (lives["first"].min(), index_from)), default=as_of)
    steps = range((as_of - start) // every + 1) if start <= as_of else ()
    grid = pl.DataFrame({"timestamp": [as_of - step * every for step in steps]}, schema={"timestamp": TIME})
    rows = lives.join(grid, how="cross").filter((pl.col("timestamp") >= pl.col("first")) & alive("timestamp"))
    return rows.select("subject_id", "timestamp", pl.lit(1, pl.Int64).alias(INDEX))


def alive(time: str) -> pl.Expr:
    """Whether a subject is known to be alive at the time in a column, beside the columns of `Predicates.lives`."""
    before_death = pl.col("_death").is_null() | (pl.col(time) < pl.col("_death"))
    return before_death & (pl.col("_until").is_null() | (pl.col(time) <= pl.col("_until")))


def _with_any_event(frame: pl.DataFrame, seen: pl.LazyFrame, lives: pl.DataFrame) -> pl.DataFrame:
    """All times of all events, for tasks that count them; ACES counts times, not events."""
    times = seen.drop_nulls("time").select("subject_id", timestamp=pl.col("time").cast(TIME))
    times = times.unique().collect().join(lives.select("subject_id"), on="subject_id", how="semi")
    joined = frame.join(times.with_columns(pl.lit(1, pl.Int64).alias(ANY)), on=["subject_id", "timestamp"], how="full")
    keys = [pl.coalesce(key, f"{key}_right").alias(key) for key in ("subject_id", "timestamp")]
    return joined.with_columns(keys).drop("subject_id_right", "timestamp_right").fill_null(0)


def _with_end(frame: pl.DataFrame, lives: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """A row per subject that stands for the end of the export."""
    end = lives.select("subject_id", pl.lit(as_of + AFTER).cast(TIME).alias("timestamp"))
    numbers = [pl.col(name).fill_null(0) for name in frame.columns[2:]]
    return pl.concat([frame, end], how="diagonal").with_columns(numbers).sort("subject_id", "timestamp")


def _with_derived(frame: pl.DataFrame, task: Task, static: list[str], as_of: datetime) -> pl.DataFrame:
    frame = frame.with_columns(pl.lit(1, pl.Int64).alias(name) for name in static)  # who did not meet them is gone
    for name, predicate in task.derived().items():
        frame = frame.with_columns(predicate.eval_expr().cast(pl.Int64).alias(name))
    first = pl.col("timestamp") == pl.col("timestamp").min().over("subject_id")
    if _uses(task, RECORD_START):
        frame = frame.with_columns(first.cast(pl.Int64).alias(RECORD_START))
    ended = pl.col("timestamp") > as_of
    # The row of the export's end counts nothing, also where a derived predicate holds for everybody.
    frame = frame.with_columns(pl.when(ended).then(0).otherwise(pl.col(n)).alias(n) for n in frame.columns[2:])
    return frame.with_columns(
        ((pl.col(name) > 0) | ended).cast(pl.Int64).alias(f"{name}{OR_EXPORT_END}") for name in task.ahead
    )


def _uses(task: Task, special: str) -> bool:
    return special in str(task.config.windows) or task.config.trigger == special


def _count(frame: pl.DataFrame, name: str) -> dict[str, int]:
    held = frame.filter(pl.col(name) > 0)
    return {"events": held.height, "subjects": held["subject_id"].n_unique()}


def _absent(task: Task, plain: dict[str, Any], names: _Names) -> list[str]:
    """Codes and patterns of the outcome that no event has."""
    absent = []
    for name in (name for name in task.outcome_predicates() if name in plain):
        code = plain[name].code
        single = [{"any": [item]} for item in code["any"]] if isinstance(code, dict) and "any" in code else [code]
        for item in single:
            if not names.matching(name, dataclasses.replace(plain[name], code=item)):
                absent.append(item["any"][0] if isinstance(item, dict) and "any" in item else _text(item))
    return absent


def _text(code: Any) -> str:
    return f"/{code['regex']}/" if isinstance(code, dict) else str(code)
