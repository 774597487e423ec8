from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
import pytest
import torch

from ehr_tl import schema
from ehr_tl.models.checkpoint import load_checkpoint
from ehr_tl.models.network import EhrConfig, EhrModel

CODES = {f"SNOMED//{code}": None for code in range(100, 120)} | {"LOINC//2345-7": "Glucose", "RxNorm//860975": None}


@pytest.fixture
def opened(write_checkpoint, tmp_path):
    return load_checkpoint(write_checkpoint(tmp_path / "tiny", CODES))


def rows(*moments):
    return pl.DataFrame(list(moments), schema=schema.CURRENT, orient="row")


def test_a_vector_for_each_row_in_its_order_whatever_else_is_asked(opened, hospital):
    events, end = hospital(12), datetime(2026, 1, 1)
    asked = rows(*((subject, when) for subject in (5, 1, 9) for when in (end, datetime(2023, 1, 1))))
    vectors = opened.embed(events, asked)
    assert vectors.shape == (6, opened.model.config.hidden_size) and vectors.dtype == np.float32
    assert np.isfinite(vectors).all() and len(np.unique(vectors.round(4), axis=0)) == 6
    for i, row in enumerate(asked.iter_slices(1)):
        assert np.allclose(opened.embed(events, row), vectors[i], atol=1e-5)


def test_what_comes_later_does_not_show(opened, hospital, tmp_path):
    events, when = hospital(6), datetime(2023, 1, 1)
    asked = rows(*((subject, when) for subject in range(1, 7)))
    before = opened.embed(events, asked)
    (shard,) = (events.folder / "data").glob("*.parquet")
    known = pl.read_parquet(shard).filter(pl.col("time").is_null() | (pl.col("time") <= when))
    assert 0 < known.height < pl.read_parquet(shard).height
    known.write_parquet(shard)
    assert np.array_equal(opened.embed(events, asked), before)


def test_slots_are_as_wide_as_the_events_say_else_as_in_pretraining(opened, hospital, monkeypatch):
    events = hospital(6)
    asked = rows((1, datetime(2026, 1, 1)), (2, datetime(2026, 1, 1)))
    before = opened.embed(events, asked)
    for hours, same in ((opened.model.config.slot_hours, True), (24 * 400, False)):
        monkeypatch.setattr(events, "export", replace(events.export, slot_hours=hours))
        assert np.allclose(opened.embed(events, asked), before, atol=1e-5) == same


def test_source_scores_are_of_every_row_and_none_without_questions(opened, hospital):
    events, asked = hospital(6), rows((3, datetime(2024, 1, 1)), (1, datetime(2025, 1, 1)))
    assert opened.source_scores(events, asked).is_empty()
    config = EhrConfig.from_dict({**opened.model.config.to_dict(), "tasks": ["decline", "death"]})
    network = EhrModel(config).eval()
    network.load_state_dict(opened.model.state_dict(), strict=False)
    network.tasks.weight.data[:] = 0
    network.tasks.bias.data[:] = torch.tensor([-1.0, 2.0])
    found = replace(opened, model=network).source_scores(events, asked)
    assert found.select("task", "model", "subject_id", "logit").rows() == [
        (task, "transformer", subject, logit)
        for task, logit in (("death", 2.0), ("decline", -1.0))
        for subject in (3, 1)
    ]
    assert found.schema == opened.source_scores(events, asked).schema
