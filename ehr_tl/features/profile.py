"""What kind of record a row sees: how much of it there is, and which codes. Models abstain by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import sparse

from ehr_tl.events import Events
from ehr_tl.features.blocks import Block, Cells, blocks, stacked
from ehr_tl.features.codes import CodeBook, code_book
from ehr_tl.features.timeline import DAY, Timeline

#: What a record is summarised by.
SUMMARY = (
    "the number of events",
    "the number of different codes",
    "the length of the record",
    "the number of events in the last year",
    "the time since the last event",
    "age",
)


@dataclass(frozen=True)
class Profile:
    """How much rows see.

    Attributes:
        events: Timed events at or before the prediction time that say more than that a visit began or ended,
            shape (rows,).
        counts: Events per concept, shape (rows, concepts).
        summary: Columns as in `SUMMARY`, on scales where distances mean something (logarithms; age in years,
            NaN where unknown), shape (rows, 6).
        book: Names of the concepts and codes.
    """

    events: np.ndarray
    counts: sparse.csr_matrix
    summary: np.ndarray
    book: CodeBook

    def seen(self, index: np.ndarray) -> pl.Series:
        """Every code that the rows `index` see, others and all ancestors among them; sorted."""
        seen = np.unique(self.counts[index].indices)
        return self.book.codes.gather(np.unique(self.book.groups(seen)[1]))

    def known_share(self, known: pl.Series) -> np.ndarray:
        """Share of each row's `events` of which some code, or an ancestor of it, is in `known`; 1 without any."""
        in_known = self.book.codes.is_in(known.implode()).to_numpy()
        concepts = len(self.book.concepts)
        concept, code = self.book.groups(np.arange(concepts))
        hit = (np.bincount(concept, weights=in_known[code], minlength=concepts) > 0) & self.book.clinical()
        return np.where(self.events > 0, self.counts @ hit.astype(float) / np.maximum(self.events, 1), 1.0)


def profile(events: Events, rows: pl.DataFrame) -> Profile:
    """Looks at what each of `rows` (`subject_id`, `prediction_time`) sees of `events`."""
    book = code_book(events)
    pieces, summaries = [], []
    for block in blocks(events, rows, book):
        pieces.append((block.position, _counts(block, book)))
        summaries.append(_summary(block, pieces[-1][1]))
    counts = stacked(pieces, len(book.concepts))
    summary = np.zeros((rows.height, len(SUMMARY)))
    for (position, _), part in zip(pieces, summaries):
        summary[position] = part
    events = (counts @ book.clinical().astype(np.int64)).astype(np.int64)
    return Profile(events, counts, summary, book)


def _counts(block: Block, book: CodeBook) -> sparse.csr_matrix:
    line = Timeline(*(block.timed[name].to_numpy() for name in ("subject", "number", "time")), len(book.concepts))
    row, group, high = line.seen(block.subject, block.time)
    cells = Cells()
    cells.add(row, line.groups[group] % line.keys, high - line.starts[group])
    return cells.matrix((len(block.time), len(book.concepts)))


def _summary(block: Block, counts: sparse.csr_matrix) -> np.ndarray:
    subject, time = block.timed["subject"].to_numpy(), block.timed["time"].to_numpy()
    line = Timeline(subject, np.zeros(len(subject), dtype=np.int64), time, 1)
    row, group, high = line.seen(block.subject, block.time)
    start, now = line.starts[group], block.time[row]
    summary = np.zeros((len(block.time), len(SUMMARY)))
    summary[row, 0] = np.log1p(high - start)
    summary[:, 1] = np.log1p(np.diff(counts.indptr))
    summary[row, 2] = np.log1p((now - line.time[start]) / DAY)
    summary[row, 3] = np.log1p(high - line.upto(group, now - 365 * DAY))
    summary[row, 4] = np.log1p((now - line.time[high - 1]) / DAY)
    summary[:, 5] = block.age
    return summary
