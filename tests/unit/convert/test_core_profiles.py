"""What the base adapter, US Core and the International Patient Summary read, when it was known, and what they leave."""

import copy
import json
from datetime import datetime

import polars as pl
import pytest

from ehr_tl.convert import convert
from ehr_tl.convert.guess import guess_adapter
from ehr_tl.resources import sample_export

SNOMED, LOINC = "http://snomed.info/sct", "http://loinc.org"
CPT, ATC = "http://www.ama-assn.org/go/cpt", "http://www.whocc.no/atc"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/"
ASSERTED = "http://hl7.org/fhir/StructureDefinition/condition-assertedDate"
MARY = {"reference": "Patient/mary"}
BREAST_CANCER = {"coding": [{"system": SNOMED, "code": "254837009", "display": "Malignant neoplasm of breast"}]}


def concept(system, code, **more):
    return {"coding": [{"system": system, "code": code, **more}]}


def everything(events) -> str:
    """All that an events folder says, as text."""
    frame = events.scan().collect().with_columns(pl.col("other_codes").list.join(" "))
    codes = events.codes.with_columns(pl.col("parent_codes").list.join(" "))
    return frame.write_csv() + codes.write_csv() + json.dumps(events.coverage)


# Family history


def relative(key="f1", **more):
    return {
        "resourceType": "FamilyMemberHistory",
        "id": key,
        "status": "completed",
        "patient": MARY,
        "date": "2020-01-01T10:00:00Z",
        "name": "Agnes Miller",
        "relationship": {"text": "mother"},
        "condition": [{"code": BREAST_CANCER, "onsetAge": {"value": 44, "unit": "a"}}],
    } | more


def test_a_relatives_disease_is_not_the_patients(converted, fhir):
    found = converted(fhir.mary, relative())
    [event] = found.of("FamilyMemberHistory/f1")
    assert (event["code"], event["time"]) == ("FAMILY_HISTORY//SNOMED//254837009", datetime(2020, 1, 1, 10))
    assert (event["numeric_value"], event["text_value"]) == (None, None)
    assert "Miller" not in everything(found.events)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"status": "entered-in-error"}, "status:entered-in-error"),
        ({"status": "health-unknown"}, "status:health-unknown"),
        ({"condition": [{"code": concept(SNOMED, "160266009")}]}, "nothing_known"),
        ({"condition": []}, "no_rows"),
        ({"date": None}, "no_time"),
    ],
)
def test_no_family_history(converted, fhir, given, reason):
    found = converted(fhir.mary, {key: value for key, value in relative(**given).items() if value is not None})
    assert found.coverage["FamilyMemberHistory"]["unused"] == {reason: 1}


def test_each_disease_of_a_relative_is_an_event(converted, fhir):
    more = [{"code": BREAST_CANCER}, {"code": {"text": "Gout"}}, {"code": {"text": "Gout"}}]
    found = converted(fhir.mary, relative(condition=more, status="partial"))
    gout = "FAMILY_HISTORY//TEXT//Gout"
    assert sorted(found.codes_of("FamilyMemberHistory/f1")) == ["FAMILY_HISTORY//SNOMED//254837009", gout, gout]


# Questionnaires


def item(link, *answers, text=None, **more):
    given = {"linkId": link, "answer": list(answers), **more}
    return {**given, "text": text} if text else given


def choice(code, **more):
    return {"valueCoding": {"system": "http://a.example/answers", "code": code, **more.pop("coding", {})}, **more}


def response(*items, key="q1", **more):
    given = {
        "resourceType": "QuestionnaireResponse",
        "id": key,
        "questionnaire": "http://a.example/Questionnaire/intake",
        "status": "completed",
        "subject": MARY,
        "authored": "2020-01-01T10:00:00Z",
        "item": list(items),
    } | more
    return {key: value for key, value in given.items() if value is not None}


