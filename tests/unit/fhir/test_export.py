import base64
import gzip
import io
import json
import os
import random
import traceback
import zipfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ehr_tl.errors import ExportError
from ehr_tl.fhir import blocks, export, pieces
from ehr_tl.fhir.export import FAULTS, UNFINISHED, open_export


def patient(number):
    return {"resourceType": "Patient", "id": f"p{number}", "text": {"div": "x" * 50}}


def ndjson(count, first=0):
    return b"".join(json.dumps(patient(number)).encode() + b"\n" for number in range(first, first + count))


def bundle(*resources, **more):
    return {"resourceType": "Bundle", "entry": [{"fullUrl": f"urn:uuid:{r['id']}", "resource": r} for r in resources]}


def read(path):
    """(id or fault, file, line) of all that is read."""
    reads = list(open_export(path).read())
    assert all((r.fault is None) == (r.resource is not None) and r.fault in {None, *FAULTS} for r in reads)
    return [(r.fault or r.resource["id"], r.file, r.line) for r in reads]


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


PACKERS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("name", ["Patient.ndjson", "Patient.000.ndjson", "deep/er/MimicPatient.NDJSON"])
def test_ndjson_in_every_wrapping(tmp_path, name, ending):
    file = tmp_path / (name + ending)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(PACKERS[ending](ndjson(2)))
    assert read(tmp_path) == [("p0", name + ending, 1), ("p1", name + ending, 2)]
    assert [r[0] for r in read(file)] == ["p0", "p1"]
    assert open_export(tmp_path).files[0].type in ("Patient", "MimicPatient")


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_several_packed_frames_in_one_file(tmp_path, pack):
    file = tmp_path / ("x.ndjson.gz" if pack is gzip.compress else "x.ndjson.zst")
    file.write_bytes(pack(ndjson(2)) + pack(ndjson(3, first=2)) + pack(b""))
    assert [r[0] for r in read(tmp_path)] == ["p0", "p1", "p2", "p3", "p4"]


def test_bundles_single_resources_and_zips_of_both(tmp_path):
    nested = json.dumps({"resourceType": "Bundle", "entry": [{"resource": bundle(patient(1), patient(2))}]})
    zipped(
        tmp_path / "all.zip",
        {"é/a.json": json.dumps(bundle(patient(3), patient(4))), "b.ndjson": ndjson(1), "__MACOSX/._a.json": "x"},
    )
    (tmp_path / "nested.json").write_text(nested)
    (tmp_path / "one.json").write_text(json.dumps(patient(5), indent=2))
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(json.dumps(bundle(patient(6))).encode()))
    assert sorted(read(tmp_path)) == [
        ("p0", "all.zip/b.ndjson", 1),
        ("p1", "nested.json", 1),
        ("p2", "nested.json", 1),
        ("p3", "all.zip/é/a.json", 1),
        ("p4", "all.zip/é/a.json", 2),
        ("p5", "one.json", 1),
        ("p6", "c.json.gz", 1),
    ]
    opened = open_export(tmp_path)
    assert opened.ignored == ("all.zip/__MACOSX/._a.json",)
    assert {r.resource["id"]: r.full_url for r in opened.read()}["p3"] == "urn:uuid:p3"


@pytest.mark.parametrize("ending", PACKERS)
def test_lines_in_a_file_that_is_named_as_a_document(tmp_path, ending):
    """As Spark names them."""
    content = b"\xef\xbb\xbf" + ndjson(2) + b"{oops\n" + json.dumps(bundle(patient(2))).encode()
    (tmp_path / f"part-00000.json{ending}").write_bytes(PACKERS[ending](content))
    assert [(what, line) for what, _, line in read(tmp_path)] == [("p0", 1), ("p1", 2), ("not_json", 3), ("p2", 4)]


@pytest.mark.parametrize("ending", PACKERS)
def test_lines_are_known_where_the_first_is_cut_off_or_long(tmp_path, ending, monkeypatch):
    cut = json.dumps(patient(0)).encode()[:-9] + b"\n" + ndjson(2, first=1)
    (tmp_path / f"a.json{ending}").write_bytes(PACKERS[ending](cut))
    photo = base64.b64encode(random.Random(0).randbytes(1 << 20)).decode()  # more than a block, packed or not
    long = json.dumps(patient(3) | {"photo": photo}).encode() + b"\n" + ndjson(2, first=4)
    (tmp_path / f"b.json{ending}").write_bytes(PACKERS[ending](long))
    found = [("not_json", 1), ("p1", 2), ("p2", 3), ("p3", 1), ("p4", 2), ("p5", 3)]
    assert [(what, line) for what, _, line in read(tmp_path)] == found
    monkeypatch.setattr(pieces, "document", None)  # long lines do not need it
    assert [what for what, _, _ in read(tmp_path / f"b.json{ending}")] == ["p3", "p4", "p5"]


