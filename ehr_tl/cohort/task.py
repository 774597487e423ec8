"""A task of a pipeline file, checked and made into an ACES configuration.

ACES (Xu et al., 2024, https://eventstreamaces.readthedocs.io) describes a cohort by predicates, a trigger and windows.
Two things are done to its windows here: constraints are taken out, so that they can be applied one by one and counted,
and a window that ends at a coming event may also end at the export's end, so that it is seen to be open rather than
lost.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

import polars as pl

from ehr_tl.cohort.rise import Rise, read_rise
from ehr_tl.config import TaskConfig, build, conform, unknown_key, utc
from ehr_tl.errors import PipelineError
from ehr_tl.events import ExportInfo
from ehr_tl.schema import EVENTS

if TYPE_CHECKING:
    from aces.config import TaskExtractorConfig

#: The predicate of prediction times that are no event.
INDEX = "INDEX"

#: Ends of windows that wait for `predicate` are renamed so: the predicate, or the end of the export.
OR_EXPORT_END = "__or_export_end"

_AHEAD = re.compile(r"->\s*(\w+)")
_ANY, _RECORD_END = "_ANY_EVENT", "_RECORD_END"

_BOUNDS = re.compile(r"\(?\s*(None|\d{1,9})?\s*,\s*(None|\d{1,9})?\s*\)?")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

#: Columns of the tables that are made on the way.
_RESERVED = {"subject_id", "timestamp", "time", "code", "trigger", "prediction_time", "index_timestamp"}

#: Longer than any life: sums with dates of records stay within the calendar.
_LONGEST = timedelta(days=73_050)

#: Prediction times that are no event are a row for each subject and interval: hours of years would fill the memory.
_DAY = timedelta(days=1)

#: What an event's columns can be compared with; the others (times, lists) equal no value of a pipeline file.
_COMPARABLE = {pl.String: str, pl.Int64: int, pl.Float32: float, pl.Float64: float}


@dataclass(frozen=True)
class Constraint:
    """How often a predicate may occur in a window; `None` is no bound."""

    window: str
    predicate: str
    least: int | None
    most: int | None

    def __str__(self) -> str:
        if self.most == 0:
            amount = "no"
        elif self.most is None:
            amount = f"at least {self.least}"
        elif self.least is None:
            amount = f"at most {self.most}"
        else:
            amount = f"{self.least} to {self.most}"
        return f"{self.window}: {amount} {'event' if self.predicate == _ANY else self.predicate}"


@dataclass(frozen=True)
class Task:
    """A checked task.

    Attributes:
        config: What the pipeline file says.
        label: The label's predicate.
        label_window, index_window, index_side: Where label and prediction time are read.
        constraints: In the order of the file.
        ahead: Predicates at whose next occurrence a window ends or starts.
        every: Interval between prediction times that are no event.
        earliest: The earliest prediction time, or how long before the export's end it lies; None: the adapter's.
        horizon: From the prediction time to the end of the outcome window; None where an event ends it.
    """

    config: TaskConfig
    label: str
    label_window: str
    index_window: str
    index_side: str
    constraints: tuple[Constraint, ...]
    ahead: tuple[str, ...]
    every: timedelta | None
    earliest: datetime | timedelta | None
    horizon: timedelta | None

    def aces(self) -> TaskExtractorConfig:
        """A fresh ACES configuration without constraints or demographics (a query changes the one it is given)."""
        windows = copy.deepcopy(self.config.windows)
        for window in windows.values():
            window["has"] = {}
            for side in ("start", "end"):
                if window.get(side):
                    window[side] = _AHEAD.sub(rf"-> \1{OR_EXPORT_END}", window[side])
        closing = {f"{name}{OR_EXPORT_END}": {"code": name} for name in self.ahead}
        return _configuration({**_predicates(self.config), **closing}, self.config.trigger, windows)

    def plain(self) -> dict[str, Any]:
        """ACES' plain predicates, demographics among them."""
        return _full(self.config).plain_predicates

    def derived(self) -> dict[str, Any]:
        """ACES' derived predicates, each after those it is made of."""
        return _full(self.config).derived_predicates

    def rises(self) -> dict[str, Rise]:
        """The predicates that ask for a rise of the value, and what they ask."""
        return {
            name: _rise(name, value)
            for name, value in self.config.predicates.items()
            if isinstance(value, dict) and "rise" in value
        }

    def outcome_predicates(self) -> list[str]:
        """The plain predicates that the label is made of."""
        derived, found, todo = self.derived(), [], [self.label]
        while todo:
            name = todo.pop(0)
            if name in derived:
                todo = [*derived[name].input_predicates, *todo]
            elif name not in found:
                found.append(name)
        return found

    def index_from(self, export: ExportInfo) -> datetime | None:
        """The earliest prediction time: the task's, else the adapter's, else none."""
        if self.earliest is None:
            return export.index_from
        if isinstance(self.earliest, datetime):
            return self.earliest
        return export.end - self.earliest if export.end else None


