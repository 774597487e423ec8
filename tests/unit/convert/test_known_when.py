"""When a fact could be known: the order of fallbacks, and what is never taken from a later state."""

from datetime import datetime

import pytest


def time_of(found, resource_id):
    times = {event["time"] for event in found.of(resource_id)}
    return times.pop() if len(times) == 1 else times


@pytest.mark.parametrize(
    ("given", "time"),
    [
        ({}, datetime(2020, 1, 1, 10)),
        ({"onsetDateTime": "2019-05-01"}, datetime(2020, 1, 1, 10)),  # recorded later than it began
        ({"onsetDateTime": "2020-02-01"}, datetime(2020, 2, 1, 23, 59, 59, 999999)),  # dated ahead
        ({"recordedDate": None, "onsetDateTime": "2019-05"}, datetime(2019, 5, 31, 23, 59, 59, 999999)),
        (
            {"recordedDate": None, "onsetDateTime": "2019", "encounter": {"reference": "Encounter/e1"}},
            datetime(2020, 1, 5, 12),
        ),
        ({"recordedDate": None, "encounter": {"reference": "Encounter/e1"}}, datetime(2020, 1, 5, 12)),
        ({"recordedDate": None, "onsetPeriod": {"start": "2019-05-01T00:00:00+02:00"}}, datetime(2019, 4, 30, 22)),
    ],
)
def test_condition(converted, fhir, given, time):
    resource = {key: value for key, value in fhir.condition(**given).items() if value is not None}
    assert time_of(converted(fhir.mary, fhir.visit(), resource), "Condition/c1") == time


@pytest.mark.parametrize(
    ("given", "time"),
    [
        ({"issued": "2020-01-02T00:00:00.5Z"}, datetime(2020, 1, 2, 0, 0, 0, 500000)),
        ({"issued": "2019-12-31T00:00:00Z"}, datetime(2020, 1, 1, 10)),
        ({"effectiveDateTime": None, "effectiveInstant": "2020-01-01T10:00:00Z"}, datetime(2020, 1, 1, 10)),
        (
            {"effectiveDateTime": None, "effectivePeriod": {"start": "2020-01-01", "end": "2020-01-03"}},
            datetime(2020, 1, 3, 23, 59, 59, 999999),
        ),
        ({"effectiveDateTime": None, "encounter": {"reference": "Encounter/e1"}}, datetime(2020, 1, 5, 12)),
        ({"effectiveDateTime": None, "effectivePeriod": {"start": "2020-01-01T09:00:00Z"}}, datetime(2020, 1, 1, 9)),
        (
            {
                "effectiveDateTime": None,
                "effectivePeriod": {"start": "2020-01-01T09:00:00Z"},
                "encounter": {"reference": "Encounter/e1"},
            },
            datetime(2020, 1, 5, 12),
        ),
    ],
)
def test_observation(converted, fhir, given, time):
    resource = {key: value for key, value in fhir.observation(**given).items() if value is not None}
    assert time_of(converted(fhir.mary, fhir.visit(), resource), "Observation/o1") == time


def test_without_a_time_it_is_no_event(converted, fhir):
    undated = fhir.condition(recordedDate=None)
    open_visit = fhir.visit("open", status="in-progress", period={"start": "2020-01-01T08:00:00Z"})
    waiting = fhir.condition("c2", recordedDate=None, encounter={"reference": "Encounter/open"})
    found = converted(fhir.mary, undated, open_visit, waiting)
    assert found.coverage["Condition"]["unused"] == {"no_time": 1, "visit_open": 1}
    assert found.codes_of("Encounter/open") == ["VISIT_START//IMP"]


@pytest.mark.parametrize("status", ["planned", "arrived", "triaged", "in-progress", "onleave"])
def test_until_a_visit_is_over_its_end_is_a_plan(converted, fhir, status):
    home = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/discharge-disposition", "code": "home"}]}
    visit = fhir.visit(status=status, reasonCode=[{"text": "Cough"}], hospitalization={"dischargeDisposition": home})
    waiting = fhir.condition(recordedDate=None, encounter={"reference": "Encounter/e1"})
    found = converted(fhir.mary, visit, waiting)
    assert found.codes_of("Encounter/e1") == ([] if status == "planned" else ["VISIT_START//IMP"])
    assert found.coverage["Condition"]["unused"] == {"visit_open": 1}


