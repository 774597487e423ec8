"""The four charts of the evaluation."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from ehr_tl.models.calibration import sigmoid
from ehr_tl.report.arms import ARMS, drawn
from ehr_tl.report.svg import Plot, linear, log_odds, logit, odds_ticks
from ehr_tl.report.words import count, percent

_SHARES = [(t / 4, f"{25 * t}%") for t in range(5)]


def _drawn(metrics: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    models = metrics["models"]
    return [(ARMS[name].heading, ARMS[name].style, models[name]) for name in drawn(models, metrics["chosen"])]


def roc(metrics: dict[str, Any]) -> str:
    """Sensitivity against the false positive rate, a line per model."""
    plot = Plot("ROC curves", linear(0, 1), linear(0, 1))
    plot.axes(_SHARES, _SHARES, "listed, of those without the outcome", "listed, of those with the outcome")
    plot.line([(0, 0), (1, 1)], "reference", "chance")
    for name, style, model in _drawn(metrics):
        plot.steps(model["roc"], style, name)
    return plot.svg()


def gain(metrics: dict[str, Any]) -> str:
    """How many outcomes a list finds, by its length."""
    capacity, chosen = metrics["capacity"], metrics["models"][metrics["chosen"]]
    of, share = capacity["of"], capacity["share"]
    ticks = [(x, count(x * of)) for x, _ in _SHARES]
    plot = Plot("Outcomes found by length of the list", linear(0, 1), linear(0, 1))
    plot.axes(ticks, _SHARES, f"listed, of {count(of)}", "outcomes found")
    plot.line([(0, 0), (1, 1)], "reference", "a list drawn by lot")
    for name, style, model in _drawn(metrics):
        plot.line(model["gain"], style, name)
    found = chosen["sensitivity"]["value"]
    if found is not None:
        plot.line([(share, 0), (share, found)], "marker")
        words = f"{capacity['patients']} listed: {percent(found)} found"
        plot.dot(share, found, "marked", 5.5, words)
        # Below the point, and so below the curve, which rises from it.
        plot.label(share + 0.025, max(found - 0.13, 0.04), words, "callout")
    return plot.svg()


def calibration(metrics: dict[str, Any]) -> str:
    """Observed against predicted risk of the chosen model, on log odds."""
    groups = metrics["models"][metrics["chosen"]]["calibration"]
    values = [g[key] for g in groups for key in ("predicted", "observed") if 0 < g[key] < 1]
    low, high = (sigmoid(logit(value) + room) for value, room in ((min(values), -1), (max(values), 1)))
    scale = log_odds(low, high)
    plot = Plot("Calibration", scale, scale)
    ticks = odds_ticks(low, high)
    plot.axes(ticks, ticks, "predicted risk", "observed share with the outcome")
    plot.line([(low, low), (high, high)], "reference", "perfect agreement")
    for group in groups:
        tip = f"{count(group['rows'])} rows, {group['outcomes']} outcomes: predicted {percent(group['predicted'])}, "
        tip += f"observed {percent(group['observed'])} ({percent(group['lower'])} to {percent(group['upper'])})"
        plot.line([(group["predicted"], group["lower"]), (group["predicted"], group["upper"])], "whisker", tip)
    plot.line([(g["predicted"], g["observed"]) for g in groups], "m-blend thin")
    for group in groups:
        plot.dot(group["predicted"], group["observed"], "m-blend", 5)
    return plot.svg()


def net_benefit(metrics: dict[str, Any]) -> str:
    """Decision curves: what acting at a risk threshold is worth, against acting on all or none."""
    at = metrics["thresholds"]
    curves = [value for _, _, model in _drawn(metrics) for value in model["net_benefit"]]
    top = max([*curves, metrics["held_out"]["prevalence"]]) * 1.12
    bottom = -0.18 * top
    plot = Plot("Net benefit", log_odds(at[0], at[-1]), linear(bottom, top))
    step = _round_step(top / 4)
    ticks = [(i * step, f"{100 * i * step:.3g}") for i in range(int(top / step) + 1)]
    plot.axes(odds_ticks(at[0], at[-1]), ticks, "risk from which one would act", "net true positives per 100")
    plot.line([(at[0], 0), (at[-1], 0)], "reference", "act on nobody")
    everybody = [(x, y) for x, y in zip(at, metrics["treat_all"]) if y >= bottom]
    plot.line(everybody, "reference", "act on everybody")
    plot.label(everybody[-1][0], everybody[-1][1], "everybody", "note", "start", up=-2)
    plot.label(at[0], 0, "nobody", "note", "start", up=-14)
    for name, style, model in _drawn(metrics):
        for inside, run in groupby(zip(at, model["net_benefit"]), key=lambda point: point[1] >= bottom):
            if inside:
                plot.line(list(run), style, name)
    return plot.svg()


def years(events: dict[str, int]) -> str:
    """Events per year, a column each, years without any included."""
    first, last, most = int(min(events)), int(max(events)), max(events.values())
    plot = Plot("Events per year", linear(first - 0.5, last + 0.5), linear(0, 1.05 * most), width=900, height=210)
    apart = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if (last - first) / step <= 14)
    step = max(1.0, _round_step(most / 3))
    marks = [(year, str(year)) for year in range(-(-first // apart) * apart, last + 1, apart)]
    plot.axes(marks, [(i * step, count(i * step)) for i in range(int(1.05 * most / step) + 1)], "", "")
    for year, number in events.items():
        plot.band(int(year) - 0.4, int(year) + 0.4, 0, number, "column", f"{year}: {count(number)} events")
    return plot.svg()


def _round_step(size: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** int(f"{size:e}".split("e")[1])
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= size * 0.999)
