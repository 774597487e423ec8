"""The feature matrix: rows by features, sparse; what is not stored was not measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

from ehr_tl.features.blocks import ZERO
from ehr_tl.files import whole

#: What identifies a feature. `days` is the look-back window, null for the whole record; `unit` is that of a value.
COLUMNS = {"code": pl.String, "statistic": pl.String, "days": pl.Float64, "unit": pl.String}


@dataclass(frozen=True)
class Features:
    """Features of rows.

    Attributes:
        rows: `subject_id` and `prediction_time` of each row.
        matrix: float32 CSR, shape (rows, features). A count of none is not stored; a measured zero is `ZERO`.
        columns: What each feature is, columns as in `COLUMNS`. Statistics: `count`, `days_since` (the last event),
            `last`, `min`, `max`, `mean`, `slope` (per year) of numeric values, `years` (age), `is` (static facts).
    """

    rows: pl.DataFrame
    matrix: sparse.csr_matrix
    columns: pl.DataFrame

    @cached_property
    def subject(self) -> np.ndarray:
        """A number from 0 for each row's subject."""
        return self.rows["subject_id"].rank("dense").to_numpy().astype(np.int64) - 1

    @cached_property
    def _position(self) -> dict[tuple, int]:
        return {column: i for i, column in enumerate(self.columns.iter_rows())}

    def take(self, columns: pl.DataFrame, index: np.ndarray) -> sparse.csr_matrix:
        """The rows `index` in the order of `columns`; a feature that is not here is empty."""
        target = np.full(self.matrix.shape[1], -1, dtype=np.int32)
        for new, column in enumerate(columns.iter_rows()):
            if (old := self._position.get(column)) is not None:
                target[old] = new
        part = self.matrix[index]
        moved = target[part.indices]
        kept = moved >= 0
        ends = np.concatenate([[0], np.cumsum(kept)])[part.indptr]
        matrix = sparse.csr_matrix((part.data[kept], moved[kept], ends), shape=(len(index), columns.height))
        matrix.sort_indices()
        return matrix

    def subjects_with(self, index: np.ndarray) -> np.ndarray:
        """How many subjects of the rows `index` have each feature, shape (features,)."""
        part = self.matrix[index]
        subject = self.subject[index]
        owner = np.repeat(subject, np.diff(part.indptr))
        pairs = np.unique(owner * part.shape[1] + part.indices)
        return np.bincount(pairs % part.shape[1], minlength=part.shape[1])

    def in_view(self, codes: list[str], index: np.ndarray) -> sparse.csr_matrix:
        """How many facts of each of `codes` (or of their descendants) the rows `index` see, shape (rows, codes)."""
        timed, static = (
            pl.DataFrame({"code": codes}).select(
                "code", statistic=pl.lit(name), days=pl.lit(None, pl.Float64), unit=pl.lit("")
            )
            for name in ("count", "is")
        )
        return self.take(timed, index) + self.take(static, index)

    def write(self, path: str | Path, block: int = 5_000) -> None:
        """Writes `features.parquet`: one line per row and stored feature, measured zeros as 0."""
        import pyarrow.parquet as pq

        names = self.columns.with_row_index("feature")
        with whole(path) as temporary:
            writer = None
            for start in range(0, max(self.rows.height, 1), block):
                table = self._long(start, min(start + block, self.rows.height), names).to_arrow()
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table)
            writer.close()

    def _long(self, start: int, stop: int, names: pl.DataFrame) -> pl.DataFrame:
        part = self.matrix[start:stop].tocoo()
        row, feature = part.row, part.col
        return (
            self.rows.select("subject_id", "prediction_time")[start:stop][row]
            .with_columns(
                feature=pl.Series(feature, dtype=pl.UInt32),
                value=pl.Series(np.where(part.data == np.float32(ZERO), 0, part.data), dtype=pl.Float32),
            )
            .join(names, on="feature", how="left", maintain_order="left")
            .select("subject_id", "prediction_time", *COLUMNS, "value")
        )
