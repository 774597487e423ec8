import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehr_tl.errors import CheckpointError
from ehr_tl.tokens.context_clues import BOS, CLS, EOS, PAD, SPECIAL, UNKNOWN_CODE, UNKNOWN_VALUE, CodeTokenizer


def code(name):
    return {"type": "code", "code": name, "description": None, "tokenization": {}, "stats": []}


def between(name, start, end, unit="None"):
    bounds = {"unit": unit, "range_start": start, "range_end": end}
    return {"type": "numerical_range", "code": name, "description": None, "tokenization": bounds, "stats": []}


def one_of(name, *categories):
    return {"type": "categorical", "code": name, "tokenization": {"categories": list(categories)}, "stats": []}


LOWEST, HIGHEST = -1.7976931348623157e308, 1.7976931348623157e308


def test_special_tokens_come_first_in_the_published_order():
    assert CodeTokenizer([code("A/1")]).tokens == (*SPECIAL, "A/1")
    assert [SPECIAL[i] for i in (0, 1, 2, 3, 4, 5, 6)] == [
        "[BOS]",
        "[EOS]",
        "[UNK]",
        "[SEP]",
        "[PAD]",
        "[CLS]",
        "[MASK]",
    ]
    assert (BOS, EOS, PAD, CLS) == (0, 1, 4, 5)


def test_the_example_of_the_published_model_cards():
    """The cards of the family show ids of six events, and the names of their tokens."""
    published = {
        7: (code("SNOMED/3950001"), "SNOMED/3950001"),
        9: (code("Gender/F"), "Gender/F"),
        27: (code("Ethnicity/Hispanic"), "Ethnicity/Hispanic"),
        2049: (code("SNOMED/609040007"), "SNOMED/609040007"),
        6557: (between("LOINC/2236-8", LOWEST, 4.0), "LOINC/2236-8 || None || -1.7976931348623157e+308 - 4.0"),
        22433: (
            between("SNOMED/12199005", 26.0, 28.899999618530273),
            "SNOMED/12199005 || None || 26.0 - 28.899999618530273",
        ),
    }
    entries = [published.get(i, (code(f"FILLER/{i}"), ""))[0] for i in range(len(SPECIAL), 39818)]
    tokenizer = CodeTokenizer(json.loads(json.dumps(entries)))
    assert len(tokenizer) == 39818
    assert {i: tokenizer.tokens[i] for i in published} == {i: name for i, (_, name) in published.items()}
    patient = [
        ("MEDS_BIRTH", None),
        ("GENDER//female", None),
        ("Ethnicity//Hispanic", None),
        ("SNOMED//609040007", None),
        ("LOINC//2236-8", -3.0),
        ("SNOMED//12199005", 26.3),
    ]
    assert [tokenizer.identify([name], value, None, None) for name, value in patient] == list(published)


@pytest.mark.parametrize(
    ("number", "place"),
    [
        (0.0, 0),
        (4.0, 0),  # the end belongs to a range, and the first that fits counts
        (4.000001, 1),
        (10.0, 1),
        (10.5, None),  # between two ranges
        (11.0, 2),
        (-1.0, None),
        (float("nan"), None),
    ],
)
def test_both_ends_of_a_range_belong_to_it_and_the_first_that_fits_counts(number, place):
    tokenizer = CodeTokenizer([between("L/1", 0.0, 4.0), between("L/1", 4.0, 10.0), between("L/1", 11, HIGHEST)])
    expected = UNKNOWN_VALUE if place is None else len(SPECIAL) + place
    assert tokenizer.identify(["L//1"], number, None, "mg/dL") == expected


def test_a_code_with_ranges_and_a_number_that_fits_none_gives_no_token():
    tokenizer = CodeTokenizer([code("L/1"), between("L/1", 0.0, 4.0), code("L/2")])
    assert tokenizer.identify(["L//1"], 5.0, None, None) == UNKNOWN_VALUE
    assert tokenizer.identify(["L//1"], None, None, None) == 7
    assert tokenizer.identify(["L//1"], None, "positive", None) == 7
    assert tokenizer.identify(["L//2"], 5.0, None, None) == 9


def test_a_text_is_one_of_the_categories_or_gives_no_token():
    tokenizer = CodeTokenizer([one_of("S/1", "N"), one_of("S/1", "Y", "N"), code("S/1")])
    assert [tokenizer.identify(["S//1"], None, text, None) for text in ("N", "Y", "n", "")] == [7, 8, UNKNOWN_VALUE, 9]
    assert tokenizer.identify(["S//1"], 1.0, "N", None) == 9  # a number is the value


