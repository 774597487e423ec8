"""Whether an adapter does what its examples say, and what of an export it leaves out.

An example is a folder `examples/<case>` of an adapter: `in` is an export, `out` holds what it must become.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from ehr_tl import schema
from ehr_tl.convert.adapter import Adapter, load_adapter
from ehr_tl.convert.codes import Codes
from ehr_tl.convert.conversion import convert
from ehr_tl.errors import AdapterError
from ehr_tl.fhir.export import Export
from ehr_tl.fhir.views.parse import Binary, Call, Expression, Index, Literal, Member, Minus, This, parse
from ehr_tl.fhir.views.types import CHOICES, DATA_TYPES, SUFFIXES
from ehr_tl.files import whole
from ehr_tl.progress import track

#: Resources of each type that are looked into, in each file.
SAMPLE = 200

# --- examples ---------------------------------------------------------------------------------------------------------


def examples(folder: Path) -> list[Path]:
    """The cases of an adapter's folder."""
    return sorted(path.parent for path in folder.glob("examples/*/in"))


def run_example(case: Path) -> dict[str, str]:
    """Converts `in` with the adapter that the case belongs to.

    Returns:
        The files of `out`, by name: events with patient ids in place of numbers, codes, coverage and quarantine.

    Raises:
        AdapterError: The adapter is wrong.
        ExportError: `in` is no export.
    """
    with tempfile.TemporaryDirectory(prefix="ehr_tl_example_") as folder:
        events = convert(case / "in", case.parent.parent, Path(folder) / "events")
        rows = events.scan().collect().join(events.subjects, on="subject_id", how="left").drop("subject_id")
        first = ["patient_id", "time", "code", "resource_id"]
        rows = rows.with_columns(pl.col("other_codes").list.join(" "))
        rows = rows.select(*first, pl.all().exclude(first)).sort(first, nulls_last=False)
        codes = events.codes.select(schema.CODES.keys()).with_columns(pl.col("parent_codes").list.join(" "))
        return {
            "events.csv": rows.write_csv(),
            "codes.csv": codes.write_csv(),
            "coverage.json": json.dumps(events.coverage, indent=1) + "\n",
            "quarantine.ndjson": (events.folder / "quarantine.ndjson").read_text(encoding="utf-8"),
        }


def write_example(case: Path) -> None:
    """Makes `out` what the adapter gives now; an older one is replaced."""
    found = run_example(case)
    with whole(case / "out") as out:
        out.mkdir()
        for name, text in found.items():
            (out / name).write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Difference:
    """The first line of a file of `out` that is not what the adapter gives.

    Attributes:
        file: The file.
        line: Number of the line, from 1.
        expected: The line; None where the file ends before it, or is absent.
        found: What the adapter gives in its place; None for nothing.
    """

    file: Path
    line: int
    expected: str | None
    found: str | None


def check_example(case: Path) -> list[Difference]:
    """Runs a case and sets the result beside its `out`: one difference for each file that is not the same."""
    return [
        difference
        for name, text in run_example(case).items()
        if (difference := _compare(case / "out" / name, text)) is not None
    ]


def _compare(file: Path, text: str) -> Difference | None:
    expected = file.read_text(encoding="utf-8").split("\n") if file.is_file() else []
    lines = enumerate(zip_longest(expected, text.split("\n")), start=1)
    return next((Difference(file, number, *pair) for number, pair in lines if pair[0] != pair[1]), None)


def check_examples(folder: Path) -> int:
    """Runs all cases of an adapter's folder.

    Returns:
        How many there are.

    Raises:
        AdapterError: One does not give what its `out` says; shows the first line that differs.
    """
    cases = examples(folder)
    differences = [each for case in cases for each in check_example(case)]
    if differences:
        raise _differs(folder, differences)
    return len(cases)


def _differs(folder: Path, differences: list[Difference]) -> AdapterError:
    first, *others = differences
    also = f" Other files that differ: {', '.join(_within(each.file, folder) for each in others)}." if others else ""
    found = "nothing" if first.found is None else f"`{first.found}`"
    expected = "nothing" if first.expected is None else f"`{first.expected}`"
    absent = "" if first.file.is_file() else " (there is no such file)"
    return AdapterError(
        f"{folder}: {_within(first.file, folder)}, line {first.line}{absent} is not what the adapter gives, which is "
        f"{found}.{also}",
        expected=f"{expected}, as the file has it",
        fix="mend the adapter; or, where it is right as it is now, write `out` anew with --write and read what changed",
    )


