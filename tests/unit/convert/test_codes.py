"""Which code an event gets, and what stays known of the others."""

import json
from pathlib import Path

import pytest

from ehr_tl.concepts import FEWEST_SUBJECTS
from ehr_tl.tokens.records import read_records
from ehr_tl.tokens.vocabulary import Vocabulary

SNOMED, LOCAL = "http://snomed.info/sct", "https://hospital.example/codes/diagnosis"
ICD = "http://hl7.org/fhir/sid/icd-10-cm"


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """An adapter with a ConceptMap of its own."""
    folder = tmp_path / "hospital"
    (folder / "concept_maps").mkdir(parents=True)
    (folder / "adapter.yaml").write_text(
        f"name: hospital\ntitle: A hospital\nextends: fhir_r4\nlocal_systems: {{{LOCAL}: OURS}}\n"
    )
    elements = [
        ("D1", "44054006", "equivalent"),
        ("D2", "73211009", "wider"),
        ("D3", "1", "narrower"),
        ("D4", "2", "unmatched"),
    ]
    concept_map = {
        "resourceType": "ConceptMap",
        "group": [
            {
                "source": LOCAL,
                "target": SNOMED,
                "element": [
                    {"code": code, "target": [{"code": target, "display": f"T{code}", "equivalence": meaning}]}
                    for code, target, meaning in elements
                ],
            }
        ],
    }
    (folder / "concept_maps" / "diagnosis.json").write_text(json.dumps(concept_map))
    return folder


def coded(fhir, key, *codings, **more):
    return fhir.condition(key, code={"coding": [dict(zip(("system", "code", "display"), c)) for c in codings], **more})


def table(found):
    return {row["code"]: row for row in found.events.codes.to_dicts()}


def test_concept_maps(converted, fhir, hospital):
    conditions = [coded(fhir, f"c{n}", (LOCAL, f"D{n}", f"Local {n}")) for n in range(1, 6)]
    found = converted(fhir.mary, *conditions, adapter=hospital)
    events = {
        row["resource_id"]: (row["code"], row["source_code"], row["other_codes"]) for row in found.frame.to_dicts()
    }
    assert events["Condition/c1"] == ("SNOMED//44054006", "OURS//D1", ["OURS//D1"])
    assert events["Condition/c2"] == ("SNOMED//73211009", "OURS//D2", ["OURS//D2"])
    for n in (3, 4, 5):
        assert events[f"Condition/c{n}"] == (f"OURS//D{n}", None, None)
    assert found.events.coverage["codes"]["OURS"] == {"kept": 0, "mapped": 2, "unmapped": 3}
    codes = table(found)
    assert codes["SNOMED//44054006"]["description"] == "TD1"
    assert codes["SNOMED//44054006"]["parent_codes"] == []
    assert codes["OURS//D5"]["description"] == "Local 5"


def test_of_several_codings_the_preferred_system_wins_and_the_event_keeps_the_others(converted, fhir):
    found = converted(
        fhir.mary,
        coded(fhir, "c1", ("urn:x:our-codes", "7", "Ours"), (ICD, "E119", "ICD"), (SNOMED, "44054006", "Diabetes")),
        coded(fhir, "c2", (ICD, "E11.65", "ICD"), ("urn:x:our-codes", "8", "Ours")),
    )
    events = {row["resource_id"]: (row["code"], row["other_codes"]) for row in found.frame.to_dicts()}
    assert events["Condition/c1"] == ("SNOMED//44054006", ["ICD10CM//E11.9", "our-codes//7"])
    assert events["Condition/c2"] == ("ICD10CM//E11.65", ["our-codes//8"])
    codes = table(found)
    assert codes["SNOMED//44054006"]["parent_codes"] == []
    assert codes["ICD10CM//E11.9"]["parent_codes"] == ["ICD10CM//E11", "CCSR//END002"]
    assert codes["ICD10CM//E11.65"]["parent_codes"] == ["ICD10CM//E11.6", "CCSR//END003"]
    assert codes["ICD10CM//E11.6"]["parent_codes"] == ["ICD10CM//E11"]
    assert found.events.coverage["codes"]["SNOMED"]["kept"] == 1


