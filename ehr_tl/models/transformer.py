"""A transformer of local cases alone: sequences in, networks trained from scratch and Shapley values out."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from ehr_tl import schema
from ehr_tl.config import TransformerConfig
from ehr_tl.events import Events
from ehr_tl.models.base import Attribution
from ehr_tl.models.removal import Explained, explain, ranks
from ehr_tl.tokens.records import read_records
from ehr_tl.tokens.sequences import Sequences, build_sequences


class TransformerLearner:
    """A transformer over time slots that begins with random weights (`models.base.Learner`).

    Args:
        config: How it is trained. Where a checkpoint is named, the network is the same as the checkpoint's but for its
            weights, and serves comparison alone.
    """

    as_is = False
    share = 0.0
    related = False

    def __init__(self, config: TransformerConfig):
        self.config = config
        self.comparison = config.checkpoint is not None
        self.name = f"{schema.TRANSFORMER}_from_scratch" if self.comparison else schema.TRANSFORMER

    @cached_property
    def _architecture(self):
        from ehr_tl.models.checkpoint import load_own_checkpoint
        from ehr_tl.models.network import EhrConfig

        return load_own_checkpoint(self.config.checkpoint).model.config if self.comparison else EhrConfig()

    def prepare(self, events: Events, rows: pl.DataFrame) -> Sequences:
        """Encodes `rows` (`schema.ROWS`) as sequences of slots; nothing after a row's prediction time is in its view.

        Slots are as wide as the configuration says, else as the adapter of the events does (`ExportInfo.slot_hours`),
        else as in the checkpoint's pretraining, else as by the network's default.
        """
        slot_hours = self.config.slot_hours or events.export.slot_hours or self._architecture.slot_hours
        return build_sequences(read_records(events, rows, slot_hours), rows, self.config.max_slots)

    def fit(self, inputs: Sequences, labels: np.ndarray, train: np.ndarray, *, seed: int, state: Path):
        """Trains on the rows `train`; see `models.base.Learner.fit`."""
        from ehr_tl.models.risk_network import train_from_scratch

        architecture, label, index = self._architecture.untrained(), np.asarray(labels), np.asarray(train)
        return train_from_scratch(architecture, inputs, label, index, self.config, seed, state)

    def load(self, folder: Path):
        """Opens a saved fit."""
        from ehr_tl.models.risk_network import TransformerModel

        return TransformerModel.load(folder)

    def base(self, models: list, inputs: Sequences, index: np.ndarray) -> list[np.ndarray]:
        """Logit of each model when nothing is known, the same for all rows; each of shape (len(index),)."""
        return [np.full(len(index), model.base(inputs)) for model in models]

    def explain(self, models: list, inputs: Sequences, index: np.ndarray) -> list[Attribution]:
        """Shapley values of the rows `index` under each model (`models.removal`)."""
        saliences = [dict(zip(model.vocabulary.codes, model.salience[1:].tolist())) for model in models]
        networks = [
            Explained(model.network.body, model.read(inputs), model.network.head.weight, model.network.head.bias)
            for model in models
        ]
        rank = ranks(saliences, inputs.records.codes)
        return explain(networks, inputs, index, rank, self.config.players, self.config.permutations)
