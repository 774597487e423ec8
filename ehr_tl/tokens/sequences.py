"""Rows of a cohort as sequences of time slots that end where the prediction is made.

A sequence is a stretch of one subject's slots together with the rows that are answered from it. Each row adds a *query
slot*, which holds the events of the slot that its prediction time interrupts, up to and including that time. A query
slot sees the whole slots before it and itself; nothing sees a query slot. So any number of rows share one pass through
the network, and a row's answer depends neither on what comes after it nor on what else is asked.

A long record is cut by counting from its beginning, so that the stretch a row looks back on is a matter of its past
alone: with h = max_slots // 2, a row after p whole slots belongs to chunk c = p // h and sees the slots from
max(0, c - 1) * h to p.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ehr_tl.tokens.records import HOUR, Records


@dataclass(frozen=True)
class Sequence:
    """Slots `start` to `stop` (positions in `Records`) of a subject, and the `rows` answered from them, by time."""

    subject: int
    start: int
    stop: int
    rows: np.ndarray

    def __len__(self) -> int:
        return self.stop - self.start + len(self.rows)


@dataclass(frozen=True)
class Sequences:
    """Rows to be answered from records.

    Attributes:
        records: The events up to each subject's last row.
        subject: Position of each row's subject in `records.subjects`, shape (n,).
        time: Prediction time in microseconds since 1970, shape (n,).
        slot: Each row's first slot that is not whole at its prediction time, shape (n,).
        first, last: Each row's query slot holds the events `first` to `last`, shape (n,).
        max_slots: Upper bound of the whole slots that a row looks back on.
    """

    records: Records
    subject: np.ndarray
    time: np.ndarray
    slot: np.ndarray
    first: np.ndarray
    last: np.ndarray
    max_slots: int

    def __len__(self) -> int:
        return len(self.time)

    @property
    def start(self) -> np.ndarray:
        """First slot that each row sees, shape (n,)."""
        begin, half = self.records.subject_slots[self.subject], self.max_slots // 2
        return begin + np.maximum(0, (self.slot - begin) // half - 1) * half

    def group(self, index: np.ndarray) -> list[Sequence]:
        """The fewest sequences that answer the rows `index` (positions, each once)."""
        half = self.max_slots // 2
        chunk = (self.slot - self.records.subject_slots[self.subject]) // half
        order = index[np.lexsort((self.time[index], chunk[index], self.subject[index]))]
        new = np.r_[True, (np.diff(self.subject[order]) != 0) | (np.diff(chunk[order]) != 0)][: len(order)]
        start = self.start
        return [
            Sequence(int(self.subject[rows[0]]), int(start[rows[0]]), int(self.slot[rows].max()), rows)
            for rows in np.split(order, np.flatnonzero(new)[1:])
            if len(rows)
        ]


def build_sequences(records: Records, rows: pl.DataFrame, max_slots: int) -> Sequences:
    """Finds what each row may know.

    Args:
        records: Holds the subjects of `rows`.
        rows: Columns `subject_id` and `prediction_time`.
        max_slots: Upper bound of the slots that a row looks back on; a row sees at least half as many if it has them.
    """
    subject = np.searchsorted(records.subjects, rows["subject_id"].to_numpy())
    time = rows["prediction_time"].dt.timestamp("us").to_numpy()
    width = round(records.slot_hours * HOUR)
    slot = records.slot_order.count(subject, time // width * width, "left")
    last = records.event_order.count(subject, time, "right")
    return Sequences(records, subject, time, slot, np.minimum(records.slot_events[slot], last), last, max_slots)
