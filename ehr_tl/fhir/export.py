"""An export as a hospital delivers it, read resource by resource in constant memory.

Formats: NDJSON (plain, gzip, Zstandard), Bundles or single resources as JSON, in folders or zip files, as written by
FHIR Bulk Data `$export` (https://hl7.org/fhir/uv/bulkdata/) and by Synthea. A file's name is a hint only:
`resourceType` decides.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO, NoReturn

import orjson

from ehr_tl.errors import ExportError
from ehr_tl.fhir.blocks import Unreadable, blocks, document, is_bomb, lines
from ehr_tl.fhir.pieces import BOM, Piece, Read, document_pieces, line_pieces
from ehr_tl.fhir.times import parse_time

#: Stands in the folder of an export that is still being fetched.
UNFINISHED = ".unfinished.json"

#: What an export is, for errors.
EXPECTED = "a folder or zip of FHIR R4 files, or of tables (CSV or Parquet)"

#: Why something in an export is no resource.
FAULTS = {
    "not_json": "the text is not JSON (cut off, NaN, not UTF-8, or more than 1,000 elements inside one another)",
    "not_a_resource": "JSON without a resourceType, or a Bundle entry without a resource",
    "too_large": "one line or document of more than 512 MiB",
    "truncated_file": "a packed file ends too early; what came before was read",
    "unreadable_file": "a file that cannot be opened or unpacked; what came before was read",
    "bad_row": "a row of a table with more or fewer fields than its header, or a quotation mark that nothing closes",
    "bad_encoding": "a row of a table that is not in its file's encoding",
    "bomb": "a packed file that swells to more than a GiB from almost nothing; what came before was read",
}

_DATA = re.compile(r"\.(ndjson|json)(\.gz|\.zst)?$", re.IGNORECASE)
_TABLE = re.compile(r"\.((csv|tsv)(\.gz|\.zst)?|parquet)$", re.IGNORECASE)
_LINES = re.compile(r"\.ndjson(\.gz|\.zst)?$", re.IGNORECASE)
_MANIFEST = re.compile(r"^(.*manifest.*|export)\.json$|^log\.ndjson$", re.IGNORECASE)
#: What Bulk Data clients lay down beside the resources.
_LEFT = re.compile(r"(^|/)(error/OperationOutcome|deleted/Bundle)\.[^/]*$")
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_MANIFEST_SIZE = 16 << 20

#: Endings that say what a file is. Any other may be a part of a name, and that of a patient.
_ENDING = re.compile(r"\.(csv|docx|gz|html?|jpg|json|log|md|ndjson|parquet|pdf|png|sql|tsv|txt|xlsx|xml|zip|zst)")


@dataclass(frozen=True)
class ExportFile:
    """A file that should hold resources, on this machine.

    Attributes:
        path: Where it is, or the zip that it is in.
        name: As in `Read.file`.
        member: Its place among the files of the zip; names may occur twice.
        size: Bytes on disk, packed if it is; None for what is no file.
    """

    path: Path
    name: str
    size: int | None
    member: int | None = None

    @property
    def type(self) -> str | None:
        """What the name says of the content: `Patient` for `Patient.000.ndjson.gz`; None for Bundles."""
        first, *rest = PurePosixPath(self.name).name.split(".")
        return first if _TYPE.fullmatch(first) and any(part.lower() == "ndjson" for part in rest) else None

    @property
    def lines(self) -> bool:
        """Whether it is NDJSON, as its name says."""
        return _LINES.search(self.name) is not None

    def pieces(self) -> Iterator[Piece]:
        """The content, piece by piece, in constant memory (but for Bundles, which are read whole)."""
        progress = _Progress(self.size or 0)
        content = _content(self, progress)
        pieces = line_pieces(self.name, lines(content)) if self.lines else document_pieces(self.name, content)
        for piece in pieces:
            yield piece._replace(packed=progress.since())

    def content(self) -> AbstractContextManager[Iterator[bytes]]:
        """Its unpacked blocks; every way in which reading may fail becomes `blocks.Unreadable`."""
        return closing(_content(self))

    @contextmanager
    def stream(self) -> Iterator[BinaryIO]:
        """Its bytes as they are."""
        if self.member is None:
            with self.path.open("rb") as stream:
                yield stream
        else:
            with opened_member(_archive(self.path, self.path.stat().st_mtime_ns), self.member) as stream:
                yield stream


@dataclass(frozen=True)
class OpenedFile(ExportFile):
    """A file that should hold resources, elsewhere.

    Attributes:
        opener: Opens its bytes.
    """

    opener: Callable[[], BinaryIO] = BytesIO

    @contextmanager
    def stream(self) -> Iterator[BinaryIO]:
        with self.opener() as stream:
            yield stream


@dataclass(frozen=True)
class Export:
    """The files of an export.

    Attributes:
        path: Folder or file that was opened; no `Path` where it is on no disk of this machine.
        files: Files that should hold resources, sorted by name.
        ignored: Names of all others; they are left alone. Links to folders, pipes and the like are among them.
        transaction_time: When the export was made (naive UTC), where a Bulk Data manifest says so.
        tables: Those of the others that are tables by name; an adapter may read them (`ehr_tl.tables`).
        absent: Tables that the adapter could have read, as it calls them; also those in `empty`, as `labs (empty)`.
        empty: Tables whose files are there and have not even a header.
        unused: Columns of tables that it reads nothing from: file, tables that read it (as in `tables.labs`), column.
    """

    path: PurePath
    files: tuple[ExportFile, ...]
    ignored: tuple[str, ...]
    transaction_time: datetime | None
    tables: tuple[ExportFile, ...] = ()
    absent: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    unused: tuple[tuple[str, str, str], ...] = ()

    def check_outside(self, out: str | Path) -> None:
        """Sees to it that what is made of an export does not become a part of it.

        Raises:
            ExportError: `out` lies in the export's folder.
        """
        if isinstance(self.path, Path) and Path(out).resolve().is_relative_to(self.path.resolve()):
            raise ExportError(
                f"{out} lies inside the export {self.path}",
                expected="a folder elsewhere: the next time its files would be read as records",
                fix="name one with --out",
            )

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size or 0 for file in self.files)

    def pieces(self) -> Iterator[Piece]:
        """All files, piece by piece, in order."""
        for file in self.files:
            yield from self.pieces_of(file)

    def pieces_of(self, file: ExportFile) -> Iterator[Piece]:
        """One of `files`, piece by piece."""
        return file.pieces()

    def read(self) -> Iterator[Read]:
        """Yields every resource once, and a fault for whatever should have been one."""
        for file in self.files:
            yield from self.read_file(file)

    def read_file(self, file: ExportFile) -> Iterator[Read]:
        """Like `read`, for one of `files`."""
        for piece in self.pieces_of(file):
            yield from piece.reads()


def open_export(path: str | Path) -> Export:
    """Looks through a folder or file for resources; nothing but manifests is read yet.

    Args:
        path: A folder, a zip, an NDJSON file or a Bundle.

    Raises:
        ExportError: There is nothing to read, not all of it was fetched, a folder may not be opened, or a zip is
            damaged or would climb out of its folder or swell beyond all measure.
    """
    if not str(path).strip():
        raise ExportError("The export's path is empty", expected=EXPECTED)
    if "://" in str(path):
        raise ExportError(
            "The export is named by a URI",
            expected="a path on this machine",
            fix="fetch it first (`ehr-tl fetch` from a FHIR server), or convert with --engine spark, which reads URIs",
        )
    path = Path(path)
    if not path.exists():
        raise ExportError(
            f"There is no export at {path}",
            expected=EXPECTED,
            fix=f"check the path (relative ones start at {Path.cwd()})",
        )
    return export_of(path, _walk(path))


def export_of(path: PurePath, found: Iterable[ExportFile]) -> Export:
    """Tells which files should hold resources, and reads the manifests.

    Args:
        path: As in `Export.path`.
        found: All files there, expanded as by `expand`.

    Raises:
        ExportError: None of them is of use, or not all were fetched.
    """
    files, tables, ignored, times = [], [], [], []
    try:
        found = sorted(found, key=lambda file: file.name)
    except OSError as error:
        raise _refuse(error) from None
    for file in found:
        name = PurePosixPath(file.name).name
        if name == UNFINISHED:
            raise _unfinished(path)
        if file.size is None or _is_hidden(file.name):
            ignored.append(file.name)
        elif _LEFT.search(file.name) or not _DATA.search(name):
            ignored.append(file.name)
            if _TABLE.search(name):
                tables.append(file)
        elif _MANIFEST.search(name) and (manifest := _manifest(file)) is not None:
            ignored.append(file.name)
            times += manifest
        else:
            files.append(file)
    if not any(file.size for file in (*files, *tables)):
        raise _nothing(path, [*files, *tables], ignored)
    return Export(path, tuple(files), tuple(ignored), max(times, default=None), tuple(tables))


def _is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it is in, is hidden, or what a Mac adds to a zip.

    Examples:
        >>> _is_hidden(".old/a.ndjson"), _is_hidden("all.zip/__MACOSX/a.csv"), _is_hidden("all.zip/./a.ndjson")
        (True, True, False)
    """
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _unfinished(path: PurePath) -> ExportError:
    return ExportError(
        f"{path} is not whole: `ehr-tl fetch` has begun it and not come to its end",
        expected="a whole export",
        fix="run the same `ehr-tl fetch` again: it goes on where it broke off",
    )


