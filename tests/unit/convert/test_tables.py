"""Tables to events: OMOP, MEDS and spreadsheets, from the folder to the doctor."""

import csv
import json
import random
import shutil
from itertools import islice

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ehr_tl.convert import convert
from ehr_tl.convert.adapter import load_adapter
from ehr_tl.convert.check import left_out
from ehr_tl.convert.guess import guess_adapter
from ehr_tl.doctor import diagnose
from ehr_tl.errors import AdapterError, ExportError
from ehr_tl.fhir.export import open_export
from ehr_tl.resources import bundled, sample_export

HOSPITAL = bundled("adapters") / "omop" / "examples" / "hospital" / "in"
ENGLISH = bundled("adapters") / "spreadsheet" / "examples" / "english" / "in"
DATASET = bundled("adapters") / "meds" / "examples" / "dataset" / "in"


def counted(events):
    """Resources by type; sees to it that they add up and that quarantine names every row that was set aside."""
    resources = events.coverage["resources"]
    for kind, n in resources.items():
        assert n["read"] == n["used"] + sum(n["unused"].values()) + sum(n["set_aside"].values()), kind
    quarantine = (events.folder / "quarantine.ndjson").read_text().splitlines()
    assert len(quarantine) == sum(sum(n["set_aside"].values()) for n in resources.values())
    assert all(json.loads(line)["line"] for line in quarantine)
    return resources


def rows(events):
    frame = events.scan().collect().with_columns(pl.col("other_codes").list.join(" "))
    return sorted(map(str, frame.rows()))


def data_rows(folder):
    """How many rows the CSV files of a folder have."""
    return {path.stem.lower(): len(path.read_text().splitlines()) - 1 for path in folder.glob("*.csv")}


def test_every_row_of_omop_is_accounted_for(tmp_path):
    resources = counted(convert(HOSPITAL, "omop", tmp_path / "events"))
    there = data_rows(HOSPITAL)
    assert resources["?"]["set_aside"] == {"bad_row": 1}
    read = {kind: n["read"] for kind, n in resources.items() if kind != "?"}
    assert read == {
        "Patient": there["person"],
        "Death": there["death"],
        "Encounter": there["visit_occurrence"],
        "Condition": there["condition_occurrence"],
        "MedicationStatement": there["drug_exposure"],
        "Procedure": there["procedure_occurrence"],
        "DeviceUseStatement": there["device_exposure"],
        "Observation": there["measurement"] + there["observation"] - 1,
    }


def test_events_depend_on_no_order_and_no_other_record(tmp_path):
    whole = convert(HOSPITAL, "omop", tmp_path / "whole")
    shuffled = tmp_path / "shuffled"
    shutil.copytree(HOSPITAL, shuffled)
    for path in shuffled.glob("*.csv"):
        header, *lines = path.read_text().splitlines()
        random.Random(7).shuffle(lines)
        path.write_text("\n".join([header, *lines]) + "\n")
    assert rows(convert(shuffled, "omop", tmp_path / "again")) == rows(whole)

    one = tmp_path / "one"
    shutil.copytree(HOSPITAL, one)
    for path in one.glob("*.csv"):
        header, *lines = list(csv.reader(path.read_text().splitlines()))
        if "person_id" in header:
            lines = [line for line in lines if line[header.index("person_id")] == "2"]
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([header, *lines])
    alone = convert(one, "omop", tmp_path / "alone")
    of_two = whole.subjects.filter(pl.col("patient_id") == "2")["subject_id"].item()
    assert rows(alone) == [row for row in rows(whole) if f"({of_two}," in row]


