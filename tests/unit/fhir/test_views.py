"""What the official suite does not ask: errors that name the element, odd data, and forms that adapters use."""

import json
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ehr_tl.errors import AdapterError
from ehr_tl.fhir.views import RowError, compile_reader, compile_view, run_view
from ehr_tl.fhir.views.parse import PathError, parse


def value_of(path, resource, **column):
    view = {"resource": "Observation", "select": [{"column": [{"name": "x", "path": path, **column}]}]}
    ((value,),) = compile_view(view).rows({"resourceType": "Observation", **resource})
    return value


OBSERVATION = {
    "id": "o1",
    "status": "final",
    "subject": {"reference": "https://a.org/fhir/Patient/p1/_history/3"},
    "encounter": {"reference": "urn:uuid:e1", "type": "Encounter"},
    "effectivePeriod": {"start": "2020-01-01T10:00:00+02:00", "end": "2020-01-02"},
    "valueQuantity": {"value": 7.5, "unit": "mmol/L"},
    "code": {"coding": [{"system": "a", "code": "1"}, {"system": "b", "code": "2"}, None]},
    "contained": [{"resourceType": "Medication", "id": "m"}, {"resourceType": "Patient", "id": "c"}],
    "note": [{"text": "one"}, {"text": "two"}],
}


@pytest.mark.parametrize(
    "path, expected",
    [
        ("subject.getReferenceKey(Patient)", "p1"),
        ("subject.getReferenceKey(Group)", None),
        ("encounter.getReferenceKey(Encounter)", "urn:uuid:e1"),
        ("encounter.getReferenceKey(EpisodeOfCare)", None),
        ("value.unit", "mmol/L"),  # value[x] of any type
        ("value.ofType(FHIR.Quantity).value * 2", 15.0),
        ("value.ofType(string)", None),
        ("Observation.status", "final"),
        ("Patient.status", None),
        ("code.Coding", None),
        ("`status`", "final"),
        ("contained.ofType(Medication).id", "m"),
        ("code.coding.where(system = 'b').code", "2"),
        ("code.coding[1].code", "2"),
        ("code.coding[2].code", None),
        ("code.coding.exists(code = '2')", True),
        ("code.coding.where(system = 'c').exists()", False),
        ("code.coding.code = '1'", False),  # two values are not equal to one
        ("note.text.join(', ')", "one, two"),
        ("status & '-' & missing & id", "final-o1"),
        ("'a\\'b\\u0041\\n'", "a'bA\n"),
        ("1 + 2 * 3 - 4 / 2", 5),
        ("(1 + 2) * -3", -9),
        ("7 div 2 + 7 mod 2", 4),
        ("1 / 0", None),
        ("missing + 1", None),
        ("missing = 1", None),
        ("status != 'final'", False),
        ("true = 1", False),
        ("missing and false", False),
        ("missing or true", True),
        ("(missing and true).exists()", False),
        ("(status = 'final').not()", False),
        ("effective.ofType(Period).start = @2020-01-01T08:00:00Z", True),
        ("effective.ofType(Period).start < @2020-01-01T08:00:01Z", True),
        ("effective.ofType(Period).end > @2020-01-02T03:00:00Z", None),  # the day leaves it open
        ("effective.ofType(Period).end >= @2020", None),
        ("effective.ofType(Period).end > @2019-12", True),
    ],
)
def test_paths(path, expected):
    assert value_of(path, OBSERVATION) == expected


def test_a_collection_leaves_nulls_out():
    assert value_of("code.coding", {"code": {"coding": [None, {"code": "1"}]}}, collection=True) == [{"code": "1"}]


@pytest.mark.parametrize(
    "path, words",
    [
        ("code.coding.code", "column x got 2 values"),
        ("code", "column x got an element with parts"),
        ("code.coding.where(code)", "neither true nor false"),
        ("status > 1", "compare two numbers"),
        ("status - 1", "two numbers"),
        ("note[status]", "must be an integer"),
        ("note.text + 'x'", "2 values where one is needed"),
    ],
)
def test_a_resource_that_does_not_fit_is_named(path, words):
    with pytest.raises(RowError, match=f"Observation/o1 does not fit the view.*{words}"):
        value_of(path, OBSERVATION)


