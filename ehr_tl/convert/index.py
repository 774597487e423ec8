"""What resources are joined with: patients, ends of visits, drugs; and how references find them.

Read in a first pass over the export; memory grows with these three types, not with observations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote

from ehr_tl.convert.adapter import Adapter
from ehr_tl.convert.codes import Codes, Concept
from ehr_tl.fhir.export import Export, Read
from ehr_tl.fhir.references import reference_key
from ehr_tl.fhir.times import parse_time
from ehr_tl.fhir.views import RowError, View
from ehr_tl.progress import track

PATIENT, VISIT, DRUG = "Patient", "Encounter", "Medication"

#: The end of a visit that is not over.
OPEN = datetime.max


def subject_id(patient_id: str) -> int:
    """A stable, positive 63-bit number for a patient id.

    Examples:
        >>> subject_id("p1") == subject_id("p1"), subject_id("p1") != subject_id("p2"), subject_id("p1") >= 0
        (True, True, True)
    """
    return int.from_bytes(blake2b(patient_id.encode(), digest_size=8).digest(), "big") >> 1


def _rows(view: View, resource: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        return [dict(zip(view.columns, row)) for row in view.rows(resource)]
    except RowError:  # said again, and counted, when the resource itself is converted
        return []


@dataclass
class Drug:
    """A Medication: its own concept, and references to what it is mixed of."""

    concept: Concept | None
    ingredients: tuple[str, ...]


@dataclass
class Index:
    """Patients, visits and drugs of an export, by id.

    Attributes:
        subjects: Patient id -> subject_id; a patient whose record was merged into another has the other's.
        replaced: Ids of patients that were merged into another.
        visit_ends: Encounter id -> its end, or `OPEN`.
        drugs: Medication id -> drug.
        referenced: Ids of the Medications that some other resource named.
    """

    adapter: Adapter
    codes: Codes
    subjects: dict[str, int] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    visit_ends: dict[str, datetime] = field(default_factory=dict)
    drugs: dict[str, Drug] = field(default_factory=dict)
    referenced: set[str] = field(default_factory=set)
    _aliases: dict[tuple[str, str], str] = field(default_factory=dict)
    _merged: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, export: Export, adapter: Adapter, codes: Codes) -> Index:
        """Reads all patients, encounters and medications of an export; of several with one id the first counts."""
        index = cls(adapter, codes)
        joins = adapter.manifest.joins
        readers = {
            PATIENT: (adapter.views[joins.patients], index._patient),
            VISIT: (adapter.views[joins.visits], index._visit),
            DRUG: (adapter.views[joins.drugs], index._drug),
        }
        for file in track(export.files, "Patients, visits and drugs"):
            for read in export.read_file(file, set(readers)):
                if key := index.key(read):
                    view, enter = readers[read.type]
                    enter(key, _rows(view, read.resource))
                    index._alias(read, key)
        index._merge()
        index.resolve = lru_cache(maxsize=1 << 16)(index.resolve)  # complete now; neighbours name the same visit
        return index

    def key(self, read: Read) -> str | None:
        """The id of a resource; in a Bundle that leaves ids to the server, that of its `fullUrl`."""
        found = read.resource.get("id")
        if not found and read.full_url:
            found = read.full_url.rpartition(":")[2].rpartition("/")[2]
        return found if found and isinstance(found, str) else None

    def resolve(self, kind: str, reference: str | None) -> str | None:
        """The id of the resource of type `kind` that a reference means; None if it means none."""
        if reference.__class__ is not str:
            return None
        named, key = reference_key(reference)
        if named not in (kind, None) or key.startswith("#"):
            return None
        if key.startswith(("?", "urn:")):
            query = unquote(key.removeprefix("?identifier="))
            return self._aliases.get((kind, query)) or (key.rpartition(":")[2] if key.startswith("urn:") else None)
        return key

    def subject(self, reference: str | None) -> int | None:
        """The subject that a reference to a Patient means; None if it is absent from the export."""
        key = self.resolve(PATIENT, reference)
        return self.subjects.get(key) if key else None

    def concepts(self, reference: str, resource: dict[str, Any]) -> list[Concept]:
        """The drugs that a reference to a Medication means: one, or those that it is mixed of.

        Args:
            reference: May point to a resource that is contained in `resource`.
        """
        if isinstance(reference, str) and reference.startswith("#"):
            return self._contained(reference[1:], resource)
        key = self.resolve(DRUG, reference)
        drug = self.drugs.get(key) if key else None
        if drug is None:
            return []
        self.referenced.add(key)
        return self._spread(drug)

    def _spread(self, drug: Drug) -> list[Concept]:
        if drug.concept:
            return [drug.concept]
        found = []
        for reference in drug.ingredients:
            key = self.resolve(DRUG, reference)
            part = self.drugs.get(key) if key else None
            if part and part.concept and part.concept not in found:
                self.referenced.add(key)
                found.append(part.concept)
        return found

    def _contained(self, key: str, resource: dict[str, Any]) -> list[Concept]:
        view = self.adapter.views[self.adapter.manifest.joins.drugs]
        held = resource.get("contained")
        for inner in held if isinstance(held, list) else []:
            if isinstance(inner, dict) and inner.get("id") == key and inner.get("resourceType") == DRUG:
                return self._spread(self._as_drug(_rows(view, inner)))
        return []

    def _patient(self, key: str, rows: list[dict[str, Any]]) -> None:
        if key not in self.subjects:
            self.subjects[key] = subject_id(key)
            if rows and (other := rows[0].get("replaced_by")):
                self._merged[key] = other

    def _visit(self, key: str, rows: list[dict[str, Any]]) -> None:
        text = rows[0]["end"] if rows else None
        end = parse_time(text, self.adapter.zone, True) if text else None
        plausible = end is not None and self.adapter.earliest <= end <= self.adapter.latest
        self.visit_ends.setdefault(key, end if plausible else OPEN)

    def _drug(self, key: str, rows: list[dict[str, Any]]) -> None:
        if key not in self.drugs:
            self.drugs[key] = self._as_drug(rows)

    def _as_drug(self, rows: list[dict[str, Any]]) -> Drug:
        codings = dict.fromkeys((row.get("system"), row.get("code"), row.get("display")) for row in rows)
        concept = self.codes.concept(tuple(codings), rows[0].get("text")) if rows else None
        ingredients = dict.fromkeys(row["ingredient"] for row in rows if row.get("ingredient"))
        return Drug(concept, tuple(ingredients))

    def _alias(self, read: Read, key: str) -> None:
        """Other names by which references may call a resource: its `fullUrl` and its identifiers."""
        if read.full_url and not read.full_url.endswith(key):
            self._aliases.setdefault((read.type, read.full_url), key)
        identifiers = read.resource.get("identifier")
        for identifier in identifiers if isinstance(identifiers, list) else []:
            if isinstance(identifier, dict) and identifier.get("value"):
                query = f"{identifier.get('system', '')}|{identifier['value']}"
                self._aliases.setdefault((read.type, query), key)

    def _merge(self) -> None:
        """Gives merged patients the subject of the record that lives on."""
        for key in self._merged:
            seen, last = {key}, key
            while (after := self.resolve(PATIENT, self._merged.get(last))) in self.subjects and after not in seen:
                seen.add(after)
                last = after
            if last != key:
                self.subjects[key] = subject_id(last)
                self.replaced.add(key)
