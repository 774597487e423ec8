"""How well a checkpoint reads codes that it does not know.

    python benchmarks/vocabulary.py CHECKPOINT EVENTS... [--part test] [--targets EVENTS...] [--json FILE]

EVENTS are hospitals in codes that the checkpoint knows; subjects of one part of each (`transfer.held_out`), whom it was
not trained on, are looked at (`--part all` where nobody was). Half of the codes, chosen by a hash of their name, are
hidden in turn:

- renamed: each becomes a local code of the hospital that keeps its description, and has no parents. Quantiles of its
  values come from the hospital's own training subjects (`Vocabulary.extend`), as in a run; no weight is learned.
- [UNK]: all of them become one code, the mean of those that stay known; their values are gone.
- dropped: their events are left out.

Losses are asked of the codes that stay known, and of their values, in every way alike. AUROC is that of the
checkpoint's own heads for its source tasks, rows of all hospitals together. What survives is the share of what the
fully known has over chance: over 0.5 for AUROC, over knowing age and gender alone for losses. Intervals resample
subjects.

--targets are hospitals that nobody trained on, the first in codes that the checkpoint knows, others in codes of their
own: heads and trees of the checkpoint as they are, and heads whose values are read by quantiles of the hospital's
training subjects. A task that a hospital's codes cannot label takes its labels from the folder of the same subjects
that can.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from ehr_tl import schema
from ehr_tl.errors import CohortError
from ehr_tl.evaluate.intervals import Bootstrap, summary
from ehr_tl.evaluate.metrics import auroc
from ehr_tl.events import Events
from ehr_tl.files import write_json
from ehr_tl.models.checkpoint import Checkpoint, load_own_checkpoint
from ehr_tl.models.network import CodeBook, EhrModel, extended
from ehr_tl.tokens.batches import Batch, by_length, collate
from ehr_tl.tokens.records import Records, read_records
from ehr_tl.tokens.sequences import Sequences, build_sequences
from ehr_tl.tokens.vocabulary import Encoding
from ehr_tl.transfer.held_out import PARTS, TRAIN, VALIDATION, parts
from ehr_tl.transfer.objectives import NextSlot, next_slot
from ehr_tl.transfer.sources import Labels, labels_of
from ehr_tl.transfer.tasks import label_tasks

FULL, RENAMED, UNKNOWN, DROPPED, NOTHING = "fully known", "renamed", "[UNK]", "dropped", "nothing"
ALL = "all"
WAYS = (RENAMED, UNKNOWN, DROPPED)
SLOTS = 8192  # of one pass
MIN_SUBJECTS = 5  # who must have a code for it to get a place of its own, as in a run
RESAMPLES = 1000


@dataclass(frozen=True)
class Hospital:
    """Rows of one hospital that are to be answered.

    Attributes:
        events: The hospital.
        records: All of its records.
        asked: The rows.
        labels: 0 or 1, NaN where a task does not label a row, shape (rows, tasks).
    """

    events: Events
    records: Records
    asked: Sequences
    labels: np.ndarray

    @property
    def training(self) -> np.ndarray:
        """Positions of the subjects from whom quantiles may be learned."""
        return np.flatnonzero(parts(self.records.subjects) == TRAIN)


@dataclass(frozen=True)
class View:
    """One way of reading a hospital.

    Attributes:
        network: The network.
        encoding: The records as it reads them.
        unknown: Codes that become [UNK], shape (C,).
        gone: Codes whose events are left out, shape (C,).
    """

    network: EhrModel
    encoding: Encoding
    unknown: np.ndarray
    gone: np.ndarray

    def embeddings(self, book: CodeBook) -> Tensor:
        """Of all codes, shape (C, hidden_size)."""
        codes, unknown = self.network.codes(book), torch.from_numpy(self.unknown)
        codes[unknown] = codes[~unknown].mean(0)
        return codes

    def shown(self, batch: Batch) -> Batch:
        """What of a batch the network is shown."""
        batch = replace(batch, bin=np.where(self.unknown[batch.code], -1, batch.bin))
        return batch.keep(~self.gone[batch.code])


@dataclass
class Found:
    """What a way came to: sums of losses, and log odds of each row, shape (rows, tasks)."""

    logits: np.ndarray
    losses: dict[str, list[float]] = field(default_factory=lambda: {"codes": [0.0, 0], "values": [0.0, 0]})

    def add(self, name: str, losses: Tensor) -> None:
        self.losses[name][0] += float(losses.sum())
        self.losses[name][1] += len(losses)


def label(checkpoint: Checkpoint, folders: Many[Events]) -> Labels:
    """Labels of the checkpoint's source tasks by the first of some folders of the same subjects that can give them."""
    tasks = []
    for name in checkpoint.model.config.tasks or []:
        for events in folders:
            try:
                (task,) = label_tasks([events], {events.export.adapter: [name]})
            except CohortError:
                continue
            tasks.append((name, task))
            break
    found = labels_of([task for _, task in tasks], 0)
    values = np.full((found.rows.height, len(checkpoint.model.config.tasks or [])), np.nan, dtype=np.float32)
    for column, (name, _) in enumerate(tasks):
        values[:, checkpoint.model.config.tasks.index(name)] = found.values[:, column]
    return Labels(found.rows, values)


