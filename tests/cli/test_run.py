"""A whole run by command line: its files, what a second run does, and what a killed one leaves."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import meds
import polars as pl
import pyarrow.parquet as pq
import yaml
from fhir.resources.R4B.riskassessment import RiskAssessment

from ehr_tl.errors import RunError

CONTRACT = (
    "events",
    "cohort.parquet",
    "scores.parquet",
    "explanations.parquet",
    "risk_assessments.ndjson",
    "worklist.csv",
    "report.html",
    "coverage.html",
    "MODEL_CARD.md",
    "manifest.json",
)
STAGES = ("convert", "cohort", "train", "score", "explain", "report")

SCORES = {
    "subject_id": pl.Int64,
    "prediction_time": pl.Datetime("us"),
    "model": pl.String,
    "split": pl.String,
    "chosen": pl.Boolean,
    "logit": pl.Float64,
    "risk": pl.Float64,
    "base": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "abstained": pl.Boolean,
    "reason": pl.String,
}
EXPLANATIONS = {
    "subject_id": pl.Int64,
    "prediction_time": pl.Datetime("us"),
    "model": pl.String,
    "kind": pl.String,
    "code": pl.String,
    "description": pl.String,
    "time": pl.Datetime("us"),
    "numeric_value": pl.Float32,
    "text_value": pl.String,
    "unit": pl.String,
    "resource_id": pl.String,
    "shap": pl.Float64,
}
KEY = ["subject_id", "prediction_time", "model"]


def ran(err: str) -> dict[str, bool]:
    """Stage -> whether it ran (else it was skipped), in the order that stderr tells."""
    told = [line.split(": ", 1) for line in err.splitlines() if line.split(": ")[0] in STAGES]
    return {name: what != "unchanged, skipped" for name, what in told}


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_makes_every_file_of_the_contract(case) -> None:
    assert case.result.code == 0, case.result.err
    assert all((case.folder / name).exists() for name in CONTRACT)
    assert case.folder.stat().st_mode & 0o777 == 0o700
    assert list(ran(case.result.err)) == list(STAGES) and all(ran(case.result.err).values())
    for name in ("report.html", "worklist.csv", "risk_assessments.ndjson"):
        assert str(case.folder / name) in case.result.out
    assert not list(case.folder.rglob("*.partial")) and not (case.folder / ".unfinished.json").exists()


def test_events_are_meds_with_what_they_come_from(case) -> None:
    events = case.folder / "events"
    for shard in (events / "data").glob("*.parquet"):
        meds.DataSchema.validate(pq.read_table(shard))
        assert {"unit", "visit_id", "resource_id", "source_code"} <= set(pl.read_parquet_schema(shard))
    subjects = pl.read_parquet(events / "metadata" / "subjects.parquet")
    assert dict(subjects.schema) == {"subject_id": pl.Int64, "patient_id": pl.String}
    assert set(subjects["patient_id"]) == {f"p{number}" for number in range(60)}


def test_coverage_adds_up_to_what_came_in(case) -> None:
    coverage = json.loads((case.folder / "events" / "metadata" / "coverage.json").read_text())
    assert {"resources", "events", "codes"} <= coverage.keys()
    for kind, counts in coverage["resources"].items():
        lines = len((case.export / f"{kind}.ndjson").read_text().splitlines())
        accounted = counts["used"] + sum(counts["unused"].values()) + sum(counts["set_aside"].values())
        assert counts["read"] == accounted == lines
    assert coverage["events"] == sum(pq.read_metadata(shard).num_rows for shard in case.folder.glob("events/data/*"))
    for counts in coverage["codes"].values():
        assert counts.keys() == {"kept", "mapped", "unmapped"}


def test_events_alone_come_with_a_page_of_what_became_of_everything(case, ehr_tl, tmp_path) -> None:
    said = ehr_tl("convert", case.export, "--adapter", "fhir_r4", "--out", tmp_path / "events")
    assert said.code == 0 and str(tmp_path / "events" / "coverage.html") in said.out
    page = (tmp_path / "events" / "coverage.html").read_text(encoding="utf-8")
    assert page == (case.folder / "events" / "coverage.html").read_text(encoding="utf-8")
    assert 'href="coverage.html"' in (case.folder / "report.html").read_text(encoding="utf-8")


def test_what_a_pretrained_vocabulary_knows_is_told_before_anything_is_fitted(
    case, clinic, ehr_tl, monkeypatch, tmp_path
) -> None:
    def stop(*arguments, **more):
        raise RunError("stopped")

    monkeypatch.setattr("ehr_tl.models.crossfit.fit_crossfit", stop)
    monkeypatch.setattr("ehr_tl.tokens.familiarity.ENOUGH", 1.01)
    pipeline = clinic.write_pipeline(tmp_path / "stroke.yaml", transformer={"checkpoint": "ehr_tl_base"})
    said = ehr_tl("run", pipeline, "--export", case.export, "--out", tmp_path / "run", "--threads", 1)
    assert said.code == 2 and "stopped" in said.err
    assert "what it learned elsewhere has little to say here" in said.err
    found = json.loads((tmp_path / "run" / "familiarity.json").read_text())
    facts = [len((case.export / f"{kind}.ndjson").read_text().splitlines()) for kind in ("Observation", "Condition")]
    assert found["checkpoint"] == "ehr_tl_base" and sum(found["events"].values()) == sum(facts)
    assert found["systems"]["LOINC"] == {"exactly": facts[0], "related": 0, "described": 0, "unknown": 0}


def test_cohort_is_meds_labels(case) -> None:
    cohort = pl.read_parquet(case.folder / "cohort.parquet")
    schema = {"subject_id": pl.Int64, "prediction_time": pl.Datetime("us"), "boolean_value": pl.Boolean}
    assert {name: cohort.schema[name] for name in schema} == schema
    assert cohort["boolean_value"].n_unique() == 2 and cohort["boolean_value"].null_count() == 0


def test_scores_are_as_promised(case) -> None:
    scores = pl.read_parquet(case.folder / "scores.parquet")
    assert dict(scores.schema) == SCORES
    assert set(scores["split"]) == {"held_out", "current"}
    assert scores.filter("chosen")["model"].n_unique() == 1
    assert scores.select([*KEY, "split"]).is_duplicated().sum() == 0
    risk = 1 / (1 + (-scores["logit"]).exp())
    assert (scores["risk"] - risk).abs().max() < 1e-9
    assert (scores["lower"] <= scores["risk"]).all() and (scores["risk"] <= scores["upper"]).all()
    assert scores["lower"].min() >= 0 and scores["upper"].max() <= 1
    assert (scores["abstained"] == scores["reason"].is_not_null()).all()
    labelled = pl.read_parquet(case.folder / "cohort.parquet")
    held_out = scores.filter(pl.col("chosen") & (pl.col("split") == "held_out"))
    assert held_out.height == labelled.height == held_out.join(labelled, on=KEY[:2]).height


def test_every_explanation_adds_up_to_its_score(case) -> None:
    scores = pl.read_parquet(case.folder / "scores.parquet")
    explanations = pl.read_parquet(case.folder / "explanations.parquet")
    assert dict(explanations.schema) == EXPLANATIONS
    assert set(explanations["kind"]) <= {"event", "feature", "demographic", "missing"}
    sums = explanations.group_by(KEY).agg(pl.col("shap").sum())
    both = scores.join(sums, on=KEY, how="left")
    assert both["shap"].null_count() == 0
    assert (both["base"] + both["shap"] - both["logit"]).abs().max() < 1e-3
    assert explanations.join(scores, on=KEY, how="anti").is_empty()
    assert (explanations["time"] <= explanations["prediction_time"]).all()
    named = explanations["resource_id"].drop_nulls()
    assert len(named) and named.str.contains(r"^(Patient|Encounter|Observation|Condition)/p\d+").all()


def test_risk_assessments_are_the_current_chosen_answered_rows(case, clinic) -> None:
    resources = read_lines(case.folder / "risk_assessments.ndjson")
    rows = pl.read_parquet(case.folder / "scores.parquet").filter(
        pl.col("chosen") & (pl.col("split") == "current") & ~pl.col("abstained")
    )
    subjects = pl.read_parquet(case.folder / "events" / "metadata" / "subjects.parquet")
    risks = {f"Patient/{row['patient_id']}": row["risk"] for row in rows.join(subjects, on="subject_id").to_dicts()}
    assert len(resources) == rows.height > 0
    assert {resource["subject"]["reference"] for resource in resources} == risks.keys()
    for resource in resources:
        RiskAssessment.model_validate(resource)
        assert resource["status"] == "preliminary"
        assert {"subject", "occurrenceDateTime", "method", "performer", "prediction", "basis"} <= resource.keys()
        (prediction,) = resource["prediction"]
        told = float(prediction["probabilityDecimal"])
        assert 0 <= told <= 100 and math.isclose(told, 100 * risks[resource["subject"]["reference"]], abs_tol=0.06)
        assert prediction["qualitativeRisk"] and prediction["rationale"]
        assert prediction.keys() & {"whenRange", "whenPeriod"}


def test_worklist_is_the_current_rows_for_people(case) -> None:
    with (case.folder / "worklist.csv").open(encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    current = pl.read_parquet(case.folder / "scores.parquet").filter(pl.col("chosen") & (pl.col("split") == "current"))
    assert len(rows) == current.height and {"patient_id", "risk", "lower", "upper"} <= rows[0].keys()
    answered = [row for row in rows if row["risk"]]
    assert rows[: len(answered)] == answered, "patients without a score stand below"
    assert [float(row["risk"]) for row in answered] == sorted((float(row["risk"]) for row in answered), reverse=True)
    assert len(answered) == (~current["abstained"]).sum()
    assert all(row["abstained_because"] and not row["reason_1"] for row in rows[len(answered) :])
    explained = pl.read_parquet(case.folder / "explanations.parquet").filter(
        (pl.col("shap") > 0) & ~pl.col("code").str.starts_with("GROUP//")
    )
    subjects = pl.read_parquet(case.folder / "events" / "metadata" / "subjects.parquet")
    raising = current.join(explained, on=KEY).join(subjects, on="subject_id").group_by("patient_id").len()
    expected = dict(raising.iter_rows())
    for row in answered:
        told = [bool(row[f"reason_{number}"]) for number in (1, 2, 3)]
        assert told == [number < expected.get(row["patient_id"], 0) for number in range(3)]
    assert all(row["reason_1"] for row in answered[:5]), "who is listed first is there for a reason"


def test_report_and_card_speak_of_this_run_and_need_nothing_else(case) -> None:
    report = (case.folder / "report.html").read_text(encoding="utf-8")
    assert "Who is likely to have a stroke?" in report
    assert not any(f'{attribute}="http' in report for attribute in ("src", "link href"))
    assert "Stroke" in (case.folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_a_run_ends_in_the_sentence_that_report_and_metrics_have(case) -> None:
    metrics = json.loads((case.folder / "metrics.json").read_text())
    held_out, best = metrics["held_out"], metrics["models"][metrics["chosen"]]["auroc"]
    told = f"With your {held_out['subjects']} cases ({held_out['subjects_with_outcome']} with the outcome): "
    assert metrics["sentence"].startswith(told) and f"{best['value']:.2f}" in metrics["sentence"]
    assert metrics["sentence"] in case.result.out.splitlines()
    assert metrics["sentence"] in (case.folder / "report.html").read_text(encoding="utf-8")
    assert math.isclose(sum(metrics["weights"].values()), 1, abs_tol=1e-9)
    assert metrics["weights"].keys() | {metrics["chosen"]} == metrics["models"].keys()


def test_manifest_says_what_each_stage_read_made_and_cost(case) -> None:
    manifest = json.loads((case.folder / "manifest.json").read_text())
    assert list(manifest["stages"]) == list(STAGES)
    assert manifest["environment"]["libraries"]["lightgbm"]
    for record in manifest["stages"].values():
        assert record["inputs"] and record["outputs"]
        assert {"seconds", "cpu_seconds", "peak_memory_mib"} <= record["cost"].keys()
    assert manifest["stages"]["train"]["notes"]["seed"] == 0
    assert manifest["stages"]["explain"]["notes"]["largest_error"] < 1e-3


def test_nothing_that_names_a_patient_leaves_the_export(case, clinic) -> None:
    holding = [
        path for path in case.folder.rglob("*") if path.is_file() and clinic.CANARY.encode() in path.read_bytes()
    ]
    assert holding == [] and clinic.CANARY not in case.result.text


def test_a_second_run_skips_everything(copied, ehr_tl) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.folder.rglob("*") if path.is_file()}
    again = ehr_tl("run", copied.pipeline, "--export", copied.export, "--out", copied.folder, "--threads", 1)
    assert again.code == 0 and ran(again.err) == dict.fromkeys(STAGES, False)
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed <= {"manifest.json", "pipeline.yaml"}
    assert again.out.splitlines()[0] == copied.result.out.splitlines()[0]
    for stage in STAGES[1:]:
        assert "unchanged, skipped" in ehr_tl(stage, copied.folder).out


def test_another_task_reruns_the_cohort_and_what_follows(copied, clinic, ehr_tl) -> None:
    task = yaml.safe_load(copied.pipeline.read_text())["task"]
    task["windows"]["outcome"]["end"] = "start + 300 days"
    clinic.write_pipeline(copied.pipeline, task=task)
    again = ehr_tl("run", copied.pipeline, "--export", copied.export, "--out", copied.folder, "--threads", 1)
    assert ran(again.err) == {name: name != "convert" for name in STAGES}


def test_another_title_reruns_the_report_alone(copied, clinic, ehr_tl) -> None:
    clinic.write_pipeline(copied.pipeline, title="Strokes foreseen")
    again = ehr_tl("run", copied.pipeline, "--export", copied.export, "--out", copied.folder, "--threads", 1)
    assert ran(again.err) == {name: name == "report" for name in STAGES}
    assert "Strokes foreseen" in (copied.folder / "report.html").read_text()


def test_other_arms_train_anew(copied, clinic, ehr_tl) -> None:
    clinic.write_pipeline(copied.pipeline, transfer={"arms": ["local_logistic"]})
    again = ehr_tl("run", copied.pipeline, "--export", copied.export, "--out", copied.folder, "--threads", 1)
    assert ran(again.err) == {name: name not in ("convert", "cohort") for name in STAGES}
    assert pl.read_parquet(copied.folder / "scores.parquet")["model"].unique().to_list() == ["local_logistic"]
    assert "with the outcome): local logistic regression 0." in again.out


def test_what_cannot_be_transferred_is_named(copied, clinic, ehr_tl) -> None:
    arguments = ("run", copied.pipeline, "--export", copied.export, "--out", copied.folder, "--threads", 1)
    clinic.write_pipeline(copied.pipeline, transfer={"arms": ["source"]})
    said = ehr_tl(*arguments)
    assert said.code == 2 and "transfer.arms names 'source'" in said.err and ran(said.err) == {}
    clinic.write_pipeline(copied.pipeline, transfer={"sources": ["elsewhere"]})
    said = ehr_tl(*arguments)
    assert said.code == 2 and "elsewhere is not a finished events folder" in said.err and ran(said.err) == {}


def test_too_few_sites_to_hold_out_are_named(copied, clinic, ehr_tl) -> None:
    settings = {**clinic.PIPELINE["evaluation"], "sites": "VISIT_START//"}
    clinic.write_pipeline(copied.pipeline, evaluation=settings)
    said = ehr_tl("run", copied.pipeline, "--export", copied.export, "--out", copied.folder, "--threads", 1)
    assert said.code == 2 and "from 1 site, too few for 3 folds" in said.err


def test_what_was_made_of_another_cohort_is_gone_even_if_the_new_one_fails(copied, clinic, ehr_tl) -> None:
    task = yaml.safe_load(copied.pipeline.read_text())["task"]
    task["predicates"]["stroke"]["code"] = "SNOMED//404"
    clinic.write_pipeline(copied.pipeline, task=task)
    failed = ehr_tl("run", copied.pipeline, "--export", copied.export, "--out", copied.folder, "--threads", 1)
    assert failed.code == 2
    left = {name for name in CONTRACT if (copied.folder / name).exists()}
    assert left == {"events", "manifest.json"}
    assert list(json.loads((copied.folder / "manifest.json").read_text())["stages"]) == ["convert"]
    refused = ehr_tl("report", copied.folder)
    assert refused.code == 2 and "run the earlier stages first" in refused.err


def test_a_result_that_somebody_changed_is_made_again(copied, ehr_tl) -> None:
    (copied.folder / "worklist.csv").write_text("")
    assert "report: done" in ehr_tl("report", copied.folder).out
    assert (copied.folder / "worklist.csv").read_text()


def test_stages_can_be_run_one_by_one(case, copied, ehr_tl) -> None:
    shutil.rmtree(copied.folder / "models")
    early = ehr_tl("score", copied.folder)
    assert early.code == 2 and "Traceback" not in early.err, early.err
    for stage in STAGES[2:]:
        assert ehr_tl(stage, copied.folder).code == 0
    first, again = (pl.read_parquet(folder / "scores.parquet") for folder in (case.folder, copied.folder))
    assert first.equals(again)


# --- killed -----------------------------------------------------------------------------------------------------------


def kill_when(reached: Callable[[], bool], *arguments: object) -> None:
    """Starts a command and kills it without warning as soon as a moment is reached."""
    words = [Path(sys.executable).parent / "ehr-tl", *map(str, arguments)]
    with subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        give_up = time.monotonic() + 60
        while not reached() and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.002)
        ended = process.poll()
        if ended is None:
            os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[1]
    assert ended is None, f"it ended by itself ({ended}): {said}"


def test_a_killed_conversion_leaves_no_events(case, tmp_path, ehr_tl) -> None:
    arguments = ("run", case.pipeline, "--export", case.export, "--out", tmp_path / "run", "--threads", 1)
    kill_when(lambda: bool(list(tmp_path.glob("run/.events.*.partial"))), *arguments)
    assert not (tmp_path / "run" / "events").exists()
    for stage in ("cohort", "report"):
        refused = ehr_tl(stage, tmp_path / "run")
        assert refused.code == 2 and "events" in refused.err
    again = ehr_tl(*arguments)
    assert again.code == 0 and all(ran(again.err).values())
    assert not list(tmp_path.rglob("*.partial"))
    scores = [pl.read_parquet(folder / "scores.parquet") for folder in (case.folder, tmp_path / "run")]
    assert scores[0].equals(scores[1])


def test_a_killed_training_goes_on_with_the_fits_that_were_finished(case, clinic, tmp_path, ehr_tl) -> None:
    more = {"lightgbm": {"rounds": 60, "trials": 3, "windows_days": [30, 365]}}
    pipeline = clinic.write_pipeline(tmp_path / "slow.yaml", **more, evaluation={"folds": 5, "resamples": 20})
    shutil.copytree(case.folder, tmp_path / "run")
    shutil.copytree(case.folder, tmp_path / "whole")
    arguments = ("run", pipeline, "--export", case.export, "--threads", 1, "--out")
    fits = tmp_path / "run" / "models" / "local_lightgbm"
    is_new = lambda: not (fits.parent / "crossfit.json").exists()
    kill_when(lambda: is_new() and any(fits.glob("[0-9]-[0-9]")), *arguments, tmp_path / "run")
    kept = {path: path.stat().st_mtime_ns for path in fits.glob("[0-9]*/*")}
    assert kept and not (tmp_path / "run" / "scores.parquet").exists()
    assert not (tmp_path / "run" / "models" / "crossfit.json").exists()
    assert list(json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]) == ["convert", "cohort"]
    again, never = (ehr_tl(*arguments, tmp_path / name) for name in ("run", "whole"))
    assert again.code == never.code == 0
    assert ran(again.err) == ran(never.err) == {name: name not in ("convert", "cohort") for name in STAGES}
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    scores = [pl.read_parquet(tmp_path / name / "scores.parquet") for name in ("run", "whole")]
    assert scores[0].equals(scores[1])


def test_another_capacity_costs_no_new_training(copied, ehr_tl, clinic) -> None:
    clinic.write_pipeline(copied.pipeline, evaluation={**clinic.PIPELINE["evaluation"], "capacity": 7})
    again = ehr_tl("run", copied.pipeline, "--export", copied.export, "--out", copied.folder, "--threads", 1)
    assert again.code == 0, again.err
    assert {name for name, done in ran(again.err).items() if done} == {"report"}
    assert "7 highest" in (copied.folder / "report.html").read_text(encoding="utf-8")
