"""Conversion on Apache Spark, on one machine or a cluster: the same tasks, the same shards.

Spark's own readers read the export, wherever it lies: plain NDJSON as lines, so that several workers share a file;
packed files, Bundles and zips as whole files, which our readers unpack. What resources are joined with, the places of
repeats and the adapter are broadcast. Events never pass the driver: they go to the workers that write their shards, and
with them what is counted, which the driver adds up in the order of the export.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ehr_tl import schema
from ehr_tl.convert import spark_worker as worker
from ehr_tl.convert.adapter import Adapter
from ehr_tl.convert.engine import Engine
from ehr_tl.convert.gather import PieceKey
from ehr_tl.convert.hadoop import open_remote, place
from ehr_tl.convert.part import Convert, Tally
from ehr_tl.convert.write import shard_name, shards_for, write_shard
from ehr_tl.errors import AdapterError, ExportError, RunError
from ehr_tl.fhir.export import Export, ExportFile, open_export
from ehr_tl.fhir.pieces import SIZE, Piece
from ehr_tl.progress import bar

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import DataFrame, SparkSession

#: Of a session that is started here; `spark-submit` and Spark's own files and variables say the rest.
_OURS = {"spark.app.name": "ehr-tl convert", "spark.log.level": "ERROR", "spark.ui.showConsoleProgress": "false"}

#: Endings of files that are read as lines, and of those that are read as a whole.
_LINES = ("ndjson",)
_FILES = ("ndjson.gz", "ndjson.zst", "json", "json.gz", "json.zst", "zip")

#: Largest file that Spark hands over as a whole, in bytes.
_LARGEST = (2 << 30) - (1 << 20)

#: Blocks that each processor reads, if they are not too small.
_SHARE = 3

#: So many rows, or bytes, are handed to a worker at once.
_BATCH = {"spark.sql.execution.arrow.maxRecordsPerBatch": 1000, "spark.sql.execution.arrow.maxBytesPerBatch": 32 << 20}


@contextmanager
def spark(export: str | Path | Export, adapter: Adapter) -> Iterator[Engine]:
    """The engine on the active session, which stays, or on one of our own.

    Args:
        export: A path or URI as Spark reads it, or an export on this machine's disks.
        adapter: Reads FHIR, no tables.

    Raises:
        ExportError: The export cannot be opened, or has files that Spark does not read.
        AdapterError: The adapter reads tables.
        RunError: pyspark or Java is missing, or Spark does not start, or fails later.
    """
    if adapter.manifest.tables:
        raise AdapterError(
            f"The adapter {adapter.manifest.name} reads tables, and Spark is given FHIR only",
            expected="an adapter of FHIR",
            fix="convert with --engine local",
        )
    with warnings.catch_warnings(), _session() as session, _failures_told():
        export, uri = _open(session, export)
        export = adapter.opened(export)
        _check_readable(export)
        with _set(session, _BATCH | _blocks(session, export)):
            yield Spark(session, export, uri)


class Spark:
    """A Spark session at work on an export; see `Engine`.

    Args:
        session: Cuts files in the same way as long as this lives.
        export: What is read.
        uri: Where, as Spark names it.
    """

    def __init__(self, session: SparkSession, export: Export, uri: str):
        self.session, self.export, self.uri = session, export, uri
        self._order = {file.name: number for number, file in enumerate(export.files)}
        self._lines: dict[PieceKey, int] = {}
        files: dict[str, list[ExportFile]] = defaultdict(list)
        for file in export.files:
            files[_on_disk(export, file)].append(ExportFile(file.path, file.name, file.size, file.member))
        self._layout = worker.Layout(uri, dict(files))

    def map(self, title: str, task: Callable[[Piece], Any], only: Collection[PieceKey] | None = None) -> Iterator[Any]:
        job = worker.Job(task, self._layout, None if only is None else frozenset(only))
        with bar(title), self._shared(job) as shared:
            yield from self._in_order(self._read(worker.results, worker.RESULTS, shared), job.only)

    def convert(self, title: str, task: Convert, folder: Path) -> Iterator[Tally]:
        data, shards = folder.absolute() / "data", shards_for(len(task.links.subjects))
        data.mkdir()
        with bar(title), self._shared(worker.Job(task, self._layout)) as shared:
            rows = self._read(worker.events, worker.EVENTS, shared, shards)
            sorted_rows = rows.repartition(shards, "shard").sortWithinPartitions("shard")
            counted = sorted_rows.mapInArrow(partial(worker.write, data), worker.ddl(worker.RESULTS))
            yield from self._in_order(counted, None)
        if not (data / shard_name(0)).exists():
            write_shard(pl.DataFrame(schema=schema.EVENTS), data / shard_name(0))
        for left in data.glob(".*"):  # by workers that were lost
            left.unlink()

    def _read(self, work: Callable[..., worker.Batches], columns: worker.Columns, *more: Any) -> DataFrame:
        """The rows that `work` makes of the export's."""
        lines = self._load("text", _LINES, lineSep="\n").selectExpr(
            "_metadata.file_path AS path", "_metadata.file_block_start AS start", "CAST(value AS binary) AS value"
        )
        files = self._load("binaryFile", _FILES).where(f"length <= {_LARGEST}")
        files = files.selectExpr("_metadata.file_path AS path", "content")
        kinds = worker.ddl(columns)
        made = lines.mapInArrow(partial(work, worker.from_lines, *more), kinds)
        return made.unionAll(files.mapInArrow(partial(work, worker.from_files, *more), kinds))

    def _load(self, kind: str, endings: Iterable[str], **options: str) -> DataFrame:
        literally = re.sub(r"([*?\[\]{}\\])", r"\\\1", self.uri)
        options |= {"recursiveFileLookup": "true", "pathGlobFilter": _pattern(endings)}
        return self.session.read.load(literally, kind, **options)

    def _in_order(self, rows: DataFrame, only: Collection[PieceKey] | None) -> Iterator[Any]:
        """What the rows of `worker.RESULTS` hold."""
        table = rows.toArrow()
        pieces = list(zip(table["file"].to_pylist(), table["number"].to_pylist()))
        self._check(dict(zip(pieces, table["lines"].to_pylist())), only)
        for row in sorted(range(len(pieces)), key=lambda row: (self._order[pieces[row][0]], pieces[row][1])):
            yield worker.unpacked(table["result"][row].as_py())

    def _check(self, lines: dict[PieceKey, int], only: Collection[PieceKey] | None) -> None:
        """Whether all that should have been read was, and now as before."""
        if not self._lines:
            self._lines = lines
            self._layout.firsts = _firsts(lines)
            missed = {file.name for file in self.export.files if file.size} - {file for file, _ in lines}
            if missed:
                raise RunError(
                    f"Spark read nothing of {len(missed):,} of the export's {len(self.export.files):,} files",
                    expected="an export that every machine of the cluster sees under the same name",
                    fix="put it where all can read it; give files names of plain letters",
                )
        if lines != {key: self._lines.get(key) for key in (self._lines if only is None else only)}:
            raise RunError(
                f"{self.export.path} was read twice, and there were other lines the second time",
                expected="an export that stays as it is",
                fix="run it again when nothing writes to it",
            )

    @contextmanager
    def _shared(self, job: worker.Job) -> Iterator[Broadcast[worker.Job]]:
        shared = self.session.sparkContext.broadcast(job)
        yield shared
        shared.destroy()


