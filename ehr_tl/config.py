"""A pipeline file: one question, asked of one export, answered by named models.

Pipelines are YAML. Every key is a field of the dataclasses below; an unknown key is an error that names it.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ehr_tl.errors import PipelineError
from ehr_tl.resources import bundled


@dataclass(frozen=True)
class TaskConfig:
    """Who is asked about, when, and what counts as the outcome: an ACES task, and what ACES cannot say.

    Attributes:
        predicates, trigger, windows, patient_demographics: As in ACES (https://eventstreamaces.readthedocs.io).
            Exactly one window has a `label` and one an `index_timestamp`.
        absent: The outcome is that the label's predicate does *not* occur in its window (a stay of more than a week:
            no discharge within seven days).
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
    every: str | None = None
    index_from: str | None = None


@dataclass(frozen=True)
class LightGBMConfig:
    """The baseline. `windows_days` are look-backs; the whole record is always one more."""

    windows_days: tuple[int, ...] = (30, 180, 730)
    min_subjects: int = 5
    max_depth: int = 3
    rounds: int = 300
    trials: int = 4


@dataclass(frozen=True)
class TransformerConfig:
    """The transformer and how it is adapted.

    Attributes:
        checkpoint: Name of a shipped checkpoint or a folder; null trains from scratch.
        compare_from_scratch: Also train the same network without pretraining, for the report's comparison.
        slot_hours: Width of a time slot; null: the checkpoint's, else a day.
        max_slots: Slots that a prediction can look back on.
        epochs, learning_rate, batch_subjects, event_dropout, patience: Fine-tuning. `event_dropout` is the share of
            events that is hidden at random, so that "event removed" is something that the model knows.
        players: Upper bound of the groups of events between which a Shapley value is divided (at most 32).
        permutations: Antithetic pairs of permutations per explained record.
    """

    checkpoint: str | None = "synthea_small"
    compare_from_scratch: bool = True
    slot_hours: float | None = None
    max_slots: int = 256
    epochs: int = 12
    learning_rate: float = 3e-4
    batch_subjects: int = 16
    event_dropout: float = 0.2
    patience: int = 3
    players: int = 16
    permutations: int = 1


@dataclass(frozen=True)
class EvaluationConfig:
    """Cross-validation by subject and how the result is read.

    Attributes:
        folds: Every subject is held out in one of these.
        seed: Fixes folds, models and resampling.
        resamples: Bootstrap resamples (of subjects) behind each interval.
        capacity: How many patients can be acted on; sensitivity and positive predictive value are given there.
    """

    folds: int = 5
    seed: int = 0
    resamples: int = 500
    capacity: int = 20


@dataclass(frozen=True)
class AbstentionConfig:
    """When no score is given.

    Attributes:
        min_events: Fewest timed events before the prediction time.
        min_known: Least share of a patient's events whose code, or a parent of it, occurs in training.
        max_distance: Quantile of the training subjects' distances beyond which a patient is too unlike them.
    """

    min_events: int = 3
    min_known: float = 0.5
    max_distance: float = 0.999


@dataclass(frozen=True)
class Pipeline:
    """One runnable job.

    Attributes:
        name: Short name; the run goes to `runs/<name>` by default.
        title: Heading of the report.
        question: What is asked, as a clinician would.
        outcome: The outcome in words, as `RiskAssessment.prediction.outcome` will say.
        intended_use: Who may use the scores for what.
        export: Folder or zip; "sample" is the synthetic export that ships.
        adapter: Name of a shipped adapter or a folder.
    """

    name: str
    title: str
    question: str
    outcome: str
    task: TaskConfig
    intended_use: str = ""
    export: str | None = None
    adapter: str | None = None
    lightgbm: LightGBMConfig = LightGBMConfig()
    transformer: TransformerConfig | None = TransformerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    abstention: AbstentionConfig = AbstentionConfig()


def load_pipeline(name: str | Path) -> Pipeline:
    """Reads a pipeline file, or a shipped pipeline by name.

    Raises:
        PipelineError: There is no such file, it is no YAML mapping, or a key or value is wrong.
    """
    import yaml

    path = pipeline_path(name)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise PipelineError(f"{path}{line} is no valid YAML", expected="a YAML mapping") from None
    return build(Pipeline, raw, str(path), PipelineError)


def pipeline_path(name: str | Path) -> Path:
    """The file of a pipeline given by path or shipped name."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = bundled("pipelines") / f"{name}.yaml"
    if path.suffix not in (".yaml", ".yml") and shipped.is_file():
        return shipped
    names = pipeline_names()
    close = get_close_matches(path.stem, names, n=1)
    raise PipelineError(
        f"There is no pipeline {str(name)!r}",
        expected=f"a YAML file or one of: {', '.join(names)}",
        fix=f"Did you mean {close[0]!r}?" if close else None,
    )


def pipeline_names() -> list[str]:
    """Names of the shipped pipelines."""
    return sorted(path.stem for path in bundled("pipelines").glob("*.yaml"))


T = typing.TypeVar("T")


def build(cls: type[T], raw: Any, where: str, error: type[Exception]) -> T:
    """Builds a (nested) frozen dataclass from plain JSON or YAML values; unknown keys and wrong types are errors.

    Args:
        cls: The dataclass.
        raw: A mapping.
        where: What an error names: the file, then the path of keys.
        error: The class of error to raise.

    Examples:
        >>> build(EvaluationConfig, {"folds": 3}, "my.yaml", PipelineError).folds
        3
        >>> build(EvaluationConfig, {"fold": 3}, "my.yaml", PipelineError)
        Traceback (most recent call last):
            ...
        ehr_tl.errors.PipelineError: my.yaml: unknown key 'fold'. Expected: one of folds, seed, resamples, capacity. \
What to do: Did you mean 'folds'?
        >>> build(EvaluationConfig, {"folds": "three"}, "my.yaml", PipelineError)
        Traceback (most recent call last):
            ...
        ehr_tl.errors.PipelineError: my.yaml: folds is 'three'. Expected: int.
    """
    if not isinstance(raw, dict):
        raise error(f"{where}: {type(raw).__name__} given", expected=f"keys {', '.join(_names(cls))}")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in raw.items():
        if key not in hints:
            close = get_close_matches(str(key), hints, n=1)
            raise error(
                f"{where}: unknown key {key!r}",
                expected=f"one of {', '.join(hints)}",
                fix=f"Did you mean {close[0]!r}?" if close else None,
            )
        values[key] = _convert(hints[key], value, f"{where}: {key}", error)
    required = [f.name for f in dataclasses.fields(cls) if _is_required(f) and f.name not in values]
    if required:
        raise error(f"{where}: {', '.join(required)} missing", expected=f"keys {', '.join(required)}")
    return cls(**values)


def _names(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def _is_required(f: dataclasses.Field) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, where: str, error: type[Exception]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where, error)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where, error)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(args[0], item, where, error) for item in value)
    if origin is list and isinstance(value, list):
        return [_convert(args[0], item, where, error) for item in value]
    if origin is dict and isinstance(value, dict):
        return {str(k): _convert(args[1], v, f"{where}.{k}", error) for k, v in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise error(f"{where} is {value!r}", expected=getattr(hint, "__name__", str(hint)))
