"""The results of a study for people: a page with its curves, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ehr_tl import schema
from ehr_tl.evaluate import FROM_SCRATCH
from ehr_tl.files import whole
from ehr_tl.report.page import environment, stylesheet
from ehr_tl.report.svg import Plot, Scale, linear
from ehr_tl.report.words import MODELS, count, decimal, interval
from ehr_tl.transfer.study.contest import CONTINUED, TABULAR_BLEND

#: Name and colour of each arm, in the order of the tables; of local cases alone, of sources alone, of both, of all.
ARMS = {
    schema.LIGHTGBM: ("local LightGBM", "#d17f00"),
    schema.LOGISTIC: ("local logistic regression", "#b5483a"),
    schema.TRANSFORMER: ("local transformer", "#8c6d31"),
    FROM_SCRATCH: ("transformer from scratch", "#8c6d31"),
    schema.SOURCE: ("source trees as they are", "#0072b2"),
    schema.SOURCE_HEAD: ("source network as it is", "#56a5d8"),
    schema.RECALIBRATED: ("source trees, recalibrated", "#7aa9c9"),
    schema.ANCHORED: ("trees on top of the source", "#12836b"),
    schema.POOLED: ("pooled trees", "#5c9c3a"),
    schema.WEIGHTED: ("pooled trees, weighted", "#93ba6f"),
    schema.PROBE: ("network, probe", "#7a4fb0"),
    schema.FINETUNED: ("network, fine-tuned", "#b083d9"),
    CONTINUED: ("network, pretrained further, probe", "#d58bc0"),
    TABULAR_BLEND: ("blend without networks", "#6b7680"),
    schema.BLEND: ("blend (in use)", "#17212b"),
}

MEASURES = {
    "auroc": ("AUROC", "higher is better: 0.5 is chance"),
    "brier": ("Brier score", "lower is better"),
    "calibration_slope": ("Calibration slope", "1 is right; below, risks are too extreme"),
}

#: What is said of differences, by the name that results have for them.
DIFFERENCES = {
    "chosen - best local": "blend less best local arm",
    "chosen - best single": "blend less best single arm",
    "chosen - the same without networks": "blend less the same without networks",
    "source - best local": "source trees less best local arm",
}

_GAP = 15  # pixels between labels


def chart(results: Mapping[str, Any], measure: str = "auroc", width: int = 900, height: int = 440) -> str:
    """A measure by number of cases as inline SVG: a line per arm, with 95% bands of the arm in use and the best local.

    Args:
        results: Of a study or a learning curve.
        measure: One of `MEASURES`.
        width, height: In pixels.
    """
    sizes = [size for size in results["sizes"] if size["arms"]]
    lines = {arm: _line(sizes, arm, measure) for arm in ARMS}
    lines = {arm: points for arm, points in lines.items() if points}
    values = [value for points in lines.values() for *_, value in points]
    low, high = _span(values)
    plot = Plot(f"{MEASURES[measure][0]} by number of cases", _logarithmic(sizes), linear(low, high), width, height)
    plot.right = 210
    plot.axes(_case_ticks(sizes), _ticks(low, high), _counted(results), MEASURES[measure][0])
    if measure == "calibration_slope":
        plot.line([(sizes[0]["subjects"], 1), (sizes[-1]["subjects"], 1)], "reference", "right")
    best = sizes[-1]["best_local"]
    for arm in (best, sizes[-1]["chosen"]):
        if arm in lines:
            _band(plot, sizes, arm, measure, low, high)
    for arm, points in lines.items():
        style = f'style="stroke:{_colour(arm)};stroke-width:{3.2 if arm == schema.BLEND else 2}"'
        if len(points) > 1:
            plot.line([(x, y) for _, x, y in points], "arm", _name(arm), style)
        for size, x, y in points:
            tip = f"{_name(arm)}, {size['size']} cases: {interval(size['arms'][arm][measure], decimal)}"
            plot.dot(x, y, "arm", 3.2, tip, f'style="fill:{_colour(arm)}"')
    _labels(plot, {arm: points[-1] for arm, points in lines.items()})
    return plot.svg()


def write_study(path: str | Path, results: Mapping[str, Any]) -> None:
    """Writes the page: one HTML file that loads nothing and names nobody."""
    template = environment().get_template("study.html.j2")
    page = template.render(
        results=results,
        export={"synthetic": results["synthetic"], "notice": results["notice"]},
        charts={measure: chart(results, measure, *_SIZES[measure]) for measure in MEASURES},
        measures=MEASURES,
        tables={measure: table(results, measure) for measure in MEASURES},
        differences=differences(results),
        weights=_weights(results),
        answers=answers(results),
        css=stylesheet(),
    )
    with whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


_SIZES = {"auroc": (940, 470), "brier": (620, 330), "calibration_slope": (620, 330)}


def table(results: Mapping[str, Any], measure: str) -> list[tuple[str, list[str]]]:
    """Rows of a table: an arm's name, and its value at each size with the 95% interval."""
    return [
        (_name(arm), [_shown(size["arms"].get(arm, {}).get(measure)) for size in results["sizes"]])
        for arm in ARMS
        if any(arm in size["arms"] for size in results["sizes"])
    ]


