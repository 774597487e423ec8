"""Spark makes the same files as the processes of one machine."""

import gzip
import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import zstandard

from ehr_tl.convert import convert

pytest.importorskip("pyspark", reason="pyspark is not installed")
if not shutil.which("java"):
    pytest.skip("Java is not there", allow_module_level=True)


@pytest.fixture(scope="module")
def session():
    """Two workers; blocks so small that every file has several."""
    import os

    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.log.level", "OFF").config("spark.sql.files.maxPartitionBytes", "3000")
    session = builder.config("spark.sql.shuffle.partitions", "2").getOrCreate()
    yield session
    session.stop()


@pytest.fixture
def export(mixed_export, fhir) -> Path:
    """Patients and facts in every format, repeated over files, with what cannot be read."""
    folder = mixed_export.rename(mixed_export.with_name("an export [1]%20{x}"))
    lines = (folder / "Observation.ndjson").read_bytes()
    (folder / "copies").mkdir()
    (folder / "copies" / "Observation.000.ndjson.gz").write_bytes(gzip.compress(lines))
    (folder / "copies" / "broken.ndjson.gz").write_bytes(gzip.compress(lines)[:-300])
    newer = [
        fhir.observation(f"o{n}", subject={"reference": f"Patient/p{n}"}, meta={"versionId": "9"}) for n in range(20)
    ]
    text = "\r\n".join(json.dumps(one) for one in newer)
    (folder / "copies" / "Observation.001.ndjson.zst").write_bytes(zstandard.compress(text.encode()))
    odd = [b"\xef\xbb\xbf" + json.dumps(newer[0]).encode(), b"", b'{"resourceType": "Patient", "id": "\xff"}', b"NaN"]
    (folder / "odd ü.NDJSON").write_bytes(b"\n".join([*odd * 40, b'{"resourceType": "Pati']))
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.write(folder / "conditions.json", "a/conditions.json")
        archive.writestr("Observation.ndjson", lines)
        archive.writestr("readme.txt", "no record")
    (folder / "empty.json").write_bytes(b"")
    (folder / "nobody.json").write_text('{"resourceType": "Bundle", "entry": []}')
    (folder / "letter.pdf").write_bytes(b"%PDF")
    (folder / "manifest.json").write_text('{"transactionTime": "2021-01-01T00:00:00Z", "output": []}')
    return folder


def test_spark_and_one_machine_write_the_same(export, session, everything, tmp_path):
    options = {"keep_quarantined": True}
    here = everything(convert(export, "fhir_r4", tmp_path / "here", **options).folder)
    there = everything(convert(export, "fhir_r4", tmp_path / "there", engine="spark", **options).folder)
    assert there.keys() == here.keys()
    assert {name for name in here if here[name] != there[name]} == set()
    quarantine = [json.loads(line) for line in here["quarantine.ndjson"].splitlines()]
    assert {"truncated_file", "not_json", "repeated", "unknown_patient"} <= {one["reason"] for one in quarantine}
    assert session.range(3).count() == 3  # a session that was there stays
