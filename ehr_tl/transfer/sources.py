"""The sources of pretraining: each hospital as the vocabulary reads it, who trains, and what is asked of whom when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import polars as pl

from ehr_tl import schema
from ehr_tl.models.risk_network import Reading
from ehr_tl.tokens.batches import MULTIPLE, packed, padded
from ehr_tl.tokens.sequences import Sequence, build_sequences
from ehr_tl.tokens.vocabulary import Encoding
from ehr_tl.transfer.foresight import Foresight, Hospital
from ehr_tl.transfer.tasks import SourceTask

Lanes = list[list[Sequence]]

_SLOT = 300

_ROWS = {"subject_id": pl.Int64, "prediction_time": schema.TIME}


@dataclass(frozen=True)
class Labels:
    """Rows that source tasks label.

    Attributes:
        rows: Columns `subject_id` and `prediction_time`, each row once, sorted; n rows.
        values: 0 or 1, NaN where a task does not label a row, shape (n, tasks).
    """

    rows: pl.DataFrame
    values: np.ndarray


def labels_of(tasks: Many[SourceTask], source: int) -> Labels:
    """All labels of one source, by its position."""
    tables = [(number, task.labels[source]) for number, task in enumerate(tasks) if source in task.labels]
    parts = [table.select(*_ROWS, "boolean_value", task=pl.lit(number)) for number, table in tables]
    if not parts:
        return Labels(pl.DataFrame(schema=_ROWS), np.zeros((0, len(tasks)), dtype=np.float32))
    every = pl.concat(parts)
    rows = every.select(*_ROWS).unique().sort(*_ROWS)
    place = every.join(rows.with_row_index("row"), on=list(_ROWS), how="left", maintain_order="left")
    values = np.full((rows.height, len(tasks)), np.nan, dtype=np.float32)
    values[place["row"].to_numpy(), every["task"].to_numpy()] = every["boolean_value"].to_numpy()
    return Labels(rows, values)


@dataclass(frozen=True)
class Source:
    """A hospital in pretraining.

    Attributes:
        hospital: Its records.
        encoding: These as the vocabulary reads them.
        foresight: What follows; None where nobody is followed or nothing is foretold.
        labels: Rows of its source tasks.
        members: Part (`held_out.PARTS`) -> its subjects (positions).
    """

    hospital: Hospital
    encoding: Encoding
    foresight: Foresight | None
    labels: Labels
    members: Mapping[str, np.ndarray]

    def draw(self, part: str, queries: int, max_slots: int, rng: np.random.Generator) -> Drawn:
        """Asks the subjects of a part at random times and at those of their labels."""
        subjects = self.members[part]
        random = self.hospital.random_rows(queries, subjects, max_slots, rng)
        labelled = np.isin(self.labels.rows["subject_id"].to_numpy(), self.hospital.records.subjects[subjects])
        rows = pl.concat([random, self.labels.rows.filter(labelled)])
        unlabelled = np.full((random.height, self.labels.values.shape[1]), np.nan, dtype=np.float32)
        values = np.concatenate([unlabelled, self.labels.values[labelled]])
        reading = Reading(build_sequences(self.hospital.records, rows, max_slots), self.encoding)
        return Drawn(self, reading, values)


@dataclass(frozen=True)
class Drawn:
    """Rows of one source that were drawn for a pass.

    Attributes:
        source: The source.
        reading: The rows.
        labels: 0 or 1 or NaN, shape (rows, tasks).
    """

    source: Source
    reading: Reading
    labels: np.ndarray

    def sequences(self, rng: np.random.Generator) -> list[Sequence]:
        """One random sequence of each subject, in random order."""
        groups = self.every()
        chosen = {groups[i].subject: groups[i] for i in rng.permutation(len(groups))}
        subjects = sorted(chosen)
        return [chosen[subjects[i]] for i in rng.permutation(len(subjects))]

    def every(self) -> list[Sequence]:
        """All sequences that answer the rows."""
        asked = self.reading.asked
        return asked.group(np.arange(len(asked)))


def steps(sequences: list[Sequence], batch_slots: int, lane_slots: int) -> Iterator[Lanes]:
    """Sequences in the order given, packed into batches of about `batch_slots` slots."""
    batch: list[Sequence] = []
    slots = 0
    for sequence in sequences:
        if batch and slots + len(sequence) > batch_slots:
            yield _laid(batch, lane_slots)
            batch, slots = [], 0
        batch.append(sequence)
        slots += len(sequence)
    if batch:
        yield _laid(batch, lane_slots)


def _laid(sequences: list[Sequence], most: int) -> Lanes:
    """Packs sequences into lanes of that length, no longer than `most` unless one sequence is, which costs least.

    Short lanes leave more places empty; in long ones attention compares more places that do not see each other.
    """
    longest = max(map(len, sequences))
    lengths = range(padded(longest), max(padded(longest), most) + 1, MULTIPLE)
    return min((packed(sequences, length) for length in lengths), key=_cost)


def _cost(lanes: Lanes) -> int:
    """Work of a pass over lanes: that of a slot alone is about that of its attention to `_SLOT` others."""
    length = padded(max(sum(map(len, lane)) for lane in lanes))
    return len(lanes) * length * (length + _SLOT)