def differences(results: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The same of differences of the AUROC; a best arm is named where it stands."""
    return [
        (words, [_difference(size["differences"].get(name)) for size in results["sizes"]])
        for name, words in DIFFERENCES.items()
        if any(name in size["differences"] for size in results["sizes"])
    ]


def answers(results: Mapping[str, Any]) -> list[str]:
    """What the curve says to somebody who wonders whether to wait for more cases, in sentences."""
    outlook = results.get("outlook")
    if outlook is None:
        return []
    said, local, estimate = [], outlook["local"], outlook["estimate"]
    if local is not None:
        said.append(_until_local(local))
    if estimate["half_width"] is not None:
        width = f"The AUROC of the arm in use is known to ± {decimal(estimate['half_width'], 3)} with all cases"
        enough = f"± {estimate['tight']}"
        more = f"about {count(estimate['more'])} more cases until {enough}"
        said.append(f"{width}: {more if estimate['more'] else 'tight enough (' + enough + ')'}.")
    return said


def _until_local(local: Mapping[str, Any]) -> str:
    name, target = _name(local["arm"]), decimal(local["target"], 3)
    if local["more"] is None:
        return f"When {name} would reach {target}, the AUROC of the arm in use, is not within what can be told."
    if local["more"] == 0:
        return f"{name[0].upper()}{name[1:]} does as well as the arm in use with the cases that there are."
    upper = count(local["upper"]) if local["upper"] is not None else "more than can be told"
    lower = count(local["lower"]) if local["lower"] is not None else "more than can be told"
    more = f"About {count(local['more'])} more cases until {name} would do as well as the arm in use ({target})"
    return f"{more}: it would take {count(local['cases'])} in all (95% interval {lower} to {upper})."


def markdown(results: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    head = ["arm", *(_head(size) for size in results["sizes"])]
    lines = [f"# {results['title']}", "", _told(results), ""]
    for measure, (title, hint) in MEASURES.items():
        lines += [f"## {title} ({hint})", "", *_rows(head, table(results, measure)), ""]
    rows = differences(results)
    lines += ["## Differences of the AUROC, paired", "", *_rows(["difference", *head[1:]], rows), ""]
    lines += ["## Weights in the blend", "", *_rows(head, _weights(results)), ""]
    return "\n".join(lines)


def _told(results: Mapping[str, Any]) -> str:
    test = results["test"]
    synthetic = "Synthetic data. " if results["synthetic"] else ""
    return (
        f"{synthetic}{test['subjects']:,} subjects tested on, {test['events']:,} of them with the outcome; "
        f"{results['repeats']} repeats, {len(results['seeds'])} seeds of pretraining. Mean over repeats (slope: median) "
        f"with 95% intervals, {results['resamples']:,} paired resamples of subjects and repeats. "
        f"Cells: {results['seconds']:,.0f} s. Nothing here says that a model is fit for use on patients."
    )


def _rows(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    lines = [head, ["---"] * len(head), *([name, *cells] for name, cells in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _head(size: Mapping[str, Any]) -> str:
    return f"{size['size']} ({size['events']:.0f} of {size['subjects']:.0f})"


def _weights(results: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    names = [arm for arm in ARMS if any(arm in size["weights"] for size in results["sizes"])]
    return [
        (_name(arm), [decimal(size["weights"].get(arm)) if size["weights"] else "\u2013" for size in results["sizes"]])
        for arm in names
    ]


def _shown(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "\u2013"
    return interval(estimate, lambda value: decimal(value, 3))


def _difference(found: Mapping[str, Any] | None) -> str:
    return _shown(found) if found is None else f"{_shown(found)}, {_name(found['second'])}"


def _name(arm: str) -> str:
    return ARMS[arm][0] if arm in ARMS else MODELS.get(arm, arm)


def _colour(arm: str) -> str:
    return ARMS[arm][1]


def _counted(results: Mapping[str, Any]) -> str:
    return "local cases (of each class as many)" if results["shots"] else "local cases (those with the outcome)"


def _line(sizes: Sequence[Mapping[str, Any]], arm: str, measure: str) -> list[tuple[Mapping[str, Any], float, float]]:
    found = [(size, size["subjects"], size["arms"].get(arm, {}).get(measure, {}).get("value")) for size in sizes]
    return [point for point in found if point[2] is not None]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Where an axis begins and ends; a slope that ran away stays outside."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 50], ordered[-1 - len(ordered) // 50]
    room = max(0.08 * (high - low), 0.005)
    return low - room, high + room


def _logarithmic(sizes: Sequence[Mapping[str, Any]]) -> Scale:
    from math import log

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
    return [(n * step, f"{n * step:.3g}") for n in range(first, int(high // step) + 1)]


def _band(
    plot: Plot, sizes: Sequence[Mapping[str, Any]], arm: str, measure: str, low: float, high: float
) -> None:
    there = [(size["subjects"], size["arms"][arm][measure]) for size in sizes if arm in size["arms"]]
    there = [(x, found) for x, found in there if found.get("lower") is not None]
    bounds = [(x, *(min(max(found[end], low), high) for end in ("lower", "upper"))) for x, found in there]
    if len(bounds) > 1:
        outline = [(x, upper) for x, _, upper in bounds] + [(x, lower) for x, lower, _ in reversed(bounds)]
        plot.area(outline, f'style="fill:{_colour(arm)};opacity:.12"', f"95% interval of {_name(arm)}")


def _labels(plot: Plot, ends: Mapping[str, tuple[Mapping[str, Any], float, float]]) -> None:
    """Each line's name at its end, moved apart where they would lie on each other."""
    floor, ceiling = plot.height - plot.bottom, plot.top + 4
    wanted = sorted((plot.py(y), arm) for arm, (_, _, y) in ends.items())
    at = max(ceiling, min(wanted[0][0], floor - _GAP * (len(wanted) - 1)))
    for number, (place, arm) in enumerate(wanted):
        last = floor - _GAP * (len(wanted) - 1 - number)
        at = min(max(place, at), last) if number == 0 else min(max(place, at + _GAP), last)
        weight = ";font-weight:700" if arm == schema.BLEND else ""
        style = f'style="fill:{_colour(arm)};font-size:12px{weight}"'
        plot.text(plot.width - plot.right + 10, at + 4, _name(arm), "note", "start", style)
