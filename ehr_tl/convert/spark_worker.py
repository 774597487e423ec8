"""What Spark's Python workers do: rows of Arrow batches to pieces, pieces to results, events to shards.

Workers know nothing of each other, nor of Spark's Java side. Rows come and go as `pyarrow.RecordBatch`es.
"""

from __future__ import annotations

import os
import pickle
import traceback
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial, wraps
from io import BytesIO
from itertools import chain, groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote
from uuid import uuid4

import numpy as np
import polars as pl
import pyarrow as pa
import zstandard

from ehr_tl import schema
from ehr_tl.convert.gather import PieceKey
from ehr_tl.convert.part import Part
from ehr_tl.convert.write import shard_name, shard_of, write_shard
from ehr_tl.errors import EhrTlError, RunError
from ehr_tl.fhir.blocks import LARGEST
from ehr_tl.fhir.export import ExportFile, OpenedFile, opened_member
from ehr_tl.fhir.pieces import Piece, line_pieces

Batches = Iterable[pa.RecordBatch]
Columns = dict[str, Any]

#: polars type -> types of Arrow and of Spark.
_TYPES = {
    pl.Int32: (pa.int32(), "int"),
    pl.Int64: (pa.int64(), "bigint"),
    pl.Float32: (pa.float32(), "float"),
    pl.Float64: (pa.float64(), "double"),
    pl.String: (pa.string(), "string"),
    pl.Binary: (pa.binary(), "binary"),
    schema.TIME: (pa.timestamp("us"), "timestamp_ntz"),
    pl.List(pl.String): (pa.list_(pa.string()), "array<string>"),
}

#: What a task gave for a piece, and how many lines or entries the piece has.
RESULTS = {"file": pl.String, "number": pl.Int64, "lines": pl.Int32, "result": pl.Binary}

#: Two kinds of rows: events, and what else the task gave for a piece, whose shard is `_NO_SHARD`.
EVENTS = {"shard": pl.Int32, **schema.EVENTS, **RESULTS}
_NO_SHARD = -1

#: With this begins what a worker says of its failure.
FAILURE = "ehr_tl: "


def ddl(columns: Columns) -> str:
    """Columns as Spark declares them."""
    return ", ".join(f"{name} {_TYPES[kind][1]}" for name, kind in columns.items())


class Shared(Protocol):
    """A value that Spark sends to each worker once."""

    value: Any


@dataclass
class Layout:
    """What workers must know of an export.

    Attributes:
        root: Where the export is, as a URI without escapes.
        files: Name of a file on disk -> what is read of it: itself, or the members of a zip.
        firsts: Number of the first line, of the pieces that blocks of files begin with; empty until it is known.
    """

    root: str
    files: dict[str, list[ExportFile]]
    firsts: dict[PieceKey, int] = field(default_factory=dict)

    def at(self, path: str) -> list[ExportFile]:
        """What is read of the file at a path that Spark gives; nothing where it does not belong to the export."""
        path = unquote(path)
        name = path.rpartition("/")[2] if path == self.root else path.removeprefix(f"{self.root.rstrip('/')}/")
        return self.files.get(name, [])


@dataclass
class Job:
    """A task, and the pieces that it is for (None: all)."""

    task: Callable[[Piece], Any]
    layout: Layout
    only: frozenset[PieceKey] | None = None


# --- rows to pieces ---------------------------------------------------------------------------------------------------


def from_lines(batches: Batches, layout: Layout) -> Iterator[Piece]:
    """Rows of `path`, `start` (byte at which the block of the file starts) and `value` (a line) to pieces.

    The pieces of a block are numbered from its start: so a number is known without the blocks before, and is larger
    than theirs. The number of the first line is not known in the first pass; then it is any but 1.
    """
    for (path, start), slices in groupby(_runs(batches, "path", "start"), itemgetter(0)):
        texts = (text for _, rows in slices for text in rows.column("value").to_pylist())
        for file in layout.at(path):
            first = layout.firsts.get((file.name, start), start + 1)
            yield from line_pieces(file.name, (text if len(text) <= LARGEST else None for text in texts), start, first)


def from_files(batches: Batches, layout: Layout) -> Iterator[Piece]:
    """Rows of `path` and `content` (of the whole file) to pieces; a file without any gives an empty one."""
    for batch in batches:
        for row in range(batch.num_rows):
            content = batch.column("content")[row].as_py()
            for file in _opened(layout.at(batch.column("path")[row].as_py()), content):
                pieces = file.pieces()
                yield from chain([next(pieces, Piece(file.name, 0, 1, []))], pieces)


