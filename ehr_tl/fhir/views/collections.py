"""Collections, the values of FHIRPath.

A collection is what JSON gives: None, one item, or a list of items (nulls in it do not count). So the commonest case,
one item, costs no list. A compiled expression takes the node that it starts from and the index of the row
(`%rowIndex`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ehr_tl.errors import AdapterError

Evaluate = Callable[[Any, int], Any]


class RowError(AdapterError):
    """A resource does not fit a view, for instance several values where a column takes one."""


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


def text_of(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict | list):
        raise RowError("text is needed where an element with parts stands")
    return str(value).lower() if value.__class__ is bool else str(value)
