"""A factory of small events folders."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from ehr_tl.events import Events, ExportInfo
from ehr_tl.files import write_json
from ehr_tl.schema import CODES, EVENTS, SUBJECTS

Fact = tuple  # (subject, time or None, code[, value[, other codes[, source value]]])


def write_events(folder: Path, facts: Iterable[Fact], parents: dict[str, list[str]] | None = None, **export) -> Events:
    """Writes an events folder; keywords are fields of `ExportInfo` (the latest event is found, if none is given)."""
    names = ("subject_id", "time", "code", "numeric_value", "other_codes", "source_value")
    rows = [dict(zip(names, fact)) for fact in facts]
    table = pl.DataFrame(rows, schema=EVENTS).sort("subject_id", "time", nulls_last=False)
    parents = parents or {}
    codes = [{"code": code, "parent_codes": parents.get(code)} for code in {*table["code"], *parents}]
    subjects = [{"subject_id": subject, "patient_id": f"p{subject}"} for subject in table["subject_id"].unique()]
    (folder / "data").mkdir(parents=True)
    (folder / "metadata").mkdir()
    table.write_parquet(folder / "data" / "0.parquet")
    pl.DataFrame(codes, schema=CODES).write_parquet(folder / "metadata" / "codes.parquet")
    pl.DataFrame(subjects, schema=SUBJECTS).write_parquet(folder / "metadata" / "subjects.parquet")
    export = {"adapter": "test", "latest_event": table["time"].max(), "patients": len(subjects), **export}
    write_json(folder / "metadata" / "export.json", ExportInfo(**export).to_json())
    return Events(folder)


@pytest.fixture
def make_events(tmp_path: Path) -> Callable[..., Events]:
    """`make_events(facts, parents=None, **export_info)`: an events folder, a new one at each call."""
    number = itertools.count()

    def make(facts: Iterable[Fact], parents: dict[str, list[str]] | None = None, **export) -> Events:
        return write_events(tmp_path / f"events{next(number)}", facts, parents, **export)

    return make


@pytest.fixture
def day() -> Callable[..., datetime]:
    """`day(2020)`, `day(2020, 3, 1)`: midnight of a date, January 1st by default."""
    return lambda year, month=1, day=1, hour=0: datetime(year, month, day, hour)
