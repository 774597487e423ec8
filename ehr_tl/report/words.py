"""Numbers and verdicts as people read them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ehr_tl import wording
from ehr_tl.report.arms import ARMS
from ehr_tl.report.context import ReportInputs
from ehr_tl.tokens.familiarity import ENOUGH, Familiarity

#: By what factor the mean risk of current patients may differ from that of people whose outcome is known.
_DRIFT = 3.0

#: How far apart the ends of observed / expected may lie for a firm word on it, upper to lower.
_FIRM = 2.0


def percent(share: float | None) -> str:
    """A share with as many digits as mean something.

    Examples:
        >>> [percent(x) for x in (0.0, 0.00001, 0.0004, 0.0123, 0.345, 0.996, 0.9999, 1.0)]
        ['0%', '<0.01%', '0.04%', '1.2%', '34%', '99.6%', '>99.9%', '100%']
    """
    if share is None:
        return "\u2013"
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f}%"
    if value < 0.005 or value >= 99.95:
        return "<0.01%" if value < 1 else ">99.9%"
    if value < 0.095:
        return f"{value:.2f}%"
    return f"{value:.1f}%" if value < 9.95 or value >= 99.05 else f"{value:.0f}%"


def count(number: float) -> str:
    """A count with thin spaces between thousands."""
    return f"{number:,.0f}".replace(",", "\u202f")


def counted(number: int, one: str, many: str | None = None) -> str:
    """A count with its noun, and with thin spaces.

    Examples:
        >>> counted(1, "person", "people"), counted(3, "row")
        ('1 person', '3 rows')
    """
    return wording.counted(number, one, many).replace(",", "\u202f")


def reason(name: str) -> str:
    """A reason of coverage.json.

    Examples:
        >>> reason("truncated_file"), reason("status:entered-in-error")
        ('truncated file', 'status: entered-in-error')
    """
    return name.replace("_", " ").replace(":", ": ")


def decimal(value: float | None, digits: int = 2) -> str:
    """A number with so many digits; nothing is less than zero that is shown as zero.

    Examples:
        >>> decimal(-0.004), decimal(-0.126), decimal(None)
        ('0.00', '−0.13', '–')
    """
    if value is None:
        return "\u2013"
    shown = f"{value:.{digits}f}"
    return (shown if float(shown) else shown.lstrip("-")).replace("-", "\u2212")


def interval(estimate: dict[str, Any], show: Any = decimal) -> str:
    """The interval of an estimate, "" where there is none."""
    if estimate["lower"] is None:
        return ""
    return f"{show(estimate['lower'])} to {show(estimate['upper'])}"


def within(horizon: timedelta | None) -> str:
    """The horizon in words.

    Examples:
        >>> within(timedelta(365)), within(timedelta(730)), within(timedelta(30)), within(timedelta(hours=48))
        ('within a year', 'within 2 years', 'within 30 days', 'within 48 hours')
    """
    if horizon is None:
        return "by the end of its window"
    years = horizon / timedelta(365.25)
    if years > 0.99 and abs(years - round(years)) < 0.02:
        return "within a year" if round(years) == 1 else f"within {round(years)} years"
    if horizon <= timedelta(3):
        return f"within {round(horizon / timedelta(hours=1))} hours"
    return f"within {round(horizon / timedelta(1))} days"


def answer(inputs: ReportInputs) -> list[str]:
    """The answer to the pipeline's question, in sentences that need no statistics."""
    metrics = inputs.metrics
    if not metrics["enough"]["ok"]:
        people = metrics["enough"]["subjects_with_outcome"]
        caution = f"Only {counted(people, 'person', 'people')} in this export had the outcome. Below "
        caution += f"{metrics['enough']['needed']}, no figure here is firm: take the list as a demonstration."
        return [_listed(inputs), _drifted(metrics), caution, _past(inputs)]
    return [_listed(inputs), _drifted(metrics), _past(inputs), _ranked(metrics), _calibrated(metrics)]


def _listed(inputs: ReportInputs) -> str:
    current = inputs.current
    scored = current.filter(~current["abstained"])
    if inputs.export.dates_shifted:
        return (
            "The dates of this export were shifted per patient, so nobody can be scored for today; what follows is how "
            "the score would have done."
        )
    if scored.is_empty():
        return "Nobody in this export meets the criteria on the as-of date, so there is no worklist."
    top = scored.head(inputs.metrics["capacity"]["patients"])
    low, high = percent(top["risk"].min()), percent(top["risk"].max())
    span = f"a risk of {high}" if low == high else f"risks from {low} to {high}"
    words = f"On {day(inputs.as_of)}, {counted(scored.height, 'patient')} could be scored. "
    words += f"The {top.height} highest have {span}; the median of all is {percent(scored['risk'].median())}."
    silent = current.height - scored.height
    return words + (f" No score is given for {counted(silent, 'patient')}; the worklist says why." if silent else "")


def _drifted(metrics: dict[str, Any]) -> str:
    """Whether the current patients' risks are of another kind than those that could be checked."""
    current = metrics.get("current")
    if not current or not current["mean_risk_held_out"]:
        return ""
    times = current["mean_risk"] / current["mean_risk_held_out"]
    if 1 / _DRIFT < times < _DRIFT:
        return ""
    return (
        f"Take care: the risks of the current patients are {percent(current['mean_risk'])} on average, those of the "
        f"people with a known outcome were {percent(current['mean_risk_held_out'])}. Either the patients have changed "
        "or the records have; what follows was found on the latter and may not hold for the former."
    )


