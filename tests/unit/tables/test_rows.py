"""Rows of CSV and Parquet: as they were written, each with its line; what is no row takes no other along."""

import csv
import gzip
import io
import zipfile
from datetime import date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ehr_tl.fhir.export import FAULTS, open_export
from ehr_tl.tables import rows as rows_module
from ehr_tl.tables.rows import batches, read_form
from ehr_tl.tables.spec import Source

ANY = Source(elements={"id": "a"})


def read(path, source=ANY):
    """(line, values) of all rows, and (line, fault) of all faults."""
    (file,) = open_export(path).tables
    form = read_form(file, source)
    rows, faults = [], []
    for batch in batches(file, form, range(len(form.header))):
        rows += zip(batch.lines, zip(*batch.columns))
        faults += batch.faults
    assert {fault for _, fault in faults} <= set(FAULTS)
    return rows, faults


@pytest.fixture
def table(tmp_path):
    def write(content, name="t.csv"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return write


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "windows-1252", "utf-16"])
def test_delimiter_and_encoding_are_found_out(table, delimiter, encoding):
    text = 'a;"b, c"\r\nGrün;1\r\n"x;y";"say ""no"""\r\n'
    text = text.replace(";", delimiter) if delimiter != ";" else text
    rows, faults = read(table(text.encode(encoding)))
    assert rows == [(2, ("Grün", "1")), (3, (f"x{delimiter}y", 'say "no"'))]
    assert faults == []


@pytest.mark.parametrize(("text", "mark"), [("a;b\n1;2\n", ","), ("a,b\n1,2\n", "."), ("a\tb\n", ".")])
def test_the_decimal_mark_goes_with_the_delimiter(table, text, mark):
    (file,) = open_export(table(text)).tables
    assert read_form(file, ANY).decimal == mark
    assert read_form(file, Source(elements={"id": "a"}, decimal=",")).decimal == ","


def test_what_is_declared_counts(table):
    rows, _ = read(table("a,b;c\n\xe9,2;3\n".encode("iso-8859-1")), Source(elements={"id": "a"}, delimiter=";"))
    assert rows == [(2, ("é,2", "3"))]
    rows, _ = read(table("a;b\nд;1\n".encode("koi8-r")), Source(elements={"id": "a"}, encoding="koi8-r"))
    assert rows == [(2, ("д", "1"))]


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_packed(table, ending, pack):
    assert read(table(pack(b"a,b\n1,2\n"), f"t.csv{ending}"))[0] == [(2, ("1", "2"))]


def test_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/t.csv", "a,b\n1,2\n")
    assert read(tmp_path)[0] == [(2, ("1", "2"))]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), buffer)
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.parquet", buffer.getvalue())
    assert read(tmp_path)[0] == [(1, (1,))]


def test_rows_that_are_none(table):
    lines = ["a,b", "1,2", "3", "", "4,5,6", ",", '"two', 'lines",7', "8,9"]
    rows, faults = read(table("\n".join(lines)))
    assert rows == [(2, ("1", "2")), (7, ("two\nlines", "7")), (9, ("8", "9"))]
    assert faults == [(3, "bad_row"), (5, "bad_row")]


@pytest.mark.parametrize("damaged", ['5,"open', '"open,5', '5,"shut"open'])
def test_a_quotation_mark_that_nothing_closes_takes_only_its_line(table, damaged):
    rows, faults = read(table(f"a,b\n1,2\n{damaged}\n3,4\n5,6\n"))
    assert rows == [(2, ("1", "2")), (4, ("3", "4")), (5, ("5", "6"))]
    assert faults == [(3, "bad_row")]


def test_quotation_marks_between_tabs_may_mean_themselves(table):
    rows, faults = read(table('a\tb\n1\t"Phantom" pain\n2\t"open\n3\t"quoted"\n4\t"too\tmany\n'))
    assert rows == [(2, ("1", '"Phantom" pain')), (3, ("2", '"open')), (4, ("3", "quoted"))]
    assert faults == [(5, "bad_row")]


def test_a_line_too_long_is_a_fault_and_no_end(table, monkeypatch):
    monkeypatch.setattr(rows_module, "_LONGEST", 20)
    rows, faults = read(table("a,b\n1," + "x" * 30 + "\n2,3\n"))
    assert (rows, faults) == ([(3, ("2", "3"))], [(2, "too_large")])


