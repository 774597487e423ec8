from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from ehr_tl import schema

START = datetime(2020, 1, 1)


@pytest.fixture
def cohort(write_events):
    """Makes events and rows of a hospital where `RISK` and a high `LAB` bring the outcome, and `NOISE` does not."""

    def make(subjects: int = 90, seed: int = 0, current: int = 5, first: int = 0, folder: str = "events"):
        random = np.random.default_rng(seed)
        facts, rows = [], []
        for subject in range(first, first + subjects):
            at_risk, lab = random.random() < 0.4, random.normal(5, 2)
            facts.append((subject, START - timedelta(days=int(random.integers(7_000, 30_000))), schema.BIRTH))
            facts.append((subject, None, f"GENDER//{random.choice(['female', 'male'])}"))
            for day in random.integers(-900, 0, 6):
                facts.append((subject, START + timedelta(days=int(day)), "NOISE//" + str(random.integers(3))))
            if at_risk:
                facts.append((subject, START - timedelta(days=int(random.integers(1, 900))), "RISK//1"))
            for day in random.integers(-300, 0, 3):
                facts.append((subject, START + timedelta(days=int(day)), "LAB", lab + random.normal(0, 0.2), "mg"))
            label = bool(random.random() < 1 / (1 + np.exp(2.5 - 3 * at_risk - (lab - 5))))
            known = subject < first + subjects - current
            for days in (-60, 0) if known else (0,):
                split = schema.HELD_OUT if known else schema.CURRENT_SPLIT
                rows.append((subject, START + timedelta(days=days), label if known else None, split))
        events = write_events(facts, {"RISK//1": ["RISK"]}, folder=write_events.base / folder)
        return events, pl.DataFrame(rows, schema=schema.ROWS, orient="row")

    return make
