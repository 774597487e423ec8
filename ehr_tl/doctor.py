"""What an export holds and which shipped pipelines it can feed, told before anything is trained."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import polars as pl

from ehr_tl.cohort import feasibility
from ehr_tl.concepts import system
from ehr_tl.config import load_pipeline, pipeline_names
from ehr_tl.convert import convert
from ehr_tl.convert.guess import guess_adapter
from ehr_tl.events import Events, ExportInfo
from ehr_tl.fhir.export import open_export
from ehr_tl.progress import track
from ehr_tl.report.words import percent
from ehr_tl.tokens.familiarity import LEVELS, Familiarity, familiarity
from ehr_tl.wording import counted

_WIDTH = min(100, shutil.get_terminal_size((100, 24)).columns)


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    Attributes:
        export: The export that was looked at.
        adapter: Name or folder of the adapter that read it.
        reason: Why this adapter.
        concept_maps: What was given beside it.
        info: Patients, end, warnings of the export.
        events: Number of events.
        resources: Type -> `read`, `used`, `unused`, `set_aside`, as in coverage.json.
        systems: Per code system `system`; `kept`, `mapped`, `unmapped` as the hospital wrote it; `events` and `codes`
            after mapping, None where no code bears the system's name: all were mapped, or they are classes of visits.
            A visit type counts for its code's system.
        familiarity: How much the checkpoint of each shipped pipeline knows.
        pipelines: Per shipped pipeline `name`, `title`, `adapter` and what `ehr_tl.cohort.feasibility` says.
    """

    export: str
    adapter: str
    reason: str
    concept_maps: tuple[str, ...]
    info: ExportInfo
    events: int
    resources: dict[str, dict[str, Any]]
    systems: list[dict[str, Any]]
    familiarity: list[Familiarity]
    pipelines: list[dict[str, Any]]

    @property
    def text(self) -> str:
        """All of it for a terminal; no more than codes, reasons and counts."""
        known = map(familiarity_lines, self.familiarity)
        parts = (_heading(self), _resources(self), _systems(self), *known, _pipelines(self), _next(self))
        return "\n\n".join("\n".join(lines) for lines in parts if lines)


def diagnose(
    export: str | Path, adapter: str | Path | None = None, concept_maps: Sequence[str | Path] = ()
) -> Diagnosis:
    """Converts an export into a temporary folder and says what can be asked of it.

    Args:
        export: Folder or zip of FHIR files.
        adapter: Adapter name or folder; default: guessed from the first resources.
        concept_maps: FHIR R4 ConceptMaps, CodeSystems and ValueSets: files, or folders of them.

    Raises:
        ExportError: The export cannot be read or holds nothing of use.
        AdapterError: The adapter or a map is wrong.
    """
    if adapter is None:
        name, reason = guess_adapter(open_export(export))
    else:
        name, reason = str(adapter), "as you asked"
    with tempfile.TemporaryDirectory(prefix="ehr_tl_doctor_") as folder:
        events = convert(export, name, Path(folder) / "events", concept_maps)
        return Diagnosis(
            export=str(export),
            adapter=name,
            reason=reason,
            concept_maps=tuple(map(str, concept_maps)),
            info=events.export,
            events=events.coverage["events"],
            resources=events.coverage["resources"],
            systems=_by_system(events),
            familiarity=_familiarities(events),
            pipelines=[_feasible(events, name) for name in track(pipeline_names(), "Trying the shipped pipelines")],
        )


def _familiarities(events: Events) -> list[Familiarity]:
    """For each checkpoint that a shipped pipeline begins with, how much of the events it knows."""
    from ehr_tl.models.knowledge import checkpoint_knowledge

    transformers = [load_pipeline(name).transformer for name in pipeline_names()]
    paths = sorted({each.checkpoint for each in transformers if each is not None and each.checkpoint is not None})
    return [familiarity(events, checkpoint_knowledge(path), Path(path).name) for path in paths]


def _by_system(events: Events) -> list[dict[str, Any]]:
    systems = events.coverage["codes"]
    counts = events.scan().group_by("code").len().collect()
    owner = pl.Series("system", [system(code, systems) for code in counts["code"]], dtype=pl.String)
    totals = counts.group_by(owner).agg(events=pl.sum("len"), codes=pl.len())
    found = {row["system"]: row for row in totals.iter_rows(named=True)}
    nothing = {"events": None, "codes": None}
    return [{**nothing, **found.get(name, {}), "system": name, **n} for name, n in sorted(systems.items())]


def _feasible(events: Events, name: str) -> dict[str, Any]:
    pipeline = load_pipeline(name)
    return {"name": name, "title": pipeline.title, "adapter": pipeline.adapter, **feasibility(events, pipeline)}


# --- text -------------------------------------------------------------------------------------------------------------


