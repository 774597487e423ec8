"""A hospital's own CodeSystems and ValueSets give codes parents and descriptions, and change no event's code."""

import json

import pytest

from ehr_tl.convert import convert, load_adapter
from ehr_tl.convert.terminology import Terminology, TerminologyFault
from ehr_tl.errors import AdapterError

WARD, SNOMED = "urn:ours:ward", "http://snomed.info/sct"


def code_system(*concepts, **more):
    return {"resourceType": "CodeSystem", "id": "wards", "status": "active", "url": WARD, "concept": concepts} | more


TREE = code_system(
    {
        "code": "HEART",
        "display": "Heart diseases",
        "concept": [{"code": "MI", "display": "Infarction", "concept": [{"code": "STEMI"}]}],
    }
)
RULED = {"resourceType": "ValueSet", "status": "active", "name": "RenalDiseases", "title": "Renal diseases"}
DIABETES = {
    "resourceType": "ValueSet",
    "id": "diabetes",
    "status": "active",
    "name": "AnyDiabetes",
    "title": "Any diabetes",
    "compose": {
        "include": [
            {"system": SNOMED, "concept": [{"code": "44054006", "display": "Type 2"}, {"code": "46635009"}]},
            {"system": WARD, "concept": [{"code": "DM"}]},
            {"system": "urn:whole"},
        ],
        "exclude": [{"system": SNOMED, "concept": [{"code": "46635009"}]}],
    },
}


def diagnosis(fhir, key, system, code):
    return fhir.condition(key, code={"coding": [{"system": system, "code": code}]})


@pytest.fixture
def codes(tmp_path, fhir):
    """Codes table of an export with diagnoses; terminology lies beside it, in the adapter, or in the export."""

    def run(resources, *written, where="given"):
        lines = [fhir.mary, *(diagnosis(fhir, f"c{n}", *each) for n, each in enumerate(written))]
        folder = tmp_path / where / "mine"
        (folder / "code_systems").mkdir(parents=True)
        (folder / "adapter.yaml").write_text("name: mine\ntitle: Mine\nextends: fhir_r4\n")
        given = tmp_path / where / "given"
        given.mkdir()
        for n, resource in enumerate(resources):
            beside = {"given": given, "adapter": folder / "code_systems"}.get(where)
            if beside:
                (beside / f"{n}.json").write_text(json.dumps(resource))
            else:
                lines.insert(n, resource)
        export = tmp_path / where / "all.ndjson"
        export.write_text("\n".join(map(json.dumps, lines)))
        maps = [given] if where == "given" else []
        events = convert(export, folder, tmp_path / where / "events", maps)
        run.events = events
        return {row["code"]: (row["description"], row["parent_codes"]) for row in events.codes.to_dicts()}

    return run


@pytest.mark.parametrize("where", ["given", "adapter", "export"])
def test_from_wherever_they_come(codes, where):
    found = codes([TREE, DIABETES], (WARD, "STEMI"), (SNOMED, "44054006"), where=where)
    assert found["ward//STEMI"] == (None, ["ward//MI"])
    assert found["ward//MI"] == ("Infarction", ["ward//HEART"])
    assert found["ward//HEART"] == ("Heart diseases", [])
    assert found["SNOMED//44054006"] == ("Type 2", ["VALUESET//AnyDiabetes"])
    assert found["VALUESET//AnyDiabetes"] == ("Any diabetes", [])
    assert set(codes.events.scan().collect()["code"]) >= {"ward//STEMI", "SNOMED//44054006"}
    assert "ward//DM" not in found  # of codes that no event has nothing is said
    if where == "export":
        assert codes.events.coverage["resources"]["CodeSystem"]["used"] == 1
        assert codes.events.coverage["resources"]["ValueSet"]["used"] == 1


