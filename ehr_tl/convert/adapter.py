"""An adapter: how one kind of source becomes events. A folder of declarative files, read strictly.

::

    adapters/<name>/adapter.yaml         the manifest, `Manifest` below
    adapters/<name>/views/*.json         SQL-on-FHIR ViewDefinitions: what each event is read from
    adapters/<name>/concept_maps/*.json  FHIR R4 ConceptMaps: local codes to standard ones
    adapters/<name>/code_systems/*.json  FHIR R4 CodeSystems and ValueSets: what lies above codes, and what they mean

An adapter that `extends` another takes over all of its files and keys. Its own go before; null takes a key away.

Other packages can bring adapters. In their `pyproject.toml` they name the package, or a module, whose folder holds the
`adapter.yaml`; nothing of it is executed but the packages around it::

    [project.entry-points."ehr_tl.adapters"]
    my_hospital = "my_package.my_hospital"
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import orjson
import yaml

from ehr_tl.concepts import TEXT
from ehr_tl.config import Within, build
from ehr_tl.convert.concept_maps import ConceptMaps
from ehr_tl.convert.naming import LOCAL, Naming
from ehr_tl.convert.terminology import TERMINOLOGIES, Terminology, TerminologyFault
from ehr_tl.convert.units import Scale, check_scales
from ehr_tl.errors import AdapterError, ExportError
from ehr_tl.fhir.export import Export, open_export
from ehr_tl.fhir.versions import refuse_other_versions
from ehr_tl.fhir.views import View, compile_view
from ehr_tl.resources import bundled
from ehr_tl.tables.export import open_tables
from ehr_tl.tables.spec import LookUp, Table, check_tables
from ehr_tl.wording import counted

#: The group of entry points by which installed packages bring adapters: name -> package or module.
GROUP = "ehr_tl.adapters"

#: Columns that the converter itself supplies for the time rules.
JOINED_TIMES = ("visit_end",)


@dataclass(frozen=True)
class EventRule:
    """How the rows of one view become events.

    Attributes:
        time: Alternatives, tried in turn: "recorded, onset?" means that both are read and the later one counts, and
            that the alternative holds if `recorded` is there. `visit_end` is the end of the encounter that the row
            names; of a visit that is not over nothing is known yet. No alternatives: a static fact.
        begins: A date without a time means its first moment (births), not its last.
        in_visit: A date without a time means at the latest the end of the encounter that the row names.
        undated: Without a time that can be believed, and is known to the day, it is a static fact (someone is dead).
        code: The code of every event of the view, which then needs no columns for it.
        prefix: First part of the code: `VISIT_TYPE` makes `VISIT_TYPE//SNOMED//185347001`.
        apart: The prefix makes another fact of it, such as a mother's diabetes: it does not count for the code below.
        bare: The system whose codes follow the prefix without its name: `VISIT_START//IMP`.
        exclude: Column -> values, in any case, with which a row gives no event; one of those of a collection is enough.
    """

    time: tuple[str, ...] = ()
    begins: bool = False
    in_visit: bool = False
    undated: bool = False
    code: str | None = None
    prefix: str | None = None
    apart: bool = False
    bare: str | None = None
    exclude: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Joins:
    """Views that other resources are joined with: columns `id`, and what `convert.index` reads of them."""

    patients: str = "patient_key"
    visits: str = "visit_key"
    drugs: str = "drug_key"
    devices: str = "device_key"

    @property
    def views(self) -> tuple[str, ...]:
        return self.patients, self.visits, self.drugs, self.devices


@dataclass(frozen=True)
class Plausible:
    """What is not believed.

    Times outside of `earliest` to `latest` are set aside. Quantities of `value` and beyond, either way, are flagged,
    whatever their code; each code's own bounds are in `Manifest.scales`.
    """

    earliest: str = "1850-01-01"
    latest: str = "2100-01-01"
    value: float = 1e12


@dataclass(frozen=True)
class Manifest:
    """`adapter.yaml`.

    Attributes:
        name: Name of the folder.
        title: What it reads, in a line.
        extends: Adapter that this one builds on.
        time_zone: Of dates, and of times without an offset.
        synthetic: Nobody in the export exists.
        notice: Attribution or warning for every page made from it.
        dates_shifted: Each patient's dates were moved by an amount of their own.
        slot_hours: How dense the records are: the width in hours of a time slot of sequences that are made of them.
        index_from: Earliest honest prediction time, as "end - 3285 days".
        history_from: Before this, how much is on record depends on what came later; models do not look there.
        lasting: Types of resources that they look at all the same, whatever their age.
        systems: URL of a standard code system -> its short name. Of several codings the first system here wins.
        local_systems: The same for systems that others do not know; they come after all standard ones.
        forms: Short name -> how its codes are written: `icd` puts the dot after the third character, `icd9` as ICD-9-CM
            does (E-codes after the fourth), `icd9_procedure` after the second.
        no_code: System -> codes that say that there is no code ("*": all).
        nothing_known: System -> codes that say that nothing is known or present; such a resource gives no event.
        denials: System -> codes of answers that deny what is asked: "Pneumonia: absent" is no pneumonia.
        events: View -> rule.
        joins: Names of the views that others are joined with.
        plausible: Bounds of what is believed.
        scales: Code -> unit and bounds of its values, before those of `ehr_tl/convert/scales.yaml`.
        units: A text that the source writes for a unit -> what it means in UCUM.
        recognise: What `ehr-tl doctor` knows the source by: parts of `meta.profile` or of code systems.
        tables: The export is tables, CSV or Parquet: name -> what their rows become (`ehr_tl.tables.spec`).
        look_ups: Tables that others are joined with.
    """

    name: str
    title: str
    events: dict[str, EventRule]
    systems: dict[str, str]
    extends: str | None = None
    time_zone: str = "UTC"
    synthetic: bool = False
    notice: str = ""
    dates_shifted: bool = False
    slot_hours: Annotated[float, Within(0.01, 10_000)] | None = None
    index_from: str | None = None
    history_from: str | None = None
    lasting: tuple[str, ...] = ()
    local_systems: dict[str, str] = field(default_factory=dict)
    forms: dict[str, str] = field(default_factory=dict)
    no_code: dict[str, tuple[str, ...]] = field(default_factory=dict)
    nothing_known: dict[str, tuple[str, ...]] = field(default_factory=dict)
    denials: dict[str, tuple[str, ...]] = field(default_factory=dict)
    joins: Joins = Joins()
    plausible: Plausible = Plausible()
    scales: dict[str, Scale] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    recognise: tuple[str, ...] = ()
    tables: dict[str, Table] = field(default_factory=dict)
    look_ups: dict[str, LookUp] = field(default_factory=dict)


@dataclass(frozen=True)
class Adapter:
    """A manifest with its views compiled, its ConceptMaps and its terminology read.

    Attributes:
        manifest: The manifest, merged with those that it extends.
        views: Name -> compiled view, for every view that the manifest names.
        naming: How events write codes.
        concept_maps: What codes are mapped to.
        terminology: What the hospital's CodeSystems and ValueSets say of codes.
        zone: The time zone.
        earliest, latest: Bounds of plausible times.
        files: Every file that it was read from.
    """

    manifest: Manifest
    views: dict[str, View]
    naming: Naming
    concept_maps: ConceptMaps
    terminology: Terminology
    zone: ZoneInfo
    earliest: datetime
    latest: datetime
    files: tuple[Path, ...]

    @property
    def systems(self) -> frozenset[str]:
        """Short names of code systems that do not come from the records: they are the manifest's, or ours."""
        manifest = self.manifest
        roles = (self.naming.system(rule.bare) for rule in manifest.events.values() if rule.bare)
        return frozenset({TEXT, LOCAL, *manifest.systems.values(), *manifest.local_systems.values(), *roles})

    def opened(self, export: str | Path | Export) -> Export:
        """An export as this adapter reads it: its FHIR resources, or its tables as such.

        Raises:
            ExportError: It cannot be read, or holds nothing that this adapter reads.
        """
        export = export if isinstance(export, Export) else open_export(export)
        if self.manifest.tables:
            return open_tables(export, self.manifest.tables, self.manifest.look_ups)
        if not export.files:
            raise ExportError(
                f"{export.path} holds tables ({counted(len(export.tables), 'file')}) and no FHIR, which the adapter "
                f"{self.manifest.name} reads",
                expected="an adapter that says what the tables hold, such as omop, meds or spreadsheet",
                fix="make one with: ehr-tl adapters new my_hospital --from spreadsheet",
            )
        refuse_other_versions(export)
        return export

    def index_from(self, end: datetime | None) -> datetime | None:
        """The earliest honest prediction time in an export that ends at `end`."""
        return _before(self.manifest.index_from, end) if end else None

    def history_from(self, end: datetime | None) -> datetime | None:
        """The beginning of what models may look at in an export that ends at `end`."""
        return _before(self.manifest.history_from, end) if end else None


