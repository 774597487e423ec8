"""From windows to rows: which prediction times are labelled, which are current, and what each criterion cost."""

from __future__ import annotations

import logging
from datetime import datetime

import polars as pl

from ehr_tl.cohort.predicates import Predicates, alive
from ehr_tl.cohort.task import Constraint, Task
from ehr_tl.schema import COHORT, CURRENT, TIME


class Flow:
    """The flow table: how many rows and subjects each step left and cost."""

    def __init__(self, subjects: int):
        self.steps: list[dict[str, object]] = []
        self._rows, self._subjects = None, subjects

    def add(self, step: str, rows: pl.DataFrame) -> pl.DataFrame:
        """Notes what is left after a step; gives `rows` back."""
        subjects = rows["subject_id"].n_unique() if rows.height else 0
        lost = 0 if self._rows is None else self._rows - rows.height
        self.steps.append(
            {
                "step": step,
                "rows": rows.height,
                "subjects": subjects,
                "lost_rows": lost,
                "lost_subjects": self._subjects - subjects,
            }
        )
        self._rows, self._subjects = rows.height, subjects
        return rows


def windows(task: Task, predicates: Predicates) -> pl.DataFrame:
    """Every trigger with its windows, constraints not yet applied.

    Returns:
        `subject_id`, `trigger`, `prediction_time`, `_death` and `_until` (as in `Predicates.lives`), and per window
        `<name>.end` and the struct `<name>`, whose fields count the predicates in it.
    """
    from aces.query import query

    # Its warnings speak of rows that are filtered later on.
    logging.getLogger("aces").setLevel(logging.ERROR)
    found = query(task.aces(), predicates.frame)
    columns = {"subject_id": pl.Int64, "trigger": TIME, "prediction_time": TIME}
    if found.is_empty():
        return pl.DataFrame(schema={**columns, "_death": TIME, "_until": TIME})
    # ACES keeps a trigger whose windows could not be placed as a row without times.
    found = found.rename({"index_timestamp": "prediction_time"}).drop_nulls(["trigger", "prediction_time"])
    parts = []
    for name, window in task.aces().windows.items():
        side = "end" if window.root_node == "start" else "start"
        summary = pl.col(f"{name}.{side}_summary")
        parts += [summary.alias(name), summary.struct.field("timestamp_at_end").alias(f"{name}.end")]
    found = found.select(*columns, *parts)
    return found.join(predicates.lives.drop("first"), on="subject_id", how="left")


def labelled(
    task: Task, placed: pl.DataFrame, predicates: Predicates, flow: Flow, index_from: datetime | None, closes: datetime
) -> pl.DataFrame:
    """Rows whose outcome is known (`schema.COHORT`): every window closed by `closes`, whatever the label.

    A window of fixed length must have ended, also where the outcome came early: labelling only the early outcomes of
    windows that are still open would make the last rows all positive.
    """
    when = f"every {task.config.every}" if task.every else f"every {task.config.trigger}"
    static = [name for name, predicate in task.plain().items() if predicate.static]
    among = f", in subjects with {', '.join(static)}" if static else ""
    triggers = predicates.frame.filter(pl.col(task.config.trigger) > 0)
    rows = flow.add(f"Prediction times: {when}{among}", triggers)
    if placed.height < rows.height:
        flow.add("Every window has a beginning", placed)
    if placed.is_empty():
        return pl.DataFrame(schema=COHORT)
    rows = flow.add("Alive at the prediction time", placed.filter(alive("prediction_time")))
    if index_from:
        text = f"Prediction time from {index_from.date()} on"
        rows = flow.add(text, rows.filter(pl.col("prediction_time") >= index_from))
    for constraint in task.constraints:
        rows = flow.add(str(constraint), rows.filter(_holds(constraint)))
    ends = [pl.col(f"{name}.end") for name in task.config.windows]
    closed = pl.all_horizontal(end <= closes for end in ends)
    rows = flow.add(f"Outcome known: every window closed by {closes:%Y-%m-%d}", rows.filter(closed))
    if rows["_until"].count():
        followed = pl.all_horizontal(pl.col("_until").is_null() | (end <= pl.col("_until")) for end in ends)
        rows = flow.add("Every window closed before a death of unknown date", rows.filter(followed))
    label = ~_occurred(task) if task.config.absent else _occurred(task)
    rows = rows.sort("subject_id", "prediction_time", "trigger").select(
        "subject_id", "prediction_time", label.alias("boolean_value")
    )
    unique = rows.unique(["subject_id", "prediction_time"], keep="first", maintain_order=True)
    if unique.height < rows.height:
        flow.add("One row per subject and time", unique)
    return unique.cast(COHORT)


def current(task: Task, placed: pl.DataFrame, index_from: datetime | None, as_of: datetime) -> pl.DataFrame:
    """The latest row per subject whose outcome is still open at `as_of` (`schema.CURRENT`).

    Of a window that is still open only upper bounds can be judged: what it holds so far must not exceed them.
    """
    if placed.is_empty():
        return pl.DataFrame(schema=CURRENT)
    ends = pl.col(f"{task.label_window}.end")
    living = pl.col("_death").is_null() & pl.col("_until").is_null()
    open_now = (pl.col("prediction_time") <= as_of) & (ends > as_of) & ~_occurred(task) & living
    if index_from:
        open_now &= pl.col("prediction_time") >= index_from
    held = [_holds(constraint, open_at=as_of) for constraint in task.constraints]
    rows = placed.filter(open_now, *held).sort("subject_id", "prediction_time")
    return rows.unique("subject_id", keep="last", maintain_order=True).select(*CURRENT).cast(CURRENT)


def _occurred(task: Task) -> pl.Expr:
    return pl.col(task.label_window).struct.field(task.label) >= task.config.at_least


def _holds(constraint: Constraint, open_at: datetime | None = None) -> pl.Expr:
    """Whether a constraint holds; with `open_at`, whether it can still hold in a window that ends later."""
    count = pl.col(constraint.window).struct.field(constraint.predicate)
    holds = pl.lit(True)
    if constraint.most is not None:
        holds = holds & (count <= constraint.most)
    if constraint.least is not None:
        enough = count >= constraint.least
        if open_at is not None:
            enough = enough | (pl.col(f"{constraint.window}.end") > open_at)
        holds = holds & enough
    return holds
