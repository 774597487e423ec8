"""The arms of transfer: ways to make a hospital's model of its own cases, of source hospitals, or of both."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ehr_tl.config import Pipeline
from ehr_tl.errors import PipelineError
from ehr_tl.events import Events
from ehr_tl.models.base import Learner
from ehr_tl.models.gradient_boosting import GradientBoostingLearner


def arms(pipeline: Pipeline, sources: Sequence[tuple[Events, pl.DataFrame]] | None = None) -> list[Learner]:
    """The learners of a pipeline, in a fixed order, comparisons last.

    Left out is what cannot be had: without a checkpoint all but the local ones; without sources what learns from their
    rows.

    Args:
        pipeline: The question and the settings.
        sources: Events of source hospitals, each with its labelled rows (`schema.COHORT`). Default: those of the
            folders that `transfer.sources` names, labelled by the pipeline's own task.

    Raises:
        PipelineError: `transfer.arms` names an arm that does not exist or cannot be had.
    """
    found: list[Learner] = [GradientBoostingLearner(pipeline.lightgbm)]
    if pipeline.transformer is not None:
        from ehr_tl.models.transformer import TransformerLearner

        found.append(TransformerLearner(pipeline.transformer))
        if pipeline.transformer.compare_from_scratch and pipeline.transformer.checkpoint is not None:
            found.append(TransformerLearner(pipeline.transformer, from_scratch=True))
    return _asked_for(found, pipeline.transfer.arms)


def _asked_for(found: Sequence[Learner], names: Sequence[str]) -> list[Learner]:
    """The learners that are named, and comparisons; all where none is named."""
    possible = [learner.name for learner in found if not learner.comparison]
    if impossible := [name for name in names if name not in possible]:
        raise PipelineError(
            f"transfer.arms names {impossible[0]!r}, which cannot be had here",
            expected=f"some of: {', '.join(possible)}",
            fix="name a checkpoint (transformer.checkpoint) and source hospitals (transfer.sources) for the arms that "
            "need them, or leave it out",
        )
    return [learner for learner in found if not names or learner.name in names or learner.comparison]
