"""Domain shift: what of a hospital differs from what a checkpoint learned from, told of all patients together.

The checkpoint carries no records, but its vocabulary has quantiles of every code's values at the sources, and its
source tasks the numbers of rows with and without their outcome.

How far the values of a code lie from the sources' is told by the population stability index: the sum over the bins
between quantiles of `(p - q) log(p / q)`, with shares p here and q at the sources (Siddiqi 2006, "Credit Risk
Scorecards"; it is the symmetrised Kullback-Leibler divergence). By convention less than 0.1 is no shift that matters
and more than 0.25 a large one. Few values differ by chance: the index of n values that were drawn from the sources is
about a chi-squared variable with as many degrees of freedom as edges, divided by n (Yurdakul and Naranjo 2020,
"Statistical properties of the population stability index", J. Risk Model Validation 14). Values of one subject are
alike, so n is taken to be the number of subjects, and both limits are raised by what chance alone exceeds once in a
hundred times, since many codes are looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehr_tl import schema
from ehr_tl.concepts import FEWEST_SUBJECTS, TEXT, concept
from ehr_tl.events import Events
from ehr_tl.models.checkpoint import SOURCE, checkpoint_path, checkpoint_vocabulary
from ehr_tl.tokens.vocabulary import QUANTILES, Vocabulary

LIKE, DIFFERS, OUTSIDE = "like the sources", "differs", "lies outside"

#: Limits of the population stability index, before what chance adds.
DIFFERING, LYING_OUTSIDE = 0.1, 0.25

#: Fewest subjects with values of a code for a verdict on it.
ENOUGH = 30

#: By what factor the outcome's share may differ from the sources' without a warning: it moves every logit by 1.1, as a
#: strong risk factor does.
PREVALENCE = 3.0

#: Share of subjects from which on a code is common, and up to which it is next to absent.
COMMON, ABSENT = 0.2, 0.01

#: How many codes each list names.
NAMED = 25

_CHANCE = 0.99

#: Quantiles that bound the bins of the index: of those farther out, a few dozen values say nothing.
_INNER = QUANTILES[1:-1]


@dataclass(frozen=True)
class Shift:
    """How a hospital differs from the sources of a checkpoint.

    Attributes:
        checkpoint: Its name.
        subjects: Subjects of the hospital.
        values: For each code and unit that the checkpoint has quantiles of and somebody here has: `code`,
            `description`, `unit`, `subjects`, `values` (how many), `index` (population stability), `quantile` (where
            the median here lies among the sources' values, 0 to 1), `ratio` (median here by median there; None where
            the latter is not above 0), and `verdict`, None below `ENOUGH` subjects; the most different first.
        added: Codes that are common here and that the checkpoint does not know: `code`, `description`, `share` of
            subjects.
        lacking: Codes that the sources' trees rely on and hardly anybody here has, under no other code and by no code
            below them either: `code`, `weight` (share of all gain of those trees), `share` of subjects.
        prevalence: `here` and `sources`, the outcome's share of the rows; None where the question is no source task.
    """

    checkpoint: str
    subjects: int
    values: list[dict[str, Any]]
    added: list[dict[str, Any]]
    lacking: list[dict[str, Any]]
    prevalence: dict[str, float] | None

    @property
    def judged(self) -> list[dict[str, Any]]:
        """The codes of `values` that have a verdict."""
        return [each for each in self.values if each["verdict"]]

    @property
    def verdict(self) -> str | None:
        """What holds of at least half of the codes with a verdict; None where there are none.

        A code or two always differ between hospitals, by what their laboratories and devices measure.
        """
        verdicts = [each["verdict"] for each in self.judged]
        if not verdicts:
            return None
        if 2 * verdicts.count(OUTSIDE) >= len(verdicts):
            return OUTSIDE
        return DIFFERS if 2 * verdicts.count(LIKE) <= len(verdicts) else LIKE

    @property
    def unlikely(self) -> list[dict[str, Any]]:
        """Codes half of whose values are beyond 98% of the sources': of another unit, maybe."""
        return [each for each in self.judged if not QUANTILES[0] < each["quantile"] < QUANTILES[-1]]

    @property
    def times(self) -> float | None:
        """The outcome's share here by that at the sources; None where it cannot be told."""
        if not self.prevalence or not self.prevalence["sources"]:
            return None
        return self.prevalence["here"] / self.prevalence["sources"]

    @property
    def rarer_or_commoner(self) -> bool:
        """Whether the outcome's share differs by more than `PREVALENCE` times."""
        return self.times is not None and not 1 / PREVALENCE <= self.times <= PREVALENCE

    @property
    def warnings(self) -> list[str]:
        """What somebody must know who relies on the checkpoint here, in sentences."""
        told = []
        if self.verdict == OUTSIDE:
            number = sum(each["verdict"] == OUTSIDE for each in self.judged)
            told.append(
                f"The values of {number} of {len(self.judged)} codes lie outside of those that {self.checkpoint} "
                "learned from: what it learned elsewhere may not hold here."
            )
        if self.unlikely:
            named = ", ".join(f"{each['code']} ({each['unit']})" for each in self.unlikely[:5])
            more = f" and {len(self.unlikely) - 5} more" if len(self.unlikely) > 5 else ""
            told.append(
                f"Half or more of the values of {named}{more} lie beyond 98% of those at the sources: are their units "
                "right?"
            )
        if self.rarer_or_commoner:
            here, there = self.prevalence["here"], self.prevalence["sources"]
            told.append(
                f"The outcome came in {here:.1%} of the rows here and in {there:.1%} at the sources: their scores as "
                f"they are promise too {'little' if here > there else 'much'} here, and need to be recalibrated."
            )
        return told

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Shift:
        return cls(**{name: each for name, each in value.items() if name != "verdict"})