def read(checkpoint: Checkpoint, events: Events, part: str | None, others: Many[Events] = ()) -> Hospital:
    """A hospital's labelled rows of the subjects in a part (None: all), and the end of each of their records."""
    config = checkpoint.model.config
    records = read_records(events, slot_hours=events.export.slot_hours or config.slot_hours)
    chosen = np.ones(len(records.subjects), dtype=bool) if part is None else parts(records.subjects) == part
    labels = label(checkpoint, [events, *others])
    mine = np.isin(labels.rows["subject_id"].to_numpy(), records.subjects[chosen])
    some = np.flatnonzero(chosen & (np.diff(records.first_event) > 0))
    last = records.time[records.first_event[some + 1] - 1]
    ends = pl.DataFrame({"subject_id": records.subjects[some], "prediction_time": last})
    rows = pl.concat([labels.rows.filter(mine), ends.with_columns(pl.col("prediction_time").cast(schema.TIME))])
    unlabelled = np.full((len(some), labels.values.shape[1]), np.nan, dtype=np.float32)
    values = np.concatenate([labels.values[mine], unlabelled])
    return Hospital(events, records, build_sequences(records, rows, config.max_slots), values)


def hidden_codes(records: Records, seed: int) -> np.ndarray:
    """Half of the codes by a hash of their name; age and gender stay known. Shape (C,)."""
    hidden = np.array([_digest(f"{seed} {code}") % 2 == 1 for code in records.codes])
    hidden[[records.age_code, *np.unique(records.gender[records.gender >= 0])]] = False
    return hidden


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")


def renamed(records: Records, hidden: np.ndarray) -> Records:
    """The records of a hospital that calls some codes by names of its own, with their descriptions and no parents."""
    names = [f"LOCAL//{_digest(code):x}" if hide else code for code, hide in zip(records.codes, hidden)]
    told = {
        name: records.descriptions[code] for name, code in zip(names, records.codes) if code in records.descriptions
    }
    above = tuple(() if hide else line for line, hide in zip(records.above, hidden))
    descriptions = {**records.descriptions, **told}
    common = records.common | {name for name, code in zip(names, records.codes) if code in records.common}
    return replace(records, codes=tuple(names), above=above, descriptions=descriptions, common=common)


def local(checkpoint: Checkpoint, hospital: Hospital, records: Records) -> View:
    """A hospital in codes of its own, their values read by quantiles of its training subjects."""
    vocabulary = checkpoint.vocabulary.extend([records], [hospital.training], MIN_SUBJECTS)
    nobody = np.zeros(len(records.codes), dtype=bool)
    return View(extended(checkpoint.model, vocabulary), vocabulary.encode(records), nobody, nobody)


