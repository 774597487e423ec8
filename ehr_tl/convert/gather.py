"""The first pass over an export: what resources are joined with, and which of them are there more than once.

Its memory grows with patients, visits, drugs and devices, and by eight bytes for every other resource; by some hundred
more for each of those that are there more than once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
import orjson

from ehr_tl.convert.adapter import Adapter
from ehr_tl.convert.codes import Codes
from ehr_tl.convert.index import DEVICE, DRUG, PATIENT, VISIT, Index, Links, Version, version
from ehr_tl.fhir.pieces import Piece, Read
from ehr_tl.fhir.views import compile_reader, element

#: Types of resources that others are joined with.
JOINED = (PATIENT, VISIT, DRUG, DEVICE)

#: Names a piece: its file, and its number there.
PieceKey = tuple[str, int]

#: Places of resources in a piece, as `Piece.reads` counts them.
Places = frozenset[int]

_NOWHERE: Places = frozenset()


def key_of(read: Read) -> str | None:
    """The id of a resource; in a Bundle that leaves ids to the server, that of its `fullUrl`."""
    found = element(read.resource, "id")
    if not found and read.full_url:
        found = read.full_url.rpartition(":")[2].rpartition("/")[2]
    return found if found and isinstance(found, str) else None


def decoder(adapter: Adapter) -> Callable[[bytes], Any]:
    """Decodes a resource as far as the views of an adapter look, whether they make events or joins."""
    return compile_reader(
        [adapter.views[name] for name in (*adapter.manifest.events, *adapter.manifest.joins.views)]
    ).decode


class _Glance(msgspec.Struct):
    """What is looked at of a resource that nothing is joined with."""

    resourceType: str
    id: str | None = None


_glance = msgspec.json.Decoder(_Glance)


class _Stamp(msgspec.Struct):
    lastUpdated: str | None = None
    versionId: str | int | None = None


class _Stamped(msgspec.Struct):
    """What a resource says of its version."""

    meta: _Stamp | None = None


_stamped = msgspec.json.Decoder(_Stamped)


@dataclass
class Gathered:
    """What the first pass found in a piece.

    Attributes:
        piece: The piece.
        links: What others are joined with.
        marks: uint64 of shape (reads,): a number for the type and id of each resource; 0 where it has none.
    """

    piece: PieceKey
    links: Links
    marks: np.ndarray


class Gather:
    """The work of the first pass."""

    def __init__(self, adapter: Adapter):
        self.adapter, self.codes = adapter, Codes(adapter)
        views = [adapter.views[name] for name in adapter.manifest.joins.views]
        self.joined = compile_reader(views, keep=("id", "identifier", "contained")).decode

    def __reduce__(self) -> tuple[Any, ...]:
        return Gather, (self.adapter,)

    def __call__(self, piece: Piece) -> Gathered:
        index = Index(self.adapter, self.codes)
        marks = []
        for read in piece.reads(self._look):
            key = key_of(read) if read.resource is not None else None
            marks.append(_mark(read.type, key) if key else 0)
            if key and read.type in JOINED:
                index.enter(read, key)
        return Gathered((piece.file, piece.number), index.links, np.array(marks, np.uint64))

    def _look(self, text: bytes) -> Any:
        """What others are joined with as far as that needs, a Bundle whole, of any other resource type and id."""
        try:
            glance = _glance.decode(text)
            if not text.isascii():
                text.decode()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return orjson.loads(text)
        if glance.resourceType in JOINED:
            return self.joined(text)
        return orjson.loads(text) if glance.resourceType == "Bundle" else glance


def _mark(kind: str, key: str) -> int:
    return int.from_bytes(blake2b(f"{kind}/{key}".encode(errors="replace"), digest_size=8).digest(), "big") or 1


class Repeats:
    """Finds the resources that are there more than once, by their marks."""

    def __init__(self) -> None:
        self._pieces: list[PieceKey] = []
        self._marks: list[np.ndarray] = []

    def add(self, piece: PieceKey, marks: np.ndarray) -> None:
        self._pieces.append(piece)
        self._marks.append(marks)

    def places(self) -> dict[PieceKey, Places]:
        """Where there are resources whose mark occurs several times, by piece."""
        if not any(map(len, self._marks)):
            return {}
        marks = np.concatenate(self._marks)
        order = np.argsort(marks, kind="stable")
        ranked = marks[order]
        same = (ranked[1:] == ranked[:-1]) & (ranked[1:] != 0)
        several = np.sort(order[np.concatenate([[False], same]) | np.concatenate([same, [False]])])
        starts = np.cumsum([0, *map(len, self._marks)])
        found: dict[PieceKey, set[int]] = defaultdict(set)
        for place, number in zip(several, np.searchsorted(starts, several, side="right") - 1, strict=True):
            found[self._pieces[number]].add(int(place - starts[number]))
        return {piece: frozenset(places) for piece, places in found.items()}


@dataclass
class Contender:
    """One of several resources with the same type and id.

    Attributes:
        place: Where it is in its piece.
        name: Type and id.
        written: Its version.
        links: What others are joined with of it, if they are with its type.
    """

    place: int
    name: tuple[str, str]
    written: Version
    links: Links | None


class Compare:
    """The work of looking at the resources that are there more than once; what the second pass refuses is none."""

    def __init__(self, adapter: Adapter, places: Mapping[PieceKey, Places]):
        self.adapter, self.codes, self.places = adapter, Codes(adapter), places
        self._decode = decoder(adapter)
        self._gather = Gather(adapter)
        self._text = b""

    def __reduce__(self) -> tuple[Any, ...]:
        return Compare, (self.adapter, self.places)

    def __call__(self, piece: Piece) -> tuple[PieceKey, list[Contender]]:
        name = piece.file, piece.number
        wanted = self.places.get(name, _NOWHERE)
        return name, [
            self._contender(place, read)
            for place, read in enumerate(piece.reads(self._read))
            if place in wanted and read.resource is not None
        ]

    def _read(self, text: bytes) -> Any:
        self._text = text
        return self._decode(text)

    def _contender(self, place: int, read: Read) -> Contender:
        key, links = key_of(read) or "", None
        whole = read.resource.__class__ is dict
        if read.type in JOINED:
            index = Index(self.adapter, self.codes)
            index.enter(read if whole else read._replace(resource=self._gather.joined(self._text)), key)
            links = index.links
        return Contender(place, (read.type, key), version(read.resource if whole else self._stamp()), links)

    def _stamp(self) -> Any:
        try:
            return _stamped.decode(self._text)
        except (msgspec.DecodeError, RecursionError):
            return {}


def settle(contenders: Iterable[tuple[PieceKey, list[Contender]]], links: Links) -> dict[PieceKey, Places]:
    """Of several resources with one type and id the newest version counts, and of several such the first.

    Args:
        links: What others are joined with is brought to what the ones that count say.

    Returns:
        The places of all others, by piece.
    """
    best: dict[tuple[str, str], tuple[PieceKey, Contender]] = {}
    lost: dict[PieceKey, set[int]] = defaultdict(set)
    for piece, found in contenders:
        for contender in found:
            holder = best.get(contender.name)
            if holder is None or contender.written > holder[1].written:
                best[contender.name] = piece, contender
            else:
                holder = piece, contender
            if holder is not None:
                lost[holder[0]].add(holder[1].place)
    links.forget_aliases({name for name in best if name[0] in JOINED})
    for _, contender in best.values():
        if contender.links:
            links.add(contender.links)
    return {piece: frozenset(places) for piece, places in lost.items()}