def test_properties_and_supplements(codes):
    stated = code_system(
        {"code": "A", "property": [{"code": "parent", "valueCode": "B"}, {"code": "colour", "valueString": "red"}]},
        {"code": "C", "property": [{"code": "child", "valueCode": "B"}]},
        {"code": "D", "property": [{"code": "isa", "valueCode": "A"}, {"code": "subsumedBy", "valueCode": "E"}]},
        property=[{"code": "isa", "uri": "http://hl7.org/fhir/concept-properties#parent"}],
    )
    snomed = code_system(
        {"code": "44054006", "property": [{"code": "parent", "valueCode": "73211009"}]},
        {"code": "73211009", "display": "Diabetes mellitus"},
        url="urn:ours:supplement",
        supplements=f"{SNOMED}|2026",
        content="supplement",
    )
    found = codes([stated, snomed], (WARD, "D"), (SNOMED, "44054006"))
    assert found["ward//D"][1] == ["ward//A", "ward//E"]
    assert found["ward//A"][1] == ["ward//B"]
    assert found["ward//B"][1] == ["ward//C"]
    assert found["SNOMED//44054006"][1] == ["SNOMED//73211009"]
    assert found["SNOMED//73211009"][0] == "Diabetes mellitus"


def test_parts_are_no_kinds(codes):
    assert codes([TREE | {"hierarchyMeaning": "part-of"}], (WARD, "STEMI"))["ward//STEMI"][1] == []


def test_an_expansion_goes_before_what_it_was_made_of(codes):
    inner = [{"system": WARD, "code": "MI"}, {"system": WARD, "code": "OLD", "abstract": True}]
    expanded = DIABETES | {"expansion": {"contains": [{"display": "a heading", "contains": inner}]}}
    found = codes([expanded], (WARD, "MI"), (WARD, "OLD"), (SNOMED, "44054006"))
    assert found["ward//MI"][1] == ["VALUESET//AnyDiabetes"]
    assert found["ward//OLD"][1] == [] == found["SNOMED//44054006"][1]


@pytest.mark.parametrize(
    "compose",
    [
        {"include": [{"system": SNOMED, "filter": [{"property": "concept", "op": "is-a", "value": "44054006"}]}]},
        {"include": [{"system": SNOMED, "valueSet": ["urn:x"], "concept": [{"code": "44054006"}]}]},
        {
            "include": [{"system": SNOMED, "concept": [{"code": "44054006"}]}],
            "exclude": [{"system": SNOMED, "filter": [{"property": "concept", "op": "is-a", "value": "73211009"}]}],
        },
    ],
)
def test_of_what_a_rule_describes_nothing_is_known(codes, compose):
    assert codes([RULED | {"compose": compose}], (SNOMED, "44054006"))["SNOMED//44054006"][1] == []


def test_parents_of_classifications_and_own_ones_add_up(codes):
    icd = "http://hl7.org/fhir/sid/icd-10-cm"
    own = code_system({"code": "E119", "property": [{"code": "parent", "valueCode": "FOOT"}]}, url=icd)
    found = codes([own], (icd, "E11.9"))
    assert found["ICD10CM//E11.9"] == (
        "Type 2 diabetes mellitus without complications",
        ["ICD10CM//FOO.T", "ICD10CM//E11", "CCSR//END002"],
    )


def test_what_the_records_say_goes_before_any_table(converted, fhir):
    said = {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "E11.9", "display": "Our words"}]}
    found = converted(fhir.mary, fhir.condition(code=said)).events.codes
    assert dict(found.select("code", "description").iter_rows())["ICD10CM//E11.9"] == "Our words"


def test_a_circle_of_parents_ends(codes):
    round_and_round = code_system(
        {"code": "A", "property": [{"code": "parent", "valueCode": "B"}]},
        {"code": "B", "property": [{"code": "parent", "valueCode": "A"}, {"code": "parent", "valueCode": "B"}]},
    )
    assert codes([round_and_round], (WARD, "A"))["ward//B"][1] == ["ward//A"]
    assert list(codes.events.hierarchy.above("ward//A")) == ["ward//A", "ward//B"]


