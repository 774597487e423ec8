"""A pretrained network that stays as it is, or almost: what it makes of rows is computed once and used by many models.

The network is cut below its last layer. What lies below is the same for all models that start at one checkpoint, and so
are the keys and values that the last layer takes from it; a model that changes the rest of the last layer, or only how
the result is read, needs no other pass. Of the last layer's outputs only those of query slots are ever read, so only
these are computed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import rotate_half

from ehr_tl.models.checkpoint import VOCABULARY, load_model, round_to_half, save_model
from ehr_tl.models.network import EhrConfig, EhrModel
from ehr_tl.models.risk_network import Reading
from ehr_tl.tokens.batches import Batch, by_length, padded, ranges
from ehr_tl.tokens.sequences import Sequences
from ehr_tl.tokens.vocabulary import Vocabulary

_SLOTS = 8192  # padded slots of one pass
_ROWS = 64  # of one pass through the last layer, always: what else is asked then changes no digit
_KEPT = 2**28  # bytes of slots' vectors that are kept between uses


@dataclass(frozen=True)
class Below:
    """What the layers below the last make of n rows.

    Attributes:
        slots: Vectors of the whole slots that the rows look back on, shape (T, width); the first is nobody's.
        hours: From the beginning of a sequence to each of them, shape (T,).
        first, count: Each row sees the slots `first` to `first + count`, shape (n,).
        query: Vectors of the rows' query slots, shape (n, width).
        query_hours: Shape (n,).
    """

    slots: Tensor
    hours: Tensor
    first: np.ndarray
    count: np.ndarray
    query: Tensor
    query_hours: Tensor

    def take(self, index: np.ndarray) -> Below:
        """Some of the rows; the slots are shared."""
        which = torch.from_numpy(np.ascontiguousarray(index))
        return replace(
            self,
            first=self.first[index],
            count=self.count[index],
            query=self.query[which],
            query_hours=self.query_hours[which],
        )

    def compact(self) -> Below:
        """The same rows with only the slots that they see."""
        used = np.unique(np.r_[0, ranges(self.first, self.first + self.count)[0]])
        which = torch.from_numpy(used)
        first = np.searchsorted(used, self.first)
        return replace(self, slots=self.slots[which], hours=self.hours[which], first=first)

    def seen(self, index: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
        """Slots that rows see, shape (len(index), length), and which of these places are taken."""
        place = np.arange(length)
        taken = place < self.count[index, None]
        return torch.from_numpy(np.where(taken, self.first[index, None] + place, 0)), torch.from_numpy(taken)


class Top(nn.Module):
    """The last layer of a network, for query slots alone."""

    def __init__(self, body: EhrModel):
        super().__init__()
        self.layer, self.norm, self.rotary = body.backbone.layers[-1], body.backbone.norm, body.backbone.rotary_emb
        self.unit = body.config.time_unit_hours

    def remember(self, hidden: Tensor, hours: Tensor) -> Tensor:
        """Keys and values of slots, shape (..., width) to (..., 2, heads, head width)."""
        attention, normed = self.layer.self_attn, self.layer.input_layernorm(hidden)
        keys = self._rotate(attention.k_proj(normed).unflatten(-1, (-1, attention.head_dim)), hours)
        values = attention.v_proj(normed).unflatten(-1, (-1, attention.head_dim))
        return torch.stack([keys, values], -3).repeat_interleave(attention.num_key_value_groups, -2)

    def forward(self, query: Tensor, hours: Tensor, own: Tensor, context: Tensor, seen: Tensor) -> Tensor:
        """Vectors of query slots, shape (n, width).

        Args:
            query: What lies below makes of them, shape (n, width).
            hours: Where they stand, shape (n,).
            own: What `remember` gives for them.
            context: The same for L slots each may look at, shape (n, L, 2, heads, head width).
            seen: Which of these it does, shape (n, L).
        """
        attention = self.layer.self_attn
        asked = attention.q_proj(self.layer.input_layernorm(query)).unflatten(-1, (-1, attention.head_dim))
        keys, values = torch.cat([own.unsqueeze(1), context], 1).unbind(2)
        # No matrix products: their order of adding depends on sizes.
        scores = (self._rotate(asked, hours).unsqueeze(1) * keys).sum(-1) * attention.scaling
        visible = torch.cat([torch.ones_like(seen[:, :1]), seen], 1).unsqueeze(-1)
        share = scores.masked_fill(~visible, float("-inf")).softmax(1)
        hidden = query + attention.o_proj((share.unsqueeze(-1) * values).sum(1).flatten(1))
        return self.norm(hidden + self.layer.mlp(self.layer.post_attention_layernorm(hidden)))

    def _rotate(self, heads: Tensor, hours: Tensor) -> Tensor:
        """Turns vectors of heads, shape (..., heads, head width), by their time."""
        cos, sin = self.rotary(heads, (hours / self.unit).reshape(1, -1))
        shape = (*hours.shape, 1, heads.shape[-1])
        return heads * cos.view(shape) + rotate_half(heads) * sin.view(shape)

    @torch.no_grad()
    def vectors(self, below: Below) -> np.ndarray:
        """Vectors of rows, float32, shape (n, width)."""
        found = np.empty((len(below.count), below.query.shape[1]), dtype=np.float32)
        for index, length in _alike(below.count):
            full = np.resize(index, _ROWS)
            place, seen = below.seen(full, length)
            query, hours = below.query[torch.from_numpy(full)], below.query_hours[torch.from_numpy(full)]
            context = self.remember(below.slots[place], below.hours[place])
            found[index] = self(query, hours, self.remember(query, hours), context, seen)[: len(index)].numpy()
        return found


def _alike(count: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Positions of at most `_ROWS` rows that see about as many slots, and for how many there must be room."""
    lengths = np.array([padded(max(1, int(each))) for each in count], dtype=np.int64)
    for length in np.unique(lengths):
        index = np.flatnonzero(lengths == length)
        for begin in range(0, len(index), _ROWS):
            yield index[begin : begin + _ROWS], int(length)