def _nothing(path: PurePath, files: list[ExportFile], ignored: list[str]) -> ExportError:
    if files:
        problem = f"{path} holds data files ({len(files)}), but all of them are empty"
    elif ignored:
        # By their endings: a file may be named after a patient.
        kinds = Counter(masked(name).removeprefix("*") or "of another kind" for name in ignored)
        some = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
        problem = f"{path} holds no file that could be FHIR or a table (files found: {some})"
    else:
        problem = f"{path} is empty"
    return ExportError(
        problem,
        expected="Type.ndjson, Type.ndjson.gz or .zst, *.json Bundles, tables (.csv, .tsv, .parquet), or a zip of them",
        fix="name the folder that the export was written to; save each sheet of a spreadsheet as CSV, and export other "
        "formats as FHIR R4 JSON",
    )


def masked(name: str) -> str:
    """A file's name without what may be a patient's.

    Examples:
        >>> masked("letters/Jane_Doe.PDF"), masked("Jane.Doe")
        ('*.pdf', '*')
    """
    ending = PurePosixPath(name).suffix.lower()
    return f"*{ending}" if _ENDING.fullmatch(ending) else "*"


def _walk(path: Path) -> Iterator[ExportFile]:
    """All files at or below `path`, the members of zip files included; links to folders are not followed."""
    if path.is_file():
        yield from _expand(ExportFile(path, _text(path.name), path.stat().st_size), str(path))
        return
    for folder, folders, names in os.walk(path, onerror=_fail):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for file in (Path(folder, name) for name in [*names, *links]):
            name = _text(file.relative_to(path).as_posix())
            if file.is_file():
                size = file.stat().st_size
                yield from _expand(ExportFile(file, name, size), f"A zip file of {size} bytes in {path}")
            else:
                yield ExportFile(file, name, None)


