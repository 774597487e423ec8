"""What ConceptMaps make of a code: equivalence, chains, several targets, precedence, circles, faults."""

import json
from pathlib import Path

import pytest

from ehr_tl.convert import convert, load_adapter
from ehr_tl.convert.concept_maps import ConceptMaps
from ehr_tl.convert.naming import Naming
from ehr_tl.errors import AdapterError

LOCAL, SNOMED, ICD = "urn:ours:dx", "http://snomed.info/sct", "http://hl7.org/fhir/sid/icd-10-cm"
RXNORM, ATC = "http://www.nlm.nih.gov/research/umls/rxnorm", "http://www.whocc.no/atc"
DISPOSITION = "http://terminology.hl7.org/CodeSystem/discharge-disposition"
NAMING = Naming({SNOMED: "SNOMED", "urn:oid:2.16.840.1.113883.6.96": "SNOMED", ICD: "ICD10CM"}, {"ICD10CM": "icd"})


def group(source, target, elements, **more):
    """Elements: code -> targets as (code, equivalence)."""
    listed = [
        {"code": code, "target": [{"code": to, "equivalence": meaning} for to, meaning in targets]}
        for code, targets in elements.items()
    ]
    return {"source": source, "target": target, "element": listed} | more


def concept_map(*groups, **more):
    return {"resourceType": "ConceptMap", "status": "active", "group": list(groups)} | more


def maps(*resources):
    return ConceptMaps([(Path(f"{n}.json"), resource) for n, resource in enumerate(resources)], NAMING)


def codes(found):
    return [target.key[1] for target in found.targets]


@pytest.fixture
def mapped(tmp_path, fhir):
    """Converts one diagnosis with maps that are given; returns its event and the events folder."""

    def run(codings, *resources, adapter="fhir_r4", **more):
        (tmp_path / "maps").mkdir()
        for n, resource in enumerate(resources):
            (tmp_path / "maps" / f"{n}.json").write_text(json.dumps(resource))
        coding = [{"system": system, "code": code} for system, code in codings]
        lines = [fhir.mary, fhir.condition(code={"coding": coding}), *more.get("others", ())]
        (tmp_path / "all.ndjson").write_text("\n".join(map(json.dumps, lines)))
        events = convert(tmp_path / "all.ndjson", adapter, tmp_path / "events", [tmp_path / "maps"])
        (event,) = events.scan().collect().filter(resource_id="Condition/c1").to_dicts()
        return event, events

    return run


@pytest.mark.parametrize(
    ("meaning", "taken"),
    [
        ("equal", True),
        ("equivalent", True),
        ("wider", True),
        ("subsumes", True),
        ("narrower", False),
        ("specializes", False),
        ("inexact", False),
        ("relatedto", False),
        ("unmatched", False),
        ("disjoint", False),
    ],
)
def test_every_equivalence_of_r4(mapped, meaning, taken):
    event, events = mapped([(LOCAL, "D1")], concept_map(group(LOCAL, SNOMED, {"D1": [("1", meaning)]})))
    assert event["code"] == ("SNOMED//1" if taken else "dx//D1")
    assert event["source_code"] == ("dx//D1" if taken else None)
    assert event["other_codes"] == (["dx//D1"] if taken else None)
    assert events.coverage["concept_maps"]["dx"]["mapped" if taken else "unmatched"] == {"codes": 1, "events": 1}


@pytest.mark.parametrize("condition", ["dependsOn", "product"])
def test_a_target_that_holds_beside_something_else_only_is_not_taken(condition):
    resource = concept_map(group(LOCAL, SNOMED, {"D1": [("1", "equivalent"), ("2", "equivalent")]}))
    resource["group"][0]["element"][0]["target"][0][condition] = [{"property": "urn:x", "value": "y"}]
    assert codes(maps(resource).find(LOCAL, "D1")) == ["2"]


