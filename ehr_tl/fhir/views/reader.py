"""JSON decoded as far as views look at it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Annotated, Any

import msgspec
import orjson

from ehr_tl.fhir.views.shapes import Shape, Unfit, resource_type
from ehr_tl.fhir.views.values import attribute
from ehr_tl.fhir.views.view import View

#: Its resources are read from it, so it is never read as a resource.
_BUNDLE = "Bundle"


class _Nothing(msgspec.Struct, tag_field="resourceType", tag=""):
    """Fits nothing. If a reader knew one type only, msgspec would take JSON without a `resourceType` for that."""

    never: Annotated[int, msgspec.Meta(gt=0, lt=0)]


class Reader:
    """Decodes resources for some views.

    A resource of a type that has views becomes a `Node`, which holds what they name and what is kept. One that does not
    fit (a number in place of text, a primitive in place of an element with parts) becomes a dict. So does every
    resource of another type, every Bundle, and every resource of a type whose views read what a `Node` cannot hold,
    such as all levels of a questionnaire (`repeat`). A view gives the same rows either way.

    Attributes:
        types: The types whose resources become a `Node`.
    """

    def __init__(self, views: Iterable[View], keep: Iterable[str]):
        keep = tuple(keep)
        types: list[Any] = []
        raw: dict[str, None] = {}
        for kind, shape in _shapes(views).items():
            try:
                types.append(resource_type(kind, shape, keep))
            except Unfit:
                continue
            raw |= dict.fromkeys(name for name in keep if name not in shape.parts)
        self.types = frozenset(node.resourceType for node in types)
        self._raw = tuple(map(attribute, raw))
        self._decode = msgspec.json.Decoder(reduce(or_, types, _Nothing)).decode

    def decode(self, text: bytes) -> Any:
        """Decodes one resource.

        Of elements that no view names it is checked that they are JSON, in UTF-8; but not that their numbers are in the
        range of a double.

        Returns:
            A `Node` or what `orjson.loads` gives.

        Raises:
            ValueError: The text is not JSON.
        """
        try:
            resource = self._decode(text)
            if not text.isascii():
                text.decode()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return orjson.loads(text)
        for name in self._raw:
            value = getattr(resource, name)
            if value.__class__ is msgspec.Raw:
                setattr(resource, name, _held(value))
        return resource


def compile_reader(views: Iterable[View], keep: Iterable[str] = ("id", "contained")) -> Reader:
    """Makes a reader for some views.

    Args:
        views: Of any types.
        keep: Elements of resources that are held whole where no view names them.
    """
    return Reader(views, keep)


def _held(raw: msgspec.Raw) -> Any:
    """A kept element; None where it holds a number beyond a double, as nothing else in it can be wrong by now."""
    try:
        return orjson.loads(memoryview(raw))
    except ValueError:
        return None


def _shapes(views: Iterable[View]) -> dict[str, Shape]:
    """What the views of each type name together; types whose views cannot share a struct are left out."""
    shapes: dict[str, Shape] = {}
    unfit = {_BUNDLE}
    for view in views:
        try:
            shapes.setdefault(view.resource, Shape()).add(view.shape)
        except (Unfit, RecursionError):
            unfit.add(view.resource)
    return {kind: shape for kind, shape in shapes.items() if kind not in unfit}
