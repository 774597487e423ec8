from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path


def _observation(number: int, **more: object) -> dict[str, object]:
    code = {"coding": [{"system": "http://loinc.org", "code": str(number), "display": "Synthetic"}]}
    head = {"resourceType": "Observation", "id": f"o{number}", "status": "final", "code": code}
    return head | {"subject": {"reference": "Patient/p"}, "issued": "2020-01-01T00:00:00.500+01:00"} | more


def test_all_ways_give_the_same_rows(repository: Path, tmp_path: Path) -> None:
    answer = {"coding": [{"system": "urn:a", "code": "1"}, {"system": "urn:b", "code": "2"}], "text": "Yes"}
    parts = [{"code": {"text": "a"}, "valueQuantity": {"value": 1.5, "code": "mm[Hg]"}}, {"code": {"text": "b"}}]
    file = tmp_path / "Observation.ndjson"
    observations = [
        _observation(1, valueQuantity={"value": 7, "code": "mmol/L"}, effectiveDateTime="2020-01-01T00:00:00Z"),
        _observation(2, valueCodeableConcept=answer, component=parts),
        _observation(3, component=parts),
    ]
    file.write_text("".join(json.dumps(each) + "\n" for each in observations), encoding="utf-8")
    command = [sys.executable, str(repository / "benchmarks" / "convert.py"), str(file), "--rounds", "1"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "3 Observations, 0 MiB, 7 rows" in found
    assert len(re.findall(r"^\| [^|]+ \| [\d,]+ \| [\d,]+-[\d,]+ \|$", found, re.MULTILINE)) == 6