def test_answers_at_any_depth(converted, fhir):
    deepest = item("deepest", choice("c"))
    nested = {"linkId": "group", "item": [{"linkId": "inner", "item": [item("b", choice("b", item=[deepest]))]}]}
    found = converted(fhir.mary, response(item("a", choice("a")), nested))
    events = found.of("QuestionnaireResponse/q1")
    assert sorted(event["code"] for event in events) == [
        "intake//a//answers//a",
        "intake//b//answers//b",
        "intake//deepest//answers//c",
    ]
    assert {event["time"] for event in events} == {datetime(2020, 1, 1, 10)}


@pytest.mark.parametrize(
    "items",
    [
        [item("a", choice("x"), choice("y"))],  # several may be chosen
        [item("a", choice("x")), item("a", choice("y"))],  # a question asked anew
        [item("a", choice("x"), text="Where?"), item("a", choice("y"), text="Where?")],
    ],
)
@pytest.mark.parametrize("questionnaire", ["http://a.example/Questionnaire/intake", None])
def test_every_answer_is_an_event(converted, fhir, items, questionnaire):
    found = converted(fhir.mary, response(*items, questionnaire=questionnaire))
    answers = [code.rpartition("//")[2] for code in found.codes_of("QuestionnaireResponse/q1")]
    assert sorted(answers) == ["x", "y"]


def test_neighbours_with_one_answer_stay_apart(converted, fhir):
    found = converted(fhir.mary, response(item("a", choice("no")), item("b", choice("no"))))
    assert sorted(found.codes_of("QuestionnaireResponse/q1")) == ["intake//a//answers//no", "intake//b//answers//no"]


def test_a_question_without_a_questionnaire_is_its_words(converted, fhir):
    items = [item("1", choice("no"), text="Do you smoke?"), item("2", choice("no"))]
    found = converted(fhir.mary, response(*items, questionnaire=None))
    assert sorted(found.codes_of("QuestionnaireResponse/q1")) == [
        "LOCAL//2//answers//no",
        "TEXT//Do you smoke?//answers//no",
    ]


def test_a_question_is_described_by_its_words_and_never_by_an_answer(converted, fhir):
    found = converted(fhir.mary, response(item("a", choice("x"), text="Where?"), item("b", choice("y"))))
    codes = dict(found.events.codes.select("code", "description").iter_rows())
    assert (codes["intake//a"], codes["intake//b"]) == ("Where?", "b")


def test_what_somebody_typed_is_read_nowhere(converted, fhir):
    typed = "My neighbour Mrs Smith"
    answers = [{"valueString": typed}, {"valueCoding": {"display": typed}}, {"valueText": typed}]
    found = converted(fhir.mary, response(item("a", *answers, choice("x"))))
    assert found.codes_of("QuestionnaireResponse/q1") == ["intake//a//answers//x"]
    assert "Smith" not in everything(found.events)


@pytest.mark.parametrize(
    ("given", "unused"),
    [
        ({"status": "completed"}, {}),
        ({"status": "amended"}, {}),
        ({"status": "in-progress"}, {"status:in-progress": 1}),
        ({"status": "stopped"}, {"status:stopped": 1}),
        ({"status": "entered-in-error"}, {"status:entered-in-error": 1}),
        ({"authored": None}, {"no_time": 1}),
        ({"item": [item("a", {"valueDecimal": 7})]}, {"no_rows": 1}),
        ({"subject": {"reference": "Organization/ward"}}, {"not_a_patient": 1}),
    ],
)
def test_which_responses_count(converted, fhir, given, unused):
    found = converted(fhir.mary, response(item("a", choice("x")), **given))
    assert found.coverage["QuestionnaireResponse"]["unused"] == unused


# Reports


def report(**more):
    return {
        "resourceType": "DiagnosticReport",
        "id": "r1",
        "status": "final",
        "code": concept(LOINC, "36643-5"),
        "subject": MARY,
        "effectiveDateTime": "2020-01-01T10:00:00Z",
        "issued": "2020-01-03T08:00:00Z",
        "conclusionCode": [concept(SNOMED, "233604007"), BREAST_CANCER],
    } | more


