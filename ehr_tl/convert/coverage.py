"""Counts that add up: what was read, what became of it, and why not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from ehr_tl.fhir.export import Read


class Coverage:
    """Counts resources as they are read; lines of what is set aside go to the quarantine file.

    For every type: read = used + all of unused + all of set_aside. `faults` counts what was left out of resources that
    were used for the rest.
    """

    def __init__(self, quarantine: Path):
        self._stream = quarantine.open("wb")
        self._types: dict[str, dict[str, Any]] = {}

    def _type(self, name: str) -> dict[str, Any]:
        if name not in self._types:
            self._types[name] = {
                "read": 0,
                "used": 0,
                "unused": Counter(),
                "set_aside": Counter(),
                "faults": Counter(),
            }
        return self._types[name]

    def used(self, kind: str) -> None:
        counts = self._type(kind)
        counts["read"] += 1
        counts["used"] += 1

    def unused(self, kind: str, reason: str) -> None:
        counts = self._type(kind)
        counts["read"] += 1
        counts["unused"][reason] += 1

    def set_aside(self, read: Read, reason: str, resource_id: str | None = None) -> None:
        counts = self._type(read.type)
        counts["read"] += 1
        counts["set_aside"][reason] += 1
        line = {"file": read.file, "line": read.line, "resource_id": resource_id, "reason": reason}
        self._stream.write(orjson.dumps(line) + b"\n")

    def fault(self, kind: str, reason: str) -> None:
        self._type(kind)["faults"][reason] += 1

    def reconsider(self, kind: str, reason: str, number: int) -> None:
        """Counts resources as used that were unused for this reason when they were read."""
        if number:
            counts = self._type(kind)
            counts["used"] += number
            counts["unused"][reason] -= number

    def close(self) -> None:
        self._stream.close()

    def to_json(self) -> dict[str, Any]:
        """`resources` of coverage.json."""
        resources = {}
        for name in sorted(self._types):
            counts = self._types[name]
            reasons = {
                key: dict(sorted((+counts[key]).items(), key=lambda item: -item[1]))
                for key in ("unused", "set_aside", "faults")
            }
            if not reasons["faults"]:
                del reasons["faults"]
            resources[name] = {"read": counts["read"], "used": counts["used"], **reasons}
        return resources


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
    return "\n".join(lines)
