"""A study file: which question, from which source to which target, with how many cases. YAML, read strictly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from ehr_tl.config import (
    Distinct,
    Matching,
    Name,
    Pipeline,
    Said,
    Within,
    build,
    load_pipeline,
    located,
    read_yaml,
    shipped_file,
)
from ehr_tl.errors import PipelineError
from ehr_tl.resources import bundled, checkpoints
from ehr_tl.schema import ARMS
from ehr_tl.transfer.recipe import BASE, load_recipe

#: All cases that there are.
ALL = "all"

All = Annotated[str, Matching(ALL, f"{ALL!r}")]

#: What `--quick` does instead: enough to see where the curves go.
QUICK_CASES, QUICK_REPEATS, QUICK_SEEDS = (16, 64, 256), 3, 1


@dataclass(frozen=True)
class Population:
    """Some subjects of an events folder.

    Attributes:
        events: Name of the folder; which one it is, the command line says (`--events NAME=FOLDER`).
        having: Only subjects with an event of one of these codes. Default: everybody.
        without: Only subjects without any event of these codes.
    """

    events: Name
    having: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """One question, taken from a source to a target.

    Attributes:
        name: Name of its folder.
        title: Heading of its page.
        pipeline: The question and the models' settings: a pipeline file, or the name of a shipped one.
        target: Whose cases are local.
        source: Whom the checkpoint is pretrained on, and whose labelled rows the pooled arms learn from. Default: none.
        checkpoint: What is transferred: a shipped checkpoint or a folder. Default: one pretrained on the source alone
            for each seed; without a source, or where the pipeline does without a network, nothing.
        recipe: How that is done.
        continued: A recipe by which the checkpoint is carried on with the target's labelled subjects up to their
            prediction time, those of the test part left out; the arm `continued` is the probe on that. Default: there
            is no such arm.
        seeds: Of pretraining, in turn from repeat to repeat; where none takes place the first alone counts.
        cases: Numbers of local subjects, or `all`.
        shots: Instead: numbers of subjects of each class, or `all`, as few-shot benchmarks have it.
        repeats: Draws of local cases.
        seed: Fixes the test part, the draws and the fits.
        test_share: Share of the target's labelled subjects who are the test part in all repeats; of whole sites, where
            the pipeline holds these out.
        arms: The models that take part (`schema`). Default: those that the pipeline names, else all that can be had.
        from_scratch: Also compare with the transformer without pretraining, which takes long.
        resamples: Bootstrap resamples behind each interval.
    """

    name: Name
    title: Said
    pipeline: str
    target: Population
    source: Population | None = None
    checkpoint: str | None = None
    recipe: str = BASE
    continued: str | None = None
    seeds: Annotated[tuple[Annotated[int, Within(0, 2**31 - 1)], ...], Distinct()] = (0, 1, 2)
    cases: tuple[Annotated[int, Within(4)] | All, ...] = (16, 32, 64, 128, 256, 512, ALL)
    shots: tuple[Annotated[int, Within(1)] | All, ...] | None = None
    repeats: Annotated[int, Within(1, 1000)] = 10
    seed: Annotated[int, Within(0, 2**31 - 1)] = 0
    test_share: Annotated[float, Within(0.05, 0.95)] = 0.5
    arms: Annotated[tuple[Name, ...], Distinct()] = ()
    from_scratch: bool = False
    resamples: Annotated[int, Within(20, 100_000)] = 1000

    @property
    def sizes(self) -> tuple[int | str, ...]:
        """Numbers of cases, or of shots where these are given, ascending."""
        return self.shots if self.shots is not None else self.cases

    def quick(self) -> Study:
        """The same study in a fraction of the time: few sizes, few repeats, one seed.

        Examples:
            >>> quick = Study("a", "A", "demo", Population("here"), shots=(1, 8, 16, 64, "all")).quick()
            >>> quick.sizes, quick.repeats, quick.seeds
            ((16, 64), 3, (0,))
        """
        few = {"repeats": min(self.repeats, QUICK_REPEATS), "seeds": self.seeds[:QUICK_SEEDS]}
        kept = tuple(size for size in self.sizes if size in QUICK_CASES) or self.sizes[:1]
        return replace(self, **few, **{"cases" if self.shots is None else "shots": kept})

    def question(self) -> Pipeline:
        """The pipeline, with the study's arms where it names some."""
        pipeline = load_pipeline(self.pipeline)
        return replace(pipeline, transfer=replace(pipeline.transfer, arms=self.arms)) if self.arms else pipeline


def load_study(name: str | Path) -> Study:
    """Reads a study file, or a shipped study by name; files and folders that it names become absolute.

    Raises:
        PipelineError: There is no such file, it is no YAML mapping, or a key or value is wrong, be it in the pipeline
            or a recipe that it names.
    """
    path = shipped_file(name, "pipelines/studies", "study")
    said = read_yaml(path, Study)
    study = build(Study, said, str(path), PipelineError)
    if {"cases", "shots"} <= set(said):
        raise PipelineError(f"{path} names cases and shots", expected="one of the two")
    for key, sizes in (("cases", study.cases), ("shots", study.shots)):
        if sizes is not None and (not sizes or list(sizes) != sorted(set(sizes), key=_rank)):
            raise PipelineError(
                f"{path}: {key} is {list(sizes)}", expected=f"one number or more, ascending, {ALL!r} at the end"
            )
    if not study.seeds:
        raise PipelineError(f"{path}: seeds is empty", expected="one seed or more")
    folder = path.parent.absolute()
    named = {key: _beside(getattr(study, key), folder) for key in ("pipeline", "recipe", "continued")}
    study = replace(study, **named, checkpoint=located(study.checkpoint, folder, checkpoints()))
    if study.checkpoint is not None and study.continued is None:
        study = replace(study, seeds=study.seeds[:1])  # of pretraining there is none
    for recipe in (study.recipe, study.continued):
        if recipe is not None:
            load_recipe(recipe)
    _check_question(study, path)
    return study


def _check_question(study: Study, path: Path) -> None:
    """Finds before anything is pretrained, which may take hours, what would be told after it."""
    pipeline = study.question()
    if unknown := [arm for arm in pipeline.transfer.arms if arm not in ARMS]:
        raise PipelineError(f"{path}: there is no arm {unknown[0]!r}", expected=f"some of: {', '.join(ARMS)}")
    if pipeline.transformer is None and (study.checkpoint or study.continued):
        raise PipelineError(
            f"{path}: a checkpoint is to be transferred, and the pipeline {pipeline.name} does without one "
            "(transformer: null)",
            expected="a pipeline with a transformer, or a study without `checkpoint` and `continued`",
        )


def study_names() -> list[str]:
    """Names of the shipped studies."""
    return sorted(path.stem for path in bundled("pipelines/studies").glob("*.yaml"))


def _beside(name: str | None, folder: Path) -> str | None:
    """A file beside the study file by its whole path; the name of something that ships stays."""
    return str(folder / name) if name is not None and (folder / name).is_file() else name


def _rank(size: int | str) -> float:
    return float("inf") if size == ALL else size
