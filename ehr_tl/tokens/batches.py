"""Sequences side by side, as one pass through the network takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ehr_tl.tokens.records import HOUR
from ehr_tl.tokens.sequences import Sequence, Sequences
from ehr_tl.tokens.vocabulary import Encoding

_MULTIPLE = 16  # lengths are padded to this, so that few shapes occur


@dataclass(frozen=True)
class Batch:
    """B sequences, padded to L slots: whole slots and query slots in order of time.

    A row's query slot comes before the whole slot that it interrupts, so that the places up to it are a matter of its
    past alone: sums in the network are then taken in the same order whatever comes later, and agree to the last bit.

    Age and gender stand beside the events of every slot, as events.

    Attributes:
        code: Code of each event (position in `Records.codes`), shape (E,).
        bin, fraction: Its value (as in `Encoding`), shape (E,).
        place: Its slot, counted through the batch, shape (E,), ascending for the events of records.
        sequence: Its sequence, shape (E,).
        source: Its position in `Records`, -1 for ages and genders, shape (E,).
        position: Hours from the beginning of the sequence to each slot, shape (B, L).
        whole: Which slots are whole, shape (B, L).
        query: Place of each row's query slot, shape (R,).
        rows: The rows, in the order of `query`, shape (R,).
    """

    code: np.ndarray
    bin: np.ndarray
    fraction: np.ndarray
    place: np.ndarray
    sequence: np.ndarray
    source: np.ndarray
    position: np.ndarray
    whole: np.ndarray
    query: np.ndarray
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.position.shape

    def keep(self, kept: np.ndarray) -> Batch:
        """The same slots with only some of their events. `kept` is a mask, shape (E,)."""
        fields = {
            name: getattr(self, name)[kept] for name in ("code", "bin", "fraction", "place", "sequence", "source")
        }
        return Batch(**{**self.__dict__, **fields})

    def filled(self) -> np.ndarray:
        """Which slots hold an event of the records, shape (B * L,). Others are hidden from those that look back."""
        filled = np.zeros(self.position.size, dtype=bool)
        filled[self.place[self.source >= 0]] = True
        return filled


def collate(asked: Sequences, sequences: list[Sequence], encoding: Encoding) -> Batch:
    """Lays sequences side by side."""
    records = asked.records
    length = -(-max(map(len, sequences)) // _MULTIPLE) * _MULTIPLE
    shape = (len(sequences), length)
    rows = np.concatenate([s.rows for s in sequences])
    slots = np.concatenate([np.arange(s.start, s.stop) for s in sequences])
    laid = [_places(asked, sequence) for sequence in sequences]
    slot_places = np.concatenate([i * length + places for i, (places, _) in enumerate(laid)])
    query = np.concatenate([i * length + places for i, (_, places) in enumerate(laid)])

    slot_sources, slot_of = ranges(records.slot_events[slots], records.slot_events[slots + 1])
    row_sources, row_of = ranges(asked.first[rows], asked.last[rows])
    source = np.concatenate([slot_sources, row_sources])
    place = np.concatenate([slot_places[slot_of], query[row_of]])

    times = np.zeros(shape[0] * length, dtype=np.int64)
    times[slot_places], times[query] = records.slot_start[slots], asked.time[rows]
    whole = np.zeros(len(times), dtype=bool)
    whole[slot_places] = True
    times = times.reshape(shape)
    hours = np.maximum(0, times - times[:, :1]) / HOUR

    demographics = _demographics(asked, sequences, encoding, np.concatenate([slot_places, query]), times)
    events = {"code": records.code[source], "bin": encoding.bin[source], "fraction": encoding.fraction[source]}
    place = np.concatenate([place, demographics.pop("place")])
    return Batch(
        **{name: np.concatenate([events[name], demographics[name]]) for name in events},
        place=place,
        sequence=place // length,
        source=np.concatenate([source, np.full(len(place) - len(source), -1)]),
        position=hours.astype(np.float32),
        whole=whole.reshape(shape),
        query=query,
        rows=rows,
    )


def _places(asked: Sequences, sequence: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Places of a sequence's whole slots and of its rows, which are in order of time."""
    before = asked.slot[sequence.rows] - sequence.start
    slots = np.arange(sequence.stop - sequence.start)
    return slots + np.searchsorted(before, slots, "right"), before + np.arange(len(before))


def _demographics(
    asked: Sequences, sequences: list[Sequence], encoding: Encoding, places: np.ndarray, times: np.ndarray
) -> dict[str, np.ndarray]:
    """Age and gender as events of every slot, where they are known."""
    records = asked.records
    subject = np.array([s.subject for s in sequences])[places // times.shape[1]]
    low, fraction = encoding.age(records.age(subject, times.ravel()[places]))
    aged, sexed = low >= 0, records.gender[subject] >= 0
    count = int(sexed.sum())
    return {
        "code": np.concatenate([np.full(int(aged.sum()), records.age_code), records.gender[subject][sexed]]),
        "bin": np.concatenate([low[aged], np.full(count, -1)]),
        "fraction": np.concatenate([fraction[aged], np.zeros(count)]).astype(np.float32),
        "place": np.concatenate([places[aged], places[sexed]]),
    }


def ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers first[i] to last[i] of every i, one range after the other, and the i of each."""
    counts = last - first
    of = np.repeat(np.arange(len(first)), counts)
    return np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts), of


def by_length(sequences: list[Sequence], slots: int) -> Iterator[list[Sequence]]:
    """Groups of sequences of like length that fill at most `slots` padded slots (or hold one sequence)."""
    group: list[Sequence] = []
    for sequence in sorted(sequences, key=len):
        if group and (len(group) + 1) * len(sequence) > slots:
            yield group
            group = []
        group.append(sequence)
    if group:
        yield group