def test_units_are_heeded_where_the_vocabulary_has_any():
    tokenizer = CodeTokenizer(
        [between("L/1", 0, 9, "mmol/L"), between("L/1", 0, 90, "mg/dL"), between("L/2", 0, 9, None)]
    )
    given_units = [("L//1", "mg/dL"), ("L//1", "mmol/L"), ("L//1", None), ("L//2", None), ("L//2", "mg/dL")]
    found = [tokenizer.identify([name], 5.0, None, unit) for name, unit in given_units]
    assert found == [8, 7, UNKNOWN_VALUE, 9, UNKNOWN_VALUE]


def test_the_first_code_that_the_vocabulary_has_decides():
    tokenizer = CodeTokenizer([code("ICD10CM/I21.4"), code("SNOMED/1"), between("LOINC/1", 0, 1), code("LOCAL//7")])
    assert tokenizer.identify(["LOCAL//1", "SNOMED//1", "ICD10CM//I21.4"], None, None, None) == 8
    assert tokenizer.identify(["LOINC//1", "SNOMED//1"], 5.0, None, None) == UNKNOWN_VALUE
    assert tokenizer.identify(["LOCAL//7"], None, None, None) == 10  # a vocabulary made of MEDS data keeps its names
    assert tokenizer.identify(["LOCAL//8"], None, None, None) == UNKNOWN_CODE


def test_of_two_tokens_of_one_name_the_last_counts():
    assert CodeTokenizer([code("A/1"), code("A/2"), code("A/1")]).identify(["A//1"], None, None, None) == 9


NAMES = st.sampled_from(["A/1", "A/2", "A/3"])
BOUND = st.sampled_from([LOWEST, -1.0, 0.0, 0.5, 1.0, HIGHEST])
UNIT = st.sampled_from([None, "None", "mg", "g"])
ENTRY = st.one_of(
    st.builds(code, NAMES),
    st.builds(between, NAMES, BOUND, BOUND, UNIT),
    st.builds(one_of, NAMES, st.sampled_from("xyz"), st.sampled_from("xyz")),
)
EVENT = st.tuples(NAMES, st.none() | BOUND, st.none() | st.sampled_from("xyz"), UNIT)


@given(st.lists(ENTRY, max_size=12), EVENT)
def test_it_follows_the_published_rules_word_by_word(entries, event):
    name, number, text, unit = event
    found = CodeTokenizer(entries).identify([name], number, text, unit)
    tokens = by_the_rules(entries, name, number if number is not None else text, unit)
    assert (None if found < 0 else CodeTokenizer(entries).tokens[found]) == tokens
    assert (found == UNKNOWN_CODE) == (name not in {entry["code"] for entry in entries})


def by_the_rules(entries, name, value, unit):
    """The name of an event's token, or None: the rules as hf_ehr's README and code state them, one after the other."""
    mine = [entry for entry in entries if entry["code"] == name]
    ranges = [entry for entry in mine if entry["type"] == "numerical_range"]
    texts = [entry for entry in mine if entry["type"] == "categorical"]
    units = {e["tokenization"]["unit"] for e in entries if e["type"] == "numerical_range"} - {None, "None"}
    if ranges and isinstance(value, float):
        for entry in ranges:
            of = entry["tokenization"]
            if of["range_start"] <= value <= of["range_end"] and (not units or unit == of["unit"]):
                return f"{name} || {of['unit']} || {of['range_start']} - {of['range_end']}"
        return None
    if texts and isinstance(value, str):
        for entry in texts:
            if value in entry["tokenization"]["categories"]:
                return f"{name} || {','.join(entry['tokenization']['categories'])}"
        return None
    return name if any(entry["type"] == "code" for entry in mine) else None


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "code"},
        {"type": "code", "code": 7},
        {"type": "word", "code": "A/1"},
        {"type": "numerical_range", "code": "A/1", "tokenization": {"unit": "None", "range_start": 1.0}},
        {"type": "numerical_range", "code": "A/1", "tokenization": {"range_start": "1", "range_end": 2.0}},
        {"type": "categorical", "code": "A/1"},
        {"type": "categorical", "code": "A/1", "tokenization": {"categories": [1]}},
        {"type": "categorical", "code": "A/1", "tokenization": {"categories": "yes"}},
        "A/1",
        None,
    ],
)
def test_an_entry_that_is_none_is_named(entry):
    with pytest.raises(CheckpointError, match="entry 1 of tokens"):
        CodeTokenizer([code("A/0"), entry])
