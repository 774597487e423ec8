"""The transformer as a learner: sequences in, fitted networks and Shapley values out."""

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
    """A transformer over time slots (`models.base.Learner`).

    Args:
        config: The checkpoint it starts from and how it is adapted.
        from_scratch: Start from random weights; the learner then serves comparison alone.
    """

    as_is = False

    def __init__(self, config: TransformerConfig, from_scratch: bool = False):
        self.config = config
        self.comparison = from_scratch
        self.name = f"{schema.TRANSFORMER}_from_scratch" if from_scratch else schema.TRANSFORMER

    @cached_property
    def _checkpoint(self):
        from ehr_tl.models.checkpoint import load_checkpoint

        return load_checkpoint(self.config.checkpoint) if self.config.checkpoint is not None else None

    @property
    def _architecture(self):
        """The network's: the checkpoint's, also for the one that is trained from scratch beside it."""
        from ehr_tl.models.network import EhrConfig

        return self._checkpoint.model.config if self._checkpoint is not None else EhrConfig()

    def prepare(self, events: Events, rows: pl.DataFrame) -> Sequences:
        """Encodes `rows` (`schema.ROWS`) as sequences of slots; nothing after a row's prediction time is in its view.

        Slots are as wide as the configuration says, else as the adapter of the events does (`ExportInfo.slot_hours`),
        else as in the checkpoint's pretraining, else as by the network's default.
        """
        slot_hours = self.config.slot_hours or events.export.slot_hours or self._architecture.slot_hours
        return build_sequences(read_records(events, rows, slot_hours), rows, self.config.max_slots)

    def fit(self, inputs: Sequences, labels: np.ndarray, train: np.ndarray, *, seed: int, state: Path):
        """Fine-tunes on the rows `train`; see `models.base.Learner.fit`."""
        from ehr_tl.models.finetune import finetune

        checkpoint, architecture = None if self.comparison else self._checkpoint, self._architecture.untrained()
        label, index = np.asarray(labels), np.asarray(train)
        return finetune(checkpoint, architecture, inputs, label, index, self.config, seed, state)

    def load(self, folder: Path):
        """Opens a saved fit."""
        from ehr_tl.models.finetune import TransformerModel

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
