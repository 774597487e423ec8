"""What a code is mapped to by FHIR R4 ConceptMaps (https://hl7.org/fhir/R4/conceptmap.html), through chains of them.

An event may take a target's code where what is true of the source is true of the target. `equivalence` says so:

============  =========================================================  ======================
value         the target                                                 the event
============  =========================================================  ======================
equal         is the same, in every word                                 takes it
equivalent    means the same                                             takes it
wider         means more: every source is one, among others              takes it, as a class
subsumes      is what every source is a kind of                          takes it, as a class
narrower      means less: not every source is one                        keeps its own code
specializes   is a kind of the source: not every source is one           keeps its own code
inexact       overlaps with the source: some are one, some are not       keeps its own code
relatedto     has to do with the source, nobody knows how                keeps its own code
unmatched     does not exist                                             keeps its own code
disjoint      is something else, said so that nobody takes it for it     keeps its own code
============  =========================================================  ======================

The relationships of R5 are read in the same sense. A target that holds only beside something else (`dependsOn`,
`product`) is not taken: alone it would say too little or too much.

Precedence: for one source code and one target system the first map that lists the code decides, also where it says
`unmatched`; so a map that is given goes before the adapter's own. Maps to different target systems add up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ehr_tl.convert.naming import Naming
from ehr_tl.errors import AdapterError

#: System (as `Naming.url` writes it) and code.
Key = tuple[str, str]

#: Equivalence -> whether the target is wider than the source; None: it is never taken.
_R4: dict[str, bool | None] = {
    **dict.fromkeys(("equal", "equivalent"), False),
    **dict.fromkeys(("wider", "subsumes"), True),
    **dict.fromkeys(("narrower", "specializes", "inexact", "relatedto", "unmatched", "disjoint")),
}

#: The same, and the relationships of R5.
_WIDER = {
    **_R4,
    "source-is-narrower-than-target": True,
    **dict.fromkeys(("source-is-broader-than-target", "related-to", "not-related-to")),
}

#: Stands for every code that no map lists, where a map hands on whatever it does not list.
_ANY = "(any code that is not listed)"


class Target(NamedTuple):
    """A code that a map leads to.

    Attributes:
        key: System and code.
        display: What the map calls it.
        wider: It means more than the code that the way began at.
        steps: Number of maps on the way.
    """

    key: Key
    display: str | None
    wider: bool
    steps: int = 1

    @property
    def distance(self) -> tuple[bool, int]:
        """Orders the targets of a code: those that mean the same first, of these the last of a chain."""
        return self.wider, -self.steps


class Found(NamedTuple):
    """What maps say of a code.

    Attributes:
        listed: A map has it.
        targets: Every code that it may be called instead, the nearest first.
    """

    listed: bool
    targets: tuple[Target, ...]


@dataclass
class _Table:
    """What one map says of the codes of one system, with targets in one other.

    Attributes:
        file: Where the map is from.
        listed: Code -> targets that may be taken; none where it is known to have none.
        provided: What is not listed has the same code in the other system.
    """

    file: str
    listed: dict[str, list[Target]] = field(default_factory=dict)
    provided: bool = False


class ConceptMaps:
    """ConceptMaps, checked and put together.

    Args:
        maps: ConceptMap resources and the files that they are from, in the order in which they count.
        naming: Tells which systems are the same, and how codes are written.

    Raises:
        AdapterError: A map is wrong, or maps lead in a circle; names file and element.
    """

    def __init__(self, maps: Sequence[tuple[Path, dict[str, Any]]], naming: Naming):
        self._naming = naming
        self._tables: dict[str, dict[str, list[_Table]]] = {}
        urls = {resource.get("url") for _, resource in maps}
        for path, resource in maps:
            for number, group in enumerate(_objects(resource, "group", str(path))):
                self._read(group, path, f"{path}: group[{number}]", urls)
        self._refuse_circles()

    def find(self, system: str | None, code: str, apart: Set[str] = frozenset()) -> Found | None:
        """What the maps say of a code; None where none is about its system.

        Args:
            system: URL of its system.
            code: The code, as a resource writes it.
            apart: Target systems, as `Naming.url` writes them, that do not count here.
        """
        start = self._naming.key(system, code)
        tables = {target: found for target, found in self._tables.get(start[0], {}).items() if target not in apart}
        if not tables:
            return None
        reached: dict[Key, Target] = {}
        ahead = [Target(start, None, False, 0)]
        for source in ahead:  # it grows
            for step, _ in self._steps(source.key, apart):
                target = Target(step.key, step.display, source.wider or step.wider, source.steps + 1)
                known = reached.get(step.key)
                if known is None or (known.wider and not target.wider):
                    reached[step.key] = target
                    ahead.append(target)
        listed = any(start[1] in table.listed for found in tables.values() for table in found)
        return Found(listed or bool(reached), tuple(reached.values()))

    def _steps(self, key: Key, apart: Set[str] = frozenset()) -> Iterator[tuple[Target, str]]:
        """Where a code leads at once, and by which file."""
        system, code = key
        for other, tables in self._tables.get(system, {}).items():
            if other in apart:
                continue
            for table in tables:
                if code in table.listed:
                    yield from ((target, table.file) for target in table.listed[code])
                    break
                if table.provided:
                    same = code if code == _ANY else self._naming.code(other, code)
                    yield Target((other, same), None, False), table.file
                    break

    def _read(self, group: dict[str, Any], path: Path, where: str, urls: Set[str | None]) -> None:
        system, other = (self._naming.url(_text(group, name, where)) for name in ("source", "target"))
        tables = self._tables.setdefault(system, {}).setdefault(other, [])
        if not tables or tables[-1].file != str(path):
            tables.append(_Table(str(path)))
        table = tables[-1]
        for number, element in enumerate(_objects(group, "element", where)):
            at = f"{where}.element[{number}]"
            code = _code(element, at)
            source = self._naming.code(system, code)
            targets = table.listed.setdefault(source, [])
            for place, target in enumerate(_objects(element, "target", at)):
                key = self._target(target, other, f"{at}.target[{place}]")
                if key is not None and key.key != (system, source):
                    targets.append(key)
        table.provided |= self._hands_on(group, where, urls) and other != system

    def _target(self, target: dict[str, Any], system: str, where: str) -> Target | None:
        """A target that may be taken."""
        meaning = target.get("equivalence") or target.get("relationship")
        if not isinstance(meaning, str) or meaning not in _WIDER:
            said = "is absent" if meaning is None else f"is {meaning!r}"
            raise AdapterError(f"{where}.equivalence {said}", expected=f"one of {', '.join(_R4)} (FHIR R4)")
        wider = _WIDER[meaning]
        if wider is None or target.get("dependsOn") or target.get("product"):
            return None
        if not system:
            raise AdapterError(f"{where} has a code, and its group no target", expected="the target's system as an URL")
        code = self._naming.code(system, _code(target, where))
        return Target((system, code), _text(target, "display", where), wider)

    def _hands_on(self, group: dict[str, Any], where: str, urls: Set[str | None]) -> bool:
        """Whether codes that a group does not list are taken for codes of the target system.

        Raises:
            AdapterError: It says of them what cannot be followed.
        """
        unmapped = group.get("unmapped")
        if unmapped is None:
            return False
        mode = unmapped.get("mode") if isinstance(unmapped, dict) else None
        if mode == "provided" and group.get("source") and group.get("target"):
            return True
        if mode == "other-map":  # maps that are there are asked in any case
            if unmapped.get("url") in urls:
                return False
            raise AdapterError(
                f"{where}.unmapped refers to the map {unmapped.get('url')!r}, which is not there",
                fix="give that map too (--concept-map, or in concept_maps/), or take `unmapped` out",
            )
        raise AdapterError(
            f"{where}.unmapped.mode is {mode!r}",
            expected="provided (between two named systems) or other-map; fixed would call unlike things by one code",
            fix="list the codes that are meant as elements, and take `unmapped` out: what is not listed keeps its code",
        )

    def _refuse_circles(self) -> None:
        """Walks every way through the maps to its end.

        Raises:
            AdapterError: One comes back to where it was.
        """
        done: set[Key] = set()
        for system, others in self._tables.items():
            tables = [table for tables in others.values() for table in tables]
            for code in dict.fromkeys([_ANY, *(code for table in tables for code in table.listed)]):
                self._walk((system, code), done)

    def _walk(self, start: Key, done: set[Key]) -> None:
        way: dict[Key, str] = {start: ""}  # code -> the file by which it was reached
        steps = [self._steps(start)]
        while steps:
            key, file = next(((target.key, file) for target, file in steps[-1]), (None, ""))
            if key is None:
                steps.pop()
                done.add(way.popitem()[0])
            elif key in way:
                raise self._circle(list(way.items()), key, file)
            elif key not in done:
                way[key] = file
                steps.append(self._steps(key))

    def _circle(self, way: list[tuple[Key, str]], key: Key, file: str) -> AdapterError:
        round = way[[each for each, _ in way].index(key) :]
        codes = [self._naming.name(*each) for each, _ in [*round, (key, "")]]
        files = dict.fromkeys([*(by for _, by in round[1:]), file])
        return AdapterError(
            f"ConceptMaps lead in a circle: {' -> '.join(codes)} ({', '.join(files)})",
            expected="maps that lead from a hospital's codes to standard ones, and not back",
            fix="take one of these elements out, or leave one of these files away",
        )


def _objects(value: dict[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    """The objects of a repeating element; none where it is absent."""
    found = value.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise AdapterError(f"{where}: {name} is no list of objects", expected="a FHIR R4 ConceptMap")
    return found


def _text(value: dict[str, Any], name: str, where: str) -> str | None:
    found = value.get(name)
    if found is not None and not isinstance(found, str):
        raise AdapterError(f"{where}.{name} is no text", expected="a FHIR R4 ConceptMap")
    return found


def _code(value: dict[str, Any], where: str) -> str:
    code = " ".join((_text(value, "code", where) or "").split())
    if not code:
        raise AdapterError(f"{where} has no code", expected="a FHIR R4 ConceptMap: a code in each element and target")
    return code
