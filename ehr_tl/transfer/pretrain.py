"""Pretraining: a network learns from whole hospitals, without labels, what tends to follow what.

Two things are asked of it. Every slot: which codes does the next slot hold? Query slots at random times: which codes,
death among them, occur within each horizon? Codes are at times hidden from the network's own table, so that it learns
to read them by their relatives and words, as it must with a hospital's local codes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence as Many
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ehr_tl import schema
from ehr_tl.events import Events
from ehr_tl.models import training
from ehr_tl.models.checkpoint import round_to_half
from ehr_tl.models.finetune import Reading, shuffled
from ehr_tl.models.network import EhrConfig, EhrModel
from ehr_tl.progress import bar
from ehr_tl.tokens.batches import Batch, by_length
from ehr_tl.tokens.vocabulary import Encoding, Vocabulary
from ehr_tl.transfer.foresight import Foresight, Hospital, next_codes, random_pass, read_hospital

log = logging.getLogger("ehr_tl")

_OUTCOMES_WEIGHT = 0.05  # brings the summed loss of all outcomes near that of the next slot
_VALIDATION_SLOTS = 4096
_FEWEST_EVENTS = 10  # for an AUROC


@dataclass(frozen=True)
class PretrainConfig:
    """How a checkpoint is made.

    Attributes:
        epochs: Passes over the subjects.
        queries: Random prediction times per subject and epoch; those in one stretch of the record are used.
        batch_subjects, learning_rate, weight_decay: Optimisation.
        event_dropout: Share of events hidden at random.
        code_dropout: Share of codes that a batch knows by their relatives and words alone.
        min_subjects: Fewest subjects for a code to be known by itself and to be an outcome.
        horizons_days: Within how many days outcomes are foretold.
        validation: Share of the subjects that is held out to watch the loss.
        seed: Fixes everything random.
    """

    epochs: int = 30
    queries: int = 8
    batch_subjects: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    event_dropout: float = 0.2
    code_dropout: float = 0.1
    min_subjects: int = 10
    horizons_days: tuple[int, ...] = (30, 365, 730)
    validation: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class Pretrained:
    """What pretraining gives: the network, how it reads records, and its losses per epoch."""

    model: EhrModel
    vocabulary: Vocabulary
    history: list[dict[str, float]]


class Heads(nn.Module):
    """The network and what pretraining alone needs: who comes next is told by likeness to the codes' embeddings."""

    def __init__(self, body: EhrModel):
        super().__init__()
        self.body = body
        self.next = nn.Linear(body.config.hidden_size, body.config.hidden_size)


@dataclass(frozen=True)
class Source:
    """A hospital as the vocabulary reads it, and its subjects (positions) who train and who are held out."""

    hospital: Hospital
    encoding: Encoding
    foresight: Foresight
    train: np.ndarray
    aside: np.ndarray


def pretrain(sources: Many[Events], config: PretrainConfig, network: EhrConfig, state: Path) -> Pretrained:
    """Pretrains a network; one that was interrupted goes on from the last epoch in `state` (same sources and settings).

    Args:
        sources: Events folders, each a hospital of its own.
        config: How to train.
        network: The architecture; what depends on the vocabulary is filled in.
        state: Folder for the state, in safetensors and JSON.

    Raises:
        RunError: The end of a source's export is not known.
    """
    hospitals = [read_hospital(each, network.slot_hours) for each in sources]
    vocabulary = Vocabulary.fit([each.records for each in hospitals], config.min_subjects, network.buckets)
    unforetold = (schema.AGE, schema.GENDER + "//")
    outcomes = [schema.DEATH, *(code for code in vocabulary.codes if not code.startswith(unforetold))]
    foretelling = {"outcomes": outcomes, "horizons_days": list(config.horizons_days)}
    network = EhrConfig.from_dict({**network.to_dict(), **foretelling}).fitted(vocabulary)
    prepared = [_source(each, vocabulary, outcomes, config, i) for i, each in enumerate(hospitals)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.hash_seed(config.seed))
        heads = Heads(EhrModel(network))
    _set_base_rates(heads, prepared, config)
    history = _train(heads, prepared, config, state)
    round_to_half(heads.body)
    return Pretrained(heads.body.eval(), vocabulary, history)


def _source(
    hospital: Hospital, vocabulary: Vocabulary, outcomes: list[str], config: PretrainConfig, number: int
) -> Source:
    rng = np.random.default_rng((config.seed, number))
    aside = rng.random(len(hospital.records.subjects)) < config.validation
    foresight = Foresight(hospital, outcomes, config.horizons_days)
    encoding = vocabulary.encode(hospital.records)
    return Source(hospital, encoding, foresight, np.flatnonzero(~aside), np.flatnonzero(aside))


@torch.no_grad()
def _set_base_rates(heads: Heads, sources: list[Source], config: PretrainConfig) -> None:
    """Lets training begin where every outcome is as likely as it is on average."""
    rng, _ = training.generators(config.seed)
    following, total = 0.0, 0.0
    for source in sources:
        asked, _ = random_pass(source.hospital, source.train, 1, heads.body.config.max_slots, rng)
        target, closed = source.foresight.targets(asked, np.arange(len(asked)))
        following = following + (target * closed[:, None]).sum(axis=0)
        total = total + closed.sum(axis=0)
    rate = torch.from_numpy((following + 0.5) / (total + 1.0))
    heads.body.foretell.weight.zero_()
    heads.body.foretell.bias.copy_(torch.logit(rate).flatten())


