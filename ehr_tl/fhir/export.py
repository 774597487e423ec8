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
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO, NoReturn

import orjson

from ehr_tl.errors import ExportError
from ehr_tl.fhir.blocks import Unreadable, blocks, document, lines
from ehr_tl.fhir.pieces import BOM, Piece, Read, document_pieces, line_pieces
from ehr_tl.fhir.times import parse_time

#: Why something in an export is no resource.
FAULTS = {
    "not_json": "the text is not JSON (cut off, NaN, or not UTF-8)",
    "not_a_resource": "JSON without a resourceType, or a Bundle entry without a resource",
    "too_large": "one line or document of more than 512 MiB",
    "truncated_file": "a packed file ends too early; what came before was read",
    "unreadable_file": "a file that cannot be opened or unpacked; what came before was read",
}

_DATA = re.compile(r"\.(ndjson|json)(\.gz|\.zst)?$", re.IGNORECASE)
_LINES = re.compile(r"\.ndjson(\.gz|\.zst)?$", re.IGNORECASE)
_MANIFEST = re.compile(r"^(.*manifest.*|export)\.json$|^log\.ndjson$", re.IGNORECASE)
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_BOMB_RATIO, _BOMB_SIZE = 200, 1 << 30
_MANIFEST_SIZE = 16 << 20


@dataclass(frozen=True)
class ExportFile:
    """A file that should hold resources, on this machine.

    Attributes:
        path: Where it is, or the zip that it is in.
        name: As in `Read.file`.
        member: Its name inside the zip.
        size: Bytes on disk, packed if it is; None for what is no file.
    """

    path: Path
    name: str
    size: int | None
    member: str | None = None

    @property
    def type(self) -> str | None:
        """What the name says of the content: `Patient` for `Patient.000.ndjson.gz`; None for Bundles."""
        first, *rest = PurePosixPath(self.name).name.split(".")
        return first if _TYPE.fullmatch(first) and any(part.lower() == "ndjson" for part in rest) else None

    @property
    def lines(self) -> bool:
        """Whether it is NDJSON, as its name says."""
        return bool(_LINES.search(self.name))

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Its bytes, packed if they are."""
        if self.member is None:
            with self.path.open("rb") as stream:
                yield stream
        else:
            with _archive(self.path, self.path.stat().st_mtime_ns).open(self.member) as stream:
                yield stream

    def pieces(self) -> Iterator[Piece]:
        """The content, piece by piece, in constant memory (but for Bundles, which are read whole)."""
        progress = _Progress(self.size or 0)
        content = _content(self, progress)
        pieces = line_pieces(self.name, lines(content)) if self.lines else document_pieces(self.name, content)
        for piece in pieces:
            yield piece._replace(packed=progress.since())

    def read(self) -> Iterator[Read]:
        """Yields every resource once, and a fault for whatever should have been one."""
        for piece in self.pieces():
            yield from piece.reads()


@dataclass(frozen=True)
class OpenedFile(ExportFile):
    """A file that should hold resources, elsewhere.

    Attributes:
        opener: Opens its bytes.
    """

    opener: Callable[[], BinaryIO] = BytesIO

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
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
    """

    path: PurePath
    files: tuple[ExportFile, ...]
    ignored: tuple[str, ...]
    transaction_time: datetime | None

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
            yield from file.pieces()

    def read(self) -> Iterator[Read]:
        """Yields every resource once, and a fault for whatever should have been one."""
        for file in self.files:
            yield from file.read()


def open_export(path: str | Path) -> Export:
    """Looks through a folder or file for resources; nothing but manifests is read yet.

    Args:
        path: A folder, a zip, an NDJSON file or a Bundle.

    Raises:
        ExportError: There is nothing to read, a folder may not be opened, or a zip is damaged or would climb out of its
            folder or swell beyond all measure.
    """
    if not str(path).strip():
        raise ExportError("The export's path is empty", expected="a folder or zip of FHIR R4 files")
    path = Path(path)
    if not path.exists():
        raise ExportError(
            f"There is no export at {path}",
            expected="a folder or zip of FHIR R4 files",
            fix=f"check the path (relative ones start at {Path.cwd()})",
        )
    return export_of(path, _walk(path))