class Trunk:
    """A network and how it reads records.

    Attributes:
        body: The network, in evaluation mode; its weights are half precision's.
        vocabulary: How it reads codes and values.
    """

    def __init__(self, body: EhrModel, vocabulary: Vocabulary):
        self.body, self.vocabulary = body.eval().requires_grad_(False), vocabulary

    @cached_property
    def root(self) -> str:
        """Tells networks apart by what lies below the last layer, and by how they read records."""
        return self._hash(self.below)

    @cached_property
    def digest(self) -> str:
        """Tells networks apart by all that changes a row's vector."""
        return self.root + self._hash(self.top)

    def _hash(self, module: nn.Module) -> str:
        reading = {"vocabulary": self.vocabulary.to_json(), "hours": self.body.config.time_unit_hours}
        found = sha256(json.dumps(reading, sort_keys=True).encode())
        for name, tensor in sorted(module.state_dict().items()):
            found.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return found.hexdigest()

    @cached_property
    def top(self) -> Top:
        return Top(self.body)

    @cached_property
    def below(self) -> EhrModel:
        """The same network without its last layer, and without heads."""
        config = self.body.config.untrained().to_dict()
        network = EhrModel(EhrConfig.from_dict({**config, "num_hidden_layers": config["num_hidden_layers"] - 1}))
        network.backbone.norm = nn.Identity()
        known = network.state_dict().keys()
        network.load_state_dict({name: tensor for name, tensor in self.body.state_dict().items() if name in known})
        return network.eval().requires_grad_(False)

    def capped(self, top: Top) -> Trunk:
        """The same network with another last layer, rounded to half precision; what lies below is shared."""
        body = deepcopy(self.body)
        body.backbone.layers[-1].load_state_dict(top.layer.state_dict())
        round_to_half(body)
        other = Trunk(body, self.vocabulary)
        other.below, other.root = self.below, self.root
        return other

    @torch.no_grad()
    def nothing(self) -> np.ndarray:
        """The vector of a row of which nothing is known, shape (width,)."""
        none, one = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
        place = np.zeros((1, 1), dtype=np.int64)
        batch = Batch(
            *(none, none, none.astype(np.float32), none, none), place, place.astype(np.float32), place > 0, one, one
        )
        slots = self.body.finish(torch.zeros(1, self.body.config.hidden_size), batch)
        return self.body.contextualise(slots, batch)[0, 0].numpy()

    @torch.no_grad()
    def alone(self, reading: Reading) -> np.ndarray:
        """How far each code of some records moves the vector of an otherwise empty row, shape (C,).

        Of a code with values, the farther of its lowest and its highest value counts.
        """
        valued = np.unique(reading.asked.records.code[reading.encoding.bin >= 0])
        count = len(reading.encoding.own)
        code = np.concatenate([np.arange(count), valued, valued])
        low = np.concatenate(
            [np.full(count, -1), np.zeros(len(valued)), np.full(len(valued), self.body.config.bins - 2)]
        )
        fraction = np.concatenate([np.zeros(count + len(valued)), np.ones(len(valued))]).astype(np.float32)
        place, shape = np.arange(len(code)), (len(code), 1)
        empty = np.zeros(shape, dtype=np.float32)
        batch = Batch(
            *(code, low.astype(np.int64), fraction, place, place), place.reshape(shape), empty, empty > 0, place, place
        )
        moved = np.linalg.norm(self.body(batch, reading.book).numpy() - self.nothing(), axis=1)
        farthest = np.zeros(count)
        np.maximum.at(farthest, code, moved)
        return farthest

    def save(self, folder: Path) -> None:
        """Writes config.json, model.safetensors and vocabulary.json."""
        save_model(self.body, folder)
        self.vocabulary.save(folder / VOCABULARY)

    @classmethod
    def load(cls, folder: Path) -> Trunk:
        """Opens what `save` wrote."""
        return cls(load_model(folder), Vocabulary.load(folder / VOCABULARY))


