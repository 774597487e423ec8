"""A template compiled: from the columns of a table to objects, a batch of rows at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ehr_tl.errors import ExportError
from ehr_tl.tables.spec import Element, Source, places, steps
from ehr_tl.tables.values import moment, number, result, text

#: One value for each row.
Column = Sequence[Any]

#: Gives the object that a key means.
Find = Callable[[str], Mapping[str, Any] | None]

#: Reads the elements' values, row by row, from the columns of a batch.
_Values = Callable[[Sequence[Column]], Column]

#: Makes an object, or a list, of one row's values; None where all of them are absent.
_Make = Callable[[tuple], Any]


class Header:
    """The columns that a file has, found in any case.

    Args:
        names: Its header.
    """

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        known = [name.strip().casefold() for name in names]
        self._places = {name: place for place, name in enumerate(known)}
        self._twice = {name for name, count in Counter(known).items() if count > 1}

    def place(self, column: str) -> int | None:
        """Where a column is; None if it is absent."""
        return self._places.get(column.strip().casefold())

    def check(self, source: Source, name: str) -> None:
        """Sees to it that all columns that a table needs are there.

        Args:
            source: The table.
            name: What errors call it, such as `tables.labs`; its file may be named after a patient.

        Raises:
            ExportError: One is absent, or there twice. The header is shown only where it is none of a record's rows.
        """
        elements = [source.element(path) for path in source.elements]
        columns = [column for element in elements for column in element.columns]
        found = any(self.place(column) is not None for column in columns)
        absent = [column for element in elements for column in self._absent(element)]
        if absent or not found:
            there = f"; it has {', '.join(filter(None, self.names))}" if found else ""
            raise ExportError(
                f"A file of {name} has no column {' or '.join(dict.fromkeys(absent or columns))}{there}",
                expected=f"a first line with the names of columns, among them those that {name} of the adapter names",
                fix="name columns in the adapter as the file has them; `optional: true` is for one that may be absent",
            )
        if twice := [column for column in columns if column.strip().casefold() in self._twice]:
            raise ExportError(
                f"A file of {name} has several columns {twice[0]}",
                expected="names of columns that differ",
                fix="rename or remove all but one",
            )

    def _absent(self, element: Element) -> list[str]:
        """Columns that an element needs and the file does not have."""
        absent = [column for column in element.columns if self.place(column) is None]
        one_will_do = element.first_of and len(absent) < len(element.columns)
        return [] if element.optional or one_will_do else absent


class Template:
    """The elements of a table, compiled for its files.

    Args:
        source: The table.
        find: Look-up -> what gives the object that a key means.
        decimal: Decimal mark of its numbers.
        resource: Type that is written into the objects.
        only: The elements that are wanted; default: all.
    """

    def __init__(
        self,
        source: Source,
        find: Mapping[str, Find],
        decimal: str = ".",
        resource: str | None = None,
        only: Sequence[str] | None = None,
    ):
        self.source, self._find, self._decimal = source, find, decimal
        self.elements = {path: source.element(path) for path in source.elements if only is None or path in only}
        self._resource = {"resourceType": resource} if resource else {}

    @property
    def columns(self) -> list[str]:
        """The columns that it names, each once, as the manifest writes them."""
        return list(dict.fromkeys(name for element in self.elements.values() for name in element.columns))

    def bind(self, header: Header) -> tuple[list[int], Callable[[Sequence[Column]], Iterator[dict[str, Any]]]]:
        """Says which columns of a file it reads, and gives the function that makes objects of them."""
        used = sorted({place for name in self.columns if (place := header.place(name)) is not None})
        moved = {place: order for order, place in enumerate(used)}
        tree: dict[str | int, Any] = {}
        values: list[_Values] = []
        for path, element in self.elements.items():
            routes = places(path, element)
            if element.fixed is not None:
                _enter(tree, steps(path), _Fixed(element.fixed))
                continue
            read = self._reader(element, [moved.get(header.place(name), -1) for name in element.columns])
            for part, route in enumerate(routes):
                _enter(tree, steps(route), len(values) + part)
            values += [read] if len(routes) == 1 else _parts(read, len(routes))
        make, fixed = _object(tree)
        resource, blank = self._resource, fixed or {}

        def rows(columns: Sequence[Column]) -> Iterator[dict[str, Any]]:
            for row in zip(*(read(columns) for read in values)):
                yield resource | (make(row) or blank)

        return used, rows

    def _reader(self, element: Element, at: list[int]) -> _Values:
        """A function that gives an element's values; -1 stands for a column that is absent."""
        fields, change = self._fields(element, at), self._change(element)
        if change is None:
            return fields
        return lambda columns: [None if value is None else change(value) for value in fields(columns)]

    def _fields(self, element: Element, at: list[int]) -> _Values:
        """A function that gives what stands in the element's columns, and what that means in words."""
        clean = _cleaner(element, {*self.source.empty, *element.empty})
        if element.column is not None:
            read = _one(at[0], clean)
        else:
            read = (_first if element.first_of else _joined)([_one(place, clean) for place in at])
        words = {word.casefold(): meaning for word, meaning in element.words.items()}
        others, otherwise = words.pop("*", None), element.otherwise
        if not words and others is None and otherwise is None:
            return read

        def mean(value: Any) -> Any:
            found = words.get(str(value).casefold(), others)
            return value if found is None else found or None

        def meant(columns: Sequence[Column]) -> Column:
            found = [None if value is None else mean(value) for value in read(columns)]
            return found if otherwise is None else [otherwise if value is None else value for value in found]

        return meant

    def _change(self, element: Element) -> Callable[[Any], Any] | None:
        """What a value is made into."""
        if element.forms:
            return moment(element.forms, element.day_at_midnight)
        if element.number:
            return number(self._decimal)
        if element.result:
            return result(self._decimal)
        if element.pattern is not None:
            before, after = element.pattern.split("{}")
            return lambda value: f"{before}{value}{after}"
        if element.look_up is not None:
            find, take = self._find[element.look_up], element.take
            # Of a list the text is looked up, which is no row's key: it is told as a code that is not known.
            if take is None:
                return lambda key: find(str(key))
            return lambda key: (find(str(key)) or {}).get(take)
        return None


