"""Files that are large in one piece: converted in memory that grows with the piece, and no faster."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ehr_tl.convert import convert

MIB = 1 << 20

#: What a process may take beside the text that it reads; one that converts next to nothing takes 140 MiB.
BASE = 250 * MIB

#: Runs in a process of its own, whose memory can be told from that of the tests.
MEASURE = """
import json, sys
from ehr_tl.convert import convert
events = convert(sys.argv[1], "fhir_r4", sys.argv[2], threads=1)
lines = dict(line.split(":") for line in open("/proc/self/status"))
peak = int(lines["VmHWM"].split()[0]) * 1024  # what getrusage tells begins with the memory of the process that forked
print(json.dumps({"peak": peak, "coverage": events.coverage}))
"""


def entries(fhir, count: int, words: str = "") -> Iterator[dict[str, Any]]:
    yield fhir.mary
    for number in range(count - 1):
        yield fhir.observation(f"o{number}", note=[{"text": words}], valueQuantity={"value": number % 200})


def write_bundle(path: Path, resources: Iterator[dict[str, Any]]) -> int:
    """Writes a Bundle, without holding it; returns its size."""
    with path.open("w") as file:
        file.write('{"resourceType": "Bundle", "type": "collection", "entry": [')
        for number, resource in enumerate(resources):
            file.write("," * bool(number) + json.dumps({"resource": resource}))
        file.write("]}")
    return path.stat().st_size


def measured(export: Path, out: Path) -> tuple[int, dict[str, Any]]:
    """Peak memory in bytes, and coverage."""
    done = subprocess.run([sys.executable, "-c", MEASURE, export, out], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["peak"], found["coverage"]


@pytest.mark.slow
def test_a_bundle_of_500_mb(tmp_path, fhir):
    """It is read whole: its text is held, once more while it is put together, and a piece of it decoded."""
    (tmp_path / "export").mkdir()
    size = write_bundle(tmp_path / "export" / "all.json", entries(fhir, 100_000, "x" * 4_700))
    assert 500_000_000 < size < 512 * MIB
    peak, coverage = measured(tmp_path / "export", tmp_path / "events")
    assert coverage["resources"]["Observation"] == {"read": 99_999, "used": 99_999, "unused": {}, "set_aside": {}}
    assert coverage["events"] == 2 + 99_999
    assert peak < 2 * size + BASE, f"{peak / MIB:,.0f} MiB"


@pytest.mark.slow
def test_a_bundle_beyond_what_is_decoded_is_set_aside(tmp_path, fhir):
    """What is too large is never held whole."""
    (tmp_path / "export").mkdir()
    size = write_bundle(tmp_path / "export" / "all.json", entries(fhir, 160_000, "x" * 4_700))
    (tmp_path / "export" / "Patient.ndjson").write_text(json.dumps(fhir.mary))
    assert size > 700 * MIB
    peak, coverage = measured(tmp_path / "export", tmp_path / "events")
    assert coverage["resources"] == {
        "?": {"read": 1, "used": 0, "unused": {}, "set_aside": {"too_large": 1}},
        "Patient": {"read": 1, "used": 1, "unused": {}, "set_aside": {}},
    }
    row = json.loads((tmp_path / "events" / "quarantine.ndjson").read_text())
    assert row == {"file": "all.json", "line": 1, "resource_id": None, "reason": "too_large"}
    assert peak < 512 * MIB + BASE, f"{peak / MIB:,.0f} MiB"


@pytest.mark.slow
def test_a_line_of_100_mb(tmp_path, fhir):
    """A picture in a resource: lines around it stay small pieces."""
    picture = fhir.observation("picture", extension=[{"url": "urn:x", "valueBase64Binary": "QUJD" * 25_000_000}])
    lines = [fhir.mary, picture, *entries(fhir, 1_000)]
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "all.ndjson").write_text("\n".join(map(json.dumps, lines)))
    peak, coverage = measured(tmp_path / "export", tmp_path / "events")
    assert coverage["resources"]["Observation"] == {"read": 1_000, "used": 1_000, "unused": {}, "set_aside": {}}
    assert coverage["resources"]["Patient"]["set_aside"] == {"repeated": 1}
    assert peak < 4 * 100_000_000 + BASE, f"{peak / MIB:,.0f} MiB"


@pytest.mark.slow
def test_a_bundle_of_300_000_entries(tmp_path, fhir):
    (tmp_path / "export").mkdir()
    size = write_bundle(tmp_path / "export" / "all.json", entries(fhir, 300_000))
    peak, coverage = measured(tmp_path / "export", tmp_path / "events")
    assert coverage["resources"]["Observation"]["used"] == 299_999
    assert peak < 2 * size + 300_000 * 500 + BASE, f"{peak / MIB:,.0f} MiB"


def test_a_bundle_of_many_pieces_is_numbered_through(tmp_path, fhir):
    (tmp_path / "export").mkdir()
    resources = list(entries(fhir, 3_000, "x" * 4_000))
    resources[2_999] = fhir.observation("last", subject={})
    write_bundle(tmp_path / "export" / "all.json", iter(resources))
    events = convert(tmp_path / "export", "fhir_r4", tmp_path / "events", threads=1)
    assert json.loads((events.folder / "quarantine.ndjson").read_text())["line"] == 3_000
    assert events.coverage["resources"]["Observation"]["used"] == 2_998
