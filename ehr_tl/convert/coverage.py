"""Counts that add up: what was read, what became of it, and why not."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from ehr_tl.fhir.pieces import Read
from ehr_tl.wording import counted

#: Type and id. What has spaces in it, or no end, is somebody's words and no id.
_ID = re.compile(r"[A-Za-z]+/[!-~]{1,200}")

#: What may become of resources, beside being used.
_REASONS = ("unused", "set_aside", "faults")


@dataclass
class Fates:
    """What became of the resources of a type: read = used + all of unused + all of set_aside.

    `faults` counts what was left out of resources that were used for the rest.
    """

    read: int = 0
    used: int = 0
    unused: Counter[str] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)


@dataclass
class Coverage:
    """Counts resources as they are read, and notes what is set aside; plain data, so that parts can be added up.

    Attributes:
        types: Type -> what became of its resources.
        quarantine: Lines of `quarantine.ndjson`, as they are written.
        keep: They hold what was set aside: the resource, or the text where it is none.
    """

    types: dict[str, Fates] = field(default_factory=dict)
    quarantine: list[bytes] = field(default_factory=list)
    keep: bool = False

    def used(self, kind: str) -> None:
        fates = self._of(kind)
        fates.read += 1
        fates.used += 1

    def unused(self, kind: str, reason: str) -> None:
        fates = self._of(kind)
        fates.read += 1
        fates.unused[reason] += 1

    def set_aside(self, read: Read, reason: str, resource_id: str | None = None) -> None:
        fates = self._of(read.type)
        fates.read += 1
        fates.set_aside[reason] += 1
        named = resource_id if resource_id and _ID.fullmatch(resource_id) else None
        line = {"file": read.file, "line": read.line, "resource_id": named, "reason": reason}
        self.quarantine.append(_kept(line, read) if self.keep else orjson.dumps(line))

    def fault(self, kind: str, reason: str) -> None:
        self._of(kind).faults[reason] += 1

    def reconsider(self, kind: str, reason: str, number: int) -> None:
        """Counts resources as used that were unused for this reason when they were read."""
        if number:
            fates = self._of(kind)
            fates.used += number
            fates.unused[reason] -= number

    def add(self, other: Coverage) -> None:
        """Adds the counts of another part of the export; not its quarantine."""
        for kind, theirs in other.types.items():
            ours = self._of(kind)
            ours.read += theirs.read
            ours.used += theirs.used
            for reasons in _REASONS:
                getattr(ours, reasons).update(getattr(theirs, reasons))

    def to_json(self) -> dict[str, Any]:
        """`resources` of coverage.json."""
        resources = {}
        for name, fates in sorted(self.types.items()):
            reasons = {
                key: dict(sorted((+getattr(fates, key)).items(), key=lambda item: (-item[1], item[0])))
                for key in _REASONS
            }
            if not reasons["faults"]:
                del reasons["faults"]
            resources[name] = {"read": fates.read, "used": fates.used, **reasons}
        return resources

    def _of(self, kind: str) -> Fates:
        if kind not in self.types:
            self.types[kind] = Fates()
        return self.types[kind]


def _kept(line: dict[str, Any], read: Read) -> bytes:
    if read.resource is not None:
        with suppress(TypeError, ValueError):  # nested more deeply than orjson writes, or passed over: as it was read
            whole = read.resource if isinstance(read.resource, dict) else orjson.loads(read.text)
            return orjson.dumps(line | {"resource": whole})
    return orjson.dumps(line | ({"text": read.text.decode(errors="replace")} if read.text else {}))


def coverage_text(coverage: dict[str, Any]) -> str:
    """coverage.json for people, one line per resource type."""
    resources = coverage["resources"]
    width = max(map(len, resources), default=0)
    lines = [f"{'':{width}}  {'read':>9}  {'used':>9}"]
    for name, counts in resources.items():
        reasons = [
            f"{number:,} {how} ({reason})"
            for how, key in (("unused", "unused"), ("set aside", "set_aside"), ("partly", "faults"))
            for reason, number in counts.get(key, {}).items()
        ]
        lines.append(f"{name:{width}}  {counts['read']:9,}  {counts['used']:9,}  {'; '.join(reasons)}".rstrip())
    if absent := coverage.get("absent_tables"):
        lines.append(f"Absent tables: {', '.join(absent)}")
    lines.append(f"Events: {coverage['events']:,}")
    if shared := coverage["patients_sharing_an_identifier"]:
        have = "has" if shared == 1 else "have"
        lines.append(f"{counted(shared, 'patient')} {have} an identifier that another has, too. They are kept apart.")
    return "\n".join(lines)