@pytest.mark.parametrize(
    ("start", "end", "time"),
    [
        ("2020-01-05", "2020-01-05T12:00:00Z", datetime(2020, 1, 5, 12)),
        ("2020-01", "2020-01-05T12:00:00Z", datetime(2020, 1, 5, 12)),
        ("2020-01-05", "2020-01-07T12:00:00Z", datetime(2020, 1, 5, 23, 59, 59, 999999)),
        ("2020-01-05", "2020-01-04T12:00:00Z", datetime(2020, 1, 5, 23, 59, 59, 999999)),  # the end cannot be right
        ("2020-01-05T14:00:00Z", "2020-01-05T12:00:00Z", datetime(2020, 1, 5, 14)),
    ],
)
def test_a_visit_that_begins_on_a_day_does_not_begin_after_its_end(converted, fhir, start, end, time):
    kind = [{"coding": [{"system": "http://snomed.info/sct", "code": "185347001"}]}]
    found = converted(fhir.mary, fhir.visit(type=kind, period={"start": start, "end": end}))
    times = {event["code"]: event["time"] for event in found.of("Encounter/e1")}
    assert times["VISIT_START//IMP"] == times["VISIT_TYPE//SNOMED//185347001"] == time


@pytest.mark.parametrize("code", ["371828006", "419099009"])
def test_dead_at_discharge_in_snomed(converted, fhir, code):
    dead = {"coding": [{"system": "http://snomed.info/sct", "code": code}]}
    found = converted(fhir.mary, fhir.visit(hospitalization={"dischargeDisposition": dead}))
    [event] = [event for event in found.of("Encounter/e1") if event["code"].startswith("DISCHARGE")]
    assert (event["code"], event["source_code"]) == ("DISCHARGE//exp", f"SNOMED//{code}")


def test_what_is_said_at_discharge_is_known_at_discharge(converted, fhir):
    disposition = {"coding": [{"system": "http://www.nubc.org/patient-discharge", "code": "20", "display": "Expired"}]}
    visit = fhir.visit(
        type=[{"coding": [{"system": "http://snomed.info/sct", "code": "185347001"}]}],
        reasonCode=[{"coding": [{"system": "http://snomed.info/sct", "code": "22298006"}]}],
        hospitalization={"dischargeDisposition": disposition},
    )
    found = converted(fhir.mary, visit)
    start, end = datetime(2020, 1, 1, 8), datetime(2020, 1, 5, 12)
    assert {event["code"]: event["time"] for event in found.of("Encounter/e1")} == {
        "VISIT_START//IMP": start,
        "VISIT_TYPE//SNOMED//185347001": start,
        "VISIT_END//IMP": end,
        "VISIT_REASON//SNOMED//22298006": end,
        "DISCHARGE//exp": end,
    }
    assert {event["visit_id"] for event in found.of("Encounter/e1")} == {"e1"}


def test_birth_is_the_first_moment_and_death_the_last_of_a_date(converted, fhir):
    found = converted({**fhir.mary, "birthDate": "1950", "deceasedDateTime": "2020-05-01"})
    times = {event["code"]: event["time"] for event in found.of("Patient/mary")}
    assert times == {
        "GENDER//female": None,
        "MEDS_BIRTH": datetime(1950, 1, 1),
        "MEDS_DEATH": datetime(2020, 5, 1, 23, 59, 59, 999999),
    }


