"""Numbers for codes, their ancestors, and series of values (a code in one unit)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ehr_tl.events import Events
from ehr_tl.schema import BIRTH, DEATH


@dataclass(frozen=True)
class CodeBook:
    """Every code and value series of an events folder.

    Attributes:
        codes: Names, those with most ancestors first; a code's number is its position. Of features that are equal, the
            first is kept: so the most specific one.
        series: `code` and `unit` ("" for none) of numeric values; a series' number is its position.
        members: The ancestors-and-self of all codes, one after another.
        offsets: Where each code's members begin, shape (codes + 1,).
    """

    codes: pl.Series
    series: pl.DataFrame
    members: np.ndarray
    offsets: np.ndarray

    def groups(self, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each event's groups (its code and all ancestors): positions of events, numbers of codes."""
        counts = self.offsets[code + 1] - self.offsets[code]
        event = np.repeat(np.arange(len(code)), counts)
        start = np.repeat(self.offsets[code] - (np.cumsum(counts) - counts), counts)
        return event, self.members[start + np.arange(len(event))]


def code_book(events: Events) -> CodeBook:
    """Reads the codes of `events` and their parents."""
    used = (
        events.scan()
        .filter(~pl.col("code").is_in([BIRTH, DEATH]))
        .group_by("code", pl.col("unit").fill_null(""))
        .agg(measured=pl.col("numeric_value").is_finite().any())
        .collect()
    )
    parents = {
        code: [parent for parent in named or [] if parent != code]
        for code, named in events.codes.select("code", "parent_codes").iter_rows()
    }
    lines = {code: _ancestors(code, parents) for code in used["code"].unique()}
    depth = {member: len(_ancestors(member, parents)) for line in lines.values() for member in line}
    codes = pl.Series("code", sorted(depth, key=lambda code: (-depth[code], code)), dtype=pl.String)
    number = {code: i for i, code in enumerate(codes)}
    rolled = [[number[member] for member in lines.get(code, (code,))] for code in codes]
    return CodeBook(
        codes=codes,
        series=used.filter("measured").select("code", "unit").sort("code", "unit"),
        members=np.array([member for line in rolled for member in line], dtype=np.int64),
        offsets=np.cumsum([0, *map(len, rolled)]),
    )


def _ancestors(code: str, parents: dict[str, list[str]]) -> list[str]:
    """`code` and everything above it, each once; a circle in the hierarchy ends where it closes."""
    line, seen = [code], {code}
    for member in line:
        for parent in parents.get(member, ()):
            if parent not in seen:
                seen.add(parent)
                line.append(parent)
    return line