def test_text_alone_is_kept_as_text(converted, fhir):
    found = converted(fhir.mary, fhir.condition(code={"text": " Chest \n pain "}))
    assert found.codes_of("Condition/c1") == ["TEXT//Chest pain"]
    assert found.events.coverage["codes"]["TEXT"] == {"kept": 0, "mapped": 0, "unmapped": 1}


def test_a_coding_without_a_code_or_for_absence_is_passed_over(converted, fhir):
    absent = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
    found = converted(
        fhir.mary,
        coded(fhir, "c1", (absent, "unknown"), (SNOMED, "44054006")),
        coded(fhir, "c2", (SNOMED, None, "Asthma"), text="Asthma"),
        coded(fhir, "c3", (absent, "unknown")),
    )
    assert found.codes_of("Condition/c1") == ["SNOMED//44054006"]
    assert found.codes_of("Condition/c2") == ["TEXT//Asthma"]
    assert found.coverage["Condition"]["unused"] == {"no_code": 1}


def test_a_coding_that_is_written_twice_is_one_event(converted, fhir):
    found = converted(fhir.mary, coded(fhir, "c1", (SNOMED, "44054006", "Diabetes"), (SNOMED, "44054006", "Diabetes")))
    assert found.codes_of("Condition/c1") == ["SNOMED//44054006"]


def test_an_allergy_is_not_the_drug(converted, fhir):
    allergy = {
        "resourceType": "AllergyIntolerance",
        "id": "a",
        "patient": {"reference": "Patient/mary"},
        "recordedDate": "2020-01-01",
        "code": {"coding": [{"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": "7980"}]},
    }
    found = converted(fhir.mary, allergy)
    assert found.codes_of("AllergyIntolerance/a") == ["ALLERGY//RxNorm//7980"]
    assert table(found)["ALLERGY//RxNorm//7980"]["parent_codes"] == []


def test_every_code_and_every_parent_is_in_the_table(converted, fhir):
    answer = {"coding": [{"system": SNOMED, "code": "260385009", "display": "Negative"}]}
    found = converted(fhir.mary, fhir.visit(), fhir.observation(valueCodeableConcept=answer), fhir.condition())
    codes = table(found)
    assert set(found.frame["code"]) <= set(codes)
    assert {parent for row in codes.values() for parent in row["parent_codes"]} <= set(codes)
    assert codes["LOINC//2345-7//SNOMED//260385009"] == {
        "code": "LOINC//2345-7//SNOMED//260385009",
        "description": "Glucose: Negative",
        "parent_codes": ["LOINC//2345-7"],
        "common": False,
    }


def test_a_map_to_dispositions_counts_where_dispositions_are_read(converted, fhir):
    dead = {"coding": [{"system": "http://snomed.info/sct", "code": "419099009", "display": "Dead"}]}
    found = converted(
        fhir.mary,
        fhir.visit(hospitalization={"dischargeDisposition": dead}),
        fhir.condition(code=dead),
    )
    assert "DISCHARGE//exp" in found.codes_of("Encounter/e1")
    assert found.codes_of("Condition/c1") == ["SNOMED//419099009"]


def test_every_coding_of_an_answer_is_kept(converted, fhir):
    loinc, snomed = "http://loinc.org", "http://snomed.info/sct"
    question = {"coding": [{"system": loinc, "code": "72166-2"}, {"system": "urn:ours", "code": "SMOKE"}]}
    answer = {"coding": [{"system": loinc, "code": "LA18976-3"}, {"system": snomed, "code": "449868002"}]}
    found = converted(fhir.mary, fhir.observation(code=question, valueCodeableConcept=answer))
    (event,) = found.of("Observation/o1")
    names = {event["code"], *event["other_codes"]}
    assert {"LOINC//72166-2//LOINC//LA18976-3", "LOINC//72166-2//SNOMED//449868002"} <= names
    parents = dict(found.events.codes.select("code", "parent_codes").iter_rows())
    assert parents["LOINC//72166-2//LOINC//LA18976-3"] == ["LOINC//72166-2"]


