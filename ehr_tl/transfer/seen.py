"""Whom a checkpoint has seen in pretraining, so that nobody is held out to judge a model that learned from them.

`seen.parquet` of a checkpoint holds a fingerprint per subject and nothing else. Who has a hospital's records can tell
which of them were seen, which is its purpose. No patient's number stands in it, but a fingerprint is no secret: who
tries out all numbers, dates of birth and genders finds those that were seen.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from ehr_tl.errors import CheckpointError
from ehr_tl.events import Events
from ehr_tl.files import whole
from ehr_tl.models.folder import COPY_AGAIN, PRETRAINING
from ehr_tl.schema import BIRTH, GENDER

log = logging.getLogger("ehr_tl")

SEEN = "seen.parquet"
_FINGERPRINT = "fingerprint"


def write_seen(folder: Path, sources: Iterable[tuple[Events, np.ndarray]], before: Path | None = None) -> None:
    """Writes `seen.parquet` into a checkpoint folder: a column `fingerprint`, sorted, each once.

    Args:
        folder: The folder of the new checkpoint; it exists.
        sources: Each hospital's events and the ids of the subjects that were learned from, shape (n,).
        before: The folder of the checkpoint that was continued from, whose subjects stay seen.

    Raises:
        CheckpointError: `before` has such a file, and it is broken.
    """
    every = [_read(before)] if before is not None and (before / SEEN).is_file() else []
    every += [fingerprints(events, subjects)[_FINGERPRINT] for events, subjects in sources]
    seen = pl.concat(every) if every else pl.Series(_FINGERPRINT, [], pl.String)
    with whole(folder / SEEN) as temporary:
        seen.unique().sort().to_frame().write_parquet(temporary)


def check_seen(checkpoint: Path) -> None:
    """Whether the `seen.parquet` of a checkpoint, if there is one, can be read.

    Raises:
        CheckpointError: It cannot.
    """
    if (checkpoint / SEEN).is_file():
        _read(checkpoint)


def refuse_seen(checkpoint: Path, events: Events, subjects: np.ndarray) -> None:
    """Looks for subjects of an evaluation among those that a checkpoint has seen.

    Args:
        checkpoint: The folder of the checkpoint. Without `seen.parquet` nothing is refused; where it has
            `pretraining.json`, and so once had that too, a warning says so.
        events: The events folder.
        subjects: Ids of the subjects to evaluate on, shape (n,).

    Raises:
        CheckpointError: It has seen one of them, or its `seen.parquet` is broken.
    """
    if not (checkpoint / SEEN).is_file():
        if (checkpoint / PRETRAINING).is_file():
            log.warning("%s no longer tells whom it was pretrained on: see to it that none is held out", checkpoint)
        return
    asked = fingerprints(events, subjects)
    known = asked[_FINGERPRINT].is_in(_read(checkpoint).to_list())
    if number := int(known.sum()):
        raise CheckpointError(
            f"{checkpoint} was pretrained on {number:,} of the {asked.height:,} subjects with a known outcome: how "
            "well it does on them says nothing of other patients",
            expected="a checkpoint that has seen none of them",
            fix="continue the pretraining with `--exclude RUN/cohort.parquet` (the cohort of this run), or name "
            "another checkpoint",
        )


def fingerprints(events: Events, subjects: np.ndarray) -> pl.DataFrame:
    """Columns `subject_id` and `fingerprint`, a row per subject.

    Birth and gender go in too: the same number in another hospital is another person.
    """
    asked = pl.DataFrame({"subject_id": np.unique(subjects)}, schema={"subject_id": pl.Int64})
    code, time = pl.col("code"), pl.col("time")
    persons = (
        events.scan()
        .filter((code == BIRTH) | (time.is_null() & code.str.starts_with(f"{GENDER}//")))
        .group_by("subject_id")
        .agg(birth=time.filter(code == BIRTH).min(), gender=code.filter(code != BIRTH).min())
    )
    found = asked.lazy().join(persons, on="subject_id", how="left", maintain_order="left").collect()
    return asked.with_columns(pl.Series(_FINGERPRINT, [_digest(*row) for row in found.iter_rows()], pl.String))


def _digest(subject: int, birth: object, gender: str | None) -> str:
    text = f"{subject}|{birth or ''}|{gender or ''}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _read(folder: Path) -> pl.Series:
    try:
        return pl.read_parquet(folder / SEEN, glob=False)[_FINGERPRINT].cast(pl.String)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CheckpointError(f"{folder / SEEN} cannot be read ({type(error).__name__})", fix=COPY_AGAIN) from None
