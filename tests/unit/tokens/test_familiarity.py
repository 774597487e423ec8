"""How much of an export a vocabulary knows: counted by hand."""

from datetime import datetime

import polars as pl
import pytest

from ehr_tl import schema
from ehr_tl.files import write_json
from ehr_tl.tokens.familiarity import NAMED, Familiarity, Knowledge, familiarity, strangers
from ehr_tl.tokens.vocabulary import Vocabulary

DAY = datetime(2020, 1, 1)
PARENTS = {"ICD10CM//E11.9": ["ICD10CM//E11"], "ICD10CM//E11": ["ICD10CM//E"], "ICD10CM//J18.9": ["ICD10CM//J18"]}
SYSTEMS = ("ICD10CM", "SNOMED", "LOCAL", "TEXT")


@pytest.fixture
def known_of(write_events):
    """Counts what `known` knows of facts; `others` gives codes their other codes."""

    def count(facts, known, others=None) -> Familiarity:
        events = write_events(facts, PARENTS)
        shard = next((events.folder / "data").glob("*.parquet"))
        table = pl.Series("code", list(others or {}), pl.String), pl.Series("o", list((others or {}).values()))
        more = pl.DataFrame(table, schema={"code": pl.String, "o": pl.List(pl.String)})
        frame = pl.read_parquet(shard).join(more, on="code", how="left", maintain_order="left")
        frame.with_columns(other_codes="o").drop("o").write_parquet(shard)
        write_json(events.folder / "metadata" / "coverage.json", {"codes": {system: {} for system in SYSTEMS}})
        return familiarity(events, Knowledge(frozenset(known)), "tiny")

    return count


def levels(exactly=0, related=0, described=0, unknown=0):
    return {"exactly": exactly, "related": related, "described": described, "unknown": unknown}


def test_shares_are_those_that_one_counts_by_hand(known_of):
    facts = [
        *[(1, DAY, "ICD10CM//E11.9")] * 3,  # related: E11 lies above it
        *[(1, DAY, "SNOMED//1")] * 2,  # exactly
        (1, DAY, "LOCAL//a"),  # related: it was written beside SNOMED//1
        *[(2, DAY, "LOCAL//b")] * 4,  # unknown
        (2, DAY, "ICD10CM//J18.9"),  # unknown, its parent too
        (2, DAY, "SNOMED//1"),  # exactly
        (3, DAY, "SNOMED//1"),
        (3, DAY, "LOCAL//b"),
        (4, DAY, schema.DEATH),  # no event that counts
    ]
    found = known_of(facts, {"SNOMED//1", "ICD10CM//E11"}, {"LOCAL//a": ["SNOMED//1"]})
    assert found.events == levels(exactly=4, related=4, unknown=6)
    assert found.codes == levels(exactly=1, related=2, unknown=2)
    assert found.subjects == {"half_or_more": 2, "less": 1, "none": 1}
    assert found.systems == {
        "ICD10CM": levels(related=3, unknown=1),
        "LOCAL": levels(related=1, unknown=5),
        "SNOMED": levels(exactly=4),
    }
    assert found.known == pytest.approx(8 / 14) and not found.little
    assert Familiarity.from_json(found.to_json()) == found


def test_what_every_hospital_writes_alike_does_not_count(known_of):
    course = [(1, DAY, f"{code}//AMB") for code in schema.COURSE]
    undated = [(1, None, "GENDER//female"), (1, DAY, schema.BIRTH)]
    found = known_of([*course, *undated, (1, DAY, "LOCAL//a")], {"VISIT_START//AMB", "GENDER//female"})
    assert found.events == levels(unknown=1)
    assert found.known == 0 and found.little


def test_a_prefix_is_no_code_system(known_of):
    found = known_of([(1, DAY, "VISIT_TYPE//SNOMED//1")], {"VISIT_TYPE//SNOMED//1"})
    assert found.systems == {"SNOMED": levels(exactly=1)}


def test_nothing_to_know_is_not_little(known_of):
    found = known_of([(1, DAY, schema.BIRTH)], {"SNOMED//1"})
    assert found.known is None and not found.little


@pytest.mark.parametrize(("unknown", "little"), [(4, False), (5, False), (6, True)])
def test_little_is_less_than_half(known_of, unknown, little):
    facts = [(1, DAY, "LOCAL//a")] * unknown + [(1, DAY, "SNOMED//1")] * (10 - unknown)
    assert known_of(facts, {"SNOMED//1"}).little == little