def test_a_text_counts_where_all_codings_say_nothing(converted, fhir):
    silent = {"system": "http://terminology.hl7.org/CodeSystem/v3-NullFlavor", "code": "UNK", "display": "unknown"}
    found = converted(fhir.mary, fhir.condition(code={"coding": [silent], "text": "Sore knee"}))
    assert found.codes_of("Condition/c1") == ["TEXT//Sore knee"]


def test_a_line_break_in_a_code_is_a_space(converted, fhir):
    found = converted(fhir.mary, fhir.condition(code={"coding": [{"system": "urn:ours", "code": "A\nB"}]}))
    assert found.codes_of("Condition/c1")[0].endswith("//A B")


def test_an_answer_that_denies_its_question_does_not_count_for_it(converted, fhir):
    """Pneumonia, absent, is no pneumonia; of a question with two names neither."""
    snomed = "http://snomed.info/sct"
    asked = {"coding": [{"system": snomed, "code": "233604007"}, {"system": "urn:ours", "code": "PNEU"}]}
    absent, present = ({"coding": [{"system": snomed, "code": code}]} for code in ("2667000", "52101004"))
    found = converted(
        fhir.mary,
        fhir.observation("no", code=asked, valueCodeableConcept=absent),
        fhir.observation("yes", code=asked, valueCodeableConcept=present),
    )
    names = {}
    for key in ("no", "yes"):
        (event,) = found.of(f"Observation/{key}")
        names[key] = set(found.events.hierarchy.above(event["code"], *(event["other_codes"] or [])))
    assert "SNOMED//233604007" in names["yes"] and "ours//PNEU" in {name.replace("urn:", "") for name in names["yes"]}
    assert names["no"] == {"SNOMED//233604007//SNOMED//2667000"}


def test_the_version_of_a_canonical_system_is_no_name(converted, fhir):
    codes = [{"system": f"urn:ours:{name}|1.0", "code": "q1"} for name in ("phq9", "gad7")]
    found = converted(fhir.mary, *(fhir.condition(f"c{n}", code={"coding": [c]}) for n, c in enumerate(codes)))
    assert found.codes_of("Condition/c0") == ["phq9//q1"] and found.codes_of("Condition/c1") == ["gad7//q1"]


def test_what_somebody_typed_of_a_patient_stays_out_of_a_vocabulary(converted, fhir, tmp_path):
    def told(i, code, text):
        return fhir.condition(
            f"{code}{i}" if code else f"{text[:4]}{i}", subject={"reference": f"Patient/p{i}"}, code=local(code, text)
        )

    def local(code, text):
        return {"coding": [{"system": "urn:ours", "code": code}], "text": text} if code else {"text": text}

    enough, all_but_one = range(FEWEST_SUBJECTS + 1), range(FEWEST_SUBJECTS - 1)
    events = converted(
        *({"resourceType": "Patient", "id": f"p{i}", "birthDate": "1950-02-01"} for i in enough),
        *(told(i, "D17", None if i else "Fall at Mrs Miller's wedding") for i in enough),
        *(told(i, "D18", "Fall" if i else "Fell over Mrs Miller's dog") for i in enough),
        *(told(i, "", "Fell down Mrs Miller's stairs") for i in all_but_one),
        *(told(i, "", "Fracture") for i in enough),
    ).events
    rows = {row["code"]: (row["description"], row["common"]) for row in events.codes.iter_rows(named=True)}
    assert rows["ours//D17"] == ("Fall at Mrs Miller's wedding", False)
    assert rows["ours//D18"] == ("Fall", True)
    vocabulary = Vocabulary.fit([read_records(events)], min_subjects=1)
    vocabulary.save(tmp_path / "vocabulary.json")
    assert vocabulary.descriptions == {"ours//D18": "Fall", "TEXT//Fracture": "Fracture"}
    assert "Miller" not in (tmp_path / "vocabulary.json").read_text()
