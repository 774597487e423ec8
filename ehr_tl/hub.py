"""Checkpoint folders moved to and from a shared folder or the Hugging Face hub, with their cards and checksums.

A place is a folder (`/mnt/models/ours` or `file:///mnt/models/ours`) or a repository of the hub (`hf://owner/name`).
Nothing goes through a network unless it is asked for.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ehr_tl.errors import CheckpointError
from ehr_tl.files import whole
from ehr_tl.models.folder import CONFIG, COPY_AGAIN, PRETRAINING, read_config, refuse_executable, require_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SUMS = "SHA256SUMS"

#: Files of a checkpoint of this package, and of one of the Context Clues family.
OURS = (
    *("config.json", "model.safetensors", "vocabulary.json", "MODEL_CARD.md", PRETRAINING, "seen.parquet"),
    *("source/tasks.json", "source/*.txt"),
)
CONTEXT_CLUES = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "README.md"),
    *("*.safetensors", "model.safetensors.index.json"),
)

_TOKEN = "HF_TOKEN"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def push(checkpoint: str | Path, to: str, *, online: bool = False) -> list[str]:
    """Copies a checkpoint folder, whole or not at all, and writes `SHA256SUMS` beside its files.

    Args:
        checkpoint: A folder or the name of a shipped checkpoint.
        to: The new folder, or `hf://owner/name`: a repository that is made, private, where there is none. What it held
            is replaced.
        online: Allow the network, which the hub needs. The token is read from the variable HF_TOKEN.

    Returns:
        Names of the files.

    Raises:
        CheckpointError: The folder is no sound checkpoint or holds something else too, the place is taken or cannot be
            reached.
    """
    folder, place = _sound(checkpoint), _place(to, online)
    if isinstance(place, Path):
        _refuse_taken(place)
        with whole(place) as temporary:
            _fill(temporary, folder)
            shutil.copymode(folder, temporary)
        return _files(folder)
    with TemporaryDirectory() as temporary, _reaching(to):
        _fill(Path(temporary) / "checkpoint", folder)
        hub = _hub()
        hub.create_repo(place, private=True, exist_ok=True)
        hub.upload_folder(
            repo_id=place,
            folder_path=Path(temporary) / "checkpoint",
            commit_message="A checkpoint of ehr_tl",
            delete_patterns="*",
        )
    return _files(folder)


def pull(source: str, checkpoint: str | Path, *, online: bool = False) -> list[str]:
    """Copies what `push` wrote into a new checkpoint folder, whole or not at all; every file must fit its checksum.

    Args:
        source: A folder, or `hf://owner/name`.
        checkpoint: The new folder.
        online: Allow the network, which the hub needs. The token is read from the variable HF_TOKEN, if it is set.

    Returns:
        Names of the files.

    Raises:
        CheckpointError: The source has no checksums, a file is missing or is not what was pushed, something in it could
            execute code, the place is taken or cannot be reached.
    """
    place, target = _place(source, online), Path(checkpoint)
    _refuse_taken(target)
    with whole(target) as temporary:
        temporary.mkdir()
        if isinstance(place, Path):
            names = _copy(place, temporary)
        else:
            with _reaching(source):
                names = _download(place, temporary)
        read_config(temporary / CONFIG)
    return names


def _sound(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint that can be opened elsewhere."""
    from ehr_tl.models.checkpoint import check_checkpoint, checkpoint_path
    from ehr_tl.models.context_clues import TOKENIZER, is_context_clues
    from ehr_tl.transfer.seen import check_seen

    path = checkpoint_path(checkpoint)
    check_seen(path)
    if not is_context_clues(path):
        _refuse_others(path, OURS)
        return check_checkpoint(path)
    refuse_executable(path, "a checkpoint in safetensors format")
    _refuse_others(path, CONTEXT_CLUES)
    require_files(path, CONFIG, TOKENIZER)
    read_config(path / CONFIG)
    return path


def _refuse_others(folder: Path, known: tuple[str, ...]) -> None:
    """Looks for files that are no part of a checkpoint: a table of patients beside it must not go out with it."""
    others = [name for name in _files(folder) if not any(_fits(name, pattern) for pattern in known)]
    if others:
        raise CheckpointError(
            f"{folder} holds {', '.join(others[:5])}{' and others' if others[5:] else ''}, no part of a checkpoint",
            expected=f"{', '.join(known)} alone",
            fix="move what is not to be passed on to another folder",
        )


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")