def _within(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


# --- what is left out -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeftOut:
    """What of an export an adapter leaves out. All numbers are numbers of resources.

    Attributes:
        export: The export.
        resources: All that it holds.
        sampled: How many of them were looked into: those of types that are read, `SAMPLE` of each in each file.
        types: Type that no view reads -> how many the export holds.
        systems: Code system that the adapter neither names nor maps -> how many of those looked into have such a code.
        elements: Element that no view names, as `Type.name.name` -> how many of those looked into have it. Of what lies
            below it nothing is said.
        columns: Column of a table that no element is taken from, as `tables.labs: column` -> how many resources
            its files gave.
        absent: Tables that the adapter could have read.
    """

    export: Path
    resources: int
    sampled: int
    types: dict[str, int]
    systems: dict[str, int]
    elements: dict[str, int]
    columns: dict[str, int]
    absent: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it for a terminal; no value of a resource is shown."""
        parts = [
            f"{self.export} holds {self.resources:,} resources.\n{self.sampled:,} of them were looked into: at most "
            f"{SAMPLE} of each type in each file, of types that the adapter reads.",
            *_table("Resource types that no view reads", "resources", self.types),
            *_table("Code systems that the adapter neither names nor maps", "looked into", self.systems),
            *_table("Elements that no view names", "looked into", self.elements),
        ]
        if self.columns or self.absent:
            parts += _table("Columns that no element is taken from", "resources", self.columns)
            parts.append(f"Tables that are absent: {', '.join(self.absent) or 'none'}")
        return "\n\n".join(parts)


def _table(title: str, header: str, counts: dict[str, int]) -> Iterator[str]:
    if not counts:
        yield f"{title}: none"
        return
    width = max(len(title), *(len(name) + 2 for name in counts))
    lines = [f"{title:{width}}  {header:>11}", *(f"  {name:{width - 2}}  {n:11,}" for name, n in counts.items())]
    yield "\n".join(lines)


def left_out(export: str | Path | Export, adapter: str | Path | Adapter) -> LeftOut:
    """Looks through an export for what an adapter does not read.

    Raises:
        ExportError: The export cannot be read or is of another version of FHIR.
        AdapterError: The adapter is wrong.
    """
    adapter = load_adapter(adapter)
    export = adapter.opened(export)
    types, systems, elements, files = Counter(), Counter(), Counter(), Counter()
    looked = _Sample(adapter)
    sampled = 0
    for file in track(export.files, "What is left out"):
        within: Counter[str] = Counter()
        for read in export.read_file(file):
            types[read.type] += 1
            within[read.type] += 1
            if read.resource is not None and read.type in looked.named and within[read.type] <= SAMPLE:
                sampled += 1
                looked.look(read.resource)
                elements.update(looked.elements)
                systems.update(looked.systems)
        files[file.name] = max(files[file.name], within.total())
    resources = types.total() - types.pop("?", 0)
    unread = Counter({name: number for name, number in types.items() if name not in looked.named})
    columns: Counter[str] = Counter()
    for file, table, column in export.unused:
        columns[f"{table}: {column}"] += files[file]
    ordered = dict(sorted(elements.items(), key=lambda item: (item[0].partition(".")[0], -item[1], item[0])))
    return LeftOut(
        export.path,
        resources,
        sampled,
        types=dict(unread.most_common()),
        systems=dict(systems.most_common()),
        elements=ordered,
        columns=dict(columns),
        absent=export.absent,
    )


#: The elements that views name, below one another.
Named = dict[str, "Named"]

#: What the converter reads of every resource without being asked, or what is about the file rather than the patient.
_OURS = ("resourceType", "id", "meta", "identifier", "contained", "implicitRules", "language")

#: What stands in the place of a key or URL that is none: JSON may hold anything, also what tells of a patient.
_ODD = "?"
_KEY = re.compile(r"_?[a-z][A-Za-z0-9]{0,63}")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]{1,200}")


class _Sample:
    """Looks into resources, one at a time.

    Attributes:
        named: Type -> the elements that views of it name.
        elements, systems: What the last resource has and the adapter leaves out.
    """

    def __init__(self, adapter: Adapter):
        self.named: dict[str, Named] = {}
        for path in adapter.files:
            if path.parent.name == "views":
                view = orjson.loads(path.read_bytes())
                _select(view, [()], self.named.setdefault(view["resource"], {}))
        self.codes = Codes(adapter)
        manifest = adapter.manifest
        roles = [rule.bare for rule in manifest.events.values() if rule.bare]
        self.known = {*manifest.systems, *manifest.local_systems, *manifest.no_code, *roles}
        self.elements: set[str] = set()
        self.systems: set[str] = set()

    def look(self, resource: dict[str, Any]) -> None:
        self.elements, self.systems = set(), set()
        kind = resource["resourceType"]
        self._object({key: value for key, value in resource.items() if key not in _OURS}, self.named[kind], kind)

    def _object(self, value: dict[str, Any], named: Named, at: str) -> None:
        if "system" in named.get("coding", ()):
            self._concept(value.get("coding"))
        elif "system" in named and "code" in named and not at.endswith(".coding"):
            self._concept([value])  # a Coding that stands alone, such as the class of a visit
        for key, inner in value.items():
            if key == "extension":
                for one in _objects(inner):  # told apart by their URLs
                    rest = {name: part for name, part in one.items() if name != "url"}
                    self._element(rest, named, _extension(one.get("url")), at)
            else:
                self._element(inner, named, key if _KEY.fullmatch(key) else _ODD, at)

    def _element(self, value: Any, named: Named, key: str, at: str) -> None:
        below = _find(named, key)
        if below is None:
            self.elements.add(f"{at}.{key}")
        elif below:  # else all of it is read
            for item in _objects(value):
                self._object(item, below, f"{at}.{key}")

    def _concept(self, codings: Any) -> None:
        """Notes the systems of a concept, if none of its codings is of a system that is named, or mapped."""
        found = tuple((item.get("system"), item.get("code"), None) for item in _objects(codings))
        found = tuple(one for one in found if all(part is None or part.__class__ is str for part in one) and one[1])
        if any(system in self.known for system, *_ in found):
            return
        concept = self.codes.concept(found, None)
        if concept and all(how == "unmapped" for _, how in concept.counts):
            for system, *_ in found:
                shown = system if _URI.fullmatch(system or "") else "(not a URI)" if system else "(no system)"
                self.systems.add(shown)


def _objects(value: Any) -> Iterable[dict[str, Any]]:
    return [item for item in (value if value.__class__ is list else (value,)) if item.__class__ is dict]


def _extension(url: Any) -> str:
    return f"extension('{url if url.__class__ is str and _URI.fullmatch(url) else _ODD}')"


def _find(named: Named, key: str) -> Named | None:
    """What is named below an element, as `value` below `valueQuantity`; None if it is not named itself.

    Examples:
        >>> _find({"value": {}, "code": {"text": {}}}, "valueQuantity"), _find({"value": {}}, "values")
        ({}, None)
        >>> _find({"value": {}, "valueQuantity": {"code": {}}}, "valueRange") is None  # asked for, not read
        True
    """
    if key in named:
        return named[key]
    for name in named:
        if name in CHOICES and key.startswith(name) and key[len(name) :] in SUFFIXES:
            others = any(other != name and other.startswith(name) and other[len(name) :] in SUFFIXES for other in named)
            return None if others and not named[name] else named[name]
    return None


# --- the elements that a view names -----------------------------------------------------------------------------------

#: Names of elements, one below another.
Names = tuple[str, ...]

#: How often what `repeat` leads to is followed.
_DEPTH = 4


def _select(select: dict[str, Any], at: list[Names], named: Named) -> None:
    """Enters all that a view, or a select of it, names below the elements `at`."""
    for where in select.get("where") or []:
        _expression(where["path"], at, named)
    for key in ("forEach", "forEachOrNull"):
        if key in select:
            at = _expression(select[key], at, named)
    if steps := select.get("repeat"):
        reached, at = at, []
        for _ in range(_DEPTH):
            reached = [path for step in steps for path in _expression(step, reached, named)]
            at += reached
        for step in steps:  # what lies deeper counts as read
            _expression(step, reached, named)
    for column in select.get("column") or []:
        _expression(column["path"], at, named)
    for inner in [*(select.get("select") or []), *(select.get("unionAll") or [])]:
        _select(inner, at, named)


def _expression(text: str, at: list[Names], named: Named) -> list[Names]:
    """The elements that an expression leads to from each of `at`; all that it names is entered."""
    tree = parse(text)
    return [_walk(tree, path, named) for path in at]


def _walk(tree: Expression, at: Names, named: Named) -> Names:
    match tree:
        case Member(This(), name) if name[0].isupper():  # the type of the resource
            return at
        case Member(base, name):
            return _enter((*_walk(base, at, named), name), named)
        case Call(Member(base, name), "ofType", (Member(This(), kind),)) if kind in DATA_TYPES:
            return _enter((*_walk(base, at, named), name + kind[0].upper() + kind[1:]), named)
        case Call(base, "ofType", _):
            return _walk(base, at, named)
        case Call(base, "extension", (Literal(url),)):
            return _enter((*_walk(base, at, named), f"extension('{url}')"), named)
        case Call(base, "getReferenceKey", _):
            return _enter((*_walk(base, at, named), "reference"), named)
        case Call(base, _, arguments):
            path = _walk(base, at, named)
            for argument in arguments:
                _walk(argument, path, named)
            return path
        case Index(base, _):
            return _walk(base, at, named)
        case Binary(_, left, right):
            _walk(left, at, named)
            _walk(right, at, named)
        case Minus(operand):
            _walk(operand, at, named)
    return at


def _enter(path: Names, named: Named) -> Names:
    for name in path:
        named = named.setdefault(name, {})
    return path
