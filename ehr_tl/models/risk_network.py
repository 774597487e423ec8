"""A network with one linear head for one outcome, and how it is trained.

What is kept is the epoch, the beginning included, that does best on training subjects that were set aside.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ehr_tl.config import TransformerConfig
from ehr_tl.files import whole
from ehr_tl.models import training
from ehr_tl.models.checkpoint import VOCABULARY, load_model, round_to_half, save_model
from ehr_tl.models.folds import subject_folds
from ehr_tl.models.network import CodeBook, EhrConfig, EhrModel
from ehr_tl.schema import AGE
from ehr_tl.tokens.batches import Batch, by_length, collate
from ehr_tl.tokens.sequences import Sequence, Sequences
from ehr_tl.tokens.vocabulary import Encoding, Vocabulary

log = logging.getLogger("ehr_tl")

MIN_SUBJECTS = 5  # who must have a code for it to be learned by itself
_SLOTS = 8192  # padded slots of one pass without gradients
_DECAY = 0.05
_PARTS = 5  # of the training subjects; one decides when to stop
_HEAD = "head.safetensors"


@dataclass(frozen=True)
class Reading:
    """Sequences as one vocabulary reads them."""

    asked: Sequences
    encoding: Encoding

    @cached_property
    def book(self) -> CodeBook:
        return CodeBook.of(self.encoding)

    def batch(self, lanes: list[list[Sequence]]) -> Batch:
        return collate(self.asked, lanes, self.encoding)


class RiskNetwork(nn.Module):
    """A network and a linear head on its query slots."""

    def __init__(self, body: EhrModel):
        super().__init__()
        self.body = body
        self.head = nn.Linear(body.config.hidden_size, 1)

    def forward(self, batch: Batch, book: CodeBook) -> Tensor:
        """Log odds of the batch's rows, shape (R,)."""
        return self.logit(self.body(batch, book))

    def logit(self, hidden: Tensor) -> Tensor:
        """Log odds of query slots' vectors, shape (..., hidden_size) to (...).

        Not a matrix product: of few rows that adds in another order than of many, and what else is asked would show in
        the last digit.
        """
        return (hidden * self.head.weight[0]).sum(-1) + self.head.bias


class TransformerModel:
    """A fitted transformer (`models.base.RiskModel`).

    Attributes:
        network: The weights.
        vocabulary: How it reads records.
        salience: How much each known code mattered on the training rows, by its number; shape (codes + 1,).
    """

    def __init__(self, network: RiskNetwork, vocabulary: Vocabulary, salience: np.ndarray):
        self.network, self.vocabulary, self.salience = network.eval(), vocabulary, salience
        self._last: Reading | None = None

    def read(self, inputs: Sequences) -> Reading:
        """`inputs` as this model reads them; the last ones are remembered."""
        if self._last is None or self._last.asked is not inputs:
            self._last = Reading(inputs, self.vocabulary.encode(inputs.records))
        return self._last

    @torch.no_grad()
    def logit(self, inputs: Sequences, index: np.ndarray) -> np.ndarray:
        """Raw log odds of the rows `index`, shape (len(index),)."""
        return _logits(self.network, self.read(inputs), np.asarray(index))

    @torch.no_grad()
    def base(self, inputs: Sequences) -> float:
        """Log odds when nothing is known of a row, be it the events, age or gender."""
        reading = self.read(inputs)
        batch = reading.batch([inputs.group(np.array([0]))])
        return float(self.network(batch.keep(np.zeros(len(batch.code), dtype=bool)), reading.book)[0])

    def save(self, folder: Path) -> None:
        """Writes config.json, model.safetensors, head.safetensors and vocabulary.json."""
        save_model(self.network.body, folder)
        head = {"weight": self.network.head.weight, "bias": self.network.head.bias}
        tensors = {name: tensor.detach().clone() for name, tensor in head.items()}
        with whole(folder / _HEAD) as temporary:
            save_file({**tensors, "salience": torch.from_numpy(self.salience)}, temporary)
        self.vocabulary.save(folder / VOCABULARY)

    @classmethod
    def load(cls, folder: Path) -> TransformerModel:
        """Opens what `save` wrote."""
        network = RiskNetwork(load_model(folder))
        tensors = load_file(folder / _HEAD)
        salience = tensors.pop("salience").numpy()
        network.head.load_state_dict(tensors)
        return cls(network, Vocabulary.load(folder / VOCABULARY), salience)


def train_from_scratch(
    architecture: EhrConfig,
    inputs: Sequences,
    labels: np.ndarray,
    train: np.ndarray,
    config: TransformerConfig,
    seed: int,
    state: Path,
) -> TransformerModel:
    """Fits a network that begins with random weights; goes on where an interrupted fit left its state in `state`.

    Args:
        architecture: Of the network.
        inputs: The rows.
        labels: 0 or 1 per row of `inputs`; only those at `train` are looked at.
        train: Positions of the training rows.
        config: How to train.
        seed: Fixes weights, order and dropout.
        state: A folder.
    """
    nothing = Vocabulary([], [AGE], {}, {}, {}, architecture.buckets)
    vocabulary = nothing.extend([inputs.records], [inputs.subject[train]], MIN_SUBJECTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.hash_seed(seed))
        network = RiskNetwork(EhrModel(architecture.fitted(vocabulary)))
    reading = Reading(inputs, vocabulary.encode(inputs.records))
    fitting, aside = _set_aside(inputs.subject, labels, train, seed)
    _start_at_prevalence(network, labels[fitting])
    _train(network, reading, labels, fitting, aside, config, seed, state)
    round_to_half(network.body)
    network.eval()
    return TransformerModel(network, vocabulary, _salience(network, reading, train, len(vocabulary.codes) + 1))