def test_faults_do_not_pile_up(table, monkeypatch):
    monkeypatch.setattr(rows_module, "_BATCH", 10)
    (file,) = open_export(table("a,b\n" + "1\n" * 95)).tables
    sizes = [len(batch.faults) for batch in batches(file, read_form(file, ANY), [0])]
    assert sum(sizes) == 95 and max(sizes) == 10


def test_what_is_not_in_the_encoding(table):
    padding = b"1,2\n" * 300_000  # beyond what is looked at for the encoding
    rows, faults = read(table(b"a,b\n" + padding + b"\xe9,2\n3,4\n"))
    assert len(rows) == 300_001 and rows[-1] == (300_003, ("3", "4"))
    assert faults == [(300_002, "bad_encoding")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_what_is_not_in_utf_16(table, encoding):
    half, stands_for = "\ud800".encode("utf-16-be", "surrogatepass"), "\ue000".encode("utf-16-be")
    if "be" not in encoding:
        half, stands_for = half[::-1], stands_for[::-1]
    content = "a,b\n1,x\ue000y\n3,4\n5,6".encode(encoding).replace(stands_for, half)
    declared = Source(elements={"id": "a"}, encoding=encoding)
    assert read(table(content), declared) == ([(3, ("3", "4")), (4, ("5", "6"))], [(2, "bad_encoding")])
    rows, faults = read(table(content[:-1]), declared)  # the last character is cut in two
    assert (rows, faults) == ([(3, ("3", "4"))], [(2, "bad_encoding"), (4, "bad_encoding")])


def test_a_file_that_breaks_off(table):
    packed = gzip.compress(b"a,b\n" + b"1,2\n" * 100_000 + bytes(range(256)) * 50)
    rows, faults = read(table(packed[: len(packed) - 300], "t.csv.gz"))
    assert rows[0] == (2, ("1", "2"))
    assert [fault for _, fault in faults if fault != "bad_row"] in (
        ["truncated_file"],
        ["bad_encoding", "truncated_file"],
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    rows=st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\x00")), min_size=3, max_size=3)),
    delimiter=st.sampled_from(",;\t|"),
)
def test_what_is_written_is_read(table, rows, delimiter):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows([["a", "b", "c"], *rows])
    found, faults = read(table(text.getvalue()), Source(elements={"id": "a"}, encoding="utf-8"))
    assert [values for _, values in found] == [tuple(row) for row in rows if any(row)]
    assert faults == []
    ends = [line for line, _ in found]
    assert ends == sorted(ends)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.lists(st.sampled_from([b"1,2", b'"', b"3", b"\n", b",", b"\xff", b"\r", b"x", b'""', b"\x00", b"4,5\n"])))
def test_no_bytes_are_lost_or_make_it_fall_over(table, parts):
    content = b"a,b\n" + b"".join(parts)
    rows, faults = read(table(content), Source(elements={"id": "a"}, encoding="utf-8"))
    lines = content.split(b"\n")[1:]
    starts = sorted([line for line, _ in rows] + [line for line, _ in faults])
    assert len(set(starts)) == len(starts)
    # Every line that is not blank begins a row or a fault, or lies inside a row that spans lines.
    inside = {line + step for line, values in rows for step in range(1, sum(value.count("\n") for value in values) + 1)}
    blank = {number for number, line in enumerate(lines, start=2) if not line.strip(b',"\r')}
    assert {number for number in range(2, len(lines) + 2)} <= {*starts, *inside, *blank}


def test_parquet_gives_what_it_holds(tmp_path):
    moment = datetime(2020, 3, 1, 10, 0, 0, 5)
    columns = {
        "whole": pa.array([1, None]),
        "moment": pa.array([moment, None], pa.timestamp("ns")),
        "day": pa.array([date(2020, 3, 1), None]),
        "many": pa.array([["x"], None]),
        "word": pa.array(["a", None]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    rows, faults = read(tmp_path)
    assert rows == [(1, (1, moment, date(2020, 3, 1), ["x"], "a")), (2, (None,) * 5)]
    assert faults == []


def test_damaged_parquet_is_a_fault(tmp_path):
    options = {"compression": "zstd", "row_group_size": 50_000, "write_page_checksum": True}
    pq.write_table(pa.table({"a": list(range(200_000))}), tmp_path / "t.parquet", **options)
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = b"\xff" * 2000
    (tmp_path / "t.parquet").write_bytes(content)
    rows, faults = read(tmp_path)
    assert 0 < len(rows) < 200_000
    assert [reason for _, reason in faults] == ["unreadable_file"] and faults[0][0] == len(rows) + 1
