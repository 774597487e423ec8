"""Dates, times and numbers as FHIRPath understands their precision: their order and their boundaries."""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import UTC, datetime
from decimal import Decimal

_TIME = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?)?)?")


def order(left: object, right: object) -> int | None:
    """Negative, 0 or positive as `left` is before, at or after `right`; texts that are no times go by the alphabet.

    None where the coarser of two times leaves it open. A time without an offset is taken as UTC.

    Examples:
        >>> order("2019", "2020-01"), order("2020", "2020-01")
        (-1, None)
        >>> order("2020-01-01T23:00:00-05:00", "2020-01-02T04:00:00Z")
        0
    """
    if not isinstance(left, str) or not isinstance(right, str):
        return None
    first, second = _parts(left), _parts(right)
    if first is None or second is None:
        return (left > right) - (left < right)
    for one, other in zip(first, second, strict=False):
        if one != other:
            return 1 if one > other else -1
    return 0 if len(first) == len(second) else None


def _parts(text: str) -> tuple[float, ...] | None:
    """Year, month and so on down to the precision that is given, in UTC."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    if len(text) <= 10:
        return tuple(map(int, text.split("-")))
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment
    except (ValueError, OverflowError):
        return None
    parts = (moment.year, moment.month, moment.day, moment.hour, moment.minute)
    return (*parts, moment.second + moment.microsecond / 1e6) if match[4] else parts


def boundary(value: object, high: bool, with_time: bool) -> float | str | None:
    """The least (or greatest) value that a number, date or time of limited precision may stand for.

    Args:
        value: A number or FHIR date, dateTime or time; anything else has no boundary.
        high: The greatest, to the millisecond; else the least.
        with_time: A date means a dateTime. It may be anywhere on earth, so the offset is +14:00 or -12:00.

    Examples:
        >>> boundary(1.5, True, False), boundary("2024-02", True, False), boundary("12:30", False, False)
        (1.55, '2024-02-29', '12:30:00.000')
        >>> boundary("2010-10-10", True, True)
        '2010-10-10T23:59:59.999-12:00'
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = Decimal(repr(value))
        half = Decimal(5).scaleb(int(number.as_tuple().exponent) - 1)
        return float(number + half if high else number - half)
    if not isinstance(value, str):
        return None
    if re.fullmatch(r"\d\d:\d\d(:\d\d(\.\d+)?)?", value):
        return _filled("0000-01-01T" + value, high)[11:]
    if not _TIME.fullmatch(value):
        return None
    if "T" not in value and not with_time:
        return _filled(value, high)[:10]
    moment, offset = re.fullmatch(r"([^T]*(?:T[\d:.]*)?)(.*)", value).groups()  # type: ignore[union-attr]
    return _filled(moment, high) + (offset or ("-12:00" if high else "+14:00"))


def _filled(text: str, high: bool) -> str:
    """Completes a date or time with its first or last moment."""
    if not high:
        return text + "0000-01-01T00:00:00.000"[len(text) :]
    whole = text + "0000-12-31T23:59:59.999"[len(text) :]
    if len(text) < 10:
        whole = f"{whole[:8]}{monthrange(int(whole[:4]), int(whole[5:7]))[1]}{whole[10:]}"
    return whole
