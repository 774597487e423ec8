"""A folder that an export is fetched into: what is on record there until it is whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ehr_tl.errors import FetchError
from ehr_tl.fetch.request import Request
from ehr_tl.fhir.export import UNFINISHED
from ehr_tl.files import LOCK, read_json, write_json

#: The server's manifest, files named as they are here. Written when all of them are.
MANIFEST = "manifest.json"


def make_folder(folder: Path) -> None:
    """Makes a folder that only its owner can read, or takes up one that was begun.

    Raises:
        FetchError: It holds a whole export or something else, or cannot be made.
    """
    if (folder / MANIFEST).is_file() and not (folder / UNFINISHED).is_file():
        raise FetchError(f"{folder} holds an export that is whole", fix="name another folder with --out")
    if folder.is_dir() and not (folder / UNFINISHED).is_file() and any(each.name != LOCK for each in folder.iterdir()):
        raise FetchError(
            f"{folder} holds something else",
            expected="a new or empty folder, or one that a fetch has begun",
            fix="name another folder with --out",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
    except OSError as error:
        raise FetchError(f"The folder {folder} cannot be made: {error.strerror}", fix="name another one") from None


class Unfinished:
    """The record: what was asked for, where its state is told, which file comes from where.

    It stands before anything else in the folder, and goes when the export is whole; `open_export` refuses a folder that
    has one. It has the methods that smart-fetch asks of its own record.
    """

    def __init__(self, folder: Path, request: Request):
        """Takes up the record of `folder`, or begins one.

        Raises:
            FetchError: The folder was begun for another request.
        """
        self._path = folder / UNFINISHED
        asked = asdict(request) | {"types": list(request.types)}
        self._content = {"request": asked, "status_url": None, "files": {}}
        if self._path.is_file():
            found = read_json(self._path)
            begun = found["status_url"] or (folder / MANIFEST).is_file()  # else the server took no such request
            if begun and found["request"] != asked:
                raise FetchError(
                    f"{folder} was begun for another export: {Request(**found['request']).kick_off}",
                    fix="run the command that began it, or name another folder with --out",
                )
            self._content = found if begun else self._content
        self._write()

    def get_bulk_status_url(self) -> str | None:
        return self._content["status_url"]

    def set_bulk_status_url(self, url: str | None) -> None:
        self._content["status_url"] = url
        self._write()

    def plan(self, files: Mapping[str, str]) -> None:
        """Puts on record which file comes from where; removes those that came from elsewhere.

        Args:
            files: Name in the folder -> what tells its source from others.
        """
        for name, source in self._content["files"].items():
            if files.get(name) != source:
                (self._path.parent / name).unlink(missing_ok=True)
        self._content["files"] = dict(files)
        self._write()

    def end(self) -> None:
        self._path.unlink()

    def _write(self) -> None:
        write_json(self._path, self._content)
        self._path.chmod(0o600)


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    write_json(folder / MANIFEST, content)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest; None while files are missing."""
    return read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