@pytest.mark.parametrize("status", ["final", "amended", "corrected", "appended"])
def test_what_a_report_concludes_is_known_when_it_is_issued(converted, fhir, status):
    found = converted(fhir.mary, report(status=status)).of("DiagnosticReport/r1")
    assert sorted(event["code"] for event in found) == ["LOINC//36643-5", "SNOMED//233604007", "SNOMED//254837009"]
    assert {event["time"] for event in found} == {datetime(2020, 1, 3, 8)}


@pytest.mark.parametrize("status", ["partial", "preliminary", "unknown"])
def test_what_a_report_concludes_before_it_is_final_does_not_count(converted, fhir, status):
    assert converted(fhir.mary, report(status=status)).codes_of("DiagnosticReport/r1") == ["LOINC//36643-5"]


@pytest.mark.parametrize("status", ["registered", "cancelled", "entered-in-error"])
def test_no_report(converted, fhir, status):
    found = converted(fhir.mary, report(status=status))
    assert found.coverage["DiagnosticReport"]["unused"] == {f"status:{status}": 1}


# Observations


def variant(answer, code="69548-6"):
    gene = {
        "code": concept(LOINC, "48018-6"),
        "valueCodeableConcept": concept("http://www.genenames.org/geneId", "HGNC:1100"),
    }
    return {
        "resourceType": "Observation",
        "id": "v1",
        "status": "final",
        "code": concept(LOINC, code),
        "subject": MARY,
        "issued": "2020-01-01T10:00:00Z",
        "valueCodeableConcept": concept(LOINC, answer),
        "component": [gene],
    }


def test_a_variant_that_was_found(converted, fhir):
    found = converted(fhir.mary, variant("LA9633-4")).codes_of("Observation/v1")
    assert sorted(found) == ["LOINC//48018-6//HGNC//HGNC:1100", "LOINC//69548-6//LOINC//LA9633-4"]


@pytest.mark.parametrize("answer", ["LA9634-2", "LA18198-4", "LA11884-6"])
def test_what_was_looked_for_in_vain_is_not_there(converted, fhir, answer):
    found = converted(fhir.mary, variant(answer)).codes_of("Observation/v1")
    assert found == [f"LOINC//69548-6//LOINC//{answer}"]


def test_components_of_other_observations_stay(converted, fhir):
    assert len(converted(fhir.mary, variant("LA9634-2", code="1234-5")).codes_of("Observation/v1")) == 2


def test_a_device_is_known_by_its_use(converted, fhir):
    """Since when somebody has a Device it does not say; who uses it, does."""
    device = {"resourceType": "Device", "id": "d1", "patient": MARY, "type": concept(SNOMED, "14106009")}
    assert converted(fhir.mary, device).coverage["Device"]["unused"] == {"not_referenced": 1}
    use = {"resourceType": "DeviceUseStatement", "id": "u1", "status": "active", "subject": MARY}
    use |= {"device": {"reference": "Device/d1"}, "timingPeriod": {"start": "2018-03-01"}, "recordedOn": "2019-01-10"}
    found = converted(fhir.mary, device, use, folder="used")
    (event,) = found.of("DeviceUseStatement/u1")
    assert (event["code"], str(event["time"])[:10]) == ("SNOMED//14106009", "2019-01-10")
    assert found.coverage["Device"] == {"read": 1, "used": 1, "unused": {}, "set_aside": {}}


# Conditions


