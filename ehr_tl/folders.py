"""A run folder: who may read it, what may be written into it, and how it is made anew."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from ehr_tl.errors import RunError
from ehr_tl.files import LOCK
from ehr_tl.manifest import NAME as MANIFEST
from ehr_tl.manifest import Manifest

#: The run's own copy of its pipeline file.
PIPELINE = "pipeline.yaml"

#: What `ehr-tl learning-curve` found of a run; the report shows it.
CURVE = "learning_curve.json"


def make_private(folder: Path) -> None:
    """Makes a folder that only its owner can read: it will hold patients' data."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file", expected="a folder", fix="name another one with --out")
    if folder.is_dir() and not (folder / MANIFEST).is_file() and any(map(_is_foreign, folder.iterdir())):
        raise RunError(
            f"{folder} holds something else",
            expected="a new or empty folder, or an earlier run",
            fix="name another folder with --out",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
    except OSError as error:
        raise RunError(
            f"The folder {folder} cannot be made: {error.strerror}", fix="name another one with --out"
        ) from None


def _is_foreign(path: Path) -> bool:
    """Whether a file is not one that a run leaves when it is killed in its first moments."""
    return path.name != LOCK and path.suffix != ".partial"


def command(folder: Path, manifest: Manifest) -> str:
    """The command that makes what a folder holds anew."""
    asked = manifest.settings
    if "run" in asked:
        words = ["score", asked["run"], "--export", asked["export"], "--out", folder]
        words += ["--as-of", asked["as_of"]] if asked["as_of"] else []
    else:
        words = ["run", folder / PIPELINE, "--out", folder]
    return shlex.join(["ehr-tl", *map(str, words)])


def refuse_scored(folder: Path) -> None:
    """Sees to it that new patients who were scored with a run are not taken for a run.

    Raises:
        RunError: The folder holds such patients.
    """
    manifest = Manifest.read(folder) if (folder / MANIFEST).is_file() else Manifest({})
    if "run" in manifest.settings:
        raise RunError(
            f"{folder} holds new patients, scored with the run {manifest.settings['run']}",
            expected="a folder that `ehr-tl run` made",
            fix=f"to score them anew: `{command(folder, manifest)}`; for a run, name another folder",
        )


def refuse_run(folder: Path) -> None:
    if (folder / MANIFEST).is_file() and "run" not in Manifest.read(folder).settings:
        raise RunError(
            f"--out {folder} is a run",
            expected="a new or empty folder, or one with patients scored before",
            fix="name another folder with --out",
        )
