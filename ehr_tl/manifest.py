"""The manifest of a run: what each stage read, with what it was made, what it cost and what it wrote."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ehr_tl import __version__
from ehr_tl.errors import RunError
from ehr_tl.files import fingerprint, read_json, write_json

NAME = "manifest.json"

_LIBRARIES = ("es-aces", "fhir.resources", "lightgbm", "meds", "numpy", "polars", "torch", "transformers")


@dataclass
class Manifest:
    """`manifest.json` of a run folder.

    Attributes:
        settings: What the run was asked for: pipeline, export, adapter, as-of date.
        stages: Stage name -> key, inputs, outputs, cost and notes of its last execution.
    """

    settings: dict[str, Any]
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Opens a run folder's manifest.

        Raises:
            RunError: The folder is no run.
        """
        path = folder / NAME
        if not path.is_file():
            raise RunError(
                f"{folder} is not a run: {NAME} is missing",
                expected="a folder that `ehr-tl run` made",
                fix="give the run's folder (by default runs/<pipeline>) or start one with `ehr-tl run PIPELINE`",
            )
        try:
            value = read_json(path)
            return cls(value["settings"], value["stages"])
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{path} cannot be read", fix="remove the run folder and run again") from None

    def write(self, folder: Path) -> None:
        environment = {
            "ehr_tl": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processors": os.cpu_count(),
            "libraries": {name: version(name) for name in _LIBRARIES},
        }
        value = {"settings": self.settings, "environment": environment, "stages": self.stages}
        write_json(folder / NAME, value)

    def is_fresh(self, stage: str, key: str, folder: Path) -> bool:
        """Whether the stage ran with the same inputs and its outputs are still what it wrote."""
        record = self.stages.get(stage)
        return record is not None and record["key"] == key and self.changed(stage, folder) is None

    def changed(self, stage: str, folder: Path, outputs: set[str] | None = None) -> str | None:
        """What was done to outputs of a stage that ran (all by default), in words; None if they are what it wrote."""
        for name, value in self.stages[stage]["outputs"].items():
            if outputs is not None and name not in outputs:
                continue
            if not (folder / name).exists():
                return f"{name} is missing"
            if fingerprint(folder / name) != value:
                return f"{name} is not what stage {stage} wrote: it is damaged, or was changed"
        return None


@dataclass
class Cost:
    """What a block took: wall and CPU seconds (children included), and its peak memory in MiB."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_mib: float = 0.0
    finished: str = ""


@contextmanager
def measured() -> Iterator[Cost]:
    """Measures a block; the fields are set when it ends."""
    cost = Cost()
    _reset_peak()
    wall, cpu = time.monotonic(), _cpu()
    try:
        yield cost
    finally:
        cost.seconds = round(time.monotonic() - wall, 2)
        cost.cpu_seconds = round(_cpu() - cpu, 2)
        cost.peak_memory_mib = round(_peak(), 1)
        cost.finished = datetime.now(UTC).isoformat(timespec="seconds")


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _reset_peak() -> None:
    with suppress(OSError):  # not Linux, or not allowed: the peak is then that of the whole process so far
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float:
    """Peak resident memory since the last reset, MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
