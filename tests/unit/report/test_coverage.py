"""The coverage page: its figures add up before the reader's eyes; it names no patient and nothing that was typed."""

import json
import re
from html.parser import HTMLParser

import pytest

from ehr_tl.convert import convert
from ehr_tl.fhir.export import FAULTS
from ehr_tl.report import write_coverage
from ehr_tl.report.coverage import coverage_content, meaning
from ehr_tl.tokens.familiarity import Familiarity, Knowledge, familiarity

CANARY = "Wilhelmina-Canary"
PEOPLE = 7


class Tables(HTMLParser):
    """Tables by id, as rows of texts; what lies outside of them; ids, links, and sources that would be loaded."""

    def __init__(self):
        super().__init__()
        self.tables, self.headings, self.ids, self.links, self.loads = {}, {}, [], [], []
        self.table, self.cell, self.open = None, None, []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        self.loads += [given["src"]] if "src" in given else []
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "table":
            self.table = given["id"]
            self.tables[self.table], self.headings[self.table] = [], []
        elif tag == "tr":
            self.tables[self.table].append([])
        elif tag == "br" and self.cell is not None:
            self.cell += " "
        elif tag in ("td", "th"):
            self.cell = ""
            if tag == "th":
                assert given["scope"] == "col"
            self.span = int(given.get("colspan", 1))

    def handle_data(self, text):
        if self.cell is not None:
            self.cell += text

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            rows = self.headings[self.table] if tag == "th" else self.tables[self.table][-1]
            rows += [" ".join(self.cell.split())] + [""] * (self.span - 1)
            self.cell = None


def number(text):
    return int(text.replace("\u202f", "").replace(" ", ""))


def read(page):
    tables = Tables()
    tables.feed(page)
    assert tables.open == []
    tables.tables = {name: [row for row in rows if row] for name, rows in tables.tables.items()}
    return tables


def column(tables, table, heading):
    """The numbers below a heading: those of the lines, and of the last line, their sum."""
    place = tables.headings[table].index(heading)
    *lines, total = [number(row[place]) for row in tables.tables[table]]
    return lines, total


def hospital():
    """People with codes of their own, what they said, and every kind of fault; `CANARY` wherever a patient shows."""
    lines = []
    for i in range(PEOPLE):
        subject = {"reference": f"Patient/p{i}", "display": CANARY}
        about = {"subject": subject, "note": [{"text": CANARY}]}
        lines += [
            {
                "resourceType": "Patient",
                "id": f"p{i}",
                "name": [{"family": CANARY}],
                "identifier": [{"value": f"{CANARY}-{i}"}],
                "address": [{"line": [CANARY]}],
                "birthDate": "1950-02-01",
                "gender": "female",
            },
            {
                "resourceType": "Observation",
                "id": f"o{i}",
                "status": "final",
                "code": {"coding": [{"system": "urn:ours", "code": "GLU", "display": "Blood <sugar>"}], "text": CANARY},
                "effectiveDateTime": f"20{10 + i}-01-01",
                "valueString": CANARY,
                **about,
            },
            {
                "resourceType": "Observation",
                "id": f"t{i}",
                "status": "final",
                "code": {"text": f"{CANARY} fell"},
                "effectiveDateTime": "2020-01-01",
                **about,
            },
            {
                "resourceType": "Condition",
                "id": f"c{i}",
                "code": {"coding": [{"system": "http://snomed.info/sct", "code": "44054006"}]},
                "recordedDate": "2020-01-01",
                "verificationStatus": {"coding": [{"code": "refuted" if i == 0 else "confirmed"}]},
                **about,
            },
        ]
    rare = {"coding": [{"system": "urn:ours", "code": "RARE", "display": "Only one has it"}]}
    lines += [
        {**lines[1], "id": "rare", "code": rare},
        {**lines[1], "id": "lost", "subject": {"reference": f"Patient/{CANARY}"}},
        {**lines[1]},
        {"resourceType": "Claim", "id": CANARY, "patient": {"display": CANARY}},
    ]
    return [json.dumps(line) for line in lines] + [f"{{{CANARY}"]


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospital")
    (folder / "export").mkdir()
    (folder / "export" / "all.ndjson").write_text("\n".join(hospital()) + "\n")
    for name in (f"{CANARY}.pdf", "a.PDF", "notes"):
        (folder / "export" / name).write_text(CANARY)
    return convert(folder / "export", "fhir_r4", folder / "events")