def test_names_the_commonest_codes_that_it_lacks_but_no_rare_one_and_no_text(known_of):
    facts = [(subject, DAY, "LOCAL//common") for subject in range(5) for _ in range(2)]
    facts += [(subject, DAY, "LOCAL//less") for subject in range(5)]
    facts += [(subject, DAY, "LOCAL//rare") for subject in range(4) for _ in range(9)]
    facts += [(subject, DAY, "TEXT//she fell") for subject in range(6)]
    facts += [(subject, DAY, "REASON//TEXT//she fell") for subject in range(6)]
    facts += [(subject, DAY, "SNOMED//1") for subject in range(6)]
    assert known_of(facts, {"SNOMED//1"}).missing == [
        {"code": "LOCAL//common", "events": 10, "subjects": 5},
        {"code": "LOCAL//less", "events": 5, "subjects": 5},
    ]


def test_names_no_more_than_people_read(known_of):
    facts = [(subject, DAY, f"LOCAL//{code}") for subject in range(5) for code in range(NAMED + 3)]
    found = known_of(facts, set())
    assert len(found.missing) == NAMED and found.codes["unknown"] == NAMED + 3


@pytest.fixture
def clinic(write_events):
    """Makes subjects whose codes have a description (code -> text); each subject has the codes of a list."""

    def make(codes, subjects):
        facts = [(subject, DAY, code) for subject, line in subjects.items() for code in line]
        events = write_events(facts, PARENTS)
        path = events.folder / "metadata" / "codes.parquet"
        table = pl.read_parquet(path)
        named = table["code"].replace_strict(codes, default=None, return_dtype=pl.String)
        table.with_columns(description=named).write_parquet(path)
        write_json(events.folder / "metadata" / "coverage.json", {"codes": {system: {} for system in SYSTEMS}})
        return events

    return make


@pytest.mark.parametrize(
    ("code", "description", "level"),
    [
        ("LOCAL//7", "Diabetes mellitus, type 2", "described"),  # two of three words
        ("LOCAL//7", "Retinal diabetes", "described"),  # half of them
        ("LOCAL//7", "Diabetes of the retinal nerve", "unknown"),  # a third
        ("LOCAL//7", "The unspecified for with", "unknown"),  # none that tells anything
        ("LOCAL//7", "2 mg of 10", "unknown"),
        ("LOCAL//2020", None, "unknown"),
        ("TEXT//diabetes", None, "described"),  # a code without description is its own
        ("ICD10CM//E11.9", "Diabetes", "related"),
        ("SNOMED//1", "Diabetes", "exactly"),
    ],
)
def test_a_code_is_described_if_half_of_its_telling_words_were_met(clinic, code, description, level):
    met = frozenset({"diabetes", "mellitus", "the", "type"})
    known = Knowledge(frozenset({"SNOMED//1", "ICD10CM//E11"}), met - {"type"})
    found = familiarity(clinic({code: description}, {1: [code]}), known, "tiny")
    assert found.events == levels(**{level: 1}) and found.codes == found.events
    assert found.known == (level != "unknown")


def test_words_of_a_vocabulary_are_those_of_its_known_codes():
    vocabulary = Vocabulary(["A//1", "A//2"], [schema.AGE], {}, {"A//1": "Left hip", "A//2": "the HIP, right"}, {}, 64)
    assert Knowledge.of(vocabulary) == Knowledge(frozenset({"A//1", "A//2"}), frozenset({"left", "hip", "right"}))


def test_a_vocabulary_that_has_no_parents_knows_no_relatives_above(clinic):
    events = clinic({}, {1: ["ICD10CM//E11.9"]})
    assert familiarity(events, Knowledge(frozenset({"ICD10CM//E11"}), parents=False), "x").events == levels(unknown=1)


def test_subjects_of_whose_events_less_than_half_is_known_are_listed(clinic):
    lines = {1: ["A//1", "B//1"], 2: ["A//1", "B//1", "B//2"], 3: ["B//1"], 4: ["A//1"], 5: [schema.DEATH]}
    found = strangers(clinic({}, lines), Knowledge(frozenset({"A//1"})))
    assert found.rows() == [(2, 3, pytest.approx(1 / 3)), (3, 1, 0.0)]
