"""How well a checkpoint does on subjects of its sources whom it was not trained on: what its card says, as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from ehr_tl.evaluate.intervals import Bootstrap
from ehr_tl.evaluate.metrics import auroc, brier, calibration_slope
from ehr_tl.evaluate.subgroups import FEWEST, by_subgroup, demographics
from ehr_tl.events import Events
from ehr_tl.models.calibration import calibrate, stacking_weights
from ehr_tl.transfer.tasks import SourceTask

#: Log odds of a task's outcome: (task, events, rows) -> shape (rows,); None where the model knows no such task.
Scorer = Callable[[str, Events, pl.DataFrame], np.ndarray | None]

MEASURES = {"auroc": auroc, "brier": brier, "calibration_slope": calibration_slope}

RESAMPLES, SEED = 500, 0

#: Names of the two models of a checkpoint.
TREES, HEAD = "lightgbm", "transformer"

#: Standard deviation of the prior of `share` about one half: those who validate at the sources are many.
SPREAD = 0.3

#: What is known of a scored row beside the models' logits.
_ROW = ("source", "subject_id", "prediction_time", "label", "birth", "sex")


def examine(
    sources: Sequence[Events],
    tasks: Sequence[SourceTask],
    part: str,
    scorers: Mapping[str, Scorer],
    losses: Mapping[str, float],
) -> dict[str, Any]:
    """Examines every model of a checkpoint on one part of its sources' subjects.

    Args:
        sources: The events folders that `tasks` speak of, in the same order.
        tasks: As `label_tasks` gives them.
        part: Whose rows are scored, a part of `transfer.held_out`.
        scorers: Name of a model -> how it scores rows.
        losses: Losses on the same part, by name; handed through.

    Returns:
        JSON without NaN: `part`, `losses` and `tasks`. Per task `title`, `outcome`, `synthetic` (all its sources are),
        counts (`rows`, `subjects`, `positives`, `positive_subjects`), `models` (estimates of `MEASURES`, 95% intervals
        resampling subjects), `sources` (per source the counts and the AUROC of each model), `subgroups` (per model,
        as `by_subgroup` gives them) and, where there are trees and a head, `share`: that of the trees in the mixture of
        both that foretells these rows best. A task whose rows all have one label, or which has none, has no `models`
        and says so under `reason`.
    """
    people = [demographics(source) for source in sources]
    found = {}
    for task in tasks:
        scored = pl.concat(
            _scored(position, sources[position], task, part, scorers, people[position])
            for position in sorted(task.labels)
        )
        found[task.name] = {
            "title": task.title,
            "outcome": task.pipeline.outcome,
            "synthetic": all(sources[position].export.synthetic for position in task.labels),
            **_examined(scored, sources),
        }
    return {"part": part, "losses": dict(losses), "tasks": found}


def _scored(
    position: int, source: Events, task: SourceTask, part: str, scorers: Mapping[str, Scorer], people: pl.DataFrame
) -> pl.DataFrame:
    """A source's rows as in `_ROW` (`subject_id` a name across sources), and a column of logits per model."""
    rows = task.rows(position, part)
    logits = {name: score(task.name, source, rows) for name, score in scorers.items()}
    return (
        rows.join(people, on="subject_id", how="left", maintain_order="left")
        .select(
            pl.lit(position, pl.Int64).alias("source"),
            pl.concat_str(pl.lit(position), "subject_id", separator=" ").alias("subject_id"),
            "prediction_time",
            pl.col("boolean_value").cast(pl.Int8).alias("label"),
            "birth",
            "sex",
        )
        .with_columns(
            pl.Series(name, np.asarray(logit, dtype=np.float64)) for name, logit in logits.items() if logit is not None
        )
    )


def _examined(scored: pl.DataFrame, sources: Sequence[Events]) -> dict[str, Any]:
    models = [name for name in scored.columns if name not in _ROW]
    if scored["label"].n_unique() < 2:
        return {**_counts(scored), "reason": "no row with, or none without, the outcome"}
    boot = _bootstrap(scored, models, MEASURES)
    frame, known = scored.drop("birth", "sex"), scored.select("subject_id", "birth", "sex").unique("subject_id")
    return {
        **_counts(scored),
        "models": {model: {name: boot.estimate(model, name) for name in MEASURES} for model in models},
        "sources": [
            {"source": sources[part["source"][0]].folder.name, **_counts(part), **_ranked(part, models)}
            for part in scored.partition_by("source", maintain_order=True)
        ],
        "subgroups": {
            model: by_subgroup(
                frame.select("subject_id", "prediction_time", "label", logit=model), known, RESAMPLES, SEED
            )
            for model in models
        },
        **({"share": _share(scored)} if {TREES, HEAD} <= set(models) else {}),
    }


def _share(scored: pl.DataFrame) -> float:
    """The trees' share in a mixture of calibrated logits, by likelihood, shrunk towards one half."""
    label, subject = scored["label"].to_numpy(), scored["subject_id"].rank("dense").to_numpy()
    trees, head = (calibrate(logit, label, subject)(logit) for logit in (scored[m].to_numpy() for m in (TREES, HEAD)))
    return float(stacking_weights(np.column_stack([trees, head]), label, np.array([0.5, 0.5]), spread=SPREAD)[0])


def _ranked(part: pl.DataFrame, models: Sequence[str]) -> dict[str, Any]:
    """AUROC of each model at one source; nothing where too few people had the outcome, or were spared it."""
    if min(part.filter(label=label)["subject_id"].n_unique() for label in (0, 1)) < FEWEST:
        return {"models": {}}
    boot = _bootstrap(part, models, {"auroc": auroc})
    return {"models": {model: {"auroc": boot.estimate(model, "auroc")} for model in models}}


def _bootstrap(scored: pl.DataFrame, models: Sequence[str], measures: Mapping[str, Any]) -> Bootstrap:
    logits = {model: scored[model].to_numpy() for model in models}
    label, subject = scored["label"].to_numpy(), scored["subject_id"].rank("dense").to_numpy()
    return Bootstrap(label, logits, subject, measures, RESAMPLES, SEED)


def _counts(scored: pl.DataFrame) -> dict[str, int]:
    positive = scored.filter(pl.col("label") == 1)
    return {
        "rows": scored.height,
        "subjects": scored["subject_id"].n_unique(),
        "positives": positive.height,
        "positive_subjects": positive["subject_id"].n_unique(),
    }
