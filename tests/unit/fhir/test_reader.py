"""Views over what a reader decodes give what they give over dicts, whatever the JSON."""

import copy
import json
import re
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ehr_tl.fhir.views import Node, RowError, compile_reader, compile_view, element, set_element

_ADAPTERS = Path(__file__).parents[3] / "adapters"
_CODINGS = [{"system": "http://loinc.org", "code": "69548-6", "display": "One"}, {"system": "urn:b", "code": "2"}]
_RESOURCES = [
    {
        "resourceType": "Observation",
        "id": "o1",
        "meta": {"versionId": "1"},
        "status": "final",
        "category": [{"text": 'Löwe \\ "x"'}],
        "code": {"coding": _CODINGS, "text": "one"},
        "subject": {"reference": "Patient/p1", "type": "Patient"},
        "encounter": {"reference": "urn:uuid:e1"},
        "effectivePeriod": {"start": "2020-01-01", "end": "2020-01-02T00:00:00Z"},
        "issued": "2020-01-02T00:00:00Z",
        "valueQuantity": {"value": 7.5, "comparator": "<", "unit": "mmol/L", "code": "mmol/L"},
        "component": [
            {"code": {"coding": _CODINGS[:1]}, "valueCodeableConcept": {"coding": _CODINGS}},
            {"code": {"text": "two"}, "valueBoolean": True, "dataAbsentReason": {"text": "x"}},
        ],
        "contained": [{"resourceType": "Medication", "id": "m", "code": {"text": "in"}}],
        "extension": [{"url": "urn:x", "valueDateTime": "2020"}, {"url": "urn:y", "valueString": "y"}],
    },
    {
        "resourceType": "Encounter",
        "id": "e1",
        "status": "finished",
        "class": {"system": "urn:c", "code": "IMP", "display": "in"},
        "type": [{"coding": _CODINGS}, {"text": "visit"}],
        "subject": {"reference": "Patient/p1"},
        "period": {"start": "2020-01-01", "end": "2020-01-02"},
        "hospitalization": {"dischargeDisposition": {"coding": _CODINGS, "text": "home"}},
    },
    {
        "resourceType": "MedicationRequest",
        "id": "r1",
        "status": "active",
        "intent": "order",
        "doNotPerform": False,
        "medicationReference": {"reference": "#m", "identifier": {"system": "urn:i", "value": "7"}},
        "medicationCodeableConcept": {"coding": _CODINGS, "text": "drug"},
        "subject": {"reference": "Patient?identifier=urn:a|7"},
        "authoredOn": "2020-01-01",
        "contained": [{"resourceType": "Medication", "id": "m"}],
    },
    {
        "resourceType": "Patient",
        "id": "p1",
        "gender": "female",
        "birthDate": "1970-01",
        "deceasedBoolean": True,
        "name": [{"use": "official", "given": ["A", "B"], "family": "C"}, {"given": ["D"]}],
        "identifier": [{"system": "urn:i", "value": "1"}],
        "link": [{"type": "replaced-by", "other": {"reference": "Patient/p2"}}],
    },
]


def _column(name, path, **more):
    return {"name": name, "path": path, **more}


#: What shipped views do not use.
_OTHERS = [
    {
        "resource": "Observation",
        "where": [{"path": "status = 'final' or (code.exists() and issued > @2019) or value.exists()"}],
        "select": [
            {
                "column": [
                    _column("reference", "subject.getReferenceKey(Patient)"),
                    _column("key", "getResourceKey()"),
                    _column("known", "value.exists()", type="boolean"),
                    _column("not", "(status = 'final').not()"),
                    _column("text", "code.text & '-' & status"),
                    _column("sum", "value.ofType(Quantity).value + 1"),
                    _column("joined", "code.coding.code.join('|')"),
                    _column("last", "component[1].code.text"),
                    _column("x", "extension('urn:x').value.ofType(dateTime).lowBoundary()"),
                    _column("all", "code.coding.code", collection=True),
                    _column("type", "Observation.id"),
                    _column("moment", "effective.ofType(Period).start = @2020-01-01"),
                ]
            },
            {"unionAll": [{"column": [_column("u", "%rowIndex")]}, {"column": [_column("u", "status")]}]},
            {
                "forEachOrNull": "component.where(code.coding.exists(system = 'http://loinc.org'))",
                "column": [_column("n", "%rowIndex")],
                "select": [{"forEach": "code.coding.first()", "column": [_column("c", "code", type="code")]}],
            },
        ],
    },
    {
        "resource": "Encounter",
        "select": [
            {"column": [_column("ids", "type.coding.code", collection=True), _column("class", "class.code")]},
            {"forEach": "type", "column": [_column("text", "text"), _column("empty", "coding.empty()")]},
            {"forEach": "class", "column": [_column("once", "'a'")]},
            {"forEachOrNull": "identifier", "column": [_column("many", "'a'"), _column("n", "%rowIndex")]},
        ],
    },
    {
        "resource": "Patient",
        "constant": [{"name": "use", "valueCode": "official"}],
        "select": [
            {"column": [_column("id", "id", type="id"), _column("dead", "deceased.exists()")]},
            {"forEach": "name.where(use = %use)", "column": [_column("family", "family", type="string")]},
            {"forEachOrNull": "name.given", "column": [_column("given", "$this")]},
            {"forEach": "deceased.ofType(boolean)", "column": [_column("n", "%rowIndex")]},
        ],
    },
]