class Rows:
    """Rows to be answered, and what networks made of them as far as it is kept.

    Attributes:
        sequences: The rows as sequences of slots.
    """

    def __init__(self, sequences: Sequences):
        self.sequences = sequences
        self._vectors: dict[str, np.ndarray] = {}
        self._alone: dict[str, np.ndarray] = {}
        self._below: dict[str, Below] = {}

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def subject(self) -> np.ndarray:
        """Position of each row's subject in the records, shape (n,)."""
        return self.sequences.subject

    def read(self, trunk: Trunk) -> Reading:
        """The rows as a network reads them."""
        return Reading(self.sequences, trunk.vocabulary.encode(self.sequences.records))

    def keep(self, trunk: Trunk) -> None:
        """Computes what a network makes of all rows and keeps it: vectors, and what lies below the last layer.

        The latter is kept only where it takes no more than 256 MiB; where it takes more it is computed when needed.
        """
        index = np.arange(len(self))
        slots = sum(map(len, self.sequences.group(index)))
        if slots * trunk.body.config.hidden_size * 4 <= _KEPT:
            self._below[trunk.root] = _below(trunk, self.read(trunk), index)
        self._vectors[trunk.digest] = self.vectors(trunk, index)
        self._alone[trunk.digest] = trunk.alone(self.read(trunk))

    def below(self, trunk: Trunk, index: np.ndarray) -> Below:
        """What lies below the last layer, of the rows `index`."""
        kept = self._below.get(trunk.root)
        return kept.take(index) if kept is not None else _below(trunk, self.read(trunk), index)

    def vectors(self, trunk: Trunk, index: np.ndarray) -> np.ndarray:
        """What a network makes of the rows `index`, float32, shape (len(index), width)."""
        kept = self._vectors.get(trunk.digest)
        if kept is not None:
            return kept[index]
        size = max(1, _KEPT // (4 * trunk.body.config.hidden_size * self.sequences.max_slots))
        pieces = np.split(index, np.arange(size, len(index), size))
        return np.concatenate([trunk.top.vectors(self.below(trunk, piece)) for piece in pieces])

    def alone(self, trunk: Trunk) -> np.ndarray:
        """How far each code of the records moves a network's vector (`Trunk.alone`), shape (C,)."""
        kept = self._alone.get(trunk.digest)
        return kept if kept is not None else trunk.alone(self.read(trunk))

    @cached_property
    def having(self) -> np.ndarray:
        """Distinct pairs of subject and code (positions in the records), shape (pairs, 2)."""
        records = self.sequences.records
        of = np.repeat(np.arange(len(records.subjects)), np.diff(records.first_event))
        pairs = np.unique(of * len(records.codes) + records.code)
        return np.column_stack(np.divmod(pairs, len(records.codes)))


@torch.no_grad()
def _below(trunk: Trunk, reading: Reading, index: np.ndarray) -> Below:
    asked, network = reading.asked, trunk.below
    count = asked.slot - asked.start
    first, place_of = np.zeros(len(asked), dtype=np.int64), np.zeros(len(asked), dtype=np.int64)
    slots, hours = [torch.zeros(1, network.config.hidden_size)], [torch.zeros(1)]
    queries, query_hours, filled, answered = [], [], 1, 0
    for lanes in by_length(asked.group(index), _SLOTS):
        batch = reading.batch(lanes)
        hidden = network.contextualise(network.slots(batch, network.events(batch, reading.book)), batch).flatten(0, 1)
        place, position = np.flatnonzero(batch.whole), torch.from_numpy(batch.position.ravel())
        sequence = batch.sequence.ravel()
        first[batch.rows] = filled + np.searchsorted(sequence[place], sequence[batch.query])
        place_of[batch.rows] = answered + np.arange(len(batch.rows))
        slots.append(hidden[torch.from_numpy(place)]), hours.append(position[torch.from_numpy(place)])
        queries.append(hidden[torch.from_numpy(batch.query)])
        query_hours.append(position[torch.from_numpy(batch.query)])
        filled, answered = filled + len(place), answered + len(batch.rows)
    order = torch.from_numpy(place_of[index])
    query = torch.cat([*queries, torch.zeros(0, network.config.hidden_size)])[order]
    at = torch.cat([*query_hours, torch.zeros(0)])[order]
    return Below(torch.cat(slots), torch.cat(hours), first[index], count[index], query, at)
