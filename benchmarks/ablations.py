"""What reading values, time and slots in the way of the shipped checkpoint is worth, on small networks.

    python benchmarks/ablations.py EVENTS [EVENTS...] [--tasks mortality_1y ...] [--epochs 4] [--seeds 2] [--json FILE]

A small network is pretrained on the same subjects each time, and looked at on those who validate:

- as it ships: a value lies between two of 12 quantiles, time enters as hours in the rotary position, slots last a day
  (or as long as the adapter of the events says).
- deciles: a value is the quantile next to it.
- continuous: a value is how far it lies between its code's 1st and 99th percentile, and nothing more.
- gaps: the position counts slots; how long ago the slot before was is told by an event with quantiles of its own.
- slots of other widths, in hours.

Losses of the outcomes within 30 to 730 days (nats per row, summed over outcomes and horizons) and AUROC can be compared
over all lines; losses of the next slot's codes where slots are as wide. What the next value lies between is no fair
question to ways that read values differently, so its loss is left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ehr_tl.events import Events
from ehr_tl.files import write_json
from ehr_tl.models.risk_network import Reading
from ehr_tl.tokens.batches import Batch
from ehr_tl.tokens.records import HOUR, Records
from ehr_tl.tokens.vocabulary import QUANTILES, Encoding, Vocabulary
from ehr_tl.transfer.held_out import TRAIN, VALIDATION
from ehr_tl.transfer.pretrain import Prepared, prepare, train
from ehr_tl.transfer.recipe import NetworkConfig, Recipe, TrainingConfig
from ehr_tl.transfer.sources import Drawn, Lanes, Source

SHIPPED = "as it ships"
WIDTHS = (6.0, 168.0, 720.0)  # of a slot, in hours, beside a day
GAP = "GAP"


def with_encodings(prepared: Prepared, changed: Callable[[Records, Encoding], Encoding]) -> Prepared:
    """The same with values read in another way."""
    sources = tuple(replace(each, encoding=changed(each.hospital.records, each.encoding)) for each in prepared.sources)
    return replace(prepared, sources=sources)


def deciles(prepared: Prepared) -> Prepared:
    """Values at the quantile next to them."""
    return with_encodings(prepared, lambda _, encoding: replace(encoding, fraction=np.round(encoding.fraction)))


def continuous(prepared: Prepared) -> Prepared:
    """Values between two edges alone."""

    def changed(records: Records, encoding: Encoding) -> Encoding:
        fraction = np.zeros_like(encoding.fraction)
        for pair, (code, unit) in enumerate(records.pairs):
            edges = prepared.vocabulary.edges.get(records.codes[code], {}).get(unit)
            if edges is not None:
                these = records.pair == pair
                fraction[these] = scaled(records.value[these], edges[0], edges[-1])
        return replace(encoding, bin=np.minimum(encoding.bin, 0), fraction=np.nan_to_num(fraction))

    return with_encodings(prepared, changed)


def scaled(values: np.ndarray, lowest: float, highest: float) -> np.ndarray:
    """Values on the way from the lowest to the highest, 0 to 1; one half where these are the same."""
    if highest <= lowest:
        return np.full(len(values), 0.5)
    return np.clip((values - lowest) / (highest - lowest), 0, 1)


@dataclass(frozen=True)
class Gaps(Reading):
    """A reading whose positions count slots, and which tells beside the events of a slot how long ago the last was.

    Attributes:
        code: The code of gaps (position in `Records.codes`).
        edges: Quantiles of gaps, in hours, shape (bins,).
    """

    code: int = 0
    edges: tuple[float, ...] = ()

    def batch(self, lanes: Lanes) -> Batch:
        batch = super().batch(lanes)
        place, hours, index = gaps(batch)
        number = np.interp(hours, self.edges, np.arange(len(self.edges)))
        low = np.minimum(number, len(self.edges) - 2).astype(np.int64)
        told = {
            "code": np.full(len(place), self.code),
            "bin": low,
            "fraction": (number - low).astype(np.float32),
            "place": place,
            "source": np.full(len(place), -1),
        }
        fields = {name: np.concatenate([getattr(batch, name), values]) for name, values in told.items()}
        position = (index * self.asked.records.slot_hours).astype(np.float32).reshape(batch.shape)
        return replace(batch, **fields, position=position)


def gaps(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Time since the last whole slot.

    Returns:
        The places that have one before them in their sequence, shape (n,); the hours, shape (n,); and of every place
        the number of whole slots before it, shape (B * L,).
    """
    sequence, whole, hours = batch.sequence.ravel(), batch.whole.ravel(), batch.position.ravel()
    places = np.arange(len(whole))
    first = np.r_[True, sequence[1:] != sequence[:-1]]
    start = np.maximum.accumulate(np.where(first, places, 0))
    last = np.r_[-1, np.maximum.accumulate(np.where(whole, places, -1))[:-1]]
    some = (sequence >= 0) & (last >= start)
    before = np.cumsum(whole) - whole
    return places[some], hours[some] - hours[last[some]], before - before[start]


