"""What is written is a MEDS 0.4 dataset, the same for the same export."""

import json

import meds
import polars as pl
import pyarrow.parquet as pq
import pytest

from ehr_tl import schema
from ehr_tl.convert import convert, write
from ehr_tl.convert.index import subject_id


@pytest.fixture
def many(tmp_path):
    """Twelve patients, their resources not in order."""
    folder = tmp_path / "many"
    folder.mkdir()
    patients = [{"resourceType": "Patient", "id": f"p{n}", "gender": "female"} for n in range(12)]
    observations = [
        {
            "resourceType": "Observation",
            "id": f"o{n}",
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": str(n % 7)}]},
            "subject": {"reference": f"Patient/p{n % 12}"},
            "effectiveDateTime": f"20{20 - n % 9}-01-01T00:00:00Z",
            "valueInteger": n,
        }
        for n in range(200)
    ]
    for kind, resources in (("Patient", patients), ("Observation", observations)):
        (folder / f"{kind}.ndjson").write_text("\n".join(map(json.dumps, resources)))
    return folder


@pytest.fixture
def events(many, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "_SUBJECTS_PER_SHARD", 4)
    monkeypatch.setattr(write, "_BUFFER", 50)
    return convert(many, "fhir_r4", tmp_path / "events")


def test_meds_accepts_it(events):
    shards = sorted((events.folder / "data").glob("*.parquet"))
    assert len(shards) > 1
    for shard in shards:
        meds.DataSchema.validate(pq.read_table(shard))
    meds.CodeMetadataSchema.validate(pq.read_table(events.folder / "metadata" / "codes.parquet"))
    meds.DatasetMetadataSchema.validate(json.loads((events.folder / "metadata" / "dataset.json").read_text()))
    assert events.scan().collect_schema() == schema.EVENTS


def test_each_subject_is_whole_and_in_order_in_one_shard(events):
    shards = [pl.read_parquet(path) for path in sorted((events.folder / "data").glob("*.parquet"))]
    subjects = [set(shard["subject_id"]) for shard in shards]
    assert sum(map(len, subjects)) == len(set().union(*subjects)) == 12
    for shard in shards:
        assert shard.equals(shard.sort("subject_id", "time", "code", "resource_id", nulls_last=False))
    assert sum(shard.height for shard in shards) == 212 == events.coverage["events"]
    assert not (events.folder / "parts").exists()


def test_buffers_and_shards_change_nothing(events, many, tmp_path, monkeypatch):
    monkeypatch.undo()
    single = convert(many, "fhir_r4", tmp_path / "single")
    order = ["subject_id", "time", "code", "resource_id"]
    assert single.scan().sort(order).collect().equals(events.scan().sort(order).collect())
    assert single.codes.equals(events.codes)


def test_subjects(events):
    assert events.subjects.schema == schema.SUBJECTS
    assert {row["patient_id"]: row["subject_id"] for row in events.subjects.to_dicts()} == {
        f"p{n}": subject_id(f"p{n}") for n in range(12)
    }
    # Stable for ever: other exports of the same hospital must give the same number.
    assert subject_id("p1") == 8361833091136382792