@pytest.fixture(scope="module")
def page(events, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "coverage.html"
    write_coverage(path, events, familiarity(events, Knowledge(frozenset({"SNOMED//44054006"})), "tiny"))
    return path.read_text(encoding="utf-8")


def test_every_table_has_headings_and_nothing_is_loaded(page):
    tables = read(page)
    assert all(tables.headings[name] and all(tables.headings[name]) for name in tables.tables)
    assert all(len(row) == len(tables.headings[name]) for name, rows in tables.tables.items() for row in rows)
    assert tables.loads == [] and all(link.startswith("#") for link in tables.links)
    assert {link[1:] for link in tables.links} <= set(tables.ids)
    assert "<script" not in page and "@import" not in page and "url(" not in page
    assert re.search(r"<svg [^>]*role=\"img\"[^>]*><title>", page)


@pytest.mark.parametrize(
    ("table", "whole", "parts"),
    [
        ("of-resources", "Read", ["Used", "Left out", "Set aside"]),
        ("of-codes", "All", ["Kept", "Mapped", "Unmapped"]),
        ("of-familiar", "Events", ["By its own code", "By a relative", "By its words", "Not known"]),
    ],
)
def test_every_line_and_every_column_adds_up(page, table, whole, parts):
    tables = read(page)
    lines, total = column(tables, table, whole)
    split = [column(tables, table, part) for part in parts]
    assert total == sum(lines) and total > 0
    assert all(sum(found) == sum_of for found, sum_of in split)
    assert lines == [sum(row) for row in zip(*(found for found, _ in split))]


def test_tables_agree_with_each_other(page, events):
    tables = read(page)
    for key, heading in (("of-unused", "Left out"), ("of-set_aside", "Set aside")):
        reasons, total = column(tables, key, "Resources")
        assert sum(reasons) == total == column(tables, "of-resources", heading)[1] > 0
        shares = [sum(map(number, re.findall(r"\d+", row[2]))) for row in tables.tables[key][:-1]]
        assert all(share in (total, 0) for share, total in zip(shares, reasons))  # 0: lines that are no resource
    uses, total = column(tables, "of-unmapped", "Times used")
    assert sum(uses) == total == column(tables, "of-codes", "Unmapped")[1] > 0
    assert column(tables, "of-resources", "Events made")[1] == events.coverage["events"]
    years = [number(row[1]) for row in tables.tables["of-dates"]]
    said = re.search(r"(\d+) dated \+ (\d+) without a date .*? \+ (\d+) births = (\d+) events", page)
    assert sum(years) == int(said[1]) and sum(map(int, said.groups()[:3])) == int(said[4]) == events.coverage["events"]
    assert sum(number(row[1]) for row in tables.tables["of-files"]) == 3


def test_says_what_became_of_each_fault(page):
    rows = {name: {row[0]: row[1] for row in rows} for name, rows in read(page).tables.items()}
    assert rows["of-set_aside"] == {
        "the patient that it is about is not in the export unknown patient": "1",
        "a resource of this type and id was read before, or this one is an older version of it repeated": "1",
        f"{FAULTS['not_json']} not json": "1",
        "All": "3",
    }
    assert rows["of-unused"] == {
        "its verification says “refuted” verification: refuted": "1",
        "the adapter has no view for its type no view": "1",
        "All": "2",
    }


def test_names_what_most_is_unmapped_and_nobody(page):
    tables = read(page)
    assert tables.tables["of-unmapped"] == [
        ["Blood <sugar>", "GLU", "ours", str(PEOPLE), str(PEOPLE)],
        ["1 code of fewer than 5 people each, not named", "", "", "1", ""],
        ["1 different text without a code, not shown", "", "", str(PEOPLE), ""],
        ["All 3 codes", "", "", str(2 * PEOPLE + 1), ""],
    ]
    assert "Only one has it" not in page and "RARE" not in page
    assert CANARY not in page and not re.search(r"\bp\d\b", page)


def test_files_that_were_left_alone_are_counted_by_their_kind(page):
    assert read(page).tables["of-files"] == [[".pdf", "2"], ["other", "1"]]


@pytest.mark.parametrize("sharing", [0, 2])
def test_tells_of_patients_who_may_be_one_person(events, tmp_path, monkeypatch, sharing):
    monkeypatch.setitem(events.coverage, "patients_sharing_an_identifier", sharing)
    write_coverage(tmp_path / "coverage.html", events)
    page = (tmp_path / "coverage.html").read_text(encoding="utf-8")
    assert ("2 patients have an identifier that another has, too" in page) == bool(sharing)


def test_tells_what_the_vocabulary_knows_and_warns(page):
    tables = read(page)
    assert ["SNOMED", str(PEOPLE - 1), "", str(PEOPLE - 1), "0", "0", "0"] in tables.tables["of-familiar"]
    assert [row[:2] for row in tables.tables["of-missing"]] == [["Blood <sugar>", "ours//GLU"]]
    assert "Little is known here." in page


def test_says_nothing_of_a_vocabulary_where_there_is_none(events, tmp_path):
    write_coverage(tmp_path / "coverage.html", events)
    page = (tmp_path / "coverage.html").read_text(encoding="utf-8")
    assert "of-familiar" not in page and "Little is known" not in page and "vocabulary" not in page


def others(events, **tables):
    """The further tables of a page, when coverage.json has these counts too."""
    return coverage_content({**events.coverage, "units": {}, **tables}, events.export)["others"]


def test_further_counts_are_shown_as_they_stand(events):
    typed = {f"TEXT//{CANARY}": {"unit_missing": 2}, "LOCAL//a//TEXT": {"unit_missing": 1}}
    units = {"LOINC//2345-7": {"umol/L -> mg/dL": 40}, "LOINC//1": {"m_a -> m_b": 1}, **typed}
    (table,) = others(events, units=units, odd=[1], empty={}, words={"a": "b"})
    assert table["title"] == "Units of measurement" and table["rest"] == 0 and table["n"] == 44
    assert table["rows"] == [
        (("LOINC//2345-7", "umol/L -> mg/dL"), 40),
        (("texts that people typed", "unit missing"), 3),
        (("LOINC//1", "m_a -> m_b"), 1),
    ]
    (table,) = others(events, later_counts={"a": {"b": 1}})
    assert table["title"] == "Later counts"


def test_long_tables_end_in_a_line_that_makes_them_add_up(events):
    (table,) = others(events, units={f"LOINC//{i}": {"kept": i} for i in range(1, 101)})
    assert len(table["rows"]) < 100 and sum(n for _, n in table["rows"]) + table["rest"] == table["n"] == 5050


def test_what_maps_say_adds_up(events, tmp_path, monkeypatch):
    said = {
        "mapped": {"codes": 8, "events": 20},
        "unmatched": {"codes": 1, "events": 4},
        "absent": {"codes": 3, "events": 5},
        "many_to_one": {"codes": 5, "targets": 2},
    }
    monkeypatch.setitem(events.coverage, "concept_maps", {"LOCAL": said})
    write_coverage(tmp_path / "coverage.html", events)
    page = (tmp_path / "coverage.html").read_text(encoding="utf-8")
    assert read(page).tables["of-maps"] == [
        ["LOCAL", "different codes", "12", "8", "1", "3"],
        ["LOCAL", "times used", "29", "20", "4", "5"],
    ]
    assert "LOCAL: 5 codes share 2 targets" in page


@pytest.mark.parametrize(
    ("known", "said"), [(6, "60% by their own code"), (0, "knows 0% by their own code and 0% by a more general code")]
)
def test_the_answer_is_in_words(events, known, said):
    levels = {"exactly": known, "related": 0, "described": 0, "unknown": 10 - known}
    people = {"half_or_more": 3, "less": 1, "none": 2}
    found = Familiarity("tiny", levels, levels, people, {"SNOMED": levels}, [])
    answer = coverage_content(events.coverage, events.export, found)["familiar"]["answer"]
    assert said in answer and "Of 4 people with such events there are 1 of whose events" in answer


def test_a_reason_of_the_adapters_own_speaks_for_itself():
    assert meaning("certainty:A") == "its certainty says “A”"
    assert meaning("nobody_knows") == "nobody knows"
