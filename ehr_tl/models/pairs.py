"""The fits behind cross-fitting: for each pair of folds, one model that saw neither.

Each fit is written whole into `<learner>/<i>-<j>/`; one that is there is not repeated, so an interrupted run goes on
where it stopped. Fits run in worker processes with one thread each; models cross as files only.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ehr_tl.files import remove, whole
from ehr_tl.models.base import Learner
from ehr_tl.progress import bar

Pair = tuple[int, int]


def pairs_of(folds: int) -> list[Pair]:
    """All pairs of folds, smaller number first."""
    return list(itertools.combinations(range(folds), 2))


def pair_folder(folder: Path, learner: str, pair: Pair) -> Path:
    return folder / learner / f"{pair[0]}-{pair[1]}"


@dataclass(frozen=True)
class PairFits:
    """What the fits of one learner need.

    Attributes:
        learner: Fits and saves.
        inputs: What its `prepare` gave.
        labels: 0 or 1 for each row; NaN where unknown.
        fold: Fold of each row, -1 for rows of unlabelled subjects, which no fit sees.
        folder: The folder of all models.
        seed: Fixes the fits.
    """

    learner: Learner
    inputs: Any
    labels: np.ndarray
    fold: np.ndarray
    folder: Path
    seed: int

    def fit(self, pair: Pair) -> None:
        """Fits on all folds but the pair's and saves."""
        train = np.flatnonzero((self.fold >= 0) & ~np.isin(self.fold, pair) & ~np.isnan(self.labels))
        state = self.folder / self.learner.name / f".state-{pair[0]}-{pair[1]}"
        state.mkdir(parents=True, exist_ok=True)
        seed = int(np.random.SeedSequence([self.seed, *pair]).generate_state(1)[0] % 2**31)
        model = self.learner.fit(self.inputs, self.labels, train, seed=seed, state=state)
        with whole(pair_folder(self.folder, self.learner.name, pair)) as temporary:
            temporary.mkdir()
            model.save(temporary)
        remove(state)


def fit_pairs(jobs: Sequence[PairFits], folds: int, threads: int) -> None:
    """Fits what is not there yet, `threads` fits at a time."""
    missing = [
        (number, pair)
        for number, job in enumerate(jobs)
        for pair in pairs_of(folds)
        if not pair_folder(job.folder, job.learner.name, pair).is_dir()
    ]
    workers = min(threads, len(missing))
    with bar("Fitting models", len(missing)) as progress:
        for number in _in_processes(jobs, missing, workers) if workers > 1 else _here(jobs, missing):
            progress.advance(note=jobs[number].learner.name)


def _here(jobs: Sequence[PairFits], missing: list[tuple[int, Pair]]) -> Iterator[int]:
    for number, pair in missing:
        jobs[number].fit(pair)
        yield number


def _in_processes(jobs: Sequence[PairFits], missing: list[tuple[int, Pair]], workers: int) -> Iterator[int]:
    from concurrent.futures import ProcessPoolExecutor, as_completed

    with (
        _no_main_module(),
        ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_start, initargs=(jobs,)
        ) as pool,
    ):
        waiting = {pool.submit(_fit, number, pair): number for number, pair in missing}
        try:
            for done in as_completed(waiting):
                done.result()
                yield waiting[done]
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


_jobs: Sequence[PairFits] = ()


def _start(jobs: Sequence[PairFits]) -> None:
    """Runs once in each worker."""
    global _jobs
    _jobs = jobs
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A worker must not outlive a killed run: it would go on writing beside the run that resumes it."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _fit(number: int, pair: Pair) -> None:
    _jobs[number].fit(pair)
