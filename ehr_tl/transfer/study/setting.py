"""A study bound to events: whose rows, and who is drawn."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from ehr_tl import schema
from ehr_tl.cohort import build_cohort
from ehr_tl.cohort.sites import subject_sites
from ehr_tl.config import Pipeline
from ehr_tl.errors import CohortError, PipelineError
from ehr_tl.events import Events
from ehr_tl.transfer.study.config import Study
from ehr_tl.transfer.study.draws import Draws, draw_cases
from ehr_tl.transfer.study.populations import bind, members

log = logging.getLogger("ehr_tl")


@dataclass(frozen=True)
class Source:
    """Whom the pooled arms learn from, and the checkpoint where the study has one made.

    Attributes:
        events: Their events folder.
        outside: Ids of subjects in that folder who are none of the source, sorted, shape (n,).
        rows: The source's rows with the study's own label (`schema.COHORT`); None where its records do not tell it.
    """

    events: Events
    outside: np.ndarray
    rows: pl.DataFrame | None


@dataclass(frozen=True)
class Setting:
    """What every cell of a study has in common.

    Attributes:
        study: The study.
        pipeline: The question, and the models' settings.
        target: The target's events.
        rows: The target's labelled rows, test part and all (`schema.ROWS`), sorted.
        draws: The test part, and the local cases of each repeat and size.
        source: The source; None: there is none.
        site: Where each of `rows` comes from, where sites are held out whole; None: subjects are.
        lent: Events and labelled rows (`schema.COHORT`) of other hospitals that the pooled arms learn from as well.
    """

    study: Study
    pipeline: Pipeline
    target: Events
    rows: pl.DataFrame
    draws: Draws
    source: Source | None = None
    site: np.ndarray | None = None
    lent: tuple[tuple[Events, pl.DataFrame], ...] = ()

    @property
    def labels(self) -> np.ndarray:
        """0 or 1 of each of `rows`, float64."""
        return self.rows["boolean_value"].cast(pl.Float64).to_numpy()

    @property
    def subject(self) -> np.ndarray:
        """Subject of each of `rows`."""
        return self.rows["subject_id"].to_numpy()

    @property
    def test(self) -> np.ndarray:
        """Positions of the test part's rows."""
        return self.positions(self.draws.test)

    def positions(self, subjects: np.ndarray) -> np.ndarray:
        """Positions of the rows of some subjects."""
        return np.flatnonzero(np.isin(self.subject, subjects))


def set_up(study: Study, folders: Mapping[str, str | Path]) -> Setting:
    """Binds a study to events folders, labels the rows of both sides, and draws.

    Raises:
        PipelineError: A folder is missing or nobody's, or source and target have subjects in common.
        CohortError: A side has nobody, or the target too few with or without the outcome.
        RunError: A folder holds no finished events.
    """
    events, pipeline = bind(study, folders), study.question()
    target = events[study.target.events]
    local = members(study.target, target)
    labelled = build_cohort(target, pipeline.task).labelled
    source = None
    if study.source is not None:
        _check_apart(study, events, local)
        source = _source(study, pipeline, events[study.source.events])
    return of_cohort(study, pipeline, target, labelled.filter(pl.col("subject_id").is_in(local)), source)


def of_cohort(
    study: Study,
    pipeline: Pipeline,
    target: Events,
    labelled: pl.DataFrame,
    source: Source | None = None,
    lent: Sequence[tuple[Events, pl.DataFrame]] = (),
) -> Setting:
    """The same of a target whose rows are labelled already (`schema.COHORT`)."""
    prefix = pipeline.evaluation.sites
    sites = subject_sites(target, prefix) if prefix is not None else None
    rows = labelled.with_columns(split=pl.lit(schema.HELD_OUT)).select(list(schema.ROWS))
    pipeline = replace(pipeline, transfer=replace(pipeline.transfer, sources=()))  # they are given as rows
    rows = rows.sort("subject_id", "prediction_time")
    site = None
    if sites is not None:
        site = rows.join(sites, on="subject_id", how="left", maintain_order="left")["site"].to_numpy()
    return Setting(study, pipeline, target, rows, draw_cases(study, labelled, sites), source, site, tuple(lent))


def _check_apart(study: Study, events: Mapping[str, Events], local: np.ndarray) -> None:
    """Whether nobody is on both sides. Of two folders, `transfer.seen` tells."""
    if events[study.source.events].folder.resolve() != events[study.target.events].folder.resolve():
        return
    if shared := np.isin(local, members(study.source, events[study.source.events])).sum():
        raise PipelineError(
            f"{shared:,} subjects are of the source and of the target of the study {study.name}",
            expected="nobody on both sides: `having` and `without` that exclude each other",
        )


def _source(study: Study, pipeline: Pipeline, events: Events) -> Source:
    inside = members(study.source, events)
    outside = events.subjects.filter(~pl.col("subject_id").is_in(inside))["subject_id"].sort().to_numpy()
    try:
        rows = build_cohort(events, pipeline.task).labelled.filter(pl.col("subject_id").is_in(inside))
    except CohortError as error:
        log.info("%s does not tell the outcome, so nothing is pooled: %s", events.folder.name, error.problem)
        rows = None
    if rows is not None and rows["boolean_value"].n_unique() < 2:
        log.info("%s: the source's rows all end alike, so nothing is pooled", events.folder.name)
        rows = None
    return Source(events, outside, rows)
