"""What a learning curve foretells: when a local model would do as well, and when the estimate is tight enough.

A curve `a - b * cases ** -c` (an inverse power law; Mukherjee et al., Journal of Computational Biology 2003) is fitted
to the mean AUROC by number of cases. It says little far beyond what was seen, so an answer of more than `FAR` times the
cases that there are is no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ehr_tl.evaluate.intervals import number
from ehr_tl.transfer.study.results import Size

#: How many times the cases that there are can be looked ahead.
FAR = 10

#: Half-width of a 95% interval of the AUROC that is tight enough.
TIGHT = 0.05

_EXPONENTS = np.linspace(0.05, 2.0, 79)
_FEWEST_SIZES = 3


def outlook(sizes: Sequence[Size], chosen: str, cases: int, events: int) -> dict[str, Any]:
    """Answers both questions.

    Args:
        sizes: What was found, ascending.
        chosen: The arm in use.
        cases: Subjects whose outcome is known, test part included.
        events: Those of them with the outcome.

    Returns:
        JSON: `local` with `arm`, `target` (the chosen arm's AUROC at the largest size), `cases` at which the local
        arm reaches it, `lower` and `upper` (95%; None: beyond what can be told) and `more` (cases beyond those there
        are; None: beyond what can be told, or, with a `reason`, no curve can be fitted); `estimate` as `tightness` has
        it, of the chosen arm's AUROC if all cases were held out once (None where its resamples do not tell), and the
        `events` in the test part that it is reckoned from.
    """
    return {"local": _local(sizes, chosen, cases), "estimate": _estimate(sizes[-1], chosen, cases, events)}


def reached(cases: np.ndarray, values: np.ndarray, target: float) -> float:
    """The number of cases at which a curve through the points reaches a value; infinite where it never does.

    Examples:
        >>> at = np.array([16.0, 64.0, 256.0])
        >>> round(reached(at, 0.8 - at**-0.5, 0.8 - 1000**-0.5))
        1000
        >>> reached(at, 0.8 - at**-0.5, 0.85)
        inf
    """
    best = min((_fit(cases, values, exponent) for exponent in _EXPONENTS), key=lambda fitted: fitted[0])
    _, ceiling, rise, exponent = best
    if ceiling <= target or rise <= 0:
        return float("inf")
    with np.errstate(over="ignore"):  # infinite too where it is too far to be counted
        return float(np.float64(rise / (ceiling - target)) ** (1 / exponent))


def _fit(cases: np.ndarray, values: np.ndarray, exponent: float) -> tuple[float, float, float, float]:
    """Squared error, ceiling, rise and exponent of the best curve with that exponent, which never falls."""
    design = np.column_stack([np.ones_like(cases), -(cases**-exponent)])
    ceiling, rise = np.linalg.lstsq(design, values, rcond=None)[0]
    if rise < 0:
        ceiling, rise = float(values.mean()), 0.0
    error = float(((ceiling - rise * cases**-exponent - values) ** 2).sum())
    return error, float(ceiling), float(rise), float(exponent)


def _local(sizes: Sequence[Size], chosen: str, cases: int) -> dict[str, Any] | None:
    arm = sizes[-1].best_local
    there = [size for size in sizes if arm in size.arms]
    if arm is None or arm == chosen:
        return None
    target = sizes[-1].value(chosen, "auroc")
    told = {"arm": arm, "target": number(target)}
    if sizes[-1].value(arm, "auroc") >= target:
        return {**told, "cases": round(sizes[-1].subjects), "lower": None, "upper": None, "more": 0}
    if len(there) < _FEWEST_SIZES:
        reason = f"a curve takes {_FEWEST_SIZES} numbers of cases, and it was learned at {len(there)}"
        return {**told, "cases": None, "lower": None, "upper": None, "more": None, "reason": reason}
    at = np.array([size.subjects for size in there])
    value = _within(reached(at, np.array([size.value(arm, "auroc") for size in there]), target), cases)
    curves = np.column_stack([size.draws(arm, "auroc") for size in there])
    draws = [reached(at, *pair) for pair in zip(curves, sizes[-1].draws(chosen, "auroc")) if np.isfinite(pair[0]).all()]
    lower, upper = (_within(float(each), cases) for each in np.quantile(draws, [0.025, 0.975], method="nearest"))
    more = None if value is None else max(0, value - cases)
    return {**told, "cases": value, "lower": lower, "upper": upper, "more": more}


def _within(cases: float, there: int) -> int | None:
    return None if cases > FAR * there else int(np.ceil(cases))


def _estimate(size: Size, chosen: str, cases: int, events: int) -> dict[str, Any]:
    """The standard error falls with the root of the events that are held out (Hanley and McNeil, Radiology 1982)."""
    found = size.estimate(chosen, "auroc")
    if found["lower"] is None or found["lower"] == found["upper"]:
        return {"half_width": None, "tight": TIGHT, "more": None}
    half = 0.5 * (found["upper"] - found["lower"]) * np.sqrt(size.test_events / events)
    return {**tightness(float(half), cases), "events": size.test_events}


def tightness(half: float, cases: int) -> dict[str, Any]:
    """What is to be done about an AUROC that is known to ± `half` with so many cases.

    Returns:
        JSON: `half_width`, `tight`, and `more` cases until it is tight.
    """
    more = max(0, int(np.ceil(cases * ((half / TIGHT) ** 2 - 1))))
    return {"half_width": number(half), "tight": TIGHT, "more": more}
