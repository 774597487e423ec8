from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from ehr_tl.errors import CohortError, PipelineError
from ehr_tl.events import Events
from ehr_tl.files import write_json
from ehr_tl.transfer.pretrain import prepare
from ehr_tl.transfer.recipe import Recipe, TrainingConfig
from ehr_tl.transfer.tasks import label_tasks

END = datetime(2026, 1, 1)
DAY = timedelta(days=1)

PIPELINE = """
name: {name}
title: {title}
question: Who dies?
outcome: Death within 30 days
task:
  trigger: asked
  predicates:
    asked: {{code: ASK}}
    outcome: {{code: {outcome}}}
  windows:
    history: {{start: null, end: trigger, start_inclusive: true, end_inclusive: true, index_timestamp: end}}
    after: {{start: trigger, end: start + 30 days, start_inclusive: false, end_inclusive: true, label: outcome}}
"""


@pytest.fixture
def pipeline(tmp_path):
    def write(name, outcome="MEDS_DEATH", title="Death", file=None):
        path = tmp_path / f"{file or name}.yaml"
        path.write_text(PIPELINE.format(name=name, outcome=outcome, title=title))
        return str(path)

    return write


@pytest.fixture
def source(write_events, tmp_path):
    """A hospital of two who are asked about: one has the outcome ten days later, the other has not."""

    def write(name, adapter="test", outcome="MEDS_DEATH") -> Events:
        facts = [(1, END - 90 * DAY, "ASK"), (1, END - 80 * DAY, outcome), (2, END - 60 * DAY, "ASK")]
        events = write_events([*facts, (2, END - DAY, "OTHER")], folder=tmp_path / name, end=END)
        info = replace(events.export, adapter=adapter)
        write_json(events.folder / "metadata" / "export.json", info.to_json())
        return Events(events.folder)

    return write


def test_each_source_labels_what_its_adapter_is_to_answer(source, pipeline):
    sources = [source("a", "ward"), source("b", "clinic"), source("c", "ward")]
    death, again = pipeline("death"), pipeline("again", file="second")
    tasks = label_tasks(sources, {"ward": [death], "clinic": [again, death], "elsewhere": ["no such file"]})
    assert [(task.name, task.title, sorted(task.labels)) for task in tasks] == [
        ("death", "Death", [0, 1, 2]),
        ("again", "Death", [1]),
    ]
    assert tasks[0].labels[2].rows() == [(1, END - 90 * DAY, True), (2, END - 60 * DAY, False)]


def test_a_source_that_cannot_label_a_task_is_left_out_and_named(source, pipeline, caplog):
    sources = [source("tells"), source("silent", outcome="OTHER")]
    (task,) = label_tasks(sources, {"test": [pipeline("death")]})
    assert sorted(task.labels) == [0]
    assert "silent cannot label death" in caplog.text


def test_a_task_that_no_source_can_label_is_refused(source, pipeline):
    with pytest.raises(CohortError, match="No source can label the task stroke"):
        label_tasks([source("a")], {"test": [pipeline("stroke", outcome="STROKE")]})


def test_two_pipelines_of_one_name_are_refused(source, pipeline):
    sources = [source("a", "ward"), source("b", "clinic")]
    tasks = {"ward": [pipeline("death")], "clinic": [pipeline("death", "OTHER", file="second")]}
    with pytest.raises(PipelineError, match="Two pipelines named 'death' differ"):
        label_tasks(sources, tasks)


def test_rows_of_those_to_be_held_out_are_left_out(source, pipeline):
    (task,) = label_tasks([source("a")], {"test": [pipeline("death")]}, exclude=np.array([2, 7]))
    assert task.labels[0]["subject_id"].to_list() == [1]


def test_whoever_is_excluded_from_pretraining_labels_no_task(source, pipeline):
    recipe = Recipe("small", "Small", {"test": (pipeline("death"),)}, training=TrainingConfig(min_subjects=1))
    prepared = prepare([source("a")], recipe, exclude=np.array([2]))
    assert [rows["subject_id"].to_list() for rows in prepared.tasks[0].labels.values()] == [[1]]
