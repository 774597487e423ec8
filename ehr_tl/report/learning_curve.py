"""The chart of a learning curve: a measure by number of cases, a line per arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import log
from typing import Any

from ehr_tl import schema
from ehr_tl.report.arms import ARMS
from ehr_tl.report.svg import Plot, Scale, linear
from ehr_tl.report.words import count, decimal

MEASURES = {
    "auroc": ("AUROC", "higher is better: 0.5 is chance"),
    "brier": ("Brier score", "lower is better"),
    "calibration_slope": ("Calibration slope", "1 is right; below, risks are too extreme"),
}

_GAP = 15  # pixels between labels
_SLOPES = (0.0, 3.0)  # that are drawn where they lie

Line = list[tuple[Mapping[str, Any], float, float]]


def chart(results: Mapping[str, Any], measure: str = "auroc", width: int = 900, height: int = 440) -> str:
    """A measure by number of cases as inline SVG: a line per arm, with 95% bands of the arm in use and the best local.

    Args:
        results: Of a study or a learning curve.
        measure: One of `MEASURES`.
        width, height: In pixels.

    Returns:
        The SVG; empty where no arm has a value at any size.
    """
    sizes = [size for size in results["sizes"] if size["arms"]]
    lines = {arm: _line(sizes, arm, measure) for arm in ARMS}
    lines = {arm: points for arm, points in lines.items() if points}
    if not lines:
        return ""
    best, used = sizes[-1]["best_local"], sizes[-1]["chosen"]
    bands = {arm: _band(sizes, arm, measure) for arm in (best, used) if arm in lines}
    values = [value for points in lines.values() for *_, value in points]
    ends = [end for band in bands.values() for _, *both in band for end in both]
    low, high = _span([*values, *ends], measure)
    plot = Plot(f"{MEASURES[measure][0]} by number of cases", _logarithmic(sizes), _bounded(low, high), width, height)
    plot.right = 210
    plot.axes(_case_ticks(sizes), _ticks(low, high), _counted(results), MEASURES[measure][0])
    if measure == "calibration_slope":
        plot.line([(sizes[0]["subjects"], 1), (sizes[-1]["subjects"], 1)], "reference", "right")
    for arm, band in bands.items():
        _shade(plot, band, arm)
    for arm, points in lines.items():
        style = f'style="stroke:{ARMS[arm].colour};stroke-width:{3.2 if arm == schema.BLEND else 2}"'
        if len(points) > 1:
            plot.line([(x, y) for _, x, y in points], "arm", ARMS[arm].name, style)
        for size, x, y in points:
            tip = f"{ARMS[arm].name}, {size['size']} cases: {estimate(size['arms'][arm][measure])}"
            plot.dot(x, y, "arm", 3.2, tip, f'style="fill:{ARMS[arm].colour}"')
    _labels(plot, {arm: points[-1] for arm, points in lines.items()})
    return plot.svg()


def estimate(found: Mapping[str, Any] | None) -> str:
    """An estimate with its 95% interval.

    Examples:
        >>> estimate({"value": 0.8123, "lower": 0.77, "upper": 0.851}), estimate(None)
        ('0.812 (0.770 to 0.851)', '–')
    """
    if found is None or found["value"] is None:
        return "\u2013"
    value = decimal(found["value"], 3)
    return (
        value if found["lower"] is None else f"{value} ({decimal(found['lower'], 3)} to {decimal(found['upper'], 3)})"
    )


def _counted(results: Mapping[str, Any]) -> str:
    return "local cases (of each class as many)" if results["shots"] else "local cases (those with the outcome)"


def _line(sizes: Sequence[Mapping[str, Any]], arm: str, measure: str) -> Line:
    found = [(size, size["subjects"], size["arms"].get(arm, {}).get(measure, {}).get("value")) for size in sizes]
    return [point for point in found if point[2] is not None]


def _span(values: Sequence[float], measure: str) -> tuple[float, float]:
    """Where an axis begins and ends. A slope that ran away lies on the border: its tip tells the value."""
    low, high = min(values), max(values)
    if measure == "calibration_slope":
        low, high = (min(max(value, _SLOPES[0]), _SLOPES[1]) for value in (low, high))
    room = max(0.08 * (high - low), 0.005)
    return low - room, high + room


def _bounded(low: float, high: float) -> Scale:
    """A linear scale; what lies outside goes to the border."""
    inner = linear(low, high)
    return lambda value: inner(min(max(value, low), high))


def _logarithmic(sizes: Sequence[Mapping[str, Any]]) -> Scale:
    first, last = sizes[0]["subjects"], sizes[-1]["subjects"]
    inner = linear(log(first) - 0.05, log(max(last, first + 1)) + 0.05)
    return lambda value: inner(log(value))


def _case_ticks(sizes: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """Numbers of cases with those of events; where two lie close, the later one stays."""
    found = [(size["subjects"], f"{count(size['subjects'])} ({count(size['events'])})") for size in sizes]
    return [one for one, after in pairwise(found) if after[0] > 1.3 * one[0]] + found[-1:]


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    step = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 100) if (high - low) / step <= 8)
    first = int(low // step) + 1
    return [(n * step, f"{n * step:.6g}") for n in range(first, int(high // step) + 1)]


def _band(sizes: Sequence[Mapping[str, Any]], arm: str, measure: str) -> list[tuple[float, float, float]]:
    """Cases and both ends of the interval, at each size that has one; empty where there are not two."""
    there = [(size["subjects"], size["arms"][arm][measure]) for size in sizes if arm in size["arms"]]
    found = [(x, each["lower"], each["upper"]) for x, each in there if each.get("lower") is not None]
    return found if len(found) > 1 else []


def _shade(plot: Plot, band: Sequence[tuple[float, float, float]], arm: str) -> None:
    if band:
        outline = [(x, upper) for x, _, upper in band] + [(x, lower) for x, lower, _ in reversed(band)]
        fill = f'style="fill:{ARMS[arm].colour};opacity:.12"'
        plot.area(outline, "interval", f"95% interval of {ARMS[arm].name}", fill)


def _labels(plot: Plot, ends: Mapping[str, tuple[Mapping[str, Any], float, float]]) -> None:
    """Each line's name at its end, moved apart where they would lie on each other."""
    floor, ceiling = plot.height - plot.bottom, plot.top + 4
    wanted = sorted((plot.py(y), arm) for arm, (_, _, y) in ends.items())
    at = max(ceiling, min(wanted[0][0], floor - _GAP * (len(wanted) - 1)))
    for number, (place, arm) in enumerate(wanted):
        last = floor - _GAP * (len(wanted) - 1 - number)
        at = min(max(place, at), last) if number == 0 else min(max(place, at + _GAP), last)
        weight = ";font-weight:700" if arm == schema.BLEND else ""
        style = f'style="fill:{ARMS[arm].colour};font-size:12px{weight}"'
        plot.text(plot.width - plot.right + 10, at + 4, ARMS[arm].name, "note", "start", style)
