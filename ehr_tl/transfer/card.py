"""The model card of a pretrained checkpoint: what it was made of, how well it does, and what it is not for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ehr_tl.concepts import FEWEST_SUBJECTS
from ehr_tl.events import Events
from ehr_tl.files import read_json, whole
from ehr_tl.models.checkpoint import CARD, Checkpoint, load_checkpoint
from ehr_tl.models.folder import PRETRAINING

if TYPE_CHECKING:
    from ehr_tl.models.network import EhrModel
    from ehr_tl.tokens.vocabulary import Vocabulary

#: Whose records come from the hospital of MIMIC.
_OF_MIMIC = "physionet_2012"

_CARD = """\
---
{licence}library_name: ehr_tl
tags: [ehr, fhir, meds, time-slots{tag}]
---

# {name}

A causal transformer over the time slots of health records, pretrained to foretell what comes next, with source scores:
heads and boosted trees that were trained on its source hospitals. `ehr-tl` adapts it to a hospital's own question. It
is for research and for building on. Nobody has shown that it is safe or of use in the care of patients.

## Trained on

| source | adapter | subjects | records until | synthetic |
| --- | --- | --- | --- | --- |
{sources}

{notices}{terms}

{held_out}

## What it is

{parameters:,} parameters: a decoder of width {width} with {layers} layers, at most {max_slots} slots back. {codes:,}
codes are known by themselves, any other by its ancestors and the words of its description; {valued:,} codes have value
bins of their own. It opens offline, with `ehr_tl.load_checkpoint`, or with `transformers.AutoModel.from_pretrained`
once `ehr_tl` was imported.

## How it was trained

{timings}{again}

| setting | value |
| --- | --- |
{settings}

## How well it does on held-out subjects of its sources

All figures are of the part `{part}`, subjects of the source hospitals that no weight, tree or bin was fitted on. The
hospitals are the same: at another one expect less, and measure it there.

{losses}{tasks}
## Limits

{limits}

## What it must not be used for

- Not on patients without being adapted, calibrated and evaluated on data of the hospital where it is to be used, and
  without somebody there who answers for it.
- Not to limit, ration, delay or end care, not for insurance, employment or billing.
- Not to find out whether somebody was among its sources, nor to make records that pass for real ones.
{before}"""

_TERMS = "\n\nThe weights are under the licence {licence}, and with attribution of their sources as above."

_AGAIN = " Made again by\n\n```\n{command}\n```"

_HELD_OUT = (
    "One subject in ten was held out to choose (`validation`), one in ten to be examined once (`test`), by a hash of "
    "its id."
)
_CONTINUED = (
    "One subject in ten was held out to choose (`validation`), by a hash of its id. It goes on from `{name}`, whose "
    "card stands at the end: the sources, licences and limits there are its own, too."
)
_BEFORE = """
## Card of the checkpoint before, {name}

{card}
"""

_TASKS = """\
AUROC, Brier score and calibration slope with 95% intervals (subjects resampled); `lightgbm` are trees, `transformer` is
the network's own head. A question labelled by synthetic records alone is marked: it measures a simulator.

| question | model | rows | subjects | with outcome | AUROC | Brier score | calibration slope |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

### By source, sex and age

AUROC where at least ten people had the outcome and ten had not; `-` where fewer.

| question | source | rows | with outcome | AUROC |
| --- | --- | --- | --- | --- |
{sources}

