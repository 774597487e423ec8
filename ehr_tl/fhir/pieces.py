"""An export in pieces: texts of resources, small enough to be handed to a worker, the same whoever reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

import msgspec
import orjson

from ehr_tl.fhir.blocks import Unreadable, document, head, lines

#: Bytes of text in a piece, about.
SIZE = 4 << 20
BOM = b"\xef\xbb\xbf"
#: Lines of a document without sense that are looked at.
_FEW = 8
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")


class Read(NamedTuple):
    """One physical resource, or what stood in its place.

    Attributes:
        resource: The decoded resource; None when there is a fault.
        type: Its `resourceType`; `?` when there is a fault.
        file: Name below the export folder; `archive.zip/member` inside a zip.
        line: Line of NDJSON, or number of the Bundle's entry, from 1.
        full_url: The Bundle entry's `fullUrl`.
        fault: A key of `export.FAULTS`.
        text: What it was decoded from, or could not be, where it was read.
    """

    resource: Any
    type: str
    file: str
    line: int
    full_url: str | None = None
    fault: str | None = None
    text: bytes | None = None


class Piece(NamedTuple):
    """Some lines of NDJSON, or some entries of a Bundle.

    Attributes:
        file: As in `Read.file`.
        number: Grows from piece to piece of the file.
        first: Number of the first line or entry, from 1.
        texts: The texts, undecoded; None where one was too large.
        urls: `fullUrl` of each entry; None for lines.
        fault: Why the file ends after these texts, where it should not.
        packed: Bytes of the file that were read for this piece, packed if it is.
    """

    file: str
    number: int
    first: int
    texts: list[bytes | None]
    urls: list[str | None] | None = None
    fault: str | None = None
    packed: int = 0

    def reads(self, decode: Callable[[bytes], Any] = orjson.loads) -> Iterator[Read]:
        """Every resource of the piece, and a fault for whatever should have been one.

        Args:
            decode: JSON to a dict, or to something else with a `resourceType`; a Bundle must become a dict.
        """
        file, urls = self.file, self.urls
        for line, text in enumerate(self.texts, start=self.first):
            if text is None:
                yield _fault("too_large", file, line)
                continue
            try:
                value = decode(text)
            except ValueError:
                if text and not text.isspace():
                    yield _fault("not_json", file, line, text)
                continue
            url = urls[line - self.first] if urls else None
            if value.__class__ is not dict:
                yield _read(value, file, line, url, text)
                continue
            for resource, full_url in _resources(value, url):
                yield _read(resource, file, line, full_url, text)
        if self.fault:
            yield _fault(self.fault, file, self.first + len(self.texts))


def line_pieces(file: str, lines: Iterable[bytes | None], number: int = 0, first: int = 1) -> Iterator[Piece]:
    """NDJSON in pieces; where `lines` raises `Unreadable` the last piece says so.

    Args:
        file: As in `Piece.file`.
        lines: All lines of the file, or some that follow one another.
        number: Of the first piece.
        first: Number of the first line, from 1.
    """
    size, fault = 0, None
    texts: list[bytes | None] = []
    try:
        for line in lines:
            texts.append(line.removeprefix(BOM) if line and first == 1 and not texts else line)
            size += len(line or b"") + 1
            if size >= SIZE:
                yield Piece(file, number, first, texts)
                number, first, size, texts = number + 1, first + len(texts), 0, []
    except Unreadable as error:
        fault = error.reason
    if texts or fault:
        yield Piece(file, number, first, texts, fault=fault)


def document_pieces(file: str, content: Iterator[bytes]) -> Iterator[Piece]:
    """A Bundle's entries in pieces; a document that is no Bundle, or broken, is one text.

    NDJSON that is named as a document, as Spark does, is known by its first line; where that is damaged, by one of the
    next, and read whole.
    """
    try:
        start = head(content)
        content = chain([start], content)
        if _begins_with_line(start):
            yield from line_pieces(file, lines(content))
            return
        text = document(content).removeprefix(BOM)
    except Unreadable as error:
        yield Piece(file, 0, 1, [], fault=error.reason)
        return
    entries = _entries(text)
    if entries is None and _is_damaged_lines(text):
        yield from line_pieces(file, lines(BytesIO(text)))
        return
    if entries is None:
        yield Piece(file, 0, 1, [text])
        return
    number, first, size = 0, 1, 0
    texts: list[bytes | None] = []
    urls: list[str | None] = []
    for resource, url in entries:
        texts.append(bytes(resource))
        urls.append(url)
        size += len(texts[-1])
        if size >= SIZE:
            yield Piece(file, number, first, texts, urls)
            number, first, size, texts, urls = number + 1, first + len(texts), 0, [], []
    if texts:
        yield Piece(file, number, first, texts, urls)


def _begins_with_line(start: bytes) -> bool:
    """Whether the first line is a whole resource, and others follow."""
    line, _, more = start.partition(b"\n")
    return bool(more.strip()) and _is_resource(line.removeprefix(BOM))


def _is_damaged_lines(text: bytes) -> bool:
    """Whether one of the first lines is a whole resource, and the text as a whole no JSON.

    What is indented is a part of something larger, such as a Bundle that breaks off.
    """
    first = list(islice(BytesIO(text), _FEW))
    return (
        len(first) > 1
        and any(line.startswith(b"{") and _is_resource(line) for line in first)
        and _decoded(text) is None
    )


def _is_resource(text: bytes) -> bool:
    value = _decoded(text)
    return isinstance(value, dict) and "resourceType" in value


def _decoded(text: bytes) -> Any:
    """JSON decoded; None where it is none."""
    try:
        return orjson.loads(text)
    except ValueError:
        return None


class _Entry(msgspec.Struct):
    fullUrl: Any = None
    resource: msgspec.Raw = msgspec.Raw(b"null")


class _Bundle(msgspec.Struct):
    resourceType: Literal["Bundle"]
    entry: list[_Entry] | None = None


_bundle = msgspec.json.Decoder(_Bundle)


def _entries(text: bytes) -> list[tuple[msgspec.Raw | bytes, str | None]] | None:
    """Undecoded resources of a Bundle, with the entries' `fullUrl`; None where the text is no Bundle."""
    try:
        found = [(entry.resource, entry.fullUrl) for entry in _bundle.decode(text).entry or []]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _odd_entries(text)
    return [(resource, url if url.__class__ is str else None) for resource, url in found]