def test_of_several_targets_the_closest_is_taken_and_the_others_are_kept(mapped):
    event, _ = mapped(
        [(LOCAL, "D1")],
        concept_map(
            group(LOCAL, "urn:theirs", {"D1": [("X", "equal")]}),
            group(LOCAL, SNOMED, {"D1": [("1", "wider"), ("2", "equivalent"), ("3", "equivalent"), ("4", "disjoint")]}),
            group(LOCAL, ICD, {"D1": [("E119", "equivalent")]}),
        ),
    )
    assert event["code"] == "SNOMED//2"
    assert sorted(event["other_codes"]) == ["ICD10CM//E11.9", "SNOMED//1", "SNOMED//3", "dx//D1", "theirs//X"]


def test_chains_are_followed_however_systems_and_codes_are_written(mapped):
    event, _ = mapped(
        [(LOCAL, "D1")],
        concept_map(group("urn:theirs", ICD, {"T1": [("E119", "equivalent")]})),
        concept_map(group(LOCAL, "urn:theirs", {"D1": [("T1", "equivalent")]})),
        concept_map(group(ICD, "urn:oid:2.16.840.1.113883.6.96", {"E11.9": [("44054006", "equal")]})),
    )
    assert event["code"] == "SNOMED//44054006"
    assert event["source_code"] == "dx//D1"
    assert set(event["other_codes"]) == {"ICD10CM//E11.9", "theirs//T1", "dx//D1"}


def test_a_chain_is_as_wide_as_its_widest_map():
    found = maps(
        concept_map(group("a", "b", {"1": [("2", "wider")]})),
        concept_map(group("b", "c", {"2": [("3", "equivalent")]})),
        concept_map(group("a", "d", {"1": [("4", "equivalent")]})),
        concept_map(group("d", "c", {"4": [("5", "equivalent")]})),
    ).find("a", "1")
    assert {target.key[1]: target.wider for target in found.targets} == {"2": True, "3": True, "4": False, "5": False}


def test_a_standard_code_is_not_given_up_for_a_wider_one(mapped):
    """A drug keeps its code; its ATC class is another name for it, with all that lies above."""
    event, events = mapped([(RXNORM, "860975")], concept_map(group(RXNORM, ATC, {"860975": [("A10BA02", "wider")]})))
    assert (event["code"], event["source_code"], event["other_codes"]) == (
        "RxNorm//860975",
        None,
        ["ATC//A10BA02"],
    )
    assert {"ATC//A10BA", "ATC//A10B", "ATC//A10", "ATC//A"} <= set(events.hierarchy.above("ATC//A10BA02"))
    assert events.coverage["codes"]["RxNorm"] == {"kept": 1, "mapped": 0, "unmapped": 0}


def test_what_is_given_goes_before_the_adapters_own(mapped, tmp_path):
    folder = tmp_path / "mine"
    (folder / "concept_maps").mkdir(parents=True)
    (folder / "adapter.yaml").write_text("name: mine\ntitle: Mine\nextends: fhir_r4\n")
    own = concept_map(group(LOCAL, SNOMED, {"D1": [("1", "equal")], "D2": [("2", "equal")], "D3": [("3", "equal")]}))
    (folder / "concept_maps" / "a.json").write_text(json.dumps(own))
    given = concept_map(group(LOCAL, SNOMED, {"D1": [("9", "equal")], "D2": [("2", "unmatched")]}))
    file = tmp_path / "given.json"
    file.write_text(json.dumps(given))
    loaded = load_adapter(folder, [file])
    assert [codes(loaded.concept_maps.find(LOCAL, f"D{n}")) for n in (1, 2, 3)] == [["9"], [], ["3"]]
    assert [path.name for path in loaded.files if path.name in ("given.json", "a.json")] == ["given.json", "a.json"]
    with pytest.raises(AdapterError, match="takes no more maps"):
        load_adapter(loaded, [file])


