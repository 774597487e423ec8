"""Whole exports: every resource is accounted for. Needs the folder of records."""

from ehr_tl.convert import convert


def check_counts(events) -> int:
    counts = events.coverage["resources"]
    for name, found in counts.items():
        assert found["read"] == found["used"] + sum(found["unused"].values()) + sum(found["set_aside"].values()), name
    aside = sum(sum(found["set_aside"].values()) for found in counts.values())
    assert len((events.folder / "quarantine.ndjson").read_text().splitlines()) == aside
    return sum(found["read"] for found in counts.values())


def test_mimic_demo(data, tmp_path):
    events = convert(data / "mimic_iv_demo_fhir" / "fhir", "mimic_iv", tmp_path / "events")
    assert check_counts(events) == 152_346
    counts = events.coverage["resources"]
    assert not any(found["set_aside"] for found in counts.values())
    assert counts["Condition"]["used"] == 5_051
    assert counts["MedicationRequest"]["used"] == 17_552
    assert counts["Observation"]["unused"] == {"value_absent": 2_107, "no_time": 338}  # no_time: organisms
    frame = events.scan().collect()
    codes = dict(frame["code"].value_counts().iter_rows())
    assert codes["VISIT_START//IMP"] == 275
    assert codes["DISCHARGE//exp"] == 15
    assert codes["MEDS_DEATH"] == 31
    assert events.export.dates_shifted
    assert events.export.patients == 100


def test_synthea_bundles_as_written(data, tmp_path):
    """Transaction Bundles in a zip: urn:uuid references, every resource type, two Bundles without a patient."""
    events = convert(data / "synthea" / "as_written" / "bundles.zip", "synthea", tmp_path / "events")
    assert check_counts(events) == 16_451
    counts = events.coverage["resources"]
    assert counts["Condition"]["used"] == counts["Condition"]["read"] == 701
    assert counts["Observation"]["used"] == counts["Observation"]["read"] == 5_538
    assert counts["Claim"]["unused"] == {"no_view": 1_595}
    assert events.export.patients == 25
    assert events.export.synthetic
