"""Which elements of a resource views name, and structs that hold no others."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from ehr_tl.fhir.views.values import Node, attribute

#: What a view takes an element for. Whatever a resource has in its place does not fit a struct.
TEXT, BOOLEAN, PRIMITIVE = "text", "boolean", "primitive"

#: orjson reads other integers as floats.
_INTEGER = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_TYPES: dict[str, Any] = {TEXT: str | None, BOOLEAN: bool | None, PRIMITIVE: str | bool | _INTEGER | float | None}
_DEEPEST = 50
_NAME = re.compile(r"_?[A-Za-z][A-Za-z0-9]{0,99}")


class Unfit(Exception):
    """A view reads what structs do not give; it has to read dicts."""


class Shape:
    """What views name of an element.

    Attributes:
        depth: Elements that it is a part of.
        parts: Its parts that are named.
        kind: What it is taken for, where its value is looked at.
        once: It is not expected in a list.
        many: It is expected in a list. Mostly only JSON says whether it is in one.
    """

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth
        self.parts: dict[str, Shape] = {}
        self.kind: str | None = None
        self.once = False
        self.many = False

    def part(self, name: str, once: bool = False, many: bool = False) -> Shape:
        if not _NAME.fullmatch(name):
            raise Unfit(f"{name} is no name of an element")
        if self.depth == _DEEPEST:
            raise Unfit("a path goes deeper than any resource")
        part = self.parts.setdefault(name, Shape(self.depth + 1))
        part.once, part.many = part.once or once, part.many or many
        return part

    def take_for(self, kind: str) -> None:
        """Says what the element must be; a primitive may also be text, or a boolean."""
        if self.kind in (None, PRIMITIVE):
            self.kind = kind
        elif kind not in (self.kind, PRIMITIVE):
            raise Unfit("an element is taken for text and for a boolean")

    def add(self, other: Shape) -> None:
        """Names what another view names, too."""
        if other.kind:
            self.take_for(other.kind)
        for name, part in other.parts.items():
            self.part(name, part.once, part.many).add(part)

    def type(self) -> Any:
        """What an element of this shape is decoded to."""
        if (self.parts or self.many) and self.kind:
            raise Unfit("an element is taken for a value and for one with parts")
        if self.many:
            return list[_struct(self, (), {})] | None
        if self.parts:
            node = _struct(self, (), {})
            return node | None if self.once else node | list[node] | None
        if self.kind is None:  # that it is there is enough
            return _TYPES[PRIMITIVE] | dict if self.once else Any
        return _TYPES[self.kind] if self.once else _TYPES[self.kind] | list[_TYPES[self.kind]]


def resource_type(kind: str, shape: Shape, keep: Iterable[str]) -> type[Node]:
    """A struct for resources of a type.

    Args:
        kind: The `resourceType`; JSON with another does not fit.
        shape: What views name of it.
        keep: Further elements that it holds, as `msgspec.Raw`.

    Raises:
        Unfit: Views differ in what they take an element for.
    """
    if shape.kind:
        raise Unfit("the resource itself is taken for a value")
    named = Shape()
    named.parts = {name: part for name, part in shape.parts.items() if name != "resourceType"}
    raw = [name for name in keep if name not in named.parts]
    return _struct(named, raw, {"tag_field": "resourceType", "tag": kind, "namespace": {"resourceType": kind}})


def _struct(shape: Shape, raw: Iterable[str], options: dict[str, Any]) -> type[Node]:
    types = {name: part.type() for name, part in shape.parts.items()} | dict.fromkeys(raw, msgspec.Raw)
    fields = [(attribute(name), kind, None) for name, kind in types.items()]
    renamed = {attribute(name): name for name in types}
    return msgspec.defstruct("Node", fields, bases=(Node,), rename=renamed, gc=False, eq=False, **options)
