import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from ehr_tl.models.checkpoint import Checkpoint
from ehr_tl.models.network import EhrConfig, EhrModel
from ehr_tl.tokens.vocabulary import Vocabulary

START = datetime(2020, 1, 1)


@pytest.fixture
def benchmark(repository: Path, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    sys.modules.pop("vocabulary", None)
    import vocabulary

    return vocabulary


@pytest.fixture
def hospital(benchmark, write_events):
    """30 subjects with 3 of 12 codes on each of 4 days, and a network that knows the codes."""
    random, facts = np.random.default_rng(0), []
    for subject in range(1, 31):
        facts += [(subject, START - timedelta(days=9_000), "MEDS_BIRTH"), (subject, None, "GENDER//female")]
        for day in range(4):
            codes = random.choice(12, 3, replace=False)
            facts += [(subject, START + timedelta(days=day), f"LAB//{c}", float(random.normal()), "mg") for c in codes]
    events = write_events(facts, {f"LAB//{c}": ["LAB//any"] for c in range(12)})
    records = benchmark.read_records(events)
    vocabulary = Vocabulary.fit([records], 1, buckets=64)
    torch.manual_seed(0)
    config = EhrConfig(hidden_size=16, num_attention_heads=2, num_key_value_heads=2, intermediate_size=16)
    checkpoint = Checkpoint(EhrModel(config.fitted(vocabulary)).eval(), vocabulary, "", events.folder)
    return checkpoint, benchmark.read(checkpoint, events, None)


def test_a_renamed_code_keeps_its_description_and_values_and_loses_its_parents(benchmark, hospital):
    checkpoint, asked = hospital
    records = replace(asked.records, descriptions={"LAB//1": "Sodium"}, common=frozenset(["LAB//1"]))
    hidden = np.array([code == "LAB//1" for code in records.codes])
    local = benchmark.renamed(records, hidden)
    place = records.codes.index("LAB//1")
    assert local.codes[place].startswith("LOCAL//")
    assert local.descriptions[local.codes[place]] == "Sodium"
    assert local.above[place] == ()
    assert [code for i, code in enumerate(local.codes) if i != place] == [c for c in records.codes if c != "LAB//1"]
    everyone = np.arange(len(records.subjects))
    extended = checkpoint.vocabulary.extend([local], [everyone], 5)
    assert extended.descriptions[local.codes[place]] == "Sodium"
    encoding = extended.encode(local)
    assert (encoding.bin[records.code == place] >= 0).all()
    assert encoding.own[place] > checkpoint.vocabulary.encode(records).own.max()


def test_age_and_gender_are_never_hidden_and_halves_differ_by_seed(benchmark, hospital):
    _, asked = hospital
    halves = [benchmark.hidden_codes(asked.records, seed) for seed in range(20)]
    free = [asked.records.age_code, asked.records.codes.index("GENDER//female")]
    assert not any(half[free].any() for half in halves)
    assert 3 <= np.mean([half.sum() for half in halves]) <= 9
    assert len({half.tobytes() for half in halves}) > 15


def test_ways_are_asked_alike_and_see_what_they_say(benchmark, hospital):
    checkpoint, asked = hospital
    hidden = benchmark.hidden_codes(asked.records, 0)
    found = {way: benchmark.look(v, asked, ~hidden) for way, v in benchmark.views(checkpoint, asked, hidden)}
    counts = {(each.losses["codes"][1], each.losses["values"][1]) for each in found.values()}
    assert len(counts) == 1
    assert min(counts.pop()) > 0
    none = {way: benchmark.look(v, asked, ~hidden) for way, v in benchmark.views(checkpoint, asked, hidden & False)}
    for way in benchmark.WAYS:
        assert found[way].losses["codes"][0] != found[benchmark.FULL].losses["codes"][0]
        for name in ("codes", "values"):
            assert none[way].losses[name] == pytest.approx(none[benchmark.FULL].losses[name])


def test_what_a_view_does_not_show(benchmark, hospital):
    checkpoint, asked = hospital
    hidden = benchmark.hidden_codes(asked.records, 0)
    views = dict(benchmark.views(checkpoint, asked, hidden))
    batch = benchmark.collate(
        asked.asked, [asked.asked.group(np.arange(len(asked.asked)))[:1]], views["dropped"].encoding
    )
    assert hidden[batch.code].any()
    assert not hidden[views["dropped"].shown(batch).code].any()
    unknown = views["[UNK]"].shown(batch)
    assert (unknown.code == batch.code).all()
    assert (unknown.bin[hidden[batch.code]] == -1).all()
    nothing = views["nothing"].shown(batch)
    assert set(nothing.source) == {-1}