def export_of(path: PurePath, found: Iterable[ExportFile]) -> Export:
    """Tells which files should hold resources, and reads the manifests.

    Args:
        path: As in `Export.path`.
        found: All files there, expanded as by `expand`.

    Raises:
        ExportError: None of them is of use.
    """
    files, ignored, times = [], [], []
    for file in sorted(found, key=lambda file: file.name):
        name = PurePosixPath(file.name).name
        if name.startswith(".") or file.name.startswith("__MACOSX/") or file.size is None or not _DATA.search(name):
            ignored.append(file.name)
        elif _MANIFEST.search(name) and (manifest := _manifest(file)) is not None:
            ignored.append(file.name)
            times += manifest
        else:
            files.append(file)
    if not any(file.size for file in files):
        raise _nothing(path, files, ignored)
    return Export(path, tuple(files), tuple(ignored), max(times, default=None))


def _nothing(path: PurePath, files: list[ExportFile], ignored: list[str]) -> ExportError:
    if files:
        problem = f"{path} holds data files ({len(files)}), but all of them are empty"
    elif ignored:
        # By their endings: a file may be named after a patient.
        kinds = Counter(PurePosixPath(name).suffix.lower() or "without an ending" for name in ignored)
        some = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
        problem = f"{path} holds no file that could be FHIR (files found: {some})"
    else:
        problem = f"{path} is empty"
    return ExportError(
        problem,
        expected="Type.ndjson, Type.ndjson.gz or .zst, *.json Bundles, or a zip of them",
        fix="name the folder that the FHIR export was written to; other formats must be exported as FHIR R4 JSON",
    )


def _walk(path: Path) -> Iterator[ExportFile]:
    """All files at or below `path`, the members of zip files included; links to folders are not followed."""
    if path.is_file():
        yield from _expand(path, path.name)
        return
    for folder, folders, names in os.walk(path, onerror=_fail):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for file in (Path(folder, name) for name in [*names, *links]):
            name = file.relative_to(path).as_posix()
            if file.is_file():
                yield from _expand(file, name)
            else:
                yield ExportFile(file, name, None)


def _fail(error: OSError) -> NoReturn:
    raise _refuse(error) from error


def _refuse(error: OSError) -> ExportError:
    return ExportError(
        f"{error.filename} cannot be opened ({error.strerror})",
        expected="an export that can be read to its last file",
        fix="let the account that runs ehr-tl read it, or move it out of the export",
    )


def _expand(path: Path, name: str) -> Iterator[ExportFile]:
    written = path.stat()
    yield from expand(ExportFile(path, name, written.st_size), lambda: _archive(path, written.st_mtime_ns))


def expand(file: ExportFile, archive: Callable[[], zipfile.ZipFile]) -> Iterator[ExportFile]:
    """The file; of a zip, which `archive` opens, its members instead.

    Raises:
        ExportError: A zip is damaged or would climb out of its folder or swell beyond all measure.
    """
    if not file.name.lower().endswith(".zip") or PurePosixPath(file.name).name.startswith("."):
        yield file
        return
    try:
        members = [member for member in archive().infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise ExportError(
            f"{file.name} is not a zip file that can be opened, or only a part of one", fix="copy or download it again"
        ) from error
    for member in members:
        _check_member(member, file.name)
        yield replace(file, name=f"{file.name}/{member.filename}", size=member.compress_size, member=member.filename)


def _check_member(member: zipfile.ZipInfo, archive: str) -> None:
    inside = PurePosixPath(member.filename.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts or ":" in inside.parts[0]:
        raise ExportError(
            f"{archive} holds a member whose name leads out of the archive",
            fix="do not trust this file; ask its sender",
        )
    if member.file_size > _BOMB_SIZE and member.file_size > _BOMB_RATIO * member.compress_size:
        raise ExportError(
            f"{archive} holds a member that would unpack to {member.file_size >> 20:,} MiB from almost nothing",
            fix="do not trust this file; ask its sender",
        )


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
    times = [parse_time(str(detail.get("transactionTime")), UTC, end_of=False) for detail in details]
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
        with file.open() as stream:
            yield from blocks(progress.watch(stream), file.name.lower())
    except EOFError as error:
        raise Unreadable("truncated_file") from error
    except PermissionError as error:
        raise _refuse(error) from error
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, RuntimeError) as error:
        raise Unreadable("unreadable_file") from error
