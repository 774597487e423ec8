"""What a newcomer types first: help that is quick, complete, and shows an example."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMANDS = (
    "run",
    "fetch",
    "convert",
    "cohort",
    "train",
    "score",
    "explain",
    "report",
    "doctor",
    "coverage",
    "embed",
    "study",
    "learning-curve",
    "push",
    "pull",
)
HEAVY = ("torch", "shap", "transformers", "lightgbm", "sklearn", "polars", "pandas", "scipy", "aces", "plotly")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['ehr-tl', '--help']\n"
        "from ehr_tl.cli.main import main\n"
        "try: main()\n"
        f"finally: print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert "LOADED []" in done.stdout
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_help_is_there_at_once() -> None:
    def cpu() -> float:
        spent = os.times()
        return spent.children_user + spent.children_system

    taken = []
    for _ in range(3):
        before, start = cpu(), time.monotonic()
        subprocess.run([Path(sys.executable).parent / "ehr-tl", "--help"], capture_output=True, check=True)
        taken.append(min(cpu() - before, time.monotonic() - start))
    assert min(taken) < 0.5


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_its_arguments_and_shows_an_example(name: str, ehr_tl) -> None:
    shown = ehr_tl(name, "--help")
    assert shown.code == 0
    assert f"Example: ehr-tl {name} " in shown.out
    assert "\\[" not in shown.out
    arguments = shown.out.split("Arguments:")[1].split("Options:")[0].strip().splitlines()
    for line in arguments:
        assert len(line.split("[required]")[0].split()) > 2, f"{name}: no word on {line.strip()}"


def test_shown_examples_are_commands_that_exist(ehr_tl) -> None:
    for name in COMMANDS:
        shown = ehr_tl(name, "--help").out
        example = " ".join(shown.split("Example: ehr-tl ")[1].split())
        options = [word for word in example.split() if word.startswith("--")]
        assert all(option in shown.split("Example:")[0] for option in options)


def test_version_and_nothing(ehr_tl) -> None:
    assert ehr_tl("--version").out.startswith("ehr_tl ")
    assert "Usage: ehr-tl" in ehr_tl().text


def test_unknown_command_or_option_is_the_users(ehr_tl) -> None:
    for arguments in (["rnu", "demo"], ["run", "demo", "--exprot", "x"], ["run", "demo", "--threads", "0"], ["run"]):
        said = ehr_tl(*arguments)
        assert said.code == 2 and "Error:" in said.err and "Traceback" not in said.err
