"""What is installed is pinned: every dependency, and every dependency of one, stands in constraints.txt."""

from __future__ import annotations

import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def pinned(repository: Path) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def needed(name: str, extras: frozenset[str], found: set[tuple[str, frozenset[str]]]) -> None:
    """Adds to `found` the distribution, with extras, and all that it needs on this machine."""
    key = (canonicalize_name(name), extras)
    if key in found:
        return
    found.add(key)
    for requirement in map(Requirement, requires(name) or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            needed(requirement.name, frozenset(requirement.extras), found)


def test_constraints_are_what_is_needed(pinned: dict[str, str], repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    named = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["test"]
    found: set[tuple[str, frozenset[str]]] = set()
    for requirement in map(Requirement, named + project["build-system"]["requires"]):
        needed(requirement.name, frozenset(requirement.extras), found)
    assert {name for name, _ in found} == set(pinned)


def test_makefile_installs_the_pinned_torch_first(pinned: dict[str, str], repository: Path) -> None:
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    assert makefile.index(f"$(PIP) torch=={pinned['torch']}") < makefile.index("$(PIP) --editable .")
