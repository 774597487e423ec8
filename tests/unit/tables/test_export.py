"""Which files are which tables, and what a table export yields."""

import gc
import pickle
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_tl.config import build
from ehr_tl.errors import AdapterError, ExportError
from ehr_tl.fhir.export import open_export
from ehr_tl.tables.export import _finder, open_tables
from ehr_tl.tables.spec import LookUp, Table

PATIENTS = {"resource": "Patient", "elements": {"id": "MRN"}}
LABS = {
    "resource": "Observation",
    "elements": {
        "subject.reference": {"column": "MRN", "pattern": "Patient/{}"},
        "code": {"column": "TEST", "look_up": "tests", "empty": ["0"]},
    },
}
TESTS = {"key": "NO", "elements": {"code": {"first_of": ["NAME", "NO"]}}}


def opened(folder, look_ups=(), **tables):
    made = {name: build(Table, raw, name, AdapterError) for name, raw in tables.items()}
    joined = {name: build(LookUp, raw, name, AdapterError) for name, raw in dict(look_ups).items()}
    return open_tables(open_export(folder), made, joined)


@pytest.fixture
def folder(tmp_path):
    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_csv", ".csv")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_rows_become_resources_with_file_and_line(folder):
    export = opened(folder(patients_csv="MRN\n1\n2\n"), patients=PATIENTS)
    assert [(r.resource, r.type, r.file, r.line, r.fault) for r in export.read()] == [
        ({"resourceType": "Patient", "id": "1"}, "Patient", "patients.csv", 2, None),
        ({"resourceType": "Patient", "id": "2"}, "Patient", "patients.csv", 3, None),
    ]


def test_files_are_found_by_name_and_others_left_alone(folder, tmp_path):
    folder(
        PATIENTS_csv="mrn\n1\n",
        labs__part1_csv="MRN,TEST\n1,a\n",
        labs__part2_csv="MRN,TEST\n1,b\n",
        other_csv="x\n1\n",
        labs_old_csv="x\n1\n",
    )
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "one.ndjson").write_text('{"resourceType": "Patient", "id": "9"}\n')
    export = opened(tmp_path, {"tests": TESTS}, patients=PATIENTS, labs=LABS, vitals=LABS)
    assert [file.name for file in export.files] == ["PATIENTS.csv", "labs/part1.csv", "labs/part2.csv"]
    assert export.ignored == ("labs_old.csv", "notes.txt", "one.ndjson", "other.csv")
    assert export.absent == ("tests", "vitals")


def test_patients_that_are_absent_are_an_error_without_names_of_files(folder):
    with pytest.raises(
        ExportError, match=r"no table of patients \(1 of its files.*patients.*\.csv or \.parquet"
    ) as caught:
        opened(folder(wilhelmina_csv="MRN\n1\n"), patients=PATIENTS)
    assert "wilhelmina" not in str(caught.value)


def test_fhir_is_told_from_tables(folder):
    with pytest.raises(ExportError, match=r"but FHIR.*1 file\).*--adapter fhir_r4.*ehr-tl doctor"):
        opened(folder(**{"Patient.ndjson": '{"resourceType": "Patient", "id": "9"}\n'}), patients=PATIENTS)


def test_tables_without_a_header_are_named(folder):
    folder(patients_csv="MRN\n1\n", labs_csv="", vitals__1_csv="", vitals__2_csv="MRN,TEST\n")
    export = opened(folder(), {"tests": TESTS}, patients=PATIENTS, labs=LABS, vitals=LABS)
    assert export.empty == ("labs",) and export.absent == ("tests", "labs (empty)")


def test_a_column_that_is_absent_is_an_error_before_anything_is_read(folder):
    with pytest.raises(ExportError, match=r"tables.labs has no column TEST; it has MRN, RESULT") as caught:
        folder(patients_csv="MRN\n", labs__wilhelmina_csv="MRN,RESULT\n")
        opened(folder(), {"tests": TESTS}, patients=PATIENTS, labs=LABS)
    assert "wilhelmina" not in str(caught.value)


@pytest.mark.parametrize("line", ["MRN\rTEST", "MRN," + "x" * 200_000], ids=["line ends", "long"])
def test_a_first_line_that_is_no_header_is_an_error(folder, line):
    folder(patients_csv="MRN\n1\n", labs__wilhelmina_csv=f"{line}\n")
    with pytest.raises(ExportError, match=r"file of tables.labs is no header") as caught:
        opened(folder(), {"tests": TESTS}, patients=PATIENTS, labs=LABS)
    assert "wilhelmina" not in str(caught.value)


