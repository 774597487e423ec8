"""What a run is guarded against: being overwritten, changed between its stages, used twice at once, moved, cut off."""

from __future__ import annotations

import errno
import json
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
import yaml
from typer.main import get_command

from ehr_tl.cli.main import app
from ehr_tl.files import locked
from ehr_tl.resources import checkpoints
from ehr_tl.threads import allowed, available

NEW = ("scores.parquet", "explanations.parquet", "worklist.csv", "risk_assessments.ndjson", "events")


@dataclass(frozen=True)
class Scored:
    """New patients who were scored with a run."""

    export: Path
    folder: Path


@pytest.fixture(scope="module")
def newcomers(case, clinic, ehr_tl, tmp_path_factory) -> Scored:
    """Not to be changed."""
    top = tmp_path_factory.mktemp("newcomers")
    export = clinic.write_export(top / "export", clinic.hospital(8, seed=1, prefix="n", labelled=False))
    done = ehr_tl("score", case.folder, "--export", export, "--out", top / "scored")
    assert done.code == 0, done.err
    return Scored(export, top / "scored")


@pytest.fixture
def scored(newcomers: Scored, tmp_path: Path) -> Scored:
    """A copy for tests that may change it."""
    return Scored(newcomers.export, Path(shutil.copytree(newcomers.folder, tmp_path / "scored")))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def advised(err: str) -> list[str]:
    """The command that an error advises, as a shell would read it."""
    return shlex.split(err.replace("\n", " ").split("`")[-2])


# --- new patients are not a run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["score", "report", "cohort"])
def test_scored_patients_are_not_taken_for_a_run(case, scored, ehr_tl, stage) -> None:
    before = contents(scored.folder)
    said = ehr_tl(stage, scored.folder)
    assert said.code == 2 and contents(scored.folder) == before
    expected = ["score", str(case.folder), "--export", str(scored.export), "--out", str(scored.folder)]
    assert advised(said.err) == ["ehr-tl", *expected]
    assert ehr_tl(*expected).code == 0


def test_a_run_does_not_replace_scored_patients(case, scored, ehr_tl) -> None:
    before = contents(scored.folder)
    said = ehr_tl("run", case.pipeline, "--export", case.export, "--out", scored.folder)
    assert said.code == 2 and "ehr-tl score" in said.err and contents(scored.folder) == before


def test_new_patients_do_not_replace_a_run(case, copied, newcomers, ehr_tl) -> None:
    before = contents(copied.folder)
    said = ehr_tl("score", case.folder, "--export", newcomers.export, "--out", copied.folder)
    assert said.code == 2 and "is a run" in said.err and contents(copied.folder) == before


def test_scored_patients_cannot_score_others(scored, newcomers, ehr_tl, tmp_path) -> None:
    said = ehr_tl("score", scored.folder, "--export", newcomers.export, "--out", tmp_path / "more")
    assert said.code == 2 and "holds new patients" in said.err and not (tmp_path / "more").exists()


def test_nothing_is_removed_before_the_models_are_found(copied, newcomers, ehr_tl, tmp_path) -> None:
    arguments = ("score", copied.folder, "--export", newcomers.export, "--out", tmp_path / "scored")
    assert ehr_tl(*arguments).code == 0
    shutil.rmtree(copied.folder / "models")
    said = ehr_tl(*arguments)
    assert said.code == 2 and "models" in said.err
    assert all((tmp_path / "scored" / name).exists() for name in NEW)


# --- what stages build on is what was made ----------------------------------------------------------------------------


def edit_pipeline(folder: Path, **changes) -> None:
    raw = yaml.safe_load((folder / "pipeline.yaml").read_text())
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(raw | changes, sort_keys=False))


def test_an_edited_question_is_not_reported_over_old_scores(copied, ehr_tl) -> None:
    task = yaml.safe_load(copied.pipeline.read_text())["task"]
    task["windows"]["outcome"]["end"] = "start + 700 days"
    edit_pipeline(copied.folder, task=task)
    report = (copied.folder / "report.html").read_bytes()
    for stage in ("train", "score", "explain", "report"):
        said = ehr_tl(stage, copied.folder)
        assert said.code == 2 and "pipeline.yaml" in said.err and "stage cohort" in said.err
        assert advised(said.err) == [
            *("ehr-tl", "run", str(copied.folder / "pipeline.yaml"), "--out", str(copied.folder))
        ]
    assert (copied.folder / "report.html").read_bytes() == report
    assert ehr_tl("cohort", copied.folder).code == 0


