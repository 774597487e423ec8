"""The wheel holds what it should and nothing else, and works from another folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

#: All that may be in the wheel.
ALLOWED = re.compile(
    r"""
    ehr_tl/([a-z_]+/)*[a-z_]+\.py
  | ehr_tl/convert/scales\.yaml
  | ehr_tl/report/templates/[A-Za-z_]+\.(html|css|md)(\.j2)?
  | ehr_tl/sample/(PROVENANCE\.md | fhir/[A-Za-z]+\.ndjson\.zst)
  | ehr_tl/checkpoints/[a-z0-9_]+/(config\.json|model\.safetensors|vocabulary\.json|MODEL_CARD\.md
      |pretraining\.json|seen\.parquet|source/[a-z0-9_]+\.(txt|json))
  | ehr_tl/_bundled/pipelines/((pretraining|studies)/)?[a-z0-9_]+\.yaml
  | ehr_tl/_bundled/adapters/[a-z0-9_]+/(adapter\.yaml|README\.md|(views|concept_maps|code_systems)/[A-Za-z0-9_]+\.json)
  | ehr_tl/_bundled/adapters/[a-z0-9_]+/examples/[a-z0-9_]+/(in|out)/[\w./-]+
  | ehr_tl-[0-9.]+\.dist-info/(METADATA|WHEEL|RECORD|entry_points\.txt|licenses/LICENSE)
    """,
    re.VERBOSE,
)

LOAD_ALL_THAT_SHIPS = """
import ehr_tl
from ehr_tl.config import load_pipeline, pipeline_names
from ehr_tl.convert import load_adapter
from ehr_tl.resources import bundled, checkpoints, sample_export

adapters = [path.name for path in bundled("adapters").iterdir() if (path / "adapter.yaml").is_file()]
assert {"fhir_r4", "synthea", "mimic_iv"} <= set(adapters), adapters
for name in adapters:
    load_adapter(name)
assert "demo" in pipeline_names()
for name in pipeline_names():
    load_pipeline(name)
shipped = [path.name for path in checkpoints().iterdir()]
assert shipped
for name in shipped:
    ehr_tl.load_checkpoint(name)
assert (sample_export() / "Patient.ndjson.zst").is_file()
print(ehr_tl.__file__, bundled("adapters"), bundled("pipelines"), checkpoints(), sample_export(), sep="\\n")
"""


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(repository)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def members(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked by pip into a folder of its own; what it depends on comes from this environment."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return target


def run_there(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the installed package in `folder`; the checkout is not on its path."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def test_holds_nothing_stray(members: list[str]) -> None:
    assert [name for name in members if not ALLOWED.fullmatch(name)] == []


def test_holds_all_that_is_tracked(members: list[str], repository: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "ehr_tl", "adapters", "pipelines"], cwd=repository, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    expected = {
        re.sub("^(adapters|pipelines)/", r"ehr_tl/_bundled/\1/", name) for name in listed.stdout.split("\0")[:-1]
    }
    assert expected - set(members) == set()


def test_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 20e6


def test_help_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    shown = run_there(installed, tmp_path, str(installed / "bin" / "ehr-tl"), "--help").stdout
    for command in ("run", "convert", "cohort", "train", "score", "explain", "report", "doctor"):
        assert re.search(rf"^\s+{command}\b", shown, re.MULTILINE), command


def test_loads_all_that_ships_from_another_folder(installed: Path, tmp_path: Path) -> None:
    places = run_there(installed, tmp_path, sys.executable, "-c", LOAD_ALL_THAT_SHIPS).stdout.split()
    assert len(places) == 5
    assert all(Path(place).is_relative_to(installed) for place in places)


def test_converts_from_another_folder(installed: Path, tmp_path: Path) -> None:
    sample = installed / "ehr_tl" / "sample" / "fhir"
    command = str(installed / "bin" / "ehr-tl")
    run_there(installed, tmp_path, command, "convert", str(sample), "--adapter", "synthea", "--out", "events")
    assert (tmp_path / "events" / "metadata" / "coverage.json").is_file()
