"""Pipeline files: what a value may be, what an error says, and where folders are."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ehr_tl.config import TransformerConfig, build, load_pipeline, pipeline_names, pipeline_path, utc
from ehr_tl.errors import PipelineError


@pytest.fixture
def write(tmp_path: Path):
    """`write(evaluation={"seed": 1})`: the demo, some of its keys changed, as a file; text is written as it is."""

    def write(text: str | None = None, **changes) -> Path:
        path = tmp_path / "mine.yaml"
        raw = yaml.safe_load(pipeline_path("demo").read_text(encoding="utf-8"))
        path.write_text(text if text is not None else yaml.safe_dump(raw | changes), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation": {"seed": -1}}, r"seed is -1\. Expected: a whole number from 0 to 2,147,483,647\."),
        ({"evaluation": {"folds": 0}}, r"folds is 0\. Expected: a whole number from 3 to 20\."),
        ({"evaluation": {"folds": 2.5}}, r"folds is 2\.5\."),
        ({"evaluation": {"folds": True}}, r"folds is true\."),
        ({"evaluation": {"resamples": 0}}, "resamples is 0"),
        ({"evaluation": {"sites": ""}}, "a text that says something"),
        ({"transfer": {"tasks": ["a", "b", "a"]}}, r"tasks is \['a', 'b', 'a'\]\. Expected: a list, .*, each once\."),
        ({"transfer": {"arms": ["probe", "probe"]}}, r"arms is \['probe', 'probe'\]\. .*, each once\."),
        ({"evaluation": {"capacity": 0}}, r"capacity is 0\. Expected: a whole number of at least 1\."),
        ({"evaluation": {"capacity": -5}}, "capacity is -5"),
        ({"lightgbm": {"rounds": 0}}, "rounds is 0"),
        ({"lightgbm": {"rounds": -1}}, "rounds is -1"),
        ({"lightgbm": {"trials": 0}}, "trials is 0"),
        ({"lightgbm": {"min_subjects": 1_000_000}}, "min_subjects is 1000000"),
        ({"lightgbm": {"windows_days": 30}}, r"windows_days is 30\. Expected: a list, each item a number from 0\.01"),
        ({"lightgbm": {"windows_days": [30, 0]}}, r"windows_days is \[30, 0\]"),
        ({"transformer": {"slot_hours": 0}}, "slot_hours is 0"),
        ({"transformer": {"patience": 0}}, "patience is 0"),
        ({"abstention": {"max_distance": 5}}, r"max_distance is 5\. Expected: a number from 0 to 1\."),
        ({"abstention": {"max_distance": -1}}, "max_distance is -1"),
        ({"abstention": {"min_known": float("nan")}}, "min_known is nan"),
        ({"abstention": {"min_known": float("inf")}}, "min_known is inf"),
        ({"abstention": None}, r"abstention is empty\. Expected: keys min_events"),
        ({"name": ""}, r"name is ''\. Expected: a text of letters"),
        ({"name": "../../evil"}, "name is '../../evil'"),
        ({"name": ".."}, r"name is '\.\.'"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"title": " "}, "title is ' '"),
        ({"question": None}, "question is empty"),
        ({"task": ["x"]}, r"task is \['x'\]\. Expected: keys predicates"),
    ],
)
def test_values_out_of_bounds_are_refused_in_words(write, changes, message):
    with pytest.raises(PipelineError, match=message) as refused:
        load_pipeline(write(**changes))
    assert "mine.yaml: " in str(refused.value)
    assert not any(word in str(refused.value) for word in ("NoneType", "tuple", "dict", "int.", "str."))


@pytest.mark.parametrize("name", pipeline_names())
def test_defaults_and_shipped_values_are_within_their_own_bounds(name):
    raw = yaml.safe_load(pipeline_path(name).read_text(encoding="utf-8"))
    assert load_pipeline(name).name == raw["name"]
    assert build(TransformerConfig, vars(TransformerConfig()), "defaults", PipelineError) == TransformerConfig()


def test_bounds_themselves_are_allowed(write):
    assert load_pipeline(write(abstention={"min_known": 0, "max_distance": 1})).abstention.max_distance == 1.0
    assert load_pipeline(write(transformer={"slot_hours": None})).transformer.slot_hours is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"mine\.yaml is empty\. Expected: keys name, title"),
        ("# nothing yet\n", "is empty"),
        ("- a\n- b\n", r"is \['a', 'b'\]\. Expected: keys name"),
        ("name: x\ntask:\n\tevery: 365 days\n", "line 3 is no valid YAML.*has a tab: indent with spaces"),
        ("name: [x\n", "is no valid YAML"),
        ("name: 2020-02-31\n", "is no valid YAML"),
    ],
)
def test_a_file_that_is_no_pipeline(write, text, message):
    with pytest.raises(PipelineError, match=message):
        load_pipeline(write(text))


def test_an_unknown_pipeline_says_what_to_do():
    with pytest.raises(PipelineError, match=r"no pipeline 'xyz'.*What to do: "):
        load_pipeline("xyz")


def test_folders_are_named_from_the_folder_of_the_file(write, tmp_path):
    (tmp_path / "own").mkdir()
    changes = {"export": "data/fhir", "adapter": "own", "transformer": {"checkpoint": "../weights"}}
    loaded = load_pipeline(write(**changes))
    assert loaded.export == str(tmp_path / "data" / "fhir")
    assert loaded.adapter == str(tmp_path / "own")
    assert loaded.transformer.checkpoint == str(tmp_path / ".." / "weights")
    elsewhere = load_pipeline(write(**changes), beside=tmp_path / "there")
    assert elsewhere.export == str(tmp_path / "there" / "data" / "fhir")
    assert elsewhere.adapter == "own", "no folder there: it is a name, of which an error will speak"


def test_names_of_what_ships_stay_names(write, tmp_path):
    for name in ("synthea", "ehr_tl_base", "sample"):
        (tmp_path / name).mkdir()
    loaded = load_pipeline(write())
    assert (loaded.export, loaded.adapter, loaded.transformer.checkpoint) == ("sample", "synthea", "ehr_tl_base")
    assert load_pipeline(write(adapter="..")).adapter == str(tmp_path / "..")
    assert load_pipeline(write(transformer={"checkpoint": None})).transformer.checkpoint is None


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:00:00-14:00", "soon"])
def test_a_time_beyond_the_calendar_is_no_time(text):
    with pytest.raises(ValueError):
        utc(text)
