"""Exports that are made to harm, or by many hands: they cost their own resources and nothing else."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from ehr_tl.convert import convert
from ehr_tl.convert.guess import guess_adapter
from ehr_tl.fhir.export import open_export

RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"


def deep(levels: int) -> str:
    """JSON of so many lists in one another."""
    return "[" * levels + "1" + "]" * levels


def within(resource: dict[str, Any], place: str, text: str) -> str:
    """A resource as JSON, `text` in place of the word that stands for it."""
    written = json.dumps(resource)
    assert written.count(f'"{place}"') == 1
    return written.replace(f'"{place}"', text)


# --- nested deeply ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"meta": {"versionId": "HERE"}},
        {"meta": {"lastUpdated": "HERE"}},
        {"meta": {"profile": "HERE"}},
        {"identifier": [{"system": "HERE", "value": "7"}]},
        {"identifier": [{"system": "urn:mrn", "value": "HERE"}]},
        {"link": [{"type": "replaced-by", "other": {"reference": "HERE"}}]},
        {"extension": [{"url": "urn:x", "extension": "HERE"}]},
        {"contained": ["HERE"]},
        {"text": {"div": "HERE"}},
    ],
)
@pytest.mark.parametrize(("levels", "read"), [(900, True), (1_000, True), (100_000, False)])
def test_a_patient_with_something_deep(converted, fhir, more, levels, read):
    odd = within({**fhir.mary, "id": "odd", **more}, "HERE", deep(levels))
    found = converted(fhir.mary, odd, odd, fhir.observation())
    assert found.codes_of("Observation/o1") == ["LOINC//2345-7"]
    if read:
        assert found.coverage["Patient"]["set_aside"] == {"repeated": 1}
        assert found.codes_of("Patient/odd") == ["GENDER//female", "MEDS_BIRTH"]
    else:
        assert found.coverage["?"]["set_aside"] == {"not_json": 2}


@pytest.mark.parametrize("place", ["verificationStatus", "clinicalStatus", "category", "bodySite", "code"])
def test_a_concept_with_something_deep(converted, fhir, place):
    odd = within(fhir.condition("odd", **{place: {"coding": [{"code": "HERE"}]}}), "HERE", deep(1_000))
    found = converted(fhir.mary, odd, fhir.condition("sound"))
    assert found.coverage["Condition"]["read"] == 2
    assert found.codes_of("Condition/sound") == ["SNOMED//44054006"]


def test_what_is_deep_is_kept_in_full_where_asked(tmp_path, fhir):
    orphan = {"subject": {"reference": "Patient/nobody"}}
    odd = within(fhir.observation("odd", **orphan, note="HERE"), "HERE", deep(1_000))
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "all.ndjson").write_text("\n".join([json.dumps(fhir.mary), odd, deep(2_000)]))
    events = convert(tmp_path / "export", "fhir_r4", tmp_path / "events", keep_quarantined=True)
    first, second = (json.loads(line) for line in (events.folder / "quarantine.ndjson").read_text().splitlines())
    assert first["resource_id"] == "Observation/odd" and first["text"] == odd
    assert second["reason"] == "not_json" and second["text"] == deep(2_000)


def test_a_deep_resource_does_not_keep_an_adapter_from_being_guessed(tmp_path, fhir):
    odd = within({**fhir.mary, "extension": "HERE"}, "HERE", deep(1_000))
    marked = {**fhir.mary, "meta": {"profile": ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-race"]}}
    (tmp_path / "all.ndjson").write_text(f"{odd}\n{json.dumps(marked)}\n")
    assert guess_adapter(tmp_path)[0] == "us_core"


@pytest.mark.parametrize(
    "entries", ['[{{"resource": {0}}}, {{"resource": {1}}}]', '[7, {{"resource": {1}}}, {{"resource": {0}}}]']
)
def test_a_bundle_with_a_deep_entry(tmp_path, fhir, entries):
    odd = within(fhir.observation("odd", note="HERE"), "HERE", deep(600))
    text = f'{{"resourceType": "Bundle", "entry": {entries.format(odd, json.dumps(fhir.mary))}}}'
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "one.json").write_text(text)
    counts = convert(tmp_path / "export", "fhir_r4", tmp_path / "events").coverage["resources"]
    assert counts["Patient"]["used"] == counts["Observation"]["used"] == 1
    assert counts.get("?", {}).get("set_aside") == ({"not_a_resource": 1} if "7" in entries else None)


def test_bundles_in_bundles(converted, fhir):
    text = json.dumps(fhir.mary)
    for _ in range(300):
        text = f'{{"resourceType": "Bundle", "entry": [{{"resource": {text}}}]}}'
    found = converted(text)
    assert found.coverage == {"Patient": {"read": 1, "used": 1, "unused": {}, "set_aside": {}}}


def answers(levels: int) -> str:
    """A QuestionnaireResponse whose items are asked for one another."""
    head = {
        "resourceType": "QuestionnaireResponse",
        "id": f"q{levels}",
        "status": "completed",
        "authored": "2020-01-01",
    }
    head |= {"questionnaire": "urn:q", "subject": {"reference": "Patient/mary"}, "item": "HERE"}
    opened = [
        f'[{{"linkId": "{n}", "answer": [{{"valueCoding": {{"system": "urn:a", "code": "yes"}}}}], "item": '
        for n in range(levels)
    ]
    return within(head, "HERE", "".join(opened) + "[]" + "}]" * levels)


def test_a_questionnaire_without_end(converted, fhir):
    found = converted(fhir.mary, answers(400), answers(10_000))
    assert len(found.codes_of("QuestionnaireResponse/q400")) == 400
    assert found.coverage["?"]["set_aside"] == {"not_json": 1}


# --- in circles -------------------------------------------------------------------------------------------------------


def test_visits_and_observations_that_are_parts_of_themselves(converted, fhir):
    itself = {"reference": "Encounter/e1"}
    parts = [{"reference": "Observation/o1"}]
    found = converted(
        fhir.mary,
        fhir.visit(partOf=itself, episodeOfCare=[itself], diagnosis=[{"condition": itself}]),
        fhir.observation(hasMember=parts, derivedFrom=parts, partOf=parts, encounter=itself, subject=fhir_subject()),
        fhir.observation("o2", subject={"reference": "Observation/o2"}),
        fhir.observation("o3", contained=[fhir.observation("o3")], subject={"reference": "#o3"}),
    )
    assert found.codes_of("Encounter/e1") == ["VISIT_START//IMP", "VISIT_END//IMP"]
    assert found.codes_of("Observation/o1") == ["LOINC//2345-7"]
    assert found.coverage["Observation"]["set_aside"] == {"unknown_patient": 2}


def fhir_subject() -> dict[str, str]:
    return {"reference": "Patient/mary"}


def test_drugs_that_are_mixed_of_one_another(converted, fhir):
    def drug(key, *parts, **more):
        ingredients = [{"itemReference": {"reference": f"Medication/{part}"}} for part in parts]
        return {"resourceType": "Medication", "id": key, "ingredient": ingredients, **more}

    def request(key):
        given = {"status": "active", "intent": "order", "authoredOn": "2020-01-01", "subject": fhir_subject()}
        reference = {"medicationReference": {"reference": f"Medication/{key}"}}
        return {"resourceType": "MedicationRequest", "id": key, **given, **reference}

    plain = drug("plain", code={"coding": [{"system": RXNORM, "code": "1"}]})
    drugs = [drug("self", "self"), drug("a", "b"), drug("b", "a", "plain"), plain]
    found = converted(fhir.mary, *drugs, *map(request, ["self", "a", "b"]))
    assert found.codes_of("MedicationRequest/b") == ["RxNorm//1"]
    assert found.coverage["MedicationRequest"]["unused"] == {"unknown_drug": 2}


def chain(fhir, count: int, closed: bool) -> list[dict]:
    """Patients of whom each was merged into the next; if closed, the last into the first."""
    people = [{**fhir.mary, "id": f"p{number}"} for number in range(count)]
    for number, person in enumerate(people if closed else people[:-1]):
        after = f"Patient/p{(number + 1) % count}"
        person["link"] = [{"type": "replaced-by", "other": {"reference": after}}]
    return people


def test_a_long_chain_of_merged_records_is_one_subject(converted, fhir):
    about = fhir.observation(subject={"reference": "Patient/p0"})
    found = converted(*chain(fhir, 3_000, closed=False), about)
    assert found.coverage["Patient"]["unused"] == {"replaced": 2_999}
    assert found.events.subjects["patient_id"].to_list() == ["p2999"]
    assert found.frame["subject_id"].n_unique() == 1 and found.codes_of("Observation/o1")


def test_a_long_circle_of_merged_records_stays_apart(converted, fhir):
    into = {"link": [{"type": "replaced-by", "other": {"reference": "Patient/p7"}}]}
    found = converted(*chain(fhir, 3_000, closed=True), {**fhir.mary, **into})
    assert found.coverage["Patient"]["used"] == found.events.subjects.height == 3_001


# --- more than there can be -------------------------------------------------------------------------------------------


def test_lists_side_by_side_are_not_multiplied_without_end(converted, fhir):
    many = {"coding": [{"system": "urn:x", "code": str(number)} for number in range(5_000)]}
    found = converted(
        fhir.mary, fhir.observation("odd", code=many, valueCodeableConcept=many), fhir.observation("many", code=many)
    )
    assert found.coverage["Observation"]["set_aside"] == {"does_not_fit": 1}
    assert found.codes_of("Observation/many") == ["x//0"]


@pytest.mark.parametrize(
    "key", ["a/b", "a\nb", "a b", "x" * 100_000, "..", "Patient/mary", "\u202e", "#", "?a|b", "a//b"]
)
def test_ids_that_are_none(converted, fhir, key):
    """An event may bear them, for they are what the hospital wrote; quarantine repeats no words."""
    found = converted(fhir.mary, fhir.observation(key), fhir.observation(key, subject={}), {**fhir.mary, "id": key})
    assert found.coverage["Observation"] == {"read": 2, "used": 1, "unused": {}, "set_aside": {"repeated": 1}}
    named = {"a/b", "#", "?a|b", "a//b"}.isdisjoint([key])  # else no reference can name it
    assert found.coverage["Patient"]["used"] == 1 + named and found.coverage["Patient"]["read"] == 2
    assert found.codes_of(f"Observation/{key}") == ["LOINC//2345-7"]
    shown = f"Observation/{key}" if key.isascii() and key.isprintable() and " " not in key and len(key) < 200 else None
    assert found.quarantine[0]["resource_id"] == shown and len(found.quarantine) == 2 - named


@pytest.mark.parametrize(
    ("value", "events", "aside"),
    [
        ("1e400", 0, "not_json"),
        ("-" + "9" * 5_000, 0, "not_json"),
        ("1e-400", 1, None),
        ("-0", 1, None),
        ("-0.0", 1, None),
        ("0." + "3" * 5_000, 1, None),
        ("123456789012", 1, None),
        ("123456789012345678901234567890", 1, None),  # kept, flagged
        ('"1e999"', 0, "bad_value"),
    ],
)
def test_numbers(converted, fhir, value, events, aside):
    found = converted(fhir.mary, within(fhir.observation(valueQuantity={"value": "HERE"}), "HERE", value))
    assert len(found.codes_of("Observation/o1")) == events
    kind = "?" if aside == "not_json" else "Observation"
    assert found.coverage[kind]["set_aside"] == ({aside: 1} if aside else {})


def test_keys_that_occur_twice_or_in_another_case(converted, fhir):
    """Of equal keys the last counts, as everywhere; others are others."""
    twice = json.dumps(fhir.observation())[:-1] + ', "id": "last", "effectiveDateTime": "2021-01-01"}'
    case = {key.upper() if key == "effectiveDateTime" else key: value for key, value in fhir.observation("c").items()}
    lower = {**fhir.observation("l"), "resourceType": "observation"}
    odd = {**fhir.observation("__proto__"), "__proto__": {"status": "entered-in-error"}, "constructor": 1}
    found = converted(fhir.mary, twice, case, lower, odd)
    assert [event["time"].year for event in found.of("Observation/last")] == [2021]
    assert found.coverage["Observation"]["unused"] == {"no_time": 1}
    assert found.coverage["observation" if "observation" in found.coverage else "?"]["set_aside"] == {
        "not_a_resource": 1
    }
    assert found.codes_of("Observation/__proto__") == ["LOINC//2345-7"]


# --- by many hands ----------------------------------------------------------------------------------------------------


def test_time_zones_in_one_patient(converted, fhir):
    """Written in five places: what happened first comes first, in UTC, and the visit ends when it ended."""
    times = {
        "tokyo": "2020-03-02T08:30:00+09:00",  # 23:30 on the day before
        "london": "2020-03-02T00:15:00Z",
        "newyork": "2020-03-01T20:00:00-05:00",  # 01:00
        "kathmandu": "2020-03-02T07:15:00.250+05:45",  # 01:30 and a quarter of a second
        "apia": "2020-03-02T16:00:00+14:00",  # 02:00
    }
    period = {"start": "2020-03-02T08:00:00+09:00", "end": "2020-03-01T22:00:00-05:00"}
    visit = fhir.visit(period=period)
    undated = fhir.condition(recordedDate=None, encounter={"reference": "Encounter/e1"})
    readings = [fhir.observation(key, effectiveDateTime=time) for key, time in times.items()]
    found = converted(fhir.mary, *readings[::-1], undated, visit)
    rows = {row["resource_id"]: row["time"] for row in found.frame.to_dicts() if row["resource_id"] != "Encounter/e1"}
    assert [rows[f"Observation/{key}"] for key in times] == [
        datetime(2020, 3, 1, 23, 30),
        datetime(2020, 3, 2, 0, 15),
        datetime(2020, 3, 2, 1),
        datetime(2020, 3, 2, 1, 30, 0, 250_000),
        datetime(2020, 3, 2, 2),
    ]
    ordered = found.frame.filter(found.frame["time"] > datetime(2000, 1, 1))["resource_id"].to_list()
    assert ordered == ["Encounter/e1", *(f"Observation/{key}" for key in times), "Condition/c1", "Encounter/e1"]
    assert rows["Condition/c1"] == datetime(2020, 3, 2, 3)


def test_a_day_in_another_zone_than_the_export(converted, fhir):
    """A date ends where the hospital is; the visit it lies in ends before that, and was written elsewhere."""
    visit = fhir.visit(period={"start": "2020-03-01T01:00:00+01:00", "end": "2020-03-01T12:00:00-08:00"})
    inside = fhir.condition(recordedDate="2020-03-01", encounter={"reference": "Encounter/e1"})
    found = converted(fhir.mary, visit, inside)
    ends = [event["time"] for event in found.of("Encounter/e1") if event["code"].startswith("VISIT_END")]
    assert ends == [datetime(2020, 3, 1, 20)]
    assert [event["time"] for event in found.of("Condition/c1")] in (ends, [datetime(2020, 3, 1, 23, 59, 59, 999_999)])


def test_an_identifier_that_all_visits_have(converted, fhir):
    """A placeholder in place of a number names none of them, and costs no more than any other."""
    visits = [fhir.visit(f"e{number}", identifier=[{"system": "urn:v", "value": "0"}]) for number in range(2_000)]
    meant = fhir.condition(recordedDate=None, encounter={"reference": "Encounter?identifier=urn:v|0"})
    found = converted(fhir.mary, *visits, meant)
    assert found.coverage["Encounter"]["used"] == 2_000
    assert found.coverage["Condition"]["unused"] == {"no_time": 1}


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_of_every_kind(tmp_path, fhir):
    """Encodings, endings, links and names that no one should use: what can be read is, the rest is counted."""
    folder = tmp_path / "export"
    (folder / "Patient.ndjson").mkdir(parents=True)
    mary, line = json.dumps(fhir.mary).encode(), lambda key: json.dumps(fhir.observation(key)).encode()
    (folder / "Patient.ndjson" / "Patient.ndjson").write_bytes(mary)
    (folder / "a.ndjson").write_bytes(b"\r\n".join([line("crlf"), line("crlf2"), b""]))
    (folder / "b.ndjson").write_bytes(b"\xef\xbb\xbf" + line("bom") + b"\n\xef\xbb\xbf" + line("bom2") + b"\n")
    (folder / "c.ndjson").write_bytes((line("utf16") + b"\n").decode().encode("utf-16"))
    (folder / "d.ndjson").write_bytes(line("nul") + b"\n" + bytes(5_000))
    (folder / "e.ndjson").write_bytes(b"")
    (folder / "f.ndjson").write_bytes(b"\n \n\t\n\r\n")
    (folder / "g.json").write_bytes(b"")
    (folder / "h.ndjson.gz").write_bytes(b"")
    (folder / "i.ndjson.zst").write_bytes(b"")
    (folder / "loop.ndjson").symlink_to(folder / "loop.ndjson")
    (folder / "round").symlink_to(folder)
    (folder / "linked.ndjson").symlink_to(folder / "a.ndjson")
    (folder / "line\nfeed.ndjson").write_bytes(line("feed"))
    (folder / b"M\xfcller.ndjson".decode(errors="surrogateescape")).write_bytes(line("latin") + b"\nbroken")
    events = convert(folder, "fhir_r4", tmp_path / "events")
    counts = events.coverage["resources"]
    assert counts["Observation"]["used"] == 6  # crlf, crlf2, bom, nul, feed, latin
    assert counts["Observation"]["set_aside"] == {"repeated": 2}  # linked
    rows = [json.loads(row) for row in (events.folder / "quarantine.ndjson").read_text().splitlines()]
    aside = sorted((row["file"], row["line"]) for row in rows if row["reason"] == "not_json")
    assert aside == [("M\\xfcller.ndjson", 2), ("b.ndjson", 2), ("c.ndjson", 1), ("c.ndjson", 2), ("d.ndjson", 2)]
    assert events.coverage["ignored_files"] == ["*.ndjson", "*"]


def test_members_of_a_zip_with_one_name_are_both_read(tmp_path, fhir):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("x.ndjson", json.dumps(fhir.mary))
        archive.writestr("x.ndjson", json.dumps({**fhir.mary, "id": "ann"}) + "\nbroken")
    reads = list(open_export(tmp_path / "a.zip").read())
    assert sorted(read.resource["id"] for read in reads if read.resource) == ["ann", "mary"]
    assert [(read.file, read.line) for read in reads if read.fault] == [("a.zip (2)/x.ndjson", 2)]
    events = convert(tmp_path / "a.zip", "fhir_r4", tmp_path / "events")
    assert events.subjects["patient_id"].sort().to_list() == ["ann", "mary"]


def test_to_keep_what_is_set_aside_changes_nothing_else(tmp_path, fhir):
    """Whether an element that nobody reads is sound does not count, either way."""
    lines = [json.dumps(fhir.mary).encode()]
    spoilt = (b'"\xff"', b'"\\ud800"', b"1e400", b"9" * 5_000)
    lines += [
        within(fhir.observation(f"o{n}", x="HERE"), "HERE", "@").encode().replace(b"@", bad)
        for n, bad in enumerate(spoilt)
    ]
    lines += [
        within(fhir.observation(f"a{n}", x="HERE", subject={}), "HERE", "@").encode().replace(b"@", bad)
        for n, bad in enumerate(spoilt)
    ]
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "all.ndjson").write_bytes(b"\n".join(lines))
    plain = convert(tmp_path / "export", "fhir_r4", tmp_path / "plain")
    kept = convert(tmp_path / "export", "fhir_r4", tmp_path / "kept", keep_quarantined=True)
    assert kept.coverage == plain.coverage and kept.scan().collect().equals(plain.scan().collect())
    rows = {row["resource_id"]: row for row in map(json.loads, (kept.folder / "quarantine.ndjson").open())}
    rows = {row["resource_id"]: row for row in map(json.loads, (kept.folder / "quarantine.ndjson").open())}
    assert rows["Observation/a2"]["reason"] == "no_patient" and '"x": 1e400' in rows["Observation/a2"]["text"]