@pytest.mark.parametrize("changes", [{"outcome": "Death"}, {"lightgbm": {"rounds": 21}}])
def test_new_patients_are_not_scored_for_an_edited_question(copied, newcomers, ehr_tl, tmp_path, changes) -> None:
    edit_pipeline(copied.folder, **changes)
    said = ehr_tl("score", copied.folder, "--export", newcomers.export, "--out", tmp_path / "scored")
    assert said.code == 2 and "pipeline.yaml" in said.err and not (tmp_path / "scored").exists()


def test_a_run_of_another_version_says_so(copied, newcomers, ehr_tl, tmp_path) -> None:
    path = copied.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["stages"]["cohort"] |= {"version": "0.0.1", "key": "other"}
    path.write_text(json.dumps(manifest))
    said = ehr_tl("score", copied.folder, "--export", newcomers.export, "--out", tmp_path / "scored")
    assert said.code == 2 and "ehr_tl 0.0.1" in said.err


@pytest.mark.parametrize("name", ["scores.parquet", "flow.json", "cohort.parquet", "events/metadata/codes.parquet"])
@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:40])])
def test_damage_is_named_and_a_run_repairs_it(case, copied, ehr_tl, name, harm) -> None:
    harm(copied.folder / name)
    said = ehr_tl("report", copied.folder)
    assert said.code == 2 and name.split("/")[0] in said.err and "makes it anew" in said.err
    again = ehr_tl(*advised(said.err)[1:])
    assert again.code == 0, again.err
    first, repaired = (pl.read_parquet(folder / "scores.parquet") for folder in (case.folder, copied.folder))
    assert first.equals(repaired)


def test_who_scores_needs_neither_the_events_nor_the_results_of_the_run(copied, newcomers, ehr_tl, tmp_path) -> None:
    shutil.rmtree(copied.folder / "events")
    for name in ("scores.parquet", "explanations.parquet", "worklist.csv", "report.html"):
        (copied.folder / name).unlink()
    done = ehr_tl("score", copied.folder, "--export", newcomers.export, "--out", tmp_path / "scored")
    assert done.code == 0, done.err
    (copied.folder / "flow.json").write_text("{")
    said = ehr_tl("score", copied.folder, "--export", newcomers.export, "--out", tmp_path / "scored")
    assert said.code == 2 and "flow.json" in said.err


def test_a_run_outlives_its_export(copied, ehr_tl, tmp_path) -> None:
    arguments = ("run", copied.pipeline, "--export", copied.export, "--out", tmp_path / "other", "--threads", 1)
    export = Path(shutil.copytree(copied.export, tmp_path / "export"))
    assert ehr_tl(*(export if each == copied.export else each for each in arguments)).code == 0
    shutil.rmtree(export)
    edit_pipeline(tmp_path / "other", title="Strokes foreseen")
    assert "report: done" in ehr_tl("report", tmp_path / "other").out


