"""Whatever happens after the prediction time, sequences, scores, abstentions and explanations stay the same."""

import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ehr_tl import schema
from ehr_tl.config import EvaluationConfig, LightGBMConfig, Pipeline, TaskConfig, TransformerConfig
from ehr_tl.events import Events, ExportInfo
from ehr_tl.explain import assemble
from ehr_tl.files import write_json
from ehr_tl.models.crossfit import fit_crossfit
from ehr_tl.models.gradient_boosting import GradientBoostingLearner
from ehr_tl.tokens.batches import collate
from ehr_tl.transfer.arms.network import network_arms
from ehr_tl.transfer.arms.tasks import asked_of_checkpoint

NOW = datetime(2024, 1, 1)
SUBJECTS = range(1, 31)
CODES = ["SNOMED//1", "SNOMED//2", "LOINC//1", "VISIT_START//IMP", "MEDS_DEATH", "NEVER//SEEN"]
CONFIG = Pipeline(
    name="test",
    title="Test",
    question="?",
    outcome="outcome",
    task=TaskConfig({}, "x", {}),
    lightgbm=LightGBMConfig(windows_days=(90, 365), rounds=20, trials=1),
    transformer=TransformerConfig(epochs=1, max_slots=8, players=8, permutations=1),
    evaluation=EvaluationConfig(folds=3),
)

late = st.tuples(
    st.sampled_from(SUBJECTS),
    st.one_of(st.integers(1, 48), st.integers(1, 30_000)),
    st.sampled_from(CODES),
    st.one_of(st.none(), st.floats(-1e6, 1e6, width=32)),
    st.sampled_from([None, "mg/dL", "g"]),
    st.sampled_from([None, ["ICD10CM//E11.9"], ["SNOMED//2", "OURS//1"]]),
)
futures = st.lists(late, max_size=40)


def past() -> list[tuple]:
    """Facts until NOW; the sick have higher values and SNOMED//1."""
    rng, facts = np.random.default_rng(0), []
    for subject in SUBJECTS:
        sick = subject % 3 == 0
        facts.append((subject, NOW - timedelta(days=int(rng.integers(9_000, 30_000))), schema.BIRTH, None, None, None))
        for _ in range(12):
            time = NOW - timedelta(minutes=int(rng.integers(0, 1_000 * 1440)))
            facts.append((subject, time, "VISIT_START//IMP", None, None, None))
            facts.append((subject, time, "LOINC//1", float(rng.normal(150 if sick else 100, 20)), "mg/dL", None))
            others = ["ICD10CM//E11.9"] if rng.random() < 0.5 else None
            facts.append((subject, time, "SNOMED//1" if sick else "SNOMED//2", None, None, others))
    return facts


def write(folder: Path, facts: list[tuple]) -> Events:
    names = ["subject_id", "time", "code", "numeric_value", "unit", "other_codes"]
    frame = pl.DataFrame(facts, schema={name: schema.EVENTS[name] for name in names}, orient="row")
    missing = {name: kind for name, kind in schema.EVENTS.items() if name not in names}
    frame = frame.with_columns(pl.lit(None, kind).alias(name) for name, kind in missing.items())
    (folder / "data").mkdir(parents=True)
    (folder / "metadata").mkdir()
    frame.sort("subject_id", "time", maintain_order=True).write_parquet(folder / "data" / "0.parquet")
    parents = {"ICD10CM//E11.9": ["ICD10CM//E11"]}
    codes = sorted({*CODES, *parents, "ICD10CM//E11", "OURS//1"})
    table = pl.DataFrame([(code, None, parents.get(code, [])) for code in codes], schema=schema.CODES, orient="row")
    table.write_parquet(folder / "metadata" / "codes.parquet")
    subjects = pl.DataFrame({"subject_id": list(SUBJECTS), "patient_id": [f"p{n}" for n in SUBJECTS]})
    subjects.write_parquet(folder / "metadata" / "subjects.parquet")
    write_json(folder / "metadata" / "export.json", ExportInfo("test").to_json())
    return Events(folder)


def asked(split: str, times: list[datetime]) -> pl.DataFrame:
    held = split == schema.HELD_OUT
    rows = [(s, time, s % 3 == 0 if held else None, split) for s in SUBJECTS for time in times]
    return pl.DataFrame(rows, schema=schema.ROWS, orient="row")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leakage")
    heads = asked_of_checkpoint(CONFIG).heads
    learners = [GradientBoostingLearner(CONFIG.lightgbm), *network_arms(CONFIG.transformer, heads)]
    rows = asked(schema.HELD_OUT, [NOW - timedelta(days=400), NOW - timedelta(days=100)])
    return fit_crossfit(learners, write(folder / "events", past()), rows, CONFIG, folder / "models")


def told(fitted, events: Events) -> tuple:
    """All that is said of everybody at NOW."""
    rows = asked(schema.CURRENT_SPLIT, [NOW])
    scores = fitted.score(events, rows)
    explanations = assemble(fitted.attributions(events, rows), events, rows)
    model = next(iter(fitted._fitted[schema.FINETUNED].values()))
    inputs = fitted.learners[schema.FINETUNED].prepare(events, rows)
    sequences, encoding = inputs.sequences, inputs.read(model.trunk).encoding
    batch = collate(sequences, [[each] for each in sequences.group(np.arange(len(rows)))], encoding)
    names = np.array(sequences.records.codes)[batch.code].tolist()
    return scores, explanations, (names, batch.bin.tolist(), batch.fraction.tolist(), batch.place.tolist())


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=futures, second=futures)
def test_events_after_the_prediction_time_change_no_score_and_no_explanation(fitted, first, second):
    with tempfile.TemporaryDirectory() as folder:
        said = []
        for number, future in enumerate((first, second)):
            facts = [(s, NOW + timedelta(hours=h), *rest) for s, h, *rest in future]
            said.append(told(fitted, write(Path(folder) / str(number), past() + facts)))
    (scores, explanations, sequence), (other_scores, other_explanations, other_sequence) = said
    assert scores.equals(other_scores)
    assert explanations.equals(other_explanations)
    assert sequence == other_sequence


def test_an_event_at_the_prediction_time_does(fitted, tmp_path):
    """Else the property above would hold for models that look at nothing."""
    facts = [(s, NOW, "SNOMED//1", None, None, None) for s in SUBJECTS]
    before = told(fitted, write(tmp_path / "one", past()))
    after = told(fitted, write(tmp_path / "two", past() + facts))
    changed = (
        before[0]
        .select("model", changed=pl.col("logit") != after[0]["logit"])
        .group_by("model")
        .agg(pl.mean("changed"))
    )
    assert changed["changed"].min() > 0.3, changed
    assert not before[1].equals(after[1]) and before[2] != after[2]
