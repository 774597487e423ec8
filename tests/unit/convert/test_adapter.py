"""Manifests are read strictly; an adapter lays itself on the one that it extends."""

import json
import sys
from importlib import invalidate_caches
from pathlib import Path

import pytest

from ehr_tl.convert import adapter_names, load_adapter
from ehr_tl.convert.adapter import GROUP, adapter_folder, adapter_packages
from ehr_tl.errors import AdapterError
from ehr_tl.resources import bundled


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter.yaml").write_text(f"name: mine\ntitle: Mine\nextends: fhir_r4\n{text}")
    return folder


@pytest.mark.parametrize("name", [path.parent.name for path in bundled("adapters").glob("*/adapter.yaml")])
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
    with pytest.raises(AdapterError, match=r"no adapter 'fhir_r5'.*fhir_r4, .*mimic_iv, .*synthea"):
        load_adapter("fhir_r5")


def test_adapters_that_extend_one_another(tmp_path):
    write(tmp_path / "a", "")
    (tmp_path / "a" / "adapter.yaml").write_text("extends: b\n")
    write(tmp_path / "b", "")
    (tmp_path / "b" / "adapter.yaml").write_text("extends: a\n")
    with pytest.raises(AdapterError, match="leads back"):
        load_adapter(tmp_path / "a")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution with entry points for adapters on `sys.path`, and returns the folder of its modules."""
    loaded = set(sys.modules)

    def put(distribution: str, **points: str) -> Path:
        site = tmp_path / f"site_{distribution}"
        info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"[{GROUP}]", *(f"{name} = {value}" for name, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(site))
        invalidate_caches()
        return site

    yield put
    for name in set(sys.modules) - loaded:
        if name.startswith("brought_"):
            del sys.modules[name]


def test_installed_packages_bring_adapters(install):
    site = install("hospital-adapters", north="brought_north", south="brought_all.south", plain="brought_plain.reader")
    write(site / "brought_north", "")  # a folder without __init__.py will do
    write(site / "brought_all" / "south", "systems: {urn:south: SOUTH}\n")
    for folder in (site / "brought_all", site / "brought_all" / "south"):
        (folder / "__init__.py").touch()
    write(site / "brought_plain", "")
    (site / "brought_plain" / "reader.py").write_text("raise RuntimeError('nothing of it is executed')")
    assert {"north", "south", "plain", "fhir_r4"} <= set(adapter_names())
    assert adapter_packages()["south"] == "hospital-adapters"
    assert adapter_packages()["fhir_r4"] == "ehr_tl"
    assert adapter_folder("north") == site / "brought_north"
    assert adapter_folder("plain") == site / "brought_plain"
    assert load_adapter("south").manifest.systems["urn:south"] == "SOUTH"


def test_an_adapter_may_extend_one_that_is_installed(install, tmp_path):
    write(install("hospital-adapters", north="brought_north") / "brought_north", "systems: {urn:north: NORTH}\n")
    folder = write(tmp_path / "mine", "")
    (folder / "adapter.yaml").write_text("name: mine\ntitle: Mine\nextends: north\n")
    assert load_adapter(folder).manifest.systems["urn:north"] == "NORTH"


def test_a_shipped_name_wins(install):
    write(install("impostor", fhir_r4="brought_fake") / "brought_fake", "")
    assert adapter_folder("fhir_r4") == bundled("adapters") / "fhir_r4"
    assert adapter_packages()["fhir_r4"] == "ehr_tl"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("brought_absent", "there is no module brought_absent"),
        ("brought_absent.inner", "importing brought_absent.inner fails with ModuleNotFoundError"),
        ("brought_faulty.inner", "importing brought_faulty.inner fails with ZeroDivisionError"),
        ("brought_empty", r"beside brought_empty lies no adapter\.yaml"),
        ("no module!", "importing no module! fails"),
    ],
)
def test_a_broken_entry_point_names_its_package(install, value, why):
    site = install("broken-adapters", north=value)
    for name, text in (("brought_faulty", "1 / 0"), ("brought_empty", "")):
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(text)
    with pytest.raises(AdapterError, match=f"The package broken-adapters should bring the adapter north, but {why}"):
        load_adapter("north")
    assert load_adapter("fhir_r4")


def test_two_packages_with_one_name(install):
    for package in ("first-adapters", "second-adapters"):
        write(install(package, north="brought_north") / "brought_north", "")
    with pytest.raises(AdapterError, match="adapter north: first-adapters, second-adapters"):
        load_adapter("north")