@pytest.mark.parametrize("beside", [True, False])
def test_a_run_outlives_its_checkpoint(case, clinic, newcomers, ehr_tl, write_checkpoint, tmp_path, beside) -> None:
    """It is moved away, or another takes its place: the run reads what it kept."""
    ours, run, new = tmp_path / "ours", tmp_path / "run", newcomers.export
    shutil.copytree(checkpoints() / "ehr_tl_base", ours)
    asked = {
        "transformer": {"checkpoint": "ours" if beside else str(ours), "min_known": 0, "max_slots": 16, "players": 4},
        "transfer": {"tasks": ["mortality_1y"]},
    }
    pipeline = clinic.write_pipeline(tmp_path / "p.yaml", **asked)
    assert ehr_tl("run", pipeline, "--export", case.export, "--out", run, "--threads", 1).code == 0
    assert ehr_tl("score", run, "--export", new, "--out", tmp_path / "before").code == 0
    assert ehr_tl("learning-curve", run, "--cases", "16", "--repeats", 1, "--threads", 1).code == 0
    ours.rename(tmp_path / "elsewhere")
    if not beside:
        write_checkpoint(ours, {"X//1": None})
    assert ehr_tl("score", run, "--export", new, "--out", tmp_path / "after").code == 0
    for name in ("scores.parquet", "explanations.parquet"):
        before, after = (pl.read_parquet(tmp_path / each / name) for each in ("before", "after"))
        assert before.equals(after)
    assert {"source", "anchored", "source_head", "probe", "finetuned"} <= set(after["model"])
    edit_pipeline(run, title="Strokes foreseen")
    assert "report: done" in ehr_tl("report", run).out
    assert "AUROC by number of cases" in (run / "report.html").read_text()


def test_a_learning_curve_of_another_checkpoint_is_left_out_of_the_report(
    case, clinic, ehr_tl, write_checkpoint, tmp_path
) -> None:
    ours, run = write_checkpoint(tmp_path / "ours", {"X//1": None}), tmp_path / "run"
    pipeline = clinic.write_pipeline(tmp_path / "p.yaml", transformer={"checkpoint": str(ours), "min_known": 0})
    assert ehr_tl("run", pipeline, "--export", case.export, "--out", run, "--threads", 1).code == 0
    shutil.rmtree(ours)
    write_checkpoint(ours, {"X//2": None, "X//3": None})
    assert ehr_tl("learning-curve", run, "--cases", "16", "--repeats", 1, "--threads", 1).code == 0
    said = ehr_tl("report", run)
    assert said.code == 0 and "of an earlier cohort or other settings" in said.err
    assert "AUROC by number of cases" not in (run / "report.html").read_text()


# --- one at a time ----------------------------------------------------------------------------------------------------


def test_a_second_process_in_a_folder_is_turned_away(case, copied, newcomers, ehr_tl, tmp_path) -> None:
    run = ("run", case.pipeline, "--export", case.export, "--out", copied.folder, "--threads", 1)
    score = ("score", copied.folder, "--export", newcomers.export, "--out", tmp_path / "scored")
    with locked(copied.folder):
        for arguments in (run, ("report", copied.folder), score):
            said = ehr_tl(*arguments)
            assert said.code == 2 and f"Another ehr-tl is at work in {copied.folder}" in said.err
    with locked(copied.folder, shared=True):
        assert ehr_tl(*score).code == 0, "two may score with one run at once"
    assert ehr_tl(*run).code == 0