def _past(inputs: ReportInputs) -> str:
    capacity, model = inputs.metrics["capacity"], inputs.metrics["models"][inputs.metrics["chosen"]]
    found, right = model["sensitivity"], model["precision"]
    if found["value"] is None:
        return "How many outcomes such a list would have found cannot be said."
    words = (
        f"Tried on people the models had not seen, a list of {capacity['patients']} of {count(capacity['of'])} found "
    )
    words += f"{percent(found['value'])} of those with the outcome"
    words += f" (95% interval {interval(found, percent)})" if interval(found) else ""
    if not right["value"]:
        return words + "."
    return (
        words
        + f"; of those listed, {percent(right['value'])} had it, about one in {max(1, round(1 / right['value']))}."
    )


def _ranked(metrics: dict[str, Any]) -> str:
    estimate = metrics["models"][metrics["chosen"]]["auroc"]
    if estimate["value"] is None:
        return ""
    words = (
        f"Someone with the outcome was ranked above someone without it {round(100 * estimate['value'])} times in 100"
    )
    words += f" ({round(100 * estimate['lower'])} to {round(100 * estimate['upper'])})." if estimate["lower"] else "."
    if estimate["lower"] is not None and estimate["lower"] <= 0.5:
        words += " That may be chance."
    return words


def _calibrated(metrics: dict[str, Any]) -> str:
    model = metrics["models"][metrics["chosen"]]
    ratio, slope = model["observed_over_expected"], model["calibration_slope"]
    if ratio["value"] is None:
        return ""
    words = f"For every 100 outcomes predicted, {round(100 * ratio['value'])} came"
    if ratio["lower"] is None or slope["lower"] is None:
        return words + "."
    words += f" ({round(100 * ratio['lower'])} to {round(100 * ratio['upper'])})"
    if ratio["lower"] > 1 or ratio["upper"] < 1:
        return words + f": the risks are too {'low' if ratio['value'] > 1 else 'high'}."
    if slope["upper"] < 1:
        return words + "; high risks are somewhat too high and low ones too low."
    if slope["lower"] > 1:
        return words + "; high risks are somewhat too low and low ones too high."
    if ratio["upper"] > ratio["lower"] * _FIRM:
        return words + ": nothing speaks against reading the risks as percentages, but so few outcomes cannot tell."
    return words + ": the risks can be read as percentages."


def familiar(found: Familiarity) -> str:
    """How much of the records the pretrained transformer knows, in sentences."""
    total, people = sum(found.events.values()), found.subjects
    exactly, related, described, unknown = (percent(found.events[level] / total) for level in found.events)
    some = counted(people["half_or_more"] + people["less"], "person", "people")
    return (
        f"Of {counted(total, 'event')} that models look at, the vocabulary of the checkpoint {found.checkpoint} knows "
        f"{exactly} by their own code and {related} by a more general code or another code of the same event; "
        f"{described} it reads by the words of their description, and {unknown} it does not know. Of {some} with such "
        f"events there are {count(people['less'])} of whose events it knows fewer than half."
    )


def unfamiliar(found: Familiarity) -> str:
    """The warning where little is known."""
    return (
        f"The pretrained transformer knows {percent(found.known)} of the events here, fewer than {ENOUGH:.0%}. What it "
        "learned elsewhere has little to say here: what it adds, it learned from this export alone. Mapping the codes "
        "that it does not know would help most."
    )


def limits(inputs: ReportInputs) -> list[tuple[str, str]]:
    """What the scores must not be used for, and why."""
    synthetic = ("Real patients", "it was made from synthetic records and says nothing about any real hospital.")
    few = ("Decisions about anybody", "too few people had the outcome for any figure here to be firm.")
    return [
        *([synthetic] if inputs.export.synthetic else []),
        *([] if inputs.metrics["enough"]["ok"] else [few]),
        ("Deciding alone", "a clinician reviews each patient before anything is done or left undone."),
        ("Withholding care", "nor admission or discharge by threshold, insurance, billing."),
        ("Other hospitals, other questions, other patients", "try it there first, on people whose outcome is known."),
        ("Emergencies", "a score knows only what was recorded and exported up to its prediction time."),
        ("Finding causes", "what raises the risk need not bring the outcome about; changing it need not help."),
        ("Reassurance about people without a score", "silence is no sign of low risk."),
        ("Use unwatched", "records and practice change; evaluate again before each new use and once a year."),
    ]


def verdict(difference: dict[str, Any]) -> str:
    """What a paired difference in AUROC means."""
    estimate = difference["auroc"]
    first, second = (ARMS[difference[which]].name for which in ("first", "second"))
    if estimate["lower"] is None:
        return "cannot be told from so few outcomes"
    if estimate["lower"] > 0:
        return f"better: {first}"
    if estimate["upper"] < 0:
        return f"better: {second}"
    return "no difference shown"


def day(moment: Any) -> str:
    """A date that nobody can take for another.

    Examples:
        >>> from datetime import datetime
        >>> day(datetime(2026, 11, 1))
        '1 November 2026'
    """
    return f"{moment.day} {moment:%B %Y}"