def _column(**column):
    return {"resource": "Patient", "select": [{"column": [{"name": "id", "path": "id"}]}, {"column": [column]}]}


@pytest.mark.parametrize(
    "view, words",
    [
        ([], "must be a JSON object"),
        ({"resource": "Patient"}, "select: a view selects something"),
        ({"resource": "Patient", "select": [{"forEach": "name"}]}, "no column"),
        ({"resource": "Patient", "select": [{"foreach": "name"}]}, r"select\[0\].foreach: is not a part of select"),
        ({"resource": "Patient", "select": [{"forEach": "a", "repeat": ["a"]}]}, "exclude one another"),
        ({"resource": "Patient", "select": [{"repeat": "item"}]}, r"select\[0\].repeat: must be a list"),
        ({"resource": "Patient", "select": [7]}, "select: must be a list of JSON objects"),
        (_column(name="id", path="gender"), "two columns are named id"),
        (_column(name="a b", path="gender"), r"select\[1\].column\[0\].name: is no name"),
        (_column(name="a"), r"select\[1\].column\[0\].path: must be a FHIRPath"),
        (_column(name="a", path="name.given.trace('x')"), r"column\[0\].path: trace\(\) is not a function"),
        (_column(name="a", path="name.where()"), "takes 1 arguments"),
        (_column(name="a", path="%use"), "no constant %use"),
        (_column(name="a", path="name | x"), "nothing in FHIRPath is written like"),
        (_column(name="a", path="name."), "ends too early"),
        (_column(name="a", path="name given"), "'given' cannot stand at position 6"),
        (_column(name="a", path="value.ofType(Quantty)"), "Quantty is no data type"),
        (_column(name="a", path="name.first().ofType(string)"), "must directly follow"),
        (_column(name="a", path="(" * 5000), "nested too deeply"),
        ({**_column(name="a", path="id"), "where": [{"path": "name.("}]}, r"where\[0\].path"),
        ({**_column(name="a", path="id"), "constant": [{"name": "a", "valueString": {}}]}, "must be a primitive"),
        ({**_column(name="a", path="id"), "constant": [{"name": "a", "valueCode": "x"}] * 2}, "second constant"),
    ],
)
def test_a_wrong_view_is_refused_by_element(view, words):
    with pytest.raises(AdapterError, match=words):
        compile_view(view)


def test_for_each_or_null_gives_one_row_of_nulls_however_many_branches():
    select = {"unionAll": [{"column": [{"name": "x", "path": "a"}]}, {"column": [{"name": "x", "path": "'b'"}]}]}
    view = {"resource": "Patient", "select": [{"forEachOrNull": "name", **select}]}
    assert run_view(view, [{"resourceType": "Patient"}]) == [{"x": None}]


def test_repeat_ends_whatever_it_repeats():
    view = {
        "resource": "Patient",
        "select": [{"repeat": ["'a' + 'b'", "$this"], "column": [{"name": "x", "path": "id"}]}],
    }
    assert run_view(view, [{"resourceType": "Patient", "id": "p"}]) == [{"x": None}]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["coding", "code", "system", "value", "valueQuantity", "x"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)
_VIEW = compile_view(
    {
        "resource": "Observation",
        "where": [{"path": "status != 'x' or code.coding.exists()"}],
        "select": [
            {"column": [{"name": "subject", "path": "subject.getReferenceKey(Patient)"}]},
            {
                "forEachOrNull": "code.coding.where(system = 'a' or value > 1)",
                "column": [{"name": "code", "path": "code"}, {"name": "all", "path": "value", "collection": True}],
            },
        ],
    }
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["status", "code", "subject", "value"]), _JSON))
def test_any_json_gives_rows_of_primitives_or_a_row_error(resource):
    try:
        rows = _VIEW.rows(resource)
    except RowError:
        return
    for subject, code, every in rows:
        assert not isinstance(subject, dict | list) and not isinstance(code, dict | list)
        assert every is None or isinstance(every, list)


