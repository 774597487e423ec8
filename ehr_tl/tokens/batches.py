"""Sequences side by side, as one pass through the network takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ehr_tl.tokens.records import HOUR, Records
from ehr_tl.tokens.sequences import Sequence, Sequences
from ehr_tl.tokens.vocabulary import Encoding, age_bins

_MULTIPLE = 16  # lengths are padded to this, so that few shapes occur


@dataclass(frozen=True)
class Batch:
    """Sequences in B lanes of L places: of each its whole slots and query slots in order of time.

    A lane holds one sequence, or several behind one another that do not see each other; what is left of it is empty.

    A row's query slot comes before the whole slot that it interrupts, so that the places up to it are a matter of its
    past alone: sums in the network are then taken in the same order whatever comes later, and agree to the last bit.

    Age and gender stand beside the events of every slot, as events.

    Attributes:
        code: Code of each event (position in `Records.codes`), shape (E,).
        bin, fraction: Its value (as in `Encoding`), shape (E,).
        place: Its slot, counted through the batch, shape (E,), ascending for the events of records.
        source: Its position in `Records`, -1 for ages and genders, shape (E,).
        sequence: Number of the sequence at each place, -1 where there is none, shape (B, L).
        position: Hours from the beginning of the sequence to each slot, shape (B, L).
        whole: Which slots are whole, shape (B, L).
        query: Place of each row's query slot, shape (R,).
        rows: The rows, in the order of `query`, shape (R,).
    """

    code: np.ndarray
    bin: np.ndarray
    fraction: np.ndarray
    place: np.ndarray
    source: np.ndarray
    sequence: np.ndarray
    position: np.ndarray
    whole: np.ndarray
    query: np.ndarray
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.position.shape

    @property
    def owner(self) -> np.ndarray:
        """Sequence of each event, shape (E,)."""
        return self.sequence.ravel()[self.place]

    def keep(self, kept: np.ndarray) -> Batch:
        """The same slots with only some of their events. `kept` is a mask, shape (E,)."""
        fields = {name: getattr(self, name)[kept] for name in ("code", "bin", "fraction", "place", "source")}
        return Batch(**{**self.__dict__, **fields})

    def filled(self) -> np.ndarray:
        """Which slots hold an event of the records, shape (B * L,). Others are hidden from those that look back."""
        filled = np.zeros(self.position.size, dtype=bool)
        filled[self.place[self.source >= 0]] = True
        return filled


def collate(asked: Sequences, lanes: list[list[Sequence]], encoding: Encoding) -> Batch:
    """Lays sequences into lanes.

    Args:
        asked: The rows that the sequences answer.
        lanes: Sequences of each lane, one behind the other.
        encoding: The records of `asked`, as a vocabulary reads them.
    """
    records, sequences = asked.records, [sequence for lane in lanes for sequence in lane]
    lengths = [np.cumsum([0, *map(len, lane)]) for lane in lanes]
    length = -(-max(int(each[-1]) for each in lengths) // _MULTIPLE) * _MULTIPLE
    begin = np.concatenate([i * length + each[:-1] for i, each in enumerate(lengths)])
    rows = np.concatenate([s.rows for s in sequences])
    slots = np.concatenate([np.arange(s.start, s.stop) for s in sequences])
    laid = [_places(asked, sequence) for sequence in sequences]
    slot_places = np.concatenate([first + places for first, (places, _) in zip(begin, laid)])
    query = np.concatenate([first + places for first, (_, places) in zip(begin, laid)])

    slot_sources, slot_of = ranges(records.slot_events[slots], records.slot_events[slots + 1])
    row_sources, row_of = ranges(asked.first[rows], asked.last[rows])
    source = np.concatenate([slot_sources, row_sources])
    place = np.concatenate([slot_places[slot_of], query[row_of]])

    number = np.full(len(lanes) * length, -1)
    for i, (first, sequence) in enumerate(zip(begin, sequences)):
        number[first : first + len(sequence)] = i
    times = np.zeros(len(number), dtype=np.int64)
    times[slot_places], times[query] = records.slot_start[slots], asked.time[rows]
    hours = np.where(number >= 0, np.maximum(0, times - times[begin][number]), 0) / HOUR
    whole = np.zeros(len(number), dtype=bool)
    whole[slot_places] = True

    places = np.concatenate([slot_places, query])
    owner = np.array([s.subject for s in sequences])[number[places]]
    code, low, fraction, place_of = _demographics(records, owner, times[places], places)
    shape = (len(lanes), length)
    return Batch(
        code=np.concatenate([records.code[source], code]),
        bin=np.concatenate([encoding.bin[source], low]),
        fraction=np.concatenate([encoding.fraction[source], fraction]),
        place=np.concatenate([place, place_of]),
        source=np.concatenate([source, np.full(len(code), -1)]),
        sequence=number.reshape(shape),
        position=hours.astype(np.float32).reshape(shape),
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
    records: Records, subject: np.ndarray, time: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Age and gender as events of the slots at `places`, where they are known: code, bin, fraction and place."""
    low, fraction = age_bins(records.age(subject, time))
    aged, sexed = low >= 0, records.gender[subject] >= 0
    count = int(sexed.sum())
    return (
        np.concatenate([np.full(int(aged.sum()), records.age_code), records.gender[subject][sexed]]),
        np.concatenate([low[aged], np.full(count, -1)]),
        np.concatenate([fraction[aged], np.zeros(count, dtype=np.float32)]),
        np.concatenate([places[aged], places[sexed]]),
    )


def ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers first[i] to last[i] of every i, one range after the other, and the i of each."""
    counts = last - first
    of = np.repeat(np.arange(len(first)), counts)
    return np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts), of


def by_length(sequences: list[Sequence], slots: int) -> Iterator[list[list[Sequence]]]:
    """Lanes of one sequence each: groups of like length that fill at most `slots` padded slots (or hold one)."""
    group: list[list[Sequence]] = []
    for sequence in sorted(sequences, key=len):
        if group and (len(group) + 1) * len(sequence) > slots:
            yield group
            group = []
        group.append([sequence])
    if group:
        yield group


def packed(sequences: list[Sequence], lane: int) -> list[list[Sequence]]:
    """Few lanes that hold all sequences, none longer than `lane` slots unless a single sequence is.

    First-fit decreasing (Johnson 1973): at most 11/9 of the fewest lanes, and of many short sequences hardly more.
    """
    lanes: list[list[Sequence]] = []
    room: list[int] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        fits = next((i for i, left in enumerate(room) if left >= len(sequence)), None)
        if fits is None:
            lanes.append([sequence])
            room.append(lane - len(sequence))
        else:
            lanes[fits].append(sequence)
            room[fits] -= len(sequence)
    return lanes