def _place(text: str, online: bool) -> Path | str:
    """A folder, or the name of a repository of the hub."""
    parts = urlsplit(text)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return Path(unquote(parts.path))
    if text.startswith("hf://"):
        name = text.removeprefix("hf://")
        if _REPOSITORY.fullmatch(name) is None:
            raise CheckpointError(f"{text!r} is no repository of the hub", expected="hf://owner/name")
        if not online:
            raise CheckpointError(
                f"{text} lies behind a network, and ehr_tl keeps off networks",
                fix="give --online to allow it this once, or name a folder",
            )
        return name
    if "://" in text:
        raise CheckpointError(f"{text.split('://')[0]}:// is no place for checkpoints", expected="a folder or hf://")
    return Path(text)


def _refuse_taken(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} is there already", expected="a new or empty folder", fix="name another")


def _files(folder: Path) -> list[str]:
    """Names of a folder's files, also below it, in order; no hidden ones."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in map(Path.as_posix, found) if name != SUMS and _is_inside(name))


def _fill(target: Path, folder: Path) -> None:
    """Copies a folder's files and writes down their checksums."""
    names = _files(folder)
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, target / name)
    (target / SUMS).write_text("".join(f"{_checksum(target / name)}  {name}\n" for name in names), encoding="utf-8")


def _copy(place: Path, target: Path) -> list[str]:
    if not place.is_dir():
        raise CheckpointError(f"There is no folder {place}", expected="a folder that `ehr-tl push` wrote")
    refuse_executable(place, "a checkpoint in safetensors format")
    sums = _sums(place / SUMS)
    require_files(place, *sums)
    for name, checksum in sums.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place / name, target / name)
        _verify(target / name, name, checksum)
    return list(sums)


def _download(repository: str, target: Path) -> list[str]:
    """Fetches one state of a repository: what changes meanwhile is another's."""
    hub = _hub()
    revision = hub.repo_info(repository).sha
    with TemporaryDirectory() as folder:

        def fetch(name: str) -> None:
            hub.hf_hub_download(repository, name, revision=revision, local_dir=folder)

        there = hub.list_repo_files(repository, revision=revision)
        if SUMS in there:
            fetch(SUMS)
        sums = _sums(Path(folder) / SUMS)
        if missing := sorted(sums.keys() - set(there)):
            raise CheckpointError(f"hf://{repository} is not complete: {missing[0]} is missing", fix="push it again")
        for name in sums:
            fetch(name)
        return _copy(Path(folder), target)


def _sums(path: Path) -> dict[str, str]:
    """Name -> checksum of the files that a place should hold."""
    if not path.is_file():
        raise CheckpointError(f"There is no {SUMS} beside the checkpoint", expected="a place `ehr-tl push` wrote to")
    lines = [_LINE.fullmatch(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    if not lines or not all(line is not None and _is_inside(line[2]) for line in lines):
        raise CheckpointError(f"{SUMS} is not what `ehr-tl push` writes", fix=COPY_AGAIN)
    sums = {line[2]: line[1] for line in lines if line is not None}
    if CONFIG not in sums:
        raise CheckpointError(f"{SUMS} names no {CONFIG}", expected="a checkpoint", fix=COPY_AGAIN)
    return sums


def _is_inside(name: str) -> bool:
    """Whether a name leads to a file of the folder itself, by the one way to write it, and to no hidden one."""
    path = PurePosixPath(name)
    return not path.is_absolute() and not any(part.startswith(".") for part in path.parts) and str(path) == name


def _verify(path: Path, name: str, checksum: str) -> None:
    if _checksum(path) != checksum:
        raise CheckpointError(f"{name} is not what was pushed: its checksum differs from {SUMS}", fix=COPY_AGAIN)


def _checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hub() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(token=os.environ.get(_TOKEN) or False)


@contextmanager
def _reaching(place: str) -> Iterator[None]:
    """Tells what went wrong on the way; no more than its kind, since a client's message may quote what it sent."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise CheckpointError(
            f"{place} cannot be reached: {type(error).__name__}{f', status {status}' if status else ''}",
            expected=f"a hub that answers, and in the variable {_TOKEN} a token that may do this",
            fix="try again later, or use a shared folder",
        ) from None