def _pattern(endings: Iterable[str]) -> str:
    """Hadoop's pattern for names with one of these endings, in capitals or not."""
    any_case = [re.sub("[a-z]", lambda letter: f"[{letter[0]}{letter[0].upper()}]", ending) for ending in endings]
    return f"*.{{{','.join(any_case)}}}"


def _firsts(lines: dict[PieceKey, int]) -> dict[PieceKey, int]:
    """The number of each piece's first line."""
    firsts, before, next_line = {}, None, 1
    for file, number in sorted(lines):
        next_line = next_line if file == before else 1
        firsts[file, number] = next_line
        before, next_line = file, next_line + lines[file, number]
    return firsts


def _on_disk(export: Export, file: ExportFile) -> str:
    """The name of the file that is read, which may be a zip."""
    if file.member is None:
        return file.name
    return file.path.name if file.path == export.path else file.path.relative_to(export.path).as_posix()


def _open(session: SparkSession, export: str | Path | Export) -> tuple[Export, str]:
    """The export, and where it is, as Spark names it."""
    from py4j.protocol import Py4JJavaError

    if isinstance(export, Export):
        return export, place(session, str(export.path.absolute())).uri
    if not str(export).strip():
        return open_export(export), ""  # which says what is wrong
    try:
        found = place(session, str(export))
    except Py4JJavaError as error:
        scheme = str(export).partition(":")[0]
        raise ExportError(
            f"This Spark has no file system for {scheme}: or may not use it",
            expected="a path or URI that it can read",
            fix="give it the jar of that file system (for s3a, --packages org.apache.hadoop:hadoop-aws of Spark's own "
            "Hadoop version) and the settings for access",
        ) from error
    return open_export(found.local) if found.local else open_remote(session, found.uri), found.uri


