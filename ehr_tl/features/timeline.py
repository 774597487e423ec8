"""Which events lie within a look-back window: answered for many rows and codes at once, by binary search.

Nothing here looks at an event later than the time asked for, so what is computed from the answers cannot leak.
"""

from __future__ import annotations

import numpy as np

DAY = 86_400_000_000  # microseconds
YEAR = 365.25 * DAY


class Timeline:
    """Timed events of several subjects, sorted by subject, key (a code, or a code and unit) and time.

    Args:
        subject: Number of each event's subject, shape (events,).
        key: Number of each event's key, below `keys`.
        time: Microseconds. Events of equal time keep the order in which they are given.
        keys: How many keys there are.
    """

    def __init__(self, subject: np.ndarray, key: np.ndarray, time: np.ndarray, keys: int):
        self.keys = keys
        self._moments = np.unique(time)
        self._span = len(self._moments) + 1
        place = (subject.astype(np.int64) * keys + key) * self._span + np.searchsorted(self._moments, time)
        self.order = np.argsort(place, kind="stable")
        self._place = place[self.order]
        self.time = time[self.order]
        self.groups, self.starts = np.unique(self._place // self._span, return_index=True)

    def pairs(self, row_subject: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every row together with every group (subject and key) of its subject: row numbers, group numbers."""
        first = np.searchsorted(self.groups, row_subject.astype(np.int64) * self.keys)
        last = np.searchsorted(self.groups, (row_subject.astype(np.int64) + 1) * self.keys)
        counts = last - first
        row = np.repeat(np.arange(len(row_subject)), counts)
        group = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts - first, counts)
        return row, group

    def upto(self, group: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Position after the last event of each group at or before `time` (sorted positions)."""
        moment = np.searchsorted(self._moments, time, side="right")
        return np.searchsorted(self._place, self.groups[group] * self._span + moment)

    def seen(self, row_subject: np.ndarray, row_time: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows with each group of which they see an event, and the position after the last event seen."""
        row, group = self.pairs(row_subject)
        high = self.upto(group, row_time[row])
        seen = high > self.starts[group]
        return row[seen], group[seen], high[seen]


class Values:
    """The numeric values of a timeline's events, summarised over ranges of its sorted positions.

    Times and values are taken relative to the first of their group: sums stay exact, and depend on the past alone.
    """

    def __init__(self, timeline: Timeline, value: np.ndarray):
        lengths = np.diff(timeline.starts, append=len(timeline.time))
        value = value[timeline.order].astype(np.float64)
        self._time = timeline.time
        self._first = np.repeat(value[timeline.starts], lengths)
        years = (timeline.time - np.repeat(timeline.time[timeline.starts], lengths)) / YEAR
        # One element more, so that a range may reach the end.
        self._years, self._values = np.append(years, 0.0), np.append(value - self._first, 0.0)

    def last(self, high: np.ndarray) -> np.ndarray:
        """The value before each position."""
        return self._values[high - 1] + self._first[high - 1]

    def summarise(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, ...]:
        """Minimum, maximum, mean and slope per year (least squares) over the ranges [low, high), none of them empty.

        The slope is NaN where a range does not hold two different times.
        """
        edges = np.empty(2 * len(low), dtype=np.int64)
        edges[::2], edges[1::2] = low, high

        def reduce(operation: np.ufunc, array: np.ndarray) -> np.ndarray:
            return operation.reduceat(array, edges)[::2] if len(edges) else np.zeros(0)

        count, first = high - low, self._first[low]
        mean, year = reduce(np.add, self._values) / count, reduce(np.add, self._years) / count
        spread = reduce(np.add, self._years**2) - count * year**2
        joint = reduce(np.add, self._years * self._values) - count * year * mean
        rises = self._time[high - 1] > self._time[low]
        return (
            reduce(np.minimum, self._values) + first,
            reduce(np.maximum, self._values) + first,
            mean + first,
            np.where(rises, joint / np.where(rises, spread, 1.0), np.nan),
        )