def _cleaner(element: Element, nothing: set[str]) -> Callable[[Any], Any]:
    """A function that gives what stands in a field: text, or for numbers what Parquet holds; None for nothing."""
    keep = _kept if element.number or element.result else text
    if not nothing and not element.replace:
        return keep

    def clean(value: Any) -> Any:
        value = keep(value)
        if value is None or value in nothing:
            return None
        for old, new in element.replace.items():
            value = value if new in value else value.replace(old, new, 1)
        return value

    return clean


def _kept(value: Any) -> Any:
    """A value of its own kind; text without blanks around it. What has parts is text."""
    return text(value) if isinstance(value, str | list | dict) else value


def _one(place: int, clean: Callable[[Any], Any]) -> _Values:
    """The values of a column; -1 stands for one that is absent. Of a list every item is one."""
    if place < 0:
        return lambda columns: [None] * len(columns[0])
    return lambda columns: [
        [clean(item) for item in value] or None if value.__class__ is list else clean(value) for value in columns[place]
    ]


def _first(reads: list[_Values]) -> _Values:
    return lambda columns: [
        next((value for value in row if value is not None), None) for row in zip(*(read(columns) for read in reads))
    ]


def _joined(reads: list[_Values]) -> _Values:
    def join(row: tuple) -> str | None:
        known = row[: row.index(None)] if None in row else row
        return " ".join(map(str, known)) or None

    return lambda columns: [join(row) for row in zip(*(read(columns) for read in reads))]


def _parts(read: _Values, number: int) -> list[_Values]:
    """The parts of an element's values, each as an element of its own; they are read once for each batch."""
    nothing = (None,) * number
    last: list[Any] = [None, ()]

    def part(place: int) -> _Values:
        def values(columns: Sequence[Column]) -> Column:
            if last[0] is not columns:
                last[:] = columns, [nothing if value is None else value for value in read(columns)]
            return [value[place] for value in last[1]]

        return values

    return [part(place) for place in range(number)]


class _Fixed:
    """A value that does not come from the row."""

    def __init__(self, value: Any):
        self.value = value


def _enter(tree: dict[str | int, Any], route: list[str | int], leaf: Any) -> None:
    *above, last = route
    for step in above:
        tree = tree.setdefault(step, {})
    tree[last] = leaf


def _object(tree: dict[str | int, Any]) -> tuple[_Make, Any]:
    """A function that makes the object that a tree describes, and the object without what comes from the row.

    Where a row has nothing for it there is none, whatever is fixed: a code system without a code says nothing.
    """
    fixed: dict[str | int, Any] = {}
    parts: list[tuple[str | int, _Make]] = []
    for key, leaf in tree.items():
        if isinstance(leaf, _Fixed):
            fixed[key] = leaf.value
        elif isinstance(leaf, dict):
            make, constant = _object(leaf)
            if _is_constant(leaf):
                fixed[key] = constant
            else:
                parts.append((key, make))
        else:
            parts.append((key, _at(leaf)))
    if all(isinstance(key, int) for key in tree):
        return _list(parts, fixed)

    def make(row: tuple) -> dict | None:
        found = {}
        for key, read in parts:
            value = read(row)
            if value is not None:
                found[key] = value
        return found | fixed if found else None

    return make, fixed


def _list(parts: list[tuple[int, _Make]], fixed: dict[int, Any]) -> tuple[_Make, Any]:
    def make(row: tuple) -> list | None:
        found = {place: value for place, read in parts if (value := read(row)) is not None}
        return [value for _, value in sorted((found | fixed).items(), key=lambda item: item[0])] if found else None

    return make, [fixed[place] for place in sorted(fixed)]


def _is_constant(tree: Any) -> bool:
    return all(map(_is_constant, tree.values())) if isinstance(tree, dict) else isinstance(tree, _Fixed)


def _at(place: int) -> _Make:
    return lambda row: row[place]
