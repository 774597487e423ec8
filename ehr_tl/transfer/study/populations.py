"""Who of an events folder belongs to the source, and who to the target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from ehr_tl.errors import CohortError, PipelineError
from ehr_tl.events import Events
from ehr_tl.transfer.study.config import Population, Study


def bind(study: Study, folders: Mapping[str, str | Path]) -> dict[str, Events]:
    """Opens the events folders that a study names.

    Args:
        study: The study.
        folders: Name -> folder.

    Raises:
        PipelineError: A name has no folder, or a folder's name is none of the study's.
        RunError: A folder holds no finished events.
    """
    named = {part.events for part in (study.target, study.source) if part is not None}
    for name in sorted(named ^ folders.keys()):
        missing = name in named
        raise PipelineError(
            f"The study {study.name} needs the events {name!r}" if missing else f"No events are called {name!r} there",
            expected=", ".join(f"--events {each}=FOLDER" for each in sorted(named)),
        )
    return {name: Events(folder) for name, folder in folders.items()}


def members(population: Population, events: Events) -> np.ndarray:
    """Ids of a population's subjects, sorted, shape (n,).

    Raises:
        CohortError: There is nobody, or nobody has one of the codes.
    """
    found = events.subjects.select("subject_id")
    named = [*population.having, *population.without]
    there = events.scan().filter(pl.col("code").is_in(named)).select("code").unique().collect()["code"].to_list()
    if unknown := [code for code in named if code not in there]:
        raise CohortError(
            f"Nobody of {events.folder.name} has an event of the code {unknown[0]!r}, by which the study chooses",
            expected="codes as they stand in the events (metadata/codes.parquet)",
        )
    for codes, how in ((population.having, "semi"), (population.without, "anti")):
        if codes:
            those = events.scan().filter(pl.col("code").is_in(codes)).select("subject_id").unique().collect()
            found = found.join(those, on="subject_id", how=how)
    if found.is_empty():
        raise CohortError(
            f"Nobody of {events.folder.name} is left with `having` {list(population.having)} and `without` "
            f"{list(population.without)}",
            expected="codes as they stand in the events (metadata/codes.parquet)",
        )
    return found["subject_id"].sort().to_numpy()
