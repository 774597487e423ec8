"""The rows of CSV and Parquet files, a batch of columns at a time, in constant memory."""

from __future__ import annotations

import codecs
import csv
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from ehr_tl.fhir.blocks import Unreadable, lines
from ehr_tl.fhir.export import ExportFile
from ehr_tl.tables.spec import Source

_BATCH = 4096
_DELIMITERS = ",;\t|"
_BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
#: How much of a file is looked at for its encoding. What is no UTF-8 there is Windows-1252, which has no such marks.
_HEAD = 1 << 20
#: Characters of a line; more are no row, and their fields would not fit in memory.
_LONGEST = 1 << 24
#: Handler of bytes that do not belong to an encoding: the escape of a byte that is in no UTF-8. The usual one,
#: `surrogateescape`, has none for half a character of UTF-16.
_DAMAGE = "ehr_tl.damage"
codecs.register_error(_DAMAGE, lambda error: ("\udcff", error.end))


class Batch(NamedTuple):
    """Some rows of a file.

    Attributes:
        lines: Where each begins: its line in a CSV file, its number in a Parquet file, from 1.
        columns: The columns that were asked for.
        faults: Line and key of `export.FAULTS`, for what is no row.
    """

    lines: Sequence[int]
    columns: Sequence[Sequence[Any]]
    faults: list[tuple[int, str]]


@dataclass(frozen=True)
class Form:
    """How a file is written; for Parquet only the header counts.

    Attributes:
        header: Names of its columns; none if the file is empty.
        delimiter, encoding, decimal: As in `Source`, found out where it leaves them open.
    """

    header: tuple[str, ...]
    delimiter: str = ","
    encoding: str = "utf-8"
    decimal: str = "."


def read_form(file: ExportFile, source: Source) -> Form:
    """Reads the header of a file.

    Raises:
        Unreadable: It has none that can be read.
        csv.Error: Its first line is none.
    """
    if _is_parquet(file):
        with _parquet(file) as parquet:
            return Form(tuple(parquet.schema_arrow.names), decimal=source.decimal or ".")
    encoding = source.encoding or _encoding(file)
    first = next(_lines(file, encoding), (0, "", None))[1]
    delimiter = source.delimiter or _delimiter(first, file)
    decimal = source.decimal or ("," if delimiter == ";" else ".")
    header = next(csv.reader([first], delimiter=delimiter), []) if first.strip() else []
    return Form(tuple(name.strip() for name in header), delimiter, encoding, decimal)


def batches(file: ExportFile, form: Form, columns: Sequence[int]) -> Iterator[Batch]:
    """Reads a file: these columns of all its rows, and what is no row. Damage ends it with a fault."""
    read = _parquet_batches(file, form, columns) if _is_parquet(file) else _text_batches(file, form, columns)
    return read if form.header else iter(())


def _is_parquet(file: ExportFile) -> bool:
    return file.name.lower().endswith(".parquet")


# --- CSV --------------------------------------------------------------------------------------------------------------


def _encoding(file: ExportFile) -> str:
    head = b""
    # Damage is told when the rows are read.
    with suppress(Unreadable), file.content() as content:
        for block in content:
            head += block
            if len(head) >= _HEAD:
                break
    for mark, encoding in _BOMS.items():
        if head.startswith(mark):
            return encoding
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head[:_HEAD])
    except UnicodeDecodeError:
        return "windows-1252"
    return "utf-8"


def _delimiter(header: str, file: ExportFile) -> str:
    unquoted = "".join(header.split('"')[::2])
    counts = Counter(mark for mark in unquoted if mark in _DELIMITERS)
    default = "\t" if ".tsv" in PurePosixPath(file.name).suffixes else ","
    return max(_DELIMITERS, key=lambda mark: (counts[mark], mark == default))


#: Number of a line, its text, and the fault that it has.
_Line = tuple[int, str, str | None]


def _lines(file: ExportFile, encoding: str) -> Iterator[_Line]:
    """Numbered lines without their ends.

    Raises:
        Unreadable: After what came before the damage was yielded.
    """
    with file.content() as content:
        for number, line in enumerate(lines(_as_utf8(content, encoding)), start=1):
            if line is None or len(line) > _LONGEST:
                yield number, "", "too_large"
                continue
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                yield number, line.decode().rstrip("\r"), None
            except UnicodeDecodeError:
                yield number, line.decode(errors="replace").rstrip("\r"), "bad_encoding"


