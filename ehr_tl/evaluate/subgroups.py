"""Whether a score holds for both sexes and at every age."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from ehr_tl import schema
from ehr_tl.evaluate.intervals import Bootstrap
from ehr_tl.evaluate.metrics import auroc, observed_over_expected
from ehr_tl.events import Events

#: Fewest people with the outcome, and without it, behind a stated number.
FEWEST = 10

#: Lower ends of the age bands, in years.
_BANDS = (0, 18, 40, 65, 80)

DEMOGRAPHICS = {"subject_id": pl.Int64, "birth": schema.TIME, "sex": pl.String}


def demographics(events: Events) -> pl.DataFrame:
    """Birth and sex of every subject, as recorded (columns as in `DEMOGRAPHICS`; null where unknown)."""
    sexes = pl.col("code").str.starts_with(f"{schema.GENDER}//")
    facts = (
        events.scan()
        .filter((pl.col("code") == schema.BIRTH) | sexes)
        .select(
            "subject_id",
            birth=pl.when(pl.col("code") == schema.BIRTH).then("time"),
            sex=pl.when(sexes).then(pl.col("code").str.split("//").list.get(1)),
        )
        .group_by("subject_id")
        .agg(pl.col("birth").min(), pl.col("sex").drop_nulls().first())
        .collect()
    )
    everyone = events.subjects.select("subject_id")
    return everyone.join(facts, on="subject_id", how="left").select(list(DEMOGRAPHICS)).cast(DEMOGRAPHICS)


def age_years(time: pl.Expr, birth: pl.Expr) -> pl.Expr:
    """Age in years at `time`."""
    return (time - birth).dt.total_seconds() / (365.25 * 86_400)


def age_band(age: float | None) -> str | None:
    """The band an age falls into.

    Examples:
        >>> age_band(39.9), age_band(80), age_band(None)
        ('18-39', '80 and over', None)
    """
    if age is None:
        return None
    i = max(i for i, low in enumerate(_BANDS) if low <= max(age, 0))
    return f"{_BANDS[i]}-{_BANDS[i + 1] - 1}" if i + 1 < len(_BANDS) else f"{_BANDS[i]} and over"


def by_subgroup(frame: pl.DataFrame, people: pl.DataFrame, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Counts, AUROC and observed over expected by sex and by age at the prediction time.

    Args:
        frame: One row per held-out row: `subject_id`, `prediction_time`, `label` (0 or 1), `logit`.
        people: As `demographics` gives it.
        resamples, seed: Of the bootstrap over subjects.

    Returns:
        Per subgroup `group` ("sex" or "age"), `value`, `rows`, `subjects`, `outcomes` (rows), `positive_subjects`,
        `auroc`, `observed_over_expected`. Where fewer than `FEWEST` people had the outcome, or were spared it, the two
        measures are null and say why.
    """
    age = age_years(pl.col("prediction_time"), pl.col("birth"))
    known = frame.join(people, on="subject_id", how="left").with_columns(
        sex=pl.col("sex").fill_null("unknown"),
        age=age.map_elements(age_band, return_dtype=pl.String, skip_nulls=False).fill_null("unknown"),
    )
    found = []
    for group in ("sex", "age"):
        for value in sorted(known[group].unique(), key=lambda v: (v == "unknown", len(v) > 5, len(v), v)):
            part = known.filter(pl.col(group) == value)
            found.append({"group": group, "value": value, **_measured(part, resamples, seed)})
    return found


def _measured(part: pl.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    labels, subjects = part["label"].to_numpy(), part["subject_id"].to_numpy()
    affected = part.filter(pl.col("label") == 1)["subject_id"].n_unique()
    spared = part.filter(pl.col("label") == 0)["subject_id"].n_unique()
    counts = {"rows": len(labels), "subjects": int(np.unique(subjects).size)}
    counts |= {"outcomes": int(labels.sum()), "positive_subjects": affected}
    if min(affected, spared) < FEWEST:
        which = "with" if affected <= spared else "without"
        empty = {
            "value": None,
            "lower": None,
            "upper": None,
            "reason": f"fewer than {FEWEST} people {which} the outcome",
        }
        return {**counts, "auroc": empty, "observed_over_expected": empty}
    measures = {"auroc": auroc, "observed_over_expected": observed_over_expected}
    boot = Bootstrap(labels, {"score": part["logit"].to_numpy()}, subjects, measures, resamples, seed)
    return {**counts, **{name: boot.estimate("score", name) for name in measures}}
