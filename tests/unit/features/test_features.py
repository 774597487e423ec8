"""The features against a naive reference: plain loops over plain tuples."""

import math
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from ehr_tl import features
from ehr_tl.events import Events
from ehr_tl.features import blocks

START = datetime(2020, 1, 1)
PARENTS = {"A//1.1": ["A//1"], "A//1.2": ["A//1"], "A//1": ["A"], "A": ["A//1"], "LAB": []}
WINDOWS = (30, 365)


def random_facts(seed: int, subjects: int = 12) -> list[tuple]:
    random = np.random.default_rng(seed)
    facts = []
    for subject in range(subjects):
        facts.append((subject, START - timedelta(days=365.25 * float(random.integers(1, 90))), "MEDS_BIRTH"))
        facts.append((subject, None, f"GENDER//{random.choice(['female', 'male'])}"))
        for _ in range(random.integers(0, 40)):
            # Whole days, so that events fall exactly onto window edges and prediction times.
            time = START + timedelta(days=int(random.integers(0, 800)))
            code = str(random.choice(["A//1.1", "A//1.2", "B", "LAB", "LAB", "LAB"]))
            value = float(random.choice([0, 1.5, -2, 7, np.nan, np.inf])) if code == "LAB" else None
            facts.append((subject, time, code, value, str(random.choice(["mg", "g"])) if value is not None else None))
        facts.append((subject, START + timedelta(days=900), "MEDS_DEATH"))
    return facts


def ancestors(code: str) -> set[str]:
    found, waiting = set(), [code]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += PARENTS.get(current, [])
    return found


def slope(points: list[tuple[float, float]]) -> float | None:
    mean_t, mean_v = (sum(p[i] for p in points) / len(points) for i in (0, 1))
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    return sum((t - mean_t) * (v - mean_v) for t, v in points) / spread if spread else None


def reference(facts: list[tuple], subject: int, now: datetime) -> dict[tuple, float]:
    """What a row's features must be, by definition."""
    found: dict[tuple, float] = {}
    facts = [(*fact, *(None,) * (5 - len(fact))) for fact in facts if fact[0] == subject]
    facts = sorted(facts, key=lambda fact: fact[1] or datetime.min)
    for days in (*WINDOWS, None):
        series: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for _, time, code, value, unit in facts:
            if time is None:
                found[code, "is", None, ""] = 1
                continue
            if code in ("MEDS_BIRTH", "MEDS_DEATH") or time > now:
                continue
            if days is not None and time <= now - timedelta(days=days):
                continue
            for group in ancestors(code):
                found[group, "count", days, ""] = found.get((group, "count", days, ""), 0) + 1
                found[group, "days_since", None, ""] = (
                    now - max(f[1] for f in facts if f[1] and f[1] <= now and group in ancestors(f[2]))
                ) / timedelta(days=1)
            if value is not None and math.isfinite(value):
                series.setdefault((code, unit or ""), []).append(((time - START) / timedelta(days=365.25), value))
        for (code, unit), points in series.items():
            numbers = [v for _, v in points]
            found[code, "min", days, unit], found[code, "max", days, unit] = min(numbers), max(numbers)
            found[code, "mean", days, unit] = sum(numbers) / len(numbers)
            if (rise := slope(points)) is not None:
                found[code, "slope", days, unit] = rise
            if days is None:
                found[code, "last", None, unit] = numbers[-1]
    birth = next(time for _, time, code, *_ in facts if code == "MEDS_BIRTH")
    found["AGE", "years", None, ""] = (now - birth) / timedelta(days=365.25)
    return found


def rows_for(facts: list[tuple], seed: int) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    subjects = sorted({fact[0] for fact in facts})
    rows = [(s, START + timedelta(days=int(d))) for s in subjects for d in random.integers(-50, 850, 4)]
    random.shuffle(rows)
    return pl.DataFrame(rows, schema={"subject_id": pl.Int64, "prediction_time": pl.Datetime("us")}, orient="row")


