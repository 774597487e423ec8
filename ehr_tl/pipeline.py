"""Runs the stages of a pipeline, keeps the manifest, and goes on where an interrupted run stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime, time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ehr_tl import __version__
from ehr_tl.config import Pipeline, load_pipeline, located, pipeline_path, utc
from ehr_tl.errors import PipelineError, RunError
from ehr_tl.fhir.export import Export, open_export
from ehr_tl.files import fingerprint, locked, read_json, remove, whole, write_json
from ehr_tl.folders import PIPELINE, command, make_private, refuse_run, refuse_scored
from ehr_tl.manifest import NAME as MANIFEST
from ehr_tl.manifest import Manifest, measured
from ehr_tl.progress import log
from ehr_tl.resources import bundled, sample_export
from ehr_tl.stages import NEW_PATIENTS, STAGES, Job, Stage
from ehr_tl.threads import allowed, let_others_work
from ehr_tl.wording import counted

if TYPE_CHECKING:
    import pandas as pd

_UNFINISHED = ".unfinished.json"

#: Records of patients are of a later year.
_EARLIEST = 1800


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
        return load_pipeline(self.folder / PIPELINE, self.manifest.settings.get("beside"))

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
        apart = (
            f", {scored['abstained']:,} more set apart: too little is known of them, or they are too unlike the others"
            if scored.get("abstained")
            else ""
        )
        lines = [f"{counted(scored.get('current', 0), 'current patient')} scored{apart}."]
        if scored.get("held_out"):
            lines.append(f"{counted(scored['held_out'], 'row')} with a known outcome scored to see how well it works.")
        if (self.folder / "metrics.json").is_file():
            lines.append(self.metrics.get("sentence") or self._outdated)
        for name in ("report.html", "worklist.csv", "risk_assessments.ndjson"):
            if (self.folder / name).is_file():
                lines.append(f"{name + ':':25}{self.folder / name}")
        return "\n".join(lines)

    @property
    def _outdated(self) -> str:
        metrics, anew = self.folder / "metrics.json", command(self.folder, self.manifest)
        return f"{metrics} is of an earlier version of ehr_tl: remove it, and run `{anew}`."

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise RunError(
                f"{path} is missing",
                expected="a finished run",
                fix=f"run `{command(self.folder, self.manifest)}` to finish it",
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
    concept_maps: Sequence[str | Path] | None = None,
    as_of: str | date | None = None,
    threads: int | None = None,
    accept_coverage: bool | None = None,
) -> Run:
    """Runs a pipeline from a FHIR export to the report; stages whose inputs are unchanged are skipped.

    Args:
        pipeline: A pipeline file, or the name of a shipped one. Where it is a run's own copy, what is not given here is
            as in that run.
        export: Folder or zip of FHIR files; default: what the pipeline names.
        out: The run folder; default: `runs/<pipeline>`.
        adapter: Adapter name or folder; default: what the pipeline names, else guessed from the export.
        concept_maps: FHIR R4 ConceptMaps, CodeSystems and ValueSets that go before the adapter's own: files, or folders
            of them.
        as_of: The day on which current patients are scored; default: the export's end.
        threads: Processors to use; default: all.
        accept_coverage: Train though the checkpoint knows less of the events than `transformer.min_known`.

    Returns:
        The finished run.

    Raises:
        EhrTlError: The pipeline, the export or the cohort is not usable; the message says what to do.
    """
    source = pipeline_path(pipeline)
    before = _settings_beside(source)
    config = load_pipeline(source, before.get("beside"))
    folder = Path(_given(out, "--out") or Path("runs") / config.name)
    own = before if "run" not in before else {}
    fhir = open_export(_export_path(_given(export, "--export") or own.get("export") or config.export, source))
    adapter = _given(adapter, "--adapter")
    if concept_maps is None:
        concept_maps = own.get("concept_maps", ())
    settings = {
        "pipeline": config.name,
        "beside": before.get("beside") or str(source.parent.absolute()),
        "export": str(fhir.path),
        "adapter": located(adapter and str(adapter), Path.cwd(), bundled("adapters"))
        or own.get("adapter")
        or config.adapter
        or _guess(fhir),
        "concept_maps": [str(Path(_given(each, "--concept-map")).absolute()) for each in concept_maps],
        "as_of": own.get("as_of") if as_of is None else _day(as_of),
        "threads": allowed(threads or own.get("threads")),
        "accept_coverage": own.get("accept_coverage", False) if accept_coverage is None else accept_coverage,
    }
    parse_as_of(settings["as_of"])
    _check(config, settings["adapter"], settings["concept_maps"])
    fhir.check_outside(folder)
    refuse_scored(folder)
    make_private(folder)
    with locked(folder):
        _begin(folder, settings, source)
        job = _job(folder)
        for stage in STAGES:
            _execute(stage, job, STAGES)
    return Run(folder)


def run_stage(folder: str | Path, name: str, accept_coverage: bool = False) -> str:
    """Runs one stage of a run, unless its inputs are unchanged; says which in words.

    Args:
        folder: The run folder.
        name: The stage.
        accept_coverage: As in `run`; from now on it holds for this run.

    Raises:
        RunError: The folder is no run, an earlier stage is missing, or what it wrote or was asked for has changed.
    """
    folder = Path(folder)
    stage = next(stage for stage in STAGES if stage.name == name)
    Manifest.read(folder)
    refuse_scored(folder)
    with locked(folder):
        if accept_coverage:
            manifest = Manifest.read(folder)
            manifest.settings["accept_coverage"] = True
            manifest.write(folder)
        job = _job(folder)
        for earlier in STAGES[: STAGES.index(stage)]:
            _check_done(earlier, job)
        done = _execute(stage, job, STAGES)
    return f"{name}: done. Wrote {', '.join(stage.writes)} in {folder}" if done else f"{name}: unchanged, skipped"


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
        EhrTlError: The run is not finished or has changed since, or the export is not usable.
    """
    source = run.folder if isinstance(run, Run) else Path(run)
    trained = Manifest.read(source)
    folder = Path(_given(out, "--out"))
    if folder.resolve().is_relative_to(source.resolve()):
        raise RunError(f"--out {folder} lies in the run itself", expected="a folder elsewhere")
    refuse_scored(source)
    refuse_run(folder)
    parse_as_of(_day(as_of))
    fhir = open_export(Path(_given(export, "--export")).absolute())
    settings = {**trained.settings, "export": str(fhir.path), "as_of": _day(as_of), "run": str(source.absolute())}
    fhir.check_outside(folder)
    with locked(source, shared=True):
        _check_finished(source)
        make_private(folder)
        with locked(folder):
            _begin(folder, settings, source / PIPELINE)
            job = replace(_job(folder), models=source.absolute() / "models")
            for stage in NEW_PATIENTS:
                _execute(stage, job, NEW_PATIENTS)
    return Run(folder)


