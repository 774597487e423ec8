"""Pretraining: from whole hospitals to a checkpoint folder.

A network learns without labels what tends to follow what (`objectives`), and beside that to answer the questions that
the sources' own records answer (`tasks`); for the same questions boosted trees are fitted (`source_models`). Codes are
at times hidden from the network's own table, so that it learns to read them by their relatives and words, as it must
with a hospital's local codes.
"""

from __future__ import annotations

import hashlib
import logging
import shlex
import time
from collections.abc import Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from ehr_tl import schema
from ehr_tl.errors import RunError
from ehr_tl.events import Events
from ehr_tl.files import check_place, remove, whole, write_json
from ehr_tl.models import training
from ehr_tl.models.checkpoint import (
    CARD,
    SOURCE,
    VOCABULARY,
    Checkpoint,
    checkpoint_path,
    load_own_checkpoint,
    round_to_half,
    save_model,
)
from ehr_tl.models.folder import CONFIG, PRETRAINING
from ehr_tl.models.network import EhrConfig, EhrModel, extended
from ehr_tl.models.source import SourceModels
from ehr_tl.tokens.vocabulary import Vocabulary
from ehr_tl.transfer.card import card_text
from ehr_tl.transfer.examination import HEAD, TREES, examine
from ehr_tl.transfer.foresight import Foresight, Hospital, read_hospital
from ehr_tl.transfer.held_out import PARTS, TEST, TRAIN, VALIDATION, parts
from ehr_tl.transfer.loop import Loop, Progress, require_tensorboard
from ehr_tl.transfer.recipe import BASE, CONTINUED, NetworkConfig, Recipe, load_recipe
from ehr_tl.transfer.seen import write_seen
from ehr_tl.transfer.source_models import fit_source_models
from ehr_tl.transfer.sources import Source, labels_of
from ehr_tl.transfer.tasks import SourceTask, label_tasks
from ehr_tl.transfer.validation import validate

log = logging.getLogger("ehr_tl")


@dataclass(frozen=True)
class Prepared:
    """What can be known before a weight is learned; the same for every seed.

    Attributes:
        events: The sources.
        recipe: How the checkpoint is made.
        start: The checkpoint that is continued from; None: from nothing.
        tasks: The sources' own questions, labelled; none where pretraining is continued or records are cut.
        vocabulary: Codes and values of those who train.
        network: The architecture.
        sources: The sources as the loop reads them.
        seconds: How long that took.
    """

    events: tuple[Events, ...]
    recipe: Recipe
    start: Checkpoint | None
    tasks: tuple[SourceTask, ...]
    vocabulary: Vocabulary
    network: EhrConfig
    sources: tuple[Source, ...]
    seconds: float

    @cached_property
    def source_models(self) -> SourceModels | None:
        """Trees for the sources' questions, fitted once; where pretraining is continued, the checkpoint's own."""
        if self.start is not None:
            return self.start.source
        return fit_source_models(self.events, self.tasks, seed=0) if self.tasks else None

    def fingerprint(self) -> str:
        """A hash of what it starts from and of all that it learns from: another training's state is of no use to it."""
        digest = hashlib.blake2b(digest_size=16)
        if self.start is not None:
            for tensor in self.start.model.state_dict().values():
                digest.update(tensor.numpy().tobytes())
        for source in self.sources:
            hospital, labels = source.hospital, source.labels
            records, encoding = hospital.records, source.encoding
            digest.update(repr((records.slot_hours, hospital.opens, hospital.follows)).encode())
            for array in (
                *(records.subjects, records.birth, records.gender, records.time, records.code),
                *(hospital.death, hospital.closes),
                *vars(encoding).values(),
                *(labels.rows["subject_id"].to_numpy(), labels.rows["prediction_time"].to_numpy(), labels.values),
                *source.members.values(),
            ):
                digest.update(repr(array.shape).encode() + array.tobytes())
        return digest.hexdigest()

    def subjects(self, *chosen: str) -> list[tuple[Events, np.ndarray]]:
        """Each source with the ids of its subjects in some parts."""
        return [
            (events, source.hospital.records.subjects[np.concatenate([source.members[part] for part in chosen])])
            for events, source in zip(self.events, self.sources)
        ]


@dataclass(frozen=True)
class Pretrained:
    """A network that was trained.

    Attributes:
        model: It, in evaluation mode, rounded to half precision.
        progress: How it went.
        seed: What fixed everything random.
        main: Whether this process is the one that writes; false in all others that `accelerate launch` has started.
    """

    model: EhrModel
    progress: Progress
    seed: int
    main: bool


