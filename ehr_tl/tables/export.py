"""An export that is tables: every row a FHIR-shaped resource, made by the templates of an adapter."""

from __future__ import annotations

import csv
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import compress, count, islice
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ehr_tl.errors import ExportError
from ehr_tl.fhir.blocks import Unreadable
from ehr_tl.fhir.export import Export, ExportFile
from ehr_tl.fhir.pieces import Read
from ehr_tl.tables.rows import Batch, Form, batches, read_form
from ehr_tl.tables.spec import LookUp, Source, Table
from ehr_tl.tables.template import Find, Header, Template
from ehr_tl.tables.values import text
from ehr_tl.wording import counted

#: The resource type without which there is nobody to say anything about.
PATIENT = "Patient"

#: Rows in a piece.
_ROWS = 10_000

_ENDINGS = re.compile(r"(\.(csv|tsv|parquet))?(\.gz|\.zst)?$")


@dataclass(frozen=True)
class TableFile(ExportFile):
    """A file as one table reads it, or all files of a table that is read `once`.

    Attributes:
        table: Name of the table or look-up.
        parts: The files, each with its form; None for what cannot be opened.
    """

    table: str = ""
    parts: tuple[tuple[ExportFile, Form | None], ...] = ()


class TablePiece(NamedTuple):
    """Some rows of a table, as resources; what `ehr_tl.fhir.pieces.Piece` is of texts."""

    file: str
    number: int
    found: list[Read]
    packed: int

    def reads(self, decode: object = None) -> Iterator[Read]:
        return iter(self.found)


@dataclass(frozen=True)
class TableExport(Export):
    """An export whose `files` are tables.

    Attributes:
        sources: Name -> table.
        look_ups: Name -> look-up.
    """

    sources: Mapping[str, Table] = field(default_factory=dict)
    look_ups: Mapping[str, LookUp] = field(default_factory=dict)

    def pieces_of(self, file: TableFile) -> Iterator[TablePiece]:
        """A resource for every row, and a fault for what is no row, piece by piece."""
        name = f"{file.table}: {file.name}"  # several tables may read one file
        reads, size = self._reads(file), file.size or 0
        for number in count():
            found = list(islice(reads, _ROWS))
            if not found:
                break
            yield TablePiece(name, number, found, 0)
        yield TablePiece(name, number, [], size)

    def _reads(self, file: TableFile) -> Iterator[Read]:
        if file.table in self.look_ups:
            return iter(self._looked_up[file.table][1])
        table = self.sources[file.table]
        reads = self._rows(file, table, self._finders() if _joins(table, self.look_ups) else {}, table.resource)
        return _once(reads) if table.once else reads

    def _rows(
        self,
        file: TableFile,
        source: Source,
        find: Mapping[str, Find],
        resource: str | None,
        only: tuple[str, ...] | None = None,
        asked: tuple[str, set[str]] | None = None,
    ) -> Iterator[Read]:
        """Yields the rows of a file's parts.

        Args:
            only: The elements that are wanted; default: all.
            asked: A column, and those of its values whose rows are wanted; default: all rows.
        """
        for part, how in file.parts:
            if how is None:
                yield Read(None, "?", part.name, 1, None, "unreadable_file")
                continue
            template = Template(source, find, how.decimal, resource, only)
            header = Header(how.header)
            used, rows = template.bind(header)
            if not used:  # columns that may be absent, and are
                continue
            for batch in batches(part, how, used):
                if asked:
                    batch = _asked(batch, used.index(header.place(asked[0])), asked[1])
                for line, made in zip(batch.lines, rows(batch.columns)):
                    yield Read(made, resource or "", part.name, line)
                for line, fault in batch.faults:
                    yield Read(None, "?", part.name, line, None, fault)

    def _finders(self) -> dict[str, Find]:
        return {name: _finder(look_up, self._looked_up[name][0]) for name, look_up in self.look_ups.items()}

    @cached_property
    def _looked_up(self) -> dict[str, tuple[dict[str, Any], list[Read]]]:
        """Look-up -> the objects of the keys that the tables name, and the faults of its files."""
        there = {file.table for file in self.files if file.table in self.look_ups}
        asked: dict[str, set[str]] = {name: set() for name in self.look_ups}
        for file in self.files:
            source = self.sources.get(file.table)
            if source is not None and (joins := _joins(source, there)):
                for _ in self._rows(file, source, {name: keys.add for name, keys in asked.items()}, None, joins):
                    pass
        found: dict[str, tuple[dict[str, Any], list[Read]]] = {name: ({}, []) for name in self.look_ups}
        for file in self.files:
            if file.table in self.look_ups:
                look_up, (objects, faults) = self.look_ups[file.table], found[file.table]
                self._look_up(file, look_up, asked[file.table], objects, faults)
        return found

    def _look_up(
        self, file: TableFile, look_up: LookUp, asked: set[str], objects: dict[str, Any], faults: list[Read]
    ) -> None:
        """Keeps the rows whose key is asked for; of two with one key the first."""
        keyed = _keyed(look_up)
        for read in self._rows(file, keyed, {}, None, asked=(look_up.key, asked)):
            if read.resource is None:
                faults.append(read)
            else:
                objects.setdefault(str(read.resource.pop(_KEY)), read.resource)


