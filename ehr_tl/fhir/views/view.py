"""ViewDefinitions compiled to functions that turn a resource into rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ehr_tl.errors import AdapterError
from ehr_tl.fhir.views.collections import Evaluate, RowError, boolean, items
from ehr_tl.fhir.views.parse import Expression, Literal, PathError, parse
from ehr_tl.fhir.views.paths import ROW_INDEX, compile_tree
from ehr_tl.fhir.views.types import DATA_TYPES, TEMPORAL, TEXTUAL

Row = tuple[Any, ...]
Rows = Callable[[Any, int], list[Row]]

_COMPOUND = {list, dict}
#: A resource in which lists stand side by side gives every item of one with every item of the others; no record needs
#: more rows than this, and no memory holds what a hostile one asks for.
_MOST_ROWS = 100_000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_ITERATIONS = ("forEach", "forEachOrNull", "repeat")
_SELECT_KEYS = {"column", "select", "unionAll", *_ITERATIONS, "id", "extension", "modifierExtension"}
#: What JSON must give for columns of a declared type. Numbers are left to those who read them.
_CLASSES = {**dict.fromkeys(TEXTUAL, str), "boolean": bool}
_CONSTANT_TYPES = {"value" + name[0].upper() + name[1:]: name for name in DATA_TYPES}


@dataclass(frozen=True)
class View:
    """A compiled ViewDefinition.

    Attributes:
        resource: The type of resource that it reads.
        columns: Names of the columns.
        rows: Gives the rows of one resource, values in the order of `columns`. A column without `collection` holds
            None or a primitive. Raises RowError when the resource does not fit.
        definition: The ViewDefinition.
    """

    resource: str
    columns: tuple[str, ...]
    rows: Callable[[dict[str, Any]], list[Row]]
    definition: dict[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        """A view that is sent to another process is compiled there."""
        return compile_view, (self.definition,)


def run_view(view: dict[str, Any], resources: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs a SQL-on-FHIR ViewDefinition over decoded resources; those of other types are passed over.

    Args:
        view: The ViewDefinition, as JSON gives it.
        resources: Decoded FHIR resources.

    Returns:
        One dict per row, keys in the order of the view's columns.

    Raises:
        AdapterError: The view is wrong or uses what its shareable profile does not have.
        RowError: A resource does not fit the view.

    Examples:
        >>> view = {"resource": "Patient", "select": [{"column": [{"name": "born", "path": "birthDate"}]}]}
        >>> run_view(view, [{"resourceType": "Patient", "birthDate": "1970"}, {"resourceType": "Group"}])
        [{'born': '1970'}]
    """
    compiled = compile_view(view)
    return [
        dict(zip(compiled.columns, row))
        for resource in resources
        if resource.get("resourceType") == compiled.resource
        for row in compiled.rows(resource)
    ]


def compile_view(view: dict[str, Any]) -> View:
    """Compiles a ViewDefinition.

    Raises:
        AdapterError: It is wrong or uses what the shareable profile does not have; names the element.
    """
    if not isinstance(view, dict):
        raise AdapterError("a ViewDefinition must be a JSON object")
    resource = view.get("resource")
    if not isinstance(resource, str) or not resource:
        raise _wrong("resource", "a view names the type of resource that it reads", 'such as "Observation"')
    if not view.get("select"):
        raise _wrong("select", "a view selects something", 'such as [{"column": [{"name": "id", "path": "id"}]}]')
    try:
        return _compile(resource, view)
    except RecursionError:
        raise AdapterError("The view is nested too deeply") from None


def _compile(resource: str, view: dict[str, Any]) -> View:
    compiler = _ViewCompiler(_constants(view.get("constant") or []))
    part = compiler.select({"select": view["select"]}, "")
    repeated = {name for name in part.columns if part.columns.count(name) > 1}
    if repeated:
        raise _wrong("select", f"two columns are named {', '.join(sorted(repeated))}", "names that differ")
    if not part.columns:
        raise _wrong("select", "the view has no column", 'such as {"column": [{"name": "id", "path": "id"}]}')
    tests = [
        compiler.path(where.get("path"), f"{at}.path") for at, where in _elements(view.get("where") or [], "where")
    ]
    return View(resource, part.columns, _guarded(part.rows, tests), view)