def _views():
    files = [file for file in sorted(_ADAPTERS.glob("*/views/*.json")) if file.parts[-3] != "meds"]  # of tables
    shipped = [json.loads(file.read_text()) for file in files]
    types = {resource["resourceType"] for resource in _RESOURCES}
    return [compile_view(view) for view in [*shipped, *_OTHERS] if view["resource"] in types]


_VIEWS = _views()
#: A reader for all views of a type, and one for each view: what a struct holds depends on all of its views.
_READERS = [compile_reader(_VIEWS), *(compile_reader([view]) for view in _VIEWS)]


def _rows(view, resource):
    try:
        return repr(view.rows(resource))
    except RowError as error:
        return str(error)


def _agree(text):
    plain = orjson.loads(text)
    kind = plain.get("resourceType") if isinstance(plain, dict) else None
    for reader in _READERS:
        read = reader.decode(text)
        if not isinstance(read, Node):
            assert repr(read) == repr(plain)
            continue
        assert read.resourceType == kind and kind in reader.types
        for name in ("id", "contained"):
            assert repr(element(read, name)) == repr(plain.get(name))
        for view in _VIEWS if reader is _READERS[0] else [_VIEWS[_READERS.index(reader) - 1]]:
            if view.resource == kind:
                assert _rows(view, read) == _rows(view, plain)


@pytest.mark.parametrize("resource", _RESOURCES, ids=lambda resource: resource["resourceType"])
def test_a_sound_resource_is_decoded_as_far_as_views_look(resource):
    text = orjson.dumps(resource)
    read = _READERS[0].decode(text)
    assert isinstance(read, Node) and not hasattr(read, "meta")
    _agree(text)


