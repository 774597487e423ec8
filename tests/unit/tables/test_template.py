"""Elements are what the manifest says; mistakes in it are named."""

import math
from datetime import date, datetime
from decimal import Decimal

import pytest

from ehr_tl.config import build
from ehr_tl.errors import AdapterError, ExportError
from ehr_tl.tables.spec import LookUp, Table, check_tables
from ehr_tl.tables.template import Header, Template


def table(elements, **keys):
    made = build(Table, {"resource": "Observation", "elements": elements, **keys}, "my.yaml", AdapterError)
    check_tables({"t": made}, {"concept": CONCEPT}, "my.yaml")
    return made


CONCEPT = LookUp(key="concept_id", elements={"code": "concept_code"})


def made(elements, rows, find=None, decimal=".", **keys):
    """The objects of rows, given as mappings."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    used, read = Template(table(elements, **keys), find or {}, decimal).bind(Header(names))
    return list(read([[row.get(names[place]) for row in rows] for place in used]))


def one(element, value, **more):
    """What an element makes of a value."""
    keys = element if isinstance(element, dict) else {}
    return made({"x": {"column": "A", **keys}, "y": "B"}, [{"A": value, "B": "-"}], **more)[0].get("x")


@pytest.mark.parametrize(
    ("element", "value", "becomes"),
    [
        ({}, "  x ", "x"),
        ({}, " ", None),
        ({}, 7.0, "7"),
        ({}, math.nan, None),
        ({}, datetime(2020, 3, 1, 10), "2020-03-01T10:00:00"),
        ({"empty": ["n/a"]}, "n/a", None),
        ({"words": {"m": "male", "*": "other"}}, "M", "male"),
        ({"words": {"m": "male", "*": "other"}}, "q", "other"),
        ({"words": {"m": "male"}}, "q", "q"),
        ({"words": {"q": ""}, "otherwise": "final"}, "q", "final"),
        ({"words": {"8507": "male"}}, 8507, "male"),
        ({"otherwise": "final"}, None, "final"),
        ({"replace": {"/": "//"}}, "LOINC/1-2/3", "LOINC//1-2/3"),
        ({"replace": {"/": "//"}}, "LOINC//1-2", "LOINC//1-2"),
        ({"pattern": "Patient/{}"}, "7", "Patient/7"),
        ({"pattern": "Patient/{}"}, "{}", "Patient/{}"),
        ({"date": True}, "2020-03-01 10:30:00+02", "2020-03-01T10:30:00+02"),
        ({"date": True}, "1.3.2020", "2020-03-01"),
        ({"date": True}, "01.03.2020 10:30", "2020-03-01T10:30:00"),
        ({"date": True}, "2020-03-01T00:00:00Z", "2020-03-01T00:00:00Z"),
        ({"date": True, "day_at_midnight": True}, "2020-03-01T00:00:00Z", "2020-03-01"),
        ({"date": True, "day_at_midnight": True}, datetime(2020, 3, 1), "2020-03-01"),
        ({"date": True}, date(2020, 3, 1), "2020-03-01"),
        ({"date": "%m/%d/%Y"}, "12/31/2020", "2020-12-31"),
        ({"date": "%m/%d/%Y"}, "31/12/2020", "no date"),
        ({"date": "%Y-%d-%m"}, "2020-03-01", "2020-01-03"),
        ({"date": ["%b %Y", "%Y"]}, "Mar 2020", "2020-03"),
        ({"date": True}, "3/1/2020", "no date"),
        ({"date": True}, "tomorrow at ten", "no date"),
        ({"number": True}, "5.40", 5.4),
        ({"number": True}, "5,4", "no number"),
        ({"number": True}, Decimal("5.4"), 5.4),
        ({"number": True}, math.nan, None),
        ({"number": True}, "nan", "no number"),
        ({"date": True}, ["2020-03-01"], "no date"),
        ({"number": True}, [5.4], "no number"),
        ({"number": True, "empty": ["-"]}, {"low": 5.4}, "no number"),
    ],
)
def test_values(element, value, becomes):
    assert one(element, value) == becomes


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        ("5,4", {"valueQuantity": {"value": 5.4}}),
        ("7", {"valueQuantity": {"value": 7}}),
        ("< 0,5", {"valueQuantity": {"value": 0.5, "comparator": "<"}}),
        ("≥60", {"valueQuantity": {"value": 60, "comparator": ">="}}),
        ("1.234", {"valueQuantity": {"value": "no number"}}),
        ("1.234,5", {"valueQuantity": {"value": "no number"}}),
        ("positiv", {"valueString": "positiv"}),
        ("1+", {"valueString": "1+"}),
        (2.5, {"valueQuantity": {"value": 2.5}}),
        ("", {}),
    ],
)
def test_results(value, becomes):
    elements = {"value": {"column": "A", "result": True}, "z": "B"}
    assert made(elements, [{"A": value, "B": "-"}], decimal=",")[0] == becomes | {"z": "-"}


@pytest.mark.parametrize("kind", ["number", "result"])
def test_a_numeral_however_long_stops_nothing(kind):
    elements = {"value": {"column": "A", kind: True}}
    rows = made(elements, [{"A": digits * 5000} for digits in "10"] + [{"A": "1" + "0" * 18}, {"A": "7"}])
    values = [row["value"] if kind == "number" else row["valueQuantity"]["value"] for row in rows]
    assert values == [math.inf, 0, 10**18, 7]


def test_elements_are_put_together_and_left_out_together():
    elements = {
        "status": {"fixed": "final"},
        "class.system": {"fixed": "urn:class"},
        "class.code": {"fixed": "IMP"},
        "code.coding[0].system": {"fixed": "urn:a"},
        "code.coding[0].code": "A",
        "code.coding[1].system": {"fixed": "urn:b"},
        "code.coding[1].code": "B",
    }
    common = {"status": "final", "class": {"system": "urn:class", "code": "IMP"}}
    a, b = {"system": "urn:a", "code": "x"}, {"system": "urn:b", "code": "y"}
    assert made(elements, [{"A": "x", "B": "y"}, {"A": None, "B": "y"}, {"A": "", "B": " "}]) == [
        common | {"code": {"coding": [a, b]}},
        common | {"code": {"coding": [b]}},
        common,
    ]


def test_columns_that_belong_together():
    elements = {"first": {"first_of": ["A", "B"]}, "both": {"joined": ["A", "B"]}}
    rows = [{"A": "x", "B": "y"}, {"A": "", "B": "y"}, {"A": "x", "B": None}, {"A": None, "B": None}]
    assert made(elements, rows) == [{"first": "x", "both": "x y"}, {"first": "y"}, {"first": "x", "both": "x"}, {}]


def test_a_date_without_its_time_is_a_day():
    elements = {"time": {"joined": ["DAY", "HOUR"], "date": ["%d.%m.%Y %H:%M", "%d.%m.%Y"]}}
    rows = [{"DAY": "01.03.2020", "HOUR": "10:30"}, {"DAY": "01.03.2020", "HOUR": ""}, {"DAY": "", "HOUR": "10:30"}]
    assert made(elements, rows) == [{"time": "2020-03-01T10:30:00"}, {"time": "2020-03-01"}, {}]


def test_looked_up_objects_and_parts_of_them():
    elements = {
        "code.coding[0]": {"column": "A", "look_up": "concept", "empty": ["0"]},
        "unit": {"column": "A", "look_up": "concept", "take": "code"},
    }
    found = {"7": {"code": "mg"}, "8": {}}
    assert made(elements, [{"A": 7}, {"A": 0}, {"A": 8}], {"concept": found.get}) == [
        {"code": {"coding": [{"code": "mg"}]}, "unit": "mg"},
        {},
        {"code": {"coding": [{}]}},
    ]


def test_lists_are_cleaned_item_by_item():
    assert one({"replace": {"/": "//"}}, ["A/1", " B//2"]) == ["A//1", "B//2"]
    assert one({}, []) is None


def test_columns_are_found_in_any_case_and_those_that_are_absent_are_named():
    header = Header(["MRN ", "Result"])
    header.check(
        table({"id": "mrn", "a": {"column": "none", "optional": True}, "b": {"first_of": ["x", "RESULT"]}}), ""
    )
    with pytest.raises(ExportError, match=r"tables.labs has no column TEST or y; it has MRN , Result.*tables.labs"):
        header.check(table({"id": "mrn", "code": "TEST", "b": {"joined": ["RESULT", "y"]}}), "tables.labs")


def test_a_column_that_is_there_twice_is_refused_if_it_is_read():
    header = Header(["MRN", "TEST", "test"])
    header.check(table({"id": "MRN"}), "")
    with pytest.raises(ExportError, match=r"tables.labs has several columns TEST"):
        header.check(table({"id": "MRN", "code": "TEST"}), "tables.labs")


def test_a_first_line_that_is_no_header_is_not_shown():
    with pytest.raises(ExportError) as caught:
        Header(["Wilhelmina Canary", "1950-02-01"]).check(table({"id": "MRN", "code": "TEST"}), "tables.t")
    assert "MRN or TEST" in str(caught.value)
    assert "Canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"id": {"colum": "A"}}, "elements.id: unknown key 'colum'.*Did you mean 'column'"),
        ({"code": "A", "id": {}}, "elements.id says where its value comes from by none"),
        ({"id": {"column": "A", "fixed": "x"}}, "by column and fixed.*one of column, first_of, joined, fixed"),
        ({"id": {"column": "A", "number": True, "date": True}}, "has date and number"),
        ({"co de": "A"}, "elements.co de is no path.*such as code.coding"),
        ({"code.coding[x]": "A"}, "is no path"),
        ({"code": "A", "code.text": "B"}, "code and code.text exclude one another"),
        ({"coding[0].code": "A", "coding.code": "B"}, "exclude one another"),
        ({"value": {"column": "A", "result": True}, "valueString": "B"}, "value and valueString exclude one another"),
        ({"result": {"column": "A", "result": True}}, "expected: the element `value`|Expected: the element `value`"),
        ({"id": {"column": "A", "pattern": "Patient"}}, "pattern is 'Patient'.*one {}"),
        ({"id": {"column": "A", "date": "dd.mm.yyyy"}}, "date is 'dd.mm.yyyy'"),
        ({"id": {"column": "A", "date": "%d.%m.%y"}}, "four digits"),
        ({"id": {"column": "A", "look_up": "concepts"}}, "looks up 'concepts'.*one of the look_ups: concept"),
        ({"id": {"column": "A", "look_up": "concept", "take": "unit"}}, "takes 'unit'.*: code"),
        ({"id": {"fixed": "x"}}, "no element that is taken from a column"),
        ({}, "no element that is taken from a column"),
        ({"id": 5}, "elements.id is 5"),
    ],
)
def test_mistakes_in_elements_are_named(elements, message):
    with pytest.raises(AdapterError, match=f"my.yaml.*{message}"):
        table(elements)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"resource": "observation"}, "tables.t.resource is 'observation'"),
        ({"delimiter": "ab"}, "delimiter is 'ab'"),
        ({"encoding": "utf-9"}, "encoding is 'utf-9'"),
        ({"decimal": "'"}, "decimal is"),
        ({"once": True}, "read once for each id and has none"),
        ({"files": "x"}, "unknown key 'files'.*Did you mean 'file'"),
    ],
)
def test_mistakes_in_tables_are_named(keys, message):
    with pytest.raises(AdapterError, match=message):
        table({"code": "A"}, **keys)
