"""The stages of a run, in order. Each reads files of the run folder, writes its own, and knows nothing of the others.

::

    export ── convert ──► events/ ── cohort ──► cohort.parquet ── train ──► models/ ── score ──► scores.parquet
                                                                          ── explain ──► explanations.parquet
                                                                          ── report ──► report.html, ...
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ehr_tl import __version__, schema
from ehr_tl.cohort import Cohort, build_cohort, current_cohort
from ehr_tl.config import Pipeline
from ehr_tl.errors import CheckpointError
from ehr_tl.events import Events
from ehr_tl.files import fingerprint, read_json, whole, write_json
from ehr_tl.folders import CURVE
from ehr_tl.models.folder import WEIGHTS
from ehr_tl.progress import log

if TYPE_CHECKING:
    from ehr_tl.tokens.familiarity import Familiarity
    from ehr_tl.transfer.shift import Shift


@dataclass(frozen=True)
class Job:
    """What a stage is given.

    Attributes:
        folder: Where the stage reads and writes: the run folder.
        pipeline: The question and the settings.
        export: Folder or zip of FHIR files.
        adapter: Name or folder of the adapter.
        concept_maps: Files and folders of ConceptMaps and terminology that go before the adapter's own.
        as_of: The day that current patients are scored on; None: the export's end.
        threads: Processors to use.
        models: The fitted models: the run's own, or another run's when new patients are scored with it.
        accept_coverage: Train though the checkpoint knows less of the events than the pipeline asks for.
    """

    folder: Path
    pipeline: Pipeline
    export: Path
    adapter: str
    concept_maps: tuple[Path, ...]
    as_of: datetime | None
    threads: int
    models: Path
    accept_coverage: bool = False

    @property
    def events(self) -> Events:
        return Events(self.folder / "events")

    def read(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.folder / name, glob=False)

    def rows(self) -> pl.DataFrame:
        """The labelled rows and the current ones (`schema.ROWS`), sorted."""
        cohort = Cohort.read(self.folder)
        labelled = cohort.labelled.with_columns(split=pl.lit(schema.HELD_OUT))
        current = cohort.current.with_columns(
            boolean_value=pl.lit(None, pl.Boolean), split=pl.lit(schema.CURRENT_SPLIT)
        )
        columns = list(schema.ROWS)
        both = pl.concat([labelled.select(columns), current.select(columns)])
        return both.sort("subject_id", "prediction_time", "split")


@dataclass(frozen=True)
class Stage:
    """One step.

    Attributes:
        name: Its name on the command line.
        reads: Files and folders of the run that it reads.
        writes: Files and folders of the run that it writes.
        action: Does the work; what it returns goes into the manifest.
        settings: The part of the job that changes its result, as plain JSON.
        outside: Inputs that lie outside the run folder.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    action: Callable[[Job], dict[str, Any]]
    settings: Callable[[Job], Any] = lambda job: None
    outside: Callable[[Job], dict[str, Path]] = lambda job: {}


def convert(job: Job) -> dict[str, Any]:
    from ehr_tl.convert import convert as convert_export
    from ehr_tl.report import write_coverage

    out = job.folder / "events"
    events = convert_export(job.export, job.adapter, out, job.concept_maps, threads=job.threads)
    write_coverage(events.folder / "coverage.html", events)
    kinds = events.coverage["resources"].values()
    return {"resources": sum(kind["read"] for kind in kinds), "events": events.coverage["events"]}


def _convert_inputs(job: Job) -> dict[str, Path]:
    from ehr_tl.convert import load_adapter

    files = load_adapter(job.adapter, job.concept_maps).files
    return {"export": job.export, **{f"adapter {'/'.join(path.parts[-3:])}": path for path in files}}


def _convert_settings(job: Job) -> list[str] | None:
    """The maps in their order, which counts."""
    return list(map(str, job.concept_maps)) or None


def cohort(job: Job) -> dict[str, Any]:
    built = build_cohort(job.events, job.pipeline.task, job.as_of)
    built.write(job.folder)
    return {"labelled": built.labelled.height, "current": built.current.height}


