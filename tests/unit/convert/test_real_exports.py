"""Whole exports: every resource is accounted for. Needs the folder of records."""

import json
from collections import Counter

import polars as pl
import pytest

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


@pytest.fixture(scope="module")
def local(data, tmp_path_factory):
    """A hospital with local codes, units and faults, and the truth about them."""
    truth = json.loads((data / "synthea" / "target_local_truth.json").read_text())
    folder = tmp_path_factory.mktemp("local") / "events"
    return convert(data / "synthea" / "target_local", "example_local", folder), truth


@pytest.mark.slow
def test_planted_faults(local):
    events, truth = local
    assert check_counts(events) == sum(truth["lines"].values())
    quarantine = [json.loads(line) for line in (events.folder / "quarantine.ndjson").read_text().splitlines()]
    aside = {
        reason: sorted(line["resource_id"].partition("/")[2] for line in quarantine if line["reason"] == reason)
        for reason in ("unknown_patient", "repeated")
    }
    assert aside == {
        "unknown_patient": truth["orphan_observations"],
        "repeated": truth["repeated_observations"],
    }
    counts = events.coverage["resources"]
    refuted = {f"verification:{status}" for status in ("refuted", "entered-in-error")}
    assert sum(counts["Condition"]["unused"][reason] for reason in refuted & set(counts["Condition"]["unused"])) == len(
        truth["refuted_conditions"]
    )
    assert counts["Observation"]["unused"]["status:entered-in-error"] == len(truth["entered_in_error_observations"])
    assert counts["Patient"]["unused"] == {"replaced": len(truth["merged_patients"])}
    used = {row["resource_id"] for row in events.scan().select("resource_id").unique().collect().to_dicts()}
    assert not used & {f"Condition/{key}" for key in truth["refuted_conditions"]}


@pytest.mark.slow
def test_values_in_other_units_are_on_the_scale_of_other_hospitals(local, data, tmp_path):
    events, truth = local
    frame = events.scan().collect()
    flagged = frame.filter(pl.col("value_flag").is_not_null())
    assert flagged["value_flag"].unique().to_list() == ["implausible"]
    assert sorted(flagged["resource_id"].str.strip_prefix("Observation/")) == truth["implausible_values"]
    assert flagged["numeric_value"].null_count() == len(flagged)

    written = dict(frame["source_unit"].value_counts().iter_rows())
    aside = sum(events.coverage["resources"]["Observation"]["set_aside"].values())
    aside += sum(events.coverage["resources"]["Observation"]["unused"].values())
    for unit, number in truth["values_in_other_units"].items():
        assert number - aside <= written[unit] <= number, unit
    counted = Counter()
    for changes in events.coverage["units"].values():
        counted.update({change.partition(" -> ")[0]: number for change, number in changes.items()})
    assert counted["implausible"] == len(truth["implausible_values"])
    converted = frame.filter(pl.col("value_flag").is_null(), pl.col("source_unit").is_not_null())
    assert counted == {"implausible": 12, **dict(converted["source_unit"].value_counts().iter_rows())}

    other = convert(data / "synthea" / "target_mississippi", "synthea", tmp_path / "other").scan().collect()
    ours, theirs = (
        each.filter(pl.col("numeric_value").is_not_null(), pl.col("code").str.starts_with("LOINC//"))
        .group_by("code", "unit")
        .agg(pl.col("numeric_value").quantile(q).alias(name) for q, name in ((0.25, "low"), (0.75, "high")))
        for each in (frame, other)
    )
    units = ours.select("code", "unit").join(theirs.select("code", their_unit="unit"), on="code")
    assert units.filter(pl.col("unit") != pl.col("their_unit")).is_empty()
    scaled = converted["code"].unique().implode()
    both = ours.filter(pl.col("code").is_in(scaled)).join(theirs, on=["code", "unit"])
    assert both.height >= 17  # those of the hospital's quantities in SI and in customary units that others have, too
    for quartile in ("low", "high"):  # a wrong unit is wrong by more: 0.01 to 0.45 and 2.2 to 386
        ratio = both[quartile] / both[f"{quartile}_right"]
        assert ratio.is_between(0.6, 1.6).all(), both
