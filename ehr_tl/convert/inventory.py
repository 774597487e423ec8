"""What finished events hold: rows per type of resource, years, and the codes that no map leads to a standard one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from ehr_tl.concepts import FEWEST_SUBJECTS, TEXT, parts
from ehr_tl.schema import BIRTH

#: Type of the resource where events do not say which it was.
UNNAMED = "?"

_LONGEST_NAME = 120


def inventory(
    events: pl.LazyFrame, codes: Mapping[str, Mapping[str, int]], displays: Mapping[str, str]
) -> dict[str, Any]:
    """Counts finished events, for coverage.json.

    Args:
        events: All of them, `schema.EVENTS`.
        codes: System -> how often its codes were `kept`, `mapped` and `unmapped`.
        displays: Code -> what the hospital calls it, as `Glossary.displays` gives it.

    Returns:
        `rows`: type of resource -> events; they add up to all events.
        `dates`: `first` and `last` day, `years` (year -> events), `undated`, `births`; the last three add up to all.
        `unmapped`: system -> `codes` (how many), `times` (how often, as in `codes` above), and `common`: those that at
        least `FEWEST_SUBJECTS` subjects have, most frequent first, each with `code`, `name`, `times` and `subjects`.
        Texts without a code are counted, never named: people typed them.
    """
    return {"rows": _rows(events), "dates": _dates(events), "unmapped": _unmapped(events, codes, displays)}


def _rows(events: pl.LazyFrame) -> dict[str, int]:
    kind = pl.col("resource_id").str.extract(r"^(\w+)/").fill_null(UNNAMED)
    return dict(events.group_by(kind=kind).len().sort("kind").collect(engine="streaming").iter_rows())


def _dates(events: pl.LazyFrame) -> dict[str, Any]:
    """Births are apart: they lie long before anything that the hospital recorded."""
    day = pl.when(pl.col("code") != BIRTH).then(pl.col("time").dt.date())
    births = (pl.col("code") == BIRTH) & pl.col("time").is_not_null()
    days = events.group_by(day=day, birth=births).len().collect(engine="streaming")
    known = days.filter(pl.col("day").is_not_null())
    years = known.group_by(year=pl.col("day").dt.year().cast(pl.String)).agg(pl.sum("len")).sort("year")
    of_births = int(days.filter("birth")["len"].sum())
    return {
        "first": None if known.is_empty() else str(known["day"].min()),
        "last": None if known.is_empty() else str(known["day"].max()),
        "years": dict(years.iter_rows()),
        "undated": int(days.filter(pl.col("day").is_null())["len"].sum()) - of_births,
        "births": of_births,
    }


def _unmapped(
    events: pl.LazyFrame, codes: Mapping[str, Mapping[str, int]], displays: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    systems = {name for name, counts in codes.items() if counts["unmapped"]}
    places = _unmapped_parts(events, codes, systems)
    if places.is_empty():
        return {}
    used = (
        events.select("subject_id", "code", "source_code")
        .join(places.lazy().drop("system", "part"), on=["code", "source_code"], nulls_equal=True)
        .group_by("number")  # numbers take a fraction of the memory that texts take
        .agg(times=pl.len(), subjects=pl.col("subject_id").n_unique())
        .collect(engine="streaming")
        .join(places.select("number", "system", "part").unique(), on="number")
        .select("system", "part", "times", "subjects")
        .sort("times", "part", descending=[True, False])
    )
    named = (pl.col("subjects") >= FEWEST_SUBJECTS) & (pl.col("system") != TEXT)
    found = {}
    for (system,), rows in used.partition_by("system", as_dict=True).items():
        common = [
            {"code": part, "name": _name(displays.get(part)), "times": times, "subjects": subjects}
            for _, part, times, subjects in rows.filter(named).iter_rows()
        ]
        found[system] = {"codes": rows.height, "times": int(rows["times"].sum()), "common": common}
    return dict(sorted(found.items()))


def _unmapped_parts(events: pl.LazyFrame, codes: Mapping[str, Any], systems: set[str]) -> pl.DataFrame:
    """The parts of each code that are of a system with unmapped codes, and were not mapped to it; each numbered."""
    columns = {"code": pl.String, "source_code": pl.String, "system": pl.String, "part": pl.String}
    rows = []
    for code, source in events.select("code", "source_code").unique().collect(engine="streaming").iter_rows():
        written = parts(source or code, codes)
        for part in parts(code, codes):
            system = part.partition("//")[0]
            if system in systems and part in written:
                rows.append((code, source, system, part))
    return pl.DataFrame(rows, schema=columns, orient="row").with_columns(number=pl.col("part").rank("dense"))


def _name(display: str | None) -> str | None:
    name = " ".join(display.split()) if display else ""
    return (name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…") or None
