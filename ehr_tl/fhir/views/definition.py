"""What a ViewDefinition says, checked and in a form that can be compiled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ehr_tl.errors import AdapterError
from ehr_tl.fhir.views.parse import Constant, Expression, Literal, PathError, parse
from ehr_tl.fhir.views.types import DATA_TYPES, TEMPORAL, TEXTUAL, typed

FOR_EACH, FOR_EACH_OR_NULL, REPEAT = "forEach", "forEachOrNull", "repeat"
ROW_INDEX = Constant("rowIndex")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_ITERATIONS = (FOR_EACH, FOR_EACH_OR_NULL, REPEAT)
_SELECT_KEYS = {"column", "select", "unionAll", *_ITERATIONS, "id", "extension", "modifierExtension"}
#: What JSON must give for columns of a declared type. Numbers are left to those who read them.
_CLASSES: dict[str, type] = {**dict.fromkeys(TEXTUAL, str), "boolean": bool}
_CONSTANT_TYPES = {typed("value", name): name for name in DATA_TYPES}


@dataclass(frozen=True)
class Path:
    """A FHIRPath expression, and where it stands in the view."""

    tree: Expression
    at: str


@dataclass(frozen=True)
class Column:
    """A column; `kind` is the class of its values where the type that it declares says so."""

    name: str
    path: Path
    kind: type | None
    collection: bool

    @property
    def blank(self) -> int | None:
        """Its value in the row that forEachOrNull gives where there is nothing to iterate over."""
        return 0 if self.path.tree == ROW_INDEX else None


@dataclass(frozen=True)
class Select:
    """A select: its columns beside all that is nested in it.

    Attributes:
        iteration: `forEach`, `forEachOrNull`, `repeat` or None.
        paths: Of the iteration; `repeat` may have several.
        columns: Its own columns.
        nested: Selects below `select`.
        branches: Selects below `unionAll`.
    """

    iteration: str | None
    paths: tuple[Path, ...]
    columns: tuple[Column, ...]
    nested: tuple[Select, ...]
    branches: tuple[Select, ...]

    @property
    def every_column(self) -> tuple[Column, ...]:
        """All columns, in their order; those of the first branch stand for those of the others."""
        below = [*self.nested, *self.branches[:1]]
        return (*self.columns, *(column for select in below for column in select.every_column))


@dataclass(frozen=True)
class Definition:
    """A ViewDefinition: the rows of `select` for resources of a type that pass all tests of `where`."""

    resource: str
    constants: Mapping[str, Literal]
    where: tuple[Path, ...]
    select: Select


def read_definition(view: Any) -> Definition:
    """Reads a ViewDefinition.

    Raises:
        AdapterError: It is none, or uses what the shareable profile does not have; names the element.
    """
    if not isinstance(view, dict):
        raise AdapterError("a ViewDefinition must be a JSON object")
    resource = view.get("resource")
    if not isinstance(resource, str) or not resource:
        raise wrong("resource", "a view names the type of resource that it reads", 'such as "Observation"')
    if not view.get("select"):
        raise wrong("select", "a view selects something", 'such as [{"column": [{"name": "id", "path": "id"}]}]')
    constants = _constants(view.get("constant") or [])
    select = _select({"select": view["select"]}, "")
    names = [column.name for column in select.every_column]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise wrong("select", f"two columns are named {', '.join(sorted(repeated))}", "names that differ")
    if not names:
        raise wrong("select", "the view has no column", 'such as {"column": [{"name": "id", "path": "id"}]}')
    where = [_path(test.get("path"), f"{at}.path") for at, test in _elements(view.get("where") or [], "where")]
    return Definition(resource, constants, tuple(where), select)


def wrong(element: str, problem: str, expected: str | None = None) -> AdapterError:
    """The error that names an element of a view."""
    return AdapterError(f"The view's {element}: {problem}", expected=expected)


def _elements(value: Any, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a list, each with its place in the view."""
    if not isinstance(value, list) or not all(isinstance(element, dict) for element in value):
        raise wrong(at, "must be a list of JSON objects")
    for number, element in enumerate(value):
        yield f"{at}[{number}]", element


def _constants(declared: Any) -> dict[str, Literal]:
    constants: dict[str, Literal] = {}
    for at, constant in _elements(declared, "constant"):
        values = [key for key in constant if key in _CONSTANT_TYPES]
        name = constant.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name) or len(values) != 1:
            raise wrong(at, "a constant has a name and one value", '{"name": "use", "valueString": "official"}')
        if name in constants:
            raise wrong(at, f"a second constant is named {name}")
        value = constant[values[0]]
        if not isinstance(value, str | int | float):
            raise wrong(f"{at}.{values[0]}", "must be a primitive")
        constants[name] = Literal(value, temporal=_CONSTANT_TYPES[values[0]] in TEMPORAL)
    return constants


def _path(text: Any, at: str) -> Path:
    if not isinstance(text, str):
        raise wrong(at, "must be a FHIRPath expression in text")
    try:
        return Path(parse(text), at)
    except PathError as error:
        raise wrong(at, str(error)) from error


def _select(select: dict[str, Any], at: str) -> Select:
    inside = f"{at}." if at else ""
    if unknown := sorted(set(select) - _SELECT_KEYS):
        raise wrong(f"{inside}{unknown[0]}", "is not a part of select", ", ".join(sorted(_SELECT_KEYS)))
    used = [key for key in _ITERATIONS if key in select]
    if len(used) > 1:
        raise wrong(at, f"{' and '.join(used)} exclude one another")
    iteration = used[0] if used else None
    return Select(
        iteration,
        _iterated(iteration, select[iteration], f"{inside}{iteration}") if iteration else (),
        tuple(_column(*each) for each in _elements(select.get("column") or [], f"{inside}column")),
        tuple(_select(nested, place) for place, nested in _elements(select.get("select") or [], f"{inside}select")),
        _union(select.get("unionAll") or [], f"{inside}unionAll"),
    )


def _iterated(iteration: str, path: Any, at: str) -> tuple[Path, ...]:
    if iteration != REPEAT:
        return (_path(path, at),)
    if not isinstance(path, list) or not path:
        raise wrong(at, "must be a list of FHIRPath expressions")
    return tuple(_path(step, f"{at}[{number}]") for number, step in enumerate(path))


def _column(at: str, column: dict[str, Any]) -> Column:
    name = column.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise wrong(f"{at}.name", "is no name for a column", "letters, digits and _, first a letter")
    kind = column.get("type")
    path = _path(column.get("path"), f"{at}.path")
    return Column(name, path, _CLASSES.get(kind) if isinstance(kind, str) else None, column.get("collection") is True)


def _union(branches: Any, at: str) -> tuple[Select, ...]:
    selects = tuple(_select(branch, place) for place, branch in _elements(branches, at))
    if len({tuple(column.name for column in select.every_column) for select in selects}) > 1:
        raise wrong(at, "the branches differ in their columns", "the same names in the same order")
    return selects
