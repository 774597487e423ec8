"""Manifests are read strictly; an adapter lays itself on the one that it extends."""

import json
from pathlib import Path

import pytest

from ehr_tl.convert import adapter_names, load_adapter
from ehr_tl.errors import AdapterError
from ehr_tl.resources import bundled


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter.yaml").write_text(f"name: mine\ntitle: Mine\nextends: fhir_r4\n{text}")
    return folder


@pytest.mark.parametrize("name", adapter_names())
def test_shipped_adapters_load_and_use_every_file(name):
    adapter = load_adapter(name)
    assert adapter.manifest.name == name
    folder = bundled("adapters") / name
    files = {path for path in folder.rglob("*") if path.suffix in (".json", ".yaml") and "examples" not in path.parts}
    assert files <= set(adapter.files)
    assert (folder / "README.md").is_file()


def test_extending(tmp_path):
    adapter = load_adapter(write(tmp_path / "mine", "events: {procedure: null}\nsystems: {urn:ours: OURS}\n"))
    assert "procedure" not in adapter.manifest.events
    assert "procedure" not in adapter.views
    assert next(iter(adapter.manifest.systems.items())) == ("urn:ours", "OURS")
    assert adapter.manifest.systems["http://loinc.org"] == "LOINC"


def test_a_view_of_its_own_replaces_the_inherited_one(tmp_path):
    folder = write(tmp_path / "mine", "")
    view = json.loads((bundled("adapters") / "fhir_r4" / "views" / "procedure.json").read_text())
    view["select"][0]["column"].append({"name": "site", "path": "bodySite.first().text"})
    (folder / "views").mkdir()
    (folder / "views" / "procedure.json").write_text(json.dumps(view))
    assert "site" in load_adapter(folder).views["procedure"].columns


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time_zon: UTC\n", "unknown key 'time_zon'.*Did you mean 'time_zone'"),
        ("time_zone: Mars/Base\n", "time_zone is 'Mars/Base'"),
        ("events: {condition: {time: [reported]}}\n", "events.condition needs the columns reported"),
        ("events: {condition: {exclude: {colour: [red]}}}\n", "events.condition needs the columns colour"),
        ("events: {shoe: {time: [worn]}}\n", "there is no view shoe"),
        ("plausible: {earliest: yesterday}\n", "'yesterday' is no date"),
        ("events: [1\n", "line 5 is no valid YAML|line 4 is no valid YAML"),
        ("events: 3\n", "events is 3"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(AdapterError, match=message):
        load_adapter(write(tmp_path / "mine", text))


def test_a_wrong_view_names_its_file(tmp_path):
    folder = write(tmp_path / "mine", "")
    (folder / "views").mkdir()
    for text, message in (("{", "is no valid JSON"), ("{}", "is no ViewDefinition")):
        (folder / "views" / "procedure.json").write_text(text)
        with pytest.raises(AdapterError, match=rf"procedure\.json.*{message}"):
            load_adapter(folder)


def test_no_such_adapter():
    with pytest.raises(AdapterError, match=r"no adapter 'fhir_r5'.*fhir_r4, mimic_iv, synthea"):
        load_adapter("fhir_r5")


def test_adapters_that_extend_one_another(tmp_path):
    write(tmp_path / "a", "")
    (tmp_path / "a" / "adapter.yaml").write_text("extends: b\n")
    write(tmp_path / "b", "")
    (tmp_path / "b" / "adapter.yaml").write_text("extends: a\n")
    with pytest.raises(AdapterError, match="leads back"):
        load_adapter(tmp_path / "a")
