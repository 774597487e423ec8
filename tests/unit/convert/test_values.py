"""What an Observation says, in each form that FHIR has for it."""

import pytest

LOINC, SNOMED = "http://loinc.org", "http://snomed.info/sct"


def said(event):
    return event["code"], event["numeric_value"], event["text_value"], event["unit"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"valueQuantity": {"value": 5, "unit": "mg", "code": "mg/dL"}}, ("", 5, None, "mg/dL")),
        ({"valueQuantity": {"value": 5.5, "unit": "mg"}}, ("", 5.5, None, "mg")),
        ({"valueQuantity": {"value": 2, "comparator": "<"}}, ("", 2, "<2", None)),
        ({"valueInteger": 0}, ("", 0, None, None)),
        ({"valueBoolean": True}, ("", 1, None, None)),
        ({"valueBoolean": False}, ("", 0, None, None)),
        ({"valueString": " growth "}, ("", None, "growth", None)),
        ({"valueString": "7.0"}, ("", 7, "7.0", None)),
        ({"valueString": "nan"}, ("", None, "nan", None)),
        ({"valueDateTime": "2019-12"}, ("", None, "2019-12", None)),
        ({"valueCodeableConcept": {"text": "yellow"}}, ("", None, "yellow", None)),
        ({"valueCodeableConcept": {"coding": [{"system": SNOMED, "code": "9"}]}}, ("//SNOMED//9", None, None, None)),
        ({"valueCodeableConcept": {"coding": [{"display": "yellow"}]}}, ("", None, "yellow", None)),
        (
            {"valueCodeableConcept": {"coding": [{"display": "nine"}, {"system": SNOMED, "code": "9"}]}},
            ("//SNOMED//9", None, None, None),
        ),
        ({"hasMember": [{"reference": "Observation/x"}]}, ("", None, None, None)),
    ],
)
def test_forms(converted, fhir, value, expected):
    without_scale = {"coding": [{"system": LOINC, "code": "600-7"}]}
    found = converted(fhir.mary, fhir.observation(code=without_scale, **value))
    [event] = found.of("Observation/o1")
    code, *rest = expected
    assert said(event) == (f"LOINC//600-7{code}", *rest)


def component(*codes, **value):
    return {"code": {"coding": [{"system": system, "code": code} for system, code in codes]}, **value}


def test_components_are_events_of_their_own(converted, fhir):
    pressure = fhir.observation(
        code={"coding": [{"system": LOINC, "code": "85354-9"}]},
        component=[
            component((LOINC, "8480-6"), ("urn:ours", "SYS"), valueQuantity={"value": 120}),
            component((LOINC, "8462-4"), valueQuantity={"value": 80}),
            component((LOINC, "8867-4"), dataAbsentReason={"text": "?"}),
        ],
    )
    found = converted(fhir.mary, pressure)
    assert [said(event)[:2] for event in found.of("Observation/o1")] == [("LOINC//8462-4", 80), ("LOINC//8480-6", 120)]


def test_repeated_and_text_only_components_stay_apart(converted, fhir):
    panel = fhir.observation(
        component=[
            component((LOINC, "1"), ("urn:ours", "A"), valueQuantity={"value": 1}),
            component((LOINC, "1"), ("urn:ours", "A"), valueQuantity={"value": 2}),
            {"code": {"text": "Pulse"}, "valueInteger": 3},
            {"code": {"text": "Pulse"}, "valueInteger": 4},
        ]
    )
    found = converted(fhir.mary, panel)
    assert sorted(event["numeric_value"] for event in found.of("Observation/o1")) == [1, 2, 3, 4]


def test_two_answers_to_one_question_are_two_events(converted, fhir):
    answers = [{"coding": [{"system": SNOMED, "code": code}]} for code in ("1", "2")]
    panel = fhir.observation(
        valueCodeableConcept=answers[0],
        component=[component((LOINC, "2345-7"), valueCodeableConcept=answer) for answer in answers],
    )
    codes = [f"LOINC//2345-7//SNOMED//{code}" for code in ("1", "1", "2")]
    assert converted(fhir.mary, panel).codes_of("Observation/o1") == codes


def test_two_reasons_and_kinds_with_the_same_first_code_stay_apart(converted, fhir):
    def kinds(*second):
        return [{"coding": [{"system": "urn:ours", "code": "X"}, {"system": SNOMED, "code": code}]} for code in second]

    found = converted(fhir.mary, fhir.visit(reasonCode=kinds("1", "2"), type=kinds("3", "4")))
    assert [code for code in found.codes_of("Encounter/e1") if "SNOMED" in code] == [
        "VISIT_TYPE//SNOMED//3",
        "VISIT_TYPE//SNOMED//4",
        "VISIT_REASON//SNOMED//1",
        "VISIT_REASON//SNOMED//2",
    ]


def test_value_and_components_are_both_kept(converted, fhir):
    score = fhir.observation(valueQuantity={"value": 9}, component=[component((LOINC, "9267-6"), valueInteger=4)])
    assert converted(fhir.mary, score).codes_of("Observation/o1") == ["LOINC//2345-7", "LOINC//9267-6"]


def test_several_codings_on_both_sides_are_one_event(converted, fhir):
    answer = {"coding": [{"system": "urn:ours", "code": "NEG"}, {"system": SNOMED, "code": "260385009"}]}
    asked = {"coding": [{"system": "urn:ours", "code": "T"}, {"system": LOINC, "code": "5778-6"}]}
    found = converted(fhir.mary, fhir.observation(code=asked, valueCodeableConcept=answer))
    assert found.codes_of("Observation/o1") == ["LOINC//5778-6//SNOMED//260385009"]