def _set_aside(subject: np.ndarray, labels: np.ndarray, train: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sets the rows of every fifth training subject aside."""
    aside = subject_folds(subject[train], labels[train], _PARTS, seed) == 0
    return train[~aside], train[aside]


def _logits(network: RiskNetwork, reading: Reading, index: np.ndarray) -> np.ndarray:
    found = np.empty(len(reading.asked))
    for lanes in by_length(reading.asked.group(index), _SLOTS):
        batch = reading.batch(lanes)
        found[batch.rows] = network(batch, reading.book).numpy()
    return found[index]


@torch.no_grad()
def _loss(network: RiskNetwork, reading: Reading, labels: np.ndarray, index: np.ndarray) -> float:
    """Mean log loss of rows."""
    logits = _logits(network.eval(), reading, index)
    return float(np.mean(np.logaddexp(0, logits) - labels[index] * logits))


@torch.no_grad()
def _start_at_prevalence(network: RiskNetwork, labels: np.ndarray) -> None:
    """Sets the head to say of everybody what is so on average."""
    network.head.weight.zero_()
    network.head.bias.fill_(float(np.log((labels.sum() + 0.5) / (len(labels) - labels.sum() + 0.5))))


def _train(
    network: RiskNetwork,
    reading: Reading,
    labels: np.ndarray,
    fitting: np.ndarray,
    aside: np.ndarray,
    config: TransformerConfig,
    seed: int,
    state: Path,
) -> None:
    """Trains all weights with early stopping and leaves the best in `network`, which may be how it was.

    Args:
        network: What is trained.
        reading: The rows as it reads them.
        labels: 0 or 1 per row.
        fitting, aside: Positions of rows to learn from, and of those that decide when to stop.
        config: How to train.
        seed: Fixes order and dropout.
        state: A folder, where an interrupted training finds its state again.
    """
    best = RiskNetwork(EhrModel(network.body.config))
    best.load_state_dict(network.state_dict())
    optimiser = training.optimiser(network, config.learning_rate, _DECAY)
    modules = {"network": network, "best": best}
    settings = {**asdict(config), "seed": seed, "vocabulary": len(network.body.backbone.embed_tokens.weight)}
    notes = training.load_state(state, modules, optimiser, settings)
    if notes is None:
        notes = {"epoch": 0, "best_epoch": 0, "best_loss": _loss(network, reading, labels, aside)}
    while notes["epoch"] < config.epochs and notes["epoch"] - notes["best_epoch"] < config.patience:
        _epoch(network, optimiser, reading, labels, fitting, config, seed, notes["epoch"])
        loss = _loss(network, reading, labels, aside)
        notes["epoch"] += 1
        if loss < notes["best_loss"]:
            best.load_state_dict(network.state_dict())
            notes.update(best_loss=loss, best_epoch=notes["epoch"])
        training.save_state(state, modules, optimiser, notes, settings)
    log.debug("training: best epoch %d of %d", notes["best_epoch"], notes["epoch"])
    network.load_state_dict(best.state_dict())


def _epoch(
    network: RiskNetwork,
    optimiser: torch.optim.Optimizer,
    reading: Reading,
    labels: np.ndarray,
    fitting: np.ndarray,
    config: TransformerConfig,
    seed: int,
    epoch: int,
) -> None:
    rng, _ = training.generators(seed, epoch)
    batches = shuffled(reading.asked.group(fitting), config.batch_subjects, rng)
    target = torch.from_numpy(labels.astype(np.float32))
    network.train()
    with training.trained_quickly(network.body) as half:
        for number, lanes in enumerate(batches):
            training.set_rate(optimiser, config.learning_rate, (epoch + number / len(batches)) / config.epochs)
            batch = reading.batch(lanes)
            batch = training.drop_events(batch, config.event_dropout, len(reading.asked.records.codes), rng)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = network(batch, reading.book)
            loss = F.binary_cross_entropy_with_logits(logits.float(), target[torch.from_numpy(batch.rows)])
            training.step(network, optimiser, loss)


def shuffled(sequences: list[Sequence], size: int, rng: np.random.Generator) -> list[list[list[Sequence]]]:
    """Batches of `size` lanes of one sequence each in random order; those of a batch are of like length."""
    mixed = [sequences[i] for i in rng.permutation(len(sequences))]
    pool = size * 8
    batches = []
    for begin in range(0, len(mixed), pool):
        near = sorted(mixed[begin : begin + pool], key=len)
        batches += [[[sequence] for sequence in near[i : i + size]] for i in range(0, len(near), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _salience(network: RiskNetwork, reading: Reading, index: np.ndarray, codes: int) -> np.ndarray:
    """Mean over sequences that have a code of |gradient x embedding|, summed over its events; rare codes less."""
    total, having = np.zeros(codes), np.zeros(codes)
    for lanes in by_length(reading.asked.group(index), _SLOTS):
        batch = reading.batch(lanes)
        with torch.no_grad():
            events = network.body.events(batch, reading.book)
        events.requires_grad_()
        hidden = network.body.contextualise(network.body.slots(batch, events), batch).flatten(0, 1)
        logits = network.logit(hidden[torch.from_numpy(batch.query)]).sum()
        (gradient,) = torch.autograd.grad(logits, events)
        number = reading.encoding.own[batch.code]
        total += np.bincount(number, (gradient * events.detach()).sum(-1).abs().numpy(), codes)
        having += np.bincount(np.unique(batch.owner * codes + number) % codes, minlength=codes)
    salience = (total / (having + MIN_SUBJECTS)).astype(np.float32)
    salience[0] = 0
    return salience