def _check_readable(export: Export) -> None:
    sizes: Counter[str] = Counter()
    for file in export.files:
        sizes[_on_disk(export, file)] += file.size or 0
    hidden = [name for name in sizes if any(part.startswith(("_", ".")) for part in name.split("/"))]
    if hidden:
        raise ExportError(
            f"{export.path} holds {len(hidden):,} files that Spark does not read, since the names of them or of their "
            "folders begin with _ or .",
            expected="other names",
            fix="rename them, or convert with --engine local",
        )
    large = [name for name, size in sizes.items() if size > _LARGEST and not name.lower().endswith(".ndjson")]
    if large:
        raise ExportError(
            f"{export.path} holds {len(large):,} packed files or Bundles of more than 2 GiB",
            expected="smaller ones, or plain NDJSON of any size",
            fix="unpack them, name NDJSON so, or convert with --engine local",
        )


def _blocks(session: SparkSession, export: Export) -> dict[str, int]:
    """Settings by which blocks begin at multiples of one size, however many workers there are at the time."""
    most = session._jsparkSession.sessionState().conf().filesMaxPartitionBytes()
    share = export.size // (_SHARE * session.sparkContext.defaultParallelism)
    return {"spark.sql.files.maxPartitionBytes": min(most, max(share, SIZE)), "spark.sql.files.minPartitionNum": 1}


# --- the session ------------------------------------------------------------------------------------------------------


@contextmanager
def _session() -> Iterator[SparkSession]:
    if importlib.util.find_spec("pyspark") is None:
        raise RunError("pyspark is not installed", fix="pip install -c constraints.txt '.[spark]', with Java 17 or newer beside it")
    warnings.filterwarnings("ignore", category=FutureWarning, module="pyspark")  # of versions of pandas
    from py4j.protocol import Py4JError
    from pyspark import SparkContext
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        if not hasattr(active, "_jsparkSession"):
            raise RunError(
                "The active Spark session is one of Spark Connect",
                expected="a classic session, in the driver's own process",
                fix="run it with spark-submit, or on a cluster whose driver runs your code",
            )
        yield active
        return
    if SparkContext._gateway is None and "PYSPARK_GATEWAY_PORT" not in os.environ and not _java():
        raise RunError("Java is not there, and Spark needs it", fix="install Java 17 or newer, or set JAVA_HOME")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder
    for name, value in _OURS.items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
    except (PySparkException, Py4JError) as error:
        master = os.environ.get("MASTER")
        raise RunError(
            f"Spark does not start{f' with MASTER={master}' if master else ''}",
            expected="Java 17 or newer, and settings that Spark understands",
            fix="see what Spark says above; try `spark-submit --version`",
        ) from error
    try:
        yield session
    finally:
        session.stop()


def _java() -> bool:
    home = os.environ.get("JAVA_HOME")
    return bool(shutil.which(str(Path(home, "bin", "java"))) if home else shutil.which("java"))


@contextmanager
def _set(session: SparkSession, settings: dict[str, int]) -> Iterator[None]:
    before = {name: session.conf.get(name, None) for name in settings}
    for name, value in settings.items():
        session.conf.set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                session.conf.unset(name)
            else:
                session.conf.set(name, value)


@contextmanager
def _failures_told() -> Iterator[None]:
    """Says of what made Spark fail no more than a kind and a place: its own messages may hold anything."""
    from py4j.protocol import Py4JError, Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        found = re.search(re.escape(worker.FAILURE) + "(.+)", str(error))
        if found:
            raise RunError(f"A worker of Spark failed: {found[1]}") from error
        kind = type(error).__name__
        if isinstance(error, PySparkException):
            kind = error.getCondition() or kind
        elif isinstance(error, Py4JJavaError):
            kind = error.java_exception.getClass().getName()
        raise RunError(f"Spark failed: {kind}", fix="see its log; docs/spark.md tells of memory and paths") from error
