"""The arms of transfer: ways to make a hospital's model of its own cases, of source hospitals, or of both."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import polars as pl

from ehr_tl.cohort import build_cohort
from ehr_tl.config import LightGBMConfig, Pipeline, TransformerConfig
from ehr_tl.errors import CohortError, PipelineError
from ehr_tl.events import Events
from ehr_tl.features import Build, Remembered
from ehr_tl.models.base import Learner
from ehr_tl.models.gradient_boosting import GradientBoostingLearner
from ehr_tl.transfer.arms.anchored import AnchoredConfig, AnchoredLearner
from ehr_tl.transfer.arms.logistic import LogisticConfig, LogisticLearner
from ehr_tl.transfer.arms.network import network_arms
from ehr_tl.transfer.arms.pooled import PooledLearner, SourceRows
from ehr_tl.transfer.arms.source import SourceConfig, SourceLearner, SourceTrees
from ehr_tl.transfer.arms.tasks import asked_of_checkpoint

log = logging.getLogger("ehr_tl")


def arms(pipeline: Pipeline, sources: Sequence[tuple[Events, pl.DataFrame]] | None = None) -> list[Learner]:
    """The learners of a pipeline, in a fixed order, comparisons last.

    Left out is what cannot be had: without a checkpoint all but the local ones; without sources what learns from their
    rows.

    Args:
        pipeline: The question and the settings.
        sources: Events of source hospitals, each with its labelled rows (`schema.COHORT`), as `labelled_sources` gives
            those of `transfer.sources`. None: these are not opened; what was fitted on them can be loaded, and no more.

    Raises:
        PipelineError: `transfer.arms` names an arm that does not exist or cannot be had.
    """
    build = Remembered()
    found: list[Learner] = [
        GradientBoostingLearner(pipeline.lightgbm, build),
        LogisticLearner(LogisticConfig(pipeline.lightgbm.windows_days), build),
    ]
    asked = asked_of_checkpoint(pipeline)
    trees = SourceConfig(pipeline.transformer.checkpoint, asked.trees) if asked.trees else None
    if trees is not None:
        found += _on_source(trees, asked.related, pipeline.lightgbm, build)
    found += _pooled(pipeline, sources, trees, build)
    if pipeline.transformer is not None:
        found += network_arms(pipeline.transformer, asked.heads, asked.related)
        found += _from_scratch(pipeline.transformer)
    return _asked_for(found, pipeline.transfer.arms)


def labelled_sources(pipeline: Pipeline) -> list[tuple[Events, pl.DataFrame]]:
    """The source hospitals of `transfer.sources` that can label the pipeline's task, with their rows.

    Raises:
        RunError: A folder holds no finished events.
    """
    found = []
    for events in map(Events, pipeline.transfer.sources):
        try:
            found.append((events, build_cohort(events, pipeline.task).labelled))
        except CohortError as error:
            log.warning("%s cannot label the question and is left out: %s", events.folder.name, error.problem)
    return found


def _on_source(trees: SourceConfig, related: bool, own: LightGBMConfig, build: Build) -> list[Learner]:
    anchored = AnchoredConfig(trees.checkpoint, trees.tasks, own.windows_days, own.min_subjects)
    return [SourceLearner(trees, build, related), AnchoredLearner(anchored, build)]


def _pooled(
    pipeline: Pipeline,
    sources: Sequence[tuple[Events, pl.DataFrame]] | None,
    trees: SourceConfig | None,
    build: Build,
) -> list[Learner]:
    """Trees on the rows of all."""
    if not (pipeline.transfer.sources if sources is None else sources):
        return []
    rows = _source_rows(pipeline, sources, trees) if sources is not None else None
    return [PooledLearner(rows, pipeline.lightgbm, weighted, build) for weighted in (False, True)]


def _source_rows(
    pipeline: Pipeline, sources: Sequence[tuple[Events, pl.DataFrame]], trees: SourceConfig | None
) -> SourceRows:
    """Trees grow on them as the checkpoint's did where those answer the question itself."""
    config, known = pipeline.lightgbm, None
    if trees is not None and trees.tasks == (pipeline.name,):
        of_checkpoint = SourceTrees.of(trees)
        if of_checkpoint.windows == [config.windows_days]:
            known = of_checkpoint.models.models[pipeline.name]
    return SourceRows(sources, config, known)


def _from_scratch(config: TransformerConfig) -> list[Learner]:
    """A network of local cases alone; beside a checkpoint it serves comparison, where that is asked for."""
    from ehr_tl.models.transformer import TransformerLearner

    return [TransformerLearner(config)] if config.checkpoint is None or config.compare_from_scratch else []


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
