"""Source tasks: the questions that source hospitals' own records answer, with the rows that each can label."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from ehr_tl.cohort import build_cohort
from ehr_tl.config import Pipeline, load_pipeline
from ehr_tl.errors import CohortError, PipelineError
from ehr_tl.events import Events
from ehr_tl.transfer.held_out import parts

log = logging.getLogger("ehr_tl")


@dataclass(frozen=True)
class SourceTask:
    """One question, as several hospitals answer it.

    Attributes:
        name: The pipeline's name.
        title: Its title.
        pipeline: The pipeline.
        labels: Position of a source -> its labelled rows (`schema.COHORT`), sorted; sources that cannot label it lack.
    """

    name: str
    title: str
    pipeline: Pipeline
    labels: dict[int, pl.DataFrame] = field(default_factory=dict)

    def rows(self, position: int, part: str) -> pl.DataFrame:
        """A source's labelled rows of the subjects in one part (`transfer.held_out`)."""
        rows = self.labels[position]
        return rows.filter(parts(rows["subject_id"].to_numpy()) == part)


def label_tasks(
    sources: Sequence[Events], tasks: Mapping[str, Sequence[str]], exclude: np.ndarray | None = None
) -> list[SourceTask]:
    """Labels every task on every source that is to answer it.

    Args:
        sources: Events folders, each a hospital of its own.
        tasks: Name of an adapter -> pipelines (names of shipped ones, or files) that its exports can label. Adapters
            that no source has are passed over.
        exclude: Subjects, shape (n,), whose rows are left out: those whom a later evaluation holds out.

    Returns:
        The tasks in the order in which `tasks` names them first. A source whose records give no cohort is left out of
        that task, and logged.

    Raises:
        PipelineError: A pipeline is wrong, or two of one name differ.
        CohortError: No source can label a task.
    """
    found: dict[str, SourceTask] = {}
    for adapter, names in tasks.items():
        mine = [position for position, source in enumerate(sources) if source.export.adapter == adapter]
        for pipeline in map(load_pipeline, names if mine else ()):
            task = found.setdefault(pipeline.name, SourceTask(pipeline.name, pipeline.title, pipeline))
            if task.pipeline != pipeline:
                raise PipelineError(
                    f"Two pipelines named {pipeline.name!r} differ",
                    expected="one name for each source task",
                    fix="rename one of them, or name the same file for both adapters",
                )
            _label(task, sources, [position for position in mine if position not in task.labels], exclude)
    for task in found.values():
        if not task.labels:
            raise CohortError(
                f"No source can label the task {task.name}",
                expected="rows with and rows without the outcome in one source at least",
                fix="leave the task out, or use sources whose records tell its outcome; the log says what each lacked",
            )
    return list(found.values())


def _label(task: SourceTask, sources: Sequence[Events], positions: list[int], exclude: np.ndarray | None) -> None:
    for position in positions:
        source = sources[position]
        try:
            cohort = build_cohort(source, task.pipeline.task)
        except CohortError as error:
            log.warning("%s cannot label %s and is left out of it: %s", source.folder.name, task.name, error.problem)
            continue
        rows = cohort.labelled
        if exclude is not None:
            rows = rows.filter(~np.isin(rows["subject_id"].to_numpy(), exclude))
        task.labels[position] = rows
        log.info("%s: %d rows, %d with %s", source.folder.name, rows.height, rows["boolean_value"].sum(), task.name)
