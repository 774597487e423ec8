"""FHIR dates and times as naive UTC, the time that MEDS keeps."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, tzinfo
from functools import lru_cache


@lru_cache(maxsize=1 << 17)
def parse_time(text: str, zone: tzinfo, end_of: bool) -> datetime | None:
    """Reads a FHIR date, dateTime or instant.

    Args:
        text: `YYYY`, `YYYY-MM`, `YYYY-MM-DD` or a time with or without fraction and offset.
        zone: Where the record was written; used for dates, and for times that carry no offset.
        end_of: A year, month or day means its last microsecond (else its first).

    Returns:
        Naive UTC; None where `text` is no possible time.

    Examples:
        >>> parse_time("2020-02", UTC, end_of=True), parse_time("2020-03-01T01:30:00.5+02:00", UTC, end_of=True)
        (datetime.datetime(2020, 2, 29, 23, 59, 59, 999999), datetime.datetime(2020, 2, 29, 23, 30, 0, 500000))
        >>> parse_time("2020-02-30", UTC, end_of=False) is None
        True
    """
    try:
        if len(text) > 10:
            if text[4] != "-" or text[7] != "-" or text[10] != "T":
                return None
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=zone)
        else:
            moment = _period(text, zone, end_of)
        return moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, TypeError, OverflowError):
        return None


def _period(text: str, zone: tzinfo, end_of: bool) -> datetime:
    """First or last moment of a year, month or day."""
    parts = text.split("-")
    if [len(part) for part in parts] != [4, 2, 2][: len(parts)] or not text.replace("-", "").isdecimal():
        raise ValueError(text)
    year, *rest = map(int, parts)
    if not end_of:
        month, day = (*rest, 1, 1)[:2]
        return datetime(year, month, day, tzinfo=zone)
    month = rest[0] if rest else 12
    day = rest[1] if len(rest) > 1 else monthrange(year, month)[1]
    return datetime(year, month, day, 23, 59, 59, 999999, tzinfo=zone)
