"""Runs studies: what transfer is worth at a hospital, by number of its own cases; resumable cell by cell."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ehr_tl.cohort import Cohort
from ehr_tl.errors import RunError
from ehr_tl.events import Events
from ehr_tl.files import check_place, locked, whole, write_json
from ehr_tl.folders import CURVE, refuse_scored
from ehr_tl.pipeline import check_until, load_run
from ehr_tl.stages import curve_of
from ehr_tl.threads import allowed

if TYPE_CHECKING:
    from ehr_tl.transfer.study.cells import Cells
    from ehr_tl.transfer.study.results import Size
    from ehr_tl.transfer.study.setting import Setting

#: Files of a finished study.
SPLITS, RESULTS, TABLE, PAGE = "splits.json", "results.json", "results.md", "study.html"

#: Of a run's learning curve.
CURVE_PAGE = "learning_curve.html"

#: Numbers of cases of a run's learning curve, beside all that there are.
CASES = (16, 32, 64, 128, 256, 512)


def study(
    name: str | Path,
    events: Mapping[str, str | Path],
    out: str | Path,
    *,
    quick: bool = False,
    pretrained: str | Path | None = None,
    threads: int | None = None,
) -> Path:
    """Runs a study; what is there already, cells and checkpoints alike, is taken as it is.

    Args:
        name: A study file, or the name of one that ships.
        events: The names that it gives its events, each with a folder.
        out: Folder of studies; this one goes to `OUT/<name>`, and with `quick` to `OUT/quick/<name>`.
        quick: Few sizes, few repeats, one seed: to see within an hour where the curves go.
        pretrained: Folder of the checkpoints that studies pretrain; default: `OUT/pretrained`.
        threads: Cells at a time, each in a process of its own; default: all processors.

    Returns:
        The study's folder: `results.json`, `results.md`, `study.html`, `splits.json` and `cells/`.

    Raises:
        EhrTlError: The study, the events or a checkpoint is not usable, or the checkpoint has seen the target.
    """
    from ehr_tl.transfer.study.checkpoints import continued, transferred
    from ehr_tl.transfer.study.config import load_study
    from ehr_tl.transfer.study.setting import set_up

    asked, out = load_study(name), Path(out)
    asked = asked.quick() if quick else asked
    folder = out / "quick" / asked.name if quick else out / asked.name
    setting = set_up(asked, events)
    _private(folder)
    with locked(folder):
        write_json(folder / SPLITS, {"seed": asked.seed, "seeds": list(asked.seeds), **setting.draws.to_json()})
        start = transferred(setting, Path(pretrained) if pretrained is not None else out / "pretrained")
        further = continued(setting, start, folder / "continued")
        sizes = _found(setting, _cells(setting, start, further, folder / "cells"), allowed(threads))
        results = _results(setting, sizes)
        write_json(folder / RESULTS, results)
        _write_pages(results, folder / PAGE, folder / TABLE)
    return folder


def learning_curve(
    run: str | Path,
    *,
    cases: Sequence[int | str] | None = None,
    repeats: int = 5,
    threads: int | None = None,
) -> dict[str, Any]:
    """How well each arm of a run would do with fewer cases, and what more of them would bring.

    Half of the run's subjects are the test part in all repeats, so what is told of all cases is told of the other half;
    where the run holds out whole sites, so does the curve, and half is what whole sites come nearest to.

    Args:
        run: A run whose stage `cohort` is done.
        cases: Numbers of subjects; default: 16, 32, 64 and so on, and all.
        repeats: Draws of each number.
        threads: As in `study`.

    Returns:
        What `RUN/learning_curve.json` says: as a study's results, `outlook` (`transfer.study.outlook`), and `of`, a
        digest of what the curve is of (`stages.curve_of`).

    Raises:
        EhrTlError: The folder is no run, its pipeline or events have changed since stage `cohort`, or its cohort is too
            small.
    """
    from ehr_tl.transfer.arms import labelled_sources
    from ehr_tl.transfer.study.checkpoints import transferred
    from ehr_tl.transfer.study.config import ALL, Population, Study
    from ehr_tl.transfer.study.outlook import outlook
    from ehr_tl.transfer.study.setting import of_cohort

    folder = Path(run)
    pipeline = load_run(folder).pipeline
    refuse_scored(folder)
    network, seed = pipeline.transformer, pipeline.evaluation.seed
    asked = Study(
        name=pipeline.name,
        title=pipeline.title,
        pipeline=pipeline.name,
        target=Population("events"),
        checkpoint=network.checkpoint if network is not None else None,
        seeds=(0,),
        cases=tuple(dict.fromkeys(cases)) if cases is not None else (*CASES, ALL),
        repeats=repeats,
        seed=seed,
    )
    with locked(folder):
        check_until(folder, "cohort")
        events, cohort = Events(folder / "events"), Cohort.read(folder)
        setting = of_cohort(asked, pipeline, events, cohort.labelled, lent=labelled_sources(pipeline))
        start = transferred(setting, folder)
        cells = _cells(setting, start, dict.fromkeys(start), folder / "learning_curve")
        sizes = _found(setting, cells, allowed(threads))
        results = _results(setting, sizes)
        if chosen := sizes[-1].chosen:
            subjects = cohort.labelled["subject_id"].n_unique()
            results["outlook"] = outlook(sizes, chosen, subjects, cohort.positive_subjects)
        results["of"] = curve_of(folder, pipeline, start[0])
        write_json(folder / CURVE, results)
        _write_pages(results, folder / CURVE_PAGE)
    return results


def _cells(
    setting: Setting, start: Mapping[int, Path | None], further: Mapping[int, Path | None], folder: Path
) -> list[Cells]:
    from ehr_tl.transfer.study.cells import Cells, made_from

    return [
        Cells(setting, seed, path, further[seed], folder, made_from(setting, path, further[seed]))
        for seed, path in start.items()
    ]


def _found(setting: Setting, cells: Sequence[Cells], threads: int) -> list[Size]:
    """Makes the cells that are missing, and measures all."""
    from ehr_tl.transfer.study.cells import read_cells, run_cells
    from ehr_tl.transfer.study.results import sizes_of

    run_cells(setting, cells, threads)
    test, study = setting.test, setting.study
    told = read_cells(setting, cells)
    return sizes_of(told, setting.labels[test], setting.subject[test], study.resamples, study.seed)


def _results(setting: Setting, sizes: Sequence[Size]) -> dict[str, Any]:
    study, draws, export = setting.study, setting.draws, setting.target.export
    told = [size.to_json() for size in sizes]
    return {
        "name": study.name,
        "title": study.title,
        "question": setting.pipeline.question,
        "outcome": setting.pipeline.outcome,
        "target": study.target.events,
        "source": study.source and study.source.events,
        "checkpoint": study.checkpoint and Path(study.checkpoint).name,
        "synthetic": export.synthetic,
        "notice": export.notice,
        "shots": study.shots is not None,
        "seeds": list(study.seeds),
        "repeats": study.repeats,
        "resamples": study.resamples,
        "test": {"subjects": len(draws.test), "events": draws.test_events, "sites": draws.test_sites},
        "sizes": told,
        "seconds": round(sum(size["seconds"] for size in told), 1),
    }


def _write_pages(results: Mapping[str, Any], page: Path, table: Path | None = None) -> None:
    from ehr_tl.report.page import write_study
    from ehr_tl.report.study import markdown

    write_study(page, results)
    if table is not None:
        with whole(table) as temporary:
            temporary.write_text(markdown(results), encoding="utf-8")


def _private(folder: Path) -> None:
    """Makes the folder, for its owner alone: what is in it tells who was drawn."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file", expected="a folder", fix="name another one with --out")
    check_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
