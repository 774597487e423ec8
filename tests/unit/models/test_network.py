"""What may reach what: from an event to a logit, and never from later to earlier."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch

from ehr_tl import schema
from ehr_tl.models.network import CodeBook, EhrConfig, EhrModel, extended
from ehr_tl.models.risk_network import Reading, RiskNetwork
from ehr_tl.tokens.records import read_records
from ehr_tl.tokens.sequences import build_sequences
from ehr_tl.tokens.vocabulary import Vocabulary

START = datetime(2020, 1, 1)
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "buckets": 64}


def rows_at(subject, *days):
    times = [START + timedelta(days=day, hours=12) for day in days]
    schema_ = {"subject_id": pl.Int64, "prediction_time": schema.TIME}
    return pl.DataFrame({"subject_id": [subject] * len(days), "prediction_time": times}, schema=schema_)


def network(vocabulary, seed=0):
    """Random weights, far from the tiny ones of a fresh network, so that every path carries something."""
    torch.manual_seed(seed)
    model = RiskNetwork(EhrModel(EhrConfig(**SMALL).fitted(vocabulary)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model.eval()


@pytest.fixture
def facts():
    rng = np.random.default_rng(0)
    day = lambda d: START + timedelta(days=d, hours=8)
    return [(1, None, "GENDER//female"), (1, START - timedelta(days=20_000), "MEDS_BIRTH")] + [
        (1, day(d), code, float(rng.normal(100, 10)), "mg/dL")
        for d in range(0, 120, 3)
        for code in ("LOINC//1", "SNOMED//2")
    ]


@torch.no_grad()
def logits(model, vocabulary, events, rows, max_slots=64):
    records = read_records(events, rows, 24)
    asked = build_sequences(records, rows, max_slots)
    reading = Reading(asked, vocabulary.encode(records))
    found = np.zeros(len(asked))
    for sequence in asked.group(np.arange(len(asked))):
        batch = reading.batch([[sequence]])
        found[batch.rows] = model(batch, reading.book).numpy()
    return found


def test_the_first_slot_influences_the_last_row(write_events, facts):
    events, rows = write_events(facts), rows_at(1, 119)
    vocabulary = Vocabulary.fit([read_records(events)], 1)
    model = network(vocabulary)
    before = logits(model, vocabulary, events, rows)
    changed = [(*f[:3], f[3] + 50, f[4]) if len(f) > 3 and f[1] < START + timedelta(days=1) else f for f in facts]
    assert abs(logits(model, vocabulary, write_events(changed), rows) - before) > 1e-5


def test_the_gap_to_the_last_event_influences_the_row(write_events, facts):
    events = write_events(facts)
    vocabulary = Vocabulary.fit([read_records(events)], 1)
    found = logits(network(vocabulary), vocabulary, events, rows_at(1, 119, 150, 900))
    assert len(set(found.round(6))) == 3


def test_a_query_slot_influences_no_other_slot(write_events, facts):
    events, rows = write_events(facts), rows_at(1, 20, 50, 80, 119)
    records = read_records(events, rows, 24)
    vocabulary = Vocabulary.fit([records], 1)
    model, asked = network(vocabulary).body, build_sequences(records, rows, 128)
    (sequence,) = asked.group(np.arange(4))
    reading = Reading(asked, vocabulary.encode(records))
    batch, book = reading.batch([[sequence]]), reading.book
    slots = model.slots(batch, model.events(batch, book)).detach().requires_grad_()
    hidden = model.contextualise(slots, batch)
    for place in batch.query:
        others = [i for i in range(len(sequence)) if i != place]
        (gradient,) = torch.autograd.grad(hidden[0, others].sum(), slots, retain_graph=True)
        assert torch.all(gradient[0, place] == 0)
        (own,) = torch.autograd.grad(hidden[0, place].sum(), slots, retain_graph=True)
        assert torch.any(own[0, place] != 0) and torch.any(own[0, 0] != 0)


@pytest.mark.parametrize("max_slots", [8, 64])
def test_nothing_after_the_prediction_time_changes_a_logit(write_events, facts, max_slots):
    events, rows = write_events(facts), rows_at(1, 20, 50, 80, 119)
    vocabulary = Vocabulary.fit([read_records(events)], 1)
    model = network(vocabulary)
    before = logits(model, vocabulary, events, rows, max_slots)
    rng = np.random.default_rng(1)
    for row, asked in enumerate(rows["prediction_time"].to_list()):
        past = [f for f in facts if f[1] is None or f[1] <= asked]
        later = [(1, asked + timedelta(microseconds=1), "SNOMED//2", 7.0, "mg/dL")]
        later += [(1, asked + timedelta(hours=int(h)), "LOINC//1", 1e6, "mg/dL") for h in rng.integers(1, 3000, 50)]
        for future in ([], later):
            after = logits(model, vocabulary, write_events(past + future), rows, max_slots)
            assert np.array_equal(after[: row + 1], before[: row + 1])


def test_a_rows_answer_does_not_depend_on_what_else_is_asked(write_events, facts):
    events, rows = write_events(facts), rows_at(1, 20, 50, 80, 119)
    vocabulary = Vocabulary.fit([read_records(events)], 1)
    model = network(vocabulary)
    together = logits(model, vocabulary, events, rows)
    for row in range(4):
        assert np.array_equal(logits(model, vocabulary, events, rows[: row + 1])[row], together[row])
        alone = logits(model, vocabulary, events, rows[row : row + 1])
        assert alone[0] == pytest.approx(together[row], abs=1e-5)


def test_an_event_that_is_removed_is_as_if_it_had_never_been(write_events, facts):
    events, rows = write_events(facts), rows_at(1, 119)
    records = read_records(events, rows, 24)
    vocabulary = Vocabulary.fit([records], 1)
    model, asked = network(vocabulary), build_sequences(records, rows, 64)
    reading = Reading(asked, vocabulary.encode(records))
    batch = reading.batch([asked.group(np.array([0]))])
    middle = (records.time[batch.source] // 86_400_000_000) % 2 == 0
    with torch.no_grad():
        dropped = model(batch.keep((batch.source < 0) | ~middle), reading.book).numpy()
    kept = [f for f in facts if f[1] is None or f[2] == "MEDS_BIRTH" or (f[1] - datetime(1970, 1, 1)).days % 2]
    assert dropped == pytest.approx(logits(model, vocabulary, write_events(kept), rows), abs=1e-5)


def test_a_row_without_a_past_has_an_answer(write_events, facts):
    events = write_events(facts)
    vocabulary = Vocabulary.fit([read_records(events)], 1)
    assert np.isfinite(logits(network(vocabulary), vocabulary, events, rows_at(1, -10, 50))).all()


def test_a_forgotten_code_is_read_by_its_words(write_events, facts):
    records = read_records(write_events(facts), slot_hours=24)
    vocabulary = Vocabulary.fit([records], 1)
    model, book = network(vocabulary).body, CodeBook.of(vocabulary.encode(records))
    hidden = torch.tensor([code == "SNOMED//2" for code in records.codes])
    with torch.no_grad():
        known, forgotten = model.codes(book), model.codes(book.forget(hidden))
    assert torch.equal(known[~hidden], forgotten[~hidden])
    assert book.forget(hidden).block[hidden].tolist() == [0] and book.block[hidden].tolist() != [0]
    assert not torch.equal(known[hidden], forgotten[hidden]) and torch.any(forgotten[hidden] != 0)


def test_sequences_in_one_lane_do_not_see_each_other(write_events, facts):
    later = [(2, *fact[1:]) for fact in facts[:30]]
    events = write_events([*facts, *later])
    rows = pl.concat([rows_at(1, 20, 119), rows_at(2, 9, 60)])
    records = read_records(events, rows, 24)
    vocabulary = Vocabulary.fit([records], 1)
    model, asked = network(vocabulary), build_sequences(records, rows, 16)
    reading, sequences = Reading(asked, vocabulary.encode(records)), asked.group(np.arange(len(rows)))
    assert len(sequences) == 4
    together, apart = reading.batch([sequences]), reading.batch([[sequence] for sequence in sequences])
    with torch.no_grad():
        found = [model(batch, reading.book).numpy()[np.argsort(batch.rows)] for batch in (together, apart)]
    assert together.shape[0] == 1 and found[0] == pytest.approx(found[1], abs=1e-4)


def test_a_value_is_read_by_what_its_code_is_where_the_code_has_no_bins_of_its_own(write_events, facts):
    events, rows = write_events(facts), rows_at(1, 119)
    records = read_records(events, rows, 24)
    vocabulary = Vocabulary.fit([records], 1)
    model, asked = network(vocabulary).body, build_sequences(records, rows, 64)
    reading = Reading(asked, vocabulary.encode(records))
    batch = reading.batch([asked.group(np.array([0]))])
    hidden = torch.tensor([code == "LOINC//1" for code in records.codes])
    with torch.no_grad():
        embedded = model.events(batch, reading.book.forget(hidden))
        codes = model.codes(reading.book.forget(hidden))[torch.from_numpy(batch.code)]
    value = (embedded - codes)[(batch.code == records.codes.index("LOINC//1")) & (batch.bin == 3)]
    other = (embedded - codes)[(batch.code == records.codes.index("SNOMED//2")) & (batch.bin == 3)]
    assert len(value) > 1 and value.norm(dim=1).min() > 0.1 and not torch.allclose(value[0], other[0])


def test_room_for_new_codes_changes_no_answer(write_events, facts, tmp_path):
    events, rows = write_events(facts), rows_at(1, 20, 119)
    records = read_records(events, rows, 24)
    vocabulary = Vocabulary.fit([records], 1)
    model = network(vocabulary)
    local = [(1, START, "LOCAL//7", float(v), "mmol/L") for v in range(30)]
    theirs = read_records(write_events(local, folder=tmp_path / "b"), slot_hours=24)
    larger = vocabulary.extend([theirs], [np.array([0])], 1)
    assert "LOCAL//7" in larger.codes and len(larger.valued) > len(vocabulary.valued)
    grown = RiskNetwork(extended(model.body, larger))
    grown.head.load_state_dict(model.head.state_dict())
    assert np.array_equal(logits(grown.eval(), larger, events, rows), logits(model, vocabulary, events, rows))