@pytest.mark.parametrize(
    ("given", "time"),
    [
        ({}, datetime(2020, 1, 1, 10)),
        ({"recordedDate": None}, datetime(2020, 1, 3, 23, 59, 59, 999999)),
        ({"recordedDate": None, "onsetDateTime": "2019"}, datetime(2020, 1, 3, 23, 59, 59, 999999)),
        ({"recordedDate": None, "onsetDateTime": "2020-01-04T09:00:00Z"}, datetime(2020, 1, 4, 9)),
    ],
)
def test_when_a_diagnosis_was_asserted(converted, fhir, given, time):
    said = {"extension": [{"url": ASSERTED, "valueDateTime": "2020-01-03"}], "encounter": {"reference": "Encounter/e1"}}
    resource = {key: value for key, value in fhir.condition(**said, **given).items() if value is not None}
    assert [event["time"] for event in converted(fhir.mary, fhir.visit(), resource).of("Condition/c1")] == [time]


# US Core


def test_race_and_ethnicity_change_nothing(converted, fhir):
    def patient(text):
        extension = [{"url": US_CORE + name, "extension": [{"url": "text", "valueString": text}]} for name in RACES]
        return {**fhir.mary, "extension": [*extension, {"url": US_CORE + "us-core-birthsex", "valueCode": "F"}]}

    asked = fhir.observation("race", code=concept(LOINC, "32624-9"), valueCodeableConcept=concept(LOINC, "LA4457-3"))
    answered = response(item("/56051-6", {"valueCoding": {"system": LOINC, "code": "LA33-6"}}))
    with_it = converted(patient("White"), asked, answered, adapter="us_core", folder="one")
    without = converted(patient("Black"), adapter="us_core", folder="two")
    assert with_it.frame.equals(without.frame)


RACES = ("us-core-race", "us-core-ethnicity")


@pytest.mark.parametrize(
    ("codings", "time"),
    [
        ([(SNOMED, "185349003")], datetime(2020, 1, 1, 8)),
        ([(CPT, "99223")], datetime(2020, 1, 5, 12)),
        ([(SNOMED, "32485007"), (CPT, "99223")], datetime(2020, 1, 5, 12)),
        ([("https://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets", "G0378")], datetime(2020, 1, 5, 12)),
    ],
)
def test_how_a_visit_is_billed_is_known_at_its_end(converted, fhir, codings, time):
    kind = {"coding": [{"system": system, "code": code} for system, code in codings]}
    visit = fhir.visit(type=[kind])
    closed = converted(fhir.mary, visit, adapter="us_core", folder="closed").of("Encounter/e1")
    assert [event["time"] for event in closed if event["code"].startswith("VISIT_TYPE")] == [time]
    going_on = {**visit, "status": "in-progress", "period": {"start": visit["period"]["start"]}}
    early = converted(fhir.mary, going_on, adapter="us_core", folder="open")
    known = [code for code in early.codes_of("Encounter/e1") if code.startswith("VISIT_TYPE")]
    assert bool(known) == (time == datetime(2020, 1, 1, 8))
    assert "CPT" not in everything(early.events)


def order(**more):
    given = {
        "resourceType": "MedicationRequest",
        "id": "m1",
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": concept(RXNORM, "1187314"),
        "subject": MARY,
        "authoredOn": "2020-01-02T10:00:00Z",
    } | more
    return {key: value for key, value in given.items() if value is not None}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, None),
        ({"reportedBoolean": True}, None),
        ({"intent": "plan", "reportedBoolean": True}, None),
        ({"intent": "plan", "reportedReference": {"reference": "RelatedPerson/r"}}, None),
        ({"intent": "plan"}, "planned:true"),
        ({"intent": "plan", "reportedBoolean": False}, "planned:true"),
        ({"intent": "proposal", "reportedBoolean": True}, "intent:proposal"),
        ({"intent": "option"}, "intent:option"),
        ({"doNotPerform": True}, "withheld:true"),
        ({"status": "draft"}, "status:draft"),
        ({"authoredOn": None}, "no_time"),
    ],
)
def test_drugs_that_patients_report_are_no_plans(converted, fhir, given, reason):
    found = converted(fhir.mary, order(**given), adapter="us_core")
    assert found.coverage["MedicationRequest"]["unused"] == ({reason: 1} if reason else {})


