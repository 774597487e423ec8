"""How fast pretraining is: slots per second, and how much of what this machine can multiply goes into them.

    python benchmarks/training.py [EVENTS...] [--width 128] [--layers 4] [--device cpu] [--json FILE]

The same network learns from the same batches of sequences, at the same losses, in three ways: in the loop of `ehr_tl`,
whose lanes are packed, and under `transformers.Trainer` (single precision, its own defaults) with each sequence in a
lane of its own, padded to the longest of the batch or, as is usual where shapes are to be fixed, to `max_slots`.
Without EVENTS it reads made-up records. The ways take turns; a figure is the median of the rounds.

Work is what the matrices need: 2 operations for each multiplication and addition, 3 times, since going back takes
twice what going forth does. Counted are the decoder's layers, attention between slots that do see each other, and the
heads on slots of which they ask something. Padding, attention across sequences, embeddings and everything done element
by element count as no work, though they take time. The peak is that of multiplying square matrices, measured in the
same run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ehr_tl import schema
from ehr_tl.events import Events
from ehr_tl.files import write_json
from ehr_tl.models import training
from ehr_tl.models.network import EhrConfig, EhrModel
from ehr_tl.models.risk_network import Reading
from ehr_tl.tokens.batches import Batch, padded
from ehr_tl.tokens.records import FAMILIES, HOUR, Records
from ehr_tl.tokens.vocabulary import Vocabulary
from ehr_tl.transfer.foresight import Foresight, Hospital, read_hospital
from ehr_tl.transfer.held_out import TRAIN, VALIDATION
from ehr_tl.transfer.loop import Loop, exercise
from ehr_tl.transfer.objectives import Exercise, Objective
from ehr_tl.transfer.recipe import TrainingConfig
from ehr_tl.transfer.sources import Drawn, Lanes, Source, labels_of, steps

HORIZONS = (30, 365, 730)
SIZES = (512, 1024, 2048, 4096)  # of the matrices that tell the peak
SEED = 0


def made_up(subjects: int = 2000, codes: int = 400, seed: int = SEED) -> Hospital:
    """Random records: 5 to 250 days with about 8 events each, half of the codes with values; no labels."""
    rng = np.random.default_rng(seed)
    days = rng.integers(5, 250, subjects)
    slot_day = np.concatenate([np.sort(rng.choice(3000, count, replace=False)) for count in days])
    counts = 1 + rng.poisson(7, len(slot_day))
    events = int(counts.sum())
    code = (rng.random(events) ** 2 * codes).astype(np.int64)
    start = (slot_day + 15_000) * 24 * HOUR
    records = Records(
        subjects=np.arange(subjects),
        birth=np.zeros(subjects, dtype=np.int64),
        known_birth=np.ones(subjects, dtype=bool),
        gender=np.full(subjects, -1),
        time=np.repeat(start, counts) + HOUR,
        code=code,
        pair=code,
        value=np.where(code % 2, rng.normal(5, 1, events), np.nan).astype(np.float32),
        family=np.full(events, FAMILIES.index("other"), dtype=np.int8),
        subject_slots=np.r_[0, np.cumsum(days)],
        slot_events=np.r_[0, np.cumsum(counts)],
        slot_start=start,
        slot_hours=24.0,
        codes=(*(f"MADE//{number:04}" for number in range(codes)), schema.AGE),
        above=((),) * (codes + 1),
        pairs=tuple((number, "") for number in range(codes)),
        descriptions={f"MADE//{number:04}": f"made up number {number}" for number in range(codes)},
        common=frozenset(),
        parents={},
    )
    never = np.full(subjects, np.iinfo(np.int64).max // 2)
    return Hospital(records, never, 15_000 * 24 * HOUR, np.full(subjects, 18_000 * 24 * HOUR), True)


def sources_of(hospitals: list[Hospital], options: argparse.Namespace) -> tuple[EhrConfig, list[Source]]:
    """A network for hospitals, and as many of their subjects as fill the steps that are asked for."""
    vocabulary = Vocabulary.fit([each.records for each in hospitals], 10)
    followed = {code for each in hospitals if each.follows for code in each.records.codes}
    outcomes = [schema.DEATH, *(code for code in vocabulary.codes if code in followed)]
    config = EhrConfig(
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // options.head,
        num_key_value_heads=options.width // options.head,
        intermediate_size=3 * options.width,
        time_unit_hours=1,
        max_slots=options.max_slots,
        outcomes=outcomes,
        horizons_days=list(HORIZONS),
    ).fitted(vocabulary)
    sources = []
    for number, hospital in enumerate(hospitals):
        foresight = Foresight(hospital, outcomes, HORIZONS) if hospital.follows else None
        some = _some(hospital, config.max_slots, options.steps * options.batch_slots // len(hospitals))
        members = {TRAIN: some, VALIDATION: some[:0]}
        encoding = vocabulary.encode(hospital.records)
        sources.append(Source(hospital, encoding, foresight, labels_of((), number), members))
    return config, sources


def _some(hospital: Hospital, max_slots: int, slots: int) -> np.ndarray:
    """Random subjects, as many as have about that many slots in one epoch."""
    order = np.random.default_rng(SEED).permutation(len(hospital.records.subjects))
    filled = np.cumsum(np.minimum(np.diff(hospital.records.subject_slots)[order], max_slots))
    return np.sort(order[: 1 + np.searchsorted(filled, slots)])


@dataclass(frozen=True)
class Padded(Reading):
    """A reading whose lanes all have the length `length`, if they are not longer anyway."""

    length: int = 0

    def batch(self, lanes: Lanes) -> Batch:
        batch = super().batch(lanes)
        count, old = batch.shape
        if old >= self.length:
            return batch

        def moved(place: np.ndarray) -> np.ndarray:
            return place // old * self.length + place % old

        def wider(values: np.ndarray, fill: Any) -> np.ndarray:
            room = np.full((count, self.length), fill, dtype=values.dtype)
            room[:, :old] = values
            return room

        return replace(
            batch,
            place=moved(batch.place),
            query=moved(batch.query),
            sequence=wider(batch.sequence, -1),
            position=wider(batch.position, 0),
            whole=wider(batch.whole, False),
        )


def draw(sources: list[Source], config: TrainingConfig, max_slots: int) -> list[tuple[Drawn, Lanes]]:
    """The batches of one epoch."""
    rng = np.random.default_rng(SEED)
    work = []
    for source in sources:
        drawn = source.draw(TRAIN, config.queries, max_slots, rng)
        work += [(drawn, lanes) for lanes in steps(drawn.sequences(rng), config.batch_slots, config.lane_slots)]
    return work


def slots_of(work: list[tuple[Drawn, Lanes]]) -> int:
    return sum(len(sequence) for _, lanes in work for lane in lanes for sequence in lane)


def needed(asked: Exercise, config: EhrConfig) -> float:
    """Floating-point operations that training on a batch needs; the module's text tells what counts."""
    batch, width = asked.batch, config.hidden_size
    within, whole = batch.sequence.ravel() >= 0, batch.whole.ravel()
    layer = 4 * width**2 + 3 * width * config.intermediate_size
    additions = config.num_hidden_layers * (within.sum() * layer + _pairs(batch) * 2 * width)
    following, codes = asked.following, len(asked.drawn.reading.asked.records.codes)
    additions += len(np.unique(following.place)) * (width**2 + width * codes)
    additions += len(following.valued_place) * (width**2 + 2 * width * config.bins)
    if asked.drawn.source.foresight is not None:
        additions += len(batch.rows) * width * len(config.outcomes) * len(config.horizons_days)
    assert whole.sum() + len(batch.rows) == within.sum()
    return float(additions) * 2 * 3


