from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_tl.fhir.times import parse_time

NEW_YORK = ZoneInfo("America/New_York")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("2020-03-01T01:02:03Z", datetime(2020, 3, 1, 1, 2, 3)),
        ("2020-03-01T01:02:03.1234567Z", datetime(2020, 3, 1, 1, 2, 3, 123456)),
        ("2020-03-01T01:02:03+05:30", datetime(2020, 2, 29, 19, 32, 3)),
        ("2020-07-01T00:00:00", datetime(2020, 7, 1, 4)),  # no offset: the hospital's clock, in summer
        ("2020-01-01T00:00", datetime(2020, 1, 1, 5)),
    ],
)
def test_times_become_naive_utc(text, expected):
    assert parse_time(text, NEW_YORK, end_of=True) == expected


@pytest.mark.parametrize(
    "text, first, last",
    [
        ("2020", (2020, 1, 1), (2020, 12, 31)),
        ("2020-02", (2020, 2, 1), (2020, 2, 29)),
        ("1900-02", (1900, 2, 1), (1900, 2, 28)),
        ("2020-03-08", (2020, 3, 8), (2020, 3, 8)),
    ],
)
def test_a_period_has_a_start_and_an_end(text, first, last):
    assert parse_time(text, UTC, end_of=False) == datetime(*first)
    assert parse_time(text, UTC, end_of=True) == datetime(*last, 23, 59, 59, 999999)


def test_a_day_is_the_hospitals_day():
    assert parse_time("2020-07-01", NEW_YORK, end_of=False) == datetime(2020, 7, 1, 4)
    assert parse_time("2020-03-08", NEW_YORK, end_of=True) == datetime(2020, 3, 9, 3, 59, 59, 999999)  # 23 hours long


_IMPOSSIBLE = """
0000 0000-00-00 2020-13 2020-02-30 2020-2-3 20-02-2020 20200203 2020- 2020/02/03 9999999999 +020 NaN x
2020-02-03T25:00:00Z 2020-02-03Tnoon 2020-W05-1T10:00 20200203T101112Z 0001-01-01T00:00:00+14:00
"""


@pytest.mark.parametrize("text", [*_IMPOSSIBLE.split(), "", " 2020"])
def test_impossible_times_are_none(text):
    assert parse_time(text, UTC, end_of=True) is None


@pytest.mark.parametrize("value", [2020, 1.5, True, None])
def test_what_is_no_text_is_no_time(value):
    assert parse_time(value, UTC, end_of=False) is None


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)), st.timezones())
def test_any_instant_survives(moment, zone):
    aware = moment.replace(tzinfo=UTC).astimezone(zone)
    if aware.utcoffset().total_seconds() % 60 == 0:  # FHIR's offsets are whole minutes
        assert parse_time(aware.isoformat(), UTC, end_of=False) == moment


@given(st.dates(date(1, 2, 1), date(9999, 11, 30)))
def test_the_end_of_a_day_is_within_it(day):
    start, end = (parse_time(day.isoformat(), UTC, end_of=flag) for flag in (False, True))
    assert start.date() == end.date() == day and start < end
