"""What came in, what became of it, what was left out and why: the figures of `coverage.html`, which add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ehr_tl.concepts import FEWEST_SUBJECTS, TEXT, parts
from ehr_tl.convert.codes import OUTCOMES
from ehr_tl.convert.emit import SET_ASIDE, UNUSED
from ehr_tl.convert.inventory import UNNAMED
from ehr_tl.events import ExportInfo
from ehr_tl.fhir.export import FAULTS
from ehr_tl.report import charts, words
from ehr_tl.tokens.familiarity import Familiarity

#: Codes that a table of the page names at most; coverage.json names more.
_NAMED = 40

#: Counts of coverage.json that have a table of their own making; what else is there is shown as it stands.
_KNOWN = {"resources", "events", "codes", "concept_maps", "rows", "dates", "unmapped", "ignored_files"}

#: Title of a table that is shown as it stands, and what to know of it.
_TITLES = {
    "units": (
        "Units of measurement",
        "What became of values that were not written in the unit in which their code is read: they were brought to it, "
        "or flagged. A flagged value is kept as it was written and left out of every statistic, unless only its unit "
        "was missing.",
    )
}

_MEANINGS = {**FAULTS, **SET_ASIDE, **UNUSED}

#: What became of a resource, and of a code, in the order of the bars' colours.
_OF_RESOURCES = ("used", "unused", "set_aside")
_OF_CODES = ("kept", "mapped", "unmapped")


def coverage_content(
    coverage: Mapping[str, Any], export: ExportInfo, familiarity: Familiarity | None = None
) -> dict[str, Any]:
    """Everything about coverage that the templates name.

    Args:
        coverage: coverage.json.
        export: What was read.
        familiarity: How much of it the pretrained vocabulary knows.
    """
    resources = _resources(coverage)
    codes = _with_shares(coverage["codes"], _OF_CODES, "system")
    return {
        "export": export,
        "events": coverage["events"],
        "sharing": coverage["patients_sharing_an_identifier"],
        "resources": resources,
        "resources_total": _total(resources, ("read", *_OF_RESOURCES, "rows")),
        "reasons": {which: _reasons(coverage["resources"], which) for which in ("unused", "set_aside", "faults")},
        "codes": codes,
        "codes_total": _total(codes, (*_OF_CODES, "times")),
        "maps": _maps(coverage["concept_maps"]),
        "unmapped": _unmapped(coverage["unmapped"]),
        "fewest": FEWEST_SUBJECTS,
        "others": _others(coverage),
        "dates": _dates(coverage["dates"]),
        "ignored": _ignored(coverage["ignored_files"]),
        "absent": coverage.get("absent_tables", []),
        "familiarity": familiarity,
        "familiar": _familiar(familiarity, coverage),
    }


def _resources(coverage: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per type of resource, the commonest first, with the events that it gave."""
    rows = Counter(coverage["rows"])
    counts = {
        kind: {
            "read": read["read"],
            "used": read["used"],
            "unused": sum(read["unused"].values()),
            "set_aside": sum(read["set_aside"].values()),
            "rows": rows.pop(kind, 0) if kind != UNNAMED else 0,
        }
        for kind, read in coverage["resources"].items()
    }
    found = _with_shares(counts, _OF_RESOURCES, "type")
    for row in found:
        row["name"] = "no resource" if row["type"] == UNNAMED else row["type"]
    if rest := rows.total():  # events that do not say what they come from
        nothing = dict.fromkeys(("read", *_OF_RESOURCES), 0)
        found.append({**nothing, "type": None, "name": "resources without an id", "rows": rest, "shares": [0, 0, 0]})
    return found


def _with_shares(table: Mapping[str, Mapping[str, int]], columns: tuple[str, ...], name: str) -> list[dict[str, Any]]:
    """Rows of counts with their sum (`times`) and each column's percentage of it, largest first."""
    found = []
    for key, counts in table.items():
        times = sum(counts[column] for column in columns)
        shares = [100 * counts[column] / (times or 1) for column in columns]
        found.append({**counts, name: key, "times": times, "shares": shares})
    return sorted(found, key=lambda row: (-row["times"], row[name]))


def _total(rows: Iterable[Mapping[str, Any]], columns: tuple[str, ...]) -> dict[str, int]:
    totals = Counter(dict.fromkeys(columns, 0))
    for row in rows:
        totals.update({column: row[column] for column in columns})
    return dict(totals)