def make_checkpoint(
    events: Many[Events],
    recipe: Recipe,
    out: Path,
    *,
    start: Checkpoint | None = None,
    exclude: np.ndarray | None = None,
    seed: int = 0,
    tensorboard: Path | None = None,
    command: str = "",
) -> Path:
    """Makes a checkpoint; one that was interrupted goes on from its last state, in `OUT.state`.

    Args:
        events: Events folders, each a hospital of its own.
        recipe: How.
        out: The checkpoint folder to write; it appears whole or not at all.
        start: A checkpoint to continue from; its network, source tasks and source models are kept.
        exclude: Ids of subjects who are to stay unseen, in every source.
        seed: Fixes everything random.
        tensorboard: Folder for TensorBoard's logs.
        command: What makes it anew, for its card; "": no command does.

    Returns:
        `out`.

    Raises:
        RunError: A source's export has no end, nobody is left to learn from, or another process makes the same.
        CohortError: No source can label a task that its adapter should.
    """
    place = out.absolute()
    state = place.with_name(place.name + ".state")
    check_place(state)
    if tensorboard is not None:
        require_tensorboard()
    prepared = prepare(events, recipe, start, exclude)
    trained = train(prepared, seed, state, tensorboard)
    if trained.main:
        write(place, prepared, trained, command)
        remove(state)
    return out


def prepare(
    events: Many[Events],
    recipe: Recipe,
    start: Checkpoint | None = None,
    exclude: np.ndarray | None = None,
    until: pl.DataFrame | None = None,
) -> Prepared:
    """Reads and labels the sources, and fits the vocabulary on those who train; see `make_checkpoint`.

    With `until`, only its subjects are read, each up to their last prediction time (`foresight.read_hospital`), and the
    sources' questions, whose labels may come later, are not asked.
    """
    began = time.monotonic()
    slot_hours = start.model.config.slot_hours if start else recipe.network.slot_hours
    _check_excluded(events, exclude)
    hospitals = [read_hospital(each, slot_hours, exclude, until) for each in events]
    members = [_members(each, start is not None) for each in hospitals]
    if not any(len(each[TRAIN]) for each in members):
        raise RunError("Nobody is left to learn from", expected="subjects that are not excluded")
    tasks = [] if start or until is not None else label_tasks(events, recipe.tasks, exclude)
    vocabulary = _vocabulary(hospitals, [each[TRAIN] for each in members], recipe, start)
    network = _network(hospitals, vocabulary, tasks, recipe, start)
    outcomes, horizons = network.outcomes, network.horizons_days
    sources = tuple(
        Source(
            hospital,
            vocabulary.encode(hospital.records),
            Foresight(hospital, outcomes, horizons) if hospital.follows and outcomes else None,
            labels_of(tasks, number),
            members[number],
        )
        for number, hospital in enumerate(hospitals)
    )
    return Prepared(tuple(events), recipe, start, tuple(tasks), vocabulary, network, sources, time.monotonic() - began)


def train(prepared: Prepared, seed: int, state: Path, tensorboard: Path | None = None) -> Pretrained:
    """Trains the network; goes on where an interrupted training left its state in the folder `state`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.hash_seed(seed))
        start = prepared.start
        model = extended(start.model, prepared.vocabulary) if start else EhrModel(prepared.network)
    if not start:
        _set_base_rates(model, prepared, seed)
    loop = Loop(model, prepared.sources, prepared.recipe.training, seed, state, tensorboard, prepared.fingerprint())
    progress = loop.run()
    round_to_half(model)
    return Pretrained(model.eval(), progress, seed, loop.main)


def write(out: Path, prepared: Prepared, trained: Pretrained, command: str = "") -> None:
    """Fits source models, examines all on those who validate, and writes the checkpoint folder, whole or not at all."""
    timings = {"reading and labelling": prepared.seconds, "training": trained.progress.seconds}
    before = prepared.start.path if prepared.start else None
    with whole(out) as temporary:
        temporary.mkdir(parents=True)
        save_model(trained.model, temporary)
        prepared.vocabulary.save(temporary / VOCABULARY)
        with _timed(timings, "source models"):
            models = prepared.source_models
        if models is not None:
            models.save(temporary / SOURCE)
        with _timed(timings, "examination"):
            found = examined(Checkpoint(trained.model, prepared.vocabulary, "", temporary), prepared, VALIDATION)
        if models is not None and prepared.start is None:
            models.mixed(found["tasks"]).save(temporary / SOURCE)
        made = {
            "command": command,
            "licence": prepared.recipe.licence,
            "settings": _settings(prepared, trained),
            "timings": timings,
            "slots": trained.progress.slots,
            "history": trained.progress.history,
        }
        write_json(temporary / PRETRAINING, made)
        write_seen(temporary, prepared.subjects(TRAIN, VALIDATION), before)
        card = card_text(out.name, trained.model, prepared.vocabulary, prepared.events, made, found, prepared.start)
        (temporary / CARD).write_text(card, encoding="utf-8")


def examined(checkpoint: Checkpoint, prepared: Prepared, part: str) -> dict[str, Any]:
    """How a checkpoint does on a part of the sources' subjects (`examination.examine`)."""
    scorers = {}
    if checkpoint.source is not None:
        scorers[TREES] = checkpoint.source.answer
    if checkpoint.model.config.tasks:
        scorers[HEAD] = checkpoint.answer
    losses = validate(checkpoint.model, prepared.sources, prepared.recipe.training, 0, part)
    losses = {name: value for name, value in losses.items() if not name.startswith("auroc")}
    return examine(prepared.events, prepared.tasks, part, scorers, losses)