def test_an_undated_order_is_known_when_its_visit_is_over(converted, fhir):
    undated = order(authoredOn=None, encounter={"reference": "Encounter/e1"})
    [event] = converted(fhir.mary, fhir.visit(), undated, adapter="us_core").of("MedicationRequest/m1")
    assert event["time"] == datetime(2020, 1, 5, 12)


@pytest.mark.parametrize(
    "system", ["http://www.nubc.org/patient-discharge", "https://www.nubc.org/CodeSystem/PatDischargeStatus"]
)
def test_both_names_of_discharge_codes(converted, fhir, system):
    dead = fhir.visit(hospitalization={"dischargeDisposition": concept(system, "20")})
    [event] = [
        event
        for event in converted(fhir.mary, dead, adapter="us_core").of("Encounter/e1")
        if event["code"].startswith("DISCHARGE")
    ]
    assert (event["code"], event["source_code"]) == ("DISCHARGE//exp", "NUBC//20")


def test_synthea_bears_the_marks_of_us_core_and_is_synthea():
    assert guess_adapter(sample_export())[0] == "synthea"


# International Patient Summary


def document(*entries):
    patient = {"resourceType": "Patient", "gender": "female", "birthDate": "1968"}
    written = {"resourceType": "Composition", "date": "2023-11-20", "subject": {"reference": "urn:uuid:p"}}
    resources = [("urn:uuid:c", written), ("urn:uuid:p", patient), *entries]
    entry = [{"fullUrl": url, "resource": resource} for url, resource in resources]
    return {"resourceType": "Bundle", "type": "document", "entry": copy.deepcopy(entry)}


@pytest.fixture
def summary(tmp_path):
    def run(*entries):
        (tmp_path / "export").mkdir()
        (tmp_path / "export" / "summary.json").write_text(json.dumps(document(*entries)))
        return convert(tmp_path / "export", "ips", tmp_path / "events")

    return run


def test_a_document_without_ids(summary):
    both = {"coding": [{"system": SNOMED, "code": "108774000"}, {"system": ATC, "code": "L02BG03"}]}
    drug = {"resourceType": "Medication", "code": both}
    taken = {
        "resourceType": "MedicationStatement",
        "status": "active",
        "subject": {"reference": "urn:uuid:p"},
        "medicationReference": {"reference": "urn:uuid:m"},
        "effectivePeriod": {"start": "2015-03"},
    }
    found = summary(("urn:uuid:s", taken), ("urn:uuid:m", drug))
    [event] = found.scan().filter(pl.col("code").str.starts_with("ATC")).collect().to_dicts()
    assert (event["code"], event["other_codes"]) == ("ATC//L02BG03", ["SNOMED//108774000"])
    assert event["time"] == datetime(2015, 3, 31, 23, 59, 59, 999999)


@pytest.mark.parametrize("system", ["absent-unknown-uv-ips", "absent-unknown"])
@pytest.mark.parametrize("code", ["no-known-problems", "no-problem-info"])
def test_nothing_known_is_no_event(summary, system, code):
    none = {
        "resourceType": "Condition",
        "subject": {"reference": "urn:uuid:p"},
        "recordedDate": "2023-11-20",
        "code": concept(f"http://hl7.org/fhir/uv/ips/CodeSystem/{system}", code),
    }
    assert summary(("urn:uuid:n", none)).coverage["resources"]["Condition"]["unused"] == {"nothing_known": 1}


def test_a_reason_in_place_of_a_date_is_no_date(summary):
    unknown = {
        "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]
    }
    taken = {
        "resourceType": "MedicationStatement",
        "status": "active",
        "subject": {"reference": "urn:uuid:p"},
        "medicationCodeableConcept": concept(ATC, "B01AC06"),
        "_effectiveDateTime": unknown,
    }
    assert summary(("urn:uuid:s", taken)).coverage["resources"]["MedicationStatement"]["unused"] == {"no_time": 1}
