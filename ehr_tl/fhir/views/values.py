"""What compiled views compute with: collections, the values of FHIRPath, and its functions and operators on them.

A collection is what JSON gives: None, one item, or a list of items (nulls in it do not count). So the commonest case,
one item, costs no list. An element with parts is a dict, or a `Node` where a `Reader` decoded it. Nothing on either
side of an operator gives nothing, unless the other side decides.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from functools import lru_cache
from keyword import iskeyword
from operator import attrgetter
from typing import Any, NoReturn

import msgspec

from ehr_tl.errors import AdapterError
from ehr_tl.fhir.references import reference_key
from ehr_tl.fhir.views.moments import order


class RowError(AdapterError):
    """A resource does not fit a view, for instance several values where a column takes one."""


class Node(msgspec.Struct, gc=False, eq=False):
    """An element of which no more is decoded than what views name; a resource, or a part of one."""


def attribute(name: str) -> str:
    """The attribute of a `Node` for an element.

    Examples:
        >>> attribute("code"), attribute("class")
        ('code', 'class_')
    """
    return f"{name}_" if iskeyword(name) else name


# --- collections ------------------------------------------------------------------------------------------------------


def items(value: Any) -> list:
    """A collection as a list."""
    if value.__class__ is list:
        return [item for item in value if item is not None] if None in value else value
    return [] if value is None else [value]


def one(value: Any) -> Any:
    """The only item of a collection, None if it is empty.

    Raises:
        RowError: There are several.
    """
    if value.__class__ is not list:
        return value
    found = items(value)
    if len(found) > 1:
        raise RowError(f"{len(found)} values where one is needed")
    return found[0] if found else None


def boolean(value: Any) -> bool | None:
    """True, False or None (empty).

    Raises:
        RowError: It is something else.
    """
    value = one(value)
    if value is None or value.__class__ is bool:
        return value
    raise RowError("a condition gave something that is neither true nor false")


def is_empty(value: Any) -> bool:
    return all(item is None for item in value) if value.__class__ is list else value is None


def too_many() -> NoReturn:
    raise RowError("lists side by side would give more rows than any record needs")


def first(value: Any) -> Any:
    return next((item for item in value if item is not None), None) if value.__class__ is list else value


def at(value: Any, position: Any) -> Any:
    """`value[position]`."""
    position = one(position)
    if position.__class__ is not int:
        raise RowError("the number in [ ] must be an integer")
    found = items(value)
    return found[position] if 0 <= position < len(found) else None


def column(value: Any, name: str, kind: type | None) -> Any:
    """The one primitive that a column takes.

    Args:
        value: A collection.
        name: Of the column.
        kind: What the primitive must be an instance of.

    Raises:
        RowError: It is something else.
    """
    found = items(value)
    if len(found) > 1:
        raise RowError(f"column {name} got {len(found)} values", fix="add first(), a where() or collection: true")
    value = found[0] if found else None
    if isinstance(value, dict | list | Node):
        raise RowError(f"column {name} got an element with parts", fix="name the part that is wanted")
    if value is not None and kind and value.__class__ is not kind:
        raise RowError(f"column {name} got a {value.__class__.__name__}, which is not of the column's type")
    return value


# --- elements ---------------------------------------------------------------------------------------------------------


def element(resource: Any, name: str) -> Any:
    """An element of a resource, a dict or a `Node`; None where it has none, or where a `Node` does not hold it."""
    return resource.get(name) if resource.__class__ is dict else getattr(resource, attribute(name), None)


def set_element(resource: Any, name: str, value: Any) -> None:
    """Sets an element of a resource; a `Node` must hold it."""
    if resource.__class__ is dict:
        resource[name] = value
    else:
        setattr(resource, attribute(name), value)


def step(value: Any, name: str) -> Any:
    """Element `name` of an item, or of all items of a list; a primitive has none."""
    return _each(value, lambda item: _part(item, name))


def choice(value: Any, names: tuple[str, ...]) -> Any:
    """The first of several elements that is there: `name[x]`, whatever its type."""

    def read(item: Any) -> Any:
        if item.__class__ is dict:
            found: Iterable[Any] = (item[name] for name in names if name in item)
        else:
            found = _attributes(names)(item) if isinstance(item, Node) else ()
        return next((part for part in found if part is not None), None)

    return _each(value, read)


def of_resource(value: Any, name: str) -> Any:
    """The resources of a type."""
    return _each(value, lambda item: item if _part(item, "resourceType") == name else None)


def referred(value: Any, wanted: str | None) -> Any:
    """The ids that References name; none where it says that it is of another type than is wanted."""

    def read(item: Any) -> str | None:
        reference = _part(item, "reference")
        if reference.__class__ is not str:
            return None
        kind, key = reference_key(reference)
        return key if wanted is None or (kind or _part(item, "type") or wanted) == wanted else None

    return _each(value, read)


def descend(node: Any, below: Callable[[Any], list[Any]]) -> list[Any]:
    """All that is reached from an element, again and again from what was reached, parents before their children.

    Args:
        below: The collections that are one step below.
    """
    found: list[Any] = []
    ahead = [node]
    while ahead:
        here = ahead.pop()
        if here is not node:
            found.append(here)
        if here.__class__ is dict:
            ahead += reversed([part for collection in below(here) for part in items(collection) if part is not here])
    return found


def _each(value: Any, read: Callable[[Any], Any]) -> Any:
    if value.__class__ is not list:
        return read(value)
    return [found for item in value for found in items(read(item))]


def _part(item: Any, name: str) -> Any:
    if item.__class__ is dict:
        return item.get(name)
    return getattr(item, attribute(name)) if isinstance(item, Node) else None


@lru_cache(maxsize=1024)
def _attributes(names: tuple[str, ...]) -> Callable[[Node], tuple[Any, ...]]:
    return attrgetter(*map(attribute, names))


# --- operators --------------------------------------------------------------------------------------------------------


def equal(left: Any, right: Any, temporal: bool) -> bool | None:
    """`=`.

    Args:
        temporal: A side is known to be a date or time.
    """
    left, right = items(left), items(right)
    if not left or not right:
        return None
    if temporal and len(left) == len(right) == 1:
        ranked = order(left[0], right[0])
        return None if ranked is None else ranked == 0
    return _same(left, right)


def _same(left: Any, right: Any) -> bool:
    """Equality that keeps true apart from 1."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return left == right and (left.__class__ is bool) is (right.__class__ is bool)


