from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from ehr_tl.config import AbstentionConfig
from ehr_tl.features import profile
from ehr_tl.models.abstention import Abstention, Reference

NOW = datetime(2024, 1, 1)


def facts_of(subject: int, codes: list[str], days: int = 100) -> list[tuple]:
    return [(subject, NOW - timedelta(days=days + i), code) for i, code in enumerate(codes)]


@pytest.fixture
def records(write_events):
    random = np.random.default_rng(0)
    facts = []
    for subject in range(60):
        facts += facts_of(subject, ["A", "B//1", "C"] * int(random.integers(2, 5)), int(random.integers(10, 300)))
    facts += facts_of(60, ["A", "B//1"])
    facts += facts_of(61, ["A", "X", "Y", "Z", "B//2"])  # B//2 is unknown, its parent B is not
    facts += facts_of(62, ["A"] * 3_000)
    facts += facts_of(63, ["A", "B//2", "C", "A", "A", "C"])
    facts += facts_of(64, ["X", "B//2", "C", "X", "A", "X"])
    events = write_events(facts, {"B//1": ["B"], "B//2": ["B"]})
    rows = pl.DataFrame({"subject_id": range(65), "prediction_time": [NOW] * 65})
    return profile(events, rows.head(60)), profile(events, rows)


def test_reasons(records, tmp_path):
    train, everybody = records
    fold = np.arange(60) % 3
    audience = np.concatenate([fold, np.full(5, 3)])
    abstention = Abstention.fit(train, fold, 3, AbstentionConfig(max_distance=1.0))
    reasons = abstention.reasons(everybody, audience)
    assert reasons[:60].count(None) >= 57
    assert "only 2 events" in reasons[60]
    assert "only 40% of the patient's events" in reasons[61]
    assert "unlike" in reasons[62] and "number of" in reasons[62]
    assert reasons[63] is None
    assert reasons[64] is None  # exactly half is enough
    abstention.save(tmp_path)
    assert Abstention.load(tmp_path).reasons(everybody, audience) == reasons


def test_that_visits_began_and_ended_is_no_knowledge_of_a_patient(write_events, caplog):
    """A record whose every clinical code is foreign is not known by its visits, which all hospitals write alike."""
    visits = ["VISIT_START//AMB", "VISIT_END//AMB"] * 4
    facts = [fact for subject in range(30) for fact in facts_of(subject, [*visits, "A", "B", "C"])]
    facts += facts_of(30, [*visits, "X", "Y", "Z"]) + facts_of(31, visits)
    rows = pl.DataFrame({"subject_id": range(32), "prediction_time": [NOW] * 32})
    events = write_events(facts)
    abstention = Abstention.fit(profile(events, rows.head(30)), np.arange(30) % 3, 3, AbstentionConfig())
    foreign, silent = abstention.reasons(profile(events, rows), np.full(32, 3))[30:]
    assert "only 0% of the patient's events" in foreign
    assert "only 0 events" in silent
    assert "another hospital" not in caplog.text
    abstention.reasons(profile(events, rows[30:]), np.full(2, 3))
    assert "another hospital" in caplog.text


def test_a_fold_is_compared_with_the_other_folds(write_events):
    facts = [fact for subject in range(9) for fact in facts_of(subject, ["ONLY" if subject < 3 else "A"] * 5)]
    rows = pl.DataFrame({"subject_id": range(9), "prediction_time": [NOW] * 9})
    seen = profile(write_events(facts), rows)
    fold = np.repeat([0, 1, 2], 3)
    abstention = Abstention.fit(seen, fold, 3, AbstentionConfig(max_distance=1.0))
    reasons = abstention.reasons(seen, fold)
    assert all("code" in reason for reason in reasons[:3])
    assert reasons[3:] == [None] * 6
    assert abstention.reasons(seen, np.full(9, 3)) == [None] * 9


def test_distance_counts_standard_deviations_and_overlooks_the_unknown():
    random = np.random.default_rng(0)
    summary = random.normal(size=(5_000, 6)) * [1, 2, 3, 4, 5, 6]
    reference = Reference.fit(summary, 0.99)
    assert np.mean(reference.distance(summary) > reference.farthest) == pytest.approx(0.01, abs=0.002)
    far = reference.mean + np.array([0, 0, 30, 0, 0, 0])
    assert reference.distance(far[None])[0] > 8
    assert reference.strangest(far[None])[0] == 2
    assert reference.distance(np.full((1, 6), np.nan))[0] == 0


def test_a_summary_that_never_varies_is_no_reason():
    summary = np.column_stack([np.zeros(50), np.random.default_rng(0).normal(size=50)])
    reference = Reference.fit(summary, 1.0)
    assert reference.distance(np.array([[0.05, 0.0]]))[0] < reference.farthest
