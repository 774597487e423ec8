"""What holds for every checkpoint folder, whoever made it: nothing in it is executed, and what is broken is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ehr_tl.errors import CheckpointError
from ehr_tl.files import read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"

#: How a checkpoint was made: `command`, `licence`, `settings` (name -> value), `timings` (step -> seconds), `history`
#: (losses).
PRETRAINING = "pretraining.json"

COPY_AGAIN = "copy the checkpoint again, all its files together"
ELSEWHERE = "take a checkpoint from someone whom you trust"

_EXECUTABLE = frozenset(
    [".bin", ".pt", ".pth", ".pkl", ".pk", ".pickle", ".dill", ".ckpt", ".joblib", ".npy", ".npz", ".py", ".so"]
)


def refuse_executable(path: Path, expected: str) -> None:
    """Looks for files that can execute code when they are opened, in the folder and below.

    Raises:
        CheckpointError: There is one.
    """
    unsafe = sorted(each.name for each in path.rglob("*") if each.suffix.lower() in _EXECUTABLE)
    if unsafe:
        raise CheckpointError(
            f"{path} holds {', '.join(unsafe)}, a kind of file that can execute code when it is opened",
            expected=expected,
            fix="remove it, or take a checkpoint in safetensors format from someone whom you trust",
        )


def require_files(path: Path, *names: str) -> None:
    """Raises `CheckpointError` where one of the files is missing."""
    missing = [each for each in names if not (path / each).is_file()]
    if missing:
        raise CheckpointError(
            f"{path} is no complete checkpoint: {', '.join(missing)} missing", fix="copy the whole folder again"
        )


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a file; one that names code to be executed is refused.

    Raises:
        CheckpointError: It is no JSON object, or has an `auto_map`.
    """
    config = read_object(path)
    if "auto_map" in config:
        raise CheckpointError(
            f"{path} names code of its own to be executed (auto_map)",
            expected="a checkpoint that needs none",
            fix=ELSEWHERE,
        )
    return config


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint."""
    try:
        value = read_json(path)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is no JSON object", fix="copy the checkpoint again")
    return value


def read_text(path: Path) -> str:
    """A text file of a checkpoint."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"{path} is no UTF-8 text", fix=f"save it as UTF-8, or {COPY_AGAIN}") from None


def cut_off(path: Path) -> CheckpointError:
    """What to raise for weights that safetensors cannot read."""
    return CheckpointError(f"{path} is broken or cut off", fix=COPY_AGAIN)
