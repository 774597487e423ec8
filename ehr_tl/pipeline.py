"""Runs the stages of a pipeline, keeps the manifest, and goes on where an interrupted run stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from datetime import date, datetime, time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ehr_tl import __version__
from ehr_tl.config import Pipeline, load_pipeline, pipeline_path
from ehr_tl.errors import PipelineError, RunError
from ehr_tl.fhir.export import Export, open_export
from ehr_tl.files import fingerprint, read_json, remove, whole, write_json
from ehr_tl.manifest import NAME as MANIFEST
from ehr_tl.manifest import Manifest, measured
from ehr_tl.progress import log
from ehr_tl.resources import sample_export
from ehr_tl.stages import NEW_PATIENTS, STAGES, Job, Stage
from ehr_tl.threads import available

if TYPE_CHECKING:
    import pandas as pd

_PIPELINE = "pipeline.yaml"
_UNFINISHED = ".unfinished.json"


class Run:
    """A finished run, or new patients scored with one.

    Attributes:
        folder: The run folder.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest = Manifest.read(self.folder)

    @cached_property
    def pipeline(self) -> Pipeline:
        return load_pipeline(self.folder / _PIPELINE)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """`scores.parquet`: a row per subject, prediction time and model (`schema.SCORES`)."""
        return self._frame("scores.parquet")

    @cached_property
    def explanations(self) -> pd.DataFrame:
        """`explanations.parquet`: `base` of the score plus the sum of `shap` is its `logit`."""
        return self._frame("explanations.parquet")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """`metrics.json`: how well each model did on held-out subjects."""
        return read_json(self._file("metrics.json"))

    @property
    def report(self) -> Path:
        """The path of report.html."""
        return self._file("report.html")

    def summary(self) -> str:
        """A few lines for the terminal: what was scored, and where to look."""
        scored = self.manifest.stages.get("score", {}).get("notes", {})
        lines = [
            f"{scored.get('current', 0):,} current patients scored, {scored.get('abstained', 0):,} more set apart: "
            "too little is known of them, or they are too unlike the others."
        ]
        if scored.get("held_out"):
            lines.append(f"{scored['held_out']:,} rows with a known outcome scored to see how well it works.")
        for name in ("report.html", "worklist.csv", "risk_assessments.ndjson"):
            if (self.folder / name).is_file():
                lines.append(f"{name + ':':25}{self.folder / name}")
        return "\n".join(lines)

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise RunError(
                f"{path} is missing",
                expected="a finished run",
                fix=f"run `ehr-tl run {self.folder / _PIPELINE} --out {self.folder}` to finish it",
            )
        return path

    def _frame(self, name: str) -> pd.DataFrame:
        import pandas as pd

        return pd.read_parquet(self._file(name))

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"


def run(
    pipeline: str | Path,
    export: str | Path | None = None,
    out: str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    as_of: str | date | None = None,
    threads: int | None = None,
) -> Run:
    """Runs a pipeline from a FHIR export to the report; stages whose inputs are unchanged are skipped.

    Args:
        pipeline: A pipeline file, or the name of a shipped one.
        export: Folder or zip of FHIR files; default: what the pipeline names.
        out: The run folder; default: `runs/<pipeline>`.
        adapter: Adapter name or folder; default: what the pipeline names, else guessed from the export.
        as_of: The day on which current patients are scored; default: the export's end.
        threads: Processors to use; default: all.

    Returns:
        The finished run.

    Raises:
        EhrTlError: The pipeline, the export or the cohort is not usable; the message says what to do.
    """
    source = pipeline_path(pipeline)
    config = load_pipeline(source)
    folder = Path(out) if out is not None else Path("runs") / config.name
    fhir = open_export(_export_path(export or config.export, source))
    settings = {
        "pipeline": config.name,
        "export": str(fhir.path),
        "adapter": str(adapter or config.adapter or _guess(fhir)),
        "as_of": as_of.isoformat() if isinstance(as_of, date) else as_of,
        "threads": threads or available(),
    }
    parse_as_of(settings["as_of"])
    _check(config, settings["adapter"])
    fhir.check_outside(folder)
    _make_private(folder)
    stages = Manifest.read(folder).stages if (folder / MANIFEST).is_file() else {}
    if source.resolve() != (folder / _PIPELINE).resolve():
        with whole(folder / _PIPELINE) as temporary:
            shutil.copyfile(source, temporary)
    Manifest(settings, stages).write(folder)
    job = _job(folder)
    for stage in STAGES:
        _execute(stage, job, STAGES)
    return Run(folder)