def _guarded(rows: Rows, tests: list[Evaluate]) -> Callable[[dict[str, Any]], list[Row]]:
    def read(resource: dict[str, Any]) -> list[Row]:
        try:
            for test in tests:
                if not boolean(test(resource, 0)):
                    return []
            return rows(resource, 0)
        except RowError as error:
            name = f"{resource.get('resourceType')}/{resource.get('id')}"
            raise RowError(f"{name} does not fit the view: {error.problem}", fix=error.fix) from None

    return read


def _wrong(element: str, problem: str, expected: str | None = None) -> AdapterError:
    return AdapterError(f"The view's {element}: {problem}", expected=expected)


def _elements(value: Any, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a list, each with its place in the view."""
    if not isinstance(value, list) or not all(isinstance(element, dict) for element in value):
        raise _wrong(at, "must be a list of JSON objects")
    for number, element in enumerate(value):
        yield f"{at}[{number}]", element


def _constants(declared: Any) -> dict[str, Literal]:
    constants = {}
    for at, constant in _elements(declared, "constant"):
        values = [key for key in constant if key in _CONSTANT_TYPES]
        name = constant.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name) or len(values) != 1:
            raise _wrong(at, "a constant has a name and one value", '{"name": "use", "valueString": "official"}')
        if name in constants:
            raise _wrong(at, f"a second constant is named {name}")
        value = constant[values[0]]
        if not isinstance(value, str | int | float):
            raise _wrong(f"{at}.{values[0]}", "must be a primitive")
        constants[name] = Literal(value, temporal=_CONSTANT_TYPES[values[0]] in TEMPORAL)
    return constants


@dataclass(frozen=True)
class _Part:
    """A compiled select: `blank` is the row that forEachOrNull gives where there is nothing to iterate over."""

    columns: tuple[str, ...]
    rows: Rows
    blank: Row


class _ViewCompiler:
    def __init__(self, constants: Mapping[str, Literal]):
        self.constants = constants

    def tree(self, text: Any, at: str) -> Expression:
        if not isinstance(text, str):
            raise _wrong(at, "must be a FHIRPath expression in text")
        try:
            return parse(text)
        except PathError as error:
            raise _wrong(at, str(error)) from error

    def path(self, text: Any, at: str) -> Evaluate:
        tree = self.tree(text, at)
        try:
            return compile_tree(tree, self.constants)
        except PathError as error:
            raise _wrong(at, str(error), "FHIRPath of the SQL-on-FHIR shareable profile") from error

    def select(self, select: dict[str, Any], at: str) -> _Part:
        """A select with all that is in it: columns, then nested selects, then unionAll."""
        inside = f"{at}." if at else ""
        if unknown := sorted(set(select) - _SELECT_KEYS):
            raise _wrong(f"{inside}{unknown[0]}", "is not a part of select", ", ".join(sorted(_SELECT_KEYS)))
        parts = []
        if select.get("column"):
            parts.append(self.columns(select["column"], f"{inside}column"))
        for place, nested in _elements(select.get("select") or [], f"{inside}select"):
            parts.append(self.select(nested, place))
        if select.get("unionAll"):
            parts.append(self.union(select["unionAll"], f"{inside}unionAll"))
        part = _product(parts)
        used = [key for key in _ITERATIONS if key in select]
        if len(used) > 1:
            raise _wrong(at, f"{' and '.join(used)} exclude one another")
        return self.iterate(part, used[0], select[used[0]], f"{inside}{used[0]}") if used else part

    def columns(self, columns: Any, at: str) -> _Part:
        names, reads, kinds, collections, blank = [], [], [], [], []
        for place, column in _elements(columns, at):
            name = column.get("name")
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise _wrong(f"{place}.name", "is no name for a column", "letters, digits and _, first a letter")
            names.append(name)
            reads.append(self.path(column.get("path"), f"{place}.path"))
            kinds.append(_CLASSES.get(column.get("type")))
            collections.append(column.get("collection") is True)
            blank.append(0 if self.tree(column["path"], place) == ROW_INDEX else None)
        return _Part(tuple(names), _row(names, reads, kinds, collections), tuple(blank))

    def union(self, branches: Any, at: str) -> _Part:
        parts = [self.select(branch, place) for place, branch in _elements(branches, at)]
        if len({part.columns for part in parts}) > 1:
            raise _wrong(at, "the branches differ in their columns", "the same names in the same order")
        branch_rows = [part.rows for part in parts]

        def rows(node: Any, index: int) -> list[Row]:
            return [row for branch in branch_rows for row in branch(node, index)]

        return _Part(parts[0].columns, rows, parts[0].blank)

    def iterate(self, part: _Part, kind: str, path: Any, at: str) -> _Part:
        inner, blank = part.rows, [part.blank] if kind == "forEachOrNull" else []
        if kind == "repeat":
            if not isinstance(path, list) or not path:
                raise _wrong(at, "must be a list of FHIRPath expressions")
            read = _descend([self.path(step, f"{at}[{number}]") for number, step in enumerate(path)])
        else:
            read = self.path(path, at)

        def rows(node: Any, index: int) -> list[Row]:
            nodes = items(read(node, index))
            if not nodes:
                return blank[:]
            return [row for number, item in enumerate(nodes) for row in inner(item, number)]

        return _Part(part.columns, rows, part.blank)


def _row(names: list[str], reads: list[Evaluate], kinds: list[type | None], collections: list[bool]) -> Rows:
    """The one row that a list of columns gives."""
    sound: set[tuple[type, ...]] = set()  # types of rows that are as they should be, seen before

    def rows(node: Any, index: int) -> list[Row]:
        row = [read(node, index) for read in reads]
        found = tuple(map(type, row))
        if found not in sound:
            row = [
                items(value) if collection else _primitive(value, name, kind)
                for value, kind, collection, name in zip(row, kinds, collections, names)
            ]
            if not any(collections) and _COMPOUND.isdisjoint(found):
                sound.add(found)
        return [tuple(row)]

    return rows


def _primitive(value: Any, column: str, kind: type | None) -> Any:
    """The one primitive of a collection."""
    found = items(value)
    if len(found) > 1:
        raise RowError(f"column {column} got {len(found)} values", fix="add first(), a where() or collection: true")
    if found and type(found[0]) in _COMPOUND:
        raise RowError(f"column {column} got an element with parts", fix="name the part that is wanted")
    if found and kind and found[0].__class__ is not kind:
        raise RowError(f"column {column} got a {found[0].__class__.__name__}, which is not of the column's type")
    return found[0] if found else None


def _product(parts: list[_Part]) -> _Part:
    """Every row of one part beside every row of the others."""
    if len(parts) == 1:
        return parts[0]
    columns = tuple(name for part in parts for name in part.columns)
    blank = tuple(value for part in parts for value in part.blank)
    first, *others = [part.rows for part in parts] or [lambda node, index: [()]]

    def rows(node: Any, index: int) -> list[Row]:
        found = first(node, index)
        for part in others:
            more = part(node, index)
            if not more:
                return []
            if len(found) * len(more) > _MOST_ROWS:
                raise RowError(f"lists side by side would give more than {_MOST_ROWS:,} rows")
            found = [row + added for row in found for added in more]
        return found

    return _Part(columns, rows, blank)


def _descend(steps: list[Evaluate]) -> Evaluate:
    """All that the steps reach, one after another and again from there, parents before their children."""

    def read(node: Any, index: int) -> list:
        found: list = []
        ahead = [node]
        while ahead:
            at = ahead.pop()
            if at is not node:
                found.append(at)
            if at.__class__ is dict:
                children = [child for step in steps for child in items(step(at, index)) if child is not at]
                ahead += reversed(children)
        return found

    return read