def test_a_document_is_not_taken_for_lines(tmp_path):
    """Even where a resource has a line of its own in it."""
    whole = b'{"resourceType":"Bundle","entry":[{"resource":\n' + ndjson(1) + b"}]}"
    (tmp_path / "a.json").write_bytes(whole)
    inside = {"resourceType": "List", "id": "l", "contained": [patient(1)]}
    (tmp_path / "b.json").write_bytes(json.dumps(inside).encode().replace(b"[{", b"[\n{").replace(b"}]", b"}\n]"))
    (tmp_path / "c.json").write_bytes(json.dumps(bundle(patient(2)), indent=2).encode()[:-9])
    assert [what for what, _, _ in read(tmp_path)] == ["p0", "l", "not_json"]


def test_lines_that_are_no_resource_are_told_apart(tmp_path):
    lines = [
        b"\xef\xbb\xbf" + json.dumps(patient(0)).encode() + b"\r",
        b"",
        b"  \r",
        b"{oops",
        b'{"resourceType":"Observation","id":"n","valueQuantity":{"value":NaN}}',
        b'{"resourceType":"Patient","id":"\xff"}',
        b'{"id":"x"}',
        b'{"resourceType":["Patient"]}',
        b'{"resourceType":"what a patient said"}',
        b"[1]",
        b"null",
        b'{"resourceType":"Unheard","id":"u","n":123456789012345678901234567890}',
        b'{"resourceType":"Group","resourceType":"Patient","id":"twice"}',
        b'{"resourceType":"Patient","id":"last"}',
    ]
    (tmp_path / "x.ndjson").write_bytes(b"\n".join(lines))
    assert [(what, line) for what, _, line in read(tmp_path)] == [
        ("p0", 1),
        *[("not_json", line) for line in (4, 5, 6)],
        *[("not_a_resource", line) for line in (7, 8, 9, 10, 11)],
        ("u", 12),
        ("twice", 13),
        ("last", 14),
    ]


def test_entries_and_documents_that_are_no_resource(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"resourceType": "Bundle", "entry": [{}, 7, {"resource": patient(1)}]}))
    (tmp_path / "b.json").write_text('{"resourceType": "Bundle", "entry": [')
    (tmp_path / "c.json").write_text('{"rows": []}')
    (tmp_path / "d.json").write_text('{"resourceType": "Bundle"}')
    assert read(tmp_path) == [
        ("not_a_resource", "a.json", 1),
        ("not_a_resource", "a.json", 2),
        ("p1", "a.json", 3),
        ("not_json", "b.json", 1),
        ("not_a_resource", "c.json", 1),
    ]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_what_came_before_a_cut_is_read(tmp_path, ending):
    first = PACKERS[ending](ndjson(3))
    (tmp_path / f"x.ndjson{ending}").write_bytes(first + PACKERS[ending](ndjson(1000, first=3))[:-9])
    ids = [what for what, _, _ in read(tmp_path)]
    assert ids[:3] == ["p0", "p1", "p2"] and ids.count("truncated_file") == 1 and ids[-1] == "truncated_file"
    assert "not_json" not in ids


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_file_that_is_not_what_its_name_says(tmp_path, ending):
    (tmp_path / f"x.ndjson{ending}").write_bytes(ndjson(2))
    (tmp_path / "y.ndjson").write_bytes(ndjson(1))
    assert read(tmp_path) == [("unreadable_file", f"x.ndjson{ending}", 1), ("p0", "y.ndjson", 1)]


def test_a_damaged_or_locked_zip_member_is_a_fault(tmp_path):
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("x.ndjson", ndjson(2))
    raw = bytearray(stored.getvalue())
    raw[60] ^= 1
    (tmp_path / "damaged.zip").write_bytes(raw)
    raw[6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(raw)
    found = read(tmp_path)
    assert ("unreadable_file", "damaged.zip/x.ndjson", 1) in found
    assert ("unreadable_file", "locked.zip/x.ndjson", 1) in found and len(found) == 2


def test_half_a_zip_is_an_error(tmp_path):
    whole = zipped(tmp_path / "a.zip", {"x.ndjson": ndjson(500)}).read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ExportError, match=r"a\.zip is not a zip file that can be opened"):
        open_export(tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["../x.ndjson", "/etc/x.ndjson", "a/../../x.ndjson", "C:\\x.ndjson", "..\\x.ndjson"])
