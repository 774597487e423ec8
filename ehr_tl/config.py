"""A pipeline file: one question, asked of one export, answered by named models.

Pipelines are YAML. Every key is a field of the dataclasses below; an unknown key is an error that names it.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from ehr_tl.errors import PipelineError
from ehr_tl.resources import bundled, checkpoints


@dataclass(frozen=True)
class Within:
    """Bounds of a number, both of them allowed."""

    least: float
    most: float = math.inf

    def holds(self, value: float) -> bool:
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return f" of at least {self.least:,}" if self.most == math.inf else f" from {self.least:,} to {self.most:,}"


@dataclass(frozen=True)
class Matching:
    """What a text looks like, as a pattern and in words."""

    pattern: str
    words: str

    def holds(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return f" {self.words}"


@dataclass(frozen=True)
class Distinct:
    """The items of a list differ."""

    def holds(self, value: tuple[Any, ...]) -> bool:
        return len(set(value)) == len(value)

    def __str__(self) -> str:
        return ", each once"


#: It becomes the name of a folder, so it must not lead to another one.
Name = Annotated[str, Matching(r"\w[\w.-]{0,99}", "of letters, digits, '_', '-' and '.', such as kidney_disease")]
Said = Annotated[str, Matching(r"\s*\S[\s\S]*", "that says something")]
Share = Annotated[float, Within(0, 1)]


@dataclass(frozen=True)
class TaskConfig:
    """Who is asked about, when, and what counts as the outcome: an ACES task, and what ACES cannot say.

    Attributes:
        predicates, trigger, windows, patient_demographics: As in ACES (https://eventstreamaces.readthedocs.io).
            Exactly one window has a `label` and one an `index_timestamp`. A predicate with a code may ask for a `rise`
            of its value (`cohort.rise`).
        absent: The outcome is that the label's predicate does *not* occur in its window (a stay of more than a week:
            no discharge within seven days).
        at_least: How often the label's predicate must occur in its window for the outcome to be there.
        every: Interval between prediction times that are no event ("365 days"), counted back from the as-of date.
            The predicate `INDEX` then exists and is the trigger's to name.
        index_from: Earliest honest prediction time: a date, or "end - 3285 days". Default: the adapter's, if it
            declares one.
    """

    predicates: dict[str, Any]
    trigger: str
    windows: dict[str, Any]
    patient_demographics: dict[str, Any] = field(default_factory=dict)
    absent: bool = False
    at_least: Annotated[int, Within(1, 1_000)] = 1
    every: str | None = None
    index_from: str | None = None


@dataclass(frozen=True)
class LightGBMConfig:
    """The baseline. `windows_days` are look-backs; the whole record is always one more."""

    windows_days: tuple[Annotated[float, Within(0.01, 73_000)], ...] = (30, 180, 730)
    min_subjects: Annotated[int, Within(1, 10_000)] = 5
    max_depth: Annotated[int, Within(1, 32)] = 3
    rounds: Annotated[int, Within(1, 10_000)] = 300
    trials: Annotated[int, Within(1, 100)] = 4


@dataclass(frozen=True)
class TransformerConfig:
    """The transformer and how it is adapted.

    Attributes:
        checkpoint: Name of a shipped checkpoint or a folder; null trains from scratch.
        compare_from_scratch: Also train the same network without pretraining, for the report's comparison.
        slot_hours: Width of a time slot; null: the adapter's, else the checkpoint's, else a day.
        max_slots: Slots that a prediction can look back on.
        epochs, learning_rate, batch_subjects, patience: Training, be it of a checkpoint's last layer or from scratch.
        event_dropout: Share of events that training from scratch hides at random, so that "event removed" is something
            that the model knows.
        min_known: Least share of the events (of the kind that `ehr-tl coverage` counts) that the checkpoint must know,
            exactly, by a relative or by description; below it a run refuses to train, unless `--accept-coverage`.
        players: Upper bound of the groups of events between which a Shapley value is divided (at most 32).
        permutations: Antithetic pairs of permutations per explained record.
    """

    checkpoint: str | None = "ehr_tl_base"
    compare_from_scratch: bool = True
    slot_hours: Annotated[float, Within(0.01, 10_000)] | None = None
    max_slots: Annotated[int, Within(2, 8192)] = 256
    epochs: Annotated[int, Within(1, 1000)] = 12
    learning_rate: Annotated[float, Within(1e-7, 1)] = 3e-4
    batch_subjects: Annotated[int, Within(1, 4096)] = 16
    event_dropout: Annotated[float, Within(0, 0.9)] = 0.2
    patience: Annotated[int, Within(1, 1000)] = 3
    min_known: Share = 0.5
    players: Annotated[int, Within(3, 32)] = 16
    permutations: Annotated[int, Within(1, 1000)] = 2


@dataclass(frozen=True)
class TransferConfig:
    """What a checkpoint and source hospitals lend to the hospital's own cases.

    Attributes:
        tasks: Source tasks of the checkpoint that ask the pipeline's question, or one like it. Default: the one of the
            pipeline's name where the checkpoint has it, else all that it has.
        sources: Events folders of source hospitals, for the arms that learn from their rows (pooled, weighted).
        arms: The models that take part (`schema.LIGHTGBM` and so on). Default: all that can be had.
    """

    tasks: Annotated[tuple[Name, ...], Distinct()] = ()
    sources: Annotated[tuple[str, ...], Distinct()] = ()
    arms: Annotated[tuple[Name, ...], Distinct()] = ()


@dataclass(frozen=True)
class EvaluationConfig:
    """Cross-validation by subject and how the result is read.

    Attributes:
        folds: Every subject is held out in one of these.
        seed: Fixes folds, models and resampling.
        resamples: Bootstrap resamples (of subjects) behind each interval.
        capacity: How many patients can be acted on; sensitivity and positive predictive value are given there.
        sites: Beginning of the codes that tell a subject's site (`VISIT_TYPE//CARE_UNIT//`): sites are then held out
            whole. Default: none, subjects are.
    """

    folds: Annotated[int, Within(3, 20)] = 5
    seed: Annotated[int, Within(0, 2**31 - 1)] = 0
    resamples: Annotated[int, Within(20, 100_000)] = 500
    capacity: Annotated[int, Within(1)] = 20
    sites: Said | None = None


@dataclass(frozen=True)
class AbstentionConfig:
    """When no score is given.

    Attributes:
        min_events: Fewest timed events before the prediction time; that a visit began or ended does not count.
        min_known: Least share of these events whose code, or a parent of it, occurs in training.
        max_distance: Quantile of the training subjects' distances beyond which a patient is too unlike them.
    """

    min_events: Annotated[int, Within(0)] = 3
    min_known: Share = 0.5
    max_distance: Share = 0.999


@dataclass(frozen=True)
class Pipeline:
    """One runnable job.

    Attributes:
        name: Plain name; the run goes to `runs/<name>` by default.
        title: Heading of the report.
        question: What is asked, as a clinician would.
        outcome: The outcome in words, as `RiskAssessment.prediction.outcome` will say.
        intended_use: Who may use the scores for what.
        export: Folder or zip; "sample" is the synthetic export that ships.
        adapter: Name of a shipped adapter or a folder.

    Folders (these two, the transformer's checkpoint, the sources of transfer) are named from the folder of the file on.
    """

    name: Name
    title: Said
    question: Said
    outcome: Said
    task: TaskConfig
    intended_use: str = ""
    export: str | None = None
    adapter: str | None = None
    lightgbm: LightGBMConfig = LightGBMConfig()
    transformer: TransformerConfig | None = TransformerConfig()
    transfer: TransferConfig = TransferConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    abstention: AbstentionConfig = AbstentionConfig()


def load_pipeline(name: str | Path, beside: str | Path | None = None) -> Pipeline:
    """Reads a pipeline file, or a shipped pipeline by name; the folders that it names become absolute.

    Args:
        name: The file or the name.
        beside: The folder that folders are named from; default: the file's own. A copy of a file needs it.

    Raises:
        PipelineError: There is no such file, it is no YAML mapping, or a key or value is wrong.
    """
    path = pipeline_path(name)
    pipeline = build(Pipeline, read_yaml(path, Pipeline), str(path), PipelineError)
    folder = Path(beside or path.parent)
    transformer = pipeline.transformer
    if transformer is not None:
        transformer = replace(transformer, checkpoint=located(transformer.checkpoint, folder, checkpoints()))
    export = pipeline.export
    return replace(
        pipeline,
        export=str((folder / export).absolute()) if export not in (None, "sample") else export,
        adapter=located(pipeline.adapter, folder, bundled("adapters")),
        transformer=transformer,
        transfer=replace(
            pipeline.transfer, sources=tuple(str((folder / each).absolute()) for each in pipeline.transfer.sources)
        ),
    )


def read_yaml(path: Path, cls: type) -> Any:
    """The content of a YAML file that is to become a `cls`.

    Raises:
        PipelineError: It is no YAML, or empty.
    """
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date such as 2020-02-31
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        tab = "'\\t'" in str(getattr(error, "problem", ""))
        raise PipelineError(
            f"{path}{line} is no valid YAML",
            expected="a YAML mapping",
            fix="that line has a tab: indent with spaces" if tab else None,
        ) from None
    if raw is None:
        raise PipelineError(f"{path} is empty", expected=f"keys {', '.join(_names(cls))}")
    return raw


def located(name: str | None, beside: Path, shipped: Path) -> str | None:
    """What is given by folder or by name: a folder becomes absolute, the name of something that ships stays.

    Args:
        name: What was given.
        beside: Where a relative folder begins.
        shipped: The folder of what ships.
    """
    if name is None:
        return None
    is_name = name != ".." and Path(name).name == name
    folder = (beside / name).absolute()
    return name if is_name and ((shipped / name).is_dir() or not folder.is_dir()) else str(folder)


def utc(text: str) -> datetime:
    """A date or a time, naive UTC.

    Raises:
        ValueError: It is neither, or lies before the calendar's beginning.

    Examples:
        >>> utc("2026-11-01T01:00+02:00")
        datetime.datetime(2026, 10, 31, 23, 0)
    """
    moment = datetime.fromisoformat(text)
    try:
        return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError as error:
        raise ValueError(str(error)) from None


def pipeline_path(name: str | Path) -> Path:
    """The file of a pipeline given by path or shipped name."""
    return shipped_file(name, "pipelines", "pipeline")


def pipeline_names() -> list[str]:
    """Names of the shipped pipelines."""
    return _shipped_names("pipelines")


def shipped_file(name: str | Path, folder: str, kind: str) -> Path:
    """The YAML file given by path, or by the name of one that ships in `folder`; `kind` is what it is called."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = bundled(folder) / f"{name}.yaml"
    if path.suffix not in (".yaml", ".yml") and shipped.is_file():
        return shipped
    names = _shipped_names(folder)
    close = get_close_matches(path.stem, names, n=1)
    raise PipelineError(
        f"There is no {kind} {str(name)!r}",
        expected=f"a YAML file or one of: {', '.join(names)}",
        fix=f"Did you mean {close[0]!r}?" if close else "check the path, or copy a shipped file and change it",
    )


def _shipped_names(folder: str) -> list[str]:
    return sorted(path.stem for path in bundled(folder).glob("*.yaml"))


T = typing.TypeVar("T")


def build(cls: type[T], raw: Any, where: str, error: type[Exception]) -> T:
    """Builds a (nested) dataclass from plain JSON or YAML values; unknown keys and wrong values are errors.

    Args:
        cls: The dataclass; bounds of its values are annotations (`Within`, `Matching`, `Distinct`).
        raw: A mapping.
        where: What an error names: the file, then the path of keys.
        error: The class of error to raise.

    Examples:
        >>> build(EvaluationConfig, {"folds": 3}, "my.yaml", PipelineError).folds
        3
        >>> build(EvaluationConfig, {"fold": 3}, "my.yaml", PipelineError)
        Traceback (most recent call last):
            ...
        ehr_tl.errors.PipelineError: my.yaml: unknown key 'fold'. Expected: one of folds, seed, resamples, capacity, \
sites. What to do: Did you mean 'folds'?
        >>> build(EvaluationConfig, {"folds": "three"}, "my.yaml", PipelineError)
        Traceback (most recent call last):
            ...
        ehr_tl.errors.PipelineError: my.yaml: folds is 'three'. Expected: a whole number from 3 to 20.
    """
    if not isinstance(raw, dict):
        raise error(f"{where} is {_shown(raw)}", expected=f"keys {', '.join(_names(cls))}")
    hints = typing.get_type_hints(cls, include_extras=True)
    values = {}
    for key, value in raw.items():
        if key not in hints:
            raise unknown_key(key, hints, where, error)
        values[key] = conform(hints[key], value, f"{where}: {key}", error)
    required = [f.name for f in dataclasses.fields(cls) if _is_required(f) and f.name not in values]
    if required:
        raise error(f"{where}: {', '.join(required)} missing", expected=f"keys {', '.join(required)}")
    return cls(**values)


def unknown_key(key: Any, known: typing.Iterable[str], where: str, error: type[Exception]) -> Exception:
    """The error to raise for a key that nothing knows."""
    close = get_close_matches(str(key), known, n=1)
    return error(
        f"{where}: unknown key {key!r}",
        expected=f"one of {', '.join(known)}",
        fix=f"Did you mean {close[0]!r}?" if close else None,
    )


def conform(hint: Any, value: Any, where: str, error: type[Exception]) -> Any:
    """A plain value as the type that `hint` names; see `build`."""
    try:
        return _converted(hint, value, where, error)
    except _Unfit:
        raise error(f"{where} is {_shown(value)}", expected=_words(hint)) from None


class _Unfit(Exception):
    """A value is not of the type or within the bounds that are asked for."""


def _converted(hint: Any, value: Any, where: str, error: type[Exception]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        found = _converted(args[0], value, where, error)
        if not all(bound.holds(found) for bound in args[1:]):
            raise _Unfit
        return found
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(args, value, where, error)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where, error)
    if origin in (tuple, list) and isinstance(value, (list, tuple)):
        return origin(_converted(args[0], item, where, error) for item in value)
    if origin is dict and isinstance(value, dict):
        return {str(k): conform(args[1], v, f"{where}.{k}", error) for k, v in value.items()}
    if hint is Any or (hint is type(None) and value is None):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise _Unfit


def _first_that_fits(hints: tuple[Any, ...], value: Any, where: str, error: type[Exception]) -> Any:
    if value is None and type(None) in hints:
        return None
    for hint in hints:
        try:
            return _converted(hint, value, where, error)
        except _Unfit:
            continue
    raise _Unfit


def _names(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def _is_required(f: dataclasses.Field) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "nothing"}


def _words(hint: Any) -> str:
    """What a value should be, for people who know YAML and no Python."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _words(args[0]) + "".join(map(str, args[1:]))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(each) for each in args if each is not type(None))
    if origin in (tuple, list):
        return f"a list, each item {_words(args[0])}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "keys with values"
    return _WORDS.get(hint, str(hint))


def _shown(value: Any) -> str:
    """A value as YAML would have it."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)
