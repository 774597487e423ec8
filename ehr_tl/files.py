"""Files that are written whole or not at all, and their fingerprints."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ehr_tl.errors import RunError

log = logging.getLogger("ehr_tl")

#: Held by the process that is at work in a folder; it stays there, empty.
LOCK = ".lock"


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; what was written there takes the name `path` when the block ends well.

    Works for files and for new folders. When the block fails, nothing is left behind and an older `path` stays. What
    a killed process left behind is removed by the next that writes the same. A link stays: what it leads to is written.

    Examples:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with whole(target) as temporary:
        ...     _ = temporary.write_text("all of it")
        >>> target.read_text()
        'all of it'
    """
    path = Path(path)
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    _remove_orphans(path)
    _check_place(temporary)
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            remove(path)
        os.replace(temporary, path)
    finally:
        remove(temporary)


def check_place(path: Path) -> None:
    """Whether `path` can be made, asked before long work begins.

    Raises:
        OSError: It cannot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_place(path.with_name(f".{path.name}.{os.getpid()}.partial"))


def _remove_orphans(path: Path) -> None:
    """Removes what this process, or one that is no more, left half written of `path`."""
    for each in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        number = each.name.split(".")[-2]
        if number.isdecimal() and (int(number) == os.getpid() or not _is_alive(int(number))):
            with suppress(OSError):  # another's file in a folder that both may write to
                remove(each)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _check_place(temporary: Path) -> None:
    """Whether a file can be made there, asked before the work begins."""
    try:
        temporary.touch()
    except FileNotFoundError:  # the folder is there, and takes nothing new: /proc
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(temporary.parent)) from None
    temporary.unlink()


@contextmanager
def locked(folder: Path, shared: bool = False) -> Iterator[None]:
    """Keeps others out of a run folder while the block runs. The kernel lets go when the process ends, however it does.

    Args:
        folder: A folder that is there.
        shared: Let others in who are content with this too: they read.

    Raises:
        RunError: Another process is at work there.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        if not shared:
            raise
        descriptor = None  # a folder that cannot be written to: nobody changes what is read
    try:
        if descriptor is not None:
            _lock(descriptor, folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(descriptor: int, folder: Path, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(f"Another ehr-tl is at work in {folder}", fix="wait until it has ended") from None
    except OSError:  # some network file systems have no locks
        log.warning("%s cannot be locked: see to it that nothing else is at work there", folder)


def remove(path: Path) -> None:
    """Removes a file or a folder with all that is in it; nothing happens when there is none."""
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON with sorted keys left as given; NaN is refused."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def fingerprint(*paths: str | Path) -> str:
    """SHA-256 over names and contents of files and of all files below folders, in a fixed order."""
    digest = hashlib.sha256()
    for path in map(Path, paths):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            digest.update(name.encode() + b"\0")
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
