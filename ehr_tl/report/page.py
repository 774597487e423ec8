"""`report.html`, `coverage.html` and `MODEL_CARD.md`: two pages for people, one file for the next developer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from ehr_tl.events import Events
from ehr_tl.files import whole
from ehr_tl.report import words
from ehr_tl.report.content import content
from ehr_tl.report.context import ReportInputs
from ehr_tl.report.coverage import coverage_content
from ehr_tl.report.study import study_content
from ehr_tl.tokens.familiarity import Familiarity

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(path: str | Path, inputs: ReportInputs) -> None:
    """Writes the report: one HTML file that loads nothing from elsewhere and names patients by id only."""
    page = _environment().get_template("report.html.j2").render(content(inputs), css=_css())
    with whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_coverage(path: str | Path, events: Events, familiarity: Familiarity | None = None) -> None:
    """Writes what was read and what became of it: one HTML file of counts, which loads nothing and names nobody.

    Args:
        path: The file.
        events: The events folder.
        familiarity: How much of it a pretrained vocabulary knows.
    """
    found = coverage_content(events.coverage, events.export, familiarity)
    page = _environment().get_template("coverage.html.j2").render(found, css=_css())
    with whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_study(path: str | Path, results: Mapping[str, Any]) -> None:
    """Writes what a study found: one HTML file that loads nothing from elsewhere and names nobody."""
    page = _environment().get_template("study.html.j2").render(study_content(results), css=_css())
    with whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_model_card(path: str | Path, inputs: ReportInputs) -> None:
    """Writes the model card (Mitchell et al. 2019) as Markdown; it names no patient."""
    card = _environment().get_template("MODEL_CARD.md.j2").render(content(inputs))
    with whole(path) as temporary:
        temporary.write_text(card, encoding="utf-8")


@cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=lambda name: bool(name) and ".html" in name,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    shown = (words.percent, words.count, words.counted, words.decimal, words.interval, words.day, words.verdict)
    environment.filters |= {function.__name__: function for function in (*shown, words.unfamiliar)}
    environment.filters["date"] = lambda text: words.day(date.fromisoformat(text))
    environment.filters["interval_of"] = lambda estimate, show: words.interval(estimate, getattr(words, show))
    return environment


def _css() -> str:
    return (_TEMPLATES / "report.css").read_text(encoding="utf-8")
