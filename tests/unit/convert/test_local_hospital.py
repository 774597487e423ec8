"""A synthetic hospital with local codes, SI units and planted faults, against the file that lists every one of them."""

import io
import json
from collections import Counter

import polars as pl
import pytest
import zstandard

from ehr_tl.convert import convert

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def local(data, tmp_path_factory):
    """The hospital's events, and the truth about them."""
    truth = json.loads((data / "synthea" / "target_local_truth.json").read_text())
    folder = tmp_path_factory.mktemp("local") / "events"
    return convert(data / "synthea" / "target_local", "example_local", folder), truth


@pytest.fixture(scope="module")
def frame(local):
    return local[0].scan().collect()


def ids(frame, kind):
    """Ids of the resources of a type that became events, once for each event."""
    return frame["resource_id"].drop_nulls().str.strip_prefix(f"{kind}/").to_list()


def test_every_line_is_counted_and_every_fault_under_its_own_reason(local):
    events, truth = local
    counts = events.coverage["resources"]
    for name, found in counts.items():
        assert found["read"] == found["used"] + sum(found["unused"].values()) + sum(found["set_aside"].values()), name
    broken = counts.pop("?")
    read = {name: found["read"] for name, found in counts.items()}
    read["Observation"] += broken["read"]  # a line that is cut off has no type
    assert read == truth["lines"]
    assert all(found["used"] for found in counts.values())

    aside = {name: found["set_aside"] for name, found in counts.items() if found["set_aside"]}
    assert broken["set_aside"] == {"not_json": 2}
    assert aside == {
        "Observation": {
            "no_patient": 1,  # the third broken line: JSON, and nothing but its type
            "repeated": len(truth["repeated_observations"]),
            "unknown_patient": len(truth["orphan_observations"]),
        }
    }
    assert truth["broken_lines"]["Observation.ndjson.zst"] == 2 + 1
    denied = {reason: n for reason, n in counts["Condition"]["unused"].items() if reason.startswith("verification:")}
    assert denied.keys() <= {"verification:refuted", "verification:entered-in-error"}
    assert sum(denied.values()) == len(truth["refuted_conditions"])
    assert counts["Observation"]["unused"]["status:entered-in-error"] == len(truth["entered_in_error_observations"])
    assert counts["Patient"]["unused"] == {"replaced": len(truth["merged_patients"])}


def test_quarantine_names_each_that_was_set_aside(local):
    events, truth = local
    lines = [json.loads(line) for line in (events.folder / "quarantine.ndjson").read_text().splitlines()]
    found = {}
    for line in lines:
        assert line["file"] == "Observation.ndjson.zst" and line["line"] > 0
        found.setdefault(line["reason"], []).append((line["resource_id"] or "").removeprefix("Observation/"))
    assert {reason: sorted(names) for reason, names in found.items()} == {
        "unknown_patient": truth["orphan_observations"],
        "repeated": truth["repeated_observations"],
        "not_json": ["", ""],
        "no_patient": [""],
    }


def test_events_are_of_what_can_be_believed_once_each(local, frame):
    _, truth = local
    observations = Counter(ids(frame.filter(pl.col("resource_id").str.starts_with("Observation/")), "Observation"))
    assert all(observations[key] == 1 for key in truth["repeated_observations"])
    assert not observations.keys() & {*truth["orphan_observations"], *truth["entered_in_error_observations"]}
    conditions = {*ids(frame.filter(pl.col("resource_id").str.starts_with("Condition/")), "Condition")}
    assert not conditions & set(truth["refuted_conditions"])


def test_people_registered_twice_are_one_subject(local, frame):
    events, truth = local
    people = dict(events.subjects.select("patient_id", "subject_id").iter_rows())
    assert len(people) == events.export.patients == truth["lines"]["Patient"] - len(truth["merged_patients"])
    assert not people.keys() & truth["merged_patients"].keys()
    born = frame.filter(pl.col("code") == "MEDS_BIRTH")
    assert born.height == len(people) == frame["subject_id"].n_unique()


def test_visits_are_named_where_the_hospital_names_them(local, frame):
    events, truth = local
    seen = frame.filter(pl.col("resource_id").str.starts_with("Observation/")).unique("resource_id")
    without = seen["visit_id"].null_count()
    left = events.coverage["resources"]["Observation"]
    aside = left["read"] - left["used"]
    assert truth["observations_without_encounter"] - aside <= without <= truth["observations_without_encounter"]


def test_codes_by_what_the_maps_say_of_them(local, data):
    """Panels, whose components are the events, make no event of their own and are counted from the export."""
    events, truth = local
    said = {
        system: {outcome: found[outcome]["codes"] for outcome in ("mapped", "unmatched", "absent")}
        for system, found in events.coverage["concept_maps"].items()
    }
    assert said["HospitalDiagnosis"] == truth["concept_map_diagnosis"]
    unmapped = truth["concept_map_diagnosis"]["unmatched"] + truth["concept_map_diagnosis"]["absent"]
    assert events.coverage["unmapped"]["HospitalDiagnosis"]["codes"] == unmapped
    singles, panels = set(), set()
    packed = data / "synthea" / "target_local" / "Observation.ndjson.zst"
    with packed.open("rb") as stream:
        for line in io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(stream)):
            try:
                resource = json.loads(line)
            except ValueError:
                continue
            parts = resource.get("component", [])
            codings = [coding["code"] for coding in resource.get("code", {}).get("coding", [])]
            (panels if parts else singles).update(codings)
            singles.update(part["code"]["coding"][0]["code"] for part in parts)
    given = data / "synthea" / "target_local_maps" / "ConceptMap-observation.json"
    (element,) = (each["element"] for each in json.loads(given.read_text())["group"])
    listed = {each["code"]: each["target"][0]["equivalence"] for each in element}
    for panel in panels - singles:
        outcome = {None: "absent", "unmatched": "unmatched"}.get(listed.get(panel), "mapped")
        said["HospitalObservation"][outcome] += 1
    assert said["HospitalObservation"] == truth["concept_map_observation"]


def test_values_in_other_units_are_on_the_scale_of_other_hospitals(local, frame, data, tmp_path):
    events, truth = local
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
