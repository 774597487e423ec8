"""Selects compiled to a Python function that turns a resource into rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ehr_tl.errors import AdapterError
from ehr_tl.fhir.views import values
from ehr_tl.fhir.views.definition import (
    FOR_EACH_OR_NULL,
    REPEAT,
    ROW_INDEX,
    Column,
    Definition,
    Path,
    Select,
    wrong,
)
from ehr_tl.fhir.views.moments import boundary
from ehr_tl.fhir.views.parse import Binary, Call, Expression, Index, Member, Minus, PathError
from ehr_tl.fhir.views.paths import Here, Paths, Value
from ehr_tl.fhir.views.shapes import BOOLEAN, PRIMITIVE, TEXT, Shape, Unfit
from ehr_tl.fhir.views.source import Source

Row = tuple[Any, ...]
Rows = Callable[[Any], list[Row]]

_HELPERS = [
    values.at,
    values.boolean,
    values.choice,
    values.column,
    values.compared,
    values.computed,
    values.descend,
    values.equal,
    values.first,
    values.is_empty,
    values.items,
    values.joined,
    values.of_resource,
    values.one,
    values.opposite,
    values.referred,
    values.step,
    values.together,
    values.too_many,
    boundary,
]
#: A resource in which lists stand side by side gives every item of one with every item of the others; no record needs
#: more rows than this, and no memory holds what a hostile one asks for.
_MOST_ROWS = 100_000
#: Stands for what forEachOrNull iterates over where there is nothing.
_BLANK = object()
#: All that compiled views can reach.
_NAMES = {
    **{helper.__name__: helper for helper in _HELPERS},
    **{kind.__name__: kind for kind in (bool, dict, list, str, len)},
    "BLANK": _BLANK,
    "BLANKS": (_BLANK,),
    "__builtins__": {},
}
_TAKEN_FOR: dict[type | None, str] = {str: TEXT, bool: BOOLEAN, None: PRIMITIVE}

#: Column -> the variable that holds its value.
Bound = dict[str, str]
#: Writes what is to be done with a row.
Then = Callable[[Bound], None]


def compile_rows(definition: Definition, structs: bool) -> tuple[Rows, Shape]:
    """Compiles a view.

    Args:
        structs: The function takes structs of the shape that is returned, or of a larger one; else it takes dicts.

    Raises:
        AdapterError: The view is wrong or uses what is not supported; names the element.
        Unfit: Structs do not give what the view reads.
    """
    source, shape = Source(), Shape()
    writer = _Writer(source, Paths(source, definition.constants, structs))
    resource = Value("v0", (shape,) if structs else (), node=True, single=True, name=definition.resource)
    here = Here(resource, "0")
    names = [column.name for column in definition.select.every_column]
    with source.block("def rows(v0):"):
        source.line("found = []")
        for test in definition.where:
            source.line(f"if not {writer.test(test, here)}: return found")
        writer.select(definition.select, here, {}, writer.append("found", names))
        source.line("return found")
    namespace = dict(_NAMES)
    try:
        exec(compile(str(source), "<view>", "exec"), namespace)
    except (SyntaxError, MemoryError):
        raise RecursionError from None
    return namespace["rows"], shape


class _Writer:
    def __init__(self, source: Source, paths: Paths):
        self.source, self.paths = source, paths

    def value(self, path: Path, here: Here) -> Value:
        try:
            return self.paths.value(path.tree, here)
        except PathError as error:
            raise _refused(path, error) from error

    def test(self, path: Path, here: Here) -> str:
        try:
            return self.paths.test(path.tree, here)
        except PathError as error:
            raise _refused(path, error) from error

    def append(self, rows: str, names: list[str]) -> Then:
        def write(bound: Bound) -> None:
            self.source.line(f"if len({rows}) == {_MOST_ROWS}: too_many()")
            self.source.line(f"{rows}.append(({''.join(bound[name] + ', ' for name in names)}))")

        return write

    def column(self, column: Column, here: Here) -> str:
        """The variable that holds a column's value."""
        source, value = self.source, self.value(column.path, here)
        code = self.paths.whole(value, _TAKEN_FOR[column.kind], certain=not column.collection)
        if column.collection:
            return source.let(f"items({code})")
        if value.field or (value.known and column.kind in (value.known, None)):
            return source.let(code)
        name, kind = source.name(), column.kind.__name__ if column.kind else None
        source.line(f"{name} = {code}")
        unsound = f"{name}.__class__ is list or {name}.__class__ is dict"
        if kind:
            unsound = f"{name}.__class__ is not {kind} and {name} is not None"
        source.line(f"if {unsound}: {name} = column({name}, {column.name!r}, {kind})")
        return name

    def select(self, select: Select, here: Here, bound: Bound, then: Then) -> None:
        """The rows of a select for one element: its columns beside every combination of rows of its parts."""
        columns, parts = _spread(select)
        bound = bound | {column.name: self.column(column, here) for column in columns}
        loops = [self.part(part, here, alone=len(parts) == 1) for part in parts]

        def write(number: int, bound: Bound) -> None:
            if number == len(loops):
                then(bound)
            else:
                loops[number](bound, lambda bound: write(number + 1, bound))

        write(0, bound)

    def part(self, part: Select, here: Here, alone: bool) -> Callable[[Bound, Then], None]:
        """Writes what a part needs before any loop, and gives what writes its loop.

        The rows of a part that has parts itself are collected first, unless it stands alone. So what follows is not
        written again for each of its branches, nor are they run again for each row of its neighbours.
        """
        simple = part.iteration is not None and not _spread(part)[1]
        if not simple and not alone:
            return self.collected(part, here)
        if part.iteration is None:
            return lambda bound, then: self.branches(part, here, bound, then)
        nodes = self.nodes(part, here)
        nodes = replace(nodes, code=self.source.let(nodes.code))
        return lambda bound, then: self.loop(part, nodes, here, bound, then)

    def collected(self, part: Select, here: Here) -> Callable[[Bound, Then], None]:
        rows, names = self.source.name(), [column.name for column in part.every_column]
        self.source.line(f"{rows} = []")
        self.part(part, here, alone=True)({}, self.append(rows, names))

        def write(bound: Bound, then: Then) -> None:
            held = {name: self.source.name() for name in names}
            with self.source.block(f"for {''.join(name + ', ' for name in held.values())} in {rows}:"):
                then(bound | held)

        return write

    def branches(self, part: Select, here: Here, bound: Bound, then: Then) -> None:
        for branch in part.branches:
            if branch.iteration is None:
                self.select(branch, here, bound, then)
            else:
                self.part(branch, here, alone=True)(bound, then)

    def nodes(self, part: Select, here: Here) -> Value:
        """What a part iterates over."""
        if part.iteration != REPEAT:
            return self.value(part.paths[0], here)
        if here.this.shapes:
            raise Unfit("a struct is of limited depth")
        below, item = self.source.name(), self.source.name()
        with self.source.block(f"def {below}({item}):"):
            steps = [self.value(path, Here(Value(item), here.index)).code for path in part.paths]
            self.source.line(f"return [{', '.join(steps)}]")
        return Value(f"descend({here.this.code}, {below})")

    def loop(self, part: Select, nodes: Value, here: Here, bound: Bound, then: Then) -> None:
        """The rows of a part: those of each of its items, or the blank one."""
        source, item = self.source, self.source.name()
        or_null = part.iteration == FOR_EACH_OR_NULL
        index = source.name() if _uses_row_index(part) and not nodes.single else "0"
        if index != "0":
            source.line(f"{index} = -1")
        if nodes.single and not or_null:
            item, head = nodes.code, f"if {nodes.code} is not None:"
        else:
            head = f"for {item} in {_each(nodes, 'BLANKS' if or_null else '()')}:"
        with source.block(head):
            if not nodes.single and not (nodes.field and nodes.listed):
                source.line(f"if {item} is None: continue")
            if index != "0":
                source.line(f"{index} += 1")
            certain = self.paths.structs or nodes.single
            inner = Here(replace(nodes, code=item, node=certain, single=certain, field=False), index)
            if or_null:
                self.or_blank(part, inner, bound, then)
            else:
                self.select(part, inner, bound, then)

    def or_blank(self, part: Select, here: Here, bound: Bound, then: Then) -> None:
        """The rows of one item, or the blank one. What follows is written once, unless it is the end of a row."""
        source, columns, item = self.source, part.every_column, here.this.code
        blank = {column.name: str(column.blank) for column in columns}
        if _spread(part)[1]:
            with source.block(f"if {item} is BLANK:"):
                then(bound | blank)
            with source.block("else:"):
                self.select(part, here, bound, then)
            return
        held = {column.name: source.name() for column in columns}

        def hold(bound: Bound) -> None:
            for name, variable in held.items():
                source.line(f"{variable} = {bound[name]}")

        with source.block(f"if {item} is BLANK:"):
            hold(blank)
        with source.block("else:"):
            self.select(part, here, {}, hold)
        then(bound | held)


