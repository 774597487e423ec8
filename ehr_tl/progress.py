"""Progress of long work, on stderr: bars for people at a terminal, a plain line per step for logs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")
log = logging.getLogger("ehr_tl")


class Bar(Protocol):
    def advance(self, steps: float = 1, note: str = "") -> None: ...


@contextmanager
def bar(description: str, total: float | None = None, shown: bool = True) -> Iterator[Bar]:
    """A progress bar with time left. At a terminal it is drawn; else one log line tells that the work began.

    Where it is not `shown`, as in one of several processes for which another speaks, nothing is told.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        if shown:
            log.info(description)

        class Silent:
            def advance(self, steps: float = 1, note: str = "") -> None:
                pass

        yield Silent()
        return
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    with Progress(*columns, console=console, transient=True) as progress, _logs_above():
        task = progress.add_task(description, total=total, note="")

        class Drawn:
            def advance(self, steps: float = 1, note: str = "") -> None:
                progress.update(task, advance=steps, **({"note": note} if note else {}))

        yield Drawn()


@contextmanager
def _logs_above() -> Iterator[None]:
    """Has log lines stand above a bar that is drawn, rather than run into it: by the stream that rich put in place."""
    handlers = [each for each in logging.getLogger().handlers if type(each) is logging.StreamHandler]
    before = [each.setStream(sys.stderr) for each in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before):
            if stream is not None:  # setStream's word for a stream that it was already
                handler.setStream(stream)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` while a bar shows how many are done."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with bar(description, total) as progress:
        for item in items:
            yield item
            progress.advance()