def train(job: Job) -> dict[str, Any]:
    """Says how much of the events a checkpoint knows and how they differ from its sources; then fits the arms."""
    from ehr_tl.features import build
    from ehr_tl.models.checkpoint import keep_checkpoint
    from ehr_tl.models.crossfit import fit_crossfit
    from ehr_tl.transfer.arms import arms, labelled_sources

    events, rows = job.events, job.rows()
    _refuse_seen(job, rows)
    found = _familiarity(job)
    write_json(job.folder / "familiarity.json", found and found.to_json())
    _refuse_unknown(job, found)
    if found and found.little:
        log.warning(
            "The pretrained vocabulary of %s knows %s of the events: what it learned elsewhere has little to say here",
            found.checkpoint,
            f"{found.known:.0%}",
        )
    moved = _shift(job)
    write_json(job.folder / "shift.json", moved and moved.to_json())
    for warning in moved.warnings if moved else ():
        log.warning("%s", warning)
    build(events, rows, job.pipeline.lightgbm.windows_days).write(job.folder / "features.parquet")
    learners = arms(job.pipeline, labelled_sources(job.pipeline))
    crossfit = fit_crossfit(learners, events, rows, job.pipeline, job.models, job.threads)
    for path in _checkpoint(job).values():
        keep_checkpoint(path, job.models / _KEPT)
    notes = {"seed": job.pipeline.evaluation.seed, "folds": int(crossfit.folds["fold"].max()) + 1}
    if "site" in crossfit.folds.columns:
        notes["sites"] = crossfit.folds["site"].n_unique()
    return notes if found is None else {**notes, "known": found.known, "accept_coverage": job.accept_coverage}


def _refuse_seen(job: Job, rows: pl.DataFrame) -> None:
    """Whether the checkpoint was pretrained on somebody who is to be held out."""
    from ehr_tl.transfer.seen import refuse_seen

    labelled = rows.filter(pl.col("split") == schema.HELD_OUT)["subject_id"]
    for path in _checkpoint(job).values():
        refuse_seen(path, job.events, labelled.to_numpy())


def _refuse_unknown(job: Job, found: Familiarity | None) -> None:
    """Whether the checkpoint knows as much of the events as the pipeline asks for, or somebody accepted less.

    Raises:
        CheckpointError: Neither.
    """
    if found is None or found.known is None or found.known >= job.pipeline.transformer.min_known:
        return
    known, least = f"{found.known:.1%}", f"{job.pipeline.transformer.min_known:.1%}"
    if job.accept_coverage:
        log.warning("The checkpoint knows %s of the events, less than the %s asked for: accepted", known, least)
        return
    raise CheckpointError(
        f"The checkpoint {found.checkpoint} knows {known} of the events of this export",
        expected=f"at least {least} (transformer.min_known)",
        fix=f"see which codes it lacks with `ehr-tl coverage {job.pipeline.transformer.checkpoint} "
        f"{job.folder / 'events'}` and map them; or go on all the same with --accept-coverage; or train from scratch "
        "with `transformer: {checkpoint: null}`",
    )


def _familiarity(job: Job) -> Familiarity | None:
    from ehr_tl.models.knowledge import checkpoint_knowledge
    from ehr_tl.tokens.familiarity import familiarity

    if job.pipeline.transformer is None or job.pipeline.transformer.checkpoint is None:
        return None
    path = Path(job.pipeline.transformer.checkpoint)
    return familiarity(job.events, checkpoint_knowledge(path), path.name)


def _shift(job: Job) -> Shift | None:
    from ehr_tl.transfer.shift import shift

    transformer = job.pipeline.transformer
    if transformer is None or transformer.checkpoint is None:
        return None
    tasks = job.pipeline.transfer.tasks or (job.pipeline.name,)
    return shift(job.events, Cohort.read(job.folder).labelled, transformer.checkpoint, tasks)


def _train_settings(job: Job) -> dict[str, Any]:
    return _model_settings(job.pipeline)


def _all_settings(asked: Pipeline) -> dict[str, Any]:
    """Of a checkpoint its name alone: what is in it counts (`_taught_by`), and where it lies may be forgotten."""
    pipeline = asdict(asked)
    if asked.transformer is not None and asked.transformer.checkpoint is not None:
        pipeline["transformer"]["checkpoint"] = Path(asked.transformer.checkpoint).name
    return pipeline


def _model_settings(asked: Pipeline) -> dict[str, Any]:
    """What changes the models. How they are explained and judged does not: that costs no new training."""
    pipeline = _all_settings(asked)
    settings = {name: pipeline[name] for name in ("lightgbm", "transformer", "transfer", "abstention")}
    settings["evaluation"] = {name: pipeline["evaluation"][name] for name in ("folds", "seed", "sites")}
    if settings["transformer"] is not None:
        apart = {*_EXPLAINING, "min_known"}
        settings["transformer"] = {k: v for k, v in settings["transformer"].items() if k not in apart}
    return settings


def _explain_settings(job: Job) -> dict[str, Any]:
    transformer = job.pipeline.transformer
    return {name: getattr(transformer, name) for name in _EXPLAINING} if transformer is not None else {}


