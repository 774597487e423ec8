"""Which arms a pipeline has."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from ehr_tl import schema
from ehr_tl.config import LightGBMConfig, Pipeline, TaskConfig, TransferConfig, TransformerConfig
from ehr_tl.errors import PipelineError
from ehr_tl.files import read_json, write_json
from ehr_tl.transfer.arms import arms, labelled_sources
from ehr_tl.transfer.arms.tasks import asked_of_checkpoint, source_tasks

PIPELINE = Pipeline(
    "decline",
    "Decline",
    "Who declines?",
    "Decline",
    TaskConfig({}, "asked", {}),
    lightgbm=LightGBMConfig(windows_days=(30,), trials=1),
    transformer=None,
)


@pytest.fixture
def whole_checkpoint(checkpoint, write_checkpoint, tmp_path):
    """A checkpoint with trees and a network."""
    folder = write_checkpoint(tmp_path / "whole", {"LAB": None, "RISK": "a risk"})
    shutil.copytree(checkpoint / "source", folder / "source")
    return folder


def names(pipeline):
    return [each.name for each in arms(pipeline)]


def test_the_source_arms_come_with_a_checkpoint_that_has_trees(whole_checkpoint):
    with_trees = replace(PIPELINE, transformer=TransformerConfig(str(whole_checkpoint), compare_from_scratch=False))
    assert names(with_trees)[0] == schema.LIGHTGBM
    assert {schema.SOURCE, schema.ANCHORED} <= set(names(with_trees))
    assert not {schema.SOURCE, schema.ANCHORED} & set(names(PIPELINE))
    without = replace(PIPELINE, transformer=TransformerConfig(None))
    assert not {schema.SOURCE, schema.ANCHORED} & set(names(without))


def test_only_arms_that_are_named_take_part(whole_checkpoint):
    pipeline = replace(
        PIPELINE,
        transformer=TransformerConfig(str(whole_checkpoint), compare_from_scratch=False),
        transfer=TransferConfig(arms=(schema.ANCHORED, schema.LIGHTGBM)),
    )
    assert names(pipeline) == [schema.LIGHTGBM, schema.ANCHORED]
    for wrong in ("lightgbm", schema.POOLED, schema.RECALIBRATED):
        with pytest.raises(PipelineError, match=f"{wrong!r}, which cannot be had"):
            arms(replace(pipeline, transfer=TransferConfig(arms=(wrong,))))


def test_the_question_itself_is_asked_else_what_was_named_else_all():
    known = ("death", "decline", "stay")
    assert source_tasks(PIPELINE, known) == ("decline",)
    assert source_tasks(PIPELINE, ("death", "stay")) == ("death", "stay")
    named = replace(PIPELINE, transfer=TransferConfig(tasks=("stay", "death")))
    assert source_tasks(named, known) == ("stay", "death")
    assert source_tasks(PIPELINE, ()) == ()
    with pytest.raises(PipelineError, match="'stay'"):
        source_tasks(named, ("death",))


def test_trees_and_heads_are_asked_the_same_and_whether_that_is_the_question_itself_is_told(whole_checkpoint):
    told = read_json(whole_checkpoint / "config.json")

    def asked(name, heads, **transfer):
        write_json(whole_checkpoint / "config.json", {**told, "tasks": heads})
        transformer = TransformerConfig(str(whole_checkpoint), compare_from_scratch=False)
        pipeline = replace(PIPELINE, name=name, transformer=transformer, transfer=TransferConfig(**transfer))
        return asked_of_checkpoint(pipeline)

    assert asked("decline", ["decline", "stay"]) == (("decline",), ("decline",), False)
    assert asked("stay", ["decline", "stay"]) == ((), ("stay",), False)
    assert asked("rise", ["decline", "stay"]) == (("rise",), (), False)  # the other way round
    assert asked("other", ["decline", "stay"]) == (("decline", "rise"), ("decline", "stay"), True)
    assert asked("other", ["stay"], tasks=("rise", "stay")) == (("rise",), ("stay",), False)
    with pytest.raises(PipelineError, match="'fall', which the checkpoint does not answer"):
        asked("other", ["stay"], tasks=("fall",))


def test_arms_on_the_rows_of_sources_come_with_sources_that_can_label_the_question(whole_checkpoint, ward, caplog):
    hospital = ward("there", seed=3)
    given = names(replace(PIPELINE, transformer=TransformerConfig(str(whole_checkpoint), compare_from_scratch=False)))
    order = [schema.LIGHTGBM, schema.LOGISTIC, schema.SOURCE, schema.ANCHORED]
    assert given[:4] == order
    pipeline = replace(PIPELINE, transformer=TransformerConfig(str(whole_checkpoint), compare_from_scratch=False))
    with_rows = [each.name for each in arms(pipeline, [(hospital.events, hospital.rows)])]
    assert with_rows[:6] == [*order, schema.POOLED, schema.WEIGHTED]
    windows = {
        "view": {"start": None, "end": "trigger", "start_inclusive": True, "end_inclusive": True},
        "after": {
            "start": "trigger",
            "end": "start + 30 days",
            "start_inclusive": False,
            "end_inclusive": True,
            "label": "never",
        },
    }
    windows["view"]["index_timestamp"] = "end"
    task = TaskConfig({"measured": {"code": "LAB"}, "never": {"code": "NEVER"}}, "measured", windows)
    asked = replace(PIPELINE, task=task, transfer=TransferConfig(sources=(str(hospital.events.folder),)))
    assert [each.name for each in arms(asked, labelled_sources(asked))] == [schema.LIGHTGBM, schema.LOGISTIC]
    assert "there cannot label the question" in caplog.text


def test_what_was_fitted_on_sources_scores_where_they_are_gone(ward, tmp_path):
    here, there = ward("here", seed=1), ward("there", seed=3)
    pipeline = replace(PIPELINE, transfer=TransferConfig(sources=(str(there.events.folder),), arms=(schema.POOLED,)))
    (learner,) = arms(pipeline, [(there.events, there.rows)])
    label, train = here.rows["boolean_value"].cast(float).to_numpy(), np.arange(40)
    inputs = learner.prepare(here.events, here.rows)
    fitted = learner.fit(inputs, label, train, seed=0, state=tmp_path)
    fitted.save(tmp_path)
    shutil.rmtree(there.events.folder)
    (loaded,) = arms(pipeline)
    again = loaded.prepare(here.events, here.rows)
    np.testing.assert_array_equal(
        loaded.load(tmp_path).logit(again, train), learner.load(tmp_path).logit(inputs, train)
    )