def test_what_is_written_later_changes_no_earlier_event(tmp_path):
    """Ends of conditions and drugs, and birth_datetime, which OMOP fills in, say nothing."""
    before = convert(HOSPITAL, "omop", tmp_path / "before")
    later = tmp_path / "later"
    shutil.copytree(HOSPITAL, later)
    for name in ("condition_occurrence", "drug_exposure", "person"):
        header, *lines = csv.reader((later / f"{name}.csv").read_text().splitlines())
        for place, column in enumerate(header):
            if column.endswith(("_end_date", "_end_datetime", "birth_datetime")):
                for line in lines:
                    if len(line) > place:
                        line[place] = "2031-01-01"
        with (later / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([header, *lines])
    assert rows(convert(later, "omop", tmp_path / "after")) == rows(before)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(data=st.data())
def test_whatever_happens_to_a_file_its_rows_are_counted(tmp_path, data):
    folder = tmp_path / "in"
    shutil.copytree(ENGLISH, folder, dirs_exist_ok=True)
    file = folder / data.draw(st.sampled_from(["labs.csv", "diagnoses.csv", "visits.csv", "medications.csv"]))
    header, _, body = file.read_bytes().partition(b"\n")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        put = data.draw(st.sampled_from([b'"', b",", b"\n", b"\xff", b"\x00", b"9999", b"\r\n", b"T", b"-"]))
        body = body[:at] + put + body[at + data.draw(st.integers(0, 3)) :]
    file.write_bytes(header + b"\n" + body)
    resources = counted(convert(folder, "spreadsheet", tmp_path / "events"))
    whole = b"\n".join(path.read_bytes().partition(b"\n")[2] for path in folder.glob("*.csv"))
    lines = [line.strip(b"\r") for line in whole.split(b"\n")]
    read = sum(kind["read"] for kind in resources.values())
    assert read <= sum(1 for line in lines if line) + whole.count(b"\r")
    # Rows without any value may be left out; a quoted field may span lines.
    assert read >= sum(1 for line in lines if line.strip(b',"\r')) - whole.count(b'"')


def test_a_hospital_says_when_diagnoses_are_written(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "adapter.yaml").write_text(
        "name: own\ntitle: Own\nextends: omop\ntables:\n  condition_occurrence:\n    elements:\n"
        "      recordedDate: {first_of: [condition_start_datetime, condition_start_date], date: true}\n"
    )
    events = convert(HOSPITAL, own, tmp_path / "events").scan().collect()
    times = events.filter(pl.col("resource_id") == "Condition/2")["time"].to_list()
    assert [f"{time:%Y-%m-%d %H:%M}" for time in times] == ["2020-03-08 23:50"]


def test_an_element_is_said_anew_and_tables_can_be_taken_away(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "adapter.yaml").write_text(
        "name: own\ntitle: Own\nextends: spreadsheet\ntables:\n  procedures: null\n  patients:\n    file: people\n"
        "    elements:\n      gender: {fixed: other}\n      deceasedDateTime: null\n"
    )
    shutil.copytree(ENGLISH, tmp_path / "in")
    (tmp_path / "in" / "patients.csv").rename(tmp_path / "in" / "people.csv")
    events = convert(tmp_path / "in", own, tmp_path / "events")
    frame = events.scan().collect()
    assert set(frame.filter(pl.col("code").str.starts_with("GENDER"))["code"]) == {"GENDER//other"}
    assert "MEDS_DEATH" not in frame["code"]
    assert events.coverage["absent_tables"] == ["vitals"]


def test_a_column_for_each_measurement(tmp_path):
    """As README.md of the adapter shows it."""
    text = (bundled("adapters") / "spreadsheet" / "README.md").read_text()
    shown = text.split("empty cells are none:\n\n```yaml\n")[1].split("```")[0]
    own = tmp_path / "own"
    own.mkdir()
    (own / "adapter.yaml").write_text(f"name: own\ntitle: Own\nextends: spreadsheet\ntables:\n{shown}")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "patients.csv").write_text("patient_id,sex,birth_date\n1,f,1950-01-01\n")
    (tmp_path / "in" / "vital_signs.csv").write_text(
        "MRN,TIME,PULSE,TEMPERATURE\n1,2020-01-01 10:00,80,\n1,2020-01-01 11:00,,37.5\n1,2020-01-01 12:00,90,38\n"
        "1,2020-01-01 13:00,,\n"
    )
    events = convert(tmp_path / "in", own, tmp_path / "events")
    assert counted(events)["Observation"] == {"read": 4, "used": 3, "unused": {"no_code": 1}, "set_aside": {}}
    frame = events.scan().filter(pl.col("code").str.starts_with("LOINC")).collect()
    assert frame.select("code", "numeric_value").rows() == [
        ("LOINC//8867-4", 80.0),
        ("LOINC//8310-5", 37.5),
        ("LOINC//8310-5", 38.0),
        ("LOINC//8867-4", 90.0),
    ]