def _asked(batch: Batch, place: int, values: set[str]) -> Batch:
    """The rows of a batch whose column at `place` has one of these values."""
    wanted = [text(value) in values for value in batch.columns[place]]
    return Batch(
        list(compress(batch.lines, wanted)), [list(compress(column, wanted)) for column in batch.columns], batch.faults
    )


def _joins(source: Source, look_ups: Container[str]) -> tuple[str, ...]:
    """The elements that are taken from one of these look-ups."""
    return tuple(path for path in source.elements if source.element(path).look_up in look_ups)


_KEY = "lookUpKey"


def _keyed(look_up: LookUp) -> Source:
    return Source(elements={**look_up.elements, _KEY: look_up.key}, empty=look_up.empty)


def _finder(look_up: LookUp, objects: dict[str, Any]) -> Find:
    """Gives the object of a key; one that the table does not have is a row without anything else."""
    _, blank = Template(look_up, {}).bind(Header([look_up.key]))

    def find(key: str) -> Mapping[str, Any]:
        return objects.get(key) or next(blank([[key]]))

    return find


def _once(reads: Iterator[Read]) -> Iterator[Read]:
    seen: set[str | None] = {None}
    for read in reads:
        if read.resource is not None and (key := text(read.resource.get("id"))) not in seen:
            seen.add(key)
            yield read


def open_tables(export: Export, tables: Mapping[str, Table], look_ups: Mapping[str, LookUp]) -> TableExport:
    """The tables of an export; headers are read, and nothing else yet.

    Raises:
        ExportError: There is no table of patients, or one lacks a header or a column.
    """
    files: list[TableFile] = []
    absent: dict[str, Source] = {}
    empty: dict[str, Source] = {}
    used: dict[tuple[str, tuple[str, ...]], tuple[list[str], set[int]]] = {}
    for name, source in {**look_ups, **tables}.items():
        called = f"{'look_ups' if name in look_ups else 'tables'}.{name}"
        parts = [(file, _form(file, source, called)) for file in _matching(export, name, source)]
        for file, how in parts:
            if how and how.header:
                read = _check(Header(how.header), source, called)
                if name in tables:
                    users, places = used.setdefault((file.name, how.header), ([], set()))
                    users.append(called)
                    places.update(read)
        if parts and all(how is not None and not how.header for _, how in parts):
            empty[name] = source
        if not parts:
            absent[name] = source
        elif isinstance(source, Table) and source.once:
            first = parts[0][0]
            files.append(TableFile(first.path, first.name, 0, first.member, name, tuple(parts)))
        else:
            files += [TableFile(f.path, f.name, f.size, f.member, name, ((f, how),)) for f, how in parts]
    patients = {name: table for name, table in tables.items() if table.resource == PATIENT}
    if patients.keys() <= absent.keys():
        raise _no_patients(export, patients)
    taken = {part.name for file in files for part, _ in file.parts}
    return TableExport(
        path=export.path,
        files=tuple(files),
        ignored=tuple(sorted({*export.ignored, *(file.name for file in export.files)} - taken)),
        transaction_time=export.transaction_time,
        tables=export.tables,
        absent=(*_called(absent), *(f"{called} (empty)" for called in _called(empty))),
        empty=_called(empty),
        unused=tuple(
            (file, ", ".join(users), column)
            for (file, header), (users, places) in used.items()
            for place, column in enumerate(header)
            if place not in places
        ),
        sources=tables,
        look_ups=look_ups,
    )