def run_stage(folder: str | Path, name: str) -> str:
    """Runs one stage of a run, unless its inputs are unchanged; says which in words.

    Raises:
        RunError: The folder is no run, or an earlier stage is missing.
    """
    stage = next(stage for stage in STAGES if stage.name == name)
    done = _execute(stage, _job(Path(folder)), STAGES)
    return f"{name}: {'done' if done else 'unchanged, skipped'}. Wrote {', '.join(stage.writes)} in {folder}"


def load_run(folder: str | Path) -> Run:
    """Opens a run folder.

    Raises:
        RunError: The folder is no run.
    """
    return Run(folder)


def score(run: Run | str | Path, export: str | Path, out: str | Path, *, as_of: str | date | None = None) -> Run:
    """Scores and explains new patients with a finished run. No labels are needed, and none are looked at.

    A patient whom the run was trained on is scored by those of its models that were not fitted on that patient.

    Args:
        run: A finished run or its folder.
        export: Folder or zip of FHIR files that the run's adapter can read.
        out: Folder for events, scores, explanations, RiskAssessments and the worklist.
        as_of: The day on which the patients are scored; default: the export's end.

    Raises:
        EhrTlError: The run is not finished, or the export is not usable.
    """
    trained = run if isinstance(run, Run) else Run(run)
    folder = Path(out)
    if folder.resolve() == trained.folder.resolve():
        raise RunError(f"--out {folder} is the run itself", expected="another folder")
    if "train" not in trained.manifest.stages:
        raise RunError(f"{trained.folder} has no trained models", fix="finish it with `ehr-tl run`")
    moment = as_of.isoformat() if isinstance(as_of, date) else as_of
    parse_as_of(moment)
    fhir = open_export(Path(export).absolute())
    settings = {**trained.manifest.settings, "export": str(fhir.path), "as_of": moment, "run": str(trained.folder)}
    fhir.check_outside(folder)
    _make_private(folder)
    stages = Manifest.read(folder).stages if (folder / MANIFEST).is_file() else {}
    with whole(folder / _PIPELINE) as temporary:
        shutil.copyfile(trained.folder / _PIPELINE, temporary)
    Manifest(settings, stages).write(folder)
    job = replace(_job(folder), models=trained.folder / "models")
    for stage in NEW_PATIENTS:
        _execute(stage, job, NEW_PATIENTS)
    return Run(folder)


