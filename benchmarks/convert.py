"""What it costs to flatten Observations: our views beside what else reads FHIR, on one file, with the same rows.

    python benchmarks/convert.py Observation.ndjson.zst [--rounds 5]

The columns are those of `adapters/fhir_r4/views/observation.json` that matter (`COLUMNS`). Nothing is timed before all
ways have given the same rows. One thread each, in turn, in one process; the table has the median of the rounds. Rows
are made and dropped, as a converter does; DuckDB gives them as an Arrow table, and also as Python tuples. Peak memory
is that of a process of its own, all its modules included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import orjson
import zstandard
from fhir.resources.R4B.observation import Observation

from ehr_tl.fhir.views import compile_reader, compile_view

Row = tuple[Any, ...]

COLUMNS = (
    "id",
    "patient",
    "encounter",
    "status",
    "issued",
    "effective",
    "part",
    "value",
    "unit",
    "system",
    "code",
    "display",
    "answer_system",
    "answer_code",
)
TIMES = ("issued", "effective")
VIEW = Path(__file__).parent.parent / "adapters" / "fhir_r4" / "views" / "observation.json"
LOINC = "http://loinc.org"
#: A variant that was looked for and not found: the view leaves its components out.
VARIANT, NOT_FOUND = "69548-6", ("LA9634-2", "LA18198-4", "LA11884-6")
SAMPLE = 5_000  # Observations that fhir.resources reads


# --- the ways ---------------------------------------------------------------------------------------------------------


def views() -> Callable[[bytes], list[Row]]:
    def chosen(part: Any) -> Any:
        """The view with no other columns."""
        if isinstance(part, list):
            return [chosen(inner) for inner in part]
        if not isinstance(part, dict):
            return part
        columns = [column for column in part.get("column", []) if column["name"] in COLUMNS]
        return {key: columns if key == "column" else chosen(inner) for key, inner in part.items()}

    view = json.loads(VIEW.read_text(encoding="utf-8"))
    compiled = compile_view(view | {"select": chosen(view["select"])})
    assert compiled.columns == COLUMNS
    decode, rows = compile_reader([compiled]).decode, compiled.rows
    return lambda line: rows(decode(line))


NOTHING: dict[str, Any] = {}


def by_orjson(line: bytes) -> list[Row]:
    observation = orjson.loads(line)
    subject, encounter = observation.get("subject"), observation.get("encounter")
    key, status, issued = observation.get("id"), observation.get("status"), observation.get("issued")
    patient = subject.get("reference") if subject else None
    visit = encounter.get("reference") if encounter else None
    effective = observation.get("effectiveDateTime")
    rows: list[Row] = []
    components = observation.get("component")
    parts = [(0, observation)] if not components or any(name.startswith("value") for name in observation) else []
    if components and not orjson_not_found(observation):
        parts += enumerate(components, start=1)
    for number, part in parts:
        quantity = part.get("valueQuantity") or NOTHING
        value, unit = quantity.get("value"), quantity.get("code")
        answers = (part.get("valueCodeableConcept") or NOTHING).get("coding") or (NOTHING,)
        for coding in (part.get("code") or NOTHING).get("coding") or (NOTHING,):
            system, code, display = coding.get("system"), coding.get("code"), coding.get("display")
            for said in answers:
                by, answer = said.get("system"), said.get("code")
                rows.append(
                    (
                        key,
                        patient,
                        visit,
                        status,
                        issued,
                        effective,
                        number,
                        value,
                        unit,
                        system,
                        code,
                        display,
                        by,
                        answer,
                    )
                )
    return rows


def orjson_not_found(observation: dict[str, Any]) -> bool:
    codings = (observation.get("code") or NOTHING).get("coding") or ()
    answers = (observation.get("valueCodeableConcept") or NOTHING).get("coding") or ()
    return any(each.get("code") == VARIANT and each.get("system") == LOINC for each in codings) and any(
        each.get("code") in NOT_FOUND and each.get("system") == LOINC for each in answers
    )


class Coding(msgspec.Struct, gc=False):
    system: str | None = None
    code: str | None = None
    display: str | None = None


class Concept(msgspec.Struct, gc=False):
    coding: list[Coding] | None = None


class Quantity(msgspec.Struct, gc=False):
    value: float | None = None
    code: str | None = None


class Reference(msgspec.Struct, gc=False):
    reference: str | None = None


class Part(msgspec.Struct, gc=False, rename="camel"):
    code: Concept | None = None
    value_quantity: Quantity | None = None
    value_codeable_concept: Concept | None = None


class Whole(Part, gc=False, rename="camel"):
    id: str | None = None
    subject: Reference | None = None
    encounter: Reference | None = None
    status: str | None = None
    issued: str | None = None
    effective_date_time: str | None = None
    component: list[Part] | None = None


whole = msgspec.json.Decoder(Whole)
NO_CONCEPT, NO_CODING, NO_QUANTITY = Concept(), Coding(), Quantity()


def by_structs(line: bytes) -> list[Row]:
    observation = whole.decode(line)
    subject, encounter = observation.subject, observation.encounter
    key, status, issued = observation.id, observation.status, observation.issued
    patient = subject.reference if subject else None
    visit = encounter.reference if encounter else None
    effective = observation.effective_date_time
    rows: list[Row] = []
    components = observation.component
    valued = observation.value_quantity or observation.value_codeable_concept
    parts: list[tuple[int, Part]] = [(0, observation)] if valued or not components else []
    if components and not structs_not_found(observation):
        parts += enumerate(components, start=1)
    for number, part in parts:
        quantity = part.value_quantity or NO_QUANTITY
        value, unit = quantity.value, quantity.code
        answers = (part.value_codeable_concept or NO_CONCEPT).coding or (NO_CODING,)
        for coding in (part.code or NO_CONCEPT).coding or (NO_CODING,):
            system, code, display = coding.system, coding.code, coding.display
            for said in answers:
                by, answer = said.system, said.code
                rows.append(
                    (
                        key,
                        patient,
                        visit,
                        status,
                        issued,
                        effective,
                        number,
                        value,
                        unit,
                        system,
                        code,
                        display,
                        by,
                        answer,
                    )
                )
    return rows


def structs_not_found(observation: Whole) -> bool:
    codings = (observation.code or NO_CONCEPT).coding or ()
    answers = (observation.value_codeable_concept or NO_CONCEPT).coding or ()
    return any(each.code == VARIANT and each.system == LOINC for each in codings) and any(
        each.code in NOT_FOUND and each.system == LOINC for each in answers
    )


def by_fhir_resources(line: bytes) -> list[Row]:
    observation = Observation.model_validate_json(line)
    subject, encounter = observation.subject, observation.encounter
    first = (
        observation.id,
        subject.reference if subject else None,
        encounter.reference if encounter else None,
        observation.status,
        observation.issued,
        observation.effectiveDateTime,
    )
    rows: list[Row] = []
    components = observation.component
    if not components or observation.valueQuantity or observation.valueCodeableConcept:
        fhir_resources_part(observation, 0, first, rows)
    for number, component in enumerate(components or [], start=1):
        fhir_resources_part(component, number, first, rows)
    return rows


def fhir_resources_part(part: Any, number: int, first: Row, rows: list[Row]) -> None:
    quantity, answer = part.valueQuantity, part.valueCodeableConcept
    head = (*first, number, float(quantity.value) if quantity else None, quantity.code if quantity else None)
    for coding in part.code.coding or [None]:
        named = (coding.system, coding.code, coding.display) if coding else (None, None, None)
        for said in (answer.coding if answer else None) or [None]:
            rows.append((*head, *named, said.system if said else None, said.code if said else None))


CONCEPT = 'STRUCT(coding STRUCT("system" VARCHAR, code VARCHAR, display VARCHAR)[])'
QUANTITY = 'STRUCT("value" DOUBLE, code VARCHAR)'
PART = f"code {CONCEPT}, valueQuantity {QUANTITY}, valueCodeableConcept {CONCEPT}"
TYPED = {
    **dict.fromkeys(["id", "status", "issued", "effectiveDateTime"], "VARCHAR"),
    **dict.fromkeys(["subject", "encounter"], "STRUCT(reference VARCHAR)"),
    **dict.fromkeys(["code", "valueCodeableConcept"], CONCEPT),
    "valueQuantity": QUANTITY,
    "component": f"STRUCT({PART})[]",
}
SQL = f"""
WITH observation AS MATERIALIZED (
  SELECT id, subject.reference AS patient, encounter.reference AS encounter, status, issued,
    effectiveDateTime AS effective, code, valueQuantity AS quantity, valueCodeableConcept AS answer, component
  FROM read_json($file, format = 'newline_delimited', columns = {TYPED})
), part AS (
  SELECT id, patient, encounter, status, issued, effective, 0 AS part, quantity, code.coding, answer.coding AS answers
  FROM observation WHERE component IS NULL OR quantity IS NOT NULL OR answer IS NOT NULL
  UNION ALL
  SELECT id, patient, encounter, status, issued, effective, part, inner_part.valueQuantity, inner_part.code.coding,
    inner_part.valueCodeableConcept.coding
  FROM (
    SELECT *, unnest(component) AS inner_part, generate_subscripts(component, 1) AS part
    FROM observation
    WHERE component IS NOT NULL AND NOT coalesce(
      len(list_filter(code.coding, lambda each: each.system = '{LOINC}' AND each.code = '{VARIANT}')) > 0
      AND len(list_filter(answer.coding, lambda each: each.system = '{LOINC}' AND each.code IN {NOT_FOUND})) > 0, false)
  )
), coded AS (SELECT * EXCLUDE (coding), unnest(coalesce(coding, [NULL])) AS coding FROM part)
SELECT id, patient, encounter, status, issued, effective, part, quantity.value, quantity.code,
  coding.system, coding.code, coding.display, said.system, said.code