_COMPARISONS = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "div": lambda left, right: math.trunc(left / right),
    "mod": math.fmod,
}


def compared(left: Any, right: Any, sign: str) -> bool | None:
    """`<`, `>`, `<=` and `>=`."""
    left, right = one(left), one(right)
    if left is None or right is None:
        return None
    if _number(left) and _number(right):
        return _COMPARISONS[sign](left, right)
    if left.__class__ is str and right.__class__ is str:
        ranked = order(left, right)
        return None if ranked is None else _COMPARISONS[sign](ranked, 0)
    raise RowError("< and > compare two numbers, two texts or two times")


def computed(left: Any, right: Any, sign: str) -> Any:
    """`+`, `-`, `*`, `/`, `div` and `mod`."""
    left, right = one(left), one(right)
    if left is None or right is None:
        return None
    if not (_number(left) and _number(right)):
        if sign == "+" and left.__class__ is str and right.__class__ is str:
            return left + right
        raise RowError("arithmetic needs two numbers")
    try:
        return _ARITHMETIC[sign](left, right)
    except (ZeroDivisionError, OverflowError, ValueError):
        return None


def _number(value: Any) -> bool:
    return value.__class__ is int or value.__class__ is float


def opposite(value: bool | None) -> bool | None:
    return None if value is None else not value


def joined(value: Any, separator: Any) -> str | None:
    """`join()`."""
    found = [_text(item) for item in items(value)]
    return _text(one(separator)).join(found) if found else None


def together(left: Any, right: Any) -> str:
    """`&`."""
    return _text(one(left)) + _text(one(right))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict | list | Node):
        raise RowError("text is needed where an element with parts stands")
    return str(value).lower() if value.__class__ is bool else str(value)
