"""What pretraining asks of the network, and how wrong it is.

Of every slot: which codes does the next one hold, and within which quantile bins do their values lie? Of query slots
at random times: which codes, death among them, occur within each horizon? Of query slots that a source task labels:
what is the answer?
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ehr_tl.models.network import CodeBook, EhrModel
from ehr_tl.tokens.batches import Batch
from ehr_tl.transfer.recipe import TrainingConfig
from ehr_tl.transfer.sources import Drawn

#: The losses, in the order in which they are told; all in nats.
LOSSES = ("codes", "values", "outcomes", "tasks")


@dataclass(frozen=True)
class NextSlot:
    """What the slot after each whole slot holds, for n pairs of slot and code.

    Attributes:
        place: The slot, shape (n,), ascending.
        code: A code of its successor, shape (n,).
        weight: The weights of a slot add up to 1, shape (n,).
        valued_place, valued_code, bin, fraction: The same of its successor's values, shape (m,).
    """

    place: np.ndarray
    code: np.ndarray
    weight: np.ndarray
    valued_place: np.ndarray
    valued_code: np.ndarray
    bin: np.ndarray
    fraction: np.ndarray

    def some(self, most: int, rng: np.random.Generator) -> NextSlot:
        """The same with at most so many values, chosen at random: each that is asked for needs the bins of its code."""
        if len(self.bin) <= most:
            return self
        kept = np.sort(rng.choice(len(self.bin), most, replace=False))
        names = ("valued_place", "valued_code", "bin", "fraction")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})


def next_slot(batch: Batch, codes: int) -> NextSlot:
    """Finds what follows each whole slot in its own sequence. `codes` is the number of codes of the records."""
    whole = np.flatnonzero(batch.whole)
    sequence = batch.sequence.ravel()[whole]
    previous = np.full(batch.whole.size, -1)
    same = sequence[1:] == sequence[:-1]
    previous[whole[1:][same]] = whole[:-1][same]
    before = np.where(batch.source >= 0, previous[batch.place], -1)
    follows = before >= 0
    place, code = np.divmod(np.unique(before[follows] * codes + batch.code[follows]), codes)
    _, which, counts = np.unique(place, return_inverse=True, return_counts=True)
    valued = follows & (batch.bin >= 0)
    return NextSlot(
        place,
        code,
        (1 / counts[which]).astype(np.float32),
        before[valued],
        batch.code[valued],
        batch.bin[valued],
        batch.fraction[valued],
    )


@dataclass(frozen=True)
class Exercise:
    """One batch, and what of it is shown.

    Attributes:
        drawn: Where its rows come from.
        batch: What is there.
        seen: What of it the network is shown.
        following: What is asked of the next slots.
        hidden, alone: Codes that it knows by their relatives and words, or by their words alone (`CodeBook.forget`),
            masks of shape (C,).
    """

    drawn: Drawn
    batch: Batch
    seen: Batch
    following: NextSlot
    hidden: Tensor | None = None
    alone: Tensor | None = None


class Objective(nn.Module):
    """A network and its losses; what `accelerate` wraps.

    Args:
        network: The network.
        training: How it is trained: weights of the losses.
        half: Whether matrices are multiplied in bfloat16.
    """

    def __init__(self, network: EhrModel, training: TrainingConfig, half: bool):
        super().__init__()
        self.network, self.half = network, half
        self.weights = dict(zip(LOSSES, (1.0, training.values, training.outcomes, training.tasks), strict=True))

    def forward(self, exercise: Exercise) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss that is minimised, and its parts by name; a part that a source has nothing for is left out."""
        device = self.network.device
        with torch.autocast(device.type, torch.bfloat16) if self.half else nullcontext():
            parts, query = self.parts(exercise)
        # Of a batch that asks nothing a loss of 0 is taken back, too: other processes wait for its gradients.
        total = sum(self.weights[name] * loss for name, loss in parts.items()) if parts else query.float().sum() * 0
        return total, {name: loss.detach() for name, loss in parts.items()}

    def parts(self, exercise: Exercise) -> tuple[dict[str, Tensor], Tensor]:
        """The losses by name, and the vectors of the query slots, shape (R, hidden_size)."""
        network, drawn, batch, device = self.network, exercise.drawn, exercise.batch, self.network.device
        book = drawn.reading.book.to(device)
        if exercise.hidden is not None:
            book = book.forget(exercise.hidden.to(device), exercise.alone.to(device))
        seen, codes = exercise.seen, network.codes(book)
        hidden = network.contextualise(network.slots(seen, network.events(seen, book, codes)), seen).flatten(0, 1)
        following, parts = exercise.following, {}
        if len(following.place):
            parts["codes"] = _code_loss(network, hidden, following, codes)
        if len(following.valued_place):
            parts["values"] = _value_loss(network, hidden, following, book, codes)
        query = hidden[torch.from_numpy(batch.query).to(device)]
        if drawn.source.foresight is not None and network.config.outcomes and len(batch.rows):
            target, closed = drawn.source.foresight.targets(drawn.reading.asked, batch.rows)
            parts["outcomes"] = _outcome_loss(network.foretell(query), target, closed)
        label = torch.from_numpy(drawn.labels[batch.rows]).to(device)
        if network.config.tasks and not label.isnan().all():
            parts["tasks"] = _task_loss(network.tasks(query), label)
        return parts, query


def _code_loss(network: EhrModel, hidden: Tensor, following: NextSlot, codes: Tensor) -> Tensor:
    """Mean over slots of the cross entropy of the next slot's codes."""
    device = hidden.device
    slots, which = np.unique(following.place, return_inverse=True)
    likely = F.log_softmax(network.code_logits(hidden[torch.from_numpy(slots).to(device)], codes).float(), dim=1)
    which, code, weight = (torch.from_numpy(each).to(device) for each in (which, following.code, following.weight))
    return -(likely[which, code] * weight).sum() / len(slots)


def _value_loss(network: EhrModel, hidden: Tensor, following: NextSlot, book: CodeBook, codes: Tensor) -> Tensor:
    """Mean over values of the cross entropy of the two bins that one lies between, by how near it is to each."""
    columns = (following.valued_place, following.bin, following.fraction)
    place, low, upper = (torch.from_numpy(column).to(hidden.device) for column in columns)
    logits = network.value_logits(hidden[place], following.valued_code, book, codes)
    likely = F.log_softmax(logits.float(), dim=1)
    at = likely.gather(1, torch.stack([low, low + 1], dim=1))
    return -(at[:, 0] * (1 - upper) + at[:, 1] * upper).mean()


def _outcome_loss(logits: Tensor, target: np.ndarray, closed: np.ndarray) -> Tensor:
    """Binary cross entropy summed over outcomes and the horizons that had closed, mean over rows."""
    wanted = torch.from_numpy(target).to(logits.device)
    loss = F.binary_cross_entropy_with_logits(logits.float().view(wanted.shape), wanted, reduction="none").sum(1)
    return (loss * torch.from_numpy(closed).to(logits.device)).sum() / len(target)


def _task_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Binary cross entropy summed over the tasks that label a row, mean over rows that are labelled."""
    known = ~label.isnan()
    loss = F.binary_cross_entropy_with_logits(logits.float()[known], label[known], reduction="sum")
    return loss / known.any(1).sum()
