"""What coverage.json says of the finished events: it adds up, and it names no rare code and no text."""

import json
from pathlib import Path

import pytest

from ehr_tl.concepts import FEWEST_SUBJECTS
from ehr_tl.convert import convert
from ehr_tl.tokens.familiarity import Knowledge, familiarity

ADAPTERS = Path(__file__).parents[3] / "adapters"
EXAMPLES = sorted(ADAPTERS.glob("*/examples/*/in"))
CANARY = "Wilhelmina-Canary"


def adds_up(coverage):
    dates = coverage["dates"]
    assert sum(coverage["rows"].values()) == coverage["events"]
    assert sum(dates["years"].values()) + dates["undated"] + dates["births"] == coverage["events"]
    counted = {system: counts["unmapped"] for system, counts in coverage["codes"].items() if counts["unmapped"]}
    assert {system: found["times"] for system, found in coverage["unmapped"].items()} == counted
    for found in coverage["unmapped"].values():
        assert sum(code["times"] for code in found["common"]) <= found["times"]
        assert all(code["subjects"] >= FEWEST_SUBJECTS for code in found["common"])


@pytest.mark.parametrize("case", EXAMPLES, ids=lambda case: "-".join(case.parts[-4:-1:2]))
def test_adds_up_to_what_conversion_counted(case, tmp_path):
    adds_up(convert(case, case.parents[2], tmp_path / "events").coverage)


def people(number):
    return [{"resourceType": "Patient", "id": f"p{i}", "birthDate": "1950-02-01"} for i in range(number)]


def told(fhir, i, key, **more):
    return fhir.observation(f"o{i}-{key}", subject={"reference": f"Patient/p{i}"}, **more)


def ours(code, display=None, text=None):
    return {"coding": [{"system": "urn:ours", "code": code, "display": display}], "text": text}


def unmapped(found):
    return {code["code"]: code for each in found.events.coverage["unmapped"].values() for code in each["common"]}


def test_names_codes_that_enough_subjects_have_as_often_as_they_were_used(converted, fhir):
    enough, few = range(FEWEST_SUBJECTS), range(FEWEST_SUBJECTS - 1)
    found = converted(
        *people(FEWEST_SUBJECTS),
        *(told(fhir, i, "A", code=ours("A", "Blood\n sugar")) for i in enough),
        told(fhir, 0, "again", code=ours("A", "Sugar")),
        *(told(fhir, i, "B", code=ours("B", "Rare")) for i in few),
        *(told(fhir, 0, f"often{n}", code=ours("C", "One person's")) for n in range(9)),
    )
    assert unmapped(found) == {
        "ours//A": {
            "code": "ours//A",
            "name": "Blood sugar",
            "times": FEWEST_SUBJECTS + 1,
            "subjects": FEWEST_SUBJECTS,
        }
    }
    assert found.events.coverage["unmapped"]["ours"]["codes"] == 3
    assert "Rare" not in json.dumps(found.events.coverage)


def test_a_display_of_fewer_subjects_is_not_shown_however_often_it_was_used(converted, fhir):
    enough = range(FEWEST_SUBJECTS)
    found = converted(
        *people(FEWEST_SUBJECTS),
        *(told(fhir, 0, f"{code}{n}", code=ours(code, f"As told by {CANARY}")) for n in range(9) for code in "AB"),
        *(told(fhir, i, "own", code=ours("A", f"{CANARY} {i}")) for i in enough),
        *(told(fhir, i, "same", code=ours("B", "Blood sugar")) for i in enough),
    )
    assert {code: found["name"] for code, found in unmapped(found).items()} == {
        "ours//A": None,
        "ours//B": "Blood sugar",
    }
    assert CANARY not in json.dumps(found.events.coverage)


def test_answers_count_for_their_own_system(converted, fhir):
    answer = {"coding": [{"system": "urn:ours", "code": "YES", "display": "Yes"}]}
    found = converted(
        *people(FEWEST_SUBJECTS), *(told(fhir, i, "A", valueCodeableConcept=answer) for i in range(FEWEST_SUBJECTS))
    )
    assert found.codes_of("Observation/o0-A") == ["LOINC//2345-7//ours//YES"]
    assert list(unmapped(found)) == ["ours//YES"]


def test_a_system_that_only_few_records_name_is_counted_and_not_named(converted, fhir):
    def of(system, code="1"):
        return {"coding": [{"system": system, "code": code}]}

    few = range(FEWEST_SUBJECTS - 1)
    found = converted(
        *people(FEWEST_SUBJECTS),
        *(told(fhir, i, f"A{n}", code=of(f"urn:names/{CANARY}", n)) for i in few for n in "12"),
        told(fhir, 0, "B", code=of(f"urn:{CANARY}-too")),
        *(told(fhir, i, "C", code=of("urn:ours", str(i))) for i in range(FEWEST_SUBJECTS)),
    )
    coverage = found.events.coverage
    adds_up(coverage)
    times = 2 * len(few) + 1
    assert coverage["codes"]["other systems"] == {"kept": 0, "mapped": 0, "unmapped": times}
    assert coverage["unmapped"] == {
        "other systems": {"codes": 3, "times": times, "common": []},
        "ours": {"codes": FEWEST_SUBJECTS, "times": FEWEST_SUBJECTS, "common": []},
    }
    assert CANARY not in json.dumps(coverage)
    known = familiarity(found.events, Knowledge(frozenset({"LOINC//1"})), "mine").systems
    assert known == {
        name: {"exactly": 0, "related": 0, "described": 0, "unknown": n["times"]}
        for name, n in coverage["unmapped"].items()
    }


def test_what_people_typed_is_counted_and_never_shown(converted, fhir):
    found = converted(
        *people(6),
        *(told(fhir, i, "typed", code={"text": f"{CANARY} fell"}) for i in range(6)),
        *(told(fhir, i, "named", code=ours("A", None, f"{CANARY} fell")) for i in range(6)),
    )
    coverage = found.events.coverage
    assert coverage["unmapped"]["TEXT"] == {"codes": 1, "times": 6, "common": []}
    assert unmapped(found) == {"ours//A": {"code": "ours//A", "name": None, "times": 6, "subjects": 6}}
    assert CANARY not in json.dumps(coverage)


def test_a_birth_is_no_year_of_the_records(converted, fhir):
    dates = converted(fhir.mary, fhir.observation()).events.coverage["dates"]
    assert dates == {"first": "2020-01-01", "last": "2020-01-01", "years": {"2020": 1}, "undated": 1, "births": 1}