def parse_as_of(text: str | None, option: str = "--as-of") -> datetime | None:
    """A date means the end of that day, a date with a time that moment; naive, UTC.

    Examples:
        >>> parse_as_of("2026-11-01")
        datetime.datetime(2026, 11, 1, 23, 59, 59, 999999)
    """
    if text is None:
        return None
    try:
        moment = utc(text)
    except ValueError:
        moment = None
    if moment is None or moment.year < _EARLIEST:
        raise PipelineError(f"{option} {text!r} is no usable date", expected="YYYY-MM-DD, such as 2026-11-01")
    return datetime.combine(moment, time.max) if len(text) <= 10 else moment


def _day(as_of: str | date | None) -> str | None:
    return as_of.isoformat() if isinstance(as_of, date) else as_of


def _given(value: str | Path | None, option: str) -> str | Path | None:
    """What was given; an empty text (an unset variable in a script) is not taken for the working directory."""
    if value is not None and not str(value).strip():
        raise PipelineError(f"{option} is empty", expected="a name")
    return value


def _settings_beside(source: Path) -> dict[str, Any]:
    """The settings of the run whose own copy a pipeline file is; none if it is another file."""
    if source.name == PIPELINE:
        with suppress(RunError):
            return Manifest.read(source.parent).settings
    return {}


def _begin(folder: Path, settings: dict[str, Any], pipeline: Path) -> None:
    """Notes what is asked for; the stages of an earlier time stay, each until it turns out to be of other inputs."""
    stages = Manifest.read(folder).stages if (folder / MANIFEST).is_file() else {}
    Manifest(settings, stages).write(folder)
    if pipeline.resolve() != (folder / PIPELINE).resolve():
        with whole(folder / PIPELINE) as temporary:
            shutil.copyfile(pipeline, temporary)