def parse_as_of(text: str | None) -> datetime | None:
    """A date means the end of that day, a date with a time that moment; naive, UTC.

    Examples:
        >>> parse_as_of("2026-11-01")
        datetime.datetime(2026, 11, 1, 23, 59, 59, 999999)
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise PipelineError(f"--as-of {text!r} is no date", expected="YYYY-MM-DD, such as 2026-11-01") from None
    moment = (
        moment.replace(tzinfo=None) if moment.tzinfo is None else (moment - moment.utcoffset()).replace(tzinfo=None)
    )
    return datetime.combine(moment, time.max) if len(text) <= 10 else moment


def _job(folder: Path) -> Job:
    settings = Manifest.read(folder).settings
    return Job(
        folder=folder,
        pipeline=load_pipeline(folder / _PIPELINE),
        export=Path(settings["export"]),
        adapter=settings["adapter"],
        as_of=parse_as_of(settings["as_of"]),
        threads=settings["threads"],
        models=folder / "models",
    )


def _export_path(given: str | Path | None, pipeline: Path) -> Path:
    if given is None:
        raise PipelineError(
            f"{pipeline} names no export", fix="name one with --export FOLDER, or with `export:` in the pipeline"
        )
    return sample_export() if str(given) == "sample" else Path(given).absolute()


def _guess(export: Export) -> str:
    from ehr_tl.convert.guess import guess_adapter

    name, reason = guess_adapter(export)
    log.info("Adapter %s: %s", name, reason)
    return name


def _check(pipeline: Pipeline, adapter: str) -> None:
    """Finds mistakes in what a run is made of before the export is read, which may take long.

    Raises:
        EhrTlError: The task, the adapter or the checkpoint is wrong.
    """
    from ehr_tl.cohort.task import compile_task
    from ehr_tl.convert import load_adapter

    load_adapter(adapter)
    compile_task(pipeline.task)
    if pipeline.transformer is not None and pipeline.transformer.checkpoint is not None:
        from ehr_tl.models.checkpoint import check_checkpoint

        check_checkpoint(pipeline.transformer.checkpoint)


def _make_private(folder: Path) -> None:
    """Makes a folder that only its owner can read: it will hold patients' data."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise RunError(f"{folder} holds something else", expected="a new or empty folder, or an earlier run")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file", expected="a folder")
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o700)


def _execute(stage: Stage, job: Job, chain: tuple[Stage, ...]) -> bool:
    """Runs a stage of a chain unless it is fresh; returns whether it ran."""
    missing = [name for name in stage.reads if not (job.folder / name).exists()]
    if missing:
        raise RunError(
            f"Stage {stage.name} needs {', '.join(missing)} in {job.folder}",
            fix=f"run the earlier stages first: `ehr-tl run {job.folder / _PIPELINE} --out {job.folder}`",
        )
    manifest = Manifest.read(job.folder)
    inputs = {name: fingerprint(job.folder / name) for name in stage.reads}
    inputs |= {name: fingerprint(path) for name, path in stage.outside(job).items() if path.exists()}
    key = _key(stage, job, inputs)
    if manifest.is_fresh(stage.name, key, job.folder):
        log.info("%s: unchanged, skipped", stage.name)
        return False
    attempt = {"stage": stage.name, "key": key}
    if not _was_interrupted(job.folder, attempt):
        _retire(chain[chain.index(stage) :], manifest, job.folder)
        write_json(job.folder / _UNFINISHED, attempt)
    for rest in list(job.folder.rglob(".*.partial")):
        remove(rest)
    with measured() as cost:
        notes = stage.action(job)
    outputs = {name: fingerprint(job.folder / name) for name in stage.writes}
    manifest.stages[stage.name] = {"key": key, "inputs": inputs, "outputs": outputs, "cost": vars(cost), "notes": notes}
    manifest.write(job.folder)
    remove(job.folder / _UNFINISHED)
    log.info("%s: %.1f s", stage.name, cost.seconds)
    return True


def _retire(stages: tuple[Stage, ...], manifest: Manifest, folder: Path) -> None:
    """Removes what these stages made of other inputs: a report beside another cohort would mislead."""
    for stage in stages:
        manifest.stages.pop(stage.name, None)
        for name in stage.writes:
            remove(folder / name)
    manifest.write(folder)


def _key(stage: Stage, job: Job, inputs: dict[str, str]) -> str:
    value = {"version": __version__, "stage": stage.name, "inputs": inputs, "settings": stage.settings(job)}
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _was_interrupted(folder: Path, attempt: dict[str, str]) -> bool:
    """Whether the same attempt was interrupted before: what it wrote can then be gone on with."""
    try:
        return read_json(folder / _UNFINISHED) == attempt
    except (OSError, ValueError):
        return False
