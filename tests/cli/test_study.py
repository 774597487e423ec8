"""Studies and learning curves from the command line, with settings that take seconds."""

from __future__ import annotations

import json

import pytest
import yaml


@pytest.fixture
def study(case, tmp_path):
    """A study file beside the run's pipeline: its cohort by number of cases, local trees alone."""
    told = {"name": "strokes", "title": "Strokes", "pipeline": str(case.pipeline), "target": {"events": "here"}}
    told |= {"cases": [16, "all"], "repeats": 2, "seeds": [0], "resamples": 40}
    path = tmp_path / "strokes.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


def test_a_study_writes_tables_curves_and_who_was_drawn(case, study, ehr_tl, tmp_path) -> None:
    arguments = (
        "study",
        study,
        "--events",
        f"here={case.folder / 'events'}",
        "--out",
        tmp_path / "out",
        "--threads",
        1,
    )
    said = ehr_tl(*arguments)
    assert said.code == 0, said.err
    folder = tmp_path / "out" / "strokes"
    assert "| local LightGBM |" in said.out and (folder / "study.html").is_file()
    results, splits = (json.loads((folder / name).read_text()) for name in ("results.json", "splits.json"))
    assert [size["size"] for size in results["sizes"]] == [16, "all"]
    assert {draw["size"] for draw in splits["draws"]} == {16, "all"} and "subjects" in splits["test"]
    assert folder.stat().st_mode & 0o077 == 0
    made = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    assert ehr_tl(*arguments).code == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()} == made
    assert json.loads((folder / "results.json").read_text()) == results


def test_a_runs_learning_curve_says_what_more_cases_would_bring(copied, ehr_tl) -> None:
    said = ehr_tl("learning-curve", copied.folder, "--cases", "16,24,all", "--repeats", 1, "--threads", 1)
    assert said.code == 0, said.err
    told = json.loads((copied.folder / "learning_curve.json").read_text())
    assert [size["size"] for size in told["sizes"]] == [16, 24, "all"]
    assert "more" in told["outlook"]["estimate"] and "The AUROC of the model in use is known to" in said.out
    assert "Would more cases help?" in (copied.folder / "learning_curve.html").read_text()


def test_a_reports_learning_curve_is_of_its_own_cohort_and_models(copied, clinic, ehr_tl) -> None:
    assert ehr_tl("learning-curve", copied.folder, "--cases", "16,16,all", "--repeats", 1, "--threads", 1).code == 0
    told = json.loads((copied.folder / "learning_curve.json").read_text())
    assert [(size["size"], size["repeats"]) for size in told["sizes"]] == [(16, 1), ("all", 1)]
    shown = "AUROC by number of cases"
    assert ehr_tl("report", copied.folder).code == 0 and shown in (copied.folder / "report.html").read_text()
    clinic.write_pipeline(copied.pipeline, transfer={"arms": ["local_logistic"]})
    again = ehr_tl("run", copied.pipeline, "--export", copied.export, "--out", copied.folder, "--threads", 1)
    assert again.code == 0 and "of an earlier cohort or other settings" in again.err
    assert shown not in (copied.folder / "report.html").read_text()


def test_there_is_no_learning_curve_of_a_cohort_that_is_out_of_date(copied, ehr_tl) -> None:
    asked, copy = ("learning-curve", copied.folder, "--cases", "16", "--repeats", 1), copied.folder / "pipeline.yaml"
    before = copy.read_text()
    copy.write_text(before.replace("start + 365 days", "start + 300 days"))
    shown = ehr_tl(*asked)
    assert shown.code == 2 and "was changed after stage cohort" in " ".join(shown.err.split())
    copy.write_text(before)
    [data, *_] = sorted((copied.folder / "events" / "data").rglob("*.parquet"))
    data.write_bytes(data.read_bytes() + b"more")
    shown = ehr_tl(*asked)
    assert shown.code == 2 and "events is not what stage convert wrote" in " ".join(shown.err.split())
    assert not (copied.folder / "learning_curve.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--events", "here"], "NAME=FOLDER"),
        (["--events", "there=EVENTS"], "needs the events 'here'"),
        (["--events", "here=nowhere"], "not a finished events folder"),
    ],
)
def test_events_that_are_not_named_are_asked_for(study, ehr_tl, tmp_path, arguments, said) -> None:
    shown = ehr_tl("study", study, *arguments, "--out", tmp_path / "out")
    assert shown.code == 2 and said in " ".join(shown.err.split())


def test_numbers_of_cases_are_numbers(case, ehr_tl) -> None:
    for numbers in ("16,few", "3", "16,,32"):
        shown = ehr_tl("learning-curve", case.folder, "--cases", numbers)
        assert shown.code == 2 and "at least 4" in " ".join(shown.err.split())
