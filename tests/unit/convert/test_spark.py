"""Spark makes the same files as the processes of one machine."""

import gzip
import http
import json
import operator
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import zstandard

from ehr_tl.convert import convert, spark
from ehr_tl.convert.adapter import load_adapter
from ehr_tl.convert.hadoop import Place, open_remote
from ehr_tl.errors import AdapterError, ExportError, RunError
from ehr_tl.fhir.export import open_export

pytest.importorskip("pyspark", reason="pyspark is not installed")


@pytest.fixture(scope="module")
def session():
    """Two workers; blocks so small that every file has several."""
    if not shutil.which("java"):
        pytest.skip("Java is not there")
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.sql.files.maxPartitionBytes": "5000",
    }
    builder = SparkSession.builder.master("local[2]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
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


@pytest.mark.parametrize("place", ["on this machine", "elsewhere"])
def test_spark_and_one_machine_write_the_same(export, session, everything, tmp_path, monkeypatch, place):
    here = everything(convert(export, "fhir_r4", tmp_path / "here", keep_quarantined=True).folder)
    if place == "elsewhere":  # then Hadoop lists the files, and none is opened by its path
        monkeypatch.setattr(spark, "place", lambda session, path: Place(f"file:{path}", None))
    events = convert(export, "fhir_r4", tmp_path / "there", engine="spark", keep_quarantined=True)
    there = everything(events.folder)
    assert there.keys() == here.keys()
    assert {name for name in here if here[name] != there[name]} == set()
    reasons = {json.loads(line)["reason"] for line in here["quarantine.ndjson"].splitlines()}
    assert {"truncated_file", "not_json", "repeated", "unknown_patient"} <= reasons
    assert session.conf.get("spark.sql.files.maxPartitionBytes") == "5000"
    assert session.range(3).count() == 3  # a session that was there stays as it was


def test_uris_and_a_zip_alone(session, tmp_path, fhir, everything):
    fhir.write(tmp_path / "all.ndjson", fhir.mary, fhir.observation(), fhir.visit())
    with zipfile.ZipFile(tmp_path / "an export.zip", "w") as archive:
        archive.write(tmp_path / "all.ndjson", "inside/all.ndjson")
    here = convert(tmp_path / "an export.zip", "fhir_r4", tmp_path / "here")
    events = convert(f"file://{tmp_path}/an export.zip", "fhir_r4", f"file://{tmp_path}/there", engine="spark")
    assert events.folder == tmp_path / "there"
    assert everything(events.folder) == everything(here.folder)
    with pytest.raises(RunError, match="s3a: is none"):
        convert(tmp_path / "an export.zip", "fhir_r4", "s3a://bucket/events", engine="spark")


def test_hadoop_shows_the_same_files(export, session):
    ours, theirs = open_export(export), open_remote(session, f"file:{export}")
    assert [(file.name, file.size, file.member) for file in theirs.files] == [
        (file.name, file.size, file.member) for file in ours.files
    ]
    assert (theirs.ignored, theirs.transaction_time) == (ours.ignored, ours.transaction_time)
    assert list(theirs.read()) == list(ours.read())


def test_what_a_resource_says_is_in_no_error(session, tmp_path, fhir):
    (tmp_path / "export").mkdir()
    fhir.write(tmp_path / "export" / "all.ndjson", fhir.mary | {"id": "canary"})
    with (
        pytest.raises(RunError, match=r"ValueError in enum\.py") as caught,
        spark.spark(tmp_path / "export", load_adapter("fhir_r4")) as engine,
    ):
        list(engine.map("Work that fails", http.HTTPStatus))  # whose error shows what it was given
    assert "canary" not in f"{caught.value} {caught.value.__cause__}"


def test_an_export_that_changes_is_noticed(session, tmp_path, fhir):
    (tmp_path / "export").mkdir()
    for name in "ab":
        fhir.write(tmp_path / "export" / f"{name}.ndjson", fhir.mary)
    adapter, pieces = load_adapter("fhir_r4"), operator.attrgetter("file", "first", "texts")
    with (
        pytest.raises(RunError, match="other lines the second time"),
        spark.spark(tmp_path / "export", adapter) as engine,
    ):
        assert [file for file, _, _ in engine.map("First", pieces)] == ["a.ndjson", "b.ndjson"]
        with (tmp_path / "export" / "a.ndjson").open("a") as file:
            file.write("{}\n")
        list(engine.map("Second", pieces))
    with (
        pytest.raises(RunError, match="nothing of 1 of the export's 2 files"),
        spark.spark(tmp_path / "export", adapter) as engine,
    ):
        (tmp_path / "export" / "b.ndjson").unlink()
        list(engine.map("First", pieces))


def test_files_that_spark_hides_are_not_lost(session, tmp_path, fhir):
    (tmp_path / "export" / "_new").mkdir(parents=True)
    fhir.write(tmp_path / "export" / "_new" / "all.ndjson", fhir.mary)
    with pytest.raises(ExportError, match="1 files that Spark does not read"):
        convert(tmp_path / "export", "fhir_r4", tmp_path / "events", engine="spark")
    assert not (tmp_path / "events").exists()


def test_a_session_of_our_own_is_quiet_and_makes_the_same(tmp_path, fhir, everything):
    if not shutil.which("java"):
        pytest.skip("Java is not there")
    (tmp_path / "export").mkdir()
    fhir.write(tmp_path / "export" / "all.ndjson", fhir.mary, fhir.observation(), fhir.visit(), "{canary")
    done = _command(tmp_path, MASTER="local[1]")
    assert done.returncode == 0, done.stderr
    assert "Observation" in done.stdout
    assert "canary" not in done.stdout + done.stderr
    (tmp_path / "events" / "coverage.html").unlink()
    here = convert(tmp_path / "export", "fhir_r4", tmp_path / "here")
    assert everything(tmp_path / "events") == everything(here.folder)


def test_without_java_it_is_said_what_to_install(tmp_path, fhir):
    (tmp_path / "export").mkdir()
    fhir.write(tmp_path / "export" / "all.ndjson", fhir.mary)
    done = _command(tmp_path, PATH="", JAVA_HOME="")
    assert done.returncode == 2
    assert "Java 17" in done.stderr


def test_without_pyspark_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"\[spark\]"):
        convert(tmp_path, "fhir_r4", tmp_path / "events", engine="spark")


def test_what_spark_cannot_be_asked(tmp_path):
    with pytest.raises(RunError, match="no engine 'ray'"):
        convert(tmp_path, "fhir_r4", tmp_path / "events", engine="ray")
    with pytest.raises(RunError, match="threads"):
        convert(tmp_path, "fhir_r4", tmp_path / "events", engine="spark", threads=2)
    with pytest.raises(AdapterError, match="tables"):
        convert(tmp_path, "omop", tmp_path / "events", engine="spark")


def _command(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    code = "from ehr_tl.cli.main import main; main()"
    options = ["--adapter", "fhir_r4", "--out", "events", "--engine", "spark"]
    command = [sys.executable, "-c", code, "convert", "export", *options]
    return subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
