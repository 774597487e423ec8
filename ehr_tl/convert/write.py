"""Events as tables and as MEDS shards, whole subjects in each, in bounded memory."""

from __future__ import annotations

from pathlib import Path

import meds
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_tl import schema
from ehr_tl.convert.emit import Event
from ehr_tl.files import remove

_BUFFER = 100_000
_SUBJECTS_PER_SHARD = 250
_ORDER = ["subject_id", "time", "code", "resource_id"]


def table_of(events: list[Event]) -> pl.DataFrame:
    """Events as `schema.EVENTS`."""
    columns = zip(*events, strict=True) if events else [()] * len(Event._fields)
    table = dict(zip(Event._fields, columns, strict=True))
    concepts = table.pop("concept")
    table["code"] = [concept.code for concept in concepts]
    table["source_code"] = [concept.source for concept in concepts]
    table["other_codes"] = [concept.others or None for concept in concepts]
    return pl.DataFrame({name: table[name] for name in schema.EVENTS}, schema=schema.EVENTS)


class Shards:
    """Collects events and spreads them over shards by subject.

    Args:
        folder: Where `data/` is made.
        subjects: Number of subjects, which decides the number of shards.
    """

    def __init__(self, folder: Path, subjects: int):
        self._data, self._parts = folder / "data", folder / "parts"
        self._number = shards_for(subjects)
        self._buffer: list[pl.DataFrame] = []
        self._buffered = self._flushes = 0

    def add(self, events: pl.DataFrame) -> None:
        self._buffer.append(events)
        self._buffered += events.height
        if self._buffered >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        """Writes what is buffered, a part for every shard."""
        if not self._buffered:
            return
        frame = pl.concat(self._buffer)
        self._flushes += 1
        self._buffer, self._buffered = [], 0
        sharded = frame.with_columns(shard=shard_of(self._number))
        for (shard,), part in sharded.partition_by("shard", as_dict=True, include_key=False).items():
            part.write_parquet(self._part(shard), compression="lz4")

    def _part(self, shard: int) -> Path:
        folder = self._parts / f"{shard:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self._flushes:06d}.parquet"

    def finish(self) -> None:
        """Sorts each shard by subject and time, and writes it; MEDS types."""
        self._flush()
        self._data.mkdir()
        for shard in range(self._number):
            parts = sorted((self._parts / f"{shard:05d}").glob("*.parquet"))
            if parts or shard == 0:
                frame = pl.read_parquet(parts, glob=False) if parts else pl.DataFrame(schema=schema.EVENTS)
                write_shard(frame, self._data / shard_name(shard))
        remove(self._parts)


def shards_for(subjects: int) -> int:
    """Number of shards: enough that each is small. The first is there even if it is empty."""
    return max(1, -(-subjects // _SUBJECTS_PER_SHARD))


def shard_of(shards: int) -> pl.Expr:
    """The shard that an event belongs to."""
    return pl.col("subject_id") % shards


def shard_name(shard: int) -> str:
    """The file of a shard, in `data/`."""
    return f"{shard:05d}.parquet"


def write_shard(events: pl.DataFrame, path: Path) -> None:
    pq.write_table(shard_table(events), path, compression="zstd")


def shard_table(events: pl.DataFrame) -> pa.Table:
    """A shard as it is written: sorted by subject and time, the same in whatever order its events came."""
    last = pl.col("other_codes").list.join("\n")
    ordered = events.sort(*_ORDER, *(name for name in schema.EVENTS if name not in (*_ORDER, "other_codes")), last)
    return meds.DataSchema.align(ordered.to_arrow())