def views(checkpoint: Checkpoint, hospital: Hospital, hidden: np.ndarray) -> Iterator[tuple[str, View]]:
    """All ways of reading a hospital some of whose codes are hidden."""
    encoding, nobody = checkpoint.vocabulary.encode(hospital.records), np.zeros_like(hidden)
    everybody = ~nobody
    everybody[[hospital.records.age_code, *np.unique(hospital.records.gender[hospital.records.gender >= 0])]] = False
    yield FULL, View(checkpoint.model, encoding, nobody, nobody)
    yield RENAMED, local(checkpoint, hospital, renamed(hospital.records, hidden))
    yield UNKNOWN, View(checkpoint.model, encoding, hidden, nobody)
    yield DROPPED, View(checkpoint.model, encoding, nobody, hidden)
    yield NOTHING, View(checkpoint.model, encoding, nobody, everybody)


@torch.no_grad()
def look(view: View, hospital: Hospital, known: np.ndarray) -> Found:
    """Losses on the codes `known`, shape (C,), and log odds of all rows."""
    network, asked, book = view.network, hospital.asked, CodeBook.of(view.encoding)
    codes = view.embeddings(book)
    found = Found(np.full(hospital.labels.shape, np.nan))
    for lanes in by_length(asked.group(np.arange(len(asked))), SLOTS):
        batch = collate(asked, lanes, view.encoding)
        seen = view.shown(batch)
        hidden = network.contextualise(network.slots(seen, network.events(seen, book, codes)), seen).flatten(0, 1)
        following = next_slot(batch, len(codes))
        found.add("codes", _code_losses(network, hidden, following, codes, known))
        of = known[following.valued_code]
        place, code = torch.from_numpy(following.valued_place[of]), following.valued_code[of]
        likely = F.log_softmax(network.value_logits(hidden[place], code, book, codes), dim=1)
        low, upper = torch.from_numpy(following.bin[of]), torch.from_numpy(following.fraction[of])
        at = likely.gather(1, torch.stack([low, low + 1], dim=1))
        found.add("values", -(at[:, 0] * (1 - upper) + at[:, 1] * upper))
        if network.config.tasks:
            found.logits[batch.rows] = network.tasks(hidden[torch.from_numpy(batch.query)]).numpy()
    return found


def _code_losses(network: EhrModel, hidden: Tensor, following: NextSlot, codes: Tensor, known: np.ndarray) -> Tensor:
    """Cross entropy of the known codes of the next slot among all known ones, of each slot where there are any."""
    kept = known[following.code]
    slots, which, counts = np.unique(following.place[kept], return_inverse=True, return_counts=True)
    column = (np.cumsum(known) - 1)[following.code[kept]]
    likely = F.log_softmax(network.code_logits(hidden[torch.from_numpy(slots)], codes[torch.from_numpy(known)]), dim=1)
    each = -likely[torch.from_numpy(which), torch.from_numpy(column)] / torch.from_numpy(counts[which])
    return torch.zeros(len(slots)).index_add(0, torch.from_numpy(which), each.float())


def hiding(checkpoint: Checkpoint, hospitals: list[Hospital], seeds: int) -> dict[str, Any]:
    """Losses and AUROC in every way, and what survives."""
    losses: dict[tuple[str, str], list[float]] = {}
    logits: dict[tuple[str, int], list[np.ndarray]] = {}
    for seed in range(seeds):
        sums: dict[tuple[str, str], np.ndarray] = {}
        for hospital in hospitals:
            hidden = hidden_codes(hospital.records, seed)
            for way, view in views(checkpoint, hospital, hidden):
                found = look(view, hospital, ~hidden)
                logits.setdefault((way, seed), []).append(found.logits)
                for name, pair in found.losses.items():
                    sums[way, name] = sums.get((way, name), np.zeros(2)) + pair
        for key, (total, count) in sums.items():
            losses.setdefault(key, []).append(total / max(1, count))
    rows = {key: np.concatenate(each) for key, each in logits.items()}
    told = {f"{way}, {name}": float(np.mean(values)) for (way, name), values in losses.items()}
    tasks = _tasks(checkpoint, hospitals, rows, seeds)
    return {"losses": told, "losses survive": _losses_survive(losses), "tasks": tasks}


