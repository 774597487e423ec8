"""From effects of features to effects of codes: the explanation of every model that reads windowed features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy import sparse

from ehr_tl.features import Features
from ehr_tl.models.base import PARTS, Attribution
from ehr_tl.schema import AGE, GENDER, GROUP

EXPLAINED = 20  # codes that a row's explanation names; all others are one part
OTHERS = f"{GROUP}//everything else"


def explained_codes(columns: pl.DataFrame) -> set[str]:
    """The codes that features (`features.COLUMNS`) are explained as."""
    return {_explained_code(code) for code in columns["code"].unique()}


def summed(shap: sparse.csr_matrix, columns: pl.DataFrame, codes: Sequence[str]) -> sparse.csr_matrix:
    """SHAP values of codes, shape (rows, codes), from those of features, shape (rows, features).

    Args:
        shap: SHAP values.
        columns: What each feature is (`features.COLUMNS`).
        codes: Each code that a feature is explained as, and perhaps others.
    """
    position = {code: i for i, code in enumerate(codes)}
    belongs = [position[_explained_code(code)] for code in columns["code"]]
    ones = np.ones(len(belongs))
    return shap @ sparse.csr_matrix((ones, (np.arange(len(belongs)), belongs)), shape=(len(belongs), len(codes)))


def attributions(
    by_code: Sequence[sparse.csr_matrix],
    codes: Sequence[str],
    base: Sequence[np.ndarray],
    inputs: Features,
    index: np.ndarray,
) -> list[Attribution]:
    """Explains rows under several models: each row names the `EXPLAINED` codes that matter most over all of them.

    Args:
        by_code: Per model, SHAP values of codes, shape (rows, codes).
        codes: The codes.
        base: Per model, the base of each row.
        inputs: Tells how often a row sees each code.
        index: Positions of the rows in `inputs`.
    """
    row, code = _largest(by_code, len(index))
    kinds = _kinds(inputs, index, codes, row, code)
    return [Attribution(each, _parts(row, code, codes, kinds, shap)) for each, shap in zip(base, by_code)]


def _explained_code(code: str) -> str:
    return GENDER if code.startswith(f"{GENDER}//") else code


def _largest(by_code: Sequence[sparse.csr_matrix], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and code of each row's `EXPLAINED` largest SHAP values, summed over the models; largest first."""
    total = abs(sum(by_code[1:], start=by_code[0])).tocoo()
    order = np.lexsort((total.col, -total.data, total.row))
    row, code = total.row[order], total.col[order]
    rank = np.arange(len(row)) - np.searchsorted(row, np.arange(rows))[row]
    return row[rank < EXPLAINED], code[rank < EXPLAINED]


def _kinds(inputs: Features, index: np.ndarray, codes: Sequence[str], row: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Kind of each part (`schema.KINDS`)."""
    count = _cells(inputs.in_view(list(codes), index), row, code)
    kinds = np.select([count == 0, count == 1], ["missing", "event"], default="feature")
    personal = np.array([each in (AGE, GENDER) for each in codes], dtype=bool)
    grouped = np.array([each.startswith(f"{GROUP}//") for each in codes], dtype=bool)
    return np.where(personal[code], "demographic", np.where(grouped[code], "feature", kinds))


def _cells(matrix: sparse.csr_matrix, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    return np.asarray(matrix[row, column]).ravel() if len(row) else np.zeros(0)


def _parts(
    row: np.ndarray, code: np.ndarray, codes: Sequence[str], kinds: np.ndarray, shap: sparse.csr_matrix
) -> pl.DataFrame:
    """The named parts, then one more per row for everything else."""
    rows = shap.shape[0]
    named = _cells(shap, row, code)
    rest = np.asarray(shap.sum(axis=1)).ravel() - np.bincount(row, weights=named, minlength=rows)
    names = np.array([*codes, OTHERS], dtype=object)
    parts = {
        "row": np.concatenate([row, np.arange(rows)]),
        "kind": [*kinds, *["feature"] * rows],
        "code": names[np.concatenate([code, np.full(rows, len(codes))])],
        "shap": np.concatenate([named, rest]),
    }
    return pl.DataFrame(parts, schema=PARTS).sort("row", maintain_order=True)