def test_mistakes_of_the_manifest_name_its_key(tmp_path):
    (tmp_path / "adapter.yaml").write_text(
        "name: own\ntitle: Own\nextends: spreadsheet\ntables:\n  labs:\n    elements:\n      id: {colum: X}\n"
    )
    with pytest.raises(AdapterError, match=r"adapter.yaml: tables.labs: elements.id: unknown key 'colum'.*'column'"):
        load_adapter(tmp_path)


def test_what_is_left_out_of_tables():
    found = left_out(ENGLISH, "spreadsheet")
    assert found.columns == {"tables.patients: phone": 4}
    assert found.absent == ("vitals", "procedures")
    assert "tables.patients: phone" in found.text and "555-0100" not in found.text
    assert left_out(DATASET, "meds").columns == {}


def test_tables_are_recognised_by_their_names_and_columns(tmp_path):
    assert guess_adapter(HOSPITAL)[0] == "omop"
    assert guess_adapter(DATASET)[0] == "meds"
    assert guess_adapter(ENGLISH) == ("spreadsheet", "5 of 5 tables looked at have the names and columns it asks for")
    (tmp_path / "wilhelmina.csv").write_text("no,name\n1,Wilhelmina\n")
    assert guess_adapter(tmp_path)[0] == "fhir_r4"
    with pytest.raises(ExportError, match=r"holds tables \(1 file\) and no FHIR.*--from spreadsheet"):
        diagnose(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda folder: (folder / "patients.csv").unlink(), "4 of 4 tables.*no table of patients"),
        (lambda folder: (folder / "labs.csv").write_text("patient_id\n"), "5 of 5 tables.*tables.labs has no column"),
    ],
)
def test_tables_that_almost_fit_are_told_with_what_they_lack(tmp_path, spoil, problem):
    shutil.copytree(ENGLISH, tmp_path / "in")
    spoil(tmp_path / "in")
    with pytest.raises(ExportError, match=rf"looks like spreadsheet \({problem}.*--adapter spreadsheet"):
        diagnose(tmp_path / "in")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"patient_id,sex,birth_date\n", "has no row that can be read."),
        (b"patient_id,sex,birth_date\n1\n", "has no row that can be read (set aside, in all tables: 1 bad_row)."),
    ],
)
def test_a_table_of_patients_without_rows(tmp_path, content, problem):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "patients.csv").write_bytes(content)
    (tmp_path / "in" / "visits.csv").write_bytes(b"")
    with pytest.raises(ExportError) as caught:
        convert(tmp_path / "in", "spreadsheet", tmp_path / "events")
    assert f"The table patients of {tmp_path / 'in'} {problem}" in str(caught.value)


def test_an_empty_table_is_named(tmp_path, caplog):
    shutil.copytree(ENGLISH, tmp_path / "in")
    (tmp_path / "in" / "vitals.csv").write_bytes(b"")
    events = convert(tmp_path / "in", "spreadsheet", tmp_path / "events")
    assert events.coverage["absent_tables"] == ["procedures", "vitals (empty)"]
    assert "Tables that are there and empty: vitals" in caplog.text


def test_the_doctor_reads_tables():
    found = diagnose(HOSPITAL)
    assert found.adapter == "omop"
    assert found.info.patients == 3
    assert {row["system"] for row in found.systems} >= {"SNOMED", "LOINC", "RxNorm", "CVX", "CPT"}


