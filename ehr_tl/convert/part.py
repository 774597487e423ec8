"""The second pass over an export: a piece of it to events."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from ehr_tl.concepts import FEWEST_SUBJECTS
from ehr_tl.convert.adapter import Adapter
from ehr_tl.convert.codes import Codes, Concept, Use
from ehr_tl.convert.coverage import Coverage
from ehr_tl.convert.emit import SET_ASIDE, Emitter, Event, SetAside
from ehr_tl.convert.gather import PieceKey, Places, decoder, key_of
from ehr_tl.convert.index import DEVICE, DRUG, PATIENT, Index, Links
from ehr_tl.convert.span import Days, days_of
from ehr_tl.convert.terminology import TERMINOLOGIES, Terminology, TerminologyFault
from ehr_tl.convert.units import Units
from ehr_tl.convert.write import table_of
from ehr_tl.fhir.pieces import Piece, Read
from ehr_tl.fhir.views import set_element

_NOWHERE: Places = frozenset()


@dataclass
class Tally:
    """What is counted of a piece; tallies are added up in the order of the export.

    Attributes:
        events: Their number.
        concepts: The concepts of the events, in the order in which they come first.
        terminology: What CodeSystems and ValueSets say of codes.
        coverage: What became of the resources.
        named: Types and ids of the Medications and Devices that became events.
        days: When the events were.
    """

    events: int
    concepts: list[Use]
    terminology: Terminology
    coverage: Coverage
    named: set[tuple[str, str]]
    days: Days


@dataclass
class Part:
    """What became of a piece.

    Attributes:
        events: As `schema.EVENTS`.
        tally: What is counted of them, and of the resources.
    """

    events: pl.DataFrame
    tally: Tally


class Convert:
    """The work of the second pass.

    Args:
        adapter: Whose views and rules make events of resources.
        links: What the first pass found.
        repeated: The places of resources that do not count, since there are newer versions or earlier copies of them.
        keep: What is set aside is kept in full.
    """

    def __init__(self, adapter: Adapter, links: Links, repeated: Mapping[PieceKey, Places], keep: bool = False):
        self.adapter, self.links, self.repeated, self.keep = adapter, links, repeated, keep
        codes = Codes(adapter)
        self.units = Units(adapter.manifest, codes)
        self.index = Index(adapter, codes, links)
        self.decode = decoder(adapter)
        self.emitters: dict[str, list[Emitter]] = defaultdict(list)
        for name, rule in adapter.manifest.events.items():
            view = adapter.views[name]
            self.emitters[view.resource].append(Emitter(adapter, view, rule, self.index, codes, self.units))

    def __reduce__(self) -> tuple[Any, ...]:
        """Compiled views stay where they are; a worker compiles its own."""
        return Convert, (self.adapter, self.links, self.repeated, self.keep)

    def __call__(self, piece: Piece) -> Part:
        repeated = self.repeated.get((piece.file, piece.number), _NOWHERE)
        coverage, named = Coverage(keep=self.keep), set[tuple[str, str]]()
        events: list[Event] = []
        terminology = Terminology()
        for place, read in enumerate(piece.reads(self.decode)):
            if read.type in TERMINOLOGIES and place not in repeated:
                self._learn(read, terminology, coverage)
            else:
                self._read(read, place in repeated, events, coverage, named)
        tally = Tally(len(events), _uses(events), terminology, coverage, named, days_of(events))
        return Part(table_of(events), tally)

    def _learn(self, read: Read, terminology: Terminology, coverage: Coverage) -> None:
        """Counts a CodeSystem or ValueSet; what it says is kept."""
        try:
            terminology.read(read.resource, self.adapter.naming)
        except TerminologyFault:
            key = key_of(read)
            coverage.set_aside(read, "does_not_fit", f"{read.type}/{key}" if key else None)
        else:
            coverage.used(read.type)

    def _read(
        self,
        read: Read,
        repeated: bool,
        events: list[Event],
        coverage: Coverage,
        named: set[tuple[str, str]],
    ) -> None:
        """Counts one resource under what became of it; its events are kept if all of it can be believed."""
        if read.resource is None:
            coverage.set_aside(read, read.fault or "not_a_resource")
            return
        key = key_of(read)
        resource_id = f"{read.type}/{key}" if key else None
        if repeated:
            coverage.set_aside(read, "repeated", resource_id)
            return
        if reason := self._not_read(read.type, key):
            coverage.unused(read.type, reason)
            return
        if key:
            set_element(read.resource, "id", key)  # where views look for it
        found: list[Event] = []
        self.index.named.clear()
        try:
            reason = self._emit(read, resource_id, found, coverage)
        except SetAside as fault:
            coverage.set_aside(read, fault.reason, resource_id)
            return
        if found:
            named |= self.index.named
            events += found
            coverage.used(read.type)
        else:
            coverage.unused(read.type, reason or "no_rows")

    def _not_read(self, kind: str, key: str | None) -> str | None:
        """Why the views are not asked at all."""
        if kind in (DRUG, DEVICE):
            return "not_referenced"
        if kind not in self.emitters:
            return "no_view"
        return "replaced" if kind == PATIENT and key in self.index.replaced else None

    def _emit(self, read: Read, resource_id: str | None, events: list[Event], coverage: Coverage) -> str | None:
        """Runs every view of the resource's type; the first reason counts if none gives an event.

        A Patient is not set aside for a birth date that cannot be: its death would go with it.
        """
        reason, faults = None, []
        for emitter in self.emitters[read.type]:
            try:
                found = emitter.emit(read.resource, resource_id, events)
            except SetAside as fault:
                if read.type != PATIENT:
                    raise
                found = fault.reason
            if found in SET_ASIDE:
                faults.append(found)
            if reason in (None, "no_rows"):
                reason = found or reason
        if faults and not events:
            raise SetAside(faults[0])
        for fault in faults:
            coverage.fault(read.type, fault)
        return reason


def _uses(events: list[Event]) -> list[Use]:
    numbers = Counter(event.concept for event in events)
    subjects: dict[Concept, set[int]] = {
        concept: set() for concept in numbers if concept.displays or concept.descriptions
    }
    for event in events:
        some = subjects.get(event.concept)
        if some is not None and len(some) < FEWEST_SUBJECTS:
            some.add(event.subject_id)
    return [Use(concept, number, subjects.get(concept, ())) for concept, number in numbers.items()]
