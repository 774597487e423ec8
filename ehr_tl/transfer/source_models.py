"""Fitting source models: for each task one booster, on the training subjects of all hospitals that label it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

from ehr_tl import features
from ehr_tl.cohort.cohort import TRAINABLE
from ehr_tl.events import Events
from ehr_tl.features import Features
from ehr_tl.models.gradient_boosting import GradientBoosting, GradientBoostingLearner
from ehr_tl.models.source import SourceModels
from ehr_tl.progress import bar
from ehr_tl.transfer.held_out import TRAIN
from ehr_tl.transfer.tasks import SourceTask

log = logging.getLogger("ehr_tl")

MOST_ROWS = 150_000  # of more, trees so shallow learn nothing new


def fit_source_models(sources: Sequence[Events], tasks: Sequence[SourceTask], seed: int) -> SourceModels:
    """Fits a booster for each task, tuned by cross-validation within the training subjects.

    Args:
        sources: The events folders that `tasks` speak of, in the same order.
        tasks: As `label_tasks` gives them.
        seed: Fixes folds, trees and, where there are more than `MOST_ROWS` rows, whose are taken.

    Returns:
        The models. A task with too few training subjects with or without the outcome is left out, and logged.
    """
    models, told = {}, {}
    with bar("source models", len(tasks)) as progress:
        for task in tasks:
            rows = _training_rows(task, seed)
            if _rarer(rows) < TRAINABLE:
                log.warning("%s: too few training subjects with or without the outcome: no source model", task.name)
            else:
                models[task.name] = _fit(sources, task, rows, seed)
                told[task.name] = _description(sources, task, rows)
            progress.advance(1, task.name)
    return SourceModels(told, models)


def _training_rows(task: SourceTask, seed: int) -> pl.DataFrame:
    """The training subjects' rows of all sources: `schema.COHORT`, `source`, and `person`, a number across sources."""
    rows = pl.concat(
        task.rows(position, TRAIN).with_columns(source=pl.lit(position, pl.Int64)) for position in sorted(task.labels)
    )
    people = rows.select("source", "subject_id").unique(maintain_order=True)
    order = np.random.default_rng(seed).permutation(people.height)
    people = people.with_columns(person=pl.Series(order, dtype=pl.Int64))
    rows = rows.join(people, on=["source", "subject_id"], how="left", maintain_order="left")
    if rows.height <= MOST_ROWS:
        return rows
    before = rows.group_by("person").len().sort("person").with_columns(pl.col("len").cum_sum())
    return rows.join(before.filter(pl.col("len") <= MOST_ROWS), on="person", how="semi", maintain_order="left")


def _rarer(rows: pl.DataFrame) -> int:
    """Subjects with the outcome, or without, whichever are fewer."""
    ever = rows.group_by("person").agg(pl.col("boolean_value").any())["boolean_value"]
    return min(int(ever.sum()), int((~ever).sum()))


def _fit(sources: Sequence[Events], task: SourceTask, rows: pl.DataFrame, seed: int) -> GradientBoosting:
    config = task.pipeline.lightgbm
    parts = [
        (part, features.build(sources[part["source"][0]], part, config.windows_days))
        for part in rows.partition_by("source", maintain_order=True)
    ]
    inputs = joined([found for _, found in parts], rows)
    labels = rows["boolean_value"].cast(pl.Float64).to_numpy()
    # A booster is fitted within minutes: no state is kept.
    return GradientBoostingLearner(config).fit(inputs, labels, np.arange(rows.height), seed=seed, state=Path())


def joined(parts: Sequence[Features], rows: pl.DataFrame) -> Features:
    """The features of several hospitals below each other, columns by name.

    Args:
        parts: Of each hospital.
        rows: All rows in the same order, with a column `person`: a subject's number across hospitals.
    """
    columns = pl.concat(part.columns for part in parts).unique(maintain_order=True)
    matrix = sparse.vstack([part.take(columns, np.arange(part.rows.height)) for part in parts], format="csr")
    return Features(rows.select("prediction_time", subject_id="person"), matrix, columns)


def _description(sources: Sequence[Events], task: SourceTask, rows: pl.DataFrame) -> dict[str, object]:
    return {
        "title": task.title,
        "question": task.pipeline.question,
        "outcome": task.pipeline.outcome,
        "adapters": sorted({sources[position].export.adapter for position in task.labels}),
        "rows": rows.height,
        "subjects": rows["person"].n_unique(),
        "positives": int(rows["boolean_value"].sum()),
        "windows_days": list(task.pipeline.lightgbm.windows_days),
    }
