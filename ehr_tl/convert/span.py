"""From when to when the records of an export are."""

from __future__ import annotations

from datetime import date, datetime, timedelta

from ehr_tl import schema
from ehr_tl.convert.emit import Event

#: What lies this far beyond all other events, and is at most this share of them, is taken for mistyped. So are a few
#: events beyond those of a crowd: for a year nobody came, and then one.
_GAP, _STRAYS, _FEW, _CROWD = timedelta(days=366), 0.001, 5, 10

#: Day -> number of its events, and the time of the last.
Days = dict[date, tuple[int, datetime]]


def days_of(events: list[Event]) -> Days:
    """How many events are known to have come on each day; births do not count, nor what is known to a month or year."""
    days: Days = {}
    for event in events:
        time = event.time
        if time.__class__ is datetime and event.concept.code != schema.BIRTH:
            add_days(days, {time.date(): (1, time)})
    return days


def add_days(days: Days, more: Days) -> None:
    for day, (number, last) in more.items():
        before, latest = days.get(day, (0, last))
        days[day] = before + number, max(latest, last)


def span(days: Days, subjects: int) -> tuple[datetime | None, datetime | None, int]:
    """The first day, the latest event, and how many lie far beyond it and do not count: a year is soon mistyped."""
    ordered = sorted(days)
    few = _FEW if subjects >= _CROWD else 0
    most = max(few, _STRAYS * sum(number for number, _ in days.values()))
    end, strays, beyond = len(ordered), 0, 0
    for place in range(len(ordered) - 1, 0, -1):
        beyond += days[ordered[place]][0]
        if beyond > most:
            break
        if ordered[place] - ordered[place - 1] > _GAP:
            end, strays = place, beyond
    if not ordered:
        return None, None, 0
    return datetime.combine(ordered[0], datetime.min.time()), days[ordered[end - 1]][1], strays