def _job(folder: Path) -> Job:
    settings = Manifest.read(folder).settings
    return Job(
        folder=folder,
        pipeline=load_pipeline(folder / PIPELINE, settings.get("beside")),
        export=Path(settings["export"]),
        adapter=settings["adapter"],
        concept_maps=tuple(map(Path, settings.get("concept_maps", ()))),
        as_of=parse_as_of(settings["as_of"]),
        threads=allowed(settings["threads"]),
        models=folder / "models",
        accept_coverage=settings.get("accept_coverage", False),
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


def _check(pipeline: Pipeline, adapter: str, concept_maps: list[str]) -> None:
    """Finds mistakes in what a run is made of before the export is read, which may take long.

    Raises:
        EhrTlError: The task, the adapter, a map, a source hospital's events, the checkpoint, or an arm or a source task
            that `transfer` names is wrong.
    """
    from ehr_tl.cohort.task import compile_task
    from ehr_tl.convert import load_adapter
    from ehr_tl.events import Events
    from ehr_tl.transfer.arms import arms

    load_adapter(adapter, concept_maps)
    compile_task(pipeline.task)
    for source in pipeline.transfer.sources:
        Events(source)
    if pipeline.transformer is not None and pipeline.transformer.checkpoint is not None:
        from ehr_tl.models.checkpoint import check_checkpoint
        from ehr_tl.transfer.seen import check_seen

        check_seen(check_checkpoint(pipeline.transformer.checkpoint))
    arms(pipeline)


def _check_finished(folder: Path) -> None:
    """Whether a run can score new patients: finished, and its question, cohort and models still belong together.

    Its events and results are not looked at: who scores with a run need not have them.

    Raises:
        RunError: It is unfinished, or something of it has changed.
    """
    job = _job(folder)
    for stage in STAGES:
        _check_done(stage, job, outputs={"cohort.parquet", "current.parquet", "flow.json", "models"})


def check_until(folder: Path, name: str) -> None:
    """Whether a run's stages up to the one named were run as they would be now, and what they wrote is as it was.

    Raises:
        RunError: One was not run, or something has changed since.
    """
    stage = next(stage for stage in STAGES if stage.name == name)
    job = _job(folder)
    for each in STAGES[: STAGES.index(stage) + 1]:
        _check_done(each, job)


def _check_done(stage: Stage, job: Job, outputs: set[str] | None = None) -> None:
    """Whether a stage was run as it would be run now, and its outputs are what it wrote.

    What lies outside of the run (the export, the adapter, the checkpoint) may have changed or gone: a run goes on with
    what it made of them, and with what it kept of the checkpoint.

    Args:
        outputs: The outputs that matter; None: all.

    Raises:
        RunError: It says what has changed.
    """
    manifest = Manifest.read(job.folder)
    anew, record = command(job.folder, manifest), manifest.stages.get(stage.name)
    if record is None:
        raise RunError(
            f"{job.folder} has no {', '.join(stage.writes)}: stage {stage.name} has not been run",
            fix=f"run the earlier stages first: `{anew}`",
        )
    problem = manifest.changed(stage.name, job.folder, outputs)
    if problem is None and record["key"] != _key(stage, job, record["inputs"]):
        version = record.get("version", __version__)
        other = f"{PIPELINE}, or the --as-of date, was changed after stage {stage.name}"
        problem = other if version == __version__ else f"ehr_tl {version} ran stage {stage.name}, this is {__version__}"
    if problem is not None:
        raise RunError(f"{job.folder}: {problem}", fix=f"run `{anew}` again: it makes it anew")


def _check_read(stage: Stage, job: Job) -> None:
    """Whether all that a stage reads is there.

    Raises:
        RunError: Something is not.
    """
    missing = [name for name in stage.reads if not (job.folder / name).exists()]
    missing += [str(path) for path in stage.outside(job).values() if not path.exists()]
    if missing:
        raise RunError(
            f"Stage {stage.name} of {job.folder} needs {', '.join(missing)}",
            fix=f"run the earlier stages first: `{command(job.folder, Manifest.read(job.folder))}`",
        )


def _execute(stage: Stage, job: Job, chain: tuple[Stage, ...]) -> bool:
    """Runs a stage of a chain unless it is fresh; returns whether it ran."""
    let_others_work()
    _check_read(stage, job)
    manifest = Manifest.read(job.folder)
    inputs = {name: fingerprint(job.folder / name) for name in stage.reads}
    inputs |= {name: fingerprint(path) for name, path in stage.outside(job).items()}
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
    manifest.stages[stage.name] = {
        "key": key,
        "version": __version__,
        "inputs": inputs,
        "outputs": outputs,
        "cost": vars(cost),
        "notes": notes,
    }
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