def test_a_map_to_dispositions_counts_where_dispositions_are_read_also_through_a_chain(mapped, fhir):
    left = {"coding": [{"system": LOCAL, "code": "X"}]}
    visit = fhir.visit(hospitalization={"dischargeDisposition": left})
    event, events = mapped(
        [(LOCAL, "X")], concept_map(group(LOCAL, SNOMED, {"X": [("419099009", "equivalent")]})), others=[visit]
    )
    assert event["code"] == "SNOMED//419099009"
    ends = events.scan().collect().filter(resource_id="Encounter/e1")["code"].to_list()
    assert "DISCHARGE//exp" in ends


def test_a_code_that_is_mapped_to_nothing_known_is_no_event(converted, fhir, tmp_path):
    folder = tmp_path / "mine"
    (folder / "concept_maps").mkdir(parents=True)
    (folder / "adapter.yaml").write_text("name: mine\ntitle: Mine\nextends: fhir_r4\n")
    none = concept_map(group(LOCAL, SNOMED, {"NONE": [("160245001", "equivalent")]}))
    (folder / "concept_maps" / "a.json").write_text(json.dumps(none))
    found = converted(fhir.mary, fhir.condition(code={"coding": [{"system": LOCAL, "code": "NONE"}]}), adapter=folder)
    assert found.codes_of("Condition/c1") == []
    assert found.coverage["Condition"]["unused"] == {"nothing_known": 1}


def test_coverage_counts_codes_by_what_the_maps_say(converted, fhir, tmp_path):
    folder = tmp_path / "mine"
    (folder / "concept_maps").mkdir(parents=True)
    (folder / "adapter.yaml").write_text("name: mine\ntitle: Mine\nextends: fhir_r4\n")
    many = {"D1": [("1", "wider")], "D2": [("1", "wider")], "D3": [("2", "equal")], "D4": [("3", "narrower")]}
    (folder / "concept_maps" / "a.json").write_text(json.dumps(concept_map(group(LOCAL, SNOMED, many))))
    written = ["D1", "D1", "D1", "D2", "D3", "D4", "D5", "D6", "D6"]
    conditions = [
        fhir.condition(f"c{n}", code={"coding": [{"system": LOCAL, "code": code}]}) for n, code in enumerate(written)
    ]
    found = converted(fhir.mary, *conditions, adapter=folder).events.coverage
    assert found["concept_maps"] == {
        "dx": {
            "mapped": {"codes": 3, "events": 5},
            "unmatched": {"codes": 1, "events": 1},
            "absent": {"codes": 2, "events": 3},
            "many_to_one": {"codes": 2, "targets": 1},
        }
    }
    assert found["codes"]["dx"] == {"kept": 0, "mapped": 5, "unmapped": 4}


def test_without_maps_about_a_system_coverage_says_nothing_of_maps(converted, fhir):
    snomed_is_mapped_to_dispositions_only = converted(fhir.mary, fhir.condition()).events.coverage
    assert snomed_is_mapped_to_dispositions_only["concept_maps"] == {}


# --- unmapped ---------------------------------------------------------------------------------------------------------


def test_provided_hands_on_what_is_not_listed(mapped):
    provided = group(LOCAL, ICD, {"X1": [("E10", "wider")]}, unmapped={"mode": "provided"})
    found = maps(concept_map(provided))
    assert codes(found.find(LOCAL, "X1")) == ["E10"]
    assert codes(found.find(LOCAL, "E119")) == ["E11.9"]
    event, _ = mapped([(LOCAL, "E119")], concept_map(provided))
    assert event["code"] == "ICD10CM//E11.9"


def test_other_map_must_be_there(tmp_path):
    first = group(LOCAL, SNOMED, {}, unmapped={"mode": "other-map", "url": "urn:second"})
    second = concept_map(group(LOCAL, SNOMED, {"D1": [("1", "equal")]}), url="urn:second")
    assert codes(maps(concept_map(first), second).find(LOCAL, "D1")) == ["1"]
    with pytest.raises(AdapterError, match=r"0\.json: group\[0\]\.unmapped refers to the map 'urn:second'"):
        maps(concept_map(first))


