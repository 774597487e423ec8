"""What a model knows of codes and values: fitted once on records, carried with a checkpoint as `vocabulary.json`.

A code is known by itself, by its ancestors in the ontology and by the words of its description. Words and their
three-letter pieces fall into a fixed number of hash buckets, so that a code that was never seen still lies near its
relatives. A description that may be what somebody typed about one patient (`schema.COMMON`) is not written down, and
its code is read without it. A value is read by its place among the quantiles that were fitted for its code and unit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ehr_tl.concepts import FEWEST_SUBJECTS, TEXT, Hierarchy
from ehr_tl.errors import CheckpointError
from ehr_tl.files import read_json, write_json
from ehr_tl.schema import AGE
from ehr_tl.tokens.records import Records

VERSION = 1
QUANTILES = (0.01, 0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 0.99)
_AGES = [0.0, 1.0, 5.0, 10.0, 18.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0]
_FEWEST_VALUES = 20  # below this, quantiles say more of chance than of the code


@dataclass(frozen=True)
class Encoding:
    """Records as a vocabulary reads them.

    Attributes:
        own: For each code of the records its number in the vocabulary, 0 where it is not known, shape (C,).
        block: For each code the number of its own value bins, 0 where it has none, shape (C,).
        ancestors, words: For each code, numbers of its known ancestors and its hash buckets: flat values.
        ancestor_offsets, word_offsets: Where each code's values begin, shape (C,).
        bin: For each event the lower of the two value bins it lies between, -1 where it has no value, shape (N,).
        fraction: How far it lies towards the upper one, shape (N,).
    """

    own: np.ndarray
    block: np.ndarray
    ancestors: np.ndarray
    ancestor_offsets: np.ndarray
    words: np.ndarray
    word_offsets: np.ndarray
    bin: np.ndarray
    fraction: np.ndarray


def age_bins(years: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value bin and fraction of ages in years, as `Encoding` has them of values; bin -1 where the age is NaN."""
    low, fraction = _between(years, _AGES)
    return np.where(np.isnan(years), -1, low), np.where(np.isnan(years), 0, fraction).astype(np.float32)


