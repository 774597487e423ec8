"""Writes events as MEDS shards, whole subjects in each, in bounded memory."""

from __future__ import annotations

from collections.abc import Set
from datetime import date, datetime, timedelta
from pathlib import Path

import meds
import polars as pl
import pyarrow.parquet as pq

from ehr_tl import schema
from ehr_tl.convert.emit import Event
from ehr_tl.files import remove

_BUFFER = 100_000
_SUBJECTS_PER_SHARD = 250
#: What lies this far beyond all other events, and is at most this share of them, is taken for mistyped. So are a few
#: events beyond those of a crowd: for a year nobody came, and then one.
_GAP, _STRAYS, _FEW, _CROWD = timedelta(days=366), 0.001, 5, 10
_ORDER = ["subject_id", "time", "code", "resource_id"]


class Shards:
    """Collects events and spreads them over shards by subject.

    Args:
        folder: Where `data/` is made.
        subjects: Number of subjects, which decides the number of shards.
        vague: Times that stand for a month or year; the set may grow while events are added.
    """

    def __init__(self, folder: Path, subjects: int, vague: Set[datetime] = frozenset()):
        self._vague = vague
        self._data, self._parts = folder / "data", folder / "parts"
        self._number = max(1, -(-subjects // _SUBJECTS_PER_SHARD))
        self._few = _FEW if subjects >= _CROWD else 0
        self._buffer: list[Event] = []
        self._flushes = 0
        self._days: dict[date, tuple[int, datetime]] = {}
        self.events = 0

    def add(self, events: list[Event]) -> None:
        self._buffer += events
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        """Writes what is buffered, a part for every shard."""
        if not self._buffer:
            return
        subject, time, concept, number, text, unit, visit, resource = zip(*self._buffer)
        frame = pl.DataFrame(
            {
                "subject_id": subject,
                "time": time,
                "code": [one.code for one in concept],
                "numeric_value": number,
                "text_value": text,
                "unit": unit,
                "visit_id": visit,
                "resource_id": resource,
                "source_code": [one.source for one in concept],
                "other_codes": [one.others or None for one in concept],
            },
            schema=schema.EVENTS,
        )
        self._flushes += 1
        self.events += frame.height
        self._count_days(frame)
        self._buffer = []
        sharded = frame.with_columns(shard=pl.col("subject_id") % self._number)
        for (shard,), part in sharded.partition_by("shard", as_dict=True, include_key=False).items():
            part.write_parquet(self._part(shard), compression="lz4")

    def _part(self, shard: int) -> Path:
        folder = self._parts / f"{shard:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self._flushes:06d}.parquet"

    def _count_days(self, frame: pl.DataFrame) -> None:
        timed = frame.filter((pl.col("code") != schema.BIRTH) & pl.col("time").is_not_null())
        if self._vague:
            timed = timed.filter(~pl.col("time").is_in(pl.Series(list(self._vague), dtype=schema.TIME).implode()))
        for day, count, last in (
            timed.group_by(pl.col("time").dt.date()).agg(pl.len(), pl.max("time").alias("last")).rows()
        ):
            before, latest = self._days.get(day, (0, last))
            self._days[day] = (before + count, max(latest, last))

    def finish(self) -> None:
        """Sorts each shard by subject and time, and writes it; MEDS types."""
        self._flush()
        self._data.mkdir(parents=True)
        for shard in range(self._number):
            parts = sorted((self._parts / f"{shard:05d}").glob("*.parquet"))
            if parts or shard == 0:
                frame = pl.read_parquet(parts, glob=False) if parts else pl.DataFrame(schema=schema.EVENTS)
                table = meds.DataSchema.align(frame.sort(_ORDER, nulls_last=False).to_arrow())
                pq.write_table(table, self._data / f"{shard:05d}.parquet", compression="zstd")
        remove(self._parts)

    def span(self) -> tuple[datetime | None, datetime | None, int]:
        """The first day, the latest event, and how many lie far beyond it and do not count: a year is soon mistyped."""
        days = sorted(self._days)
        end, strays, beyond, most = len(days), 0, 0, max(self._few, _STRAYS * self.events)
        for place in range(len(days) - 1, 0, -1):
            beyond += self._days[days[place]][0]
            if beyond > most:
                break
            if days[place] - days[place - 1] > _GAP:
                end, strays = place, beyond
        if not days:
            return None, None, 0
        return datetime.combine(days[0], datetime.min.time()), self._days[days[end - 1]][1], strays