@pytest.mark.parametrize("seed", range(3))
def test_features_equal_the_naive_reference(write_events, monkeypatch, seed):
    monkeypatch.setattr(blocks, "SUBJECTS", 5)  # several blocks
    facts = random_facts(seed)
    rows = rows_for(facts, seed)
    built = features.build(write_events(facts, PARENTS), rows, WINDOWS)
    matrix = built.matrix.tocsr()
    for i, (subject, now) in enumerate(rows.iter_rows()):
        expected = reference(facts, subject, now)
        part = slice(matrix.indptr[i], matrix.indptr[i + 1])
        got = {built.columns.row(c): v for c, v in zip(matrix.indices[part], matrix.data[part])}
        assert got.keys() == expected.keys()
        for column, value in expected.items():
            assert got[column] == pytest.approx(value, rel=1e-4, abs=1e-5), column


def test_a_measured_zero_is_not_a_missing_value(write_events):
    events = write_events([(1, START, "LAB", 0.0, "mg"), (2, START, "B")])
    rows = pl.DataFrame({"subject_id": [1, 2], "prediction_time": [START, START]})
    built = features.build(events, rows, ())
    last = built.columns.with_row_index().filter(pl.col("statistic") == "last")["index"].item()
    dense = built.matrix.toarray()
    assert dense[0, last] != 0 and abs(dense[0, last]) < 1e-10
    assert dense[1, last] == 0


def test_an_event_without_its_number_counts_and_leaves_the_statistics_alone(write_events):
    """A value that was flagged as implausible has no number."""
    later = START + timedelta(days=1)
    events = write_events([(1, START, "LAB", 5.0, "mg"), (1, later, "LAB", None, None), (2, START, "LAB", None, None)])
    rows = pl.DataFrame({"subject_id": [1, 2], "prediction_time": [later, later]})
    built = features.build(events, rows, (30,))
    statistic = built.columns["statistic"].to_list()
    dense = built.matrix.toarray()
    for name in ("last", "min", "max", "mean"):
        for column in (i for i, each in enumerate(statistic) if each == name):
            assert dense[0, column] == 5
            assert dense[1, column] == 0  # not measured
    counts = [i for i, each in enumerate(statistic) if each == "count"]
    assert counts and all(dense[0, i] == 2 and dense[1, i] == 1 for i in counts)


def test_take_follows_the_columns_asked_for(write_events):
    facts = random_facts(1)
    built = features.build(write_events(facts, PARENTS), rows_for(facts, 1), WINDOWS)
    shuffled = built.columns.sample(fraction=1, shuffle=True, seed=0)
    extra = pl.DataFrame({"code": ["X"], "statistic": ["count"], "days": [None], "unit": [""]}, schema=features.COLUMNS)
    index = np.array([5, 0, 7])
    taken = built.take(pl.concat([extra, shuffled]), index).toarray()
    order = [built.columns.rows().index(row) for row in shuffled.rows()]
    assert not taken[:, 0].any()
    np.testing.assert_array_equal(taken[:, 1:], built.matrix.toarray()[index][:, order])


def test_subjects_are_counted_once_per_feature(write_events):
    events = write_events([(1, START, "B"), (2, START, "B"), (2, START, "LAB", 1.0)])
    later = START + timedelta(days=3)
    rows = pl.DataFrame({"subject_id": [1, 1, 2], "prediction_time": [START, later, later]})
    built = features.build(events, rows, ())
    by_column = dict(zip(built.columns.select("code", "statistic").rows(), built.subjects_with(np.arange(3)).tolist()))
    assert by_column["B", "count"] == 2 and by_column["LAB", "last"] == 1


def test_features_file_is_long_and_says_zero_for_zero(write_events, tmp_path):
    events = write_events([(1, START, "LAB", 0.0, "mg"), (2, START, "B")])
    rows = pl.DataFrame({"subject_id": [1, 2], "prediction_time": [START, START]})
    built = features.build(events, rows, (30,))
    built.write(tmp_path / "features.parquet", block=1)
    written = pl.read_parquet(tmp_path / "features.parquet")
    assert written.height == built.matrix.nnz
    assert written.filter(pl.col("statistic") == "last").row(0) == (1, START, "LAB", "last", None, "mg", 0.0)


def test_rows_of_unknown_subjects_and_no_rows_at_all(write_events):
    events = write_events([(1, START, "B")])
    empty = pl.DataFrame(schema={"subject_id": pl.Int64, "prediction_time": pl.Datetime("us")})
    assert features.build(events, empty, (30,)).matrix.shape[0] == 0
    unknown = pl.DataFrame({"subject_id": [9], "prediction_time": [START]})
    assert features.build(events, unknown, (30,)).matrix.nnz == 0


