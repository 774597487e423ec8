"""How well the models did on people they had not seen: everything that `metrics.json` says."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from ehr_tl import schema
from ehr_tl.config import EvaluationConfig
from ehr_tl.evaluate import curves, metrics
from ehr_tl.evaluate.intervals import Bootstrap, number
from ehr_tl.evaluate.sentence import sentence
from ehr_tl.evaluate.subgroups import by_subgroup

#: Fewest people with the outcome for an evaluation that can be relied on.
ENOUGH = 20

#: Name of the transformer that was not pretrained, in `models/comparison.parquet`.
FROM_SCRATCH = "transformer_from_scratch"

#: Pairs whose difference is stated, where there are both: first minus second. The best single model is one more.
PAIRS = (
    (schema.BLEND, schema.LIGHTGBM),
    (schema.BLEND, schema.LOGISTIC),
    (schema.BLEND, schema.SOURCE),
    (schema.BLEND, schema.POOLED),
    (schema.BLEND, schema.FINETUNED),
    (schema.BLEND, schema.TRANSFORMER),
    (schema.SOURCE, schema.LIGHTGBM),
    (schema.FINETUNED, FROM_SCRATCH),
)

#: Measures whose differences are stated.
COMPARED = ("auroc", "auprc", "brier")

_KEY = ["subject_id", "prediction_time"]


def evaluate(
    scores: pl.DataFrame,
    labelled: pl.DataFrame,
    comparison: pl.DataFrame | None,
    config: EvaluationConfig,
    people: pl.DataFrame,
) -> dict[str, Any]:
    """Evaluates every model on the held-out rows.

    Args:
        scores: `schema.SCORES`; rows of the split "held_out" are evaluated, abstained ones included.
        labelled: The cohort, `schema.COHORT`.
        comparison: Models that give no scores: `subject_id`, `prediction_time`, `model`, `logit` (held-out).
        config: Resamples, seed, capacity.
        people: Birth and sex, as `ehr_tl.evaluate.demographics` gives them.

    Returns:
        JSON without NaN: `chosen`, `best_single` (the model but the blend and comparisons that ranks best on these
        very rows; which one was not known before), `sentence` (for clinicians), `held_out` (counts), `enough`,
        `capacity`, `models` (estimates and curves by name), `thresholds` and `treat_all` of the net benefit,
        `abstained`, `current` (mean risks), `differences`, `subgroups`. An estimate has `value`, `lower` and `upper`
        (95%, resampling subjects); what cannot be stated is null with a `reason`.
    """
    wide, names = _aligned(scores, labelled, comparison)
    labels, subjects = wide["label"].to_numpy(), wide["subject_id"].to_numpy()
    logits = {name: wide[name].to_numpy() for name in names}
    capacity = _capacity(scores, wide, config.capacity)
    measures = _measures(capacity["share"])
    boot = Bootstrap(labels, logits, subjects, measures, config.resamples, config.seed)
    chosen = _chosen(scores)
    at = curves.thresholds(labels)
    frame = wide.select(*_KEY, "label", logit=chosen)
    counts, single = _counts(wide), _best_single(boot, scores["model"].unique(maintain_order=True).to_list())
    models = {
        name: {**{measure: boot.estimate(name, measure) for measure in measures}, **_described(labels, logit, at)}
        for name, logit in logits.items()
    }
    return {
        "chosen": chosen,
        "best_single": single,
        "sentence": sentence(counts, models, chosen),
        "held_out": counts,
        "enough": _enough(wide),
        "capacity": capacity,
        "models": models,
        "thresholds": [number(t) for t in at],
        "treat_all": curves.treat_all(labels, at),
        "abstained": _abstained(scores, wide, chosen),
        "current": _current(scores),
        "differences": [
            {"first": first, "second": second, **{name: boot.difference(first, second, name) for name in COMPARED}}
            for first, second in dict.fromkeys((*PAIRS, (chosen, single)))
            if first in logits and second in logits and first != second
        ],
        "subgroups": by_subgroup(frame, people, config.resamples, config.seed),
    }


def _best_single(boot: Bootstrap, names: list[str]) -> str:
    """The model that ranks best, of those that are no blend of others; the first of equals."""
    single = [name for name in names if name != schema.BLEND]
    return max(single, key=lambda name: np.nan_to_num(boot.values[name, "auroc"]))


def _described(labels: np.ndarray, logit: np.ndarray, at: np.ndarray) -> dict[str, Any]:
    """Figures without an interval, and curves."""
    return {
        "calibration_error": number(float(metrics.calibration_error(labels, logit, np.ones(len(labels))))),
        **curves.ranking(labels, logit),
        "calibration": curves.calibration_groups(labels, logit),
        "net_benefit": curves.net_benefit(labels, logit, at),
    }


def _measures(share: float) -> dict[str, Any]:
    return {
        "auroc": metrics.auroc,
        "auprc": metrics.auprc,
        "brier": metrics.brier,
        "brier_skill": metrics.brier_skill,
        "calibration_slope": metrics.calibration_slope,
        "calibration_intercept": metrics.calibration_intercept,
        "observed_over_expected": metrics.observed_over_expected,
        "sensitivity": metrics.sensitivity_at(share),
        "precision": metrics.precision_at(share),
    }


def _aligned(
    scores: pl.DataFrame, labelled: pl.DataFrame, comparison: pl.DataFrame | None
) -> tuple[pl.DataFrame, list[str]]:
    """One line per row that every model scored: key, `label`, and a column of logits per model; and the models."""
    long = [scores.filter(pl.col("split") == schema.HELD_OUT).select(*_KEY, "model", "logit")]
    if comparison is not None and comparison.height:
        long.append(comparison.select(*_KEY, "model", "logit"))
    wide = pl.concat(long).pivot(on="model", index=_KEY, values="logit", maintain_order=True)
    names = [name for name in wide.columns if name not in _KEY]
    labels = labelled.select(*_KEY, label=pl.col("boolean_value").cast(pl.Int8))
    return wide.drop_nulls(names).join(labels, on=_KEY).sort(_KEY), names


def _chosen(scores: pl.DataFrame) -> str:
    return scores.filter("chosen")["model"][0]


def _counts(wide: pl.DataFrame) -> dict[str, Any]:
    positive = wide.filter(pl.col("label") == 1)
    return {
        "rows": wide.height,
        "subjects": wide["subject_id"].n_unique(),
        "outcomes": positive.height,
        "subjects_with_outcome": positive["subject_id"].n_unique(),
        "prevalence": number(positive.height / wide.height),
        "first": wide["prediction_time"].min().isoformat(),
        "last": wide["prediction_time"].max().isoformat(),
    }


def _enough(wide: pl.DataFrame) -> dict[str, Any]:
    people = wide.filter(pl.col("label") == 1)["subject_id"].n_unique()
    verdict = "enough for a first judgement" if people >= ENOUGH else "too few to rely on any figure below"
    return {"ok": people >= ENOUGH, "subjects_with_outcome": people, "needed": ENOUGH, "verdict": verdict}


def _capacity(scores: pl.DataFrame, wide: pl.DataFrame, patients: int) -> dict[str, Any]:
    """The list's length as a share of those asked about at one time: the current patients, else the held-out rows."""
    current = scores.filter((pl.col("split") == schema.CURRENT_SPLIT) & pl.col("chosen")).height
    of = current or wide.height
    share = min(1.0, patients / of)
    listed = round(share * wide.height)
    return {"patients": min(patients, of), "of": of, "current": current > 0, "share": share, "held_out_rows": listed}


