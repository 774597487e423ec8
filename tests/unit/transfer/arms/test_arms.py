"""Which arms a pipeline has."""

from dataclasses import replace

import pytest

from ehr_tl import schema
from ehr_tl.config import LightGBMConfig, Pipeline, TaskConfig, TransferConfig, TransformerConfig
from ehr_tl.errors import PipelineError
from ehr_tl.transfer.arms import arms
from ehr_tl.transfer.arms.tasks import source_tasks

PIPELINE = Pipeline(
    "decline",
    "Decline",
    "Who declines?",
    "Decline",
    TaskConfig({}, "asked", {}),
    lightgbm=LightGBMConfig(windows_days=(30,), trials=1),
    transformer=None,
)


def names(pipeline):
    return [each.name for each in arms(pipeline)]


def test_the_source_arms_come_with_a_checkpoint_that_has_trees(checkpoint, tmp_path):
    with_trees = replace(PIPELINE, transformer=TransformerConfig(str(checkpoint), compare_from_scratch=False))
    assert names(with_trees)[0] == schema.LIGHTGBM
    assert {schema.SOURCE, schema.ANCHORED} <= set(names(with_trees))
    assert not {schema.SOURCE, schema.ANCHORED} & set(names(PIPELINE))
    without = replace(PIPELINE, transformer=TransformerConfig(None))
    assert not {schema.SOURCE, schema.ANCHORED} & set(names(without))


def test_only_arms_that_are_named_take_part(checkpoint):
    pipeline = replace(
        PIPELINE,
        transformer=TransformerConfig(str(checkpoint), compare_from_scratch=False),
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
