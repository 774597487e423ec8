"""What resources are joined with: patients, ends of visits, drugs; and how references find them.

Read in a first pass over the export; memory grows with these three types, not with observations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote

from ehr_tl.convert.adapter import Adapter
from ehr_tl.convert.codes import Codes, Concept
from ehr_tl.fhir.export import Export, Read
from ehr_tl.fhir.references import reference_key
from ehr_tl.fhir.times import parse_time
from ehr_tl.fhir.views import RowError
from ehr_tl.progress import track

PATIENT, VISIT, DRUG = "Patient", "Encounter", "Medication"

#: The end of a visit that is not over.
OPEN = datetime.max

#: Characters of a date that is known to the day.
TO_THE_DAY = 10

#: With these, whatever stands in `period.end` is a plan.
_NOT_OVER = {"planned", "arrived", "triaged", "in-progress", "onleave"}

#: What may be contained in a resource and be a drug, or a part of one.
_DRUGS = (DRUG, "Substance")

#: When a version of a resource was written, and its number.
Version = tuple[datetime, int]
_DIGITS = 20  # more are no number of a version


def subject_id(patient_id: str) -> int:
    """A stable, positive 63-bit number for a patient id.

    Examples:
        >>> subject_id("p1") == subject_id("p1"), subject_id("p1") != subject_id("p2"), subject_id("p1") >= 0
        (True, True, True)
    """
    return int.from_bytes(blake2b(patient_id.encode(), digest_size=8).digest(), "big") >> 1


def version(resource: dict[str, Any]) -> Version:
    """What the versions of a resource are ordered by.

    Examples:
        >>> version({"meta": {"lastUpdated": "2020-01-01T00:00:00Z", "versionId": "10"}})
        (datetime.datetime(2020, 1, 1, 0, 0), 10)
        >>> version({}) < version({"meta": {"versionId": "2"}})
        True
    """
    meta = resource.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    number = str(meta.get("versionId"))
    written = parse_time(str(meta.get("lastUpdated")), UTC, True)
    return written or datetime.min, int(number) if number.isdecimal() and len(number) < _DIGITS else 0


@dataclass
class Drug:
    """A Medication: its own concept, or what it is mixed of: concepts, and references to other Medications."""

    concept: Concept | None
    ingredients: tuple[Concept | str, ...] = ()


@dataclass
class Index:
    """Patients, visits and drugs of an export, by id.

    Attributes:
        subjects: Patient id -> subject_id; a patient whose record was merged into another has the other's.
        replaced: Ids of patients that were merged into another.
        visit_ends: Encounter id -> its end, or `OPEN`.
        drugs: Medication id -> drug.
        newest: (type, id) -> the version that counts, where there are several.
        named: Ids of the Medications that the resource at hand was found to name.
        referenced: Ids of the Medications that became events.
        vague: Times of events that stand for a whole month or year; they do not tell when the export ends.
    """

    adapter: Adapter
    codes: Codes
    subjects: dict[str, int] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    visit_ends: dict[str, datetime] = field(default_factory=dict)
    drugs: dict[str, Drug] = field(default_factory=dict)
    newest: dict[tuple[str, str], Version] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    referenced: set[str] = field(default_factory=set)
    vague: set[datetime] = field(default_factory=set)
    _aliases: dict[tuple[str, str], str] = field(default_factory=dict)
    _merged: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, export: Export, adapter: Adapter, codes: Codes) -> Index:
        """Reads all patients, encounters and medications of an export; of several with one id the newest counts."""
        index = cls(adapter, codes)
        held = {PATIENT: index.subjects, VISIT: index.visit_ends, DRUG: index.drugs}
        repeated = set()
        for file in track(export.files, "Patients, visits and drugs"):
            for read in export.read_file(file, set(held)):
                if key := index.key(read):
                    if key in held[read.type]:
                        repeated.add((read.type, key))
                    else:
                        index._enter(read, key)
                    index._alias(read, key)
        if repeated:
            index._renew(export, repeated)
        index._merge()
        index.resolve = lru_cache(maxsize=1 << 16)(index.resolve)  # complete now; neighbours name the same visit
        return index

    def key(self, read: Read) -> str | None:
        """The id of a resource; in a Bundle that leaves ids to the server, that of its `fullUrl`."""
        found = read.resource.get("id")
        if not found and read.full_url:
            found = read.full_url.rpartition(":")[2].rpartition("/")[2]
        return found if found and isinstance(found, str) else None

    def is_outdated(self, kind: str, key: str, resource: dict[str, Any]) -> bool:
        """Whether there is a newer version of a resource."""
        newest = self.newest.get((kind, key))
        return newest is not None and version(resource) != newest

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
            return self._spread(self._drug(self._contained(reference, resource), resource))
        key = self.resolve(DRUG, reference)
        found = self._spread(self.drugs[key]) if key in self.drugs else []
        if found:
            self.named.add(key)
        return found

    def _spread(self, drug: Drug) -> list[Concept]:
        if drug.concept:
            return [drug.concept]
        found: dict[Concept, None] = {}
        for part in drug.ingredients:
            if isinstance(part, Concept):
                found[part] = None
            elif (key := self.resolve(DRUG, part)) in self.drugs and (concept := self.drugs[key].concept):
                self.named.add(key)
                found[concept] = None
        return list(found)

    def _enter(self, read: Read, key: str) -> None:
        """Enters a patient, visit or drug, in place of an older version of it."""
        joins = self.adapter.manifest.joins
        if read.type == PATIENT:
            self._enter_patient(key, self._rows(joins.patients, read.resource))
        elif read.type == VISIT:
            self.visit_ends[key] = self._visit_end(self._rows(joins.visits, read.resource))
        else:
            self.drugs[key] = self._drug(self._rows(joins.drugs, read.resource), read.resource)

    def _renew(self, export: Export, repeated: set[tuple[str, str]]) -> None:
        """Enters the newest of several versions. They are read once more, so that only they cost memory."""
        for read in export.read({kind for kind, _ in repeated}):
            name = (read.type, self.key(read))
            if name in repeated:
                written = version(read.resource)
                if name not in self.newest or written > self.newest[name]:
                    self.newest[name] = written
                    self._enter(read, name[1])

    def _rows(self, name: str, resource: dict[str, Any]) -> list[dict[str, Any]]:
        view = self.adapter.views[name]
        try:
            return [dict(zip(view.columns, row)) for row in view.rows(resource)]
        except RowError:  # said again, and counted, when the resource itself is converted
            return []

    def _enter_patient(self, key: str, rows: list[dict[str, Any]]) -> None:
        self.subjects[key] = subject_id(key)
        self._merged.pop(key, None)
        if rows and (other := rows[0].get("replaced_by")):
            self._merged[key] = other

    def _visit_end(self, rows: list[dict[str, Any]]) -> datetime:
        text = rows[0]["end"] if rows and rows[0].get("status") not in _NOT_OVER else None
        end = parse_time(text, self.adapter.zone, True) if text else None
        if end is None or not self.adapter.earliest <= end <= self.adapter.latest:
            return OPEN
        if len(text) < TO_THE_DAY:
            self.vague.add(end)
        return end

    def _drug(self, rows: list[dict[str, Any]], holder: dict[str, Any]) -> Drug:
        """What the rows of a Medication say; references in it may point to what `holder` contains."""
        if concept := self._concept(rows):
            return Drug(concept)
        parts: dict[tuple, list[dict[str, Any]]] = {}
        for row in rows:
            parts.setdefault((row.get("part"), row.get("ingredient")), []).append(row)
        ingredients = []
        for (_, reference), part in parts.items():
            if reference and reference.startswith("#"):
                ingredients.append(self._concept(self._contained(reference, holder)))
            else:
                ingredients.append(reference or self._concept(part, "ingredient_"))
        return Drug(None, tuple(filter(None, ingredients)))

    def _concept(self, rows: list[dict[str, Any]], prefix: str = "") -> Concept | None:
        if not rows:
            return None
        names = [prefix + name for name in ("system", "code", "display")]
        codings = dict.fromkeys(tuple(row.get(name) for name in names) for row in rows)
        return self.codes.concept(tuple(codings), rows[0].get(prefix + "text"))

    def _contained(self, reference: str, holder: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of a drug that `holder` contains."""
        held = holder.get("contained")
        for inner in held if isinstance(held, list) else []:
            if isinstance(inner, dict) and f"#{inner.get('id')}" == reference and inner.get("resourceType") in _DRUGS:
                return self._rows(self.adapter.manifest.joins.drugs, inner)
        return []

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
        """Gives merged patients the subject of the record that lives on; where links go in a circle none does."""
        for key in self._merged:
            seen, last = {key}, key
            while (after := self.resolve(PATIENT, self._merged.get(last))) in self.subjects and after not in seen:
                seen.add(after)
                last = after
            if last != key and after not in seen:
                self.subjects[key] = subject_id(last)
                self.replaced.add(key)
