"""How like the sources of a checkpoint the hospital is, as people read it."""

from __future__ import annotations

from typing import Any

from ehr_tl.explain.words import short_name
from ehr_tl.report import words
from ehr_tl.transfer.shift import DIFFERS, LIKE, OUTSIDE, Shift

#: Codes that the table names at most, the most different first.
_NAMED = 12

_STYLES = {LIKE: "like", DIFFERS: "differs", OUTSIDE: "outside"}


def shift_content(shift: Shift | None) -> dict[str, Any] | None:
    """What the templates say of a shift; None where there is no checkpoint.

    Returns:
        `answer` (sentences), `warnings`, `rows` (the most different codes with a verdict: `name`, `code`, `unit`,
        `subjects`, `at` (percent), `times`, `index`, `verdict`, `style`), `rest` (codes with a verdict that are not
        among them), `unjudged` (codes of too few people), `added` and `lacking`.
    """
    if shift is None:
        return None
    return {
        "answer": _answer(shift),
        "warnings": shift.warnings,
        "rows": [_row(each) for each in shift.judged[:_NAMED]],
        "rest": len(shift.judged[_NAMED:]),
        "unjudged": len(shift.values) - len(shift.judged),
        "added": [{**each, "name": short_name(each["description"] or each["code"], 90)} for each in shift.added],
        "lacking": shift.lacking,
    }


def _row(each: dict[str, Any]) -> dict[str, Any]:
    return {
        **each,
        "name": short_name(each["description"] or each["code"], 90),
        "at": 100 * each["quantile"],
        "times": f"{each['ratio']:.2g} times" if each["ratio"] is not None else "\u2013",
        "style": _STYLES[each["verdict"]],
    }


def _answer(shift: Shift) -> str:
    return " ".join(filter(None, [_values(shift), _prevalence(shift)]))


def _values(shift: Shift) -> str:
    if shift.verdict is None:
        return (
            f"Too few people here have values that the checkpoint {shift.checkpoint} has met to set them beside those "
            "of its sources."
        )
    verdicts = [each["verdict"] for each in shift.judged]
    like, differ, outside = (verdicts.count(each) for each in (LIKE, DIFFERS, OUTSIDE))
    told = {
        LIKE: "Most values here are like those",
        DIFFERS: "Values here differ from those",
        OUTSIDE: "Values here lie outside of those",
    }
    return (
        f"{told[shift.verdict]} of the sources of the checkpoint {shift.checkpoint}: of "
        f"{words.counted(len(verdicts), 'code')} with values of enough people, {words.count(like)} "
        f"{'is' if like == 1 else 'are'} like the sources, {words.count(differ)} "
        f"{'differs' if differ == 1 else 'differ'} and {words.count(outside)} "
        f"{'lies' if outside == 1 else 'lie'} outside."
    )


def _prevalence(shift: Shift) -> str:
    if shift.prevalence is None:
        return "The question is none of its source tasks, so how often the outcome came there is not known."
    here, there = (words.percent(shift.prevalence[name]) for name in ("here", "sources"))
    return f"The outcome came in {here} of the rows here, and in {there} at the sources."