def _losses_survive(losses: dict[tuple[str, str], list[float]]) -> dict[str, float]:
    found = {}
    for name in ("codes", "values"):
        full, nothing = np.array(losses[FULL, name]), np.array(losses[NOTHING, name])
        for way in WAYS:
            found[f"{way}, {name}"] = float(np.mean((nothing - losses[way, name]) / (nothing - full)))
    return found


def _subjects(hospitals: list[Hospital]) -> np.ndarray:
    """A number for the subject of each row of all hospitals."""
    first = np.cumsum([0, *(len(each.records.subjects) for each in hospitals)])
    return np.concatenate([start + each.asked.subject for start, each in zip(first, hospitals)])


def _tasks(
    checkpoint: Checkpoint, hospitals: list[Hospital], rows: dict[tuple[str, int], np.ndarray], seeds: int
) -> dict[str, Any]:
    """AUROC of each source task in every way, and what survives of it."""
    labels, subjects = np.concatenate([each.labels for each in hospitals]), _subjects(hospitals)
    found = {}
    for number, task in enumerate(checkpoint.model.config.tasks or []):
        known = ~np.isnan(labels[:, number])
        answers = labels[known, number]
        if len(np.unique(answers)) < 2:
            continue
        scores = {f"{way} {seed}": logit[known, number] for (way, seed), logit in rows.items() if way != NOTHING}
        boot = Bootstrap(answers, scores, subjects[known], {"auroc": auroc}, RESAMPLES, 0)
        over = {
            way: (
                np.mean([boot.values[f"{way} {seed}", "auroc"] - 0.5 for seed in range(seeds)]),
                np.mean([boot.draws[f"{way} {seed}", "auroc"] - 0.5 for seed in range(seeds)], axis=0),
            )
            for way in (FULL, *WAYS)
        }
        found[task] = {
            "rows": int(known.sum()),
            "positives": int(answers.sum()),
            "auroc": {way: summary(value + 0.5, draws + 0.5) for way, (value, draws) in over.items()},
            "survives": {way: summary(over[way][0] / over[FULL][0], over[way][1] / over[FULL][1]) for way in WAYS},
        }
    return found


def arriving(checkpoint: Checkpoint, folders: list[Path]) -> list[dict[str, Any]]:
    """Heads and trees of a checkpoint at hospitals that nobody trained on."""
    targets, found = [Events(folder) for folder in folders], []
    for events in targets:
        same = [other for other in targets if other is not events and _same_subjects(events, other)]
        hospital = read(checkpoint, events, None, same)
        as_it_is = View(checkpoint.model, checkpoint.vocabulary.encode(hospital.records), *_nobody(hospital))
        heads = {"head": as_it_is, "head, its quantiles": local(checkpoint, hospital, hospital.records)}
        logits = {name: look(view, hospital, ~view.gone).logits for name, view in heads.items()}
        for number, task in enumerate(checkpoint.model.config.tasks or []):
            known = ~np.isnan(hospital.labels[:, number])
            answers = hospital.labels[known, number]
            if len(np.unique(answers)) < 2:
                continue
            scores = {name: logit[known, number] for name, logit in logits.items()}
            if checkpoint.source is not None and task in checkpoint.source.tasks:
                scores["trees"] = checkpoint.source.score(task, events, _rows(hospital, known))
            boot = Bootstrap(answers, scores, hospital.asked.subject[known], {"auroc": auroc}, RESAMPLES, 0)
            told = {name: boot.estimate(name, "auroc") for name in scores}
            counts = {"rows": int(known.sum()), "positives": int(answers.sum())}
            found.append({"hospital": events.folder.name, "task": task, **counts, "auroc": told})
    return found


