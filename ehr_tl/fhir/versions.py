"""Which version of FHIR an export is written in, told from its first resources; others than R4 are refused.

Resources seldom name their version, but some elements have another shape in each
(https://hl7.org/fhir/R4/diff.html, https://hl7.org/fhir/R5/diff.html). Read as R4, a resource of another version loses
its dates, drugs or refutations without a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from ehr_tl.errors import ExportError
from ehr_tl.fhir.export import Export, ExportFile

#: Resources looked at in each file, and files: one of each type that names say, and some of those that do not say.
_RESOURCES, _UNNAMED = 100, 10

#: A JSON document is decoded as a whole: after the first, none that would bring their bytes beyond this.
_DOCUMENTS = 16 << 20

#: R4B differs from R4 in no clinical resource that is read here.
_R4 = "R4"
_RELEASES = {"3.0": "STU3", "4.0": _R4, "4.1": _R4, "4.3": _R4, "5.0": "R5"}
_CORE_PROFILE = re.compile(r"http://hl7\.org/fhir/(?:(\d\.\d)/)?StructureDefinition/\w+(?:\|(\d\.\d)[\w.-]*)?")

_STU3, _R5 = {"STU3"}, {"R5"}
_SINCE_R4, _UNTIL_R4 = {_R4, "R5"}, {"STU3", _R4}


def _moment(value: Any) -> bool:
    return value.__class__ is str and value[:4].isdecimal()


def _reference(value: Any) -> bool:
    return value.__class__ is dict and value.get("reference").__class__ is str


def _concept(value: Any) -> bool:
    return value.__class__ is dict and ("coding" in value or "text" in value)


def _coding(value: Any) -> bool:
    return value.__class__ is dict and "code" in value


def _code(value: Any) -> bool:
    return value.__class__ is str and value.replace("-", "").isalpha()


def _flag(value: Any) -> bool:
    return value.__class__ is bool


def _concepts(value: Any) -> bool:
    return value.__class__ is list and bool(value) and all(map(_concept, value))


def _participants(value: Any) -> bool:
    return value.__class__ is list and any(item.__class__ is dict and _reference(item.get("actor")) for item in value)


def _drug(value: Any) -> bool:
    return value.__class__ is dict and (_concept(value.get("concept")) or _reference(value.get("reference")))


def _requester(value: Any) -> bool:
    return value.__class__ is dict and _reference(value.get("agent"))


def _period(value: Any) -> bool:
    return value.__class__ is dict and ("start" in value or "end" in value)


#: An element, what it looks like, and the versions in which it may.
_Shape = tuple[str, Callable[[Any], bool], set[str]]

_STATUS: tuple[_Shape, ...] = tuple(
    shape
    for name in ("clinicalStatus", "verificationStatus")
    for shape in ((name, _code, _STU3), (name, _concept, _SINCE_R4))
)
#: R4 has a `context` too, but in what is dispensed, administered and stated only.
_VISIT: tuple[_Shape, ...] = (("context", _reference, _STU3), ("encounter", _reference, _SINCE_R4))
_MEDICATION: tuple[_Shape, ...] = (
    ("medication", _drug, _R5),
    ("medicationCodeableConcept", _concept, _UNTIL_R4),
    ("medicationReference", _reference, _UNTIL_R4),
)
_SHAPES: dict[str, tuple[_Shape, ...]] = {
    "AllergyIntolerance": (*_STATUS, ("type", _concept, _R5), ("type", _code, _UNTIL_R4)),
    "Condition": (*_STATUS, *_VISIT, ("participant", _participants, _R5)),
    "DiagnosticReport": _VISIT,
    "Encounter": (
        ("class", _concepts, _R5),
        ("class", _coding, _UNTIL_R4),
        ("actualPeriod", _period, _R5),
        ("period", _period, _UNTIL_R4),
    ),
    "Immunization": (("notGiven", _flag, _STU3), ("occurrenceDateTime", _moment, _SINCE_R4)),
    "MedicationAdministration": _MEDICATION,
    "MedicationDispense": _MEDICATION,
    "MedicationRequest": (*_MEDICATION, *_VISIT, ("requester", _requester, _STU3)),
    "MedicationStatement": _MEDICATION,
    "Observation": _VISIT,
    "Procedure": (
        *_VISIT,
        ("notDone", _flag, _STU3),
        ("occurrenceDateTime", _moment, _R5),
        ("occurrencePeriod", _period, _R5),
        ("performedDateTime", _moment, _UNTIL_R4),
        ("performedPeriod", _period, _UNTIL_R4),
    ),
}


def refuse_other_versions(export: Export) -> None:
    """Sees to it that an export is not plainly of another version of FHIR than R4 or R4B.

    Plainly means that something in its first resources can be of that version only, and nothing speaks against it: one
    odd resource among sound ones is a fault of that resource.

    Raises:
        ExportError: It is; names the version and the elements that give it away.
    """
    signs: Counter[tuple[str, frozenset[str]]] = Counter()
    for resource in _first(export):
        signs.update(_signs(resource))
    for version in ("R5", "STU3"):
        plain = {sign: number for (sign, versions), number in signs.items() if versions == {version}}
        if plain and all(version in versions for _, versions in signs):
            shown = ", ".join(sorted(plain, key=plain.__getitem__, reverse=True)[:4])
            raise ExportError(
                f"{export.path} looks like FHIR {version}: so say, in the first resources of its files, {shown}",
                expected="FHIR R4 (4.0) or R4B (4.3)",
                fix="have the source export R4 (many servers offer several versions: ask for "
                "`application/fhir+json; fhirVersion=4.0`), or convert the export to R4 before",
            )


def _first(export: Export) -> Iterator[dict[str, Any]]:
    for file in _files(export.files):
        for read in islice(export.read_file(file), _RESOURCES):
            if read.resource is not None:
                yield read.resource


def _files(files: tuple[ExportFile, ...]) -> Iterator[ExportFile]:
    kinds: Counter[str | None] = Counter()
    documents = 0
    for file in files:
        kinds[file.type] += 1
        if kinds[file.type] > (1 if file.type else _UNNAMED):
            continue
        if ".ndjson" not in file.name.lower():
            documents += file.size or 0
            if documents > _DOCUMENTS and documents > (file.size or 0):
                continue
        yield file


def _signs(resource: dict[str, Any]) -> Iterator[tuple[str, frozenset[str]]]:
    """What a resource says of its version: the element, and the versions that it leaves possible."""
    kind = resource["resourceType"]
    for name, fits, versions in _SHAPES.get(kind, ()):
        if name in resource and fits(resource[name]):
            yield f"{kind}.{name}", frozenset(versions)
    version = resource.get("fhirVersion")
    if kind == "CapabilityStatement" and version.__class__ is str and (release := _RELEASES.get(version[:3])):
        yield f"{kind}.fhirVersion", frozenset([release])
    meta = resource.get("meta")
    profiles = meta.get("profile") if meta.__class__ is dict else None
    for profile in profiles if profiles.__class__ is list else ():
        found = _CORE_PROFILE.fullmatch(profile) if profile.__class__ is str else None
        if found and (release := _RELEASES.get(found[1] or found[2] or "")):
            yield f"{kind}.meta.profile", frozenset([release])
