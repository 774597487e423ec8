"""What lies above codes, and what they mean, as a hospital's own CodeSystem and ValueSet resources say.

They are FHIR R4 (https://hl7.org/fhir/R4/codesystem.html, valueset.html). They give codes parents and descriptions, and
never an event its code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ehr_tl.convert.naming import Naming

#: System of the groups that ValueSets make.
VALUE_SET = "VALUESET"

#: Types of resources that are read here.
TERMINOLOGIES = ("CodeSystem", "ValueSet")

#: Properties of a CodeSystem's concepts that name what lies above or below; others may be declared with these URIs.
_ABOVE, _BELOW = {"parent", "subsumedBy"}, {"child"}
_PROPERTIES = "http://hl7.org/fhir/concept-properties#"

#: Where concepts below one another are parts of one another, what is true of a part is not true of the whole.
_PART_OF = "part-of"


class TerminologyFault(Exception):
    """What of a resource cannot be read: the element, and why."""


@dataclass
class Terminology:
    """Parents and descriptions of codes, as events write these.

    Attributes:
        parents: Code -> the codes above it, in a fixed order.
        descriptions: Code -> what it means; what is said first counts.
    """

    parents: dict[str, dict[str, None]] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)

    def read(self, resource: dict[str, Any], naming: Naming) -> None:
        """Enters what a CodeSystem or ValueSet says; all of it or nothing.

        Raises:
            TerminologyFault: An element is not what FHIR R4 says.
        """
        found = Terminology()
        if resource["resourceType"] == "CodeSystem":
            found._read_system(resource, naming)
        else:
            found._read_set(resource, naming)
        self.add(found)

    def add(self, other: Terminology) -> None:
        """Enters all of another; parents add up."""
        for code, parents in other.parents.items():
            self.parents.setdefault(code, {}).update(parents)
        for code, description in other.descriptions.items():
            self.descriptions.setdefault(code, description)

    def _enter(self, code: str, parent: str | None, description: str | None) -> None:
        if parent and parent != code:
            self.parents.setdefault(code, {})[parent] = None
        if description:
            self.descriptions.setdefault(code, description)

    def _read_system(self, resource: dict[str, Any], naming: Naming) -> None:
        url = naming.url(_text(resource, "supplements", "") or _text(resource, "url", "") or None)
        if not url:
            raise TerminologyFault("url is absent: whose codes are these?")
        above, below = set(_ABOVE), set(_BELOW)
        for place, declared in enumerate(_objects(resource, "property", "")):
            at = f"property[{place}]."
            code, uri = _text(declared, "code", at), _text(declared, "uri", at)
            if code and uri == f"{_PROPERTIES}parent":
                above.add(code)
            elif code and uri == f"{_PROPERTIES}child":
                below.add(code)
        nested = resource.get("hierarchyMeaning") != _PART_OF
        for concept, parent, at in _nested(resource, "concept"):
            code = naming.name(url, _code(concept, at))
            over = naming.name(url, _code(parent, at)) if parent and nested else None
            self._enter(code, over, _text(concept, "display", at))
            for place, stated in enumerate(_objects(concept, "property", at)):
                place_at = f"{at}property[{place}]."
                kind = _text(stated, "code", place_at)
                if kind not in above and kind not in below:
                    continue
                other = _text(stated, "valueCode", place_at)
                if other is None and isinstance(stated.get("valueCoding"), dict):
                    other = _text(stated["valueCoding"], "code", f"{place_at}valueCoding.")
                if not other:
                    raise TerminologyFault(f"{place_at}valueCode is absent")
                named = naming.name(url, other)
                self._enter(*((code, named) if kind in above else (named, code)), None)

    def _read_set(self, resource: dict[str, Any], naming: Naming) -> None:
        """Groups the codes that a ValueSet lists; those that it describes by a rule are not known."""
        name = _text(resource, "name", "") or (_text(resource, "url", "") or "").rstrip("/").rpartition("/")[2]
        name = " ".join((name or _text(resource, "id", "") or "").split())
        if not name:
            raise TerminologyFault("name, url and id are absent: what is the group called?")
        group = f"{VALUE_SET}//{name}"
        members = list(_expanded(resource)) or list(_composed(resource))
        for system, concept, at in members:
            self._enter(naming.name(system, _code(concept, at)), group, _text(concept, "display", at))
        if members:
            self._enter(group, None, _text(resource, "title", "") or name)


def _composed(resource: dict[str, Any]) -> Iterator[tuple[str | None, dict[str, Any], str]]:
    """The codes that `compose` lists: system, concept, element. What other ValueSets narrow down is left out."""
    compose = _object(resource, "compose", "")
    out = set()
    for place, part in enumerate(_objects(compose, "exclude", "compose.")):
        at = f"compose.exclude[{place}]."
        listed = _objects(part, "concept", at)
        if not listed:
            return  # excluded by a rule: of no code is it known that it belongs
        out.update((_text(part, "system", at), _code(each, f"{at}concept[{n}].")) for n, each in enumerate(listed))
    for place, part in enumerate(_objects(compose, "include", "compose.")):
        at = f"compose.include[{place}]."
        system = _text(part, "system", at)
        for number, each in enumerate([] if part.get("valueSet") else _objects(part, "concept", at)):
            if (system, _code(each, f"{at}concept[{number}].")) not in out:
                yield system, each, f"{at}concept[{number}]."


def _expanded(resource: dict[str, Any]) -> Iterator[tuple[str | None, dict[str, Any], str]]:
    """The codes that an expansion holds, at any depth; headings have none."""
    for item, _, at in _nested(_object(resource, "expansion", ""), "contains", "expansion."):
        if item.get("code") is not None and item.get("abstract") is not True:
            yield _text(item, "system", at), item, at


def _nested(
    resource: dict[str, Any], name: str, where: str = ""
) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None, str]]:
    """The objects of an element that may hold itself: object, the one that holds it, element; each before its own."""
    ahead = [(each, None, f"{where}{name}[{n}].") for n, each in enumerate(_objects(resource, name, where))]
    ahead.reverse()
    while ahead:
        each, parent, at = ahead.pop()
        yield each, parent, at
        inner = enumerate(_objects(each, name, at))
        ahead += reversed([(one, each, f"{at}{name}[{n}].") for n, one in inner])


def _object(value: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    found = value.get(name)
    if found is not None and not isinstance(found, dict):
        raise TerminologyFault(f"{where}{name} is no object")
    return found or {}


def _objects(value: dict[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    found = value.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise TerminologyFault(f"{where}{name} is no list of objects")
    return found


def _text(value: dict[str, Any], name: str, where: str) -> str | None:
    found = value.get(name)
    if found is not None and not isinstance(found, str):
        raise TerminologyFault(f"{where}{name} is no text")
    return found


def _code(value: dict[str, Any], where: str) -> str:
    code = " ".join((_text(value, "code", where) or "").split())
    if not code:
        raise TerminologyFault(f"{where}code is absent")
    return code