def test_columns_that_nothing_is_taken_from(folder):
    export = opened(folder(patients_csv="MRN,PHONE\n1,2\n"), patients=PATIENTS)
    assert export.unused == (("patients.csv", "tables.patients", "PHONE"),)


def test_only_rows_that_are_asked_for_are_looked_up(folder):
    folder(
        patients_csv="MRN\n1\n",
        labs_csv="MRN,TEST\n1,7\n1,8\n1,0\n1,9\n1,7\n",
        tests_csv="NO,NAME\n7,Glucose\n7,Another\n8,\n6,Never asked for\n5\n",
    )
    export = opened(folder(), {"tests": TESTS}, patients=PATIENTS, labs=LABS)
    codes = [read.resource.get("code") for read in export.read() if read.type == "Observation"]
    assert codes == [{"code": "Glucose"}, {"code": "8"}, None, {"code": "9"}, {"code": "Glucose"}]
    assert export._looked_up["tests"][0].keys() == {"7", "8"}
    assert [(r.file, r.line, r.fault) for r in export.read() if r.fault] == [("tests.csv", 6, "bad_row")]


def test_keys_that_the_table_lacks_do_not_pile_up():
    find = _finder(build(LookUp, TESTS, "tests", AdapterError), {})
    assert find("7") == {"code": "7"}
    tracemalloc.start()
    try:
        for number in range(20_000):
            find(f"key {number}")
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


def test_patients_without_a_table_of_their_own(folder, tmp_path):
    for name, numbers in (("a", [3, 1, 3]), ("b", [1, 2, None])):
        pq.write_table(pa.table({"MRN": numbers}), folder() / f"{name}_events.parquet")
    export = opened(tmp_path, people={**PATIENTS, "file": "*_events", "once": True})
    found = [(r.resource["id"], r.file, r.line) for r in export.read()]
    assert found == [("3", "a_events.parquet", 1), ("1", "a_events.parquet", 2), ("2", "b_events.parquet", 2)]


def test_lists_where_one_value_belongs_take_no_other_row_along(tmp_path):
    columns = {
        "MRN": [["1"], ["2"]],
        "BORN": [["1950-01-01"], None],
        "TEST": [["7"], ["8", "9"]],
        "RESULT": [[5.4], None],
    }
    pq.write_table(pa.table(columns), tmp_path / "patients.parquet")
    pq.write_table(pa.table({"NO": [["7"], ["6"]], "NAME": ["Glucose", "x"]}), tmp_path / "tests.parquet")
    born = {
        **PATIENTS,
        "elements": {**PATIENTS["elements"], "birthDate": {"column": "BORN", "date": True}},
        "once": True,
    }
    labs = {**LABS, "file": "patients", "elements": {**LABS["elements"], "value": {"column": "RESULT", "result": True}}}
    found = [read.resource for read in opened(tmp_path, {"tests": TESTS}, patients=born, labs=labs).read()]
    patients = [resource for resource in found if resource["resourceType"] == "Patient"]
    assert [patient.get("birthDate") for patient in patients] == ["no date", None]
    results = [resource for resource in found if resource["resourceType"] == "Observation"]
    assert [resource.get("valueQuantity") for resource in results] == [{"value": "no number"}, None]
    assert all(resource["code"]["code"] for resource in results)


def test_files_that_are_empty_or_damaged(folder, tmp_path):
    folder(patients_csv="MRN\n1\n", labs__1_csv="", labs__2_csv="MRN,TEST\n")
    (tmp_path / "labs" / "3.parquet").write_bytes(b"PAR1 and no more")
    export = opened(tmp_path, {"tests": TESTS}, patients=PATIENTS, labs=LABS)
    assert [(r.type, r.file, r.fault) for r in export.read()] == [
        ("Patient", "patients.csv", None),
        ("?", "labs/3.parquet", "unreadable_file"),
    ]


def test_an_export_can_be_handed_to_another_process(folder):
    folder(patients_csv="MRN\n1\n", labs_csv="MRN,TEST\n1,7\n", tests_csv="NO,NAME\n7,Glucose\n")
    export = opened(folder(), {"tests": TESTS}, patients=PATIENTS, labs=LABS)
    before = list(export.read())
    assert list(pickle.loads(pickle.dumps(export)).read()) == before
