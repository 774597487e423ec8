"""Tables of intensive care stays as the adapters beside this file read them, and their way to events.

A stay is a subject: both sets are of stays, without a number that would join those of one person. Dates are invented,
since the sets have none: intensive care begins at `ADMISSION`, everything else is so many hours later (or earlier).

| table | columns |
| --- | --- |
| patients | patient_id, gender, birth_date, death |
| visits | visit_id, patient_id, class, unit, unit_name, start, end, discharged_to |
| observations | patient_id, visit_id, time, code, name, value, unit |
| procedures, conditions | patient_id, visit_id, time, code, name |

Codes are LOINC, of procedures and conditions SNOMED CT. A visit without an end is one of which the end is not told.
"""

from __future__ import annotations

import argparse
import logging
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import polars as pl

from ehr_tl.errors import ExportError
from ehr_tl.files import whole

ADMISSION = datetime(2000, 1, 1)
#: What columns hold that are no text.
KINDS = {"value": pl.Float64}
#: The stay in hospital, and the one in intensive care, as HL7's ActCode has them.
HOSPITAL, INTENSIVE_CARE = "IMP", "ACUTE"

log = logging.getLogger("ehr_tl")

Tables = dict[str, pl.DataFrame]
Measured = dict[str, tuple[str, str, str]]


def later(hours: str | pl.Expr) -> pl.Expr:
    """The time so many hours after the beginning of intensive care, as text; null where the hours are."""
    hours = pl.col(hours) if isinstance(hours, str) else hours
    microseconds = (hours * 3_600_000_000).round().cast(pl.Int64)
    return (pl.lit(ADMISSION) + pl.duration(microseconds=microseconds)).dt.to_string("%Y-%m-%dT%H:%M:%S")


def born(age: str) -> pl.Expr:
    """A date of birth that makes somebody so many whole years old at the beginning of intensive care."""
    return (ADMISSION.year - pl.col(age).floor().cast(pl.Int32)).cast(pl.String) + "-01-01"


def members(path: Path, ending: str) -> Iterator[tuple[str, bytes]]:
    """Name without ending and content of the files so called, in a folder (at any depth) or in a zip file.

    Raises:
        ExportError: There is none.
    """
    found = False
    if path.is_dir():
        for file in sorted(path.rglob(f"*{ending}")):
            found = True
            yield file.stem, file.read_bytes()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(name for name in archive.namelist() if name.endswith(ending)):
                found = True
                yield Path(name).stem, archive.read(name)
    if not found:
        raise ExportError(f"{path} holds no *{ending}", expected="the folder or zip file of the set as it is published")


def visits(stays: pl.DataFrame, hospital: dict[str, pl.Expr], intensive: dict[str, pl.Expr]) -> pl.DataFrame:
    """The stay in hospital and the one in intensive care of each patient.

    Args:
        stays: A row for each, with `patient_id`.
        hospital, intensive: Columns of each kind, as in the table above; those not given are empty.
    """
    empty = dict.fromkeys(("unit", "unit_name", "start", "end", "discharged_to"), pl.lit(None, pl.String))
    kinds = (("-hospital", HOSPITAL, hospital), ("-icu", INTENSIVE_CARE, intensive))
    return pl.concat(
        stays.select(
            "patient_id",
            visit_id=pl.col("patient_id") + ending,
            **{"class": pl.lit(kind)},
            **{name: told.get(name, nothing) for name, nothing in empty.items()},
        )
        for ending, kind, told in kinds
    )


def observations(values: pl.DataFrame, variable: str, hours: str, measured: Measured) -> pl.DataFrame:
    """Values of variables as observations of intensive care, in the order given.

    Args:
        values: Columns `patient_id`, `value`, and those named:
        variable: What was measured.
        hours: When.
        measured: Variable -> its code, name and unit.
    """
    said = pl.DataFrame(
        [(key, *row) for key, row in measured.items()], [variable, "code", "name", "unit"], orient="row"
    )
    return values.join(said, on=variable, maintain_order="left").select(
        "patient_id",
        visit_id=pl.col("patient_id") + "-icu",
        time=later(hours),
        code="code",
        name="name",
        value="value",
        unit="unit",
    )


def write(tables: Tables, folder: Path) -> None:
    """Writes each table as NAME.parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        kinds = [pl.col(column).cast(KINDS.get(column, pl.String)) for column in table.columns]
        with whole(folder / f"{name}.parquet") as path:
            table.select(kinds).write_parquet(path)
        log.info("%s: %s rows", name, f"{table.height:,}")


def main(description: str, adapter: str, read: Callable[[Path], Tables]) -> None:
    """The command line of a script that reads one set."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder or zip file of the set")
    parser.add_argument("--out", required=True, type=Path, help="folder to write the tables to")
    parser.add_argument("--events", type=Path, help="also convert the tables to this events folder")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    started = time.monotonic()
    write(read(options.source), options.out)
    log.info("tables after %.0f s", time.monotonic() - started)
    if options.events:
        from ehr_tl.convert.conversion import convert

        convert(options.out, Path(__file__).parent / "adapters" / adapter, options.events)
        log.info("events after %.0f s", time.monotonic() - started)
