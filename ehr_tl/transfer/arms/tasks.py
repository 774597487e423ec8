"""Which of a checkpoint's questions are asked for a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ehr_tl.config import Pipeline
from ehr_tl.errors import PipelineError
from ehr_tl.models.checkpoint import SOURCE, checkpoint_path, checkpoint_tasks
from ehr_tl.models.folder import read_object
from ehr_tl.models.source import TASKS


class Asked(NamedTuple):
    """The source tasks that are asked.

    Attributes:
        trees: Those that the checkpoint has trees for.
        heads: Those that its network has a head for.
        related: They ask something else: none is the pipeline's own, and nobody said that they ask the same.
    """

    trees: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    related: bool = False


def asked_of_checkpoint(pipeline: Pipeline) -> Asked:
    """The source tasks for which the checkpoint's trees, and its network's heads, are asked; no model is opened.

    Both are asked the same: where a head alone knows the question itself, trees that know others are not asked instead.

    Raises:
        CheckpointError: The checkpoint is absent or broken.
        PipelineError: `transfer.tasks` names a task that the checkpoint does not answer.
    """
    checkpoint = pipeline.transformer and pipeline.transformer.checkpoint
    if not checkpoint:
        return Asked()
    told, heads = checkpoint_path(checkpoint) / SOURCE / TASKS, checkpoint_tasks(checkpoint)
    trees = tuple(read_object(told)) if told.is_file() else ()
    asked = source_tasks(pipeline, tuple(dict.fromkeys((*heads, *trees))))
    related = not pipeline.transfer.tasks and pipeline.name not in asked
    return Asked(tuple(t for t in asked if t in trees), tuple(t for t in asked if t in heads), related)


def source_tasks(pipeline: Pipeline, names: Sequence[str]) -> tuple[str, ...]:
    """The source tasks whose answers are averaged.

    Args:
        pipeline: Whose `transfer.tasks` are asked if given; else the task of its own name, if there is one; else all.
        names: The tasks that the checkpoint answers.

    Raises:
        PipelineError: `transfer.tasks` names one that the checkpoint does not answer.
    """
    asked = pipeline.transfer.tasks
    if unknown := [name for name in asked if name not in names]:
        raise PipelineError(
            f"transfer.tasks names {unknown[0]!r}, which the checkpoint does not answer",
            expected=f"some of: {', '.join(names) or '(it answers none)'}",
        )
    return asked or ((pipeline.name,) if pipeline.name in names else tuple(names))