def _opened(files: list[ExportFile], content: bytes) -> Iterator[ExportFile]:
    archive = None
    for file in files:
        opener = partial(BytesIO, content)
        if file.member is not None:
            archive = archive or zipfile.ZipFile(BytesIO(content))
            opener = partial(opened_member, archive, file.member)
        yield OpenedFile(**vars(file), opener=opener)


def _runs(batches: Batches, *names: str) -> Iterator[tuple[tuple[Any, ...], pa.RecordBatch]]:
    """Rows that follow one another with the same values in the named columns: the values, and the rows."""
    for batch in batches:
        if not batch.num_rows:
            continue
        columns = [batch.column(name) for name in names]
        codes = np.stack([column.dictionary_encode().indices.to_numpy(zero_copy_only=False) for column in columns])
        borders = np.flatnonzero((codes[:, 1:] != codes[:, :-1]).any(axis=0)) + 1
        for start, end in pairwise([0, *borders.tolist(), batch.num_rows]):
            yield tuple(column[start].as_py() for column in columns), batch.slice(start, end - start)


# --- pieces to results ------------------------------------------------------------------------------------------------

Read = Callable[[Batches, Layout], Iterator[Piece]]


def _guarded(work: Callable[..., Batches]) -> Callable[..., Batches]:
    """Keeps what a resource says out of errors: Spark writes these to its logs, wherever they are."""

    @wraps(work)
    def guarded(*given: Any) -> Batches:
        try:
            yield from work(*given)
        except EhrTlError as error:
            raise RuntimeError(f"{FAILURE}{error}") from None
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}, line {place.lineno}"
            raise RuntimeError(f"{FAILURE}{type(error).__name__} in {where}") from None

    return guarded


@_guarded
def results(read: Read, shared: Shared, batches: Batches) -> Batches:
    """Rows of an export to rows of `RESULTS`."""
    job: Job = shared.value
    for piece in read(batches, job.layout):
        if job.only is None or (piece.file, piece.number) in job.only:
            yield from _table(_result(piece, job.task(piece)), RESULTS)


@_guarded
def events(read: Read, shared: Shared, shards: int, batches: Batches) -> Batches:
    """Rows of an export to rows of `EVENTS`."""
    job: Job = shared.value
    for piece in read(batches, job.layout):
        part: Part = job.task(piece)
        yield from _table(part.events.with_columns(shard=shard_of(shards)).to_arrow(), EVENTS)
        yield from _table(_result(piece, part.tally, shard=_NO_SHARD), EVENTS)


def _result(piece: Piece, result: Any, **more: Any) -> pa.Table:
    """A row of `RESULTS`.

    As between processes of one machine, and as Spark's own tasks, results are pickled on their way through the job that
    made them. No file that is kept holds any, and nothing is read that this job did not make.
    """
    packed = zstandard.compress(pickle.dumps(result, pickle.HIGHEST_PROTOCOL))
    row = {"file": piece.file, "number": piece.number, "lines": len(piece.texts), "result": packed, **more}
    return pa.Table.from_pylist([row])


def unpacked(result: bytes) -> Any:
    """What a task gave, of a row of `RESULTS`."""
    return pickle.loads(zstandard.decompress(result))


def _table(table: pa.Table, columns: Columns) -> Batches:
    """Rows with all the columns, null where there is none."""
    kinds = {name: _TYPES[kind][0] for name, kind in columns.items()}
    filled = {
        name: table[name].cast(kind) if name in table.column_names else pa.nulls(len(table), kind)
        for name, kind in kinds.items()
    }
    return pa.table(filled).to_batches()


# --- events to shards -------------------------------------------------------------------------------------------------


@_guarded
def write(data: Path, batches: Batches) -> Batches:
    """Rows of `EVENTS`, sorted by shard, to files in the folder `data`; passes on what else tasks gave."""
    if not data.is_dir():
        raise RunError(
            f"{data} is not there on one of the machines where Spark works",
            expected="a folder that all of them share, under the same name",
            fix="name another one with --out",
        )
    for (shard,), slices in groupby(_runs(batches, "shard"), itemgetter(0)):
        rows = (rows for _, rows in slices)
        if shard == _NO_SHARD:
            yield from (batch.select(list(RESULTS)) for batch in rows)
        else:
            found = pl.from_arrow(pa.Table.from_batches(rows).select(list(schema.EVENTS)))
            begun = data / f".{shard_name(shard)}.{uuid4().hex}"  # Spark may try twice at the same time
            write_shard(found.cast(schema.EVENTS), begun)
            os.replace(begun, data / shard_name(shard))