def _checkpoint(job: Job) -> dict[str, Path]:
    transformer = job.pipeline.transformer
    if transformer is None or transformer.checkpoint is None:
        return {}
    from ehr_tl.models.checkpoint import checkpoint_path

    return {"checkpoint": checkpoint_path(transformer.checkpoint)}


def _taught_by(job: Job) -> dict[str, Path]:
    """What models learn from beside the run's own events: the checkpoint, and the events of source hospitals."""
    sources = (Path(each) for each in job.pipeline.transfer.sources)
    return {**_checkpoint(job), **{f"source {number} {path.name}": path for number, path in enumerate(sources)}}


def _crossfit(job: Job) -> Any:
    """The fitted models; they read the checkpoint that was kept with them, whatever became of the one they began at."""
    from ehr_tl.models.crossfit import CrossFit
    from ehr_tl.transfer.arms import arms

    pipeline, kept = job.pipeline, job.models / _KEPT
    if kept.is_dir():
        pipeline = replace(pipeline, transformer=replace(pipeline.transformer, checkpoint=str(kept)))
    return CrossFit.load(job.models, arms(pipeline))


def score(job: Job) -> dict[str, Any]:
    scores = _crossfit(job).score(job.events, job.rows())
    with whole(job.folder / "scores.parquet") as temporary:
        scores.write_parquet(temporary)
    chosen = scores.filter("chosen")
    current = chosen.filter(pl.col("split") == schema.CURRENT_SPLIT)
    abstained = int(current["abstained"].sum())
    return {
        "held_out": chosen.height - current.height,
        "current": current.height - abstained,
        "abstained": abstained,
    }


def explain(job: Job) -> dict[str, Any]:
    from ehr_tl.explain.assemble import assemble, check_additivity

    events, rows = job.events, job.rows()
    explanations = assemble(_crossfit(job).attributions(events, rows), events, rows)
    checked = check_additivity(job.read("scores.parquet"), explanations)
    with whole(job.folder / "explanations.parquet") as temporary:
        explanations.write_parquet(temporary)
    return checked


def deliver(job: Job) -> dict[str, Any]:
    """What others act on: FHIR RiskAssessments and the worklist."""
    from ehr_tl.explain import reasons
    from ehr_tl.fhir.risk_assessment import Issuer, risk_assessments, write_risk_assessments
    from ehr_tl.report import worklist, write_worklist

    events, scores, explanations = job.events, job.read("scores.parquet"), job.read("explanations.parquet")
    chosen = scores.filter("chosen")["model"].unique().to_list()
    why = reasons(explanations.filter(pl.col("model").is_in(chosen)))
    trained_on = Cohort.read(job.models.parent)
    issuer = Issuer(
        pipeline=job.pipeline,
        export=events.export,
        version=_model_version(job),
        average=float(trained_on.labelled["boolean_value"].mean()),
        horizon=trained_on.horizon,
    )
    resources = risk_assessments(scores, why, events.subjects, issuer)
    count = write_risk_assessments(job.folder / "risk_assessments.ndjson", resources)
    write_worklist(job.folder / "worklist.csv", worklist(scores, why, events.subjects, events.export))
    return {"risk_assessments": count}


def _model_version(job: Job) -> str:
    return f"{__version__}+{fingerprint(job.models)[:12]}"


def report(job: Job) -> dict[str, Any]:
    """What people read: how well it works, and on whom; and, with `deliver`, what they act on."""
    from ehr_tl.evaluate import demographics, evaluate
    from ehr_tl.report import ReportInputs, write_coverage, write_model_card, write_report
    from ehr_tl.tokens.familiarity import Familiarity
    from ehr_tl.transfer.shift import Shift

    events, built, scores = job.events, Cohort.read(job.folder), job.read("scores.parquet")
    comparison = pl.read_parquet(job.models / "comparison.parquet", glob=False)
    metrics = evaluate(scores, built.labelled, comparison, job.pipeline.evaluation, demographics(events))
    metrics["weights"] = read_json(job.models / "crossfit.json")["shares"]
    write_json(job.folder / "metrics.json", metrics)
    known = read_json(job.folder / "familiarity.json")
    familiarity = known and Familiarity.from_json(known)
    moved = read_json(job.folder / "shift.json")
    inputs = ReportInputs(
        pipeline=job.pipeline,
        export=events.export,
        coverage=events.coverage,
        labelled=built.labelled,
        flow=built.flow,
        predicates=built.predicates,
        absent_codes=built.absent_codes,
        as_of=built.as_of,
        horizon=built.horizon,
        metrics=metrics,
        scores=scores,
        explanations=job.read("explanations.parquet"),
        subjects=events.subjects,
        manifest=read_json(job.folder / "manifest.json"),
        version=_model_version(job),
        familiarity=familiarity,
        shift=moved and Shift.from_json(moved),
        learning_curve=_curve(job),
    )
    write_coverage(job.folder / "coverage.html", events, familiarity)
    write_report(job.folder / "report.html", inputs)
    write_model_card(job.folder / "MODEL_CARD.md", inputs)
    return deliver(job)