def _nobody(hospital: Hospital) -> tuple[np.ndarray, np.ndarray]:
    nobody = np.zeros(len(hospital.records.codes), dtype=bool)
    return nobody, nobody


def _same_subjects(one: Events, other: Events) -> bool:
    """Whether most of two folders' subjects were born on the same day; ids of two hospitals may be the same."""
    born = [
        each.scan().filter(pl.col("code") == schema.BIRTH).select("subject_id", pl.col("time").dt.date()).collect()
        for each in (one, other)
    ]
    return born[0].join(born[1], on=["subject_id", "time"], how="semi").height > one.subjects.height / 2


def _rows(hospital: Hospital, chosen: np.ndarray) -> pl.DataFrame:
    ids = hospital.records.subjects[hospital.asked.subject[chosen]]
    rows = pl.DataFrame({"subject_id": ids, "prediction_time": hospital.asked.time[chosen]})
    return rows.with_columns(pl.col("prediction_time").cast(schema.TIME))


def hiding_table(found: dict[str, Any]) -> str:
    lines = ["| what | rows, positives | " + " | ".join((FULL, *WAYS)) + " |", "| --- | ---: | " + "--- | " * 4]
    for name in ("codes", "values"):
        cells = [f"{found['losses'][f'{FULL}, {name}']:.3f}"]
        for way in WAYS:
            cells.append(f"{found['losses'][f'{way}, {name}']:.3f}: {found['losses survive'][f'{way}, {name}']:.0%}")
        lines.append(f"| loss of the next slot's {name} | | {' | '.join(cells)} |")
    for task, told in found["tasks"].items():
        cells = [_estimate(told["auroc"][FULL])]
        for way in WAYS:
            cells.append(f"{_estimate(told['auroc'][way])}: {_estimate(told['survives'][way], '.0%')}")
        lines.append(f"| AUROC {task} | {told['rows']:,}, {told['positives']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def arriving_table(found: list[dict[str, Any]]) -> str:
    names = ["head", "head, its quantiles", "trees"]
    lines = [
        "| hospital | task | rows, positives | " + " | ".join(names) + " |",
        "| --- | --- | ---: | --- | --- | --- |",
    ]
    for told in found:
        cells = [_estimate(told["auroc"][name]) if name in told["auroc"] else "" for name in names]
        counts = f"{told['rows']:,}, {told['positives']}"
        lines.append(f"| {told['hospital']} | {told['task']} | {counts} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _estimate(told: dict[str, Any], form: str = ".3f") -> str:
    if told["value"] is None:
        return "none"
    if told["lower"] is None:
        return f"{told['value']:{form}}"
    return f"{told['value']:{form}} ({told['lower']:{form}} to {told['upper']:{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("events", type=Path, nargs="*")
    parser.add_argument("--part", choices=[*PARTS, ALL], default=VALIDATION)
    parser.add_argument("--seeds", type=int, default=3, help="different halves that are hidden")
    parser.add_argument("--targets", type=Path, nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    checkpoint, told = load_own_checkpoint(options.checkpoint), {}
    part = None if options.part == ALL else options.part
    if options.events:
        hospitals = [read(checkpoint, Events(folder), part) for folder in options.events]
        told["hiding"] = hiding(checkpoint, hospitals, options.seeds)
        print(hiding_table(told["hiding"]), end="\n\n")
    if options.targets:
        told["arriving"] = arriving(checkpoint, options.targets)
        print(arriving_table(told["arriving"]))
    if options.json is not None:
        write_json(options.json, told)


if __name__ == "__main__":
    main()
