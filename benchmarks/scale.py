"""What the baseline costs on many patients: LightGBM fitted, scored and explained on a sparse matrix of random values.

    python benchmarks/scale.py [--subjects 100000] [--features 5000] [--per-subject 200]

One row per subject. Peak memory is that of the whole process, the matrix included.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from ehr_tl.config import LightGBMConfig
from ehr_tl.features import COLUMNS, Features
from ehr_tl.models.calibration import sigmoid
from ehr_tl.models.gradient_boosting import GradientBoostingLearner

DECIDING = 20  # features that the outcome depends on


def simulated(subjects: int, features: int, per_subject: int) -> tuple[Features, np.ndarray]:
    """Random measurements, early features more often, and an outcome of about one in seven."""
    rng = np.random.default_rng(0)
    column = (rng.random((subjects, per_subject)) ** 2 * features).astype(np.int32)
    row = np.repeat(np.arange(subjects, dtype=np.int32), per_subject)
    value = rng.normal(5, 1, len(row)).astype(np.float32)
    matrix = sparse.csr_matrix((value, (row, column.ravel())), shape=(subjects, features))
    matrix.sum_duplicates()
    told = np.asarray(matrix[:, :DECIDING].sum(axis=1)).ravel()
    label = (rng.random(subjects) < sigmoid(told / 30 - 4)).astype(float)
    names = [(f"TEST//{number}", "last", None, "") for number in range(features)]
    rows = pl.DataFrame({"subject_id": np.arange(subjects), "prediction_time": [None] * subjects})
    return Features(rows, matrix, pl.DataFrame(names, schema=COLUMNS, orient="row")), label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=5_000)
    parser.add_argument("--per-subject", type=int, default=200, help="measurements of each subject")
    options = parser.parse_args()
    inputs, label = simulated(options.subjects, options.features, options.per_subject)
    everybody, learner = np.arange(options.subjects), GradientBoostingLearner(LightGBMConfig())
    print(f"{options.subjects:,} subjects, {options.features:,} features, {inputs.matrix.nnz:,} stored values\n")
    print("| step | seconds | peak MiB so far |\n| --- | ---: | ---: |")
    with tempfile.TemporaryDirectory() as state:
        model = told("fit", lambda: learner.fit(inputs, label, everybody, seed=0, state=Path(state)))
    told("score", lambda: model.logit(inputs, everybody))
    told("explain", lambda: learner.explain([model], inputs, everybody))


def told(name: str, step: Callable[[], Any]) -> Any:
    """Runs a step and prints what it took."""
    started = time.monotonic()
    result = step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {name} | {time.monotonic() - started:.1f} | {peak:,.0f} |", flush=True)
    return result


if __name__ == "__main__":
    main()
