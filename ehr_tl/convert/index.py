"""What resources are joined with: patients, ends of visits, drugs, devices; and how references find them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote

from ehr_tl.convert.adapter import Adapter
from ehr_tl.convert.codes import Codes, Concept
from ehr_tl.fhir.pieces import Read
from ehr_tl.fhir.references import reference_key
from ehr_tl.fhir.times import parse_time
from ehr_tl.fhir.views import RowError, element

PATIENT, VISIT, DRUG, DEVICE = "Patient", "Encounter", "Medication", "Device"

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

_REMEMBERED = 1 << 16  # references


class Vague(datetime):
    """A time that stands for a whole month or year; it does not tell when the export ends."""

    @classmethod
    def of(cls, time: datetime) -> Vague:
        """
        Examples:
            >>> Vague.of(datetime(2020, 12, 31, 23, 59, 59, 999999)) == datetime(2020, 12, 31, 23, 59, 59, 999999)
            True
        """
        return cls(*time.timetuple()[:6], time.microsecond)


def subject_id(patient_id: str) -> int:
    """A stable, positive 63-bit number for a patient id.

    Examples:
        >>> subject_id("p1") == subject_id("p1"), subject_id("p1") != subject_id("p2"), subject_id("p1") >= 0
        (True, True, True)
    """
    return int.from_bytes(blake2b(patient_id.encode(), digest_size=8).digest(), "big") >> 1


def version(resource: Any) -> Version:
    """What the versions of a resource are ordered by.

    Examples:
        >>> version({"meta": {"lastUpdated": "2020-01-01T00:00:00Z", "versionId": "10"}})
        (datetime.datetime(2020, 1, 1, 0, 0), 10)
        >>> version({}) < version({"meta": {"versionId": "2"}})
        True
    """
    meta = element(resource, "meta")
    moment, number = element(meta, "lastUpdated"), element(meta, "versionId")
    written = parse_time(moment, UTC, True) if isinstance(moment, str) else None
    number = str(number) if isinstance(number, str | int) else ""
    return written or datetime.min, int(number) if number.isdecimal() and len(number) < _DIGITS else 0


@dataclass
class Drug:
    """A Medication: its own concept, or what it is mixed of: concepts, and references to other Medications."""

    concept: Concept | None
    ingredients: tuple[Concept | str, ...] = ()


@dataclass
class Links:
    """What resources are joined with, by id; plain data, so that parts of an export can be gathered apart.

    Attributes:
        subjects: Patient id -> its own subject_id.
        merged: Patient id -> reference to the patient that its record was merged into.
        visit_ends: Encounter id -> its end, or `OPEN`.
        drugs: Medication id -> drug.
        devices: Device id -> what it is.
        aliases: (type, identifier or `fullUrl`) -> ids of the resources that have it, some of them several times.
    """

    subjects: dict[str, int] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)
    visit_ends: dict[str, datetime] = field(default_factory=dict)
    drugs: dict[str, Drug] = field(default_factory=dict)
    devices: dict[str, Drug] = field(default_factory=dict)
    aliases: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, other: Links) -> None:
        """Enters what was gathered elsewhere; of two resources with one id the one that is added last counts."""
        for key in other.subjects:
            self.merged.pop(key, None)
        self.subjects |= other.subjects
        self.merged |= other.merged
        self.visit_ends |= other.visit_ends
        self.drugs |= other.drugs
        self.devices |= other.devices
        for name, keys in other.aliases.items():
            self.alias(name, keys)

    def alias(self, name: tuple[str, str], keys: Iterable[str]) -> None:
        self.aliases.setdefault(name, []).extend(keys)

    def forget_aliases(self, resources: Collection[tuple[str, str]]) -> None:
        """Forgets by what other names resources, given by type and id, may be called: an older version said so."""
        for (kind, _), keys in self.aliases.items():
            keys[:] = [key for key in keys if (kind, key) not in resources]


class Index:
    """Finds patients, visits and drugs by what references say.

    Attributes:
        adapter: Whose views read them.
        codes: Chooses the codes of drugs.
        links: What is found; it stays as it is, and so may be shared with other processes.
        subjects: Patient id -> subject_id; a patient whose record was merged into another has the other's.
        replaced: Ids of patients that were merged into another.
        shared: Number of patients with an identifier that another has, too. Such an identifier names nobody.
        named: Types and ids of the Medications and Devices that the resource at hand was found to name.
    """

    def __init__(self, adapter: Adapter, codes: Codes, links: Links | None = None):
        self.adapter, self.codes, self.links = adapter, codes, links or Links()
        self.subjects = dict(self.links.subjects)
        self.replaced: set[str] = set()
        self.named: set[tuple[str, str]] = set()
        self._resolved: dict[tuple[str, str], str | None] = {}
        self._merge()
        self._resolved.clear()  # who was merged since may be meant by one identifier
        shared = [
            keys for (kind, _), keys in self.links.aliases.items() if kind == PATIENT and self._several(kind, keys)
        ]
        self.shared = len({key for keys in shared for key in keys})

    def enter(self, read: Read, key: str) -> None:
        """Enters a patient, visit, drug or device, in place of an older version of it."""
        joins = self.adapter.manifest.joins
        if read.type == PATIENT:
            self._enter_patient(key, self._rows(joins.patients, read.resource))
        elif read.type == VISIT:
            self.links.visit_ends[key] = self._visit_end(self._rows(joins.visits, read.resource))
        elif read.type == DEVICE:
            self.links.devices[key] = Drug(self._concept(self._rows(joins.devices, read.resource)))
        else:
            self.links.drugs[key] = self._drug(self._rows(joins.drugs, read.resource), read.resource)
        self._alias(read, key)

    def resolve(self, kind: str, reference: str | None) -> str | None:
        """The id of the resource of type `kind` that a reference means; None if it means none."""
        if reference.__class__ is not str:
            return None
        name = kind, reference
        if name not in self._resolved:  # neighbours name the same visit
            if len(self._resolved) > _REMEMBERED:
                self._resolved.clear()
            self._resolved[name] = self._resolve(kind, reference)
        return self._resolved[name]

    def _resolve(self, kind: str, reference: str) -> str | None:
        named, key = reference_key(reference)
        if named not in (kind, None) or key.startswith("#"):
            return None
        if key.startswith(("?", "urn:")):
            keys = self.links.aliases.get((kind, unquote(key.removeprefix("?identifier="))), ())
            if keys:
                return None if self._several(kind, keys) else keys[0]
            return key.rpartition(":")[2] if key.startswith("urn:") else None
        return key

    def _several(self, kind: str, keys: Iterable[str]) -> bool:
        """Whether ids are those of several people or things; a merged patient is the one that it was merged into."""
        return len({self.subjects.get(key, key) if kind == PATIENT else key for key in keys}) > 1

    def subject(self, reference: str | None) -> int | None:
        """The subject that a reference to a Patient means; None if it is absent from the export."""
        key = self.resolve(PATIENT, reference)
        return self.subjects.get(key) if key else None

    def concepts(self, reference: str, resource: Any) -> list[Concept]:
        """The drugs that a reference to a Medication means, one or those that it is mixed of; or what a Device is.

        Args:
            reference: May point to a resource that is contained in `resource`.
        """
        if isinstance(reference, str) and reference.startswith("#"):
            return self._spread(self._drug(self._contained(reference, resource), resource))
        for kind, held in ((DRUG, self.links.drugs), (DEVICE, self.links.devices)):
            key = self.resolve(kind, reference)
            if key in held and (found := self._spread(held[key])):
                self.named.add((kind, key))
                return found
        return []

    def _spread(self, drug: Drug) -> list[Concept]:
        if drug.concept:
            return [drug.concept]
        drugs = self.links.drugs
        found: dict[str, Concept] = {}
        for part in drug.ingredients:
            if isinstance(part, Concept):
                found.setdefault(part.code, part)
            elif (key := self.resolve(DRUG, part)) in drugs and (concept := drugs[key].concept):
                self.named.add((DRUG, key))
                found.setdefault(concept.code, concept)
        return list(found.values())

    def _rows(self, name: str, resource: dict[str, Any]) -> list[dict[str, Any]]:
        view = self.adapter.views[name]
        try:
            return [dict(zip(view.columns, row)) for row in view.rows(resource)]
        except RowError:  # said again, and counted, when the resource itself is converted
            return []

    def _enter_patient(self, key: str, rows: list[dict[str, Any]]) -> None:
        self.links.subjects[key] = subject_id(key)
        self.links.merged.pop(key, None)
        if rows and (other := rows[0].get("replaced_by")):
            self.links.merged[key] = other

    def _visit_end(self, rows: list[dict[str, Any]]) -> datetime:
        text = rows[0]["end"] if rows and rows[0].get("status") not in _NOT_OVER else None
        end = parse_time(text, self.adapter.zone, True) if text else None
        if end is None or not self.adapter.earliest <= end <= self.adapter.latest:
            return OPEN
        return Vague.of(end) if len(text) < TO_THE_DAY else end

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
        """The rows of a drug or device that `holder` contains."""
        joins, held = self.adapter.manifest.joins, element(holder, "contained")
        for inner in held if isinstance(held, list) else []:
            kind = inner.get("resourceType") if isinstance(inner, dict) else None
            if kind in (*_DRUGS, DEVICE) and f"#{inner.get('id')}" == reference:
                return self._rows(joins.devices if kind == DEVICE else joins.drugs, inner)
        return []

    def _alias(self, read: Read, key: str) -> None:
        """Other names by which references may call a resource: its `fullUrl` and its identifiers."""
        if read.full_url and not read.full_url.endswith(key):
            self.links.alias((read.type, read.full_url), [key])
        identifiers = element(read.resource, "identifier")
        for identifier in identifiers if isinstance(identifiers, list) else []:
            if isinstance(identifier, dict) and (value := identifier.get("value")) and isinstance(value, str | int):
                system = identifier.get("system")
                self.links.alias((read.type, f"{system if isinstance(system, str) else ''}|{value}"), [key])

    def _merge(self) -> None:
        """Gives merged patients the subject of the record that lives on; where links go in a circle none does."""
        subjects, merged = self.subjects, self.links.merged
        ends: dict[str, str | None] = {}
        for key in merged:
            way, at = set(), key
            while at not in ends and at not in way:
                way.add(at)
                after = self.resolve(PATIENT, merged.get(at))
                if after in subjects:
                    at = after
                else:
                    ends[at] = at
            ends |= dict.fromkeys(way, ends.get(at))
        for key in merged:
            if ends[key] not in (key, None):
                subjects[key] = subject_id(ends[key])
                self.replaced.add(key)