_HOSTILE = [
    '"""',
    "'''",
    "'",
    "\\",
    "\n    import os",
    "]) or __import__('os').abort(",
    "{v0}",
    "{0}%s",
    "v0",
    "__class__",
    "__builtins__",
    "class",
    "None",
    "\ud800",
    "é",
    "\x00",
]
_ANY_TEXT = st.sampled_from(_HOSTILE) | st.text(min_size=1)


@given(_ANY_TEXT)
def test_any_constant_is_text_and_nothing_else(text):
    view = {
        "resource": "Patient",
        "constant": [{"name": "c", "valueString": text}],
        "select": [
            {"column": [{"name": "x", "path": "%c"}, {"name": "y", "path": "a = %c"}]},
            {"column": [{"name": "z", "path": "b.where($this != %c).exists()"}]},
        ],
    }
    assert run_view(view, [{"resourceType": "Patient", "a": text, "b": text}]) == [{"x": text, "y": True, "z": False}]


@given(_ANY_TEXT)
def test_any_literal_is_text_and_nothing_else(text):
    written = text.replace("\\", "\\\\").replace("'", "\\'")
    view = {"resource": "Patient", "select": [{"column": [{"name": "x", "path": f"'{written}'"}]}]}
    assert run_view(view, [{"resourceType": "Patient"}]) == [{"x": text}]


@given(_ANY_TEXT.filter(lambda name: "`" not in name and not name[0].isupper()))
def test_any_name_is_that_of_an_element_and_nothing_else(name):
    view = compile_view({"resource": "Patient", "select": [{"column": [{"name": "x", "path": f"`{name}`.`{name}`"}]}]})
    resource = {"resourceType": "Patient", name: [{name: 1}]}
    assert view.rows(resource) == [(1,)]
    with suppress(UnicodeEncodeError):
        assert view.rows(compile_reader([view]).decode(json.dumps(resource, ensure_ascii=False).encode())) == [(1,)]


@given(_ANY_TEXT)
def test_any_type_is_compared_and_nothing_else(kind):
    view = {"resource": kind, "select": [{"column": [{"name": "x", "path": "getReferenceKey(`X`)"}]}]}
    assert run_view(view, [{"resourceType": kind, "reference": "X/1"}]) == [{"x": "1"}]
    with suppress(AdapterError):
        run_view({"resource": "Patient", "select": [{"column": [{"name": kind, "path": "id"}]}]}, [])


def test_a_view_that_is_nested_too_deeply_is_refused():
    select = {"column": [{"name": "x", "path": "id"}]}
    for _ in range(40):
        select = {"forEach": "a", "select": [select]}
    with pytest.raises(AdapterError, match="nested too deeply"):
        compile_view({"resource": "Patient", "select": [select]})


def test_a_long_list_of_codes_is_no_deep_nesting():
    codes = " or ".join(f"code = '{number}'" for number in range(2000))
    assert value_of(f"coding.where({codes}).display", {"coding": [{"code": "1999", "display": "x"}]}) == "x"


def test_a_part_of_a_choice_is_found_by_any_type():
    assert value_of("value.exists()", {"valueSampledData": {"period": 1}}) is True
    assert value_of("extension('a').value", {"extension": [{"url": "a", "valuePositiveInt": 3}]}) == 3
    assert value_of("identifier.value", {"identifier": [{"valueString": "x", "value": "y"}]}) == "y"


@given(st.text(alphabet="ab.()[]'\"%$=<>!+-*/&@0129T:_` \n\\", max_size=30))
def test_any_text_is_an_expression_or_a_path_error(text):
    with suppress(PathError):
        parse(text)
