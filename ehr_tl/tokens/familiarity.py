"""How much of a hospital's records a pretrained vocabulary knows, told before any model is loaded."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from ehr_tl.concepts import FEWEST_SUBJECTS, OTHER_SYSTEMS, TEXT, concept, names_of, parts, system
from ehr_tl.events import Events
from ehr_tl.schema import BIRTH, COURSE, DEATH

if TYPE_CHECKING:
    from ehr_tl.tokens.vocabulary import Vocabulary

#: Below this share of known events a pretrained model has little to say: most of what it sees means nothing to it.
ENOUGH = 0.5

#: How many codes that are not known are named.
NAMED = 25

_EXACTLY, _RELATED, _DESCRIBED, _UNKNOWN = LEVELS = ("exactly", "related", "described", "unknown")

#: Words that stand in every other description and tell nothing of what it is about.
_IDLE = frozenset(["and", "for", "from", "not", "nos", "other", "the", "unspecified", "with", "without"])


@dataclass(frozen=True)
class Knowledge:
    """What a vocabulary knows.

    Attributes:
        codes: Known codes.
        words: Telling words of their descriptions.
        parents: Whether it reads a code by those above it, too.
    """

    codes: frozenset[str]
    words: frozenset[str] = frozenset()
    parents: bool = True

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> Knowledge:
        """What a vocabulary of this package knows."""
        met = (telling_words(text) for text in vocabulary.descriptions.values())
        return cls(frozenset(vocabulary.codes), frozenset().union(*met))

    def level(self, concept: str, description: str, events: Events) -> str:
        """How a concept is known: one of `LEVELS`."""
        code, *others = names_of(concept)
        if code in self.codes:
            return _EXACTLY
        names = events.hierarchy.names(concept) if self.parents else others
        if not self.codes.isdisjoint(names):
            return _RELATED
        words = telling_words(description)
        return _DESCRIBED if words and 2 * len(words & self.words) >= len(words) else _UNKNOWN


def telling_words(text: str) -> frozenset[str]:
    """Words of three or more letters in a description, those left out that tell nothing of what it is about.

    Examples:
        >>> sorted(telling_words("Fracture of the left hip, 2nd, not displaced"))
        ['displaced', 'fracture', 'hip', 'left']
    """
    return frozenset(re.findall(r"[^\W\d_]{3,}", text.lower())) - _IDLE


@dataclass(frozen=True)
class Familiarity:
    """How much a vocabulary knows of the events that models look at.

    Those are the dated ones (`Events.history`) but births, deaths, and that a visit began or ended, which every
    hospital writes alike. An event is known `exactly` if the vocabulary has its code; it is `related` if it has
    another code of the event, or one that lies above any of these; it is `described` if at least half of the telling
    words of its description (where there is none: of the code itself) occur in descriptions of known codes; else
    `unknown`.

    Attributes:
        checkpoint: Whose vocabulary.
        events: How many are known `exactly`, `related`, `described`, `unknown`.
        codes: The same of distinct codes, each by the best of its events.
        subjects: Subjects by the share of their events that are not unknown: `half_or_more`, `less`, and `none`
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
        """Share of events that are known exactly, related or described; None if there are none."""
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


def familiarity(events: Events, known: Knowledge, checkpoint: str) -> Familiarity:
    """Sets an events folder beside what a vocabulary knows.

    Args:
        events: The events folder.
        known: What the vocabulary knows.
        checkpoint: Its name.
    """
    frame = _clinical(events.history())
    systems = events.coverage["codes"]
    counts = _levels(frame, known, events)
    owner = [system(code, systems) for code in counts["code"]]
    counts = counts.with_columns(system=pl.Series(owner, dtype=pl.String))
    counts = counts.with_columns(system=_shown(frame, counts, systems))
    best = counts.group_by("code").agg(pl.min("level"))
    shares = _shares(frame, counts)["known"]
    less = int((shares < ENOUGH).sum())
    return Familiarity(
        checkpoint=checkpoint,
        events=_by_level(counts.group_by("level").agg(pl.sum("events"))),
        codes=_by_level(best.group_by("level").len()),
        subjects={"half_or_more": len(shares) - less, "less": less, "none": events.subjects.height - len(shares)},
        systems={
            name: _by_level(rows.group_by("level").agg(pl.sum("events")))
            for (name,), rows in sorted(counts.partition_by("system", as_dict=True).items())
        },
        missing=_missing(frame, counts, systems),
    )


def strangers(events: Events, known: Knowledge) -> pl.DataFrame:
    """Subjects of whose events fewer than half are known: `subject_id`, `events`, `known` (a share), by subject."""
    frame = _clinical(events.history())
    return _shares(frame, _levels(frame, known, events)).filter(pl.col("known") < ENOUGH)


def _levels(frame: pl.LazyFrame, known: Knowledge, events: Events) -> pl.DataFrame:
    """A row per concept: `concept`, `code`, `events` (how many), `level`."""
    counts = frame.group_by("concept", "code").agg(events=pl.len()).sort("concept").collect(engine="streaming")
    described = {code: text for code, text in events.codes.select("code", "description").iter_rows() if text}
    level = [
        known.level(each, described.get(code) or code.split("//")[-1], events)
        for each, code in counts.select("concept", "code").iter_rows()
    ]
    return counts.with_columns(level=pl.Series(level, dtype=pl.Enum(LEVELS)))


def _clinical(events: pl.LazyFrame) -> pl.LazyFrame:
    """Dated events that say more than that a visit began or ended, with their concepts."""
    code = pl.col("code")
    course = code.str.contains(f"^({'|'.join(COURSE)})//")
    return events.filter(pl.col("time").is_not_null() & ~code.is_in([BIRTH, DEATH]) & ~course).select(
        "subject_id", "code", concept=concept()
    )


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


def _shares(frame: pl.LazyFrame, counts: pl.DataFrame) -> pl.DataFrame:
    """Columns `subject_id`, `events` and `known`, the share of them that is not unknown; subjects with events alone."""
    known = counts.select("concept", known=pl.col("level") != _UNKNOWN)
    return (
        frame.join(known.lazy(), on="concept")
        .group_by("subject_id")
        .agg(events=pl.len(), known=pl.mean("known"))
        .sort("subject_id")
        .collect(engine="streaming")
    )


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