@pytest.mark.parametrize(
    ("deceased", "faults"),
    [
        ({"deceasedBoolean": True}, None),
        ({"deceasedDateTime": "0000-01-01"}, {"impossible_time": 1}),
        ({"deceasedDateTime": "2999-01-01"}, {"implausible_time": 1}),
    ],
)
def test_dead_since_nobody_knows_when_is_a_fact_without_a_time(converted, fhir, deceased, faults):
    found = converted({**fhir.mary, **deceased})
    times = {event["code"]: event["time"] for event in found.of("Patient/mary")}
    assert times == {"GENDER//female": None, "MEDS_BIRTH": datetime(1950, 2, 1), "MEDS_DEATH": None}
    assert found.coverage["Patient"].get("faults") == faults


def test_alive_is_no_death(converted, fhir):
    found = converted({**fhir.mary, "deceasedBoolean": False})
    assert found.codes_of("Patient/mary") == ["GENDER//female", "MEDS_BIRTH"]


def test_the_amount_of_an_infusion_is_not_known_when_it_begins(converted, fhir):
    drug = {"coding": [{"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": "1"}]}
    given = {
        "resourceType": "MedicationAdministration",
        "status": "completed",
        "subject": {"reference": "Patient/mary"},
        "medicationCodeableConcept": drug,
        "dosage": {"dose": {"value": 5, "code": "mg"}},
    }
    bolus = {**given, "id": "bolus", "effectiveDateTime": "2020-01-01T10:00:00Z"}
    drip = {**given, "id": "drip", "effectivePeriod": {"start": "2020-01-01T10:00:00Z", "end": "2020-01-02T10:00:00Z"}}
    ended = {**given, "id": "ended", "effectivePeriod": {"end": "2020-01-02T10:00:00Z"}}
    found = converted(fhir.mary, bolus, drip, ended)
    assert time_of(found, "MedicationAdministration/ended") == datetime(2020, 1, 2, 10)
    assert found.of("MedicationAdministration/bolus")[0]["numeric_value"] == 5
    event = found.of("MedicationAdministration/drip")[0]
    assert event["time"] == datetime(2020, 1, 1, 10)
    assert event["numeric_value"] is None


def test_a_culture_is_not_known_when_its_specimen_is_taken(converted, fhir):
    def micro(key, kind, **more):
        system = f"http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-microbiology-{kind}"
        return fhir.observation(key, code={"coding": [{"system": system, "code": "9"}]}, **more)

    stay = {"encounter": {"reference": "Encounter/e1"}}
    masked = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-NullFlavor", "code": "MSK"}]}
    found = converted(
        fhir.mary,
        fhir.visit(),
        micro("test", "test", valueString="NO GROWTH", **stay),
        micro("plain", "test", **stay),
        micro("masked", "test", valueCodeableConcept=masked, **stay),
        micro("outside", "test", valueString="POSITIVE"),
        micro("grown", "organism", valueString="No susceptibility data present", **stay),
        micro("organism", "organism"),
        micro("resistant", "antibiotic", valueString="R"),
        adapter="mimic_iv",
    )
    taken, over = datetime(2020, 1, 1, 10), datetime(2020, 1, 5, 12)
    known = {
        key: [(event["time"], event["text_value"]) for event in found.of(f"Observation/{key}")]
        for key in ("test", "plain", "masked", "outside", "grown", "organism", "resistant")
    }
    assert known == {
        "test": [(taken, None), (over, "NO GROWTH")],
        "plain": [(taken, None)],
        "masked": [(taken, None)],
        "outside": [(taken, None)],
        "grown": [(over, "No susceptibility data present")],
        "organism": [],
        "resistant": [(taken, "R")],  # dated by its result
    }
    assert found.coverage["Observation"]["unused"] == {"no_time": 1}


def test_a_stray_year_does_not_end_the_export(converted, fhir):
    many = [fhir.observation(f"o{n}", effectiveDateTime=f"2020-01-{n % 28 + 1:02}T10:00:00Z") for n in range(1500)]
    stray = fhir.observation("stray", effectiveDateTime="2062-01-01T10:00:00Z")
    found = converted(fhir.mary, *many, stray)
    assert found.events.export.latest_event == datetime(2020, 1, 28, 10)
    assert len(found.of("Observation/stray")) == 1
