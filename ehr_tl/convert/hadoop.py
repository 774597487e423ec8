"""Files that only Spark can reach (S3, HDFS, ABFS and whatever else Hadoop has a file system for), seen by the driver.

The driver lists them and reads their beginnings; all else is read by Spark's workers.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import ZipFile

from ehr_tl.errors import ExportError
from ehr_tl.fhir.export import EXPECTED, Export, ExportFile, OpenedFile, expand, export_of, opened_member

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_BUFFER = 1 << 20


class Place(NamedTuple):
    """Where a path leads to.

    Attributes:
        uri: The path with its file system, without escapes, as Spark names files.
        local: The path on this machine's disks; None where it is elsewhere.
    """

    uri: str
    local: str | None


def place(session: SparkSession, path: str) -> Place:
    """Where Spark looks for a path: without a scheme it is in the file system that Spark was told to use."""
    found = _path(session, path)
    found = _file_system(session, found).makeQualified(found)
    uri = found.toUri()
    return Place(found.toString(), uri.getPath() if uri.getScheme() == "file" else None)


def open_remote(session: SparkSession, uri: str) -> Export:
    """Like `open_export`, through Hadoop.

    Raises:
        ExportError: As there.
    """
    return export_of(PurePosixPath(uri), _walk(session, uri))


def _walk(session: SparkSession, uri: str) -> Iterator[ExportFile]:
    root = _path(session, uri)
    system = _file_system(session, root)
    if not system.exists(root):
        raise ExportError(f"There is no export at {uri}", expected=EXPECTED)
    found = system.listFiles(root, True)
    while found.hasNext():
        status = found.next()
        path = status.getPath().toString()
        name = path.removeprefix(f"{uri.rstrip('/')}/") if path != uri else PurePosixPath(uri).name
        opener = partial(_open, session, path)
        file = OpenedFile(Path(path), name, status.getLen(), opener=opener)
        archive = cache(lambda opener=opener: ZipFile(opener()))
        for each in expand(file, f"A zip file of {file.size} bytes in {uri}", archive):
            inside = each.member is not None
            yield replace(each, opener=partial(opened_member, archive(), each.member)) if inside else each


def _open(session: SparkSession, path: str) -> io.BufferedReader:
    found = _path(session, path)
    system = _file_system(session, found)
    return io.BufferedReader(_Stream(system.open(found), system.getFileStatus(found).getLen()), _BUFFER)


def _path(session: SparkSession, path: str) -> Any:
    return session._jvm.org.apache.hadoop.fs.Path(path)


def _file_system(session: SparkSession, path: Any) -> Any:
    return path.getFileSystem(session._jsparkSession.sessionState().newHadoopConf())


class _Stream(io.RawIOBase):
    """A Java stream that can be read from anywhere.

    Args:
        stream: An `org.apache.hadoop.fs.FSDataInputStream`.
        size: Of the file, in bytes.
    """

    def __init__(self, stream: Any, size: int):
        self._stream, self._size = stream, size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._stream.getPos(), io.SEEK_END: self._size}[whence]
        self._stream.seek(min(max(start + offset, 0), self._size))
        return self._stream.getPos()

    def readinto(self, buffer: Any) -> int:
        read = self._stream.readNBytes(len(buffer))
        buffer[: len(read)] = read
        return len(read)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
