"""Predicates on a rise: a value that lies so much above the lowest of the hours before, as acute kidney injury has it.

::

    kidney_injury: {code: LOINC//2160-0, rise: {add: 0.3, times: 1.5, over: 48 hours}}
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import polars as pl

from ehr_tl.config import Within, build
from ehr_tl.errors import PipelineError

#: Values are stored in single precision, in which 1.3 is a little less than 1.0 + 0.3.
_SLACK = 1e-6


@dataclass(frozen=True)
class _Written:
    over: str
    add: Annotated[float, Within(0)] | None = None
    times: Annotated[float, Within(1)] | None = None


@dataclass(frozen=True)
class Rise:
    """How much higher a value must be than the lowest that was measured before, in the same unit.

    Attributes:
        over: How long before; a value at that very time counts.
        add: By so much, in the unit of the values.
        times: So many times as high. Of both one is enough.
    """

    over: timedelta
    add: float | None
    times: float | None

    def found(self, values: pl.DataFrame) -> pl.DataFrame:
        """The rows of `values` that are risen.

        Args:
            values: Values of one predicate's codes: `subject_id`, `timestamp`, `unit`, `numeric_value`, and more.
        """
        values = values.drop_nulls(["timestamp", "numeric_value"]).sort("timestamp")
        value = pl.col("numeric_value").cast(pl.Float64)
        lowest = value.rolling_min_by("timestamp", self.over, closed="left").over("subject_id", "unit")
        bounds = [lowest + self.add] if self.add is not None else []
        bounds += [lowest * self.times] if self.times is not None else []
        return values.filter(pl.any_horizontal(value >= bound - _SLACK * bound.abs() for bound in bounds))


def read_rise(value: Any, where: str, duration: Callable[[str, str], timedelta]) -> Rise:
    """What a pipeline file says of a rise.

    Args:
        value: The file's mapping.
        where: What to call it in errors.
        duration: Reads a length of time, given how to call it.

    Raises:
        PipelineError: It is no rise.
    """
    if not isinstance(value, dict):
        raise PipelineError(f"{where} is {value!r}", expected="keys over, and add or times or both")
    written = build(_Written, value, where, PipelineError)
    if written.add is None and written.times is None:
        raise PipelineError(f"{where} does not say how high", expected="add, times, or both")
    return Rise(duration(written.over, f"{where}: over"), written.add, written.times)