def test_a_zip_that_climbs_out_is_refused(tmp_path, name):
    with pytest.raises(ExportError, match="leads out of the archive"):
        open_export(zipped(tmp_path / "a.zip", {name: ndjson(1)}))


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "_BOMB_SIZE", 1 << 20)
    with pytest.raises(ExportError, match="from almost nothing"):
        open_export(zipped(tmp_path / "a.zip", {"x.ndjson": bytes(2 << 20)}))


def test_many_small_bombs_in_one_zip_are_refused(tmp_path, monkeypatch):
    """None of them is large by itself."""
    monkeypatch.setattr(blocks, "_BOMB_SIZE", 1 << 20)
    with pytest.raises(ExportError, match="would unpack to 16 MiB from almost nothing"):
        open_export(zipped(tmp_path / "a.zip", {f"{n}.ndjson": bytes(1 << 19) for n in range(32)}))


@pytest.mark.parametrize("ending", [".ndjson.gz", ".json.gz", ".ndjson.zst", ".json.zst"])
def test_a_bomb_of_another_kind_is_not_unpacked(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(blocks, "_BOMB_SIZE", 1 << 20)
    monkeypatch.setattr(blocks, "LARGEST", 1 << 30)
    (tmp_path / f"a{ending}").write_bytes(PACKERS[Path(ending).suffix](ndjson(1) + bytes(8 << 20)))
    (tmp_path / "b.ndjson").write_bytes(ndjson(1))
    found = read(tmp_path)
    assert found[-1] == ("p0", "b.ndjson", 1)
    assert [what for what, file, _ in found if file[0] == "a" and what in FAULTS] == ["bomb"]


def test_records_that_pack_well_are_no_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "_BOMB_SIZE", 1 << 20)
    (tmp_path / "a.ndjson.gz").write_bytes(gzip.compress(ndjson(20_000)))
    assert len(read(tmp_path)) == 20_000


@pytest.mark.parametrize("name", ["", ".", "/", "//", "a/", "\udcff.ndjson", "x" * 300 + ".ndjson"])
def test_odd_names_in_a_zip(tmp_path, name):
    """Python writes none of them by itself: they are put in the place of another."""
    written = name.encode(errors="surrogateescape")
    raw = zipped(tmp_path / "a.zip", {"N" * len(written) or "N": ndjson(1)}).read_bytes()
    (tmp_path / "a.zip").write_bytes(raw.replace(b"N" * len(written) or b"N", written or b"\0"))
    (tmp_path / "b.ndjson").write_bytes(ndjson(1))
    try:
        found = read(tmp_path)
    except ExportError as error:
        assert "a member whose name leads out" in str(error) and name.startswith("/")
    else:
        assert found[-1] == ("p0", "b.ndjson", 1) and len(found) == 1 + name.endswith(".ndjson")


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + bytes(18)])
def test_a_zip_of_nothing_is_an_error(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ExportError, match=r"a\.zip"):
        open_export(tmp_path / "a.zip")


def test_a_line_or_document_without_end_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "LARGEST", 1 << 21)
    (tmp_path / "x.ndjson").write_bytes(ndjson(1) + b" " * (5 << 20) + b"\n" + ndjson(1, first=1))
    (tmp_path / "y.json").write_bytes(b" " * (5 << 20))
    found = read(tmp_path)
    assert [(what, line) for what, _, line in found] == [("p0", 1), ("too_large", 2), ("p1", 3), ("too_large", 1)]


def test_a_manifest_says_when_the_export_was_made(tmp_path):
    (tmp_path / "x.ndjson").write_bytes(ndjson(1))
    assert open_export(tmp_path).transaction_time is None
    (tmp_path / "manifest.json").write_text('{"transactionTime": "2024-05-01T12:00:00+02:00", "output": []}')
    (tmp_path / "notes.txt").write_text("")
    opened = open_export(tmp_path)
    assert opened.transaction_time.isoformat() == "2024-05-01T10:00:00"
    assert opened.ignored == ("manifest.json", "notes.txt")
    log = [{"eventId": "kickoff"}, {"eventId": "complete", "eventDetail": {"transactionTime": "2024-06-01T00:00:00Z"}}]
    (tmp_path / "log.ndjson").write_text("\n".join(map(json.dumps, log)))
    assert open_export(tmp_path).transaction_time.isoformat() == "2024-06-01T00:00:00"
    (tmp_path / "export.json").write_text(json.dumps(bundle(patient(9))))
    assert [what for what, _, _ in read(tmp_path)] == ["p9", "p0"]


@pytest.mark.parametrize("place", ["", "below/"])
@pytest.mark.parametrize("packed", [True, False])
def test_what_is_still_being_fetched_is_no_export(tmp_path, place, packed):
    files = {"Patient.ndjson": b'{"resourceType":"Patient","id":"a"}\n', f"{place}{UNFINISHED}": b"{}"}
    if packed:
        with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError, match=r"not whole.*ehr-tl fetch"):
        open_export(tmp_path)


