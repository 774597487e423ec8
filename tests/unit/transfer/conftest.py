from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from ehr_tl import schema
from ehr_tl.config import LightGBMConfig, Pipeline, TaskConfig
from ehr_tl.events import Events
from ehr_tl.transfer.tasks import SourceTask

START = datetime(2020, 1, 1)


@dataclass
class Hospital:
    events: Events
    rows: pl.DataFrame


@pytest.fixture
def ward(write_events, tmp_path):
    """Makes a hospital where `risk` and a high `LAB` bring the outcome, with a labelled row (`schema.COHORT`) each."""

    def make(name: str, subjects: int = 150, seed: int = 0, risk: str = "RISK") -> Hospital:
        random, facts, rows = np.random.default_rng(seed), [], []
        for subject in range(1, subjects + 1):
            at_risk, lab = bool(random.random() < 0.4), float(random.normal(5, 2))
            facts.append((subject, START - timedelta(days=int(random.integers(7_000, 30_000))), schema.BIRTH))
            facts.append((subject, None, f"GENDER//{random.choice(['female', 'male'])}"))
            facts += [(subject, START - timedelta(days=int(random.integers(1, 20))), risk)] * at_risk
            facts.append((subject, START - timedelta(days=2), "LAB", lab, "mg"))
            rows.append((subject, START, bool(random.random() < 1 / (1 + np.exp(3 - 4 * at_risk - (lab - 5))))))
        events = write_events(facts, folder=tmp_path / name)
        return Hospital(events, pl.DataFrame(rows, schema=schema.COHORT, orient="row"))

    return make


@pytest.fixture
def source_task():
    """Makes a task of the labelled rows of hospitals, by position."""

    def make(labels: dict[int, pl.DataFrame], name: str = "decline") -> SourceTask:
        pipeline = Pipeline(
            name=name,
            title="Decline",
            question="Who declines?",
            outcome="Decline",
            task=TaskConfig(predicates={}, trigger="asked", windows={}),
            lightgbm=LightGBMConfig(windows_days=(30,), trials=1, rounds=40),
        )
        return SourceTask(name, pipeline.title, pipeline, labels)

    return make
