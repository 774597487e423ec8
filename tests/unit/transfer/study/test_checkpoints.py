from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
import yaml

from ehr_tl.config import pipeline_path
from ehr_tl.errors import CheckpointError, CohortError, PipelineError, RunError
from ehr_tl.files import locked
from ehr_tl.transfer.seen import SEEN, refuse_seen
from ehr_tl.transfer.study.checkpoints import continued, key, transferred
from ehr_tl.transfer.study.config import Population, Study
from ehr_tl.transfer.study.setting import of_cohort, set_up

RECIPE = {
    "name": "tiny",
    "title": "Tiny",
    "network": {"width": 32, "layers": 1, "heads": 2, "feed_forward": 64, "buckets": 64},
    "training": {"epochs": 1, "queries": 2, "batch_slots": 256, "lane_slots": 64, "min_subjects": 5},
}


@pytest.fixture
def study(tmp_path):
    """From one unit of a clinic to the other; the question is about the code ILL."""
    question = yaml.safe_load(pipeline_path("demo").read_text(encoding="utf-8"))
    window = {"start": "trigger", "end": "start + 30 days", "start_inclusive": False, "end_inclusive": True}
    question["task"] = {
        "trigger": "asked",
        "predicates": {"asked": {"code": "LAB"}, "ill": {"code": "ILL"}},
        "windows": {"after": {**window, "label": "ill", "index_timestamp": "start"}},
    }
    for name, value in (("question", question), ("tiny", RECIPE)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(value))
    return Study(
        "units",
        "Units",
        str(tmp_path / "question.yaml"),
        Population("clinic", having=("UNIT//1",)),
        Population("clinic", without=("UNIT//1",)),
        recipe=str(tmp_path / "tiny.yaml"),
        seeds=(0,),
        cases=(16,),
        repeats=1,
    )


def test_a_source_is_pretrained_without_anybody_of_the_target(study, clinic, tmp_path):
    events, _ = clinic()
    setting = set_up(replace(study, seeds=(0, 1)), {"clinic": events.folder})
    assert set(setting.subject % 2) == {1} and not np.isin(setting.source.outside % 2, 0).any()
    assert setting.source.rows["subject_id"].unique().to_numpy().tolist() == list(range(2, 201, 2))
    made = transferred(setting, tmp_path / "pretrained")
    for path in made.values():
        refuse_seen(
            path, events, setting.target.subjects.filter(pl.col("subject_id") % 2 == 1)["subject_id"].to_numpy()
        )
        assert 80 < pl.read_parquet(path / SEEN).height <= 100  # a tenth of the source is set aside
    weights = {path: (path / "model.safetensors").stat().st_mtime_ns for path in made.values()}
    again = transferred(setting, tmp_path / "pretrained")
    assert {path: (path / "model.safetensors").stat().st_mtime_ns for path in again.values()} == weights

    further = continued(replace(setting, study=replace(setting.study, continued=study.recipe)), made, tmp_path / "more")
    refuse_seen(further[0], events, setting.draws.test)
    with pytest.raises(CheckpointError, match="pretrained on"):
        refuse_seen(further[0], events, setting.draws.each[0].subjects)

    # The other way round, the same checkpoint has seen the target.
    other = replace(study, target=study.source, source=None, checkpoint=str(made[0]))
    with pytest.raises(CheckpointError, match="was pretrained on"):
        transferred(set_up(other, {"clinic": events.folder}), tmp_path / "pretrained")