def compile_task(config: TaskConfig) -> Task:
    """Checks a task and reads what extraction needs from it.

    Raises:
        PipelineError: ACES refuses it, a predicate is not defined, label or prediction time are not given exactly
            once, or a window has no end that an export can reach.
    """
    every = _duration(config.every, "every", least=_DAY) if config.every else None
    earliest = _earliest(config.index_from) if config.index_from else None
    for name in (*config.predicates, *config.patient_demographics, *config.windows):
        if name in _RESERVED or not _NAME.fullmatch(name):
            raise _wrong(
                f"a predicate or window is named {name!r}",
                f"letters, digits and _, first a letter, and none of {', '.join(sorted(_RESERVED))}",
            )
    if INDEX in config.predicates:
        raise _wrong(f"the predicate {INDEX} is defined", f"another name; {INDEX} is what `every` makes")
    full = _full(config)
    if not full.label_window or not full.index_timestamp_window:
        raise _wrong("no window has " + ("an index_timestamp" if full.label_window else "a label"), "one of each")
    ahead: dict[str, None] = {}
    for name, window in config.windows.items():
        if window.get("end") is None or _RECORD_END in str(window):
            raise _wrong(
                f"window {name!r} ends with the record",
                'a length ("start + 365 days") or an event ("start -> discharge"): a record does not say when it ends',
            )
        if getattr(full.windows[name], f"{_other(full.windows[name].root_node)}_endpoint_expr") is None:
            raise _wrong(f"window {name!r} has no length", "an end that lies after its start")
        for side in ("start", "end"):
            ahead.update(dict.fromkeys(_AHEAD.findall(window.get(side) or "")))
    index_window = full.index_timestamp_window
    index_side = full.windows[index_window].index_timestamp
    label_window = full.label_window
    index = _place(full, index_window, index_side)
    start, end = _place(full, label_window, "start"), _place(full, label_window, "end")
    if start[0] == index[0] and start[1] < index[1]:
        raise _wrong(
            f"the outcome window {label_window!r} starts before the prediction time",
            "an outcome that is not known when it is predicted",
        )
    return Task(
        config=config,
        label=full.windows[label_window].label,
        label_window=label_window,
        index_window=index_window,
        index_side=index_side,
        constraints=tuple(_constraints(full)),
        ahead=tuple(ahead),
        every=every,
        earliest=earliest,
        horizon=end[1] - index[1] if end[0] == index[0] else None,
    )


def _predicates(config: TaskConfig) -> dict[str, Any]:
    return {**config.predicates, **({INDEX: {"code": INDEX}} if config.every else {})}


def _full(config: TaskConfig) -> TaskExtractorConfig:
    """The task as ACES reads it: constraints and demographics in place."""
    demographics = {
        name: {**predicate, "static": True} if isinstance(predicate, dict) else predicate
        for name, predicate in config.patient_demographics.items()
    }
    return _configuration({**_predicates(config), **demographics}, config.trigger, copy.deepcopy(config.windows))


def _configuration(predicates: dict[str, Any], trigger: str, windows: dict[str, Any]) -> TaskExtractorConfig:
    from aces.config import EventConfig, TaskExtractorConfig
    from bigtree.utils.exceptions import TreeError

    made = {name: _predicate(name, value) for name, value in predicates.items()}
    _check_no_circle(made)
    placed = {name: _window(name, value) for name, value in windows.items()}
    return _accepted(
        "", lambda: TaskExtractorConfig(predicates=made, trigger=EventConfig(trigger), windows=placed), TreeError
    )


def _accepted(where: str, make: Callable[[], Any], *more: type[Exception]) -> Any:
    """What `make` makes with ACES; what ACES has to say against it is the pipeline's fault."""
    try:
        return make()
    except (ValueError, KeyError, TypeError, AttributeError, *more) as error:
        raise _wrong(f"{where}{error.args[0] if error.args else error}", "a task that ACES accepts") from None


def _predicate(name: str, value: Any) -> Any:
    """One predicate of the file; keys that ACES has no field for are columns that must hold a value."""
    from aces.config import DerivedPredicateConfig, PlainPredicateConfig

    if not isinstance(value, dict) or not ("code" in value or "expr" in value):
        raise _wrong(f"the predicate {name!r} is {value!r}", "a `code` or an `expr`")
    where = f"The task is wrong: the predicate {name!r}"
    if "expr" in value:
        return _accepted(
            f"the predicate {name!r}: ", lambda: build(DerivedPredicateConfig, value, where, PipelineError)
        )
    if "rise" in value:
        if value.get("static"):
            raise _wrong(f"the predicate {name!r} is static and asks for a rise", "one of both: a rise has a time")
        _rise(name, value)
        value = {key: item for key, item in value.items() if key != "rise"}
    fields = PlainPredicateConfig.__dataclass_fields__.keys() - {"other_cols"}
    known = {key: item for key, item in value.items() if key in fields}
    columns = {key: _comparable(key, item, fields, where) for key, item in value.items() if key not in fields}
    return build(PlainPredicateConfig, {**known, "other_cols": columns}, where, PipelineError)