_NAMES = st.sampled_from(["coding", "code", "system", "value", "reference", "text"])
_ODD = st.recursive(
    st.sampled_from([None, True, False, 0, 1, -1.5, 10**25, -(10**19), "", "x", "final", "2020", "http://loinc.org"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["coding", "code", "system", "value", "reference", "text"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def _places(value, path=()):
    """The paths of all elements of a resource."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from _places(inner, (*path, key))


#: From an element, and something odd, to what stands in its place; None takes it away.
_CHANGES = st.sampled_from(
    [
        None,
        lambda old, odd: odd,
        lambda old, odd: [old],
        lambda old, odd: [old, odd],
        lambda old, odd: {"code": old},
    ]
)


def _changed(resource, path, change, odd):
    changed = copy.deepcopy(resource)
    *above, last = path
    holder = changed
    for key in above:
        holder = holder[key]
    if change is None:
        del holder[last]
    else:
        holder[last] = change(holder[last], odd)
    return changed


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(_RESOURCES), st.data())
def test_odd_resources_give_the_same_rows(resource, data):
    for _ in range(data.draw(st.integers(1, 3))):
        places = list(_places(resource))
        assume(places)
        resource = _changed(resource, data.draw(st.sampled_from(places)), data.draw(_CHANGES), data.draw(_ODD))
    _agree(json.dumps(resource).encode())


_PUT = st.sampled_from([b"", b'"', b"\\", b",", b":", b"{", b"]", b"\n", b"\x00", b"\xe4", b"u", b"0", b"."])


def _refused(text):
    try:
        orjson.loads(text)
    except ValueError:
        return True
    return False


@settings(deadline=None, max_examples=500)
@given(st.sampled_from(_RESOURCES), st.data())
def test_damaged_text_is_refused_wherever_the_damage_is(resource, data):
    text = json.dumps(resource, ensure_ascii=data.draw(st.booleans())).encode()
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 3))
    put = data.draw(_PUT)
    text = text[:at] + put + text[at + cut :]
    if _refused(text):
        for reader in _READERS:
            with pytest.raises(ValueError):
                reader.decode(text)
    else:
        _agree(text)


@pytest.mark.parametrize("place", ["text", "contained", "id", "status"])
@pytest.mark.parametrize(
    "value",
    ['"\xe4"', '"\\ud800"', '"\\q"', '"a\tb"', "01", "NaN", "[1,]", '{"a":1,}', "{1:2}", "[" * 2000 + "]" * 2000],
)
def test_what_is_not_json_is_refused_in_every_element(place, value):
    text = f'{{"resourceType":"Patient","{place}":{value}}}'.encode("latin-1")
    assert _refused(text)
    with pytest.raises(ValueError):
        _READERS[0].decode(text)


def test_a_number_without_measure_is_refused_where_it_is_looked_at():
    """Elsewhere it is none of ours; what is kept whole, and holds it, counts as absent."""
    for place in ("id", "birthDate"):
        with pytest.raises(ValueError):
            _READERS[0].decode(f'{{"resourceType":"Patient","{place}":1e999}}'.encode())
    assert element(_READERS[0].decode(b'{"resourceType":"Patient","contained":[1e999]}'), "contained") is None
    assert isinstance(_READERS[0].decode(b'{"resourceType":"Patient","photo":1e999}'), Node)


@pytest.mark.parametrize(
    "text",
    [
        b"null",
        b"[]",
        b'"Patient"',
        b"{}",
        b'{"resourceType":null}',
        b'{"resourceType":"Basic","id":"1"}',
        b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient"}}]}',
        b'{"resourceType":"Patient","id":"1","resourceType":"Basic"}',
    ],
)
def test_other_json_is_as_orjson_gives_it(text):
    bundles = compile_view({"resource": "Bundle", "select": [{"column": [_column("id", "id")]}]})
    assert compile_reader([*_VIEWS, bundles]).decode(text) == orjson.loads(text)


@pytest.mark.parametrize("text", [b'{"resourceType":"Patient"}', b'{"resourceType":"Basic"}'], ids=["node", "dict"])
def test_kept_elements_are_read_and_set_alike(text):
    resource = _READERS[0].decode(text)
    assert element(resource, "id") is None
    set_element(resource, "id", "p9")
    set_element(resource, "contained", [{"id": "c"}])
    assert element(resource, "id") == "p9" and element(resource, "contained") == [{"id": "c"}]
    assert element(resource, "resourceType") == orjson.loads(text)["resourceType"]


def test_an_id_that_is_set_is_found_by_views():
    view = compile_view({"resource": "Patient", "select": [{"column": [_column("id", "id")]}]})
    resource = compile_reader([view]).decode(b'{"resourceType":"Patient"}')
    set_element(resource, "id", "p9")
    assert view.rows(resource) == [("p9",)]


def test_a_reader_keeps_what_it_is_told_to():
    view = compile_view({"resource": "Patient", "select": [{"column": [_column("id", "id")]}]})
    resource = compile_reader([view], keep=["meta"]).decode(b'{"resourceType":"Patient","meta":{"versionId":"2"}}')
    assert isinstance(resource, Node)
    assert element(resource, "meta") == {"versionId": "2"} and element(resource, "contained") is None


@pytest.mark.parametrize(
    "select",
    [
        {"repeat": ["item"], "column": [_column("x", "linkId")]},
        {"column": [_column("x", "code", collection=True), _column("y", "code.text")]},
        {"forEach": "code", "column": [_column("x", "code")], "select": [{"column": [_column("y", "code.code")]}]},
        {"column": [_column("x", "item" + ".item" * 60)]},
        {"column": [_column("x", "`no name`")]},
    ],
)
def test_what_structs_do_not_give_is_read_from_dicts(select):
    view = compile_view({"resource": "Patient", "select": [select]})
    assert not compile_reader([view]).types
    assert compile_reader([view]).decode(b'{"resourceType":"Patient","id":"1"}') == {
        "resourceType": "Patient",
        "id": "1",
    }


def test_nothing_of_a_patient_is_in_the_error_of_a_row():
    view = compile_view({"resource": "Patient", "select": [{"column": [_column("x", "name.family")]}]})
    resource = compile_reader([view]).decode(
        b'{"resourceType":"Patient","id":"p1","name":[{"family":"Canary"},{"family":"Canary"}]}'
    )
    assert isinstance(resource, Node)
    with pytest.raises(RowError, match=re.escape("Patient/p1 does not fit the view: column x got 2 values")) as caught:
        view.rows(resource)
    assert "Canary" not in str(caught.value)