# --- circles and faults -----------------------------------------------------------------------------------------------


def test_a_circle_names_codes_and_files():
    with pytest.raises(AdapterError) as caught:
        maps(
            concept_map(group(LOCAL, SNOMED, {"D0": [("1", "equal")], "D1": [("1", "equal")]})),
            concept_map(group(SNOMED, ICD, {"1": [("E119", "wider")]})),
            concept_map(group(ICD, LOCAL, {"E11.9": [("D1", "equal")]})),
        )
    message = str(caught.value)
    assert "1.json" in message and "2.json" in message and "0.json" in message
    assert all(code in message for code in ("SNOMED//1", "ICD10CM//E11.9", "dx//D1"))
    assert "D0" not in message


def test_handing_on_in_a_circle_is_refused_too():
    there, back = (concept_map(group(*pair, {}, unmapped={"mode": "provided"})) for pair in (("a", "b"), ("b", "a")))
    with pytest.raises(AdapterError, match="circle"):
        maps(there, back)


def test_a_map_back_that_may_not_be_taken_is_no_circle():
    found = maps(
        concept_map(group(LOCAL, SNOMED, {"D1": [("1", "wider")]})),
        concept_map(group(SNOMED, LOCAL, {"1": [("D1", "narrower")]})),
    )
    assert codes(found.find(LOCAL, "D1")) == ["1"]


TARGET = {"code": "1", "equivalence": "equal"}


@pytest.mark.parametrize(
    ("resource", "message"),
    [
        ({"group": {}}, "group is no list"),
        ({"group": [3]}, "group is no list"),
        ({"group": [{"source": 3}]}, r"group\[0\]\.source is no text"),
        ({"group": [{"element": [{"target": [TARGET]}]}]}, r"group\[0\]\.element\[0\] has no code"),
        (
            {"group": [{"element": [{"code": "a", "target": [{"code": "1"}]}]}]},
            r"group\[0\]\.element\[0\]\.target\[0\]\.equivalence is absent",
        ),
        (
            {"group": [{"element": [{"code": "a"}, {"code": "b", "target": [TARGET | {"equivalence": "same"}]}]}]},
            r"group\[0\]\.element\[1\]\.target\[0\]\.equivalence is 'same'.*equal, equivalent, wider",
        ),
        (
            {"group": [{"target": "urn:t", "element": [{"code": "a", "target": [{"equivalence": "equal"}]}]}]},
            r"group\[0\]\.element\[0\]\.target\[0\] has no code",
        ),
        (
            {"group": [{"element": [{"code": "a", "target": [TARGET]}]}]},
            r"group\[0\]\.element\[0\]\.target\[0\] has a code, and its group no target",
        ),
        (
            {"group": [{"source": "a", "target": "b", "unmapped": {"mode": "fixed", "code": "1"}}]},
            r"group\[0\]\.unmapped\.mode is 'fixed'",
        ),
        ({"group": [{"unmapped": {"mode": ["x"]}}]}, r"group\[0\]\.unmapped\.mode"),
    ],
)
def test_a_bad_map_is_named_with_its_element(tmp_path, resource, message):
    file = tmp_path / "bad.json"
    file.write_text(json.dumps({"resourceType": "ConceptMap"} | resource))
    with pytest.raises(AdapterError, match=rf"bad\.json.*{message}"):
        load_adapter("fhir_r4", [file])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"resourceType": "Patient"}', "is no ConceptMap or CodeSystem or ValueSet"),
        ("[]", "is no ConceptMap"),
        ('{"resource', "no valid JSON"),
        (None, "is no file"),
    ],
)
def test_what_is_given_must_be_a_map(tmp_path, text, message):
    file = tmp_path / "bad.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(AdapterError, match=message):
        load_adapter("fhir_r4", [file])


def test_an_empty_folder_of_maps_is_an_error(tmp_path):
    for given in (tmp_path, ""):
        with pytest.raises(AdapterError, match=r"holds no|is empty"):
            load_adapter("fhir_r4", [given])