def test_a_checkpoint_is_carried_on_with_what_was_known_at_the_prediction_times(study, clinic, write_events, tmp_path):
    events, everybody = clinic()
    labelled = everybody.filter(pl.col("subject_id") % 2 == 1)
    columns = ["subject_id", "time", "code", "numeric_value", "unit"]
    facts = events.scan().select(columns).collect().rows()
    asked = labelled["prediction_time"][0]
    later = [(*fact[:2], "OTHER", *fact[3:]) for fact in facts if fact[2] == "ILL"]
    later += [(subject, asked + timedelta(days=30), "MEDS_DEATH") for subject in range(1, 50)]
    later += [(subject, asked - timedelta(days=2), "LAB", 9.0, "mg") for subject in range(300, 350)]  # have no row
    earlier = [(*fact[:3], 9.0, *fact[4:]) if fact[2] == "LAB" else fact for fact in facts]
    told = {
        "as it is": facts,
        "later": [fact for fact in facts if fact[2] != "ILL"] + later,
        "earlier": earlier,
    }
    [start] = transferred(set_up(study, {"clinic": events.folder}), tmp_path / "pretrained").values()
    further = replace(study, source=None, checkpoint=str(start), continued=study.recipe)
    weights = {}
    for name, facts in told.items():
        setting = of_cohort(further, study.question(), write_events(facts, folder=tmp_path / name), labelled)
        [path] = continued(setting, {0: start}, tmp_path / "further" / name).values()
        weights[name] = (path / "model.safetensors").read_bytes(), (path / "vocabulary.json").read_bytes()
    assert weights["later"] == weights["as it is"] != weights["earlier"]

    other = labelled.with_columns(pl.col("prediction_time") + timedelta(hours=1))
    with pytest.raises(RunError, match="was made from other records"):
        continued(of_cohort(further, study.question(), setting.target, other), {0: start}, path.parent)


def test_nobody_is_on_both_sides(study, clinic):
    events, _ = clinic()
    with pytest.raises(PipelineError, match="100 subjects are of the source and of the target"):
        set_up(replace(study, source=Population("clinic")), {"clinic": events.folder})


def test_without_source_and_checkpoint_nothing_is_transferred(study, clinic, tmp_path):
    events, labelled = clinic()
    setting = of_cohort(replace(study, source=None), study.question(), events, labelled)
    assert transferred(setting, tmp_path) == {0: None} == continued(setting, {0: None}, tmp_path)

    trees = replace(set_up(study, {"clinic": events.folder}), pipeline=replace(study.question(), transformer=None))
    assert transferred(trees, tmp_path / "pretrained") == {0: None} and not (tmp_path / "pretrained").exists()


def test_a_checkpoint_that_was_made_from_something_else_is_not_taken(study, clinic, tmp_path):
    setting = set_up(study, {"clinic": clinic()[0].folder})
    [path] = transferred(setting, tmp_path / "pretrained").values()
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE | {"title": "Other"}))
    with pytest.raises(RunError, match="another recipe"):
        transferred(setting, tmp_path / "pretrained")
    path.with_name("seed_0.json").unlink()  # as an earlier version left it
    assert transferred(setting, tmp_path / "pretrained") == {0: path}


def test_a_checkpoint_that_is_in_the_making_is_not_made_twice(study, clinic, tmp_path):
    setting = set_up(study, {"clinic": clinic()[0].folder})
    place = tmp_path / "pretrained" / key(study)
    place.mkdir(parents=True)
    with locked(place), pytest.raises(RunError, match="Another ehr-tl is at work"):
        transferred(setting, tmp_path / "pretrained")


def test_codes_that_nobody_has_choose_nobody(study, clinic):
    events, _ = clinic()
    typo = replace(study, source=None, target=Population("clinic", without=("UNIT//1", "UNIT//l")))
    with pytest.raises(CohortError, match="the code 'UNIT//l'"):
        set_up(typo, {"clinic": events.folder})


def test_source_rows_that_all_end_alike_are_not_pooled(study, clinic, write_events, tmp_path):
    events, _ = clinic()
    well = events.scan().filter((pl.col("code") != "ILL") | (pl.col("subject_id") % 2 == 1)).collect()
    facts = well.select("subject_id", "time", "code", "numeric_value", "unit").rows()
    half = write_events(facts, folder=tmp_path / "half")
    assert set_up(study, {"clinic": half.folder}).source.rows is None