def _called(sources: Mapping[str, Source]) -> tuple[str, ...]:
    """What the adapter calls their files; several may be taken from one."""
    return tuple(dict.fromkeys(" or ".join(source.names(name)) for name, source in sources.items()))


def tables_named(export: Export, sources: Mapping[str, Source]) -> int:
    """How many of an export's tables are called as these say, whatever is in them."""
    return len({file.name for name, source in sources.items() for file in _matching(export, name, source)})


def _check(header: Header, source: Source, name: str) -> set[int]:
    """Which columns of a file a table reads.

    Raises:
        ExportError: One that it needs is absent.
    """
    source = _keyed(source) if isinstance(source, LookUp) else source
    header.check(source, name)
    return {place for name in Template(source, {}).columns if (place := header.place(name)) is not None}


def _form(file: ExportFile, source: Source, name: str) -> Form | None:
    try:
        return read_form(file, source) if file.size else Form(())
    except Unreadable:
        return None
    except csv.Error:
        raise ExportError(
            f"The first line of a file of {name} is no header",
            expected="a text file (CSV) whose first line has the names of columns",
            fix="see whether it opens as text, each row on a line of its own; if not, export it again",
        ) from None


def _matching(export: Export, name: str, source: Source) -> list[ExportFile]:
    names = [each.casefold() for each in source.names(name)]
    return [file for file in export.tables if any(_is_called(file.name.casefold(), each) for each in names)]


def _is_called(path: str, name: str) -> bool:
    """Whether a file's path, in small letters, is what a manifest calls it.

    Examples:
        >>> _is_called("labs.csv.gz", "labs"), _is_called("labs/part-0.parquet", "labs")
        (True, True)
        >>> _is_called("set/data/train/0.parquet", "data/*"), _is_called("labs_2020.csv", "labs_*")
        (True, True)
        >>> _is_called("old_labs.csv", "labs"), _is_called("labs/old/1.csv", "labs")
        (False, False)
    """
    *folders, last = (_ENDINGS.sub("", part) for part in PurePosixPath(path).parts)
    name = _ENDINGS.sub("", name)
    if "/" in name:
        whole = "/".join([*folders, last])
        return fnmatchcase(whole, name) or fnmatchcase(whole, f"*/{name}")
    return fnmatchcase(last, name) or (bool(folders) and fnmatchcase(folders[-1], name))


def _no_patients(export: Export, tables: Mapping[str, Table]) -> ExportError:
    wanted = " or ".join(_called(tables))
    if export.files and not export.tables:
        return ExportError(
            f"{export.path} holds no tables, but FHIR by the names of its files ({counted(len(export.files), 'file')})",
            expected="for this adapter tables, as .csv or .parquet",
            fix="read FHIR with `--adapter fhir_r4`, or let `ehr-tl doctor` say which adapter fits",
        )
    return ExportError(
        f"{export.path} holds no table of patients ({len(export.tables)} of its files are tables by their names)",
        expected=f"{wanted or 'a table whose resource is Patient'}, as .csv or .parquet, or a folder of such",
        fix="name the folder that holds it, or say with `file` in the adapter what it is called",
    )