def _train(heads: Heads, sources: list[Source], config: PretrainConfig, state: Path) -> list[dict[str, float]]:
    optimiser = training.optimiser(heads, config.learning_rate, config.weight_decay)
    settings = {**asdict(config), "horizons_days": list(config.horizons_days), "network": heads.body.config.to_dict()}
    notes = training.load_state(state, {"heads": heads}, optimiser, settings)
    if notes is None:
        notes = {"epoch": 0, "history": []}
    with bar("pretraining", config.epochs) as progress:
        progress.advance(notes["epoch"])
        while notes["epoch"] < config.epochs:
            loss = _epoch(heads, optimiser, sources, config, notes["epoch"])
            notes["epoch"] += 1
            notes["history"].append(
                {"epoch": notes["epoch"], "loss": round(loss, 4), **validate(heads, sources, config)}
            )
            training.save_state(state, {"heads": heads}, optimiser, notes, settings)
            log.info("pretraining: %s", notes["history"][-1])
            progress.advance(1, f"validation loss {notes['history'][-1]['validation_loss']:.3f}")
    return notes["history"]


def _epoch(
    heads: Heads, optimiser: torch.optim.Optimizer, sources: list[Source], config: PretrainConfig, epoch: int
) -> float:
    rng, _ = training.generators(config.seed, epoch)
    work = []
    for source in sources:
        asked, sequences = random_pass(source.hospital, source.train, config.queries, heads.body.config.max_slots, rng)
        reading = Reading(asked, source.encoding)
        work += [(source, reading, batch) for batch in shuffled(sequences, config.batch_subjects, rng)]
    heads.train()
    losses = []
    for number, position in enumerate(rng.permutation(len(work))):
        source, reading, sequences = work[position]
        training.set_rate(optimiser, config.learning_rate, (epoch + number / len(work)) / config.epochs)
        batch = reading.batch(sequences)
        codes = len(reading.asked.records.codes)
        dropped = training.drop_events(batch, config.event_dropout, codes, rng)
        unknown = torch.from_numpy(rng.random(codes) < config.code_dropout)
        following, outcomes = _losses(heads, source, reading, batch, dropped, unknown)
        losses.append(training.step(heads, optimiser, following + _OUTCOMES_WEIGHT * outcomes))
    return float(np.mean(losses))


def _losses(
    heads: Heads, source: Source, reading: Reading, batch: Batch, seen: Batch, unknown: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross entropy of the next slot's codes, and of all outcomes, summed per row.

    Args:
        batch: What is there.
        seen: What of it the network is shown.
        unknown: Codes that it knows by their relatives and words alone, a mask.
    """
    body, book = heads.body, reading.book.forget(unknown)
    hidden = body.contextualise(body.slots(seen, body.events(seen, book)), seen).flatten(0, 1)
    place, code, weight = (torch.from_numpy(each) for each in next_codes(batch, len(unknown)))
    slots, which = torch.unique(place, return_inverse=True)
    likeness = F.log_softmax(heads.next(hidden[slots]) @ body.codes(book).T, dim=1)
    following = -(likeness[which, code] * weight).sum() / max(1, len(slots))

    logits = body.foretell(hidden[torch.from_numpy(batch.query)])
    target, closed = source.foresight.targets(reading.asked, batch.rows)
    loss = F.binary_cross_entropy_with_logits(
        logits.view(target.shape), torch.from_numpy(target), reduction="none"
    ).sum(1)
    return following, (loss * torch.from_numpy(closed)).sum() / max(1, len(batch.rows))


@torch.no_grad()
def validate(heads: Heads, sources: list[Source], config: PretrainConfig) -> dict[str, float]:
    """Losses on the held-out subjects, and how well death and the other outcomes are told apart at each horizon."""
    heads.eval()
    losses, logits, targets, closed = [], [], [], []
    for number, source in enumerate(sources):
        rng, _ = training.generators(config.seed, number, 1)
        asked, sequences = random_pass(source.hospital, source.aside, config.queries, heads.body.config.max_slots, rng)
        reading = Reading(asked, source.encoding)
        known = torch.zeros(len(asked.records.codes), dtype=torch.bool)
        for group in by_length(sequences, _VALIDATION_SLOTS):
            batch = reading.batch(group)
            parts = _losses(heads, source, reading, batch, batch, known)
            losses.append([len(batch.rows), *(float(part) for part in parts)])
            target, open_ = source.foresight.targets(asked, batch.rows)
            logits.append(heads.body.foretell(heads.body(batch, reading.book)).view(target.shape).numpy())
            targets.append(target)
            closed.append(open_)
    rows, following, outcomes = np.array(losses).T
    following, outcomes = np.average(following, weights=rows), np.average(outcomes, weights=rows)
    total = {"validation_loss": following + _OUTCOMES_WEIGHT * outcomes, "next": following, "outcomes": outcomes}
    ranks = _discrimination(np.concatenate(logits), np.concatenate(targets), np.concatenate(closed), config)
    return {name: round(float(value), 4) for name, value in {**total, **ranks}.items()}


def _discrimination(logits: np.ndarray, targets: np.ndarray, closed: np.ndarray, config: PretrainConfig) -> dict:
    """AUROC of death, and the mean over the other outcomes, within each horizon; rows whose window had closed."""
    from sklearn.metrics import roc_auc_score

    found = {}
    for h, days in enumerate(config.horizons_days):
        rows = closed[:, h]
        events = targets[rows, :, h].sum(axis=0)
        told = np.flatnonzero((events >= _FEWEST_EVENTS) & (events <= rows.sum() - _FEWEST_EVENTS))
        ranks = {int(o): roc_auc_score(targets[rows, o, h], logits[rows, o, h]) for o in told}
        if 0 in ranks:
            found[f"auroc_death_{days}_days"] = ranks.pop(0)
        if ranks:
            found[f"auroc_others_{days}_days"] = np.mean(list(ranks.values()))
    return found
