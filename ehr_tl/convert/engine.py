"""Who does the work of a conversion: processes of this machine, or Apache Spark."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from ehr_tl.convert.adapter import Adapter
from ehr_tl.convert.gather import PieceKey
from ehr_tl.convert.part import Convert, Tally
from ehr_tl.convert.write import Shards
from ehr_tl.errors import RunError
from ehr_tl.fhir.export import Export
from ehr_tl.fhir.pieces import Piece
from ehr_tl.progress import Bar, bar
from ehr_tl.threads import allowed
from ehr_tl.workers import work

#: Bytes on disk below which starting processes takes longer than it saves.
_WORTH_SHARING = 4 << 20


class Engine(Protocol):
    """Runs tasks over the pieces of an export. What a task gives must not depend on where pieces begin and end.

    Attributes:
        export: What is read.
    """

    export: Export

    def map(self, title: str, task: Callable[[Piece], Any], only: Collection[PieceKey] | None = None) -> Iterator[Any]:
        """What `task` gives for each piece, in the order of the export.

        Args:
            title: Of the work, for people.
            task: Can be sent to other processes.
            only: The pieces that count, as an earlier call met them; None: all.
        """

    def convert(self, title: str, task: Convert, folder: Path) -> Iterator[Tally]:
        """Writes the events of all pieces to the shards in `folder / "data"`; gives the rest, as `map` does."""


def started(
    engine: str, export: str | Path | Export, adapter: Adapter, threads: int | None
) -> AbstractContextManager[Engine]:
    """The engine of this name, for as long as the context lasts, with the export as the adapter reads it.

    Raises:
        ExportError: The export cannot be opened.
        RunError: There is no such engine, it cannot be started, or it takes no `threads`.
    """
    if engine == "local":
        return _local(export, adapter, threads)
    if engine != "spark":
        raise RunError(f"There is no engine {engine!r}", expected="local or spark")
    if threads is not None:
        raise RunError(
            f"A number of threads ({threads}) was given together with Spark",
            expected="the number of processors in Spark's own settings",
            fix="name it there: `MASTER='local[2]' ehr-tl convert ...`, or `spark-submit --master ...`",
        )
    from ehr_tl.convert.spark import spark

    return spark(export, adapter)


@contextmanager
def _local(export: str | Path | Export, adapter: Adapter, threads: int | None) -> Iterator[Engine]:
    export = adapter.opened(export)
    yield Local(export, allowed(threads) if export.size > _WORTH_SHARING else 1)


class Local:
    """The processors of this machine; see `Engine`."""

    def __init__(self, export: Export, workers: int):
        self.export, self.workers = export, workers

    def map(self, title: str, task: Callable[[Piece], Any], only: Collection[PieceKey] | None = None) -> Iterator[Any]:
        with bar(title, self.export.size) as progress:
            yield from work(task, self._pieces(only, progress), self.workers)

    def _pieces(self, only: Collection[PieceKey] | None, progress: Bar) -> Iterator[Piece]:
        for piece in self.export.pieces():
            if only is None or (piece.file, piece.number) in only:
                yield piece
            progress.advance(piece.packed)

    def convert(self, title: str, task: Convert, folder: Path) -> Iterator[Tally]:
        shards = Shards(folder, len(task.links.subjects))
        for part in self.map(title, task):
            shards.add(part.events)
            yield part.tally
        shards.finish()