def _as_utf8(content: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """The blocks as UTF-8; bytes that do not belong to the encoding are no UTF-8 either."""
    if codecs.lookup(encoding).name == "utf-8":
        return content
    decoded = codecs.iterdecode(content, encoding, errors=_DAMAGE)
    return (block.encode(errors="surrogateescape") for block in decoded)


def _text_batches(file: ExportFile, form: Form, columns: Sequence[int]) -> Iterator[Batch]:
    numbers: list[int] = []
    rows: list[list[str]] = []
    faults: list[tuple[int, str]] = []
    number = 1

    def batch() -> Batch:
        gathered = list(zip(*rows)) if rows else [()] * len(form.header)
        done = Batch(numbers[:], [gathered[place] for place in columns], faults[:])
        for each in (numbers, rows, faults):
            each.clear()
        return done

    try:
        for number, fields in _records(_lines(file, form.encoding), form):
            if fields.__class__ is str:
                faults.append((number, fields))
            else:
                numbers.append(number)
                rows.append(fields)
            if len(rows) + len(faults) == _BATCH:
                yield batch()
    except Unreadable as error:
        faults.append((number + 1, error.reason))
    yield batch()


def _records(read: Iterator[_Line], form: Form) -> Iterator[tuple[int, list[str] | str]]:
    """Yields the rows below the header, or in their place a fault.

    A quotation mark that nothing closes would swallow the rows after it. So of a record of several lines that is none
    only the first line is a fault; the others are read again. Where tabs part the fields, as in the vocabularies of
    OMOP, such a mark means itself.
    """
    next(read, None)
    width, again, taken = len(form.header), deque[_Line](), list[_Line]()

    def feed() -> Iterator[str]:
        while line := again.popleft() if again else next(read, None):
            taken.append(line)
            yield f"{line[1]}\n"

    def reader() -> Iterator[list[str]]:
        return csv.reader(feed(), delimiter=form.delimiter, strict=True)

    records = reader()
    while True:
        taken.clear()
        try:
            fields = next(records)
            fault = None if len(fields) in (0, width) else "bad_row"
        except StopIteration:
            return
        except csv.Error:
            fault = "bad_row"
        number, text, wrong = taken[0]
        fault = wrong or fault or next((wrong for *_, wrong in taken if wrong), None)
        if fault is None:
            if any(fields):  # else a blank line
                yield number, fields
            continue
        as_it_is = text.split("\t")
        sound = fault == "bad_row" and form.delimiter == "\t" and len(as_it_is) == width
        yield number, as_it_is if sound else fault
        again.extendleft(reversed(taken[1:]))
        records = reader()


# --- Parquet ----------------------------------------------------------------------------------------------------------


@contextmanager
def _parquet(file: ExportFile) -> Iterator[Any]:
    """An opened Parquet file; every way in which reading may fail becomes `Unreadable`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.stream() as stream, _seekable(file, stream) as source:
            yield pq.ParquetFile(source, page_checksum_verification=True)
    except (pa.ArrowException, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise Unreadable("unreadable_file") from error


@contextmanager
def _seekable(file: ExportFile, stream: BinaryIO) -> Iterator[BinaryIO]:
    """A member of a zip is unpacked first: Parquet is read from its end."""
    if file.member is None:
        yield stream
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(stream, copy)
        copy.seek(0)
        yield copy


def _parquet_batches(file: ExportFile, form: Form, columns: Sequence[int]) -> Iterator[Batch]:
    names = [form.header[place] for place in columns]
    number = 0
    try:
        with _parquet(file) as parquet:
            for batch in parquet.iter_batches(batch_size=_BATCH, columns=names):
                yield Batch(
                    range(number + 1, number + 1 + batch.num_rows), [_values(batch.column(name)) for name in names], []
                )
                number += batch.num_rows
    except Unreadable as error:
        yield Batch((), [()] * len(names), [(number + 1, error.reason)])


def _values(column: Any) -> list[Any]:
    """A column as Python values; nanoseconds, which Python's times do not have, are cut off."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return column.to_pylist()
