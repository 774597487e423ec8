"""Work in several processes: in order, in bounded memory, none outliving the one that asked for it."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from ehr_tl.errors import RunError

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Items under way for each worker: while one is worked on the next is waiting.
_AHEAD = 2


def work(task: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`task` of every item, in the order of the items.

    Args:
        task: Sent to each worker once; an instance of a class, or a function, of this package.
        items: Taken as they are needed.
        workers: Processes; with one the work is done here.

    Raises:
        RunError: A worker ended before its work was done.
    """
    if workers <= 1:
        yield from map(task, items)
        return
    context = multiprocessing.get_context("spawn")  # a fork would take over locks that threads of ours hold
    waiting: deque[Future] = deque()
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(task,)) as pool:
        try:
            for item in items:
                with _no_main_module():  # a process may be started here
                    waiting.append(pool.submit(_do, item))
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise RunError(
                "A process that shared the work ended before its work was done; most often memory ran out",
                fix="use fewer with --threads, or a machine with more memory; --threads 1 starts none",
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Keeps workers from running the caller's script again: all that they need lies in this package."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_task: Callable[[Any], Any]


def _start(task: Callable[[Any], Any]) -> None:
    """Runs once in each worker."""
    global _task
    _task = task
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker must not outlive a killed run: it would go on writing beside the run that resumes it."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _do(item: Any) -> Any:
    return _task(item)