def _current(scores: pl.DataFrame) -> dict[str, float] | None:
    """Mean risk of the current and of the held-out rows that got a score; None without current ones.

    They are the same people's, or their likes', at different times. Far apart, they say that the records changed.
    """
    answered = scores.filter(pl.col("chosen") & ~pl.col("abstained"))
    means = dict(answered.group_by("split").agg(pl.mean("risk")).iter_rows())
    if schema.CURRENT_SPLIT not in means:
        return None
    return {"mean_risk": number(means[schema.CURRENT_SPLIT]), "mean_risk_held_out": number(means[schema.HELD_OUT])}


def _abstained(scores: pl.DataFrame, wide: pl.DataFrame, chosen: str) -> dict[str, Any]:
    """How many rows got no score, by split, and the AUROC on the rest."""
    rows = scores.filter("chosen")
    counts = {
        split: {"rows": part.height, "abstained": int(part["abstained"].sum())}
        for split in (schema.HELD_OUT, schema.CURRENT_SPLIT)
        if (part := rows.filter(pl.col("split") == split)).height
    }
    kept = rows.filter((pl.col("split") == schema.HELD_OUT) & ~pl.col("abstained")).select(_KEY)
    answered = wide.join(kept, on=_KEY, how="semi")
    if answered.is_empty():
        return {**counts, "auroc_of_the_rest": None}
    value = metrics.auroc(answered["label"].to_numpy(), answered[chosen].to_numpy(), np.ones(answered.height))
    return {**counts, "auroc_of_the_rest": number(float(value))}