def test_profile_counts_events_and_knows_relatives(write_events):
    later = START + timedelta(days=400)
    facts = [(1, START, "A//1.1"), (1, START, "B"), (1, later, "A//1.2"), (2, START, "A//1.1")]
    rows = pl.DataFrame({"subject_id": [1, 1, 2], "prediction_time": [START, later, later]})
    profile = features.profile(write_events(facts, PARENTS), rows)
    assert profile.events.tolist() == [2, 3, 1]
    known = profile.seen(np.array([2]))
    assert set(known) == {"A", "A//1", "A//1.1"}
    assert profile.known_share(known).tolist() == pytest.approx([1 / 2, 2 / 3, 1])
    assert profile.summary[1, 3] == pytest.approx(np.log1p(1))
    assert profile.summary[1, 2] == pytest.approx(np.log1p(400))


def test_the_matrix_is_sparse_and_small(write_events):
    facts = [(s, START + timedelta(days=d), f"CODE//{(s * 7 + d) % 400}") for s in range(400) for d in range(5)]
    rows = pl.DataFrame({"subject_id": range(400), "prediction_time": [START + timedelta(days=10)] * 400})
    matrix = features.build(write_events(facts), rows, WINDOWS).matrix
    assert matrix.shape[1] >= 1_600
    assert matrix.data.dtype == np.float32 and matrix.indices.dtype == np.int32
    assert matrix.nnz == 400 * 5 * 4  # per code seen: two windows, the whole record, days since


def test_a_death_that_nobody_dated_is_no_feature(write_events):
    """It is not known when it became known."""
    now = datetime(2024, 1, 1)
    facts = [(1, now, "A"), (1, None, "GENDER//male"), (1, None, "MEDS_DEATH")]
    rows = pl.DataFrame({"subject_id": [1], "prediction_time": [now]})
    assert "MEDS_DEATH" not in features.build(write_events(facts), rows, (30,)).columns["code"]


def test_a_window_may_be_part_of_a_day(write_events):
    now = datetime(2024, 1, 1)
    facts = [(1, now - timedelta(hours=hours), "LAB", value, "mg") for hours, value in ((7, 1.0), (6, 2.0), (5.9, 3.0))]
    rows = pl.DataFrame({"subject_id": [1], "prediction_time": [now]})
    found = features.build(write_events(facts), rows, (0.25, 1))
    names = found.columns.select("statistic", "days").iter_rows()
    values = dict(zip(names, found.take(found.columns, np.arange(1)).toarray()[0].tolist()))
    assert {key: values[key] for key in (("count", 0.25), ("count", 1), ("min", 0.25), ("min", 1))} == {
        ("count", 0.25): 1,
        ("count", 1): 3,
        ("min", 0.25): 3,
        ("min", 1): 1,
    }


def test_models_do_not_look_before_the_history_that_an_adapter_declares(write_events):
    """A generator that keeps more of the past of those who will die would tell who will."""
    from dataclasses import replace

    from ehr_tl.files import write_json
    from ehr_tl.tokens.records import read_records

    now, start = datetime(2024, 1, 1), datetime(2020, 1, 1)
    facts = [(1, datetime(1960, 1, 1), "MEDS_BIRTH"), (1, start - timedelta(days=1), "OLD"), (1, start, "NEW")]
    events = write_events([*facts, (1, start - timedelta(days=9), "LASTING")])
    shard = events.folder / "data" / "0.parquet"
    kind = pl.when(pl.col("code") == "LASTING").then(pl.lit("Condition/c")).otherwise(pl.lit("Observation/o"))
    pl.read_parquet(shard).with_columns(resource_id=kind).write_parquet(shard)
    info = replace(events.export, history_from=start, lasting=("Condition",))
    write_json(events.folder / "metadata" / "export.json", info.to_json())
    rows = pl.DataFrame({"subject_id": [1], "prediction_time": [now]})
    cut = Events(events.folder)
    codes = set(features.build(cut, rows, (30,)).columns["code"])
    assert {"NEW", "AGE", "LASTING"} <= codes and "OLD" not in codes
    assert set(read_records(cut, rows).codes) == {"AGE", "NEW", "LASTING"}
    assert cut.scan().collect().height == 4
