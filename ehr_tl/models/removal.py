"""Explains networks over time slots by Shapley values: what a logit owes to the events of each player.

Players are age, gender, the codes that matter most to the models, and the families of the others. A player is absent
when its events are removed from their slots; what is left keeps its time. Where several models read the same network
by different heads, its passes serve all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ehr_tl.models.base import PARTS, Attribution
from ehr_tl.models.players import Players, choose_players
from ehr_tl.models.shapley import antithetic_permutations, shapley_values
from ehr_tl.schema import COURSE
from ehr_tl.tokens.sequences import Sequence, Sequences

if TYPE_CHECKING:
    from torch import Tensor

    from ehr_tl.models.network import EhrModel
    from ehr_tl.models.risk_network import Reading

_SLOTS = 16384  # slots of one pass
_SHARED = 2  # times as many permutations where models share a network: their errors do not average out between them


@dataclass(frozen=True)
class Explained:
    """A network under explanation.

    Attributes:
        body: The network.
        reading: The rows as it reads them.
        weight, bias: Heads of the models that read it, shapes (models, width) and (models,).
    """

    body: EhrModel
    reading: Reading
    weight: Tensor
    bias: Tensor

    @property
    def heads(self) -> int:
        return len(self.bias)

    def logits(self, hidden: Tensor) -> Tensor:
        """Log odds of vectors by each head, shape (..., width) to (..., models)."""
        import torch

        # Not a matrix product: of few rows that adds in another order than of many.
        return torch.stack([(hidden * weight).sum(-1) + bias for weight, bias in zip(self.weight, self.bias)], -1)


def explain(
    networks: list[Explained], asked: Sequences, index: np.ndarray, rank: np.ndarray, count: int, pairs: int
) -> list[Attribution]:
    """Shapley values of the rows `index` under each model; the base is the logit when nothing is known.

    Args:
        networks: The models, network by network.
        asked: The rows.
        index: Positions of those to explain.
        rank: Place of each code of the records among all that the models know (`ranks`), shape (C,).
        count: Upper bound of the players.
        pairs: Antithetic pairs of permutations.

    Returns:
        One attribution for each head of each network; all have the same parts in the same order.
    """
    index = np.asarray(index)
    order = np.empty(len(asked), dtype=np.int64)
    order[index] = np.arange(len(index))
    # Other permutations for each network: what a few of them get wrong then averages out between the models.
    permutations = [
        antithetic_permutations(count, pairs * (_SHARED if network.heads > 1 else 1), seed)
        for seed, network in enumerate(networks)
    ]
    models = sum(network.heads for network in networks)
    base = np.zeros((models, len(index)))
    parts: list[tuple[int, str, str]] = []
    shares: list[np.ndarray] = []
    for sequence in asked.group(index):
        players = choose_players(asked.records, sequence.subject, rank, count)
        found = [_sequence(network, sequence, players, own) for network, own in zip(networks, permutations)]
        base[:, order[sequence.rows]] = np.concatenate([nothing for nothing, _ in found])
        share = np.concatenate([share for _, share in found])  # (models, players, rows)
        for row, player, kind, code in _parts(asked, sequence, players):
            parts.append((int(order[sequence.rows[row]]), kind, code))
            shares.append(share[:, player, row])
    frame = pl.DataFrame(parts, schema={k: v for k, v in PARTS.items() if k != "shap"}, orient="row")
    by_model = np.array(shares).reshape(len(parts), models).T
    return [Attribution(base[i], frame.with_columns(shap=pl.Series(by_model[i]))) for i in range(models)]


def ranks(saliences: Iterable[Mapping[str, float]], codes: tuple[str, ...]) -> np.ndarray:
    """Place of each code among all that the models know, by their mean salience; unknown codes come last.

    So do beginnings and ends of visits: everybody has them, and by themselves they say little.
    """
    total: dict[str, float] = {}
    for salience in saliences:
        for code, value in salience.items():
            if not code.startswith(COURSE):
                total[code] = total.get(code, 0.0) + value
    place = {code: i for i, code in enumerate(sorted(total, key=lambda code: (-total[code], code)))}
    return np.array([place.get(code, np.iinfo(np.int64).max) for code in codes])


def _parts(asked: Sequences, sequence: Sequence, players: Players) -> Iterator[tuple[int, int, str, str]]:
    """Row (position in the sequence), player, kind and code of every part of the sequence's rows."""
    first, last = asked.records.slot_events[asked.start[sequence.rows]], asked.last[sequence.rows]
    for row in range(len(sequence.rows)):
        for part in players.parts(asked.records, first[row], last[row]):
            yield row, *part


def _sequence(
    network: Explained, sequence: Sequence, players: Players, permutations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Base, shape (heads, rows of the sequence), and shares, shape (heads, players, rows)."""
    import torch

    reading, body = network.reading, network.body
    batch = reading.batch([[sequence]])
    slots, width = batch.position.size, body.config.hidden_size
    player = _player_of_events(reading.asked, batch, players)
    cell = torch.from_numpy(player * slots + batch.place)
    with torch.no_grad():
        events = body.events(batch, reading.book)
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
            hidden = body.contextualise(body.finish(total, batch).flatten(0, 1), batch, filled)
            found.append(network.logits(hidden[:, torch.from_numpy(batch.query)]).flatten(1).numpy())
        return np.concatenate(found)

    present = np.zeros(players.count, dtype=bool)
    present[player] = True
    base, shares = shapley_values(value, permutations, present)
    heads = (len(sequence.rows), network.heads)
    return base.reshape(heads).T, shares.reshape(-1, *heads).transpose(2, 0, 1)


def _player_of_events(asked: Sequences, batch, players: Players) -> np.ndarray:
    """Player of each of a batch's events, shape (E,)."""
    table = np.zeros(len(asked.records.codes), dtype=np.int64)
    table[list(players.of_code)] = list(players.of_code.values())
    player = table[batch.code]
    stated = batch.source < 0
    player[stated] = np.where(batch.code[stated] == asked.records.age_code, 0, 1)
    return player
