"""When an export ends: what is taken for its last day, and what is not believed."""

import json
from datetime import datetime

import pytest


@pytest.fixture
def clinic(fhir):
    """Sixteen patients with an observation on each of four days."""
    patients = [{**fhir.mary, "id": f"p{n}"} for n in range(16)]
    return patients + [
        fhir.observation(f"o{n}-{day}", subject={"reference": f"Patient/p{n}"}, effectiveDateTime=f"2020-0{day}-01")
        for n in range(16)
        for day in range(1, 5)
    ]


def mistyped(fhir, number: int, year: int = 2062):
    return [
        fhir.observation(f"x{n}", subject={"reference": f"Patient/p{n}"}, effectiveDateTime=f"{year}-01-01")
        for n in range(number)
    ]


def test_a_few_mistyped_years_do_not_end_a_small_export(converted, fhir, clinic, caplog):
    found = converted(*clinic, *mistyped(fhir, 3))
    assert found.events.export.latest_event.date() == datetime(2020, 4, 1).date()
    assert "3 events lie more than a year after all others" in caplog.text
    assert len(found.of("Observation/x0")) == 1


def test_many_late_events_are_the_end(converted, fhir, clinic):
    found = converted(*clinic, *mistyped(fhir, 8, 2022))
    assert found.events.export.latest_event.date() == datetime(2022, 1, 1).date()


def test_of_a_single_patient_nobody_can_tell(converted, fhir):
    found = converted(fhir.mary, fhir.observation(), fhir.observation("o2", effectiveDateTime="2023-01-01"))
    assert found.events.export.latest_event.date() == datetime(2023, 1, 1).date()


@pytest.mark.parametrize(
    ("said", "believed"),
    [
        ("2020-05-01T00:00:00Z", True),
        ("2020-03-15T00:00:00Z", True),
        ("2999-01-01T00:00:00Z", False),
        ("2024-01-01T00:00:00Z", False),
        ("1900-01-01T00:00:00Z", False),
    ],
)
def test_a_manifest_is_believed_where_its_records_agree(converted, tmp_path, clinic, caplog, said, believed):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "manifest.json").write_text(json.dumps({"transactionTime": said, "output": []}))
    export = converted(*clinic).events.export
    assert (export.transaction_time is not None) == believed
    assert export.end == (datetime.fromisoformat(said[:-1]) if believed else export.latest_event)
    assert ("these count" in caplog.text) != believed


@pytest.mark.parametrize("vague", ["2020-11", "2020"])
def test_a_month_or_a_year_does_not_tell_when_an_export_ends(converted, fhir, clinic, vague):
    """Its last moment is when it can be known at the latest, and may lie far ahead."""
    dated = fhir.condition(subject={"reference": "Patient/p1"}, recordedDate=vague)
    found = converted(*clinic, dated)
    assert found.events.export.latest_event.date() == datetime(2020, 4, 1).date()
    assert found.of("Condition/c1")[0]["time"].date() > datetime(2020, 10, 1).date()


@pytest.mark.parametrize("told", ["2020-02", "2020"])
def test_a_death_known_to_the_month_or_year_has_no_time(converted, fhir, told):
    found = converted({**fhir.mary, "deceasedDateTime": told}, fhir.observation())
    (death,) = [event for event in found.of("Patient/mary") if event["code"] == "MEDS_DEATH"]
    assert death["time"] is None