def test_a_killed_first_moment_leaves_a_folder_that_can_be_used(case, ehr_tl, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    for name in (".lock", ".manifest.json.999999999.partial"):
        (tmp_path / "run" / name).touch()
    assert ehr_tl("run", case.pipeline, "--export", case.export, "--out", tmp_path / "run", "--threads", 1).code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_without_leftovers(tmp_path, number) -> None:
    code = (
        "import signal, sys, time; sys.argv = ['ehr-tl', 'convert', 'x', '--adapter', 'fhir_r4', '--out', 'y']\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup\n"
        "import ehr_tl.convert\n"
        "from ehr_tl.files import whole\n"
        "def convert(*arguments, **options):\n"
        "    with whole('events') as temporary:\n"
        "        temporary.mkdir()\n"
        "        print('writing', flush=True)\n"
        "        time.sleep(60)\n"
        "sys.modules['ehr_tl.convert'].convert = convert\n"
        "from ehr_tl.cli.main import main\n"
        "main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout.readline() == "writing\n"
        assert list(tmp_path.iterdir())
        process.send_signal(number)
        assert process.wait(20) == 128 + number
        assert "Interrupted" in process.stderr.read()
    assert not list(tmp_path.iterdir())


# --- advice, settings and folders -------------------------------------------------------------------------------------


def test_the_runs_own_copy_of_the_pipeline_runs_as_before(case, ehr_tl, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "a run's folder"
    as_of = "2025-12-01"
    first = ehr_tl("run", case.pipeline, "--export", case.export, "--out", folder, "--as-of", as_of, "--threads", 1)
    assert first.code == 0, first.err
    settings = json.loads((folder / "manifest.json").read_text())["settings"]
    assert settings["as_of"] == as_of and settings["threads"] == 1
    shutil.rmtree(folder / "models")
    advice = advised(ehr_tl("score", folder).err)
    monkeypatch.chdir(tmp_path)
    again = ehr_tl(*advice[1:])
    assert again.code == 0 and "convert: unchanged" in again.err and "cohort: unchanged" in again.err
    assert json.loads((folder / "manifest.json").read_text())["settings"] == settings


def test_folders_are_named_from_the_pipeline_and_options_from_where_one_is(
    case, clinic, ehr_tl, repository, tmp_path, monkeypatch
) -> None:
    home = tmp_path / "home"
    shutil.copytree(repository / "adapters" / "fhir_r4", home / "ours")
    shutil.copytree(case.export, home / "export")
    pipeline = clinic.write_pipeline(home / "stroke.yaml", export="export", adapter="./ours")
    monkeypatch.chdir(tmp_path)
    assert ehr_tl("run", "home/stroke.yaml", "--out", "runs/a", "--threads", 1).code == 0
    clinic.write_pipeline(pipeline)
    given = ehr_tl("run", "home/stroke.yaml", "--export", "home/export", "--adapter", "home/ours", "--out", "runs/b")
    assert given.code == 0, given.err
    monkeypatch.chdir(home)
    for name in ("a", "b"):
        folder = tmp_path / "runs" / name
        settings = json.loads((folder / "manifest.json").read_text())["settings"]
        assert (settings["export"], settings["adapter"]) == (str(home / "export"), str(home / "ours"))
        assert ehr_tl("cohort", folder).code == 0
        again = ehr_tl("run", folder / "pipeline.yaml", "--out", folder)
        assert again.code == 0 and "convert: unchanged" in again.err, again.err
    done = ehr_tl("score", "../runs/a", "--export", "export", "--out", "scored")
    assert done.code == 0, done.err
    assert Path(json.loads(Path("scored/manifest.json").read_text())["settings"]["run"]).is_absolute()


@pytest.mark.parametrize("asked", [None, 1, 100_000])
def test_threads_are_no_more_than_processors(asked) -> None:
    assert 1 <= allowed(asked) <= available()


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "convert", "score"])
@pytest.mark.parametrize("out", ["file/sub", "file/sub/sub", "file", "/proc/x"])
def test_a_place_that_takes_no_folder_is_the_users(case, ehr_tl, tmp_path, command, out) -> None:
    (tmp_path / "file").write_text("mine")
    arguments = {
        "run": (case.pipeline, "--export", case.export),
        "convert": (case.export, "--adapter", "fhir_r4"),
        "score": (case.folder, "--export", case.export),
    }
    said = ehr_tl(command, *arguments[command], "--out", tmp_path / out)
    assert said.code == 2 and ("file" if "file" in out else "/proc") in said.err, said.err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_link_to_the_folder_stays_a_link(case, ehr_tl, tmp_path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert ehr_tl("convert", case.export, "--adapter", "fhir_r4", "--out", tmp_path / "link").code == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "metadata").is_dir()


@pytest.mark.parametrize(
    "error", [pl.exceptions.ComputeError("No space left on device (os error 28)"), OSError(errno.ENOSPC, "No space")]
)
def test_a_full_disk_is_not_a_defect(case, ehr_tl, monkeypatch, tmp_path, error) -> None:
    def full(*arguments, **more):
        raise error

    monkeypatch.setattr("ehr_tl.cohort.cohort.Cohort.write", full)
    said = ehr_tl("run", case.pipeline, "--export", case.export, "--out", tmp_path / "run", "--threads", 1)
    assert said.code == 2 and "space" in said.err and "defect" not in said.err


def test_files_are_private_too(case) -> None:
    modes = {path.stat().st_mode & 0o077 for path in case.folder.rglob("*")}
    assert modes == {0}


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "demo", "--out", ""),
        ("run", "demo", "--export", " "),
        ("run", ""),
        ("convert", "", "--adapter", "fhir_r4", "--out", "x"),
        ("convert", "x", "--adapter", "fhir_r4", "--out", ""),
        ("score", "", "--export", "x", "--out", "y"),
        ("doctor", ""),
        ("report", ""),
    ],
)
def test_an_empty_name_is_refused(ehr_tl, arguments, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = ehr_tl(*arguments)
    assert said.code == 2 and "empty" in said.err and not list(tmp_path.iterdir())


def test_from_python_an_empty_name_is_refused_as_well(case) -> None:
    import ehr_tl

    with pytest.raises(ehr_tl.EhrTlError, match="--export is empty"):
        ehr_tl.run(case.pipeline, export="")


# --- words ------------------------------------------------------------------------------------------------------------


def test_a_summary_speaks_of_those_set_apart_only_if_there_are_any(case, copied) -> None:
    from ehr_tl.pipeline import Run

    run = Run(copied.folder)
    run.manifest.stages["score"]["notes"] |= {"current": 5, "abstained": 0}
    assert run.summary().startswith("5 current patients scored.\n")
    run.manifest.stages["score"]["notes"]["abstained"] = 2
    assert "2 more set apart: too little" in run.summary()


def test_a_summary_of_earlier_metrics_says_how_they_are_made_anew(copied, ehr_tl) -> None:
    from ehr_tl.pipeline import Run

    metrics = copied.folder / "metrics.json"
    told = json.loads(metrics.read_text())
    metrics.write_text(json.dumps({name: value for name, value in told.items() if name != "sentence"}))
    said = Run(copied.folder).summary()
    assert f"{metrics} is of an earlier version of ehr_tl: remove it, and run `ehr-tl run " in said
    metrics.unlink()
    assert ehr_tl("run", copied.folder / "pipeline.yaml", "--out", copied.folder).code == 0
    assert told["sentence"] in Run(copied.folder).summary()


def test_a_skipped_stage_does_not_say_that_it_wrote(case, copied, ehr_tl) -> None:
    assert "Wrote" not in ehr_tl("score", copied.folder).out
    (copied.folder / "worklist.csv").unlink()
    assert "Wrote" in ehr_tl("report", copied.folder).out


@pytest.mark.parametrize(
    "as_of", ["0001-01-01T00:00:00+14:00", "0001-01-01", "0999-12-31", "yesterday", "2026-02-30", ""]
)
def test_an_impossible_as_of_date_is_the_users(case, ehr_tl, tmp_path, as_of) -> None:
    said = ehr_tl("run", case.pipeline, "--export", case.export, "--as-of", as_of, "--out", tmp_path / "run")
    assert said.code == 2 and "--as-of" in said.err and not (tmp_path / "run").exists()


def test_what_to_do_about_a_folder_or_a_pipeline_that_is_not_one(case, ehr_tl, tmp_path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").touch()
    for arguments in (("run", case.pipeline, "--export", case.export, "--out", tmp_path / "letters"), ("run", "xyz")):
        said = ehr_tl(*arguments)
        assert said.code == 2 and "What to do" in said.err


def test_verbose_may_come_last(ehr_tl, tmp_path) -> None:
    for arguments in (("--verbose", "report", tmp_path), ("report", tmp_path, "--verbose")):
        said = ehr_tl(*arguments)
        assert said.code == 2 and "Traceback" in said.err and "is not a run" in said.err


def test_the_commands_are_told_in_whole_lines(ehr_tl, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = ehr_tl("--help").out.split("Commands:\n")[1].split("\n\n")[0].splitlines()
    assert len(told) == len(get_command(app).commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in told)
    assert max(map(len, told)) <= 80


def test_the_checkpoint_is_looked_into_before_the_export(case, clinic, ehr_tl, tmp_path) -> None:
    shutil.copytree(checkpoints() / "ehr_tl_base", tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    pipeline = clinic.write_pipeline(tmp_path / "p.yaml", transformer={"checkpoint": "broken"})
    said = ehr_tl("run", pipeline, "--export", case.export, "--out", tmp_path / "run")
    assert said.code == 2 and "model.safetensors is broken" in said.err and not (tmp_path / "run").exists()
