from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from ehr_tl import schema

START = datetime(2020, 1, 1)


@dataclass(frozen=True)
class Settings:
    """Of a made-up learner."""

    noise: float = 1.0


@dataclass(frozen=True)
class Fitted:
    """Noise that gets the smaller the more rows there were, on top of the truth."""

    truth: np.ndarray
    noise: np.ndarray

    def logit(self, inputs, index):
        return (self.truth + self.noise)[index]

    def save(self, folder):
        raise NotImplementedError


class MadeUp:
    """A learner that knows the truth of `LAB` the better the more cases it saw, or as well without any."""

    config = Settings()
    comparison = False
    related = False

    @property
    def share(self):
        return float(self.as_is)

    def __init__(self, name: str, noise: float = 1.0, as_is: bool = False):
        self.name, self.noise, self.as_is = name, noise, as_is
        self.fits = 0

    def prepare(self, events, rows):
        lab = events.scan().filter(pl.col("code") == "LAB").select("subject_id", "numeric_value").collect()
        return rows.join(lab, on="subject_id", how="left", maintain_order="left")["numeric_value"].to_numpy()

    def fit(self, inputs, labels, train, *, seed, state):
        self.fits += 1
        wobble = self.noise if self.as_is else self.noise * 16 / np.sqrt(len(train))
        return Fitted(inputs.astype(float) - 2, np.random.default_rng(seed).normal(0, wobble, len(inputs)))


@pytest.fixture
def made_up():
    return MadeUp


@pytest.fixture
def clinic(write_events, tmp_path):
    """Makes a hospital of two units where a high `LAB` brings the outcome: its events, and a labelled row each."""

    def make(name: str = "clinic", subjects: int = 200, seed: int = 0):
        random, facts, rows = np.random.default_rng(seed), [], []
        for subject in range(1, subjects + 1):
            lab = float(random.normal(0, 1.5))
            facts.append((subject, START - timedelta(days=int(random.integers(7_000, 30_000))), schema.BIRTH))
            facts.append((subject, None, "GENDER//female"))
            facts.append((subject, START - timedelta(days=3), f"UNIT//{subject % 2}"))
            facts.append((subject, START - timedelta(days=2), "LAB", lab, "mg"))
            ill = bool(random.random() < 1 / (1 + np.exp(1.5 - 1.5 * lab)))
            facts += [(subject, START + timedelta(days=9), "ILL")] * ill
            rows.append((subject, START, ill))
        events = write_events(facts, folder=tmp_path / name)
        return events, pl.DataFrame(rows, schema=schema.COHORT, orient="row")

    return make
