from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehr_tl import schema
from ehr_tl.events import Events, ExportInfo
from ehr_tl.files import write_json


@pytest.fixture
def write_events(tmp_path):
    """Writes facts as an events folder: (subject, time, code[, value[, unit]]); `parents` name a code's parents."""

    def write(facts, parents=None, folder: Path = tmp_path / "events", end=datetime(2026, 1, 1)) -> Events:
        padded = [(*fact, *(None,) * (5 - len(fact))) for fact in facts]
        names = ["subject_id", "time", "code", "numeric_value", "unit"]
        frame = pl.DataFrame(padded, schema={name: schema.EVENTS[name] for name in names}, orient="row")
        missing = {name: kind for name, kind in schema.EVENTS.items() if name not in names}
        frame = frame.with_columns(pl.lit(None, kind).alias(name) for name, kind in missing.items())
        frame = frame.select(schema.EVENTS.keys()).sort("subject_id", "time", nulls_last=False, maintain_order=True)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "metadata").mkdir(exist_ok=True)
        frame.write_parquet(folder / "data" / "0.parquet")
        parents = parents or {}
        codes = sorted({*frame["code"], *parents, *(p for line in parents.values() for p in line)})
        pl.DataFrame(
            [(code, None, parents.get(code, [])) for code in codes], schema=schema.CODES, orient="row"
        ).write_parquet(folder / "metadata" / "codes.parquet")
        ids = frame["subject_id"].unique().sort()
        pl.DataFrame({"subject_id": ids, "patient_id": [f"p{i}" for i in ids]}).write_parquet(
            folder / "metadata" / "subjects.parquet"
        )
        info = ExportInfo("test", synthetic=True, transaction_time=end, patients=len(ids))
        write_json(folder / "metadata" / "export.json", info.to_json())
        return Events(folder)

    write.base = tmp_path
    return write


@pytest.fixture
def hospital(write_events, tmp_path):
    """Writes a hospital whose sick have higher glucose and metformin; who is sick is told by the metformin."""

    def write(subjects: int = 40, seed: int = 0, folder: Path = tmp_path / "hospital") -> Events:
        rng, end, facts = np.random.default_rng(seed), datetime(2026, 1, 1), []
        for subject in range(1, subjects + 1):
            sick = rng.random() < 0.4
            facts.append((subject, None, f"GENDER//{rng.choice(['female', 'male'])}"))
            facts.append((subject, end - timedelta(days=int(rng.integers(9_000, 30_000))), schema.BIRTH))
            for _ in range(rng.integers(3, 12)):
                time = end - timedelta(minutes=int(rng.integers(1, 3000 * 1440)))
                glucose = float(rng.normal(140 if sick else 95, 15))
                facts.append((subject, time, "VISIT_START//AMB"))
                facts.append((subject, time, "LOINC//2345-7", glucose, "mg/dL"))
                facts += [(subject, time, f"SNOMED//{code}") for code in rng.integers(100, 120, size=3)]
                facts += [(subject, time, "RxNorm//860975")] * int(sick)
        return write_events(facts, {f"SNOMED//{code}": ["SNOMED//99"] for code in range(100, 120)}, folder, end)

    return write