def test_what_a_bulk_data_client_lays_down_beside_the_resources_is_left_alone(tmp_path):
    aside = ("deleted/Bundle.001.ndjson", "error/OperationOutcome.ndjson.gz")
    for name in ("Patient.ndjson", "error/Patient.ndjson", *aside):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'{"resourceType":"Patient","id":"a"}\n')
    opened = open_export(tmp_path)
    assert [file.name for file in opened.files] == ["Patient.ndjson", "error/Patient.ndjson"]
    assert opened.ignored == aside


@pytest.mark.parametrize("name", [".a", ".old/a", "sub/.old/deep/a", "__MACOSX/a", "sub/__MACOSX/a"])
@pytest.mark.parametrize("packed", [True, False])
def test_hidden_files_and_folders_are_left_alone(tmp_path, name, packed):
    hidden = {f"{name}.ndjson": ndjson(1), f"{name}.csv": b"a\n1\n", f"{name}.zip": b"no zip"}
    files = {"x.ndjson": ndjson(1, first=1), "x.csv": b"a\n1\n", **hidden}
    if packed:
        zipped(tmp_path / "all.zip", files)
    else:
        for each, content in files.items():
            (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / each).write_bytes(content)
    opened = open_export(tmp_path)
    assert [file.name.removeprefix("all.zip/") for file in opened.files] == ["x.ndjson"]
    assert [file.name.removeprefix("all.zip/") for file in opened.tables] == ["x.csv"]
    assert {name.removeprefix("all.zip/") for name in opened.ignored} == {"x.csv", *hidden}


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(ExportError, match="no export at"):
        open_export(tmp_path / "absent")
    with pytest.raises(ExportError, match="is empty"):
        open_export(tmp_path)
    (tmp_path / "x.docx").write_text("a,b")
    with pytest.raises(ExportError, match=r"files found: 1 \.docx"):
        open_export(tmp_path)
    with pytest.raises(ExportError, match=r"files found: 1 \.docx"):
        open_export(tmp_path / "x.docx")
    (tmp_path / "x.docx").rename(tmp_path / "x.xlsx")
    with pytest.raises(ExportError, match=r"files found: 1 \.xlsx.*\.csv.*as CSV"):
        open_export(tmp_path)
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(ExportError, match=r"data files \(1\), but all of them are empty"):
        open_export(tmp_path)
    (tmp_path / "x.ndjson").write_text("")
    with pytest.raises(ExportError, match="all of them are empty"):
        open_export(tmp_path)


@given(st.lists(st.sampled_from([b"", b"a", b"\n", b"bc\nd", b"\n\n", b"e\n"])))
def test_lines_do_not_depend_on_blocks(parts):
    whole = b"".join(parts).split(b"\n")
    assert list(blocks.lines(iter(parts))) == (whole if whole[-1] else whole[:-1])


def test_what_is_no_file_is_named_and_left_alone(tmp_path):
    (tmp_path / "x.ndjson").write_bytes(ndjson(1))
    elsewhere = tmp_path.parent / f"{tmp_path.name}_elsewhere"
    elsewhere.mkdir()
    (elsewhere / "y.ndjson").write_bytes(ndjson(1, first=1))
    (tmp_path / "linked").symlink_to(elsewhere)
    (tmp_path / "gone.ndjson").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.ndjson")
    found = open_export(tmp_path)
    assert [file.name for file in found.files] == ["x.ndjson"]
    assert found.ignored == ("gone.ndjson", "linked", "pipe.ndjson")


@pytest.mark.parametrize("method", ["scandir", "open", "stat"])
def test_what_may_not_be_read_is_an_error(tmp_path, monkeypatch, method):
    """It would be missing without a word else. Which file it is, it may be named after a patient, is not said."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.ndjson").write_bytes(ndjson(1))
    target = os if method == "scandir" else export.Path
    usual = getattr(target, method)

    def forbidden(path, *arguments, **options):
        if "folder" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path, *arguments, **options)

    monkeypatch.setattr(target, method, forbidden)
    with pytest.raises(ExportError, match=r"cannot be opened \(Permission denied\)") as refused:
        list(open_export(tmp_path).read())
    shown = "".join(traceback.format_exception(refused.value))
    assert str(tmp_path / "folder") not in shown and "x.ndjson" not in shown


def test_no_message_tells_how_files_are_named(tmp_path):
    (tmp_path / "Wilhelmina_Canary_1950-03-01.xml").write_text("<Patient/>")
    with pytest.raises(ExportError) as error:
        open_export(tmp_path)
    assert "Canary" not in str(error.value)
