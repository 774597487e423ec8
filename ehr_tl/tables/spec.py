"""What an adapter's manifest says of tables: which file it is, which resource a row becomes, which column goes where.

::

    tables:
      labs:                                        # the file labs.csv, labs.parquet, ..., or a folder of that name
        resource: Observation
        elements:
          id: LAB_NO                               # a column
          subject.reference: {column: MRN, pattern: "Patient/{}"}
          effectiveDateTime: {column: COLLECTED, date: "%m/%d/%Y %H:%M"}
          code.coding[0].system: {fixed: "https://hospital.example/labs"}
          code.coding[0].code: TEST
          value: {column: RESULT, result: true}
          valueQuantity.unit: {column: UNIT, optional: true}
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations

from ehr_tl.errors import AdapterError

#: The forms of dates and times that are known without being told, beside ISO 8601: with points the day comes first.
USUAL = ("%d.%m.%Y %H:%M", "%d.%m.%Y", "%d.%m.%Y %H:%M:%S")

_STEP = re.compile(r"([A-Za-z][A-Za-z0-9]*)(?:\[(\d{1,2})\])?")
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_SOURCES = ("column", "first_of", "joined", "fixed")
_KINDS = ("date", "number", "result", "pattern", "look_up")


@dataclass(frozen=True)
class Element:
    """What one element of a resource is taken from. A text in its place is the name of a column.

    Columns are found in any case. Blanks around a value count for nothing; an element without a value is left out. Of
    `column`, `first_of`, `joined` and `fixed` there is one; of `date`, `number`, `result`, `pattern` and `look_up` at
    most one.

    Attributes:
        column: A column.
        first_of: Columns, of which one at least is there: the first that has a value counts.
        joined: Columns whose values are joined with a blank, as a date and its time; up to the first without a value.
        fixed: A value that every row has.
        optional: The file need not have the columns.
        empty: Values that stand for none, beside those of the table.
        words: Value, in any case -> what it means; `*` is every other value. An empty text means that there is none.
            Values that are not listed stay as they are.
        replace: Text -> what stands in its place where it first occurs; a value that has that already stays as it is.
        otherwise: What is taken where there is no value.
        date: It is a date or time, in a form for `datetime.strptime` such as "%m/%d/%Y %H:%M"; several are tried in
            turn, ISO 8601 always. `true` stands for `USUAL`. Without a time of day only the day is known.
        day_at_midnight: A time of 00:00 means that only the day is known.
        number: It is a number, its decimal mark that of the table.
        result: It is a number, perhaps with "<" or ">", or words. Its element is `value`: numbers become
            `valueQuantity`, words `valueString`.
        pattern: The value stands for `{}` in it, as in "Patient/{}".
        look_up: Name of a look-up whose row the value is the key of: the element is that row's object.
        take: The one element of the looked-up object that is wanted.
    """

    column: str | None = None
    first_of: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    fixed: str | bool | int | float | None = None
    optional: bool = False
    empty: tuple[str, ...] = ()
    words: dict[str, str] = field(default_factory=dict)
    replace: dict[str, str] = field(default_factory=dict)
    otherwise: str | None = None
    date: bool | str | tuple[str, ...] = False
    day_at_midnight: bool = False
    number: bool = False
    result: bool = False
    pattern: str | None = None
    look_up: str | None = None
    take: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns, as written."""
        return (self.column,) if self.column is not None else (*self.first_of, *self.joined)

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms of its date; none if it is no date."""
        if isinstance(self.date, bool):
            return USUAL if self.date else ()
        return (self.date,) if isinstance(self.date, str) else self.date


@dataclass(frozen=True, kw_only=True)
class Source:
    """A table's files, and how they are written.

    Attributes:
        elements: Path of an element, such as `code.coding[0].code` -> what it is taken from.
        file: Names of files without their endings, or of folders that hold parts of the table; `*` stands for anything,
            and a name with `/` for what a path ends in. Default: the table's name.
        delimiter: Default: what stands most often in the header.
        encoding: Default: UTF-8 or UTF-16 if the file begins as such, else Windows-1252.
        decimal: Decimal mark of numbers; default: a comma where the delimiter is `;`, else a point.
        empty: Values that stand for none, in all columns.
    """

    elements: dict[str, str | Element]
    file: str | tuple[str, ...] = ()
    delimiter: str | None = None
    encoding: str | None = None
    decimal: str | None = None
    empty: tuple[str, ...] = ()

    def element(self, path: str) -> Element:
        found = self.elements[path]
        return Element(column=found) if isinstance(found, str) else found

    def names(self, name: str) -> tuple[str, ...]:
        """What its files are called, where the table is called `name`."""
        return (self.file,) if isinstance(self.file, str) else self.file or (name,)


@dataclass(frozen=True, kw_only=True)
class Table(Source):
    """A table whose rows become resources.

    Attributes:
        resource: Their type.
        once: Of the rows of all its files with one id only the first becomes a resource: patients who have no table of
            their own. The other rows are another table's to count.
    """

    resource: str
    once: bool = False


@dataclass(frozen=True, kw_only=True)
class LookUp(Source):
    """A table that others are joined with. Only rows that are asked for are kept in memory.

    A value that the table does not have gives the object of a row that holds its key and nothing else.

    Attributes:
        key: The column that values are looked up in.
    """

    key: str


def steps(path: str) -> list[str | int]:
    """The keys and places that a path leads along.

    Raises:
        ValueError: It is no path.

    Examples:
        >>> steps("code.coding[0].code")
        ['code', 'coding', 0, 'code']
    """
    found: list[str | int] = []
    for part in path.split("."):
        step = _STEP.fullmatch(part)
        if step is None:
            raise ValueError(path)
        found += [step[1]] if step[2] is None else [step[1], int(step[2])]
    return found


def check_tables(tables: Mapping[str, Table], look_ups: Mapping[str, LookUp], where: str) -> None:
    """Whether what a manifest says of tables can be done.

    Raises:
        AdapterError: It cannot; names the key.
    """
    for name, table in tables.items():
        at = f"{where}: tables.{name}"
        if not _TYPE.fullmatch(table.resource):
            raise AdapterError(f"{at}.resource is {table.resource!r}", expected="a type such as Observation")
        if table.once and "id" not in table.elements:
            raise AdapterError(f"{at} is read once for each id and has none", expected=f"{at}.elements.id")
        _check_source(table, look_ups, at)
    for name, look_up in look_ups.items():
        _check_source(look_up, {}, f"{where}: look_ups.{name}")


def _check_source(source: Source, look_ups: Mapping[str, LookUp], at: str) -> None:
    if not any(source.element(path).columns for path in source.elements):
        raise AdapterError(f"{at} has no element that is taken from a column", expected="such as id: PATIENT_NO")
    for key, fits, expected in (
        ("delimiter", lambda text: len(text) == 1 and text not in '"\r\n', "one character such as ;"),
        ("decimal", lambda text: text in (".", ","), "'.' or ','"),
        ("encoding", _is_encoding, "a name such as utf-8 or windows-1252"),
    ):
        text = getattr(source, key)
        if text is not None and not fits(text):
            raise AdapterError(f"{at}.{key} is {text!r}", expected=expected)
    routes: list[tuple[list[str | int], str]] = []
    for path in source.elements:
        element = source.element(path)
        _check_element(path, element, look_ups, f"{at}.elements.{path}")
        routes += [(steps(route), path) for route in places(path, element)]
    for (route, path), (other_route, other) in combinations(routes, 2):
        apart = next((pair for pair in zip(route, other_route) if pair[0] != pair[1]), None)
        if apart is None or isinstance(apart[0], int) != isinstance(apart[1], int):
            raise AdapterError(f"{at}.elements: {path} and {other} exclude one another")


def _is_encoding(text: str) -> bool:
    try:
        codecs.lookup(text)
    except LookupError:
        return False
    return True


def places(path: str, element: Element) -> tuple[str, ...]:
    """The paths that an element fills; of a result there are three."""
    return ("valueQuantity.value", "valueQuantity.comparator", "valueString") if element.result else (path,)


def _check_element(path: str, element: Element, look_ups: Mapping[str, LookUp], at: str) -> None:
    try:
        steps(path)
    except ValueError:
        raise AdapterError(f"{at} is no path", expected="such as code.coding[0].code") from None
    sources = [key for key in _SOURCES if getattr(element, key) not in (None, ())]
    if len(sources) != 1:
        said = " and ".join(sources) or "none"
        raise AdapterError(f"{at} says where its value comes from by {said}", expected=f"one of {', '.join(_SOURCES)}")
    kinds = [key for key in _KINDS if getattr(element, key)]
    if len(kinds) > 1:
        raise AdapterError(f"{at} has {' and '.join(kinds)}", expected=f"at most one of {', '.join(_KINDS)}")
    if element.result and path != "value":
        raise AdapterError(f"{at} is a result", expected="the element `value`; numbers become valueQuantity")
    if element.pattern is not None and element.pattern.count("{}") != 1:
        raise AdapterError(f"{at}.pattern is {element.pattern!r}", expected="a text with one {}, such as Patient/{}")
    for form in element.forms:
        _check_form(form, f"{at}.date")
    if element.look_up is not None and element.look_up not in look_ups:
        raise AdapterError(
            f"{at} looks up {element.look_up!r}", expected=f"one of the look_ups: {', '.join(look_ups) or 'none'}"
        )
    names = look_ups[element.look_up].elements if element.look_up else {}
    if element.take is not None and element.take not in names:
        raise AdapterError(f"{at} takes {element.take!r}", expected=f"an element of a look-up: {', '.join(names)}")


def _check_form(form: str, at: str) -> None:
    try:
        sound = "%y" not in form and datetime.strptime(datetime(2001, 1, 1).strftime(form), form).year == 2001
    except ValueError:
        sound = False
    if not sound:
        raise AdapterError(
            f"{at} is {form!r}", expected="true, or a form with a year of four digits such as '%m/%d/%Y %H:%M'"
        )
