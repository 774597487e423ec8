"""How many threads the libraries below may use."""

from __future__ import annotations

import os
import sys

#: Read by OpenMP (torch, LightGBM, scikit-learn), BLAS and polars when they are first loaded.
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")


def available() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allowed(asked: int | None) -> int:
    """As many as were asked for, but no more than there are: each would take memory and time from the others."""
    return max(1, min(asked or available(), available()))


def let_others_work() -> None:
    """Has OpenMP's idle threads sleep rather than spin; obeyed where it was not loaded before.

    On two processors beside a second busy process, spinning threads made explanations nineteen times slower; alone,
    sleeping ones cost a quarter more.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def limit(threads: int) -> None:
    """Sets the number of threads; polars obeys only where it was not imported before."""
    let_others_work()
    for name in _VARIABLES:
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
