"""How much of a hospital's records a pretrained vocabulary knows, told before any model is loaded."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from ehr_tl.concepts import FEWEST_SUBJECTS, OTHER_SYSTEMS, TEXT, concept, parts, system
from ehr_tl.events import Events
from ehr_tl.schema import BIRTH, COURSE, DEATH

#: Below this share of known events a pretrained model has little to say: most of what it sees means nothing to it.
ENOUGH = 0.5

#: How many codes that are not known are named.
NAMED = 25

_EXACTLY, _RELATED, _UNKNOWN = LEVELS = ("exactly", "related", "unknown")


@dataclass(frozen=True)
class Familiarity:
    """How much a vocabulary knows of the events that models look at.

    Those are the dated ones (`Events.history`) but births, deaths, and that a visit began or ended, which every
    hospital writes alike. An event is known `exactly` if the vocabulary has its code; it is `related` if it has
    another code of the event, or one that lies above any of these; else `unknown`.

    Attributes:
        checkpoint: Whose vocabulary.
        events: How many are known `exactly`, `related`, `unknown`.
        codes: The same of distinct codes, each by the best of its events.
        subjects: Subjects by the share of their events that are known or related: `half_or_more`, `less`, and `none`
            without any such event.
        systems: Code system -> the same as `events`; those that coverage does not name, and that fewer than
            `FEWEST_SUBJECTS` subjects have, in one.
        missing: The commonest unknown codes: `code`, `events`, `subjects`; only such as `FEWEST_SUBJECTS` have, and no
            texts.
    """

    checkpoint: str
    events: dict[str, int]
    codes: dict[str, int]
    subjects: dict[str, int]
    systems: dict[str, dict[str, int]]
    missing: list[dict[str, Any]]

    @property
    def known(self) -> float | None:
        """Share of events that are known exactly or related; None if there are none."""
        total = sum(self.events.values())
        return 1 - self.events[_UNKNOWN] / total if total else None

    @property
    def little(self) -> bool:
        """Whether so little is known that the pretrained model has little to say."""
        return self.known is not None and self.known < ENOUGH

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Familiarity:
        return cls(**value)


def familiarity(events: Events, known: Collection[str], checkpoint: str) -> Familiarity:
    """Sets an events folder beside the codes that a vocabulary knows.

    Args:
        events: The events folder.
        known: Codes of the vocabulary.
        checkpoint: Its name.
    """
    frame = _clinical(events.history())
    counts = frame.group_by("concept", "code").agg(events=pl.len()).sort("concept").collect(engine="streaming")
    seen, systems = frozenset(known), events.coverage["codes"]
    level = [_level(each, code, seen, events) for each, code in counts.select("concept", "code").iter_rows()]
    owner = [system(code, systems) for code in counts["code"]]
    counts = counts.with_columns(
        level=pl.Series(level, dtype=pl.Enum(LEVELS)), system=pl.Series(owner, dtype=pl.String)
    )
    counts = counts.with_columns(system=_shown(frame, counts, systems))
    best = counts.group_by("code").agg(pl.min("level"))
    return Familiarity(
        checkpoint=checkpoint,
        events=_by_level(counts.group_by("level").agg(pl.sum("events"))),
        codes=_by_level(best.group_by("level").len()),
        subjects=_subjects(frame, counts, events.subjects.height),
        systems={
            name: _by_level(rows.group_by("level").agg(pl.sum("events")))
            for (name,), rows in sorted(counts.partition_by("system", as_dict=True).items())
        },
        missing=_missing(frame, counts, systems),
    )


def _clinical(events: pl.LazyFrame) -> pl.LazyFrame:
    """Dated events that say more than that a visit began or ended, with their concepts."""
    code = pl.col("code")
    course = code.str.contains(f"^({'|'.join(COURSE)})//")
    return events.filter(pl.col("time").is_not_null() & ~code.is_in([BIRTH, DEATH]) & ~course).select(
        "subject_id", "code", concept=concept()
    )


def _level(concept: str, code: str, known: frozenset[str], events: Events) -> str:
    if code in known:
        return _EXACTLY
    return _UNKNOWN if known.isdisjoint(events.hierarchy.names(concept)) else _RELATED


def _by_level(counts: pl.DataFrame) -> dict[str, int]:
    return dict.fromkeys(LEVELS, 0) | dict(counts.iter_rows())


def _shown(frame: pl.LazyFrame, counts: pl.DataFrame, systems: Collection[str]) -> pl.Expr:
    """The system of a concept as it may be named."""
    others = counts.select("concept", "system").filter(~pl.col("system").is_in(list(systems)))
    rare = (
        frame.join(others.lazy(), on="concept")
        .group_by("system")
        .agg(subjects=pl.col("subject_id").n_unique())
        .filter(pl.col("subjects") < FEWEST_SUBJECTS)
        .collect(engine="streaming")["system"]
    )
    return pl.when(pl.col("system").is_in(rare.to_list())).then(pl.lit(OTHER_SYSTEMS)).otherwise("system")


def _subjects(frame: pl.LazyFrame, counts: pl.DataFrame, total: int) -> dict[str, int]:
    known = counts.select("concept", known=pl.col("level") != _UNKNOWN)
    shares = (
        frame.join(known.lazy(), on="concept")
        .group_by("subject_id")
        .agg(pl.mean("known"))
        .collect(engine="streaming")["known"]
    )
    less = int((shares < ENOUGH).sum())
    return {"half_or_more": len(shares) - less, "less": less, "none": total - len(shares)}


def _missing(frame: pl.LazyFrame, counts: pl.DataFrame, systems: Collection[str]) -> list[dict[str, Any]]:
    unknown = counts.filter(pl.col("level") == _UNKNOWN).select("concept")
    codes = (
        frame.join(unknown.lazy(), on="concept")
        .group_by("code", "subject_id")
        .len("events")
        .group_by("code")
        .agg(pl.sum("events"), subjects=pl.len())
        .filter(pl.col("subjects") >= FEWEST_SUBJECTS)
        .sort("events", "code", descending=[True, False])
        .collect(engine="streaming")
    )
    typed = [any(part.startswith(f"{TEXT}//") for part in parts(code, {*systems, TEXT})) for code in codes["code"]]
    return codes.filter(~pl.Series(typed, dtype=pl.Boolean)).head(NAMED).to_dicts()
