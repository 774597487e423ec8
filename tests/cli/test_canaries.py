"""No name, address, identifier or free text of a patient leaves the record: canaries are planted, outputs searched.

Where they may be: `data/` of events is the record itself (a value that is text, a text where a code should be), and
`codes.parquet` says what codes mean. `quarantine.ndjson` names files as they are called, so that a hospital finds them,
whoever they are named after. All of these lie in a folder that only its owner can read.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ehr_tl.convert import convert
from ehr_tl.convert.emit import SET_ASIDE
from ehr_tl.doctor import diagnose
from ehr_tl.fhir.export import FAULTS

#: Stands in what resources say; and in what files and folders are called.
WORD, FILE = "Wilhelmina-Canary", "Mustermann-Canary"

#: Only these files of events may hold a `WORD`; only the last a `FILE`, and only in `file`.
RECORD = ("data/", "metadata/codes.parquet")
QUARANTINE = "quarantine.ndjson"

#: A line so long that the export is worth sharing among processes.
LONG = 5 << 20


def planted(resource: dict[str, Any]) -> dict[str, Any]:
    """The resource with a canary in every element that may hold words or tell who somebody is."""
    word = [{"text": WORD, "authorString": WORD, "time": "2020-01-01"}]
    common = {
        "text": {"status": "generated", "div": f"<div>{WORD}, born 1950</div>"},
        "identifier": [{"system": "urn:mrn", "value": f"{WORD}-{resource['id']}", "assigner": {"display": WORD}}],
        "extension": [{"url": "urn:x", "valueString": WORD}, {"url": "urn:y", "extension": [{"valueCode": WORD}]}],
        "contained": [{"resourceType": "Patient", "id": "in", "name": [{"text": WORD}]}],
        "note": word,
        "meta": {"tag": [{"system": "urn:t", "display": WORD}]},
        WORD: WORD,
    }
    return _worded({**common, **resource})


def _worded(value: Any) -> Any:
    """Every reference and coding gets a display, every concept a text."""
    if isinstance(value, list):
        return [_worded(item) for item in value]
    if not isinstance(value, dict):
        return value
    more = {"display": WORD} if "reference" in value or {"code", "system"} <= value.keys() else {}
    more |= {"text": WORD} if "coding" in value else {}
    return {**more, **{key: _worded(inner) for key, inner in value.items()}}


def patient(key: str, **more: Any) -> dict[str, Any]:
    return planted(
        {
            "resourceType": "Patient",
            "id": key,
            "name": [{"family": WORD, "given": [WORD], "text": WORD}],
            "telecom": [{"system": "phone", "value": WORD}],
            "address": [{"line": [WORD], "city": WORD, "postalCode": WORD, "text": WORD}],
            "contact": [{"name": {"family": WORD}, "address": {"city": WORD}, "telecom": [{"value": WORD}]}],
            "photo": [{"title": WORD, "url": f"https://example.org/{WORD}.jpg", "data": "QQ=="}],
            "communication": [{"language": {"text": WORD}}],
            "gender": "female",
            "birthDate": "1950-03-01",
            **more,
        }
    )


def about(kind: str, key: str, **more: Any) -> dict[str, Any]:
    """A resource of any type about the patient `p`, in the elements of all of them."""
    code = {"coding": [{"system": "http://snomed.info/sct", "code": "44054006"}, {"system": "urn:ours", "code": "X"}]}
    everything = {
        "resourceType": kind,
        "id": key,
        "status": "final" if kind in ("Observation", "DiagnosticReport") else "completed",
        "subject": {"reference": "Patient/p"},
        "patient": {"reference": "Patient/p"},
        "encounter": {"reference": "Encounter/e"},
        "code": code,
        "effectiveDateTime": "2020-01-02T10:00:00Z",
        "recordedDate": "2020-01-02T10:00:00Z",
        "authoredOn": "2020-01-02T10:00:00Z",
        "performedDateTime": "2020-01-02T10:00:00Z",
        "conclusion": WORD,
    }
    return planted(everything | more)


#: What is wrong with a resource, by what it is set aside for.
WRONG: dict[str, dict[str, Any]] = {
    "no_patient": {"subject": {"display": WORD, "identifier": {"value": WORD}}},
    "unknown_patient": {"subject": {"reference": f"Patient/{WORD}"}},
    "impossible_time": {"effectiveDateTime": f"2020-13-45 {WORD}"},
    "implausible_time": {"effectiveDateTime": "2999-01-01"},
    "bad_value": {"valueQuantity": {"value": WORD, "unit": WORD}},
    "does_not_fit": {"subject": [{"reference": f"Patient/{WORD}"}, {"reference": WORD}]},
}
KINDS = ("Condition", "Procedure", "AllergyIntolerance", "MedicationRequest", "DiagnosticReport", "Immunization")


def lines() -> Iterator[str | bytes | dict[str, Any]]:
    yield patient("p")
    yield patient("q", birthDate=f"in {WORD}")
    yield patient("r", birthDate="0000-00-00", gender=WORD)
    yield patient("p", meta={"versionId": WORD, "lastUpdated": WORD})  # repeated
    yield patient("s", identifier=[{"system": "urn:mrn", "value": f"{WORD}-p"}])  # shared
    yield patient("t", link=[{"type": "replaced-by", "other": {"reference": "Patient/p"}}])
    period = {"start": "2020-01-01T08:00:00Z", "end": "2020-01-05T12:00:00Z"}
    yield about("Encounter", "e", status="finished", period=period, reasonCode=[{"text": WORD}])
    yield about("Observation", "text", valueString=f"told {WORD}")
    yield about("Observation", "words", code={"text": f"Asked {WORD}"}, valueQuantity={"value": 7, "unit": WORD})
    yield about("Observation", "beyond", valueQuantity={"value": 1e300, "unit": WORD})
    yield about("Observation", "nothing", code={}, valueString=WORD)
    yield about("Observation", "group", subject={"reference": f"Group/{WORD}"})
    yield about("Observation", f"{WORD} born 1950", subject={})
    for reason, wrong in WRONG.items():
        yield about("Observation", f"wrong-{reason}", **wrong)
    for kind in KINDS:
        yield about(kind, f"sound-{kind}")
        yield about(kind, f"orphan-{kind}", subject={"reference": f"Patient/{WORD}"}, patient={"reference": WORD})
        yield about(kind, f"odd-{kind}", code=[WORD, {"coding": WORD}], medicationReference=[WORD, WORD])
    yield about("Spaceship", "x")
    yield json.dumps(patient("cut"))[:-30]
    yield json.dumps({"resourceType": WORD, WORD: [WORD]})
    yield json.dumps([WORD])
    yield b'{"resourceType": "Patient", "id": "b", "name": "' + WORD.encode() + b'\xff"}'
    yield f'{{"resourceType": "Observation", "id": "deep", "note": {"[" * 5000}"{WORD}"{"]" * 5000}}}'
    yield f'{{"resourceType": "Observation", "id": "deeper", "note": {"[" * 500}"{WORD}"{"]" * 500}}}'
    yield WORD
    yield about("DocumentReference", "long", description=WORD + "x" * LONG)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospital") / "export"
    (folder / FILE).mkdir(parents=True)
    texts = [line if isinstance(line, str | bytes) else json.dumps(line) for line in lines()]
    raw = b"\n".join(text if isinstance(text, bytes) else text.encode() for text in texts)
    (folder / FILE / "all.ndjson").write_bytes(raw)
    (folder / f"{FILE}.ndjson.gz").write_bytes(gzip.compress(raw)[:-9])
    (folder / f"{FILE}.ndjson.zst").write_bytes(raw)
    bundle = {"resourceType": "Bundle", "entry": [{"fullUrl": WORD, "resource": about("Condition", "c")}, {WORD: 1}]}
    (folder / f"{FILE}_123.json").write_text(json.dumps(bundle))
    (folder / f"{FILE}_cut.json").write_text(json.dumps(bundle)[:-5])
    (folder / f"{FILE}_odd.json").write_text(json.dumps(bundle | {"entry": {"resource": about("Condition", WORD)}}))
    with zipfile.ZipFile(folder / f"{FILE}.zip", "w") as archive:
        archive.writestr(f"{FILE}.json", json.dumps({"resourceType": "Bundle", "entry": [WORD]}))
    for name in (f"{FILE}.pdf", f"{FILE}.{FILE}", "Mr.Mustermann-Canary", f".{FILE}", f"{FILE}_manifest.json"):
        (folder / name).write_text('{"transactionTime": "2024-01-01T00:00:00Z"}')
    (folder / os.fsdecode(FILE.encode() + b"\xfc.json")).write_text(WORD)
    os.mkfifo(folder / f"{FILE}_pipe.json")
    return folder


def said(*arguments: object) -> tuple[int, str]:
    """Runs `ehr-tl` as a process of its own, whose workers may speak too."""
    code = "from ehr_tl.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, timeout=500)
    return done.returncode, (done.stdout + done.stderr).decode()


def search(folder: Path) -> None:
    """Whether canaries are where they may be, and nowhere else."""
    holding: dict[str, set[str]] = {WORD: set(), FILE: set()}
    for path in folder.rglob("*"):
        for canary, found in holding.items():
            if path.is_file() and canary.encode() in path.read_bytes():
                found.add(path.relative_to(folder).as_posix())
    assert all(name.startswith(RECORD) for name in holding[WORD])
    assert holding[FILE] == {QUARANTINE}
    for line in (folder / QUARANTINE).read_text().splitlines():
        row = json.loads(line)
        assert row.keys() == {"file", "line", "resource_id", "reason"}
        assert row["reason"] in FAULTS | SET_ASIDE
        assert FILE not in json.dumps({**row, "file": None})


@pytest.mark.parametrize("threads", [1, 2])
def test_convert(export, tmp_path, threads):
    code, text = said(
        "--verbose", "convert", export, "--adapter", "fhir_r4", "--out", tmp_path / "events", "--threads", threads
    )
    assert code == 0 and "Events: " in text
    assert "Canary" not in text
    search(tmp_path / "events")


def test_every_way_of_being_set_aside_is_walked(export, tmp_path):
    counts = convert(export, "fhir_r4", tmp_path / "events", threads=1).coverage["resources"]
    found = {reason for kind in counts.values() for reason in kind["set_aside"]}
    elsewhere = {"too_large", "bomb", "bad_row", "bad_encoding"}  # take more than a small export; are of tables
    assert found == {*SET_ASIDE, *FAULTS} - elsewhere


def test_doctor(export):
    code, text = said("--verbose", "doctor", export)
    assert code == 0 and "Pipelines" in text
    assert "Canary" not in text


def test_words_are_no_code_that_is_named(tmp_path):
    people = [{"resourceType": "Patient", "id": f"p{n}", "gender": "male", "birthDate": "1950"} for n in range(9)]
    asked = {"coding": [{"system": "urn:ours", "code": "Q", "display": "Question"}]}
    answers = [
        {**about("Observation", f"{kind}{n}", **more), "subject": {"reference": f"Patient/p{n}"}}
        for n in range(9)
        for kind, more in (
            ("a", {"code": {"text": WORD}}),
            ("b", {"code": asked, "valueCodeableConcept": {"text": WORD}}),
        )
    ]
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "all.ndjson").write_text("\n".join(map(json.dumps, people + answers)))
    found = diagnose(tmp_path / "export")
    assert found.systems and WORD not in found.text
    convert(tmp_path / "export", "fhir_r4", tmp_path / "events")
    assert WORD not in (tmp_path / "events" / "metadata" / "coverage.json").read_text()


def test_adapters_check(export):
    code, text = said("--verbose", "adapters", "check", "fhir_r4", export)
    assert code == 0 and "holds" in text
    assert "Canary" not in text


@pytest.mark.parametrize("command", [("convert", "--adapter", "fhir_r4", "--out", "events"), ("doctor",)])
@pytest.mark.parametrize("harm", ["cut zip", "climbing zip", "no patient", "no resource", "other version", "nothing"])
def test_errors(tmp_path, monkeypatch, ehr_tl, command, harm):
    folder = tmp_path / "export"
    (folder / FILE).mkdir(parents=True)
    inside = folder / FILE / f"{FILE}.zip"
    match harm:
        case "cut zip":
            inside.write_bytes(b"PK\x03\x04" + WORD.encode())
        case "climbing zip":
            with zipfile.ZipFile(inside, "w") as archive:
                archive.writestr(f"../{FILE}.ndjson", WORD)
        case "no patient":
            (folder / f"{FILE}.json").write_text(json.dumps(about("Observation", "o")))
        case "no resource":
            (folder / f"{FILE}.json").write_text(WORD)
        case "other version":
            (folder / f"{FILE}.json").write_text(
                json.dumps(
                    planted({"resourceType": "Condition", "id": "c"})
                    | {"context": {"reference": WORD}, "clinicalStatus": "active"}
                )
            )
        case "nothing":
            (folder / f"{FILE}.{FILE}").write_text(WORD)
    monkeypatch.chdir(tmp_path)
    done = ehr_tl("--verbose", command[0], folder, *command[1:])
    assert done.code == 2 and "What to do" in done.err
    assert "Canary" not in done.text
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