def _reasons(resources: Mapping[str, Any], which: str) -> dict[str, Any]:
    """Why resources were left out: for each reason how many, of which types, and what it means."""
    found: dict[str, Counter[str]] = {}
    for kind, read in resources.items():
        for reason, number in read.get(which, {}).items():
            if number:
                found.setdefault(reason, Counter())[kind] += number
    rows = [
        {
            "name": words.reason(reason),
            "meaning": meaning(reason),
            "n": kinds.total(),
            "kinds": [(kind, number) for kind, number in kinds.most_common() if kind != UNNAMED],
        }
        for reason, kinds in found.items()
    ]
    return {"rows": sorted(rows, key=lambda row: (-row["n"], row["name"])), "n": sum(row["n"] for row in rows)}


def meaning(reason: str) -> str:
    """A reason of coverage.json in a sentence.

    Examples:
        >>> meaning("no_time"), meaning("verification:entered-in-error")
        ('nothing says when it was known', 'its verification says “entered-in-error”')
    """
    column, _, value = reason.partition(":")
    return f"its {column.replace('_', ' ')} says “{value}”" if value else _MEANINGS.get(reason, words.reason(reason))


def _maps(maps: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What concept maps say of a system's codes: how many different ones, and how often these were written."""
    return [
        {
            "system": system,
            "shared": found["many_to_one"],
            "lines": [
                {"counted": said, "all": sum(found[each][key] for each in OUTCOMES)}
                | {each: found[each][key] for each in OUTCOMES}
                for said, key in (("different codes", "codes"), ("times used", "events"))
            ],
        }
        for system, found in maps.items()
    ]


def _unmapped(unmapped: Mapping[str, Any]) -> dict[str, Any]:
    """The commonest unmapped codes, and what is left of all uses in a few rows, so that it adds up."""
    named = [{**code, "system": system} for system, found in unmapped.items() for code in found["common"]]
    named.sort(key=lambda code: (-code["times"], code["code"]))
    shown, further = named[:_NAMED], named[_NAMED:]
    rare, typed = Counter(), Counter()
    for system, found in unmapped.items():
        rest = typed if system == TEXT else rare
        rest["codes"] += found["codes"] - len(found["common"])
        rest["times"] += found["times"] - sum(code["times"] for code in found["common"])
    return {
        "shown": [{**code, "bare": code["code"].partition("//")[2]} for code in shown],
        "further": {"codes": len(further), "times": sum(code["times"] for code in further)},
        "rare": rare,
        "typed": typed,
        "codes": sum(found["codes"] for found in unmapped.values()),
        "times": sum(found["times"] for found in unmapped.values()),
    }


def _others(coverage: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Further tables of counts (name -> what -> number) as they stand, their rarer rows in one."""
    found = []
    for key, table in coverage.items():
        if key not in _KNOWN and table and isinstance(table, dict) and all(map(_is_counts, table.values())):
            counts: Counter[tuple[str, str]] = Counter()
            for name, each in table.items():
                shown = "texts that people typed" if TEXT in name.split("//") else name
                counts.update({(shown, _readable(what)): number for what, number in each.items()})
            rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
            title, lead = _TITLES.get(key, (words.reason(key).capitalize(), ""))
            rest = sum(number for _, number in rows[_NAMED:])
            shown = {"title": title, "lead": lead, "rows": rows[:_NAMED], "rest": rest, "n": counts.total()}
            found.append({"key": key, **shown})
    return found


def _readable(what: str) -> str:
    """A name of one word loses its underscores; in more, such as `10*3/uL -> 10*9/L`, every character counts."""
    return what if " " in what else words.reason(what)


def _is_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(number, int) for number in value.values())


def _dates(dates: Mapping[str, Any]) -> dict[str, Any] | None:
    if not dates["years"]:
        return None
    return {**dates, "dated": sum(dates["years"].values()), "chart": charts.years(dates["years"])}


def _ignored(names: Iterable[str]) -> list[tuple[str, int]]:
    """How many files of each kind; of their names only the ends are told."""
    kinds = Counter(name.lstrip("*") or "other" for name in names)
    return sorted(kinds.items(), key=lambda item: (-item[1], item[0]))


def _familiar(found: Familiarity | None, coverage: Mapping[str, Any]) -> dict[str, Any] | None:
    """The table of what the pretrained vocabulary knows, the same in words, and which codes it lacks."""
    if found is None or found.known is None:
        return None
    columns = tuple(found.events)
    systems = _with_shares(found.systems, columns, "system")
    names = {code["code"]: code["name"] for each in coverage["unmapped"].values() for code in each["common"]}
    missing = [
        {**code, "name": ": ".join(filter(None, map(names.get, parts(code["code"], coverage["codes"]))))}
        for code in found.missing
    ]
    return {
        "systems": systems,
        "total": _total(systems, (*columns, "times")),
        "answer": words.familiar(found),
        "missing": missing,
    }
