"""A tiny hospital as a FHIR export, a pipeline that learns it in seconds, and the command line run in this process."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from ehr_tl.cli.main import main

END = datetime(2026, 1, 1, tzinfo=UTC)
SNOMED, LOINC = "http://snomed.info/sct", "http://loinc.org"
RISK, OUTCOME = "44054006", "230690007"

#: Stands in every element of a resource that could tell who a patient is. Only the hospital's own files may hold it.
CANARY = "Wilhelmina-Canary"

PIPELINE = {
    "name": "stroke",
    "title": "Stroke within a year",
    "question": "Who is likely to have a stroke?",
    "outcome": "Stroke within 365 days",
    "adapter": "fhir_r4",
    "task": {
        "every": "365 days",
        "trigger": "INDEX",
        "predicates": {"stroke": {"code": f"SNOMED//{OUTCOME}"}},
        "windows": {
            "history": {
                "start": None,
                "end": "trigger",
                "start_inclusive": True,
                "end_inclusive": True,
                "index_timestamp": "end",
                "has": {"stroke": "(None, 0)"},
            },
            "outcome": {
                "start": "trigger",
                "end": "start + 365 days",
                "start_inclusive": False,
                "end_inclusive": True,
                "label": "stroke",
            },
        },
    },
    "lightgbm": {"rounds": 20, "trials": 1, "windows_days": [365]},
    "transformer": None,
    "evaluation": {"folds": 3, "resamples": 20, "capacity": 5},
}

Resources = dict[str, list[dict[str, Any]]]


def patient(key: str, birth: str = "1950-03-01", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": key,
        "identifier": [{"system": "urn:hospital:mrn", "value": f"{CANARY}-{key}"}],
        "name": [{"family": CANARY, "given": [key.upper()]}],
        "telecom": [{"system": "phone", "value": f"{CANARY}-phone"}],
        "address": [{"line": [f"{CANARY} street"]}],
        "gender": "female",
        "birthDate": birth,
        **more,
    }


def condition(key: str, subject: str, code: str, time: datetime | str) -> dict[str, Any]:
    return {
        "resourceType": "Condition",
        "id": key,
        "subject": {"reference": f"Patient/{subject}", "display": CANARY},
        "code": {"coding": [{"system": SNOMED, "code": code, "display": f"Disorder {code}"}]},
        "recordedDate": _instant(time),
        "note": [{"text": f"{CANARY} was told"}],
    }


def observation(key: str, subject: str, value: Any, time: datetime | str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": key,
        "status": "final",
        "subject": {"reference": f"Patient/{subject}", "display": CANARY},
        "code": {"coding": [{"system": LOINC, "code": "8480-6", "display": "Systolic blood pressure"}]},
        "effectiveDateTime": _instant(time),
        "valueQuantity": {"value": value, "unit": "mmHg", "system": "http://unitsofmeasure.org", "code": "mm[Hg]"},
        "note": [{"text": CANARY}],
    }


def _instant(time: datetime | str) -> str:
    return time if isinstance(time, str) else time.isoformat(timespec="seconds")


def hospital(patients: int = 60, seed: int = 0, prefix: str = "p", labelled: bool = True) -> Resources:
    """Patients seen every three months for four years; those with `RISK` mostly come to `OUTCOME` in the last two.

    Args:
        prefix: Of all ids; another one makes other patients.
        labelled: Whether outcomes are on record at all.
    """
    random = np.random.default_rng(seed)
    made: Resources = {"Patient": [], "Encounter": [], "Condition": [], "Observation": []}
    for number in range(patients):
        key, sick = f"{prefix}{number}", number % 2 == 0
        birth = END - timedelta(days=int(random.integers(12_000, 30_000)))
        gender = str(random.choice(["female", "male"]))
        made["Patient"].append(patient(key, f"{birth:%Y-%m-%d}", gender=gender))
        for visit in range(16):
            start = END - timedelta(days=4 * 365 - 90 * visit, hours=int(random.integers(24, 400)))
            made["Encounter"].append(
                {
                    "resourceType": "Encounter",
                    "id": f"{key}-e{visit}",
                    "status": "finished",
                    "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
                    "subject": {"reference": f"Patient/{key}"},
                    "period": {"start": _instant(start), "end": _instant(start + timedelta(hours=1))},
                }
            )
            pressure = round(float(random.normal(150 if sick else 120, 8)), 1)
            made["Observation"].append(observation(f"{key}-o{visit}", key, pressure, start))
        if sick:
            made["Condition"].append(condition(f"{key}-c0", key, RISK, END - timedelta(days=1400)))
        if labelled and random.random() < (0.7 if sick else 0.05):
            days = int(random.integers(20, 700))
            made["Condition"].append(condition(f"{key}-c1", key, OUTCOME, END - timedelta(days=days)))
    return made


def write_export(folder: Path, resources: Resources) -> Path:
    """Writes `Type.ndjson` files."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, found in resources.items():
        write_lines(folder / f"{kind}.ndjson", found)
    return folder


def write_lines(path: Path, resources: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in resources), encoding="utf-8")


def write_pipeline(path: Path, **changes: Any) -> Path:
    """Writes `PIPELINE`, some of its keys changed."""
    path.write_text(yaml.safe_dump(PIPELINE | changes, sort_keys=False), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


def command(*arguments: object) -> Result:
    """Runs `ehr-tl` in this process, as a shell would see it."""
    out, err, root, package = io.StringIO(), io.StringIO(), logging.getLogger(), logging.getLogger("ehr_tl")
    argv, handlers, level, environment = sys.argv, root.handlers[:], package.level, dict(os.environ)
    mask, signals = os.umask(0o022), {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    sys.argv, root.handlers[:] = ["ehr-tl", *map(str, arguments)], []
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv, root.handlers[:] = argv, handlers
        package.setLevel(level)
        os.umask(mask)
        for each, handler in signals.items():
            signal.signal(each, handler)
        os.environ.clear()
        os.environ.update(environment)
    return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def ehr_tl() -> Callable[..., Result]:
    """`ehr_tl("run", pipeline, "--export", folder)`: the command line, in this process."""
    return command


@pytest.fixture(scope="session")
def clinic() -> SimpleNamespace:
    """What makes exports and pipelines; the functions and constants above."""
    makers = (patient, condition, observation, hospital, write_export, write_lines, write_pipeline)
    constants = {"END": END, "RISK": RISK, "OUTCOME": OUTCOME, "CANARY": CANARY, "PIPELINE": PIPELINE}
    return SimpleNamespace(**{each.__name__: each for each in makers}, **constants)


@dataclass(frozen=True)
class Case:
    """A pipeline, an export, the run that was made of them, and what the command said."""

    pipeline: Path
    export: Path
    folder: Path
    result: Result


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A finished run. Not to be changed: copy it first."""
    top = tmp_path_factory.mktemp("clinic")
    pipeline, export = write_pipeline(top / "stroke.yaml"), write_export(top / "export", hospital())
    result = command("run", pipeline, "--export", export, "--out", top / "run", "--threads", 1)
    return Case(pipeline, export, top / "run", result)


@pytest.fixture
def copied(case: Case, tmp_path: Path) -> Case:
    """A copy of `case` for tests that change it."""
    shutil.copytree(case.folder, tmp_path / "run")
    pipeline = Path(shutil.copy(case.pipeline, tmp_path / "stroke.yaml"))
    return Case(pipeline, case.export, tmp_path / "run", case.result)