FAULTS = [
    (code_system(url=None), "url is absent"),
    (code_system() | {"concept": {}}, "concept is no list"),
    (code_system({"code": "A"}, {"display": "B"}), r"concept\[1\]\.code is absent"),
    (code_system({"code": "A", "concept": [{"code": 3}]}), r"concept\[0\]\.concept\[0\]\.code is no text"),
    (
        code_system({"code": "A", "property": [{"code": "parent"}]}),
        r"concept\[0\]\.property\[0\]\.valueCode is absent",
    ),
    (code_system({"code": "A", "property": [{"code": ["parent"]}]}), r"property\[0\]\.code is no text"),
    (DIABETES | {"name": 7}, "name is no text"),
    (
        DIABETES | {"compose": {"include": [{"system": SNOMED, "concept": [{"display": "x"}]}]}},
        r"compose\.include\[0\]\.concept\[0\]\.code is absent",
    ),
    (DIABETES | {"compose": []}, "compose is no object"),
    ({"resourceType": "ValueSet"}, "what is the group called"),
]


@pytest.mark.parametrize(("resource", "message"), FAULTS)
def test_a_bad_file_is_named_with_its_element(tmp_path, resource, message):
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(resource))
    with pytest.raises(AdapterError, match=rf"bad\.json: .*{message}"):
        load_adapter("fhir_r4", [file])


@pytest.mark.parametrize("resource", [resource for resource, _ in FAULTS])
def test_a_bad_one_in_an_export_is_set_aside(converted, fhir, resource):
    found = converted(fhir.mary, resource, fhir.condition())
    assert found.coverage[resource["resourceType"]]["set_aside"] == {"does_not_fit": 1}
    assert found.codes_of("Condition/c1") == ["SNOMED//44054006"]


def test_terminology_in_an_export_and_a_map_in_it_change_no_code(converted, fhir):
    targets = [{"code": "22298006", "equivalence": "equal"}]
    group = {"source": WARD, "target": SNOMED, "element": [{"code": "MI", "target": targets}]}
    concept_map = {"resourceType": "ConceptMap", "status": "active", "group": [group]}
    plain = converted(fhir.mary, diagnosis(fhir, "c1", WARD, "MI"), folder="plain")
    more = converted(fhir.mary, TREE, DIABETES, concept_map, diagnosis(fhir, "c1", WARD, "MI"), folder="more")
    assert more.frame.equals(plain.frame)
    assert more.coverage["ConceptMap"]["unused"] == {"no_view": 1}


JUNK = [None, "", "x", 0, True, 1e300, [], ["x"], [None], {}, {"x": 1}, [{"x": 1}]]
SOUND = [
    code_system(
        {"code": "A", "display": "a", "property": [{"code": "parent", "valueCode": "B"}], "concept": [{"code": "C"}]},
        property=[{"code": "isa", "uri": "http://hl7.org/fhir/concept-properties#parent"}],
        hierarchyMeaning="is-a",
        supplements="urn:x",
    ),
    DIABETES
    | {"expansion": {"contains": [{"system": WARD, "code": "A", "contains": [{"code": "B"}]}]}, "url": "urn:x"},
]


def places(value, at=()):
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*at, key)
        yield from places(inner, (*at, key))


@pytest.mark.parametrize("resource", SOUND)
def test_whatever_stands_in_an_element_is_read_or_a_fault(resource):
    naming = load_adapter("fhir_r4").naming
    tried = 0
    for place in places(json.loads(json.dumps(resource))):
        for junk in JUNK if place != ("resourceType",) else ():
            changed = json.loads(json.dumps(resource))
            holder = changed
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = junk
            found = Terminology()
            try:
                found.read(changed, naming)
            except TerminologyFault:
                assert found == Terminology()  # all of it or nothing
            assert all(isinstance(text, str) for pair in found.descriptions.items() for text in pair)
            tried += 1
    assert tried > 200