def _check_excluded(events: Many[Events], exclude: np.ndarray | None) -> None:
    if exclude is None or not len(exclude):
        return
    if not any(np.isin(each.subjects["subject_id"].to_numpy(), exclude).any() for each in events):
        raise RunError(
            f"None of the {len(exclude):,} subjects to exclude is in the events",
            expected="ids (subject_id) of the same events folder",
            fix="take the cohort of a run on these events, or leave --exclude out",
        )


def _members(hospital: Hospital, continued: bool) -> dict[str, np.ndarray]:
    """Positions of the subjects of each part. Where pretraining is continued, nobody is set aside for a last test."""
    part = parts(hospital.records.subjects)
    if continued:
        part = np.where(part == TEST, TRAIN, part)
    return {name: np.flatnonzero(part == name) for name in PARTS}


def _vocabulary(
    hospitals: list[Hospital], members: list[np.ndarray], recipe: Recipe, start: Checkpoint | None
) -> Vocabulary:
    records, least = [each.records for each in hospitals], recipe.training.min_subjects
    if start is None:
        return Vocabulary.fit(records, least, recipe.network.buckets, members)
    return start.vocabulary.extend(records, members, least)


def _network(
    hospitals: list[Hospital],
    vocabulary: Vocabulary,
    tasks: list[SourceTask],
    recipe: Recipe,
    start: Checkpoint | None,
) -> EhrConfig:
    if start is not None:
        return start.model.config.fitted(vocabulary)
    outcomes = _outcomes(hospitals, vocabulary)
    heads = {
        "outcomes": outcomes,
        "horizons_days": list(recipe.training.horizons_days) if outcomes else None,
        "tasks": [task.name for task in tasks] or None,
    }
    return EhrConfig(**_architecture(recipe.network), **heads).fitted(vocabulary)


def _architecture(network: NetworkConfig) -> dict[str, Any]:
    return {
        "hidden_size": network.width,
        "num_hidden_layers": network.layers,
        "num_attention_heads": network.heads,
        "num_key_value_heads": network.heads,
        "intermediate_size": network.feed_forward,
        "buckets": network.buckets,
        "slot_hours": network.slot_hours,
        "max_slots": network.max_slots,
        "time_unit_hours": network.time_unit_hours,
        "rope_parameters": {"rope_type": "default", "rope_theta": network.rope_theta},
    }


def _outcomes(hospitals: list[Hospital], vocabulary: Vocabulary) -> list[str] | None:
    """Death, and the known codes that occur where people are followed; None where nobody is."""
    followed = [each.records for each in hospitals if each.follows]
    if not followed:
        return None
    names = {name for records in followed for line in zip(records.codes, records.above) for name in (line[0], *line[1])}
    unforetold = (schema.AGE, schema.GENDER + "//")
    return [schema.DEATH, *(code for code in vocabulary.codes if code in names and not code.startswith(unforetold))]


@torch.no_grad()
def _set_base_rates(model: EhrModel, prepared: Prepared, seed: int) -> None:
    """Lets training begin where every outcome, and every answer, is as likely as it is on average."""
    rng = np.random.default_rng(seed)
    following, closed_rows = 0.0, 0.0
    answers = [np.zeros((0, len(prepared.tasks)), dtype=np.float32)]
    for source in prepared.sources:
        drawn = source.draw(TRAIN, 1, model.config.max_slots, rng)
        answers.append(drawn.labels)
        if source.foresight is not None:
            target, closed = source.foresight.targets(drawn.reading.asked, np.arange(len(drawn.reading.asked)))
            following = following + (target * closed[:, None]).sum(axis=0)
            closed_rows = closed_rows + closed.sum(axis=0)
    if model.config.outcomes:
        model.foretell.weight.zero_()
        rate = torch.from_numpy(np.asarray((following + 0.5) / (closed_rows + 1.0)))
        model.foretell.bias.copy_(torch.logit(rate).flatten())
    if model.config.tasks:
        labels = np.concatenate(answers)
        rate = (np.nansum(labels, axis=0) + 0.5) / ((~np.isnan(labels)).sum(axis=0) + 1.0)
        model.tasks.weight.zero_()
        model.tasks.bias.copy_(torch.logit(torch.from_numpy(rate)))