def shift(events: Events, labelled: pl.DataFrame, checkpoint: str | Path, tasks: Sequence[str]) -> Shift:
    """Sets a hospital beside the sources of a checkpoint.

    Args:
        events: The hospital's events.
        labelled: Its cohort, `schema.COHORT`; only how many of the rows have the outcome is looked at.
        checkpoint: Folder or name of a checkpoint of this package.
        tasks: Its source tasks that ask the cohort's question; of none, no prevalence is compared.

    Raises:
        CheckpointError: The checkpoint is broken.
    """
    path = checkpoint_path(checkpoint)
    vocabulary, source = checkpoint_vocabulary(path), _source(path)
    owners, people, known = _subjects_per_code(events), events.subjects.height, set(vocabulary.codes)
    described = dict(events.codes.drop_nulls("description").select("code", "description").iter_rows())
    return Shift(
        checkpoint=path.name,
        subjects=people,
        values=_values(events, vocabulary, described),
        added=[
            {"code": code, "description": described.get(code), "share": number / people}
            for code, number in owners.items()
            if number >= max(COMMON * people, FEWEST_SUBJECTS) and _tells(code) and code not in known
        ][:NAMED],
        lacking=_lacking(source, tasks, events),
        prevalence=_prevalence(source, tasks, labelled),
    )


def stability(values: np.ndarray, edges: Sequence[float]) -> float:
    """Population stability index of values against quantiles (`QUANTILES`) of others, at least 0.

    The outermost quantiles are left out.
    Where values tie at an edge, which of them lie below it is as at the sources, as far as they reach: so equal
    distributions have the index 0 also where they are of few distinct values.

    Examples:
        >>> evenly = np.linspace(0, 1, 10_001)
        >>> [round(stability(values, QUANTILES), 2) for values in (evenly, evenly / 2, evenly + 9)]
        [0.0, 4.46, 11.59]
    """
    ordered, at = np.sort(values.astype(np.float32)), np.asarray(edges[1:-1], dtype=np.float32)
    below, upto = (np.searchsorted(ordered, at, side) / len(ordered) for side in ("left", "right"))
    expected = np.diff([0.0, *_INNER, 1.0])
    found = np.diff([0.0, *np.clip(_INNER, below, upto), 1.0])
    found = (len(ordered) * found + expected) / (len(ordered) + 1)  # an empty bin is no infinite shift
    return float(np.sum((found - expected) * np.log(found / expected)))


def _values(events: Events, vocabulary: Vocabulary, described: Mapping[str, str]) -> list[dict[str, Any]]:
    number = pl.col("numeric_value")
    pairs = [(code, unit) for code, units in vocabulary.edges.items() for unit in units]
    known = pl.DataFrame(pairs, {"code": pl.String, "unit": pl.String}, orient="row")
    found = (
        events.history()
        .filter(number.is_finite() & pl.col("time").is_not_null())
        .with_columns(pl.col("unit").fill_null(""))
        .join(known.lazy(), on=["code", "unit"])
        .group_by("code", "unit")
        .agg(number, subjects=pl.col("subject_id").n_unique())
        .sort("code", "unit")
        .collect(engine="streaming")
    )
    rows = [
        {"code": code, "description": described.get(code), "unit": unit}
        | _place(values.to_numpy(), vocabulary.edges[code][unit], subjects)
        for code, unit, values, subjects in zip(
            *(found[name] for name in ("code", "unit", "numeric_value", "subjects"))
        )
    ]
    return sorted(rows, key=lambda row: (row["verdict"] is None, -row["index"], row["code"]))


