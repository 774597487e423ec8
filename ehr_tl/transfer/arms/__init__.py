"""The arms of transfer: ways to make a hospital's model of its own cases, of source hospitals, or of both."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ehr_tl.config import Pipeline, TransformerConfig
from ehr_tl.errors import PipelineError
from ehr_tl.events import Events
from ehr_tl.features import Build, Remembered
from ehr_tl.models.base import Learner
from ehr_tl.models.checkpoint import SOURCE, checkpoint_path
from ehr_tl.models.folder import read_object
from ehr_tl.models.gradient_boosting import GradientBoostingLearner
from ehr_tl.models.source import TASKS
from ehr_tl.transfer.arms.anchored import AnchoredConfig, AnchoredLearner
from ehr_tl.transfer.arms.logistic import LogisticConfig, LogisticLearner
from ehr_tl.transfer.arms.network import network_arms
from ehr_tl.transfer.arms.source import SourceConfig, SourceLearner
from ehr_tl.transfer.arms.tasks import source_tasks


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
    build = Remembered()
    found: list[Learner] = [
        GradientBoostingLearner(pipeline.lightgbm, build),
        LogisticLearner(LogisticConfig(pipeline.lightgbm.windows_days), build),
    ]
    if pipeline.transformer is not None:
        found += _of_source(pipeline, build)
        found += network_arms(pipeline)
        found += _networks(pipeline.transformer)
    return _asked_for(found, pipeline.transfer.arms)


def _of_source(pipeline: Pipeline, build: Build) -> list[Learner]:
    """What the checkpoint's trees are good for, if it has any."""
    checkpoint, own = pipeline.transformer.checkpoint, pipeline.lightgbm
    if checkpoint is None or not (path := checkpoint_path(checkpoint) / SOURCE / TASKS).is_file():
        return []
    tasks = source_tasks(pipeline, tuple(read_object(path)))
    if not tasks:
        return []
    anchored = AnchoredConfig(checkpoint, tasks, own.windows_days, own.min_subjects)
    return [SourceLearner(SourceConfig(checkpoint, tasks), build), AnchoredLearner(anchored, build)]


def _networks(config: TransformerConfig) -> list[Learner]:
    from ehr_tl.models.transformer import TransformerLearner

    found: list[Learner] = [TransformerLearner(config)]
    if config.compare_from_scratch and config.checkpoint is not None:
        found.append(TransformerLearner(config, from_scratch=True))
    return found


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
