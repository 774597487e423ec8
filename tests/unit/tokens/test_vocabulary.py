from datetime import datetime, timedelta

import numpy as np
import pytest

from ehr_tl.errors import CheckpointError
from ehr_tl.tokens.records import read_records
from ehr_tl.tokens.vocabulary import Vocabulary, hash_words

START = datetime(2020, 1, 1)


def facts(subjects, code, values=(), unit="mg/dL"):
    for subject in subjects:
        yield (subject, START, code)
        for i, value in enumerate(values):
            yield (subject, START + timedelta(days=i), "LOINC//2345-7", float(value), unit)


@pytest.fixture
def records(write_events):
    parents = {"ICD10CM//E11.9": ["ICD10CM//E11"], "ICD10CM//E11": ["ICD10CM//E"], "ICD10CM//E11.2": ["ICD10CM//E11"]}
    rows = [*facts(range(1, 7), "ICD10CM//E11.9", range(80, 100)), *facts((7,), "ICD10CM//E11.2")]
    return read_records(write_events(rows, parents), slot_hours=24)


def test_a_code_is_known_when_enough_subjects_have_it_or_a_descendant(records):
    assert set(Vocabulary.fit([records], 7).codes) >= {"ICD10CM//E11", "ICD10CM//E"}
    assert "ICD10CM//E11.9" not in Vocabulary.fit([records], 7).codes
    assert "ICD10CM//E11.9" in Vocabulary.fit([records], 6).codes


def test_the_same_id_in_two_sources_means_two_people(records):
    assert "ICD10CM//E11.9" in Vocabulary.fit([records, records], 12).codes


def test_an_unknown_code_is_read_by_its_ancestors_and_words(records):
    vocabulary = Vocabulary.fit([records], 5)
    encoding = vocabulary.encode(records)
    place = records.codes.index("ICD10CM//E11.2")
    assert encoding.own[place] == 0
    begin, end = encoding.ancestor_offsets[place], encoding.ancestor_offsets[place + 1]
    assert [vocabulary.codes[n - 1] for n in encoding.ancestors[begin:end]] == ["ICD10CM//E11", "ICD10CM//E"]
    assert encoding.word_offsets[place] < encoding.word_offsets[place + 1]


def test_a_value_lies_between_two_bins_by_its_quantile(records):
    vocabulary = Vocabulary.fit([records], 5)
    encoding = vocabulary.encode(records)
    valued = ~np.isnan(records.value)
    assert encoding.block[records.codes.index("LOINC//2345-7")] == vocabulary.valued.index("LOINC//2345-7") + 1
    place = (encoding.bin + encoding.fraction)[valued]
    order = np.argsort(records.value[valued])
    assert np.all(np.diff(place[order]) >= 0)
    assert place.min() >= 0 and place.max() <= vocabulary.bins - 1
    assert place[records.value[valued] == 90].mean() == pytest.approx((vocabulary.bins - 1) / 2, abs=0.5)
    assert np.all(encoding.bin[~valued] == -1)


def test_a_value_in_an_unknown_unit_is_not_read_until_training_subjects_taught_it(records, write_events, tmp_path):
    vocabulary = Vocabulary.fit([records], 5)
    local = [*facts(range(1, 3), "LOCAL//x", range(4, 24), "mmol/L")]
    other = read_records(write_events(local, folder=tmp_path / "other"), slot_hours=24)
    assert np.all(vocabulary.encode(other).bin == -1)
    extended = vocabulary.extend([other], [np.array([0, 1])], 2)
    assert np.all(extended.encode(other).bin[~np.isnan(other.value)] >= 0)
    assert extended.edges["LOINC//2345-7"]["mg/dL"] == vocabulary.edges["LOINC//2345-7"]["mg/dL"]
    assert extended.codes[: len(vocabulary.codes)] == vocabulary.codes and "LOCAL//x" in extended.codes


def test_extending_looks_at_the_training_subjects_alone(records, write_events, tmp_path):
    rows = [*facts((1, 2), "LOCAL//a", range(30)), *facts((3, 4), "LOCAL//b", range(1000, 1030))]
    other = read_records(write_events(rows, folder=tmp_path / "other"), slot_hours=24)
    fitted = Vocabulary([], ["AGE"], {}, {}, {}, 64).extend([other], [np.array([0, 1])], 2)
    assert "LOCAL//a" in fitted.codes and "LOCAL//b" not in fitted.codes
    assert max(fitted.edges["LOINC//2345-7"]["mg/dL"]) < 30


def test_extending_counts_over_all_hospitals(records, write_events, tmp_path):
    others = [
        read_records(write_events([*facts(range(1, 6), "X//new", range(10))], folder=tmp_path / name), slot_hours=24)
        for name in ("north", "south")
    ]
    for found in (Vocabulary.fit([records], 5).extend(others, [np.arange(5)] * 2, 10), Vocabulary.fit(others, 10)):
        assert "X//new" in found.codes and "mg/dL" in found.edges["LOINC//2345-7"]


def test_a_saved_vocabulary_is_the_same(records, tmp_path):
    vocabulary = Vocabulary.fit([records], 2)
    vocabulary.save(tmp_path / "vocabulary.json")
    loaded = Vocabulary.load(tmp_path / "vocabulary.json")
    assert loaded.__dict__ == vocabulary.__dict__
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "vocabulary.json").read_bytes()


@pytest.mark.parametrize("text", ["[]", "{}", "no JSON", '{"version": 99}'])
def test_what_is_no_vocabulary_is_refused(tmp_path, text):
    (tmp_path / "vocabulary.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"vocabulary\.json"):
        Vocabulary.load(tmp_path / "vocabulary.json")


def test_related_descriptions_share_buckets():
    known = set(hash_words("Chronic kidney disease stage 3", 4096))
    assert len(known & set(hash_words("kidney disease, chronic", 4096))) > len(
        known & set(hash_words("Fracture of forearm", 4096))
    )


def test_codes_units_and_values_of_a_few_are_not_written_down(write_events, tmp_path):
    facts = [(s, START + timedelta(days=d), "X//a", float(d), "mg") for s in range(1, 11) for d in range(5)]
    facts += [(1, START + timedelta(days=d), "X//a", float(d), "as Mr Jones takes it") for d in range(40)]
    facts += [(1, START + timedelta(days=d), "TEXT//call Mrs Smith", 7.0 + d, "mg") for d in range(40)]
    vocabulary = Vocabulary.fit([read_records(write_events(facts))], min_subjects=5)
    vocabulary.save(tmp_path / "vocabulary.json")
    text = (tmp_path / "vocabulary.json").read_text(encoding="utf-8")
    assert list(vocabulary.edges) == ["X//a"] and list(vocabulary.edges["X//a"]) == ["mg"]
    assert "Smith" not in text and "Jones" not in text