def _place(values: np.ndarray, edges: Sequence[float], subjects: int) -> dict[str, Any]:
    """What `Shift.values` says of the values of a code."""
    index, here, there = stability(values, edges), float(np.median(values)), float(np.interp(0.5, QUANTILES, edges))
    return {
        "subjects": subjects,
        "values": len(values),
        "index": float(f"{index:.4g}"),
        "quantile": _quantile(here, edges),
        "ratio": float(f"{here / there:.4g}") if there > 0 else None,
        "verdict": _verdict(index, subjects) if subjects >= ENOUGH else None,
    }


def _quantile(value: float, edges: Sequence[float]) -> float:
    """Where a value lies among the sources', 0 below and 1 above all edges; the middle of those that it ties with."""
    at = np.asarray(edges, dtype=np.float32)
    if np.float32(value) < at[0] or np.float32(value) > at[-1]:
        return 0.0 if value < at[0] else 1.0
    distinct, group = np.unique(at, return_inverse=True)
    middle = np.bincount(group, weights=QUANTILES) / np.bincount(group)
    return float(f"{np.interp(value, distinct, middle):.3g}")


def _verdict(index: float, subjects: int) -> str:
    from scipy.stats import chi2

    chance = float(chi2.ppf(_CHANCE, len(_INNER))) / subjects
    return LIKE if index <= DIFFERING + chance else DIFFERS if index <= LYING_OUTSIDE + chance else OUTSIDE


def _subjects_per_code(events: Events) -> dict[str, int]:
    """Code -> how many subjects have it, the commonest first."""
    counts = (
        events.history()
        .group_by("code")
        .agg(n=pl.col("subject_id").n_unique())
        .sort("n", "code", descending=[True, False])
    )
    return dict(counts.collect(engine="streaming").iter_rows())


def _tells(code: str) -> bool:
    """Whether a code says more than that somebody was born or seen, and is no text that somebody typed."""
    kind, *_ = parts = code.split("//")
    return TEXT not in parts and kind not in (schema.BIRTH, schema.DEATH, schema.GENDER, *schema.COURSE)


def _source(path: Path) -> Any:
    if not (path / SOURCE).is_dir():
        return None
    from ehr_tl.models.source import SourceModels

    return SourceModels.load(path / SOURCE)


def _lacking(source: Any, tasks: Sequence[str], events: Events) -> list[dict[str, Any]]:
    """The weightiest codes of the tasks' trees that at most `ABSENT` of the people here have."""
    weights: dict[str, float] = {}
    models = [source.models[task] for task in tasks if source is not None and task in source.models]
    for model in models:
        gain = model.booster.feature_importance("gain")
        for code, part in zip(model.columns["code"], gain / (gain.sum() or 1.0)):
            weights[code] = weights.get(code, 0.0) + float(part) / len(models)
    told = {code: weight for code, weight in weights.items() if weight > 0 and code != schema.AGE}
    owners, people = _subjects_per_name(events, told), events.subjects.height
    return [
        {"code": code, "weight": weight, "share": owners.get(code, 0) / people}
        for code, weight in sorted(told.items(), key=lambda item: (-item[1], item[0]))
        if owners.get(code, 0) <= ABSENT * people
    ][:NAMED]


def _subjects_per_name(events: Events, codes: Collection[str]) -> dict[str, int]:
    """Code -> how many subjects have an event that it names, as features count: by its own, another, a higher code."""
    had = events.history().select("subject_id", concept=concept()).unique().collect(engine="streaming")
    pairs = [(each, name) for each in had["concept"].unique() for name in events.hierarchy.names(each) if name in codes]
    named = pl.DataFrame(pairs, {"concept": pl.String, "code": pl.String}, orient="row")
    counts = had.join(named, on="concept").group_by("code").agg(pl.col("subject_id").n_unique())
    return dict(counts.iter_rows())


def _prevalence(source: Any, tasks: Sequence[str], labelled: pl.DataFrame) -> dict[str, float] | None:
    told = [source.tasks[task] for task in tasks if source is not None and task in source.tasks]
    if not told or labelled.is_empty():
        return None
    rows, positives = (sum(task[name] for task in told) for name in ("rows", "positives"))
    return {"here": float(labelled["boolean_value"].mean()), "sources": positives / rows}
