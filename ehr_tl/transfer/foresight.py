"""What follows a prediction time: which codes occur within which horizon."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Many
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from ehr_tl import schema
from ehr_tl.errors import RunError
from ehr_tl.events import Events
from ehr_tl.tokens.batches import ranges
from ehr_tl.tokens.records import HOUR, Records, read_records
from ehr_tl.tokens.sequences import Sequences

log = logging.getLogger("ehr_tl")

_DAY = 24 * HOUR
_NEVER = np.iinfo(np.int64).max // 2


@dataclass(frozen=True)
class Hospital:
    """One source: its records, when its people died, and between when one may ask.

    Attributes:
        records: All events.
        death: Microseconds since 1970, a time beyond all others for the living, shape (S,).
        opens: The earliest honest prediction time.
        closes: Until when each is followed, shape (S,): to the export's end, or to where their record was cut.
        follows: Whether people are followed until `closes`. Where each patient's dates were moved by an amount
            of their own, nobody knows until when, and nothing can be foretold at random times.
    """

    records: Records
    death: np.ndarray
    opens: int
    closes: np.ndarray
    follows: bool

    def random_rows(
        self, per_subject: int, subjects: np.ndarray, max_slots: int, rng: np.random.Generator
    ) -> pl.DataFrame:
        """Random prediction times of subjects (positions), after their first event, before their death.

        Of people who are not followed it is the last event of every stretch of `max_slots // 2` slots, and so of their
        record: as `tokens.sequences` cuts a record, each of its slots is then looked back on from one of them.
        """
        if not self.follows:
            return self._ends(subjects, max_slots // 2)
        first = self.closes.copy()
        some = np.diff(self.records.first_event) > 0
        first[some] = self.records.time[self.records.first_event[:-1][some]]
        start = np.maximum(first, self.opens)[subjects]
        stop = np.minimum(self.death, self.closes)[subjects]
        drawn = start[:, None] + rng.random((len(subjects), per_subject)) * (stop - start)[:, None]
        ids = np.repeat(self.records.subjects[subjects], per_subject)
        rows = pl.DataFrame({"subject_id": ids, "prediction_time": drawn.ravel().astype(np.int64)})
        rows = rows.filter(np.repeat(start < stop, per_subject))
        return rows.with_columns(pl.col("prediction_time").cast(schema.TIME))

    def _ends(self, subjects: np.ndarray, slots: int) -> pl.DataFrame:
        records = self.records
        begin, end = records.subject_slots[subjects], records.subject_slots[subjects + 1]
        stretch, who = ranges(np.zeros_like(begin), -(-(end - begin) // slots))
        slot = np.minimum(begin[who] + (stretch + 1) * slots, end[who]) - 1
        last = records.time[records.slot_events[slot + 1] - 1]
        rows = pl.DataFrame({"subject_id": records.subjects[subjects[who]], "prediction_time": last})
        return rows.with_columns(pl.col("prediction_time").cast(schema.TIME))


def read_hospital(
    events: Events, slot_hours: float, exclude: np.ndarray | None = None, until: pl.DataFrame | None = None
) -> Hospital:
    """Reads one source; slots are as wide as its adapter says, else `slot_hours`.

    Of subjects whose ids are in `exclude`, or who have no row in `until`, nothing is read, not even which codes they
    have.

    Args:
        events: The events folder.
        slot_hours: Width of a slot.
        exclude: Ids of subjects, shape (n,).
        until: Columns `subject_id` and `prediction_time`: each subject's record is cut at their last prediction time,
            so that whatever comes later, death too, is not absent but unknown. None: no record is cut.

    Raises:
        RunError: The export's end is not known.
    """
    if schema.COMMON not in events.codes.columns and events.codes["description"].count():
        log.warning(
            "%s was converted before descriptions were counted: none is learned; convert it anew", events.folder
        )
    if events.export.end is None:
        raise RunError(f"{events.folder} does not tell when its export ended", expected="events with times")
    kept = events.subjects.select("subject_id").unique()
    if exclude is not None:
        kept = kept.filter(~pl.col("subject_id").is_in(exclude))
    if until is None:
        rows = kept.with_columns(prediction_time=pl.lit(datetime.max, schema.TIME))
    else:
        rows = until.join(kept, on="subject_id", how="semi")
    last = rows.group_by("subject_id").agg(pl.col("prediction_time").max()).sort("subject_id")
    whole = exclude is None and until is None
    records = read_records(events, None if whole else last, events.export.slot_hours or slot_hours)
    closes = np.minimum(last["prediction_time"].dt.timestamp("us").to_numpy(), _microseconds(events.export.end))
    deaths = events.scan().filter((pl.col("code") == schema.DEATH) & pl.col("time").is_not_null())
    dead = deaths.group_by("subject_id").agg(pl.col("time").min())
    known = dead.join(last.lazy(), on="subject_id").filter(pl.col("time") <= pl.col("prediction_time")).collect()
    death = np.full(len(records.subjects), _NEVER)
    place = np.searchsorted(records.subjects, known["subject_id"].to_numpy())
    death[place] = known["time"].dt.timestamp("us").to_numpy()
    opens = events.export.index_from
    opened = _microseconds(opens) if opens else -_NEVER
    return Hospital(records, death, opened, closes, not events.export.dates_shifted)


def _microseconds(time: Any) -> int:
    return int(pl.Series([time], dtype=schema.TIME).dt.timestamp("us")[0])


class Foresight:
    """Which outcomes follow within which horizons.

    Args:
        hospital: The source.
        outcomes: Codes; an event counts for its code and all ancestors, death for `MEDS_DEATH`.
        horizons_days: Lengths of the windows, ascending.
    """

    def __init__(self, hospital: Hospital, outcomes: Many[str], horizons_days: Many[int]):
        self.hospital, self.count = hospital, len(outcomes)
        self.horizons = np.array(horizons_days) * _DAY
        number = {code: i for i, code in enumerate(outcomes)}
        records = hospital.records
        lines = zip(records.codes, records.above)
        counted = [[number[name] for name in (code, *above) if name in number] for code, above in lines]
        self._first = np.cumsum([0, *map(len, counted)])
        self._counted = np.array([outcome for found in counted for outcome in found], dtype=np.int64)
        self._death = number[schema.DEATH]

    def targets(self, asked: Sequences, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether each outcome follows, and which windows had closed while the subject was followed.

        Args:
            asked: Rows over this hospital's records.
            rows: Positions, shape (R,).

        Returns:
            0 or 1, shape (R, outcomes, horizons), and a mask of shape (R, horizons).
        """
        records, time, subject = self.hospital.records, asked.time[rows], asked.subject[rows]
        last = records.event_order.count(subject, time + self.horizons[-1], "right")
        event, row = ranges(asked.last[rows], np.maximum(last, asked.last[rows]))
        _, earliest = np.unique(row * len(records.codes) + records.code[event], return_index=True)
        event, row = event[earliest], row[earliest]
        code = records.code[event]
        which, of = ranges(self._first[code], self._first[code + 1])
        wait = (records.time[event] - time[row])[of]
        target = np.zeros((len(rows), self.count, len(self.horizons)), dtype=np.float32)
        for h, horizon in enumerate(self.horizons):
            within = wait <= horizon
            target[row[of[within]], self._counted[which[within]], h] = 1
            target[:, self._death, h] = self.hospital.death[subject] - time <= horizon
        return target, time[:, None] + self.horizons <= self.hospital.closes[subject, None]