def _odd_entries(text: bytes) -> list[tuple[bytes, str | None]] | None:
    """The same for a Bundle that is not as FHIR says, such as one entry without a list."""
    try:
        value = orjson.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or value.get("resourceType") != "Bundle":
        return None
    try:
        return [(orjson.dumps(resource), url) for resource, url in _own_entries(value)]
    except TypeError:  # nested more deeply than can be written
        return None


def _own_entries(bundle: dict[str, Any]) -> Iterator[tuple[Any, str | None]]:
    entries = bundle.get("entry") or []
    for entry in entries if isinstance(entries, list) else [entries]:
        entry = entry if isinstance(entry, dict) else {}
        url = entry.get("fullUrl")
        yield entry.get("resource"), url if isinstance(url, str) else None


def _resources(value: Any, full_url: str | None) -> Iterator[tuple[Any, str | None]]:
    """Yields `value`, or what a Bundle holds (Bundles in it too), with the entry's `fullUrl`."""
    if not isinstance(value, dict) or value.get("resourceType") != "Bundle":
        yield value, full_url
        return
    for resource, url in _own_entries(value):
        yield from _resources(resource, url)


def _read(resource: Any, file: str, line: int, full_url: str | None, text: bytes) -> Read:
    kind = resource.get("resourceType") if resource.__class__ is dict else getattr(resource, "resourceType", None)
    if kind.__class__ is str and _TYPE.fullmatch(kind):
        return Read(resource, kind, file, line, full_url, text=text)
    return _fault("not_a_resource", file, line, text)


def _fault(reason: str, file: str, line: int, text: bytes | None = None) -> Read:
    return Read(None, "?", file, line, None, reason, text)
