from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
from typer.main import get_command

from ehr_tl.cli.main import app


@pytest.mark.slow
def test_readme_example_runs(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testfile(str(repository / "README.md"), module_relative=False, optionflags=flags)
    assert result.attempted > 8
    assert result.failed == 0
    assert (tmp_path / "runs" / "demo" / "manifest.json").is_file()


def test_readme_links_lead_somewhere(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert len(links) >= 4
    assert [link for link in links if not (repository / link).exists()] == []


def test_readme_shows_every_command_with_its_options(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8").replace("\\|", "|")
    shown = re.findall(r"^\| `ehr-tl ([a-z|-]+) ([^`]*)`", text, re.MULTILINE)
    for name, command in get_command(app).commands.items():
        usage = [rest for names, rest in shown if name in names.split("|")]
        assert usage, f"README does not show ehr-tl {name}"
        for option in command.params:
            if option.param_type_name == "option":
                assert any(option.opts[0] in rest for rest in usage), f"README does not show {name} {option.opts[0]}"
