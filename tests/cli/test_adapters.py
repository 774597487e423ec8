"""`ehr-tl adapters`: what there is, one's own, and whether it does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from ehr_tl.cli.main import app

COMMANDS = ("list", "new", "check")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_that_exists(name: str, ehr_tl) -> None:
    shown = ehr_tl("adapters", name, "--help").out
    example = " ".join(shown.split("Example: ")[1].split())
    assert example.startswith(f"ehr-tl adapters {name}")
    assert all(word in shown.split("Example:")[0] for word in example.split() if word.startswith("--"))


def test_the_commands_are_shown_where_one_looks(ehr_tl, repository: Path) -> None:
    shown = ehr_tl("adapters").text
    assert re.findall(r"^  ([a-z]+)  ", shown, re.MULTILINE) == list(COMMANDS)
    assert max(map(len, (shown + ehr_tl("--help").out).splitlines())) <= 80
    readme = (repository / "README.md").read_text(encoding="utf-8").replace("\\|", "|")
    for name, command in get_command(app).commands["adapters"].commands.items():
        (usage,) = re.findall(rf"^\| `ehr-tl adapters {name}([^`]*)`", readme, re.MULTILINE)
        assert [p.opts[0] for p in command.params if p.param_type_name == "option" and p.opts[0] not in usage] == []


def test_list(ehr_tl) -> None:
    shown = ehr_tl("adapters", "list")
    assert shown.code == 0
    assert re.search(r"^fhir_r4 +ehr_tl  FHIR R4", shown.out, re.MULTILINE)
    assert re.search(r"^synthea +fhir_r4 +ehr_tl  Synthea", shown.out, re.MULTILINE)


def test_from_new_to_check(ehr_tl, tmp_path: Path, clinic) -> None:
    made = ehr_tl("adapters", "new", "my_hospital", "--from", "fhir_r4")
    folder = tmp_path / "my_hospital"
    assert made.code == 0 and "What to do next" in made.out
    assert {path.name for path in folder.iterdir()} == {
        *("adapter.yaml", "README.md", "concept_maps", "views", "examples")
    }
    assert "invented,2020-03-01T09:30" in (folder / "examples" / "first" / "out" / "events.csv").read_text()
    export = clinic.write_export(tmp_path / "export", clinic.hospital(2))
    checked = ehr_tl("adapters", "check", "my_hospital", export)
    assert checked.code == 0
    assert "1 example of my_hospital" in checked.out and "Patient.name" in checked.out
    assert clinic.CANARY not in checked.text


def test_what_is_commented_out_would_do(ehr_tl, tmp_path: Path) -> None:
    ehr_tl("adapters", "new", "mine", "--out", "there/it is")
    manifest = tmp_path / "there" / "it is" / "adapter.yaml"
    settings = re.sub(r"^#(?! [A-Za-z])", "", manifest.read_text(), flags=re.MULTILINE)
    assert "\nevents:\n  procedure: null" in settings and "\ntime_zone:" in settings
    manifest.write_text(settings)
    assert ehr_tl("adapters", "check", "there/it is").code == 2
    assert ehr_tl("adapters", "check", "there/it is", "--write").code == 0
    events = (manifest.parent / "examples" / "first" / "out" / "events.csv").read_text()
    assert "LAB//GLU" in events and "1950-01-31T23:00" in events
    assert ehr_tl("adapters", "check", "there/it is").code == 0


def test_tables_from_new_to_events(ehr_tl, tmp_path: Path) -> None:
    assert ehr_tl("adapters", "new", "my_hospital", "--from", "spreadsheet").code == 0
    manifest = tmp_path / "my_hospital" / "adapter.yaml"
    text = manifest.read_text()
    assert "what spreadsheet says of tables" in text and "# One row for each patient." in text
    assert "\n  labs:\n    file: labs\n" in text and "lookups" not in text
    assert ehr_tl("adapters", "check", "my_hospital").code == 0
    manifest.write_text(text.replace("file: patients", "file: Stammdaten").replace("id: patient_id", "id: PatNr"))
    export = tmp_path / "in"
    export.mkdir()
    (export / "STAMMDATEN.csv").write_text("PatNr;sex;birth_date;Name\n7;w;01.02.1950;Canary\n")
    checked = ehr_tl("adapters", "check", "my_hospital", "in")
    assert checked.code == 2  # its example still has the columns of `spreadsheet`
    assert "patients" in checked.err and "Canary" not in checked.text
    converted = ehr_tl("convert", "in", "--adapter", "my_hospital", "--out", "events")
    assert converted.code == 0, converted.err
    assert "Absent tables: visits, diagnoses, labs" in converted.out
    (export / "labs.csv").write_text("MRN;RESULT\n")
    refused = ehr_tl("convert", "in", "--adapter", "my_hospital", "--out", "events")
    assert refused.code == 2 and "tables.labs has no column patient_id or time or code or value." in refused.err


def test_an_adapter_may_extend_a_folder(ehr_tl, tmp_path: Path) -> None:
    ehr_tl("adapters", "new", "first")
    (tmp_path / "first" / "adapter.yaml").write_text("name: first\ntitle: First\nextends: fhir_r4\nsynthetic: true\n")
    assert ehr_tl("adapters", "new", "second", "--from", "first", "--out", "below/second").code == 0
    assert ehr_tl("adapters", "check", "below/second").code == 0
    assert str(tmp_path / "first") in (tmp_path / "below" / "second" / "adapter.yaml").read_text()


def test_an_example_that_fails_is_the_users(ehr_tl, tmp_path: Path) -> None:
    ehr_tl("adapters", "new", "mine")
    file = tmp_path / "mine" / "examples" / "first" / "out" / "events.csv"
    file.write_text(file.read_text().replace("182.0", "183.0"))
    checked = ehr_tl("adapters", "check", "mine")
    assert checked.code == 2
    assert "examples/first/out/events.csv, line 6" in checked.err and "183.0" in checked.err and "182.0" in checked.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["new", "there"], "there is there already"),
        (["new", "mine", "--out", "there"], "there is there already"),
        (["new", "synthea"], "There is an adapter synthea already"),
        (["new", "a/b"], "is no name for an adapter"),
        (["new", "mine", "--from", "fhir_r9"], "There is no adapter 'fhir_r9'"),
        (["check", "fhir_r9"], "There is no adapter 'fhir_r9'"),
        (["check", "synthea", "nowhere"], "There is no export at nowhere"),
    ],
)
def test_mistakes_are_named(ehr_tl, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "there").mkdir()
    result = ehr_tl("adapters", *arguments)
    assert result.code == 2 and said in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_an_adapter_without_examples_says_so(ehr_tl, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "adapter.yaml").write_text("name: bare\ntitle: Bare\nextends: fhir_r4\n")
    assert "has no examples" in ehr_tl("adapters", "check", "bare").out