FROM (SELECT *, unnest(coalesce(answers, [NULL])) AS said FROM coded)
"""


# --- measuring --------------------------------------------------------------------------------------------------------


def each_line(way: Callable[[bytes], list[Row]], file: Path, limit: int | None = None) -> Iterator[list[Row]]:
    with file.open("rb") as lines:
        yield from map(way, islice(lines, limit))


def same(expected: Iterable[Row], found: Iterable[Row], name: str) -> None:
    """Sees to it that two ways give the same rows, in whatever order."""
    missing, more = Counter(expected), Counter(found)
    assert missing == more, (
        f"{name}: {(missing - more).total()} rows are missing, {(more - missing).total()} are not ours"
    )


def with_times(row: Row) -> Row:
    """A row with times in place of texts, as fhir.resources gives them."""
    named = zip(COLUMNS, row)
    return tuple(datetime.fromisoformat(value) if name in TIMES and value else value for name, value in named)


def flattened(rows: Iterable[list[Row]]) -> list[Row]:
    return [row for found in rows for row in found]


def check(file: Path, database: duckdb.DuckDBPyConnection, ours: Callable[[bytes], list[Row]]) -> int:
    """Compares the rows of all ways; gives their number."""
    expected = flattened(each_line(ours, file))
    same(expected, flattened(each_line(by_orjson, file)), "orjson")
    same(expected, flattened(each_line(by_structs, file)), "structs")
    same(expected, database.execute(SQL, {"file": str(file)}).fetchall(), "DuckDB")
    part = map(with_times, flattened(each_line(ours, file, SAMPLE)))
    same(part, flattened(each_line(by_fhir_resources, file, SAMPLE)), "fhir.resources")
    return len(expected)


def drained(rows: Iterable[list[Row]]) -> int:
    return sum(map(len, rows))


def measure(file: Path, rounds: int) -> None:
    database, ours = duckdb.connect(config={"threads": 1, "preserve_insertion_order": False}), views()
    rows = check(file, database, ours)
    with file.open("rb") as lines:
        observations = sum(1 for _ in lines)
    query = {"file": str(file)}
    part = min(SAMPLE, observations)
    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "ehr_tl views": (lambda: drained(each_line(ours, file)), observations),
        "msgspec structs, by hand": (lambda: drained(each_line(by_structs, file)), observations),
        "DuckDB, typed columns, to Arrow": (lambda: database.sql(SQL, params=query).to_arrow_table(), observations),
        "DuckDB, typed columns, to tuples": (lambda: database.execute(SQL, query).fetchall(), observations),
        "orjson, by hand": (lambda: drained(each_line(by_orjson, file)), observations),
        f"fhir.resources (R4B, first {part:,})": (
            lambda: drained(each_line(by_fhir_resources, file, SAMPLE)),
            part,
        ),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (way, read) in ways.items():
            started = time.process_time()
            way()
            speeds[name].append(read / (time.process_time() - started))
    print(f"{observations:,} Observations, {file.stat().st_size / 2**20:,.0f} MiB, {rows:,} rows, {rounds} rounds\n")
    print("| way | Observations per CPU second | least and most |\n| --- | ---: | ---: |")
    for name, found in speeds.items():
        print(f"| {name} | {statistics.median(found):,.0f} | {min(found):,.0f}-{max(found):,.0f} |")


def measure_memory(file: Path) -> None:
    """Each in a process of its own."""
    print("| our views over the file | peak MiB |\n| --- | ---: |")
    for times, name in {0: "not at all", 1: "once", 10: "ten times"}.items():
        command = [sys.executable, __file__, str(file), "--peak", str(times)]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"| {name} | {float(found):,.1f} |", flush=True)
    print()


def peak(file: Path, times: int) -> float:
    """Peak memory of this process, in MiB, when it has read a file as often as that."""
    way = views()
    for _ in range(times):
        drained(each_line(way, file))
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024  # getrusage would begin with the peak of the process that forked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("observations", type=Path, help="an NDJSON file of Observations, packed with Zstandard or not")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", type=int, metavar="TIMES", help="only read the file TIMES over, and print peak MiB")
    options = parser.parse_args()
    if options.peak is not None:
        print(peak(options.observations, options.peak))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = options.observations
        if file.suffix == ".zst":
            file = Path(folder) / file.stem
            with options.observations.open("rb") as packed, file.open("wb") as plain:
                zstandard.ZstdDecompressor().copy_stream(packed, plain)
        measure_memory(file)
        measure(file, options.rounds)


if __name__ == "__main__":
    main()