def _pairs(batch: Batch) -> int:
    """How many pairs of slots attention has to compare: each with itself and its sequence's whole slots before it."""
    sequence, whole = batch.sequence.ravel(), batch.whole.ravel()
    order = np.flatnonzero(sequence >= 0)
    so_far = np.cumsum(whole[order])
    first = np.flatnonzero(np.r_[True, np.diff(sequence[order]) != 0])
    earlier = np.r_[0, so_far][first]
    before = so_far - whole[order] - np.repeat(earlier, np.diff(np.r_[first, len(order)]))
    return int(before.sum()) + len(order)


def peak(device: torch.device, kind: torch.dtype, seconds: float = 1.0) -> float:
    """The most operations per second of multiplying square matrices."""
    best = 0.0
    for size in SIZES:
        left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
        began, taken = time.perf_counter(), []
        while time.perf_counter() - began < seconds / len(SIZES) or len(taken) < 3:
            start = time.perf_counter()
            left @ right
            _wait(device)
            taken.append(time.perf_counter() - start)
        best = max(best, 2 * size**3 / float(np.median(taken)))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def new_network(config: EhrConfig) -> EhrModel:
    torch.manual_seed(SEED)
    return EhrModel(config)


def our_loop(config: EhrConfig, sources: list[Source], how: TrainingConfig) -> float:
    """Slots per second of an epoch in `ehr_tl.transfer.loop`."""
    with tempfile.TemporaryDirectory() as state:
        done = Loop(new_network(config), sources, how, SEED, Path(state)).run()
    return done.slots / done.seconds


class Asked(nn.Module):
    """What `Trainer` trains."""

    def __init__(self, network: EhrModel, how: TrainingConfig):
        super().__init__()
        self.objective = Objective(network, how, half=False)

    def forward(self, asked: Exercise) -> dict[str, torch.Tensor]:
        return {"loss": self.objective(asked)[0]}


