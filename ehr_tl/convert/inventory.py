"""What finished events hold: rows per type of resource, years, and the codes that no map leads to a standard one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import polars as pl

from ehr_tl.concepts import FEWEST_SUBJECTS, OTHER_SYSTEMS, TEXT, parts
from ehr_tl.schema import BIRTH

#: Type of the resource where events do not say which it was.
UNNAMED = "?"

_LONGEST_NAME = 120


def inventory(
    events: pl.LazyFrame,
    codes: Mapping[str, Mapping[str, int]],
    named: Collection[str],
    displays: Mapping[str, str],
) -> dict[str, Any]:
    """Counts finished events, for coverage.json.

    Args:
        events: All of them, `schema.EVENTS`.
        codes: System -> how often its codes were `kept`, `mapped` and `unmapped`.
        named: Systems that are named whoever has their codes: those that adapter and maps know.
        displays: Code -> what the hospital calls it, as `Glossary.displays` gives it.

    Returns:
        `codes`: as given, systems that are not `named` and that fewer than `FEWEST_SUBJECTS` subjects have in one.
        `rows`: type of resource -> events; they add up to all events.
        `dates`: `first` and `last` day, `years` (year -> events), `undated`, `births`; the last three add up to all.
        `unmapped`: system -> `codes` (how many), `times` (how often, as in `codes` above), and `common`: those that at
        least `FEWEST_SUBJECTS` subjects have, most frequent first, each with `code`, `name`, `times` and `subjects`.
        Texts without a code are counted, never named: people typed them.
    """
    places = _unmapped_parts(events, codes)
    rare = codes.keys() - named - _frequent(events, places.filter(~pl.col("system").is_in(list(named))))
    shown = pl.when(pl.col("system").is_in(list(rare))).then(pl.lit(OTHER_SYSTEMS)).otherwise("system")
    return {
        "codes": _together(codes, rare),
        "rows": _rows(events),
        "dates": _dates(events),
        "unmapped": _unmapped(events, places.with_columns(system=shown), displays),
    }


def _together(codes: Mapping[str, Mapping[str, int]], rare: Collection[str]) -> dict[str, dict[str, int]]:
    """The counts of systems, those of all rare ones under one name."""
    found: dict[str, Counter[str]] = {}
    for system, counts in codes.items():
        found.setdefault(OTHER_SYSTEMS if system in rare else system, Counter()).update(counts)
    return {system: dict(found[system]) for system in sorted(found)}


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


def _frequent(events: pl.LazyFrame, places: pl.DataFrame) -> set[str]:
    """Systems that enough subjects have."""
    used = _used(events, places, "system").filter(pl.col("subjects") >= FEWEST_SUBJECTS)
    return set(used["system"])


def _unmapped(events: pl.LazyFrame, places: pl.DataFrame, displays: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    used = (
        _used(events, places, "part")
        .join(places.select("part", "system").unique(), on="part")
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


def _used(events: pl.LazyFrame, places: pl.DataFrame, by: str) -> pl.DataFrame:
    """Each value of a column of `places`, with the number of `times` that events have it, and of `subjects`."""
    if places.is_empty():
        return pl.DataFrame(schema={by: pl.String, "times": pl.UInt32, "subjects": pl.UInt32})
    places = places.with_columns(number=pl.col(by).rank("dense"))  # takes a fraction of the memory that texts take
    return (
        events.select("subject_id", "code", "source_code")
        .join(places.lazy().select("code", "source_code", "number"), on=["code", "source_code"], nulls_equal=True)
        .group_by("number")
        .agg(times=pl.len(), subjects=pl.col("subject_id").n_unique())
        .collect(engine="streaming")
        .join(places.select("number", by).unique(), on="number")
        .select(by, "times", "subjects")
    )


def _unmapped_parts(events: pl.LazyFrame, codes: Mapping[str, Mapping[str, int]]) -> pl.DataFrame:
    """The parts of each code that are of a system with unmapped codes, and were not mapped to it."""
    systems = {name for name, counts in codes.items() if counts["unmapped"]}
    columns = {"code": pl.String, "source_code": pl.String, "system": pl.String, "part": pl.String}
    rows = []
    for code, source in events.select("code", "source_code").unique().collect(engine="streaming").iter_rows():
        written = parts(source or code, codes)
        for part in parts(code, codes):
            system = part.partition("//")[0]
            if system in systems and part in written:
                rows.append((code, source, system, part))
    return pl.DataFrame(rows, schema=columns, orient="row")


def _name(display: str | None) -> str | None:
    name = " ".join(display.split()) if display else ""
    return (name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…") or None
