"""Windowed features of rows, computed in blocks of subjects so that memory stays bounded.

Per code, other code and ancestor of these: the number of events in each look-back window and in the whole record, and
the days since the last one. Per numeric value (a code in one unit): the last, and in each window the minimum, maximum,
mean and slope. Age, and static facts. A window of d days before t is the times in (t - d, t].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from scipy import sparse

from ehr_tl.events import Events
from ehr_tl.features.blocks import Block, Cells, blocks, stacked
from ehr_tl.features.codes import CodeBook, code_book
from ehr_tl.features.matrix import COLUMNS, Features
from ehr_tl.features.timeline import DAY, Timeline, Values
from ehr_tl.schema import AGE

VALUE_STATISTICS = ("min", "max", "mean", "slope")


def build(events: Events, rows: pl.DataFrame, windows_days: Sequence[float]) -> Features:
    """Computes the features of `rows`.

    Args:
        events: The events folder.
        rows: `subject_id` and `prediction_time` (more columns do no harm); times are naive UTC.
        windows_days: Look-back windows in days or parts of one; the whole record is always one more.

    Returns:
        Features in the order of `rows`; columns that no row has are left out.
    """
    book = code_book(events)
    layout = _Layout(book, tuple(windows_days))
    matrix = stacked([(block.position, _block(block, layout)) for block in blocks(events, rows, book)], layout.width)
    used = np.flatnonzero(np.bincount(matrix.indices, minlength=matrix.shape[1]))
    every = Features(rows.select("subject_id", "prediction_time"), matrix, layout.columns)
    columns = layout.columns[used]
    return Features(every.rows, every.take(columns, np.arange(rows.height)), columns)


class _Layout:
    """Which column of the matrix holds what."""

    def __init__(self, book: CodeBook, windows: tuple[float, ...]):
        self.book, self.windows = book, windows
        spans = [*windows, None]
        per_code = [("count", days) for days in spans] + [("days_since", None)]
        per_value = [("last", None)] + [(name, days) for days in spans for name in VALUE_STATISTICS]
        self.per_code, self.per_value = len(per_code), len(per_value)
        self.values_from = self.per_code * len(book.codes)
        self.static_from = self.values_from + self.per_value * book.series.height
        self.age = self.static_from + len(book.codes)
        self.width = self.age + 1
        names = [(code, statistic, days, "") for code in book.codes for statistic, days in per_code]
        names += [(*pair, unit) for code, unit in book.series.iter_rows() for pair in ((code, *p) for p in per_value)]
        names += [(code, "is", None, "") for code in book.codes] + [(AGE, "years", None, "")]
        self.columns = pl.DataFrame(names, schema=COLUMNS, orient="row")


def _block(block: Block, layout: _Layout) -> sparse.csr_matrix:
    cells = Cells()
    _counts(block, layout, cells)
    _values(block, layout, cells)
    _static(block, layout, cells)
    cells.add(np.arange(len(block.time)), np.full(len(block.time), layout.age), block.age)
    return cells.matrix((len(block.time), layout.width))


def _counts(block: Block, layout: _Layout, cells: Cells) -> None:
    event, code = layout.book.groups(block.timed["number"].to_numpy())
    subject, time = (block.timed[name].to_numpy()[event] for name in ("subject", "time"))
    line = Timeline(subject, code, time, len(layout.book.codes))
    row, group, high = line.seen(block.subject, block.time)
    column = line.groups[group] % line.keys * layout.per_code
    for i, low in enumerate(_windows(line, group, block.time[row], layout.windows)):
        some = high > low
        cells.add(row[some], column[some] + i, (high - low)[some])
    cells.add(row, column + layout.per_code - 1, (block.time[row] - line.time[high - 1]) / DAY)


def _values(block: Block, layout: _Layout, cells: Cells) -> None:
    series = layout.book.series.with_row_index("series")
    measured = block.timed.filter(pl.col("numeric_value").is_finite()).join(
        series, on=["code", "unit"], maintain_order="left"
    )
    if measured.is_empty():
        return
    line = Timeline(*(measured[name].to_numpy() for name in ("subject", "series", "time")), series.height)
    values = Values(line, measured["numeric_value"].to_numpy())
    row, group, high = line.seen(block.subject, block.time)
    column = layout.values_from + line.groups[group] % line.keys * layout.per_value
    cells.add(row, column, values.last(high))
    for i, low in enumerate(_windows(line, group, block.time[row], layout.windows)):
        some = high > low
        for k, found in enumerate(values.summarise(low[some], high[some])):
            cells.add(row[some], column[some] + 1 + i * len(VALUE_STATISTICS) + k, found)


def _windows(line: Timeline, group: np.ndarray, time: np.ndarray, windows: tuple[float, ...]) -> Iterator[np.ndarray]:
    """Position of the first event inside each window; the whole record comes last."""
    for days in windows:
        yield line.upto(group, time - round(days * DAY))
    yield line.starts[group]


def _static(block: Block, layout: _Layout, cells: Cells) -> None:
    rows = pl.DataFrame({"subject": block.subject}).with_row_index("row")
    found = rows.join(block.static.select("subject", "number").unique(maintain_order=True), on="subject")
    code = layout.book.own(found["number"].to_numpy())
    cells.add(found["row"].to_numpy(), layout.static_from + code, np.ones(found.height))
