"""The transformer as a learner: sequences in, fitted networks and Shapley values out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from ehr_tl import schema
from ehr_tl.config import TransformerConfig
from ehr_tl.events import Events
from ehr_tl.models.base import PARTS, Attribution
from ehr_tl.models.players import Players, choose_players
from ehr_tl.models.shapley import antithetic_permutations, shapley_values
from ehr_tl.progress import track
from ehr_tl.tokens.records import read_records
from ehr_tl.tokens.sequences import Sequence, Sequences, build_sequences

_SLOTS = 16384  # slots of one pass while explaining


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
        """Shapley values of the rows `index` under each model; the base is the logit when nothing is known.

        Players are age, gender, the codes that matter most to the models, and the families of the others. A player is
        absent when its events are removed from their slots; what is left keeps its time.
        """
        index = np.asarray(index)
        order = np.empty(len(inputs), dtype=np.int64)
        order[index] = np.arange(len(index))
        # Other permutations for each model: what a few of them get wrong then averages out between the models.
        permutations = [
            antithetic_permutations(self.config.players, self.config.permutations, seed) for seed in range(len(models))
        ]
        rank = _ranks(models, inputs.records.codes)
        base = np.zeros((len(models), len(index)))
        parts: list[tuple[int, str, str]] = []
        shares: list[np.ndarray] = []
        for sequence in track(inputs.group(index), "explaining the transformer"):
            players = choose_players(inputs.records, sequence.subject, rank, self.config.players)
            found = [
                _explain_sequence(model, inputs, sequence, players, own) for model, own in zip(models, permutations)
            ]
            base[:, order[sequence.rows]] = [nothing for nothing, _ in found]
            for row, player, kind, code in _parts(inputs, sequence, players):
                parts.append((int(order[sequence.rows[row]]), kind, code))
                shares.append(np.array([share[player, row] for _, share in found]))
        frame = pl.DataFrame(parts, schema={k: v for k, v in PARTS.items() if k != "shap"}, orient="row")
        by_model = np.array(shares).reshape(len(parts), len(models)).T
        return [Attribution(base[i], frame.with_columns(shap=pl.Series(by_model[i]))) for i in range(len(models))]


def _ranks(models: list, codes: tuple[str, ...]) -> np.ndarray:
    """Place of each code among all that the models know, by their mean salience; unknown codes come last.

    So do beginnings and ends of visits: everybody has them, and by themselves they say little.
    """
    total: dict[str, float] = {}
    for model in models:
        for code, salience in zip(model.vocabulary.codes, model.salience[1:].tolist()):
            if not code.startswith(schema.COURSE):
                total[code] = total.get(code, 0.0) + salience
    place = {code: i for i, code in enumerate(sorted(total, key=lambda code: (-total[code], code)))}
    return np.array([place.get(code, np.iinfo(np.int64).max) for code in codes])


def _parts(inputs: Sequences, sequence: Sequence, players: Players) -> Iterator[tuple[int, int, str, str]]:
    """Row (position in the sequence), player, kind and code of every part of the sequence's rows."""
    first, last = inputs.records.slot_events[inputs.start[sequence.rows]], inputs.last[sequence.rows]
    for row in range(len(sequence.rows)):
        for part in players.parts(inputs.records, first[row], last[row]):
            yield row, *part


def _explain_sequence(
    model, inputs: Sequences, sequence: Sequence, players: Players, permutations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Base (rows of the sequence,) and shares (players, rows) under one model."""
    import torch

    reading, network = model.read(inputs), model.network
    batch = reading.batch([[sequence]])
    slots, width = batch.position.size, network.body.config.hidden_size
    player = _player_of_events(inputs, batch, players)
    cell = torch.from_numpy(player * slots + batch.place)
    with torch.no_grad():
        events = network.body.events(batch, reading.book)
        sums = torch.zeros(players.count * slots, width).index_add(0, cell, events).view(players.count, slots, width)
    recorded = np.zeros((players.count, slots), dtype=np.float32)
    recorded[player[batch.source >= 0], batch.place[batch.source >= 0]] = 1

    @torch.no_grad()
    def value(coalitions: np.ndarray) -> np.ndarray:
        found = []
        for some in np.array_split(coalitions, -(-len(coalitions) * slots // _SLOTS)):
            masks = torch.from_numpy(some.astype(np.float32))
            total = torch.zeros(len(some), slots, width)
            for part, mask in zip(sums, masks.T):  # in a fixed order: a matrix product's depends on its size
                total.addcmul_(mask[:, None, None], part)
            filled = torch.from_numpy(some @ recorded > 0)
            hidden = network.body.contextualise(network.body.finish(total, batch).flatten(0, 1), batch, filled)
            found.append(network.logit(hidden[:, torch.from_numpy(batch.query)]).numpy())
        return np.concatenate(found)

    present = np.zeros(players.count, dtype=bool)
    present[player] = True
    return shapley_values(value, permutations, present)


def _player_of_events(inputs: Sequences, batch, players: Players) -> np.ndarray:
    """Player of each of a batch's events, shape (E,)."""
    table = np.zeros(len(inputs.records.codes), dtype=np.int64)
    table[list(players.of_code)] = list(players.of_code.values())
    player = table[batch.code]
    stated = batch.source < 0
    player[stated] = np.where(batch.code[stated] == inputs.records.age_code, 0, 1)
    return player
