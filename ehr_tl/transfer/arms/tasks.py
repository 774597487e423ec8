"""Which of a checkpoint's questions are asked for a pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from ehr_tl.config import Pipeline
from ehr_tl.errors import PipelineError


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