def _text(name: str) -> str:
    """A file's name as text, whatever its encoding."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _fail(error: OSError) -> NoReturn:
    raise error


def _refuse(error: OSError) -> ExportError:
    """The error does not say which file it is, nor does what came before: it may be named after a patient."""
    return ExportError(
        f"A file or folder of the export cannot be opened ({error.strerror})",
        expected="an export that can be read to its last file",
        fix="let the account that runs ehr-tl read it, or move it out of the export; `find EXPORT ! -readable`, run by "
        "that account, names it",
    )


def _expand(file: ExportFile, shown: str) -> Iterator[ExportFile]:
    return expand(file, shown, lambda: _archive(file.path, file.path.stat().st_mtime_ns))


def expand(file: ExportFile, shown: str, archive: Callable[[], zipfile.ZipFile]) -> Iterator[ExportFile]:
    """The file; of a zip its members instead.

    Args:
        file: A file on disk.
        shown: What messages call it.
        archive: Opens it, if it is a zip.

    Raises:
        ExportError: A zip is damaged or would climb out of its folder or swell beyond all measure.
    """
    if not file.name.lower().endswith(".zip") or _is_hidden(file.name):
        yield file
        return
    try:
        members = archive().infolist()
    except PermissionError:
        raise
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        raise ExportError(
            f"{shown} is not a zip file that can be opened, or only a part of one", fix="copy or download it again"
        ) from None
    swollen = sum(member.file_size for member in members)
    if is_bomb(file.size or 0, swollen) or any(is_bomb(one.compress_size, one.file_size) for one in members):
        raise _untrusted(f"{shown} would unpack to {swollen >> 20:,} MiB from almost nothing")
    taken: Counter[str] = Counter()
    for place, member in enumerate(members):
        if _leads_out(member.filename):
            raise _untrusted(f"{shown} holds a member whose name leads out of the archive")
        if not member.filename.endswith("/"):
            taken[member.filename] += 1
            number = f" ({taken[member.filename]})" if taken[member.filename] > 1 else ""
            inside = member.filename.encode(errors="backslashreplace").decode()
            yield replace(file, name=f"{file.name}{number}/{inside}", size=member.compress_size, member=place)


def opened_member(archive: zipfile.ZipFile, member: int) -> BinaryIO:
    """A file of a zip; `member` as in `ExportFile.member`."""
    return archive.open(archive.infolist()[member])


def _leads_out(member: str) -> bool:
    inside = PurePosixPath(member.replace("\\", "/"))
    return inside.is_absolute() or ".." in inside.parts or ":" in "".join(inside.parts[:1])


def _untrusted(problem: str) -> ExportError:
    return ExportError(problem, fix="do not trust this file; ask its sender")


def _manifest(file: ExportFile) -> list[datetime] | None:
    """The `transactionTime`s of a Bulk Data manifest or export log; None where the file holds resources."""
    if file.size > _MANIFEST_SIZE:
        return None
    try:
        text = document(_content(file)).removeprefix(BOM)
        values = [orjson.loads(line) for line in (text.splitlines() if file.lines else [text])]
    except (Unreadable, ValueError):
        return None
    if not all(isinstance(value, dict) and "resourceType" not in value for value in values):
        return None
    details = [value["eventDetail"] if isinstance(value.get("eventDetail"), dict) else value for value in values]
    said = [detail.get("transactionTime") for detail in details]
    times = [parse_time(time, UTC, end_of=False) for time in said if isinstance(time, str)]
    return [time for time in times if time]


@lru_cache(maxsize=4)
def _archive(path: Path, written: int) -> zipfile.ZipFile:
    """A zip, kept open: its table of contents is long where it holds a Bundle for each patient."""
    return zipfile.ZipFile(path)


class _Progress:
    """Counts the bytes that are read of a file, as far as its size."""

    def __init__(self, size: int):
        self._size, self._read, self._told = size, 0, 0

    def watch(self, stream: BinaryIO) -> Callable[[int], bytes]:
        def read(number: int) -> bytes:
            block = stream.read(number)
            self._read += len(block)
            return block

        return read

    def since(self) -> int:
        """Bytes since it was asked before."""
        told, self._told = self._told, min(self._read, self._size)
        return self._told - told


def _content(file: ExportFile, progress: _Progress | None = None) -> Iterator[bytes]:
    """The file's unpacked blocks; every way in which reading may fail becomes `Unreadable`."""
    progress = progress or _Progress(0)
    try:
        with file.stream() as stream:
            yield from blocks(progress.watch(stream), file.name.lower())
    except EOFError as error:
        raise Unreadable("truncated_file") from error
    except PermissionError as error:
        raise _refuse(error) from None
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, RuntimeError) as error:
        raise Unreadable("unreadable_file") from error