def _command(folders: Many[str | Path], seed: int, **options: str | Path | None) -> str:
    """What makes it anew; files and folders by their names alone, since a path may be that of somebody's home."""
    words = ["ehr-tl", "pretrain", *map(_name, folders)]
    for option, value in options.items():
        words += [f"--{option}", _name(value)] if value is not None else []
    return shlex.join([*words, "--seed", str(seed)])


def _name(path: str | Path) -> str:
    return Path(path).absolute().name


def _settings(prepared: Prepared, trained: Pretrained) -> dict[str, Any]:
    """How it was made, as its card tells."""
    settings: dict[str, Any] = {"recipe": prepared.recipe.name, "seed": trained.seed}
    if prepared.start is not None:
        settings["continued from"] = prepared.start.path.name
    else:
        settings.update(asdict(prepared.recipe.network))
    return {**settings, **asdict(prepared.recipe.training)}


@contextmanager
def _timed(timings: dict[str, float], step: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    timings[step] = time.monotonic() - began


def pretrain(
    folders: Many[str | Path],
    out: str | Path,
    *,
    recipe: str | Path | None = None,
    start: str | Path | None = None,
    exclude: str | Path | None = None,
    seed: int = 0,
    tensorboard: str | Path | None = None,
) -> Path:
    """Makes a checkpoint of whole hospitals' events, or carries one on; what `ehr-tl pretrain` does.

    One that was interrupted goes on from its last state, in `OUT.state`.

    Args:
        folders: Events folders, each a hospital of its own.
        out: The checkpoint folder to write; it appears whole or not at all.
        recipe: A recipe file or the name of a shipped one; default: `recipe.CONTINUED` with `start`, else
            `recipe.BASE`.
        start: The checkpoint to continue from, by name or folder.
        exclude: A Parquet file with a column `subject_id`, such as a run's cohort.parquet: who is to stay unseen.
        seed: Fixes everything random.
        tensorboard: Folder for TensorBoard's logs.

    Returns:
        `out`.

    Raises:
        RunError: A folder holds no events, is named twice or has no end, or nobody is left to learn from.
        CheckpointError: `start` is no checkpoint of this package.
        PipelineError: The recipe is wrong.
        CohortError: No source can label a task that its adapter should.
    """
    out = Path(out)
    _check_out(out, start)
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise RunError(
            "An events folder is named twice: its patients would count as others",
            expected="each hospital once",
        )
    begin = load_own_checkpoint(start) if start is not None else None
    recipe = recipe or (CONTINUED if start is not None else BASE)
    return make_checkpoint(
        [Events(folder) for folder in folders],
        load_recipe(recipe),
        out,
        start=begin,
        exclude=_subjects(Path(exclude)) if exclude is not None else None,
        seed=seed,
        tensorboard=Path(tensorboard) if tensorboard is not None else None,
        command=_command(folders, seed, **{"from": start}, exclude=exclude, recipe=recipe, out=out),
    )


def _check_out(out: Path, start: str | Path | None) -> None:
    if start is not None and checkpoint_path(start).resolve() == out.resolve():
        raise RunError(f"{out} is the checkpoint to continue from", expected="another folder", fix="change --out")
    earlier = all((out / name).is_file() for name in (CONFIG, VOCABULARY, CARD))
    if out.exists() and not earlier and (not out.is_dir() or any(out.iterdir())):
        raise RunError(
            f"{out} holds something else",
            expected="a new or empty folder, or an earlier checkpoint",
            fix="name another folder with --out",
        )


def _subjects(path: Path) -> np.ndarray:
    """Ids of the subjects in the column `subject_id` of a Parquet file."""
    try:
        return pl.read_parquet(path, glob=False)["subject_id"].cast(pl.Int64).unique().to_numpy()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(
            f"{path} does not tell whom to exclude ({type(error).__name__})",
            expected="a Parquet file with a column subject_id, such as a run's cohort.parquet",
        ) from None