def curve_of(folder: Path, pipeline: Pipeline, checkpoint: Path | None) -> str:
    """A digest of a run's events, its cohort and what changes its models: its learning curve is of these.

    Args:
        folder: The run's.
        pipeline: As it was asked.
        checkpoint: What was transferred, or the run's own copy of it; None: nothing.
    """
    files = [folder / "events" / "data", folder / "events" / "metadata" / "codes.parquet", folder / "cohort.parquet"]
    files += [] if checkpoint is None else [checkpoint / WEIGHTS]
    settings = json.dumps(_model_settings(pipeline), sort_keys=True)
    return hashlib.blake2b((fingerprint(*files) + settings).encode(), digest_size=16).hexdigest()


def _curve(job: Job) -> dict[str, Any] | None:
    """The run's learning curve if somebody asked for one, and since then nothing has changed that it is of."""
    if not (job.folder / CURVE).is_file():
        return None
    found, kept = read_json(job.folder / CURVE), job.models / _KEPT
    if found.get("of") == curve_of(job.folder, job.pipeline, kept if kept.is_dir() else None):
        return found
    log.warning(
        "%s is of an earlier cohort or other settings, and is left out of the report: make it anew with "
        "`ehr-tl learning-curve %s`",
        job.folder / CURVE,
        job.folder,
    )
    return None


def new_patients(job: Job) -> dict[str, Any]:
    """Who can be scored now, in an export that need not tell any outcome."""
    built = current_cohort(job.events, job.pipeline.task, job.as_of)
    built.write(job.folder)
    return {"current": built.current.height}


def _task(job: Job) -> dict[str, Any]:
    return {"task": asdict(job.pipeline.task), "as_of": str(job.as_of)}


def _models(job: Job) -> dict[str, Path]:
    return {"models": job.models}


def _reported(job: Job) -> dict[str, Path]:
    """The models, and the run's learning curve if somebody asked for one."""
    curve = job.folder / CURVE
    return {**_models(job), **({"learning curve": curve} if curve.is_file() else {})}


#: In the folder of models, what they read of the checkpoint.
_KEPT = "checkpoint"

#: Keys of `transformer:` that say how it is explained.
_EXPLAINING = ("players", "permutations")

_COHORT = ("cohort.parquet", "current.parquet", "flow.json")
_DELIVERED = ("risk_assessments.ndjson", "worklist.csv")
_REPORTED = ("metrics.json", "report.html", "coverage.html", "MODEL_CARD.md", *_DELIVERED)

_CONVERT = Stage("convert", (), ("events",), convert, settings=_convert_settings, outside=_convert_inputs)
_SCORE = Stage("score", ("events", *_COHORT), ("scores.parquet",), score, outside=_models)
_EXPLAIN = Stage(
    "explain",
    (*_SCORE.reads, "scores.parquet"),
    ("explanations.parquet",),
    explain,
    settings=_explain_settings,
    outside=_models,
)
_RESULTS = (*_EXPLAIN.reads, "explanations.parquet")

#: A run, in order.
STAGES = (
    _CONVERT,
    Stage("cohort", ("events",), _COHORT, cohort, settings=_task),
    Stage(
        "train",
        ("events", *_COHORT),
        ("familiarity.json", "shift.json", "features.parquet", "models"),
        train,
        settings=_train_settings,
        outside=_taught_by,
    ),
    _SCORE,
    _EXPLAIN,
    Stage(
        "report",
        (*_RESULTS, "familiarity.json", "shift.json"),
        _REPORTED,
        report,
        settings=lambda job: _all_settings(job.pipeline),
        outside=_reported,
    ),
)

#: New patients with a finished run, in order.
NEW_PATIENTS = (
    _CONVERT,
    Stage("cohort", ("events",), _COHORT, new_patients, settings=_task),
    _SCORE,
    _EXPLAIN,
    Stage("deliver", _RESULTS, _DELIVERED, deliver, settings=lambda job: _all_settings(job.pipeline), outside=_models),
)