class Vocabulary:
    """Codes, their ancestors and descriptions, and value quantiles.

    Attributes:
        codes: Known codes; the number of a code is its position + 1.
        valued: Codes that have value bins of their own; the block of a code is its position + 1, and block 0 serves
            every other code.
        edges: Code -> unit -> values at `QUANTILES`.
        buckets: Number of hash buckets.
    """

    bins = len(QUANTILES)

    def __init__(
        self,
        codes: Sequence[str],
        valued: Sequence[str],
        edges: dict[str, dict[str, list[float]]],
        descriptions: dict[str, str],
        parents: dict[str, tuple[str, ...]],
        buckets: int,
    ):
        self.codes, self.valued, self.edges, self.buckets = list(codes), list(valued), edges, buckets
        self.descriptions, self._hierarchy = descriptions, Hierarchy(parents)
        self._number = {code: i + 1 for i, code in enumerate(self.codes)}
        self._block = {code: i + 1 for i, code in enumerate(self.valued)}

    @classmethod
    def fit(
        cls,
        sources: Sequence[Records],
        min_subjects: int,
        buckets: int = 4096,
        subjects: Sequence[np.ndarray | None] | None = None,
    ) -> Vocabulary:
        """Learns codes and value quantiles from hospitals.

        Args:
            sources: Each hospital's records; the same subject id in two of them means two people.
            min_subjects: Fewest subjects who have a code, or one of its descendants, for it to be known; and who
                have its value in a unit, for that unit to be.
            buckets: Number of hash buckets for the words of descriptions.
            subjects: Each hospital's subjects (positions) to learn from; None: all.
        """
        chosen = subjects or [None] * len(sources)
        return cls([], [AGE], {}, {}, {}, buckets)._learn(list(zip(sources, chosen, strict=True)), min_subjects)

    def extend(self, sources: Sequence[Records], subjects: Sequence[np.ndarray], min_subjects: int) -> Vocabulary:
        """This vocabulary and what the training subjects of hospitals have that it lacks.

        Known codes keep their numbers and quantiles; new codes and units come after them. Arguments as in `fit`.
        """
        return self._learn(list(zip(sources, subjects, strict=True)), min_subjects)

    def _learn(self, sources: list[tuple[Records, np.ndarray | None]], min_subjects: int) -> Vocabulary:
        counts: dict[str, int] = {}
        values: dict[tuple[str, str], list[np.ndarray]] = {}
        owners: dict[tuple[str, str], int] = {}
        descriptions, parents = dict(self.descriptions), dict(self._hierarchy.parents)
        for records, chosen in sources:
            subjects = np.arange(len(records.subjects)) if chosen is None else np.unique(chosen)
            events = _events_of(records, subjects)
            for code, number in _subjects_per_code(records, subjects, events).items():
                counts[code] = counts.get(code, 0) + number
            for pair, found, number in _values_per_pair(records, events):
                values.setdefault(pair, []).append(found)
                owners[pair] = owners.get(pair, 0) + number
            told = {code: text for code, text in records.descriptions.items() if code in records.common}
            descriptions = {**told, **descriptions}
            parents = {**records.parents, **parents}
        new = sorted(
            code for code, n in counts.items() if n >= _fewest(code, min_subjects) and code not in self._number
        )
        codes = [*self.codes, *new]
        known = set(codes)
        edges = {code: dict(units) for code, units in self.edges.items()}
        for (code, unit), found in sorted(values.items()):
            # A code, a unit or values of a few people may point at them: what only they have is not written down.
            if code not in known or owners[code, unit] < min_subjects or unit in edges.get(code, {}):
                continue
            every = np.concatenate(found)
            if len(every) >= _FEWEST_VALUES:
                edges.setdefault(code, {})[unit] = [float(f"{q:.6g}") for q in np.quantile(every, QUANTILES)]
        valued = [*self.valued, *sorted(code for code in edges if code in known and code not in self._block)]
        return Vocabulary(
            codes,
            valued,
            edges,
            {code: descriptions[code] for code in codes if code in descriptions},
            {code: parents[code] for code in codes if code in parents},
            self.buckets,
        )

    def encode(self, records: Records) -> Encoding:
        """Reads records as this vocabulary knows them."""
        words, ancestors = [], []
        for code, above in zip(records.codes, records.above):
            words.append(hash_words(self._description(code, records) or code.split("//")[-1], self.buckets))
            ancestors.append([self._number[a] for a in self._ancestors(code, above) if a in self._number])
        low, fraction = self._bins(records)
        return Encoding(
            own=np.array([self._number.get(code, 0) for code in records.codes], dtype=np.int64),
            block=np.array([self._block.get(code, 0) for code in records.codes], dtype=np.int64),
            ancestors=np.array([number for found in ancestors for number in found], dtype=np.int64),
            ancestor_offsets=_offsets(ancestors),
            words=np.array([bucket for found in words for bucket in found], dtype=np.int64),
            word_offsets=_offsets(words),
            bin=low,
            fraction=fraction,
        )

    def _description(self, code: str, records: Records) -> str | None:
        """A known code keeps the description it was learned with, or none; a new one has what its events say."""
        return (self.descriptions if code in self._number else records.descriptions).get(code)

    def _ancestors(self, code: str, above: tuple[str, ...]) -> tuple[str, ...]:
        """A known code keeps the ancestors it was learned with; a new one has what its events say."""
        return tuple(self._hierarchy.above(code))[1:] if code in self._number else above

    def _bins(self, records: Records) -> tuple[np.ndarray, np.ndarray]:
        low = np.full(len(records.time), -1, dtype=np.int64)
        fraction = np.zeros(len(records.time), dtype=np.float32)
        for pair, positions in _by_pair(records, np.flatnonzero(~np.isnan(records.value))):
            code, unit = records.pairs[pair]
            name = records.codes[code]
            edges = self.edges.get(name, {}).get(unit)
            if edges is not None:
                low[positions], fraction[positions] = _between(records.value[positions], edges)
        return low, fraction

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "buckets": self.buckets,
            "codes": self.codes,
            "valued": self.valued,
            "edges": self.edges,
            "descriptions": self.descriptions,
            "parents": {code: list(parents) for code, parents in self._hierarchy.parents.items()},
        }

    def save(self, path: Path) -> None:
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Reads what `save` wrote.

        Raises:
            CheckpointError: The file is no vocabulary, or one of another version.
        """
        try:
            raw: dict[str, Any] = read_json(path)
            if raw["version"] != VERSION:
                raise CheckpointError(f"{path} has version {raw['version']}", expected=f"version {VERSION}")
            parents = {code: tuple(names) for code, names in raw["parents"].items()}
            _check_sound(raw)
            return cls(raw["codes"], raw["valued"], raw["edges"], raw["descriptions"], parents, raw["buckets"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is no vocabulary ({type(error).__name__})") from None


def _check_sound(raw: dict[str, Any]) -> None:
    """Raises a ValueError where a vocabulary's parts do not fit each other."""
    edges = [each for units in raw["edges"].values() for each in units.values()]
    texts = [
        *raw["codes"],
        *raw["descriptions"].values(),
        *(name for above in raw["parents"].values() for name in above),
    ]
    sound = (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(above, list) for above in raw["parents"].values())
        and len(set(raw["codes"])) == len(raw["codes"])
        and AGE in raw["valued"]
        and isinstance(raw["buckets"], int)
        and raw["buckets"] > 0
        and all(len(each) == len(QUANTILES) and np.isfinite(each).all() and each == sorted(each) for each in edges)
    )
    if not sound:
        raise ValueError("parts that do not fit each other")