def _refused(path: Path, error: PathError) -> AdapterError:
    return wrong(path.at, str(error), "FHIRPath of the SQL-on-FHIR shareable profile")


def _spread(select: Select) -> tuple[list[Column], list[Select]]:
    """All columns of one element of a select, and its parts: what iterates, and unions."""
    columns, parts = list(select.columns), []
    for nested in select.nested:
        if nested.iteration is None:
            inner_columns, inner_parts = _spread(nested)
            columns += inner_columns
            parts += inner_parts
        else:
            parts.append(nested)
    if select.branches:
        parts.append(Select(None, (), (), (), select.branches))
    return columns, parts


def _each(nodes: Value, otherwise: str) -> str:
    """Source of what a loop runs over; nulls are in it only behind an item that is none."""
    code = nodes.code
    if nodes.single:
        return f"({code},) if {code} is not None else {otherwise}"
    if nodes.field and nodes.listed:
        return f"{code} or {otherwise}"
    listed = f"{code} if {code} and {code}[0] is not None else items({code}) or {otherwise}"
    return f"{otherwise} if {code} is None else ({code},) if {code}.__class__ is not list else {listed}"


def _uses_row_index(select: Select) -> bool:
    paths = [*select.paths, *(column.path for column in select.columns)]
    below = any(map(_uses_row_index, (*select.nested, *select.branches)))
    return below or any(_has_row_index(path.tree) for path in paths)


def _has_row_index(tree: Expression) -> bool:
    match tree:
        case Member(base, _):
            return _has_row_index(base)
        case Index(base, position):
            return _has_row_index(base) or _has_row_index(position)
        case Call(base, _, arguments):
            return any(map(_has_row_index, (base, *arguments)))
        case Binary(_, left, right):
            return _has_row_index(left) or _has_row_index(right)
        case Minus(operand):
            return _has_row_index(operand)
    return tree == ROW_INDEX
