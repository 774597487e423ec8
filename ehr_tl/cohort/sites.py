"""Which site of a hospital, or which hospital of several, a subject is from."""

from __future__ import annotations

import polars as pl

from ehr_tl.errors import CohortError
from ehr_tl.events import Events

#: The site of those of whom none is on record.
UNKNOWN = "unknown"


def subject_sites(events: Events, prefix: str) -> pl.DataFrame:
    """The site of every subject: the code of its first event that begins with `prefix`, undated events first.

    Args:
        events: The events folder.
        prefix: Beginning of the codes that tell a site, such as `VISIT_TYPE//CARE_UNIT//`.

    Returns:
        Columns `subject_id` and `site`, a row per subject, by subject; the site is `UNKNOWN` where there is no such
        event.

    Raises:
        CohortError: Nobody has such an event.
    """
    found = (
        events.history()
        .filter(pl.col("code").str.starts_with(prefix))
        .select("subject_id", "time", site="code")
        .sort("time", "site", nulls_last=False)
        .group_by("subject_id")
        .agg(pl.col("site").first())
        .collect()
    )
    if found.is_empty():
        raise CohortError(
            f"Nobody has an event whose code begins with {prefix!r}, so nobody's site is known",
            expected="the beginning of codes in the events (metadata/codes.parquet) that tell a site",
            fix="change evaluation.sites in the pipeline, or leave it out: subjects are then held out, not sites",
        )
    everybody = events.subjects.select("subject_id").unique().sort("subject_id")
    joined = everybody.join(found, on="subject_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("site").fill_null(UNKNOWN))
