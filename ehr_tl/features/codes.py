"""Numbers for concepts, the codes that they are called by, and series of values (a code in one unit)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ehr_tl.concepts import concept
from ehr_tl.events import Events
from ehr_tl.schema import BIRTH, COURSE, DEATH


@dataclass(frozen=True)
class CodeBook:
    """Every concept, code and value series of an events folder.

    Attributes:
        concepts: As `ehr_tl.concepts.concept` writes them; a concept's number is its position.
        codes: Names, those with most ancestors first; a code's number is its position. Of features that are equal, the
            first is kept: so the most specific one.
        series: `code` and `unit` ("" for none) of numeric values; a series' number is its position.
        members: The codes of all concepts, one concept after another: its own first, then others and all ancestors.
        offsets: Where each concept's members begin, shape (concepts + 1,).
    """

    concepts: pl.Series
    codes: pl.Series
    series: pl.DataFrame
    members: np.ndarray
    offsets: np.ndarray

    def clinical(self) -> np.ndarray:
        """Which concepts say more than that a visit began or ended, shape (concepts,)."""
        return ~self.concepts.str.contains(f"^({'|'.join(COURSE)})//").to_numpy()

    def own(self, concept: np.ndarray) -> np.ndarray:
        """Number of each concept's own code."""
        return self.members[self.offsets[concept]]

    def groups(self, concept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each event's codes (its own, others and all ancestors): positions of events, numbers of codes."""
        counts = self.offsets[concept + 1] - self.offsets[concept]
        event = np.repeat(np.arange(len(concept)), counts)
        start = np.repeat(self.offsets[concept] - (np.cumsum(counts) - counts), counts)
        return event, self.members[start + np.arange(len(event))]


def code_book(events: Events) -> CodeBook:
    """Reads the concepts of `events` and what lies above them."""
    used = (
        events.history()
        .filter(~pl.col("code").is_in([BIRTH, DEATH]))
        .group_by("code", pl.col("unit").fill_null(""), concept=concept())
        .agg(measured=pl.col("numeric_value").is_finite().any())
        .collect()
    )
    concepts = used["concept"].unique().sort()
    lines = [list(events.hierarchy.names(each)) for each in concepts]
    depth = {code: len(list(events.hierarchy.above(code))) for line in lines for code in line}
    for line in lines:
        depth[line[0]] = max(depth[line[0]], len(line))
    codes = pl.Series("code", sorted(depth, key=lambda code: (-depth[code], code)), dtype=pl.String)
    number = {code: i for i, code in enumerate(codes)}
    return CodeBook(
        concepts=concepts,
        codes=codes,
        series=used.filter("measured").select("code", "unit").unique().sort("code", "unit"),
        members=np.array([number[code] for line in lines for code in line], dtype=np.int64),
        offsets=np.cumsum([0, *map(len, lines)]),
    )