| question | group | rows | with outcome | AUROC |
| --- | --- | --- | --- | --- |
{subgroups}
"""

_SYNTHETIC = (
    "- Of synthetic sources it knows the rules of a simulator. That it carries over from one simulated hospital to\n"
    "  another shows that the machinery works, not that it carries over between real ones."
)
_REAL = (
    "- Of real sources it knows coding habits and case mix, and they differ elsewhere. Its sources are few; subgroups\n"
    "  with few outcomes are hardly measured at all."
)
_MIMIC = (
    "- PhysioNet 2012 comes from the hospital of MIMIC (Beth Israel Deaconess Medical Center): how well this\n"
    "  checkpoint does on MIMIC says nothing of transfer."
)
_SCORES = (
    "- Source scores answer the sources' questions with their rates. Recalibrate them before reading them as risks."
)


def card_text(
    name: str,
    model: EhrModel,
    vocabulary: Vocabulary,
    sources: Sequence[Events],
    made: Mapping[str, Any],
    examination: Mapping[str, Any],
    before: Checkpoint | None = None,
) -> str:
    """Markdown text of a checkpoint's MODEL_CARD.md.

    Args:
        name: What the checkpoint is called.
        model, vocabulary: What it holds.
        sources: What it was trained on.
        made: As in `PRETRAINING`.
        examination: As `transfer.examination.examine` gives it.
        before: The checkpoint that it was continued from.
    """
    network, licence = model.config, made.get("licence")
    return _CARD.format(
        tag=", synthetic" if before is None and all(source.export.synthetic for source in sources) else "",
        held_out=_HELD_OUT if before is None else _CONTINUED.format(name=before.path.name),
        before="" if before is None else _BEFORE.format(name=before.path.name, card=_demoted(before.card)),
        name=name,
        sources=_lines(map(_source, sources)),
        notices="\n\n".join(dict.fromkeys(each.export.notice for each in sources if each.export.notice)),
        parameters=model.num_parameters(),
        width=network.hidden_size,
        layers=network.num_hidden_layers,
        max_slots=network.max_slots,
        codes=len(vocabulary.codes),
        valued=len(vocabulary.valued),
        timings=_timings(made["timings"]),
        again=_AGAIN.format(command=made["command"]) if made["command"] else "",
        licence=f"license: {licence}\n" if licence else "",
        terms=_TERMS.format(licence=licence) if licence else "",
        settings=_lines(_row(setting, _shown(value)) for setting, value in made["settings"].items()),
        part=examination["part"],
        losses=_losses(examination["losses"]),
        tasks=_tasks(examination["tasks"]) if examination["tasks"] else "",
        limits="\n".join(_limits(sources, bool(examination["tasks"]))),
    )


def write_card(
    folder: Path, sources: Sequence[Events], examination: Mapping[str, Any], name: str | None = None
) -> None:
    """Writes the card of a finished checkpoint anew, after another examination.

    Args:
        folder: The checkpoint.
        sources: What it was trained on.
        examination: As `transfer.examination.examine` gives it.
        name: What the checkpoint is called; default: as its folder.

    Raises:
        CheckpointError: The folder is no checkpoint.
    """
    checkpoint = load_checkpoint(folder)
    made = read_json(folder / PRETRAINING)
    text = card_text(name or folder.name, checkpoint.model, checkpoint.vocabulary, sources, made, examination)
    with whole(folder / CARD) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _demoted(card: str) -> str:
    """A card as part of another: without front matter, its headings two levels lower.

    Examples:
        >>> _demoted("---\\nlicense: x\\n---\\n\\n# Name\\n\\nText\\n")
        '### Name\\n\\nText'
    """
    text = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    return re.sub(r"^(#+ )", r"##\1", text, flags=re.MULTILINE).strip()


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _lines(rows: Iterable[str]) -> str:
    return "\n".join(rows)


def _source(source: Events) -> str:
    export = source.export
    until = "dates are shifted or invented" if export.dates_shifted else f"{export.end:%Y-%m-%d}"
    synthetic = "yes" if export.synthetic else "no"
    return _row(source.folder.name, export.adapter, f"{source.subjects.height:,}", until, synthetic)


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_shown(each)}" for key, each in value.items())
    return ", ".join(map(_shown, value)) if isinstance(value, list | tuple) else str(value)


def _timings(seconds: Mapping[str, float]) -> str:
    steps = ", ".join(f"{step} {value / 60:.1f} min" for step, value in seconds.items())
    return f"It took {sum(seconds.values()) / 3600:.2f} hours: {steps}."


def _losses(losses: Mapping[str, float]) -> str:
    if not losses:
        return ""
    rows = _lines(_row(name.replace("_", " "), f"{value:.4f}") for name, value in losses.items())
    return f"| loss | value |\n| --- | --- |\n{rows}\n\n"


def _tasks(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    told = list(tasks.values())
    return _TASKS.format(
        rows=_lines(line for task in told for line in _measures(task)),
        sources=_lines(
            _row(_asked(task), part["source"], *_counts(part, part["positives"]), _by_model(part["models"]))
            for task in told
            for part in task.get("sources", ())
        ),
        subgroups=_lines(line for task in told for line in _subgroups(task)),
    )


def _asked(task: Mapping[str, Any]) -> str:
    return f"{task['title']} (synthetic)" if task["synthetic"] else task["title"]


def _measures(task: Mapping[str, Any]) -> Iterable[str]:
    rows, positives = _counts(task, task["positives"])
    counts = (rows, _few(task["subjects"], task["subjects"]), positives)
    if "models" not in task:
        return [_row(_asked(task), task["reason"], *counts, "-", "-", "-")]
    return [
        _row(
            _asked(task), model, *counts, *(_estimate(found[name]) for name in ("auroc", "brier", "calibration_slope"))
        )
        for model, found in task["models"].items()
    ]


def _subgroups(task: Mapping[str, Any]) -> Iterable[str]:
    """One line per subgroup, the models side by side."""
    for groups in zip(*task.get("subgroups", {}).values()):
        first, found = groups[0], dict(zip(task["subgroups"], groups))
        yield _row(
            _asked(task),
            f"{first['group']} {first['value']}",
            *_counts(first, first["outcomes"]),
            _by_model(found),
        )


def _counts(found: Mapping[str, Any], positives: int) -> tuple[str, str]:
    """Rows, and rows with the outcome."""
    return _few(found["rows"], found["subjects"]), _few(positives, found["positive_subjects"])


def _few(number: int, people: int) -> str:
    """A number of rows, unless they are of so few people that it would point at them.

    Examples:
        >>> _few(1200, 700), _few(8, 2), _few(0, 0)
        ('1,200', 'fewer than 5', '0')
    """
    return f"fewer than {FEWEST_SUBJECTS}" if 0 < people < FEWEST_SUBJECTS else f"{number:,}"


def _by_model(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The AUROC of each model; a dash where none is stated."""
    if all(each["auroc"]["value"] is None for each in found.values()):
        return "-"
    return "; ".join(f"{model} {_estimate(each['auroc'])}" for model, each in found.items())


def _estimate(found: Mapping[str, Any]) -> str:
    """A value with its interval.

    Examples:
        >>> _estimate({"value": 0.8149, "lower": 0.78, "upper": 0.85})
        '0.815 (0.780 to 0.850)'
        >>> _estimate({"value": None, "lower": None, "upper": None, "reason": "too few"})
        '-'
    """
    if found["value"] is None:
        return "-"
    if found["lower"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} ({found['lower']:.3f} to {found['upper']:.3f})"


def _limits(sources: Sequence[Events], scores: bool) -> Iterable[str]:
    exports = [source.export for source in sources]
    if any(export.synthetic for export in exports):
        yield _SYNTHETIC
    if not all(export.synthetic for export in exports):
        yield _REAL
    if any(export.adapter == _OF_MIMIC for export in exports):
        yield _MIMIC
    if scores:
        yield _SCORES