def _rise(name: str, value: dict[str, Any]) -> Rise:
    where = f"The task is wrong: the predicate {name!r}: rise"
    return read_rise(value["rise"], where, lambda text, key: _duration(text, key.removeprefix("The task is wrong: ")))


def _comparable(column: str, value: Any, fields: set[str], where: str) -> Any:
    """The value that a column of the events must hold."""
    kind = _COMPARABLE.get(EVENTS.get(column))
    if kind is None:
        others = [name for name, kind in EVENTS.items() if kind in _COMPARABLE]
        raise unknown_key(column, sorted({*fields, *others, "rise"}), where, PipelineError)
    return conform(kind, value, f"{where}: {column}", PipelineError)


def _check_no_circle(predicates: dict[str, Any]) -> None:
    parts = {name: predicate.input_predicates for name, predicate in predicates.items() if not predicate.is_plain}
    try:
        TopologicalSorter(parts).prepare()
    except CycleError as error:
        circle = ", ".join(dict.fromkeys(error.args[1]))
        raise _wrong(f"the predicate {circle} is made of itself", "an `expr` of other predicates") from None


def _window(name: str, value: Any) -> Any:
    """One window of the file; a length that ends beyond the calendar is refused before dates are added to it."""
    from aces.config import WindowConfig

    where = f"the window {name!r}"
    bounds = value.get("has") if isinstance(value, dict) else None
    for predicate, bound in bounds.items() if isinstance(bounds, dict) else ():
        if not isinstance(bound, str) or not _BOUNDS.fullmatch(bound):
            raise _wrong(f"{where}: has: {predicate} is {bound!r}", '"(1, None)" or "(None, 0)", in quotes')
    try:
        window = _accepted(
            f"{where}: ", lambda: build(WindowConfig, value, f"The task is wrong: {where}", PipelineError)
        )
        sides = (window.start_endpoint_expr, window.end_endpoint_expr)
        long = any(abs(getattr(side, "window_size", timedelta())) > _LONGEST for side in sides)
    except OverflowError:
        long = True
    if long:
        raise _wrong(f"{where} is longer than two centuries", f"a length of {_LONGEST.days:,} days at most")
    return window


def _constraints(full: TaskExtractorConfig) -> list[Constraint]:
    found = []
    for name, window in full.windows.items():
        for predicate, (least, most) in window.has.items():
            if (least is None and most is None) or (least is not None and most is not None and most < least):
                raise _wrong(
                    f"window {name!r}: {predicate} has the bounds {(least, most)}", '"(1, None)" or "(None, 0)"'
                )
            found.append(Constraint(name, _ANY if predicate == "*" else predicate, least, most))
    return found


def _place(full: TaskExtractorConfig, window: str, side: str) -> tuple[str, timedelta]:
    """Where a window's side lies: an event (the trigger, or a side that is one) and the time since it."""
    from aces.types import TemporalWindowBounds

    root = full.windows[window].root_node
    bounds = getattr(full.windows[window], f"{side}_endpoint_expr")
    if side == root:
        reference = full.windows[window].referenced_event
        place = ("trigger", timedelta()) if reference == ("trigger",) else _place(full, *reference)
    else:
        place = _place(full, window, root)
    if bounds is None:
        return place
    if isinstance(bounds, TemporalWindowBounds):
        return place[0], place[1] + bounds.window_size
    return f"{window}.{side}", timedelta()


def _other(side: str) -> str:
    return "start" if side == "end" else "end"


def _earliest(text: str) -> datetime | timedelta:
    """A date, or how long before the export's end."""
    if relative := re.fullmatch(r"end\s*-\s*(.+)", text.strip()):
        return _duration(relative[1], "index_from: the time before the end")
    try:
        return utc(text)
    except ValueError:
        raise _wrong(f"index_from is {text!r}", 'a date, or "end - 3285 days"') from None


def _duration(text: str, key: str, least: timedelta = timedelta(seconds=1)) -> timedelta:
    from aces.utils import parse_timedelta

    try:
        duration = parse_timedelta(text)
    except (TypeError, OverflowError):  # no length of time; one of more days than Python counts
        duration = timedelta()
    if not least <= duration <= _LONGEST:
        bounds = f"{'a day' if least == _DAY else 'a second'} to {_LONGEST.days:,} days"
        raise _wrong(f"{key} is {text!r}", f'a length of time, as "365 days"; from {bounds}')
    return duration


def _wrong(problem: str, expected: str) -> PipelineError:
    return PipelineError(f"The task is wrong: {problem}", expected=expected)
