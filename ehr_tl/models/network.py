"""The network: a Llama decoder over time slots.

A slot is the sum of its events' embeddings; an event is its code (itself, its ancestors, the words of its description)
and its value. A value lies between two quantile bins; what a bin means is learned for each code that has bins of its
own, and for any other read from what the bin means in general and what the code is. Time enters as the rotary position,
in hours, so that the gap between two slots is what attention sees. Query slots carry a mark and are read out.

`EhrModel` and `EhrConfig` are registered with `transformers` here; by `models.registration` its `AutoModel` and
`AutoConfig` know where to find them before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AutoConfig, AutoModel, LlamaConfig, LlamaModel, PreTrainedModel

from ehr_tl.tokens.batches import Batch
from ehr_tl.tokens.vocabulary import Encoding, Vocabulary

#: Ways to the same attention: torch's fused one, and one that trains faster in bfloat16 on CPUs, where forth
#: and back through the fused one takes 2.5 times as long at 256 places and 8 times at 64 (torch 2.13).
FUSED, HALVES = "sdpa", "ehr_tl_halves"

_GROUP = 32  # values of one code that are compared with its bins at once


@strict
class EhrConfig(LlamaConfig):
    """Llama's configuration (`vocab_size` counts the known codes and one for "not known") and what slots need.

    Attributes:
        buckets: Hash buckets for words.
        bins: Value bins of a code.
        valued: Codes that have value bins of their own.
        slot_hours: Width of a slot in pretraining.
        max_slots: Slots that a row looks back on.
        time_unit_hours: One step of the rotary position.
        outcomes: Codes whose occurrence the network was pretrained to foretell.
        horizons_days: Within how many days.
        tasks: Questions that it was pretrained to answer (source tasks).
    """

    model_type = "ehr_tl"

    vocab_size: int = 1
    hidden_size: int = 96
    intermediate_size: int = 256
    num_hidden_layers: int = 2
    num_attention_heads: int = 3
    use_cache: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    buckets: int = 4096
    bins: int = 12
    valued: int = 1
    slot_hours: float = 24.0
    max_slots: int = 256
    time_unit_hours: float = 24.0
    outcomes: list[str] | None = None
    horizons_days: list[int] | None = None
    tasks: list[str] | None = None

    def untrained(self) -> EhrConfig:
        """The same network before it was pretrained to foretell or answer anything."""
        return EhrConfig.from_dict({**self.to_dict(), "outcomes": None, "horizons_days": None, "tasks": None})

    def fitted(self, vocabulary: Vocabulary) -> EhrConfig:
        """The same with the sizes that a vocabulary asks for."""
        sizes = {
            "vocab_size": len(vocabulary.codes) + 1,
            "valued": len(vocabulary.valued),
            "buckets": vocabulary.buckets,
            "bins": vocabulary.bins,
        }
        return EhrConfig.from_dict({**self.to_dict(), **sizes})


@dataclass(frozen=True)
class CodeBook:
    """The codes of some records as a vocabulary knows them (`Encoding`), as tensors."""

    own: Tensor
    block: Tensor
    ancestors: Tensor
    ancestor_offsets: Tensor
    words: Tensor
    word_offsets: Tensor
    related: Tensor

    @classmethod
    def of(cls, encoding: Encoding) -> CodeBook:
        tables = [name for name in cls.__dataclass_fields__ if name != "related"]
        related = torch.ones(len(encoding.own), 1)
        return cls(**{name: torch.from_numpy(getattr(encoding, name)) for name in tables}, related=related)

    def forget(self, hidden: Tensor, alone: Tensor | None = None) -> CodeBook:
        """The same with some codes no longer known by themselves: only by their relatives and words.

        Args:
            hidden: Which codes, a mask of shape (C,).
            alone: Which of them are no longer known by their relatives either.
        """
        related = self.related if alone is None else self.related * ~(hidden & alone).unsqueeze(1)
        own, block = self.own.masked_fill(hidden, 0), self.block.masked_fill(hidden, 0)
        return replace(self, own=own, block=block, related=related)

    def to(self, device: torch.device) -> CodeBook:
        return CodeBook(**{name: tensor.to(device) for name, tensor in self.__dict__.items()})


class EhrModel(PreTrainedModel):
    """Time slots in, one vector for each query slot out.

    Heads on a slot's vector: `next` and `next_value` look for the codes and values of the slot after it. A pretrained
    network has two more, linear ones on the vectors of query slots: `foretell`, log odds of each outcome within each
    horizon, horizons innermost; and `tasks`, log odds of each source task.
    """

    config_class = EhrConfig
    base_model_prefix = "ehr"
    _supports_sdpa = True

    def __init__(self, config: EhrConfig):
        super().__init__(config)
        width = config.hidden_size
        self.backbone = LlamaModel(config)  # its token embedding holds the codes that are known by themselves
        self.words = nn.Embedding(config.buckets, width)
        self.code_bins = nn.Embedding((config.valued + 1) * config.bins, width)
        self.shared_bins = nn.Embedding(config.bins, width)
        self.bin_gain = nn.Linear(width, width, bias=False)
        self.query_mark = nn.Embedding(1, width)
        self.slot_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.next = nn.Linear(width, width)
        self.next_value = nn.Linear(width, width)
        if config.outcomes:
            self.foretell = nn.Linear(width, len(config.outcomes) * len(config.horizons_days))
        if config.tasks:
            self.tasks = nn.Linear(width, len(config.tasks))
        self.post_init()

    def forward(self, batch: Batch, book: CodeBook) -> Tensor:
        """Vectors of the batch's query slots, shape (R, hidden_size)."""
        hidden = self.contextualise(self.slots(batch, self.events(batch, book)), batch)
        return hidden.flatten(0, 1)[self._tensor(batch.query)]

    def codes(self, book: CodeBook) -> Tensor:
        """Embeddings of all codes of a book, shape (C, hidden_size)."""
        table = self.backbone.embed_tokens.weight
        own = F.embedding(book.own, table, padding_idx=0)
        ancestors = F.embedding_bag(book.ancestors, table, book.ancestor_offsets, mode="mean") * book.related
        return own + ancestors + F.embedding_bag(book.words, self.words.weight, book.word_offsets, mode="mean")

    def events(self, batch: Batch, book: CodeBook, codes: Tensor | None = None) -> Tensor:
        """Embeddings of the batch's events, shape (E, hidden_size). `codes` are those of the book, if made already."""
        codes = self.codes(book) if codes is None else codes
        valued = np.flatnonzero(batch.bin >= 0)
        used, which = np.unique(batch.code[valued], return_inverse=True)
        bins = self._value_bins(self._tensor(used), book, codes)
        first = self._tensor(which * self.config.bins + batch.bin[valued])
        upper = self._tensor(batch.fraction[valued]).unsqueeze(1)
        value = F.embedding(first, bins) * (1 - upper) + F.embedding(first + 1, bins) * upper
        embedded = F.embedding(self._tensor(batch.code), codes)
        return embedded.index_add(0, self._tensor(valued), value.to(embedded.dtype))

    def _value_bins(self, code: Tensor, book: CodeBook, codes: Tensor) -> Tensor:
        """What each value bin of some codes means, shape (n * bins, hidden_size)."""
        own = self.code_bins.weight.unflatten(0, (-1, self.config.bins))[book.block[code]]
        gain = F.embedding(code, self._gain(codes))
        return (own + self.shared_bins.weight * gain.unsqueeze(1)).flatten(0, 1)

    def _gain(self, codes: Tensor) -> Tensor:
        """How each code takes what bins mean in general; single precision, since many events add to one gradient."""
        return 1 + self.bin_gain(codes).float()

    def code_logits(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Log odds, up to a constant, of the codes of the slot after each slot.

        Args:
            hidden: Vectors of slots, shape (n, hidden_size).
            codes: Embeddings of C codes (`codes`).

        Returns:
            Shape (n, C).
        """
        return self.next(hidden) @ codes.T

    def value_logits(self, hidden: Tensor, code: np.ndarray, book: CodeBook, codes: Tensor) -> Tensor:
        """Log odds, up to a constant, of the bins in which the value of a code lies in the slot after each slot.

        Args:
            hidden: Vectors of slots, shape (n, hidden_size).
            code: The code that is there, shape (n,).
            book: The codes.
            codes: Their embeddings.

        Returns:
            Shape (n, bins).
        """
        asked, gain = self.next_value(hidden), F.embedding(self._tensor(code), self._gain(codes))
        general = (asked * gain) @ self.shared_bins.weight.T
        place, group = _groups(code)
        of, place = book.block[self._tensor(group)], self._tensor(place)
        own = self.code_bins.weight.unflatten(0, (-1, self.config.bins))[of]
        together = asked.new_zeros(len(group) * _GROUP, asked.shape[1]).index_copy(0, place, asked)
        logits = together.unflatten(0, (-1, _GROUP)) @ own.transpose(1, 2).to(asked.dtype)
        return general + logits.flatten(0, 1)[place]

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def slots(self, batch: Batch, events: Tensor) -> Tensor:
        """Sums of events by slot, marked and normalised, shape (B, L, hidden_size)."""
        total = events.new_zeros(batch.position.size, self.config.hidden_size)
        return self.finish(total.index_add(0, self._tensor(batch.place), events), batch)

    def finish(self, total: Tensor, batch: Batch) -> Tensor:
        """Marks and normalises sums of events, shape (..., B * L, hidden_size) to (..., B, L, hidden_size)."""
        query = self._tensor(batch.query)
        mark = self.query_mark.weight.expand(*total.shape[:-2], len(query), -1)
        return self.slot_norm(total.index_add(-2, query, mark)).unflatten(-2, batch.shape)

    def contextualise(self, slots: Tensor, batch: Batch, filled: Tensor | None = None) -> Tensor:
        """What each slot knows after looking back, shape (n, L, hidden_size).

        Args:
            slots: Shape (n, L, hidden_size), n a multiple of B: the batch, perhaps several times.
            batch: Where its slots stand and what they may see.
            filled: Slots that can be looked at, shape (n, L); None: those that hold events.
        """
        copies = slots.shape[0] // batch.shape[0]
        if filled is None:
            filled = self._tensor(batch.filled()).view(batch.shape)
        position = self._tensor(batch.position) / self.config.time_unit_hours
        return self.backbone(
            inputs_embeds=slots,
            attention_mask=self._mask(batch, filled, slots.dtype),
            position_ids=position.repeat(copies, 1),
        ).last_hidden_state

    def _mask(self, batch: Batch, filled: Tensor, dtype: torch.dtype) -> Tensor:
        """Additive attention mask, shape (n, 1, L, L): a slot sees itself and its sequence's filled whole slots before.

        It is spelled out because `transformers` takes gaps in `position_ids` for borders of packed sequences when it
        is given no mask.
        """
        length, copies = batch.shape[1], filled.shape[0] // batch.shape[0]
        sequence, whole = self._tensor(batch.sequence), self._tensor(batch.whole)
        before = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        near = (sequence.unsqueeze(2) == sequence.unsqueeze(1)) & before & whole.unsqueeze(1)
        seen = near.repeat(copies, 1, 1) & filled.unsqueeze(1)
        seen = seen | torch.eye(length, dtype=torch.bool, device=self.device)
        mask = torch.zeros(seen.shape, dtype=dtype, device=self.device)
        return mask.masked_fill_(~seen, float("-inf")).unsqueeze(1)


def _groups(code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lays codes into groups of `_GROUP` places, each for one code: so a matrix of each serves many of them at once.

    Returns:
        The place of each, shape (n,), and the code of each group, shape (groups,).
    """
    found, which, counts = np.unique(code, return_inverse=True, return_counts=True)
    order = np.argsort(which, kind="stable")
    groups = -(-counts // _GROUP)
    within = np.arange(len(code)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty(len(code), dtype=np.int64)
    place[order] = np.repeat(np.cumsum(groups) - groups, counts) * _GROUP + within
    return place, np.repeat(found, groups)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention step by step, all in the precision of the values: see `HALVES`."""
    kind = value.dtype
    scores = (query * scaling).to(kind) @ key.to(kind).transpose(2, 3) + attention_mask.to(kind)
    return (scores.softmax(-1, dtype=kind) @ value).transpose(1, 2).contiguous(), None


def extended(model: EhrModel, vocabulary: Vocabulary) -> EhrModel:
    """A copy of a model with room for the codes that a vocabulary added; what is new is zero and changes nothing."""
    larger = EhrModel(model.config.fitted(vocabulary))
    state = larger.state_dict()
    for name, old in model.state_dict().items():
        if old.shape != state[name].shape:
            state[name].zero_()
            state[name][: len(old)] = old
        else:
            state[name].copy_(old)
    return larger.train(model.training)


AttentionInterface.register(HALVES, _attend)
AutoConfig.register(EhrConfig.model_type, EhrConfig, exist_ok=True)
AutoModel.register(EhrConfig, EhrModel, exist_ok=True)
