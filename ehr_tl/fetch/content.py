"""What is in the files that came: whether they are whole, and what the server tells in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from ehr_tl.errors import FetchError
from ehr_tl.fetch.answers import Issue, issues, short, unsigned
from ehr_tl.fetch.manifest import Item
from ehr_tl.fhir.blocks import blocks, lines


class Broken(Exception):
    """A file came, but not all of it."""


def check(path: Path, item: Item) -> int:
    """Sees to it that a file is whole NDJSON of its type; returns how many resources it holds.

    Raises:
        Broken: Its last line is cut off, or lines are missing.
        FetchError: It holds something else.
    """
    count, first, last = 0, b"", b""
    with path.open("rb") as stream:
        for line in lines(blocks(stream.read, ".ndjson")):
            if line is None or line.strip():
                first = first or (line or b"")
                last, count = line or b"", count + 1
    if count and not isinstance(_decoded(last), dict):
        raise Broken("its last line is cut off")
    if item.count is not None and count < item.count:
        raise Broken(f"{count:,} of {item.count:,} resources")
    if count:
        _check_type(_decoded(first), item)
    return count


def _decoded(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except ValueError:
        return None


def _check_type(resource: Any, item: Item) -> None:
    kind = resource.get("resourceType") if isinstance(resource, dict) else None
    if kind == item.type:
        return
    said = short("; ".join(map(str, issues(resource)))) if kind == "OperationOutcome" else ""
    raise FetchError(
        f"{unsigned(item.url)} holds something else than {item.type}" + (f" and says: {said}" if said else ""),
        expected=f"NDJSON of {item.type}",
        fix="ask those who run the server",
    )


def problems(folder: Path, manifest: dict[str, Any]) -> Counter[Issue]:
    """What the server told of the export: the issues of its OperationOutcomes, each with how often it was told."""
    return Counter(issue for outcome in _listed(folder, manifest["error"]) for issue in issues(outcome))


def deletions(folder: Path, manifest: dict[str, Any]) -> int:
    """How many resources the server says are no more."""
    bundles = _listed(folder, manifest["deleted"])
    return sum(len(bundle["entry"]) for bundle in bundles if isinstance(bundle.get("entry"), list))


def _listed(folder: Path, entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The resources in files of a list."""
    for entry in entries:
        with (folder / entry["url"]).open("rb") as stream:
            for line in lines(blocks(stream.read, ".ndjson")):
                if isinstance(resource := _decoded(line or b""), dict):
                    yield resource
