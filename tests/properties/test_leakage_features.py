"""Whatever happens after the prediction time, what a row sees stays the same to the last bit."""

import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_tl import features, schema
from ehr_tl.events import Events, ExportInfo
from ehr_tl.files import write_json

START = datetime(2020, 1, 1)
NOW = START + timedelta(days=400)
CODES = ["A//1", "A//2", "LAB", "VISIT_START//IMP", "NEW"]

hours_before = st.integers(-9_600, 0)
hours_after = st.integers(1, 9_600)


def facts(hours, most):
    value = st.one_of(st.none(), st.floats(-1e6, 1e6, width=32))
    unit, others = st.sampled_from(["mg", "g"]), st.sampled_from([None, ["A//2"], ["B//1", "A//1"]])
    one = st.tuples(st.integers(1, 3), hours, st.sampled_from(CODES), value, unit, others)
    return st.lists(one, max_size=most)


def events_of(folder: Path, facts: list[tuple]) -> Events:
    facts = [(s, NOW + timedelta(hours=h), *rest) for s, h, *rest in facts]
    facts += [(s, START - timedelta(days=9_000), schema.BIRTH, None, None, None) for s in (1, 2, 3)]
    names = ["subject_id", "time", "code", "numeric_value", "unit", "other_codes"]
    frame = pl.DataFrame(facts, schema={name: schema.EVENTS[name] for name in names}, orient="row")
    (folder / "data").mkdir(parents=True)
    (folder / "metadata").mkdir()
    frame.sort("subject_id", "time", maintain_order=True).write_parquet(folder / "data" / "0.parquet")
    parents = pl.DataFrame([("A//1", None, ["A"]), ("A//2", None, ["A"])], schema=schema.CODES, orient="row")
    parents.write_parquet(folder / "metadata" / "codes.parquet")
    write_json(folder / "metadata" / "export.json", ExportInfo("test").to_json())
    return Events(folder)


def seen(events: Events, rows: pl.DataFrame) -> list[dict]:
    built = features.build(events, rows, (1, 30, 365))
    matrix = built.matrix
    return [
        {
            built.columns.row(column): value
            for column, value in zip(
                matrix.indices[matrix.indptr[i] : matrix.indptr[i + 1]].tolist(),
                matrix.data[matrix.indptr[i] : matrix.indptr[i + 1]].tolist(),
            )
        }
        for i in range(rows.height)
    ]


@settings(max_examples=40, deadline=None)
@given(past=facts(hours_before, 25), future=facts(hours_after, 25), other=facts(hours_after, 25))
def test_events_after_the_prediction_time_change_nothing(past, future, other):
    rows = pl.DataFrame({"subject_id": [1, 2, 3], "prediction_time": [NOW] * 3})
    with tempfile.TemporaryDirectory() as folder:
        one = events_of(Path(folder) / "one", past + future)
        two = events_of(Path(folder) / "two", past + other)
        assert seen(one, rows) == seen(two, rows)
        first, second = features.profile(one, rows), features.profile(two, rows)
        np.testing.assert_array_equal(first.events, second.events)
        np.testing.assert_array_equal(first.summary, second.summary)


@settings(max_examples=20, deadline=None)
@given(past=facts(hours_before, 25))
def test_an_event_at_the_prediction_time_is_seen(past):
    rows = pl.DataFrame({"subject_id": [1], "prediction_time": [NOW]})
    with tempfile.TemporaryDirectory() as folder:
        without = seen(events_of(Path(folder) / "one", past), rows)[0]
        beside = seen(events_of(Path(folder) / "two", [*past, (1, 0, "NEW", None, "mg", None)]), rows)[0]
        count = ("NEW", "count", None, "")
        assert beside[count] == without.get(count, 0) + 1