@lru_cache(maxsize=100_000)
def hash_words(text: str, buckets: int) -> tuple[int, ...]:
    """Hash buckets of the words of a text and of their three-letter pieces, each once.

    Examples:
        >>> shared = set(hash_words("Diabetic retinopathy", 4096)) & set(hash_words("diabetes with retinopathy", 4096))
        >>> len(shared) > 10
        True
    """
    pieces: dict[str, None] = {}
    for word in re.findall(r"[^\W_]+", text.lower()):
        pieces[word] = None
        marked = f"<{word}>"
        pieces.update({marked[i : i + 3]: None for i in range(len(marked) - 2)})
    digests = (hashlib.blake2b(piece.encode(), digest_size=8).digest() for piece in pieces)
    return tuple(dict.fromkeys(int.from_bytes(digest, "big") % buckets for digest in digests))


def _between(values: np.ndarray, edges: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Lower bin and the way to the upper one; values beyond the outer edges get these. Equal edges share a place."""
    distinct, group = np.unique(np.asarray(edges, dtype=float), return_inverse=True)
    places = np.bincount(group, weights=np.arange(len(edges))) / np.bincount(group)
    place = np.interp(values, distinct, places)
    low = np.minimum(np.nan_to_num(place), len(edges) - 2).astype(np.int64)
    return low, (place - low).astype(np.float32)


def _fewest(code: str, min_subjects: int) -> int:
    """How many subjects must have a code for it to be written down: what people typed may point at one of them."""
    return max(min_subjects, FEWEST_SUBJECTS) if TEXT in code.split("//") else min_subjects


def _offsets(lists: Sequence[Sequence[int]]) -> np.ndarray:
    return np.cumsum([0, *map(len, lists)])[:-1].astype(np.int64)


def _events_of(records: Records, subjects: np.ndarray) -> np.ndarray:
    """Positions of the events of subjects (positions)."""
    member = np.zeros(len(records.subjects), dtype=bool)
    member[subjects] = True
    return np.flatnonzero(np.repeat(member, np.diff(records.first_event)))


def _subjects_per_code(records: Records, subjects: np.ndarray, events: np.ndarray) -> dict[str, int]:
    """In how many of the subjects each code, or a descendant of it, occurs."""
    owner = np.repeat(np.arange(len(records.subjects)), np.diff(records.first_event))[events]
    codes, owners = np.divmod(np.unique(records.code[events] * len(records.subjects) + owner), len(records.subjects))
    have: dict[str, set[int]] = {}
    for code, members in zip(np.unique(codes), np.split(owners, np.flatnonzero(np.diff(codes)) + 1)):
        name = records.codes[code]
        for each in (name, *records.above[code]):
            have.setdefault(each, set()).update(members.tolist())
    genders, counts = np.unique(records.gender[subjects], return_counts=True)
    sexes = {records.codes[code]: int(count) for code, count in zip(genders, counts) if code >= 0}
    return {AGE: len(subjects), **sexes, **{code: len(members) for code, members in have.items()}}


def _by_pair(records: Records, positions: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
    """Groups positions of events by code and unit."""
    order = positions[np.argsort(records.pair[positions], kind="stable")]
    pairs = records.pair[order]
    for group in np.split(order, np.flatnonzero(np.diff(pairs)) + 1):
        if len(group):
            yield int(records.pair[group[0]]), group


def _values_per_pair(records: Records, events: np.ndarray) -> Iterator[tuple[tuple[str, str], np.ndarray, int]]:
    """Code and unit, values and number of subjects of the kinds of event among events (positions)."""
    valued = events[~np.isnan(records.value[events])]
    for pair, positions in _by_pair(records, valued):
        code, unit = records.pairs[pair]
        owner = np.searchsorted(records.first_event, positions, "right")
        yield (records.codes[code], unit), records.value[positions], len(np.unique(owner))
