"""The cells of a study: for each repeat and size, all arms fitted on the local cases and asked of the test part."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehr_tl import __version__
from ehr_tl.config import Pipeline
from ehr_tl.events import Events
from ehr_tl.files import fingerprint, read_json, whole, write_json
from ehr_tl.models.base import Learner
from ehr_tl.progress import bar
from ehr_tl.schema import BLEND, PROBE
from ehr_tl.transfer.adapt import adapt
from ehr_tl.transfer.arms import arms
from ehr_tl.transfer.study.contest import CONTINUED, NETWORKS, TABULAR_BLEND, Remembering, aside
from ehr_tl.transfer.study.draws import FEWEST, Draw
from ehr_tl.transfer.study.setting import Setting
from ehr_tl.workers import work

#: Of cells: it rises when arms, calibration or blend change, so that no study mixes two ways.
FORMAT = 2


@dataclass(frozen=True)
class Cells:
    """The cells of one seed of pretraining; called with a draw, it makes the cell's files and gives its name.

    Attributes:
        setting: The study.
        seed: Of pretraining.
        checkpoint: What is transferred; None: nothing.
        continued: The same, carried on with the target's records; None: there is no such arm.
        folder: Where cells lie: `<repeat>-<size>.parquet` (the test rows, and each arm's logit) and `.json` beside it.
        digest: Of all that a cell is made from, beside its draw.
    """

    setting: Setting
    seed: int
    checkpoint: Path | None
    continued: Path | None
    folder: Path
    digest: str

    def __call__(self, draw: Draw) -> str:
        began = time.monotonic()
        logits, more = self._asked(draw)
        rows = self.setting.rows[self.setting.test].select("subject_id", "prediction_time")
        with whole(self.folder / f"{draw.name}.parquet") as temporary:
            rows.with_columns(pl.Series(arm, values, dtype=pl.Float32) for arm, values in logits.items()).write_parquet(
                temporary
            )
        made = {
            "repeat": draw.repeat,
            "size": draw.size,
            "seed": self.seed,
            "subjects": len(draw.subjects),
            "events": draw.events,
            **more,
            "seconds": round(time.monotonic() - began, 2),
            "digest": self.of(draw),
        }
        write_json(self.folder / f"{draw.name}.json", made)  # last: a cell without it is not there
        return draw.name

    def of(self, draw: Draw) -> str:
        """A digest of all that the draw's cell is made from."""
        return hashlib.blake2b(self.digest.encode() + draw.subjects.tobytes(), digest_size=16).hexdigest()

    def done(self, draw: Draw) -> bool:
        """Whether the cell is there, made from the same."""
        told, found = (self.folder / f"{draw.name}.{suffix}" for suffix in ("json", "parquet"))
        return told.is_file() and found.is_file() and read_json(told)["digest"] == self.of(draw)

    @cached_property
    def learners(self) -> list[Learner]:
        """Those of the pipeline, and the probe on the checkpoint that was carried on."""
        pipeline, source = self.setting.pipeline, self.setting.source
        rows = [(source.events, source.rows)] if source is not None and source.rows is not None else []
        found = arms(upon(pipeline, self.checkpoint, self.setting.study.from_scratch), [*rows, *self.setting.lent])
        if self.continued is None:
            return found
        alone = replace(pipeline, transfer=replace(pipeline.transfer, arms=(PROBE,)))
        [probe] = [each for each in arms(upon(alone, self.continued, False)) if each.name == PROBE]
        return [*found, aside(probe, CONTINUED)]

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What each learner makes of all rows, test part and all; no label goes into it."""
        with bar(f"{self.setting.study.name}: records, seed {self.seed}", len(self.learners)) as progress:
            found = {}
            for learner in self.learners:
                found[learner.name] = learner.prepare(self.setting.target, self.setting.rows)
                progress.advance(1, learner.name)
        return found

    def _asked(self, draw: Draw) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Logits of the test rows by arm; and by learner the blend's weights, and seconds of fitting."""
        train, test, seed = (
            self.setting.positions(draw.subjects),
            self.setting.test,
            self.setting.study.seed + draw.repeat,
        )
        labels, subject, site = self.setting.labels, self.setting.subject, self.setting.site
        if min(draw.events, len(draw.subjects) - draw.events) < FEWEST:  # nothing that must be learned here can be
            return self._as_is(train, test, seed), {"weights": {}, "fitting": {}}
        learners = [Remembering(learner) for learner in self.learners]
        adapted = adapt(learners, self.inputs, labels, subject, train, seed=seed, site=site)
        logits = adapted.logits(self.inputs, test)
        tabular = [learner for learner in learners if learner.name not in NETWORKS]
        if BLEND in logits and 0 < len(tabular) < len(learners):
            # Its fits are remembered.
            without = adapt(tabular, self.inputs, labels, subject, train, seed=seed, site=site)
            logits[TABULAR_BLEND] = list(without.logits(self.inputs, test).values())[-1]
        fitting = {learner.name: round(learner.seconds, 2) for learner in learners}
        return logits, {"weights": adapted.weights, "fitting": fitting}

    def _as_is(self, train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Logits of the test rows by the learners that look at no local label."""
        found = {}
        for learner in self.learners:
            if learner.as_is:
                inputs = self.inputs[learner.name]
                model = learner.fit(inputs, self.setting.labels, train, seed=seed, state=Path())
                found[learner.name] = model.logit(inputs, test)
        return found


def run_cells(setting: Setting, cells: Sequence[Cells], threads: int) -> int:
    """Makes the cells that are missing, one seed after the other.

    Args:
        setting: The study.
        cells: For each seed of the study, in order; repeat r is made by seed r modulo their number.
        threads: Cells at a time, each in a process of its own.

    Returns:
        How many were made.
    """
    mine = [
        (each, [draw for draw in setting.draws.each if draw.repeat % len(cells) == number and not each.done(draw)])
        for number, each in enumerate(cells)
    ]
    missing = sum(len(draws) for _, draws in mine)
    with bar(f"{setting.study.name}: cells", missing) as progress:
        for each, draws in mine:
            for name in work(each, draws, min(threads, len(draws))):
                progress.advance(1, name)
    return missing


def read_cells(setting: Setting, cells: Sequence[Cells]) -> list[tuple[dict[str, Any], pl.DataFrame]]:
    """All cells of a study, in the order of its draws: what is told of each, and its logits (a column per arm)."""
    folder = cells[0].folder
    return [
        (
            read_json(folder / f"{draw.name}.json"),
            pl.read_parquet(folder / f"{draw.name}.parquet", glob=False).drop("subject_id", "prediction_time"),
        )
        for draw in setting.draws.each
    ]


def made_from(setting: Setting, checkpoint: Path | None, continued: Path | None) -> str:
    """A digest of what a seed's cells are made from, their draws aside."""
    study, source = setting.study, setting.source
    said = {
        "version": [__version__, FORMAT],
        "pipeline": asdict(setting.pipeline),
        "settings": [study.seed, study.from_scratch],
        "rows": _rows(setting.rows),
        "test": setting.draws.to_json()["test"],
        "target": _events(setting.target),
        "source": source and [_events(source.events), source.outside.tolist()],
        "checkpoints": [path and fingerprint(path) for path in (checkpoint, continued)],
    }
    if setting.lent:
        said["lent"] = [[_events(events), _rows(rows)] for events, rows in setting.lent]
    return hashlib.blake2b(json.dumps(said, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def upon(pipeline: Pipeline, checkpoint: Path | None, from_scratch: bool) -> Pipeline:
    """The pipeline on a checkpoint."""
    if pipeline.transformer is None:
        return pipeline
    named = str(checkpoint) if checkpoint is not None else None
    return replace(
        pipeline, transformer=replace(pipeline.transformer, checkpoint=named, compare_from_scratch=from_scratch)
    )


def _rows(rows: pl.DataFrame) -> str:
    return hashlib.sha256(rows.write_csv().encode()).hexdigest()


def _events(events: Events) -> str:
    return fingerprint(events.folder / "data", events.folder / "metadata" / "codes.parquet")
