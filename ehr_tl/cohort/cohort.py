"""The cohort: who is asked about and when, what became of them, and who can be acted on now."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from ehr_tl.cohort import extract
from ehr_tl.cohort.predicates import find_predicates
from ehr_tl.cohort.task import INDEX, compile_task
from ehr_tl.config import Pipeline, TaskConfig
from ehr_tl.errors import CohortError, EhrTlError, RunError
from ehr_tl.events import STALE, Events
from ehr_tl.files import read_json, whole, write_json
from ehr_tl.schema import BIRTH, COHORT, CURRENT
from ehr_tl.wording import counted

log = logging.getLogger("ehr_tl")

#: Fewer subjects with the outcome than this cannot be spread over folds, tell skill from chance, or do so closely.
TRAINABLE, EVALUABLE, COMFORTABLE = 5, 20, 100

#: How many codes an error names.
NAMED = 8


@dataclass(frozen=True)
class Cohort:
    """Rows of a task in one export.

    Attributes:
        labelled: Rows whose outcome is known (`schema.COHORT`), sorted.
        current: Rows to act on, outcome unknown, one per subject at most (`schema.CURRENT`).
        flow: Per step `step`, `rows`, `subjects` (left after it), `lost_rows`, `lost_subjects`.
        predicates: Per predicate, how many `events` and `subjects` satisfy it; for derived ones, times instead.
        absent_codes: Codes and patterns of the outcome that no event has.
        as_of: The as-of date (naive UTC); nothing after it was looked at.
        horizon: From the prediction time to the end of the outcome window; None where an event ends it.
    """

    labelled: pl.DataFrame
    current: pl.DataFrame
    flow: list[dict[str, Any]]
    predicates: dict[str, dict[str, int]]
    absent_codes: list[str]
    as_of: datetime
    horizon: timedelta | None

    @property
    def positives(self) -> int:
        """Rows with the outcome."""
        return int(self.labelled["boolean_value"].sum())

    @property
    def positive_subjects(self) -> int:
        """Subjects with the outcome in one row at least."""
        return self.labelled.filter("boolean_value")["subject_id"].n_unique()

    def write(self, folder: str | Path) -> None:
        """Writes cohort.parquet, current.parquet and flow.json."""
        folder = Path(folder)
        for name, table in (("cohort", self.labelled), ("current", self.current)):
            with whole(folder / f"{name}.parquet") as path:
                table.write_parquet(path)
        write_json(
            folder / "flow.json",
            {
                "as_of": self.as_of.isoformat(),
                "horizon_seconds": self.horizon.total_seconds() if self.horizon else None,
                "flow": self.flow,
                "predicates": self.predicates,
                "absent_codes": self.absent_codes,
            },
        )

    @classmethod
    def read(cls, folder: str | Path) -> Cohort:
        """Reads what `write` wrote.

        Raises:
            RunError: A file is missing.
        """
        folder = Path(folder)
        missing = [n for n in ("cohort.parquet", "current.parquet", "flow.json") if not (folder / n).is_file()]
        if missing:
            raise RunError(f"{folder} has no {missing[0]}", fix=f"run `ehr-tl cohort {folder}` first")
        told = read_json(folder / "flow.json")
        return cls(
            labelled=pl.read_parquet(folder / "cohort.parquet", glob=False).cast(COHORT),
            current=pl.read_parquet(folder / "current.parquet", glob=False).cast(CURRENT),
            flow=told["flow"],
            predicates=told["predicates"],
            absent_codes=told["absent_codes"],
            as_of=datetime.fromisoformat(told["as_of"]),
            horizon=None if told["horizon_seconds"] is None else timedelta(seconds=told["horizon_seconds"]),
        )


def build_cohort(events: Events, task: TaskConfig, as_of: datetime | None = None) -> Cohort:
    """Extracts the cohort of a task.

    A row is labelled only if all its windows had closed by the export's end and by `as_of`. No row lies at or after
    death. Where dates are shifted per patient, nobody is current and windows of fixed length are taken as closed.

    Args:
        events: Events of one export.
        task: The task of a pipeline file.
        as_of: The date to act on, naive UTC; the export's end if None. Later events are not looked at.

    Raises:
        PipelineError: The task is wrong.
        CohortError: There is no row, or all have the same label.
    """
    cohort = _extract(events, task, as_of)
    if events.export.dates_shifted and cohort.horizon:
        log.warning("Dates are shifted per patient: an outcome window of fixed length is taken to have closed")
    labels = cohort.labelled["boolean_value"]
    if labels.is_empty():
        raise CohortError(
            f"The cohort is empty. {_where_lost(cohort)} {_matches(cohort)}",
            expected="prediction times that meet every criterion and whose outcome window closed before the end",
            fix=_advice(cohort),
        )
    if labels.n_unique() == 1:
        rows = f"{labels.len():,} rows of the cohort"
        raise CohortError(
            f"{f'All {rows} have' if labels[0] else f'None of the {rows} has'} the outcome. {_matches(cohort)}",
            expected="rows with and rows without the outcome",
            fix=_advice(cohort),
        )
    return cohort


def current_cohort(events: Events, task: TaskConfig, as_of: datetime | None = None) -> Cohort:
    """Who can be scored now, in an export that need not tell any outcome; no row is labelled.

    Raises:
        PipelineError: The task is wrong.
        CohortError: Nobody is current.
    """
    cohort = _extract(events, task, as_of)
    if cohort.current.is_empty():
        shifted = "dates are shifted per patient, so nobody is current. " if events.export.dates_shifted else ""
        raise CohortError(
            f"Nobody can be scored as of {cohort.as_of:%Y-%m-%d}: {shifted}{_matches(cohort)}",
            expected="patients who meet the task's criteria, whose outcome is open",
            fix="name a date within the records with --as-of, or use an export with newer records",
        )
    return replace(cohort, labelled=cohort.labelled.clear())


def feasibility(events: Events, pipeline: Pipeline, as_of: datetime | None = None) -> dict[str, Any]:
    """Whether a pipeline can be run on these events, before anything is trained; never raises for poor data.

    Returns:
        `rows`, `subjects`, `positives`, `positive_subjects`, `current`, `enough` (bool), `verdict` (in words),
        `predicates` and `absent_codes`.
    """
    try:
        cohort = _extract(events, pipeline.task, as_of)
    except EhrTlError as error:
        numbers = dict.fromkeys(("rows", "subjects", "positives", "positive_subjects", "current"), 0)
        return {**numbers, "enough": False, "verdict": str(error), "predicates": {}, "absent_codes": []}
    subjects = cohort.labelled["subject_id"].n_unique()
    scarce = min(cohort.positive_subjects, cohort.labelled.filter(~pl.col("boolean_value"))["subject_id"].n_unique())
    return {
        "rows": cohort.labelled.height,
        "subjects": subjects,
        "positives": cohort.positives,
        "positive_subjects": cohort.positive_subjects,
        "current": cohort.current.height,
        "enough": scarce >= EVALUABLE,
        "verdict": _verdict(cohort, scarce),
        "predicates": cohort.predicates,
        "absent_codes": cohort.absent_codes,
    }


def _extract(events: Events, config: TaskConfig, as_of: datetime | None) -> Cohort:
    task, export = compile_task(config), events.export
    if export.end is None:
        raise CohortError(
            "The cohort is empty: the export has no event with a time",
            expected="events of which it is known when they were recorded",
            fix="look at events/metadata/coverage.json: it says what was set aside, and why",
        )
    as_of = export.end if as_of is None else _checked(as_of, events)
    index_from, closes = task.index_from(export), min(as_of, export.end)
    predicates = find_predicates(events, task, as_of, index_from)
    placed = extract.windows(task, predicates)
    flow = extract.Flow(events.subjects.height)
    labelled = extract.labelled(task, placed, predicates, flow, index_from, closes)
    current = extract.current(task, placed, index_from, as_of)
    return Cohort(
        labelled=labelled,
        current=current.clear() if export.dates_shifted else current,
        flow=flow.steps,
        predicates=predicates.counts,
        absent_codes=predicates.absent_codes,
        as_of=as_of,
        horizon=task.horizon,
    )


def _checked(as_of: datetime, events: Events) -> datetime:
    """The as-of date, if the records speak of it."""
    end = events.export.end
    timed = events.scan().filter(pl.col("code") != BIRTH).select(pl.col("time").min())
    first = timed.collect().item() or end
    if not first <= as_of <= end + STALE:
        raise CohortError(
            f"The as-of date {as_of:%Y-%m-%d} is "
            + ("before all records" if as_of < first else "more than a year after the end of the records"),
            expected=f"a day between {first:%Y-%m-%d} and {end:%Y-%m-%d}, or soon after",
            fix="name such a day with --as-of, leave it out to take the last one, or use an export that reaches it",
        )
    if as_of.date() > end.date():
        log.warning(
            "The records end on %s: of what happened from then to %s, the as-of date, nothing is known",
            f"{end:%Y-%m-%d}",
            f"{as_of:%Y-%m-%d}",
        )
    return as_of


def _matches(cohort: Cohort) -> str:
    told = [f"{name} {n['events']:,} times in {n['subjects']:,} subjects" for name, n in cohort.predicates.items()]
    text, absent = f"The predicates matched: {'; '.join(told)}.", cohort.absent_codes
    if not absent:
        return text
    more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
    return f"{text} Codes of the outcome that never occur: {', '.join(absent[:NAMED])}{more}."


def _where_lost(cohort: Cohort) -> str:
    emptied = next(step for step in cohort.flow if step["rows"] == 0)
    return f"Nothing was left after the step {emptied['step']!r}, which took {counted(emptied['lost_rows'], 'row')}."


def _advice(cohort: Cohort) -> str:
    never = [name for name, n in cohort.predicates.items() if n["events"] == 0 and name != INDEX]
    if never:
        return (
            f"add the codes that this hospital uses for {', '.join(never)} to `task: predicates:` in the pipeline "
            "(`ehr-tl doctor EXPORT` lists what is in the export), or map its codes in the adapter's concept_maps/"
        )
    if cohort.labelled.is_empty():
        return "loosen that criterion, shorten the outcome window, or use an export that covers more time"
    return "change the length of the outcome window, the criteria or the outcome's codes, or use a larger export"


def _verdict(cohort: Cohort, scarce: int) -> str:
    if cohort.labelled.is_empty():
        return f"cannot run: no row. {_where_lost(cohort)}"
    if scarce == 0:
        return "cannot run: all rows have the same label"
    if scarce < TRAINABLE:
        return f"too few to train: {scarce} subjects in the smaller class, {TRAINABLE} at least"
    if scarce < EVALUABLE:
        return f"too few to tell skill from chance: {scarce} subjects in the smaller class, {EVALUABLE} at least"
    if scarce < COMFORTABLE:
        return f"enough to try, with wide intervals: {scarce} subjects in the smaller class"
    return f"enough: {scarce} subjects in the smaller class"