@dataclass(frozen=True)
class Collator:
    """Makes one batch of padded lanes of the sequences of one of our steps."""

    how: TrainingConfig
    length: int

    def __call__(self, items: list[tuple[Drawn, Lanes]]) -> dict[str, Exercise]:
        drawn, lanes = items[0]
        reading = Padded(drawn.reading.asked, drawn.reading.encoding, self.length)
        apart = [[sequence] for lane in lanes for sequence in lane]
        return {"asked": exercise(replace(drawn, reading=reading), apart, self.how, np.random.default_rng(SEED))}


def under_trainer(
    config: EhrConfig, work: list[tuple[Drawn, Lanes]], how: TrainingConfig, length: int, device: torch.device
) -> float:
    """Slots per second of an epoch under `transformers.Trainer`; lanes are padded to `length`."""
    from transformers import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=1,  # an item is the whole of one step
            num_train_epochs=1,
            learning_rate=how.learning_rate,
            weight_decay=how.weight_decay,
            use_cpu=device.type == "cpu",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(Asked(new_network(config), how), arguments, Collator(how, length), train_dataset=work)
        began = time.perf_counter()
        trainer.train()
        _wait(device)
        return slots_of(work) / (time.perf_counter() - began)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Speeds of all ways, in slots per second, the work per slot and the peaks."""
    device = torch.device(options.device)
    hospitals = [read_hospital(Events(folder), 24.0) for folder in options.events] or [made_up()]
    config, sources = sources_of(hospitals, options)
    how = TrainingConfig(epochs=1, batch_slots=options.batch_slots, lane_slots=options.max_slots)
    work = draw(sources, how, config.max_slots)
    rng = np.random.default_rng(SEED)
    per_slot = sum(needed(exercise(*each, how, rng), config) for each in work) / slots_of(work)
    longest = padded(max(len(sequence) for _, lanes in work for lane in lanes for sequence in lane))
    fixed = max(longest, config.max_slots)
    ways: dict[str, Callable[[], float]] = {
        "ehr_tl": lambda: our_loop(config, sources, how),
        "Trainer, padded to the batch's longest": lambda: under_trainer(config, work, how, 0, device),
        f"Trainer, padded to {fixed}": lambda: under_trainer(config, work, how, fixed, device),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    peaks: dict[str, list[float]] = {"bfloat16": [], "float32": []}
    for _ in range(options.rounds):
        for kind, values in peaks.items():
            values.append(peak(device, getattr(torch, kind)))
        for way, run in ways.items():
            found[way].append(run())
    half = training.multiplies_halves(device)
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "parameters": sum(p.numel() for p in new_network(config).parameters()),
        "steps": len(work),
        "slots": slots_of(work),
        "operations per slot": per_slot,
        "peaks": {kind: float(np.median(values)) for kind, values in peaks.items()},
        "slots per second": {way: float(np.median(values)) for way, values in found.items()},
        "ratios": {way: _ratio(found["ehr_tl"], values) for way, values in found.items()},
        "precision": {way: "bfloat16" if way == "ehr_tl" and half else "float32" for way in ways},
    }


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """How much faster ours is: the median over rounds, whose two halves a busy machine slows alike."""
    return float(np.median(np.array(ours) / np.array(theirs)))


def table(found: dict[str, Any], options: argparse.Namespace) -> str:
    """What was found, Markdown."""
    peaks, per_slot = found["peaks"], found["operations per slot"]
    told = ", ".join(f"{value / 1e9:,.0f} GFLOP/s in {kind}" for kind, value in peaks.items())
    lines = [
        f"{found['device']}; peak {told}. Width {options.width}, {options.layers} layers, "
        f"{found['parameters'] / 1e6:.1f} million parameters; {found['steps']} steps of {options.batch_slots:,} slots, "
        f"{per_slot / 1e6:.1f} million operations per slot.\n",
        "| way | precision | slots per second | GFLOP/s | share of its peak | ehr_tl is faster by |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for way, speed in found["slots per second"].items():
        kind = found["precision"][way]
        done = speed * per_slot
        share, ratio = f"{done / peaks[kind]:.0%}", f"{found['ratios'][way]:.1f}"
        lines.append(f"| {way} | {kind} | {speed:,.0f} | {done / 1e9:,.1f} | {share} | {ratio} |")
    return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path, nargs="*", help="events folders; none: made-up records")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--head", type=int, default=32, help="width of an attention head")
    parser.add_argument("--max-slots", type=int, default=256)
    parser.add_argument("--batch-slots", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=8, help="steps of a round, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    return parser


def main() -> None:
    options = arguments().parse_args()
    torch.set_num_threads(options.threads)
    found = measured(options)
    print(table(found, options))
    if options.json is not None:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
