"""Bytes of plain, gzip and Zstandard files as lines, in constant memory; a cut-off file is noticed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import zstandard

#: Largest line or JSON document that is decoded. More in one piece is no record of a patient.
LARGEST = 512 << 20
_BOMB_SIZE, _BOMB_RATIO = 1 << 30, 200
_PLAIN_STEP = 1 << 20
_PACKED_STEP = 1 << 13  # small: eight KiB of zeros, packed, may unpack to hundreds of MiB


class Unreadable(Exception):
    """The bytes end before their time or cannot be unpacked; `reason` is a key of `export.FAULTS`."""

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(reason)


#: Reads so many bytes, or fewer where there are no more.
Source = Callable[[int], bytes]


def blocks(read: Source, name: str) -> Iterator[bytes]:
    """Yields what `read` gives, unpacked as the ending of `name` says.

    Raises:
        Unreadable: After what came before the damage was yielded.
    """
    if name.endswith(".gz"):
        yield from _unpack(read, lambda: zlib.decompressobj(31))
    elif name.endswith(".zst"):
        yield from _unpack(read, lambda: zstandard.ZstdDecompressor().decompressobj())
    else:
        while block := read(_PLAIN_STEP):
            yield block


def is_bomb(packed: int, unpacked: int) -> bool:
    """Whether so many bytes become so many as no records do."""
    return unpacked > _BOMB_SIZE and unpacked > _BOMB_RATIO * packed


def _unpack(read: Source, decoder: Callable) -> Iterator[bytes]:
    """Unpacks frames one after another; zlib and zstandard share `decompress`, `eof` and `unused_data`."""
    frame = None
    taken = given = 0
    while packed := read(_PACKED_STEP):
        taken += len(packed)
        while packed.strip(b"\0") if frame is None else packed:  # zeros after a frame are padding
            frame = frame or decoder()
            try:
                unpacked = frame.decompress(packed)
            except (zlib.error, zstandard.ZstdError) as error:
                raise Unreadable("unreadable_file") from error
            given += len(unpacked)
            if is_bomb(taken, given):
                raise Unreadable("bomb")
            yield unpacked
            packed = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise Unreadable("truncated_file")


def lines(content: Iterator[bytes]) -> Iterator[bytes | None]:
    """Splits blocks at line feeds. A line beyond `LARGEST` is not kept: None stands in its place."""
    pieces: list[bytes] = []
    size = 0
    for block in content:
        first, *rest = block.split(b"\n")
        size += len(first)
        if size <= LARGEST:
            pieces.append(first)
        else:
            pieces.clear()
        if rest:
            yield b"".join(pieces) if size <= LARGEST else None
            *whole, last = rest
            yield from whole
            pieces, size = [last], len(last)
    if size:
        yield b"".join(pieces) if size <= LARGEST else None


def head(content: Iterator[bytes]) -> bytes:
    """The blocks that the first line is in, as one.

    Raises:
        Unreadable: They are larger than `LARGEST`.
    """
    return _together(content, lambda block: b"\n" in block)


def document(content: Iterator[bytes]) -> bytes:
    """All blocks as one.

    Raises:
        Unreadable: It is larger than `LARGEST`.
    """
    return _together(content, lambda block: False)


def _together(content: Iterator[bytes], last: Callable[[bytes], bool]) -> bytes:
    pieces, size = [], 0
    for block in content:
        pieces.append(block)
        size += len(block)
        if size > LARGEST:
            raise Unreadable("too_large")
        if last(block):
            break
    return b"".join(pieces)
