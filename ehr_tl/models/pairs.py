"""The fits behind cross-fitting: for each pair of folds, one model that saw neither.

Each fit is written whole into `<learner>/<i>-<j>/`; one that is there is not repeated, so an interrupted run goes on
where it stopped. Fits run in worker processes with one thread each; models cross as files only.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ehr_tl.files import remove, whole
from ehr_tl.models.base import Learner
from ehr_tl.progress import bar
from ehr_tl.workers import work

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


@dataclass(frozen=True)
class _Fit:
    """Fits the pair of a job, by the job's number; in a process of its own with one thread."""

    jobs: Sequence[PairFits]
    shared: bool

    def __call__(self, item: tuple[int, Pair]) -> int:
        number, pair = item
        if self.shared and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        self.jobs[number].fit(pair)
        return number


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
        for number in work(_Fit(jobs, workers > 1), missing, workers):
            progress.advance(note=jobs[number].learner.name)