def load_adapter(name: str | Path | Adapter, concept_maps: Sequence[str | Path] = ()) -> Adapter:
    """Reads an adapter and all that it extends, and checks every file of it.

    Args:
        name: A folder, or the name of an adapter that ships or is installed (`adapter_names`); one that is loaded is
            returned as it is.
        concept_maps: FHIR R4 ConceptMap, CodeSystem and ValueSet files, or folders of such; the maps go before those of
            the adapter, in the order given, those of a folder by their names.

    Raises:
        AdapterError: There is no such adapter, or a file of it, or one that was given, is wrong; the message names file
            and key. Or a loaded adapter is to be given more maps.
    """
    if isinstance(name, Adapter):
        if concept_maps:
            raise AdapterError("An adapter that is loaded takes no more maps", fix="give them to load_adapter")
        return name
    folders = _lineage(adapter_folder(name))
    merged: dict[str, Any] = {}
    for folder in reversed(folders):
        merged = _merge(merged, _yaml(folder / "adapter.yaml"))
    where = str(folders[0] / "adapter.yaml")
    manifest = build(Manifest, merged, where, AdapterError)
    check_tables(manifest.tables, manifest.look_ups, where)
    files = {path.name: path for folder in reversed(folders) for path in sorted((folder / "views").glob("*.json"))}
    names = [*manifest.events, *manifest.joins.views]
    views = {view: _view(view, files, where) for view in names}
    given = [path for each in concept_maps for path in _given_files(each)]
    maps = [(path, ("ConceptMap",)) for folder in folders for path in sorted((folder / "concept_maps").glob("*.json"))]
    terms = [(path, TERMINOLOGIES) for folder in folders for path in sorted((folder / "code_systems").glob("*.json"))]
    said = [*((path, ("ConceptMap", *TERMINOLOGIES)) for path in given), *maps, *terms]
    resources = [(path, _json(path, *kinds)) for path, kinds in said]
    naming = Naming({**manifest.systems, **manifest.local_systems}, manifest.forms)
    for view, rule in manifest.events.items():
        _check_rule(view, rule, views[view], where)
    check_scales(manifest.scales, manifest.units, where)
    return Adapter(
        manifest,
        views,
        naming,
        ConceptMaps([each for each in resources if each[1]["resourceType"] == "ConceptMap"], naming),
        _terminology(resources, naming),
        _zone(manifest.time_zone, where),
        _date(manifest.plausible.earliest, where),
        _date(manifest.plausible.latest, where),
        (
            *(folder / "adapter.yaml" for folder in folders),
            *(files[f"{view}.json"] for view in dict.fromkeys(names)),
            *(path for path, _ in resources),
        ),
    )


