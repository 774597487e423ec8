from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_tl import schema
from ehr_tl.tokens.batches import by_length, collate, packed
from ehr_tl.tokens.records import HOUR, Order, read_records
from ehr_tl.tokens.sequences import Sequence, build_sequences
from ehr_tl.tokens.vocabulary import Vocabulary

START = datetime(2020, 1, 1)


def rows_at(*moments):
    return pl.DataFrame(
        {"subject_id": [s for s, _ in moments], "prediction_time": [t for _, t in moments]},
        schema={"subject_id": pl.Int64, "prediction_time": schema.TIME},
    )


def in_view(asked, row):
    """Events that a row may see, by position."""
    return np.arange(asked.records.slot_events[asked.start[row]], asked.last[row])


def test_a_row_sees_events_up_to_and_including_its_prediction_time(write_events):
    hours = [0, 5, 30, 31, 32, 80]
    events = write_events([(1, START + timedelta(hours=h), f"X//{h}") for h in hours])
    rows = rows_at((1, START + timedelta(hours=31)), (1, START + timedelta(hours=200)))
    asked = build_sequences(read_records(events, rows, 24), rows, 64)
    assert [asked.records.codes[asked.records.code[i]] for i in in_view(asked, 0)] == ["X//0", "X//5", "X//30", "X//31"]
    assert len(in_view(asked, 1)) == len(hours)
    assert (asked.slot[0], asked.first[0], asked.last[0]) == (1, 2, 4)  # one whole day, then half of the second


def test_birth_and_death_are_no_events(write_events):
    facts = [(1, START, "MEDS_BIRTH"), (1, START, "X//1"), (1, START, "MEDS_DEATH"), (1, None, "GENDER//male")]
    records = read_records(write_events(facts))
    assert {records.codes[code] for code in records.code} == {"X//1"}
    assert records.codes[records.gender[0]] == "GENDER//male" and records.known_birth[0]


def test_events_after_the_last_row_are_not_read(write_events):
    events = write_events([(1, START, "X//1"), (1, START + timedelta(days=9), "X//2"), (2, START, "X//3")])
    records = read_records(events, rows_at((1, START + timedelta(days=1))), 24)
    assert "X//2" not in records.codes and "X//3" not in records.codes


def test_a_later_burst_leaves_earlier_slots_as_they_were(write_events, tmp_path):
    sparse = [(1, START + timedelta(days=d, hours=h), "X//1") for d in range(3) for h in (2, 20)]
    burst = [(1, START + timedelta(days=20, hours=h), "X//1") for h in range(100)]
    before, after = (
        read_records(write_events(facts, folder=tmp_path / str(len(facts)))) for facts in (sparse, sparse + burst)
    )
    assert before.slot_start.tolist() == after.slot_start[:3].tolist()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_order_counts_as_a_plain_loop_does(data):
    moment = st.tuples(st.integers(0, 3), st.integers(-5, 5))
    have = sorted(data.draw(st.lists(moment, max_size=30)))
    ask = data.draw(st.lists(moment, min_size=1, max_size=10))
    subjects, times = np.array(have, dtype=np.int64).reshape(-1, 2).T
    asked = np.array(ask, dtype=np.int64).T
    order = Order(subjects, times)
    assert order.count(*asked, "left").tolist() == [sum(m < a for m in have) for a in ask]
    assert order.count(*asked, "right").tolist() == [sum(m <= a for m in have) for a in ask]


def test_a_long_record_is_cut_by_its_past_alone(write_events):
    events = write_events([(1, START + timedelta(days=i), "X//1") for i in range(100)])
    rows = rows_at(*((1, START + timedelta(days=d, hours=1)) for d in (3, 9, 15, 16, 40, 99)))
    asked = build_sequences(read_records(events, rows, 24), rows, 16)
    seen = asked.slot - asked.start
    assert seen.max() <= 16 and np.all(seen >= np.minimum(asked.slot, 8))
    groups = asked.group(np.arange(len(asked)))
    assert sorted(np.concatenate([g.rows for g in groups]).tolist()) == list(range(6))
    alone = build_sequences(read_records(events, rows[:2], 24), rows[:2], 16)
    assert alone.start.tolist() == asked.start[:2].tolist()


@pytest.mark.parametrize("apart", [True, False])
def test_collation_puts_every_event_into_its_slot(hospital, apart):
    events = hospital(12)
    rows = rows_at(*((s, datetime(2024, month, 1)) for s in range(1, 13) for month in (1, 6, 12)))
    records = read_records(events, rows, 24)
    asked = build_sequences(records, rows, 8)
    encoding = Vocabulary.fit([records], 2).encode(records)
    seen = set()
    sequences = asked.group(np.arange(len(asked)))
    for lanes in [*by_length(sequences, 64)] if apart else [packed(sequences, 64)]:
        batch = collate(asked, lanes, encoding)
        seen.update(batch.rows.tolist())
        assert batch.position.min() >= 0
        for place, row in zip(batch.query, batch.rows):
            begin = np.flatnonzero(batch.sequence.ravel() == batch.sequence.ravel()[place])[0]
            whole = batch.whole.ravel()[batch.place]
            visible = (whole & (batch.place >= begin) & (batch.place < place)) | (batch.place == place)
            assert sorted(batch.source[visible & (batch.source >= 0)]) == in_view(asked, row).tolist()
            first = np.flatnonzero(batch.whole.ravel()[begin:place])
            if len(first):
                hours = batch.position.ravel()[place] - batch.position.ravel()[begin + first[0]]
                assert hours == pytest.approx((asked.time[row] - records.slot_start[asked.start[row]]) / HOUR, abs=0.1)
    assert seen == set(range(len(asked)))


@given(lengths=st.lists(st.integers(1, 70), min_size=1, max_size=80))
def test_packing_loses_no_sequence_and_wastes_little(lengths):
    sequences = [Sequence(i, 0, length, np.zeros(0, dtype=int)) for i, length in enumerate(lengths)]
    lanes = packed(sequences, 64)
    assert sorted(s.subject for lane in lanes for s in lane) == list(range(len(lengths)))
    fill = [sum(map(len, lane)) for lane in lanes]
    assert all(total <= 64 or len(lane) == 1 for lane, total in zip(lanes, fill))
    # Two lanes that are at most half full would have been one.
    assert sum(total <= 32 for total in fill) <= 1