def test_the_same_records_as_fhir_and_as_tables_are_the_same_events(tmp_path):
    """Twenty synthetic patients of the sample; the tables are written from its resources by other means."""
    resources = {"Patient": list(islice(_sample("Patient"), 20))}
    patients = {f"Patient/{each['id']}" for each in resources["Patient"]}
    for kind in ("Encounter", "Condition", "Observation"):
        found = [each for each in _sample(kind) if each["subject"]["reference"] in patients]
        resources[kind] = found if kind != "Observation" else [each for each in found if _VALUES & each.keys()]
    fhir, tables = tmp_path / "fhir", tmp_path / "tables"
    fhir.mkdir()
    tables.mkdir()
    for kind, each in resources.items():
        (fhir / f"{kind}.ndjson").write_text("\n".join(map(json.dumps, each)))
    _as_tables(resources, tables)
    seen = ["subject_id", "time", "code", "numeric_value", "text_value", "visit_id"]
    starts = ("GENDER", "MEDS_", "VISIT_START", "VISIT_END", "SNOMED", "LOINC")
    wanted = pl.any_horizontal(pl.col("code").str.starts_with(start) for start in starts)
    one = convert(fhir, "fhir_r4", tmp_path / "one").scan().filter(wanted).select(seen).collect().sort(pl.all())
    other = convert(tables, "spreadsheet", tmp_path / "other").scan().filter(wanted).select(seen).collect()
    assert one.height > 1000
    assert set(other["code"].str.split("//").list.first()) == {*starts} - {"MEDS_"} | {"MEDS_BIRTH", "MEDS_DEATH"}
    assert other.sort(pl.all()).equals(one)


_VALUES = {"valueQuantity", "valueString"}


def _sample(kind):
    """The sample's resources of a type."""
    export = open_export(sample_export())
    return (read.resource for file in export.files if file.type == kind for read in export.read_file(file))


def _as_tables(resources, folder):
    def after(reference):
        return reference["reference"].rpartition("/")[2] if reference else None

    def coding(resource):
        first = resource["code"]["coding"][0]
        return {"code": first["code"], "code_system": "LOINC" if "loinc" in first["system"] else "SNOMED CT"}

    def about(resource):
        return {"patient_id": after(resource["subject"]), "visit_id": after(resource.get("encounter"))}

    rows = {
        "patients": [
            {
                "patient_id": each["id"],
                "sex": each["gender"][0],
                "birth_date": each["birthDate"],
                "death_date": each.get("deceasedDateTime"),
            }
            for each in resources["Patient"]
        ],
        "visits": [
            {
                "visit_id": each["id"],
                "patient_id": after(each["subject"]),
                "class": each["class"]["code"],
                **each["period"],
            }
            for each in resources["Encounter"]
        ],
        "diagnoses": [
            {**about(each), **coding(each), "recorded": each["recordedDate"], "onset": each["onsetDateTime"]}
            for each in resources["Condition"]
        ],
        "labs": [
            {
                **about(each),
                **coding(each),
                "time": each["effectiveDateTime"],
                "resulted": each["issued"],
                "value": each.get("valueQuantity", {}).get("value", each.get("valueString")),
            }
            for each in resources["Observation"]
        ],
    }
    for name, table in rows.items():
        with (folder / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, table[0].keys(), delimiter="\t", restval="")
            writer.writeheader()
            writer.writerows(table)


@pytest.mark.slow
def test_mimic_as_meds(data, tmp_path):
    """All 916,166 events, set beside the file as polars reads it."""
    folder = data / "mimic_iv_demo_meds"
    events = convert(folder, "meds", tmp_path / "events")
    assert counted(events)["Observation"] == {"read": 916_166, "used": 916_166, "unused": {}, "set_aside": {}}
    assert events.export.patients == 100
    genders = {"GENDER//F": "GENDER//female", "GENDER//M": "GENDER//male"}
    expected = pl.read_parquet(folder / "mimic_iv_demo_meds_events.parquet").select(
        patient_id=pl.col("subject_id").cast(pl.String),
        time="time",
        code=pl.col("code").str.split(" ").list.filter(pl.element() != "").list.join(" ").replace(genders),
        numeric_value="value",
    )
    found = events.scan().collect().join(events.subjects, on="subject_id").select(expected.columns)
    assert found.sort(pl.all()).equals(expected.sort(pl.all()))
