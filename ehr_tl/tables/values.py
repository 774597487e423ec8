"""What the fields of a table mean: text, dates, numbers. What cannot be meant is handed on as such, not left out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

#: In place of what should be a date or a number and is none: whoever reads the resource sets it aside for it.
NO_DATE, NO_NUMBER = "no date", "no number"

#: Comparators of results, as FHIR writes them.
_COMPARATORS = {"": None, "=": None, "<": "<", ">": ">", "<=": "<=", ">=": ">=", "≤": "<=", "≥": ">="}
_NUMERAL = r"[-+]?(?:\d+(?:{0}\d*)?|{0}\d+)(?:[eE][-+]?\d{{1,3}})?"
#: What consists of digits and marks like a number, but is none in the notation of its table.
_OTHER_NOTATION = re.compile(r"(?:[<>]=|[<>=≤≥])?\s*+[-+]?(?=[.,'\s]*\d)[\d.,'\s]++(?:[eE][-+]?\d+)?")
#: More are read as a float; Python makes no integer of thousands.
_DIGITS = 18
_MIDNIGHT = re.compile(r"T00:00(:00([.,]0+)?)?(Z|[-+]00(:?00)?)?")


def text(value: Any) -> str | None:
    """A field as text; None where there is nothing in it.

    Examples:
        >>> text(" 17 "), text(17.0), text(float("nan")), text(""), text(date(2020, 3, 1))
        ('17', '17', None, None, '2020-03-01')
    """
    if value.__class__ is str:
        return value.strip() or None
    if value is None or value.__class__ is int:
        return None if value is None else str(value)
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            return None if math.isnan(value) else str(value)
        return str(int(value)) if value == int(value) else str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date):  # a datetime is one too
        return value.isoformat()
    return None if value != value else str(value)


def number(decimal: str) -> Callable[[Any], Any]:
    """A function that reads numbers with this decimal mark; none has marks between thousands.

    Examples:
        >>> read = number(",")
        >>> read("5,4"), read("-1e3"), read("1.234"), read(2.5), read(None)
        (5.4, -1000.0, 'no number', 2.5, None)
    """
    numeral = re.compile(_NUMERAL.format(re.escape(decimal)))

    def read(value: Any) -> Any:
        if value is None or value.__class__ is not str:
            return _plain(value)
        return _value(value, decimal) if numeral.fullmatch(value) else NO_NUMBER

    return read


def result(decimal: str) -> Callable[[Any], tuple[Any, str | None, str | None]]:
    """A function that tells numbers, with their comparators, from words.

    Examples:
        >>> read = result(".")
        >>> read("5"), read("< 0.1"), read("negative"), read("1,234"), read("1+")
        ((5, None, None), (0.1, '<', None), (None, None, 'negative'), ('no number', None, None), (None, None, '1+'))
    """
    numeral = re.compile(rf"([<>=≤≥]|[<>]=)?\s*({_NUMERAL.format(re.escape(decimal))})")

    def read(value: Any) -> tuple[Any, str | None, str | None]:
        if value is None or value.__class__ is not str:
            return _plain(value), None, None
        if found := numeral.fullmatch(value):
            return _value(found[2], decimal), _COMPARATORS[found[1] or ""], None
        if _OTHER_NOTATION.fullmatch(value):
            return NO_NUMBER, None, None
        return None, None, value

    return read


def _value(numeral: str, decimal: str) -> int | float:
    digits = numeral.lstrip("+-")
    if digits.isdecimal() and len(digits) <= _DIGITS:
        return int(numeral)
    return float(numeral.replace(decimal, "."))


def _plain(value: Any) -> Any:
    """A value that is no text; Decimals become floats, and what is not a number is none. A list is no number."""
    if value.__class__ is list:
        return NO_NUMBER
    if value is None or isinstance(value, bool) or value != value:
        return None
    return float(value) if isinstance(value, Decimal) else value


def moment(forms: tuple[str, ...], day_at_midnight: bool) -> Callable[[Any], str]:
    """A function that writes dates and times as FHIR does, as precisely as they are known. ISO 8601 is always read.

    Examples:
        >>> read = moment(("%d.%m.%Y %H:%M", "%d.%m.%Y", "%m.%Y"), day_at_midnight=True)
        >>> read("2020-03-01 10:00:00"), read("1.3.2020 09:05"), read("01.03.2020"), read("2020-03-01 00:00:00.000")
        ('2020-03-01T10:00:00', '2020-03-01T09:05:00', '2020-03-01', '2020-03-01')
        >>> read("03.2020"), read("31.02.2020")
        ('2020-03', 'no date')
    """
    # ISO 8601 is quick to tell; only a form that begins like it may mean something else by the same text.
    alike = [form for form in forms if form.startswith("%Y")]
    readers = [*map(_by_form, alike), _iso, *(_by_form(form) for form in forms if form not in alike)]

    @lru_cache(maxsize=1 << 16)
    def known(value: str) -> str:
        found = next(filter(None, (reader(value) for reader in readers)), None)
        if found is None:
            return NO_DATE
        return found[:10] if day_at_midnight and _MIDNIGHT.fullmatch(found, 10) else found

    def read(value: Any) -> str:
        return NO_DATE if value.__class__ is list else known(value)

    return read


def _iso(value: str) -> str | None:
    if len(value) <= 10:
        return value if re.fullmatch(r"\d{4}(-\d\d(-\d\d)?)?", value) else None
    spaced = f"{value[:10]}T{value[11:]}" if value[10] == " " else value
    try:
        datetime.fromisoformat(spaced)
    except ValueError:
        return None
    return spaced


def _by_form(form: str) -> Callable[[str], str | None]:
    timed = re.search(r"%[HIMScXsTR]", form) is not None
    length = None if timed else 10 if re.search(r"%[djx]", form) else 7 if re.search(r"%[mbB]", form) else 4

    def read(value: str) -> str | None:
        try:
            return datetime.strptime(value, form).isoformat()[:length]
        except ValueError:
            return None

    return read
