"""Rows and their events, a bounded number of subjects at a time; sparse matrices put together from the pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import sparse

from ehr_tl.concepts import concept
from ehr_tl.events import Events
from ehr_tl.features.codes import CodeBook
from ehr_tl.features.timeline import YEAR
from ehr_tl.schema import BIRTH, DEATH, TIME

SUBJECTS = 1_000  # worked on at a time

#: What a measured zero is stored as, so that it differs from "not measured" (LightGBM's `zero_as_missing`).
ZERO = 1e-20


@dataclass(frozen=True)
class Block:
    """The rows of some subjects and these subjects' events; times are microseconds.

    Attributes:
        position: Where each row stands in the frame that was asked for.
        subject, time: Number of each row's subject, from 0; its prediction time.
        timed: Events with a time, birth and death excepted: `subject`, `number` (of the concept), `code`, `time`,
            `numeric_value`, `unit`.
        static: Facts without a time; columns as above.
        age: Years at each row, NaN where the birth is unknown.
    """

    position: np.ndarray
    subject: np.ndarray
    time: np.ndarray
    timed: pl.DataFrame
    static: pl.DataFrame
    age: np.ndarray


def blocks(events: Events, rows: pl.DataFrame, book: CodeBook) -> Iterator[Block]:
    """Goes through `rows`, `SUBJECTS` subjects at a time."""
    placed = rows.select("subject_id", pl.col("prediction_time").cast(TIME).to_physical()).with_row_index("position")
    subjects = placed["subject_id"].unique().sort()
    for start in range(0, len(subjects), SUBJECTS):
        numbers = subjects[start : start + SUBJECTS].to_frame().with_row_index("subject")
        yield _block(events, placed.join(numbers, on="subject_id", maintain_order="left"), numbers, book)


def _block(events: Events, rows: pl.DataFrame, numbers: pl.DataFrame, book: CodeBook) -> Block:
    concepts = book.concepts.to_frame().with_row_index("number")
    first, last = numbers["subject_id"][0], numbers["subject_id"][-1]
    facts = (
        events.history()
        .filter(pl.col("subject_id").is_between(first, last))
        .join(numbers.lazy(), on="subject_id", maintain_order="left")
        .with_columns(concept=concept())
        .join(concepts.lazy(), on="concept", how="left", maintain_order="left")
        .select(
            "subject",
            "number",
            "code",
            pl.col("time").cast(TIME).to_physical(),
            "numeric_value",
            pl.col("unit").fill_null(""),
        )
        .collect()
    )
    timed = pl.col("time").is_not_null() & ~pl.col("code").is_in([BIRTH, DEATH])
    births = facts.filter(pl.col("code") == BIRTH).group_by("subject").agg(born=pl.col("time").min())
    born = rows.join(births, on="subject", how="left", maintain_order="left")["born"].cast(pl.Float64)
    age = (rows["prediction_time"].to_numpy() - born.fill_null(float("nan")).to_numpy()) / YEAR
    return Block(
        position=rows["position"].to_numpy(),
        subject=rows["subject"].to_numpy(),
        time=rows["prediction_time"].to_numpy(),
        timed=facts.filter(timed),
        static=facts.filter(pl.col("time").is_null(), ~pl.col("code").is_in([BIRTH, DEATH])),
        age=np.where(age >= 0, age, np.nan),
    )


class Cells:
    """Cells of a sparse matrix, gathered piece by piece; a value that is not finite is not stored, a zero as `ZERO`."""

    def __init__(self):
        self._pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, row: np.ndarray, column: np.ndarray, value: np.ndarray) -> None:
        kept = np.isfinite(value)
        value = value[kept].astype(np.float32)
        value[value == 0] = ZERO
        self._pieces.append((row[kept].astype(np.int32), column[kept].astype(np.int32), value))

    def matrix(self, shape: tuple[int, int]) -> sparse.csr_matrix:
        row, column, value = (np.concatenate(parts) for parts in zip(*self._pieces))
        matrix = sparse.coo_matrix((value, (row, column)), shape=shape).tocsr()
        matrix.sort_indices()
        return matrix


def stacked(pieces: list[tuple[np.ndarray, sparse.csr_matrix]], width: int) -> sparse.csr_matrix:
    """Joins the matrices of blocks; each comes with the positions of its rows in the result."""
    if not pieces:
        return sparse.csr_matrix((0, width), dtype=np.float32)
    matrix = sparse.vstack([piece for _, piece in pieces], format="csr")
    order = np.argsort(np.concatenate([position for position, _ in pieces]))
    return matrix if np.array_equal(order, np.arange(len(order))) else matrix[order]