def _given_files(path: str | Path) -> Iterator[Path]:
    """A file, or the JSON files of a folder by their names."""
    if not str(path).strip():
        raise AdapterError("--concept-map is empty", expected="a file or folder")
    path = Path(path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        found = "holds no *.json" if path.is_dir() else "is no file"
        raise AdapterError(
            f"--concept-map {path} {found}", expected="a FHIR R4 ConceptMap as JSON, or a folder of such"
        )
    yield from files


def _terminology(resources: list[tuple[Path, dict[str, Any]]], naming: Naming) -> Terminology:
    said = Terminology()
    for path, resource in resources:
        if resource["resourceType"] in TERMINOLOGIES:
            try:
                said.read(resource, naming)
            except TerminologyFault as fault:
                raise AdapterError(f"{path}: {fault}", expected=f"a FHIR R4 {resource['resourceType']}") from None
    return said


def adapter_folder(name: str | Path) -> Path:
    """The folder of an adapter given by name or path; of two with one name the shipped one counts.

    Raises:
        AdapterError: There is none, or the package that should bring it does not.
    """
    for folder in (Path(name), bundled("adapters") / str(name)):
        if (folder / "adapter.yaml").is_file():
            return folder
    if points := _brought().get(str(name)):
        return _brought_folder(points)
    raise AdapterError(
        f"There is no adapter {str(name)!r}",
        expected=f"a folder with an adapter.yaml, or one of {', '.join(adapter_names())}",
    )


def adapter_names() -> list[str]:
    """Names of the adapters that ship, and of those that installed packages bring."""
    return sorted(adapter_packages())


def adapter_packages() -> dict[str, str]:
    """Name of every adapter -> the installed package that brings it."""
    shipped = {path.parent.name: "ehr_tl" for path in bundled("adapters").glob("*/adapter.yaml")}
    return {name: _package(points[0]) for name, points in _brought().items()} | shipped


def _brought() -> dict[str, list[EntryPoint]]:
    """The entry points of installed packages, by name."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def _brought_folder(points: list[EntryPoint]) -> Path:
    point = points[0]
    if len(points) > 1:
        raise AdapterError(
            f"Several packages bring an adapter {point.name}: {', '.join(sorted(map(_package, points)))}",
            fix="uninstall all but one of them, or give the adapter's folder in place of its name",
        )
    try:
        spec = find_spec(point.module)
    except Exception as error:  # the packages around it are executed: anything may happen there
        raise _broken(point, f"importing {point.value} fails with {type(error).__name__}") from error
    if spec is None:
        raise _broken(point, f"there is no module {point.value}")
    places = [*(spec.submodule_search_locations or []), *([str(Path(spec.origin).parent)] if spec.has_location else [])]
    for folder in map(Path, places):
        if (folder / "adapter.yaml").is_file():
            return folder
    raise _broken(point, f"beside {point.value} lies no adapter.yaml")


def _broken(point: EntryPoint, why: str) -> AdapterError:
    return AdapterError(
        f"The package {_package(point)} should bring the adapter {point.name}, but {why}",
        expected=f"an entry point in the group {GROUP} that names a package or module whose folder holds adapter.yaml",
        fix=f"install {_package(point)} anew, uninstall it, or give an adapter's folder in place of its name",
    )


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _lineage(folder: Path) -> list[Path]:
    """The folder and those that it extends, nearest first."""
    folders = [folder]
    while parent := _yaml(folders[-1] / "adapter.yaml").get("extends"):
        sibling = folders[-1].parent / str(parent)
        folders.append(sibling if (sibling / "adapter.yaml").is_file() else adapter_folder(parent))
        if folders[-1] in folders[:-1]:
            raise AdapterError(f"{folder / 'adapter.yaml'}: extends leads back to {folders[-1].name}")
    return folders


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`: mappings are merged (keys of `over` first), null takes away.

    What a table's element is taken from is not merged: it is said anew.
    """
    both = {**over, **{key: value for key, value in base.items() if key not in over}}
    for key in over.keys() & base.keys():
        if isinstance(over[key], dict) and isinstance(base[key], dict):
            both[key] = {**over[key], **base[key], **over[key]} if key == "elements" else _merge(base[key], over[key])
            both[key] = {name: value for name, value in both[key].items() if value is not None}
    return {key: value for key, value in both.items() if value is not None}


def _yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise AdapterError(f"{path}{f', line {mark.line + 1}' if mark else ''} is no valid YAML") from None
    if not isinstance(raw, dict):
        raise AdapterError(f"{path} is no YAML mapping", expected="the keys of an adapter's manifest")
    return raw


def _json(path: Path, *kinds: str) -> dict[str, Any]:
    """A FHIR resource of one of these types."""
    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise AdapterError(f"{path}, line {error.lineno} is no valid JSON") from None
    if not isinstance(value, dict) or value.get("resourceType") not in kinds:
        expected = " or ".join(f'"resourceType": "{kind}"' for kind in kinds)
        raise AdapterError(f"{path} is no {' or '.join(kinds)}", expected=expected)
    return value


def _view(name: str, files: dict[str, Path], where: str) -> View:
    path = files.get(f"{name}.json")
    if path is None:
        raise AdapterError(f"{where}: there is no view {name}", expected=f"a file views/{name}.json beside it")
    try:
        return compile_view(_json(path, "ViewDefinition"))
    except AdapterError as error:
        raise AdapterError(f"{path}: {error.problem}", expected=error.expected, fix=error.fix) from error


def _check_rule(name: str, rule: EventRule, view: View, where: str) -> None:
    """Every column that a rule names must be in its view."""
    times = [column for alternative in rule.time for column, _ in time_columns(alternative)]
    needed = ["patient", *times, *rule.exclude]
    if rule.code is None and "medication" not in view.columns:
        needed.append("code")
    if missing := [column for column in needed if column not in (*view.columns, *JOINED_TIMES)]:
        raise AdapterError(
            f"{where}: events.{name} needs the columns {', '.join(missing)}",
            expected=f"columns of the view {name}: {', '.join(view.columns)}",
        )


def time_columns(alternative: str) -> list[tuple[str, bool]]:
    """Columns of an alternative of `EventRule.time`, and whether each may be absent.

    Examples:
        >>> time_columns("recorded, onset?")
        [('recorded', False), ('onset', True)]
    """
    parts = [part.strip() for part in alternative.split(",")]
    return [(part.removesuffix("?"), part.endswith("?")) for part in parts]


def _zone(name: str, where: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise AdapterError(
            f"{where}: time_zone is {name!r}", expected="an IANA time zone such as Europe/Berlin"
        ) from None


def _date(text: str, where: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise AdapterError(f"{where}: {text!r} is no date", expected="YYYY-MM-DD") from None


def _before(rule: str | None, end: datetime) -> datetime | None:
    """Reads "end - 3285 days" or a date."""
    if rule is None:
        return None
    if found := re.fullmatch(r"end\s*-\s*(\d+)\s*days?", rule):
        return end - timedelta(days=int(found[1]))
    return _date(rule, "index_from or history_from")