@dataclass(frozen=True)
class Gapped(Source):
    """A source that is read with `Gaps`."""

    edges: tuple[float, ...] = ()

    def draw(self, part: str, queries: int, max_slots: int, rng: np.random.Generator) -> Drawn:
        drawn = super().draw(part, queries, max_slots, rng)
        asked = drawn.reading.asked
        reading = Gaps(asked, drawn.reading.encoding, asked.records.codes.index(GAP), self.edges)
        return replace(drawn, reading=reading)


def with_gaps(prepared: Prepared) -> Prepared:
    """Time told by events instead of positions."""
    every = np.concatenate([_gaps_of(each) for each in prepared.sources])
    edges = tuple(np.quantile(every, QUANTILES).tolist())
    old = prepared.vocabulary
    descriptions = {**old.descriptions, GAP: "time since the last slot"}
    parents = {code: above for source in prepared.sources for code, above in source.hospital.records.parents.items()}
    quantiles = {**old.edges, GAP: {"h": list(edges)}}
    vocabulary = Vocabulary([*old.codes, GAP], [*old.valued, GAP], quantiles, descriptions, parents, old.buckets)
    sources = []
    for source in prepared.sources:
        records = source.hospital.records
        records = replace(records, codes=(*records.codes, GAP), above=(*records.above, ()))
        hospital = replace(source.hospital, records=records)
        foresight = source.foresight and type(source.foresight)(
            hospital, prepared.network.outcomes, prepared.network.horizons_days
        )
        encoding = vocabulary.encode(records)
        sources.append(Gapped(hospital, encoding, foresight, source.labels, source.members, edges))
    network = prepared.network.fitted(vocabulary)
    return replace(prepared, vocabulary=vocabulary, network=network, sources=tuple(sources))


def _gaps_of(source: Source) -> np.ndarray:
    """Hours between the slots of those who train."""
    records = source.hospital.records
    owner = np.repeat(np.arange(len(records.subjects)), np.diff(records.subject_slots))
    same = (owner[1:] == owner[:-1]) & np.isin(owner[1:], source.members[TRAIN])
    return np.diff(records.slot_start)[same] / HOUR


def ways(events: list[Events], recipe: Recipe) -> dict[str, Callable[[], Prepared]]:
    """Name -> what prepares a training in that way."""

    @cache
    def shipped() -> Prepared:
        return prepare(events, recipe)

    def wide(hours: float) -> Callable[[], Prepared]:
        return lambda: prepare(events, replace(recipe, network=replace(recipe.network, slot_hours=hours)))

    found = {
        SHIPPED: shipped,
        "values as deciles": lambda: deciles(shipped()),
        "values continuous": lambda: continuous(shipped()),
        "time as gaps": lambda: with_gaps(shipped()),
    }
    if not any(each.export.slot_hours for each in events):
        found.update({f"slots of {hours:g} h": wide(hours) for hours in WIDTHS})
    return found


def measured(prepared: Prepared, seeds: int) -> dict[str, Any]:
    """What the validating subjects say after training, the mean over seeds, and how far seeds lie apart."""
    found, began = [], time.monotonic()
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as state:
            found.append(train(prepared, seed, Path(state)).progress.history[-1][VALIDATION])
    told = {name: [each[name] for each in found] for name in found[0]}
    return {
        "mean": {name: float(np.mean(values)) for name, values in told.items()},
        "range": {name: float(np.ptp(values)) for name, values in told.items()},
        "seconds": (time.monotonic() - began) / seeds,
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    names = [name for name in found[SHIPPED]["mean"] if name not in ("loss", "values", "tasks")]
    lines = ["| way | " + " | ".join(names) + " | seconds |", "| --- |" + " ---: |" * (len(names) + 1)]
    for way, told in found.items():
        cells = [f"{told['mean'][name]:.3f} (±{told['range'][name] / 2:.3f})" for name in names]
        lines.append(f"| {way} | {' | '.join(cells)} | {told['seconds']:.0f} |")
    return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path, nargs="+")
    parser.add_argument("--tasks", nargs="*", default=["mortality_1y", "kidney_disease"])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="some ways alone, by name")
    parser.add_argument("--json", type=Path)
    return parser


def main() -> None:
    options = arguments().parse_args()
    events = [Events(folder) for folder in options.events]
    heads = max(1, options.width // 32)
    network = NetworkConfig(
        width=options.width, layers=options.layers, heads=heads, feed_forward=3 * options.width, buckets=1024
    )
    tasks = {each.export.adapter: tuple(options.tasks) for each in events} if options.tasks else {}
    recipe = Recipe("small", "A small one", tasks, network, TrainingConfig(epochs=options.epochs))
    found = {}
    for way, prepared in ways(events, recipe).items():
        if not options.only or way in options.only:
            found[way] = measured(prepared(), options.seeds)
    print(table(found))
    if options.json is not None:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