def _heading(found: Diagnosis) -> list[str]:
    info = found.info
    said = [counted(info.patients, "patient"), counted(found.events, "event")]
    if info.end:
        said.append(f"ends {info.end:%Y-%m-%d}")
    if info.synthetic:
        said.append("synthetic: nobody in it exists")
    if info.dates_shifted:
        said.append("dates shifted per patient: nobody can be scored as of today")
    return [
        f"Export    {found.export}",
        *wrap(f"Adapter   {found.adapter}: {found.reason}", _WIDTH, subsequent_indent=" " * 10),
        *wrap(f"Records   {', '.join(said)}", _WIDTH, subsequent_indent=" " * 10),
    ]


def _resources(found: Diagnosis) -> list[str]:
    rows = [
        (kind, n["read"], n["used"], sum(n["unused"].values()), sum(n["set_aside"].values()))
        for kind, n in sorted(found.resources.items())
    ]
    lines = _table(("Resources", "read", "used", "unused", "set aside"), rows)
    for which in ("unused", "set_aside"):
        reasons: dict[str, int] = {}
        for kind in found.resources.values():
            for reason, n in kind[which].items():
                reasons[reason] = reasons.get(reason, 0) + n
        if reasons:
            lines += _listed(f"Why {which.replace('_', ' ')}", [f"{reason} {n:,}" for reason, n in reasons.items()])
    return lines


def _systems(found: Diagnosis) -> list[str]:
    header = ("Code systems", "kept", "mapped", "unmapped", "events", "codes")
    return _table(header, [(row["system"], *(row[name] for name in header[1:])) for row in found.systems])


def familiarity_lines(found: Familiarity) -> list[str]:
    """What a checkpoint knows, as shares of the events that models look at, and of their codes; for a terminal."""
    total = [("all", found.events), ("different codes", found.codes)]
    rows = [(name, *_shares(levels)) for name, levels in [*found.systems.items(), *total]]
    lines = _table((f"Known to the checkpoint {found.checkpoint}", *LEVELS), rows)
    explained = "share of dated events whose own code it has seen; else another code of the event, or one above these"
    lines += _listed("exactly, related", [explained])
    lines += _listed("described", ["else at least half of the words that describe the code it has met in descriptions"])
    people = found.subjects
    some = people["half_or_more"] + people["less"]
    lines += _listed("Subjects of whose events it knows fewer than half", [f"{people['less']:,} of {some:,}"])
    if found.missing:
        shown = [f"{row['code']} ({counted(row['events'], 'event')})" for row in found.missing]
        lines += _listed("Most frequent codes that it has not seen", shown)
    if found.little:
        warning = (
            f"It knows {percent(found.known)} of the events: what it learned elsewhere has little to say here. Map the"
        )
        lines += _listed("Take care", [f"{warning} codes that it has not seen, or expect little of the transformer"])
    return lines


def _shares(levels: dict[str, int]) -> list[str]:
    total = sum(levels.values()) or 1
    return [percent(number / total) for number in levels.values()]


def _pipelines(found: Diagnosis) -> list[str]:
    header = ("Pipelines", "rows", "subjects", "with outcome", "current")
    rows = [
        (fit["name"], fit["rows"], fit["subjects"], fit["positive_subjects"], fit["current"]) for fit in found.pipelines
    ]
    head, *lines = _table(header, rows)
    told = [head]
    for line, fit in zip(lines, found.pipelines):
        told += [line, *wrap(fit["verdict"], _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4)]
        if not fit["positives"] and fit["absent_codes"]:
            told += _listed("Outcome codes that never occur", fit["absent_codes"], indent=4)
    return told


def _next(found: Diagnosis) -> list[str]:
    # A pipeline that names an adapter was made for that source.
    enough = [fit for fit in found.pipelines if fit["enough"] and fit["adapter"] in (None, found.adapter)]
    if not enough:
        return ["No shipped pipeline has enough cases here: copy the nearest one and change its task."]
    best = max(enough, key=lambda fit: fit["positive_subjects"])
    maps = "".join(f" --concept-map {shlex.quote(each)}" for each in found.concept_maps)
    return [f"Next: ehr-tl run {best['name']} --export {found.export} --adapter {found.adapter}{maps}"]


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    """Aligned columns: names to the left and indented, numbers to the right.

    Examples:
        >>> print("\\n".join(_table(("Name", "n"), [("a", 1200), ("bcd", 3)])))
        Name       n
          a    1,200
          bcd      3
    """
    cells = [tuple(_cell(value) for value in row) for row in rows]
    table = [header, *((f"  {row[0]}", *row[1:]) for row in cells)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in table]


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else f"{value:,}"


def _listed(title: str, items: list[str], most: int = 8, indent: int = 2) -> list[str]:
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    text = f"{title}: {', '.join([*items[:most], *more])}"
    return wrap(text, _WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2), break_long_words=False)
