"""What is transferred: a checkpoint for each seed, pretrained on the source alone, and what comes of carrying it on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

from ehr_tl.errors import RunError
from ehr_tl.events import Events
from ehr_tl.files import check_place, fingerprint, locked, read_json, remove, write_json
from ehr_tl.models.checkpoint import checkpoint_path, load_own_checkpoint
from ehr_tl.transfer.pretrain import Prepared, prepare, train, write
from ehr_tl.transfer.recipe import BASE, Recipe, load_recipe
from ehr_tl.transfer.seen import refuse_seen
from ehr_tl.transfer.study.config import Study
from ehr_tl.transfer.study.setting import Setting

log = logging.getLogger("ehr_tl")


def transferred(setting: Setting, folder: Path) -> dict[int, Path | None]:
    """The checkpoint of each seed; those that are missing are pretrained now.

    Args:
        setting: The study.
        folder: Where pretrained ones lie, `KEY/seed_<n>` each; several studies of one source share them.

    Returns:
        Seed -> checkpoint folder; None where the study transfers nothing.

    Raises:
        CheckpointError: A checkpoint has seen somebody of the target.
        RunError: One lies there that was made from something else, or another process makes the same.
    """
    study, source = setting.study, setting.source
    if study.checkpoint is not None:
        found = dict.fromkeys(study.seeds, checkpoint_path(study.checkpoint))
    elif source is None or setting.pipeline.transformer is None:
        return dict.fromkeys(study.seeds)
    else:
        places = {seed: folder / key(study) / f"seed_{seed}" for seed in study.seeds}
        recipe = load_recipe(study.recipe)
        begin = lambda: prepare([source.events], recipe, None, source.outside)
        found = _made(places, begin, _digest(source.events, recipe, unseen=source.outside))
    for path in set(found.values()):
        refuse_seen(path, setting.target, setting.subject)
    return found


def continued(setting: Setting, start: dict[int, Path | None], folder: Path) -> dict[int, Path | None]:
    """Each seed's checkpoint carried on with the target's labelled subjects, those of the test part left out.

    Each record is read up to that subject's last prediction time, so nothing is learned that was not known then. But it
    has read more people than were drawn: so its arm is compared and takes no part in the blend.

    Raises:
        CheckpointError: One has seen somebody of the test part.
        RunError: One lies there that was made from something else.
    """
    study, target = setting.study, setting.target
    if study.continued is None:
        return dict.fromkeys(start)
    recipe = load_recipe(study.continued)
    tested = pl.col("subject_id").is_in(setting.draws.test)
    until = setting.rows.filter(~tested).select("subject_id", "prediction_time")
    found: dict[int, Path | None] = {}
    for seed, path in start.items():
        if path is None:
            found[seed] = None
            continue
        begin = lambda path=path: prepare([target], recipe, load_own_checkpoint(path), until=until)
        found |= _made({seed: folder / f"seed_{seed}"}, begin, _digest(target, recipe, path, until=until))
        refuse_seen(found[seed], target, setting.draws.test)
    return found


def key(study: Study) -> str:
    """The folder of a study's pretrained checkpoints: it tells the source, whom of it, and another recipe.

    Examples:
        >>> from ehr_tl.transfer.study.config import Population
        >>> key(Study("a", "A", "demo", Population("here"), Population("there")))
        'there'
        >>> unit = Population("there", without=("UNIT//1",))
        >>> key(Study("a", "A", "demo", Population("here"), unit, recipe="my.yaml"))
        'there-ef12844a-my'
    """
    chosen = {"having": study.source.having, "without": study.source.without}
    digest = hashlib.blake2b(json.dumps(chosen).encode(), digest_size=4).hexdigest()
    parts = [study.source.events, digest if any(chosen.values()) else "", Path(study.recipe).stem]
    return "-".join(part for part in parts if part and part != BASE)


def _made(places: dict[int, Path], begin: Callable[[], Prepared], digest: str) -> dict[int, Path]:
    """Trains what is missing; what the seeds have in common is read once, and only where it is needed.

    Beside each checkpoint a file tells the `digest` of what it was made from.
    """
    prepared = cache(begin)
    for seed, place in places.items():
        state, told = (place.with_name(f"{place.name}.{suffix}") for suffix in ("state", "json"))
        if place.is_dir():
            _check_digest(place, told, digest)
            log.info("%s: taken as it is", place)
            continue
        check_place(state)
        with locked(place.parent):
            write_json(told, {"digest": digest})
            write(place, prepared(), train(prepared(), seed, state))
            remove(state)
    return places


def _check_digest(place: Path, told: Path, digest: str) -> None:
    """Whether a checkpoint that is there was made from the same; one of which that is not told is trusted."""
    if told.is_file() and read_json(told).get("digest") != digest:
        raise RunError(
            f"{place} was made from other records, other subjects or another recipe",
            expected="a checkpoint that was made from what the study names",
            fix=f"remove {place}, or have the study write to another folder (--out, --pretrained)",
        )


def _digest(
    events: Events,
    recipe: Recipe,
    start: Path | None = None,
    unseen: np.ndarray | None = None,
    until: pl.DataFrame | None = None,
) -> str:
    """A digest of what a checkpoint is made from, its seed aside."""
    said = {
        "events": fingerprint(events.folder / "data", events.folder / "metadata" / "codes.parquet"),
        "recipe": asdict(recipe),
        "start": start and fingerprint(start),
    }
    if unseen is not None:
        said["unseen"] = hashlib.sha256(np.sort(unseen).tobytes()).hexdigest()
    if until is not None:
        said["until"] = hashlib.sha256(until.write_csv().encode()).hexdigest()
    return hashlib.blake2b(json.dumps(said, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
