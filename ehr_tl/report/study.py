"""The results of a study in words and tables, for its page and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ehr_tl.report.arms import ARMS
from ehr_tl.report.learning_curve import MEASURES, chart, estimate
from ehr_tl.report.words import count, counted, decimal
from ehr_tl.transfer.study.contest import CONTINUED
from ehr_tl.transfer.study.outlook import FAR

#: What is said of differences, by the name that results have for them.
DIFFERENCES = {
    "chosen - best local": "blend less best local arm",
    "chosen - best single": "blend less best single arm",
    "chosen - best single without networks": "blend less best single arm that is no network",
    "chosen - the same without networks": "blend less the same without networks",
    "source - best local": "source trees less best local arm",
}


def study_content(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the template of the page asks for."""
    return {
        "results": results,
        "export": {"synthetic": results["synthetic"], "notice": results["notice"]},
        "told": told(results),
        "head": [_head(size) for size in results["sizes"]],
        "parts": [
            (measure, *words, chart(results, measure), table(results, measure)) for measure, words in MEASURES.items()
        ],
        "differences": differences(results),
        "weights": weights(results),
        "answers": answers(results),
    }


def table(results: Mapping[str, Any], measure: str) -> list[tuple[str, list[str]]]:
    """Rows of a table: an arm's name, and its value at each size with the 95% interval."""
    return [
        (ARMS[arm].name, [estimate(size["arms"].get(arm, {}).get(measure)) for size in results["sizes"]])
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
    said, local, known = [], outlook["local"], outlook["estimate"]
    if local is not None:
        said.append(_until_local(local, round(results["sizes"][-1]["subjects"])))
    said.append(_until_tight(known))
    return said


def _until_tight(known: Mapping[str, Any]) -> str:
    if known["half_width"] is None:
        return "How closely the AUROC of the model in use is known cannot be told from these cases."
    reckoned = f", as reckoned from {known['events']} with the outcome" if "events" in known else ""
    width = f"The AUROC of the model in use is known to ± {decimal(known['half_width'], 3)} with all cases{reckoned}"
    if known["more"] == 0:
        return f"{width}: tight enough (± {known['tight']})."
    return f"{width}: about {counted(known['more'], 'more case')} until ± {known['tight']}."


def _until_local(local: Mapping[str, Any], drawn: int) -> str:
    arm, target = ARMS[local["arm"]], decimal(local["target"], 3)
    as_well = f"as well as the model in use does with {counted(drawn, 'case')} ({target})"
    if local["more"] is None:
        why = local.get("reason", f"it may take more than {FAR} times the cases that there are, or never come")
        return f"When {arm.name} would do {as_well} is not known: {why}."
    if local["cases"] <= drawn:
        return f"{arm.heading} does as well as the model in use with the same {counted(drawn, 'case')} ({target})."
    ends = (count(each) if each is not None else "more than can be told" for each in (local["lower"], local["upper"]))
    in_all = f"{counted(local['cases'], 'case')} in all (95% interval {' to '.join(dict.fromkeys(ends))})"
    if local["more"] == 0:
        return f"With {in_all}, no more than there are, {arm.name} would do {as_well}."
    return f"About {counted(local['more'], 'more case')} until {arm.name} would do {as_well}: it would take {in_all}."


def markdown(results: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    head = ["arm", *(_head(size) for size in results["sizes"])]
    lines = [f"# {results['title']}", "", told(results), ""]
    for measure, (title, hint) in MEASURES.items():
        lines += [f"## {title} ({hint})", "", *_rows(head, table(results, measure)), ""]
    rows = differences(results)
    lines += ["## Differences of the AUROC, paired", "", *_rows(["difference", *head[1:]], rows), ""]
    lines += ["## Weights in the blend", "", *_rows(head, weights(results)), ""]
    return "\n".join(lines)


def told(results: Mapping[str, Any]) -> str:
    """How it was done, in a paragraph."""
    test = results["test"]
    of = f", all of {counted(test['sites'], 'site')} that no case is from" if test.get("sites") else ""
    synthetic = "Synthetic data. " if results["synthetic"] else ""
    carried_on = any(CONTINUED in size["arms"] for size in results["sizes"])
    pretrained = carried_on or (results.get("source") and not results.get("checkpoint"))
    seeds = f", {counted(len(results['seeds']), 'seed')} of pretraining" if pretrained else ""
    return (
        f"{synthetic}{test['subjects']:,} subjects tested on, {test['events']:,} of them with the outcome{of}; "
        f"{counted(results['repeats'], 'repeat')}{seeds}. Mean over repeats (slope: median) with 95% intervals, "
        f"{results['resamples']:,} paired resamples of subjects and repeats. "
        f"Cells: {results['seconds']:,.0f} s. Nothing here says that a model is fit for use on patients."
    )


def _rows(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    lines = [head, ["---"] * len(head), *([name, *cells] for name, cells in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _head(size: Mapping[str, Any]) -> str:
    return f"{size['size']} ({size['events']:.0f} of {size['subjects']:.0f})"


def weights(results: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Each learner's mean share of the blend at each size."""
    names = [arm for arm in ARMS if any(arm in size["weights"] for size in results["sizes"])]
    return [
        (
            ARMS[arm].name,
            [decimal(size["weights"].get(arm)) if size["weights"] else "\u2013" for size in results["sizes"]],
        )
        for arm in names
    ]


def _difference(found: Mapping[str, Any] | None) -> str:
    return estimate(found) if found is None else f"{estimate(found)}, {ARMS[found['second']].name}"
