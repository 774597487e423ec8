import json
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from ehr_tl.convert import convert

SNOMED, LOINC = "http://snomed.info/sct", "http://loinc.org"
MARY = {"resourceType": "Patient", "id": "mary", "gender": "female", "birthDate": "1950-02-01"}


def observation(key="o1", **more):
    return {
        "resourceType": "Observation",
        "id": key,
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": "2345-7", "display": "Glucose"}]},
        "subject": {"reference": "Patient/mary"},
        "effectiveDateTime": "2020-01-01T10:00:00Z",
    } | more


def condition(key="c1", **more):
    return {
        "resourceType": "Condition",
        "id": key,
        "code": {"coding": [{"system": SNOMED, "code": "44054006", "display": "Diabetes"}]},
        "subject": {"reference": "Patient/mary"},
        "recordedDate": "2020-01-01T10:00:00Z",
    } | more


def visit(key="e1", **more):
    return {
        "resourceType": "Encounter",
        "id": key,
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
        "subject": {"reference": "Patient/mary"},
        "period": {"start": "2020-01-01T08:00:00Z", "end": "2020-01-05T12:00:00Z"},
    } | more


class Converted:
    """An events folder with what tests ask for."""

    def __init__(self, events):
        self.events = events
        self.frame = events.scan().collect()
        self.coverage = events.coverage["resources"]

    def of(self, resource_id: str) -> list[dict]:
        return self.frame.filter(pl.col("resource_id") == resource_id).to_dicts()

    def codes_of(self, resource_id: str) -> list[str]:
        return [event["code"] for event in self.of(resource_id)]

    @property
    def quarantine(self) -> list[dict]:
        text = (self.events.folder / "quarantine.ndjson").read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def converted(tmp_path: Path):
    """Writes resources (or raw lines) as one NDJSON file and converts them."""

    def run(*resources, adapter="fhir_r4", folder="export"):
        export = tmp_path / folder
        export.mkdir(exist_ok=True)
        lines = [line if isinstance(line, str) else json.dumps(line) for line in resources]
        (export / "all.ndjson").write_text("\n".join(lines) + "\n")
        return Converted(convert(export, adapter, tmp_path / f"{folder}_events"))

    return run


@pytest.fixture
def fhir():
    """Makes resources about one patient, `fhir.mary`, and writes NDJSON."""
    return SimpleNamespace(mary=MARY, observation=observation, condition=condition, visit=visit, write=write_lines)


def write_lines(path: Path, *resources: dict | str) -> None:
    lines = [one if isinstance(one, str) else json.dumps(one) for one in resources]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def mixed_export(tmp_path: Path, fhir) -> Path:
    """Sixty patients, among them a merged one; repeats, broken lines and orphans, in two files and a Bundle."""
    count = 60
    people = [{"resourceType": "Patient", "id": f"p{n}", "gender": "male", "birthDate": "1950"} for n in range(count)]
    people[7]["link"] = [{"type": "replaced-by", "other": {"reference": "Patient/p8"}}]
    about = [{"subject": {"reference": f"Patient/p{n}"}} for n in range(count)]
    visits = [fhir.visit(f"e{n}", **about[n]) for n in range(count)]
    values = [fhir.observation(f"o{n}", **about[n], valueQuantity={"value": n, "unit": "mg/dL"}) for n in range(count)]
    values += [values[3], fhir.observation("orphan", subject={"reference": "Patient/nobody"}), "{broken"]
    terms = [
        {
            "resourceType": "CodeSystem",
            "id": f"cs{n}",
            "url": "http://snomed.info/sct",
            "concept": [{"code": "44054006", "property": [{"code": "parent", "valueCode": f"{n}"}]}],
        }
        for n in range(count)
    ]
    newer = values[5] | {"meta": {"versionId": "2"}, "status": "entered-in-error"}
    folder = tmp_path / "export"
    folder.mkdir()
    write_lines(folder / "Observation.ndjson", *values[::-1], newer, *visits)
    write_lines(folder / "Patient.ndjson", *people)
    write_lines(folder / "CodeSystem.ndjson", *terms[::-1])
    conditions = [fhir.condition(f"c{n}", **about[n], recordedDate="2020-12") for n in range(count)]
    bundle = {"resourceType": "Bundle", "entry": [{"resource": one} for one in [*conditions, conditions[0]]]}
    (folder / "conditions.json").write_text(json.dumps(bundle))
    return folder


def _everything(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: _content(path) for name, path in files.items()}


def _content(path: Path) -> bytes:
    if path.suffix != ".parquet":
        return path.read_bytes()
    return json.dumps(pl.read_parquet(path).to_dicts(), default=str).encode()


@pytest.fixture
def everything():
    """All files of a folder; of Parquet the content."""
    return _everything
