"""The events folder: a MEDS 0.4 dataset, and what is known of the export that it came from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from ehr_tl.concepts import Hierarchy
from ehr_tl.errors import RunError
from ehr_tl.files import read_json
from ehr_tl.schema import BIRTH, DEATH

#: Records that ended longer before a date than this say too little of the patients' state on that day.
STALE = timedelta(days=366)


@dataclass(frozen=True)
class ExportInfo:
    """`metadata/export.json`: what later stages must know of the export. Times are naive UTC.

    Attributes:
        adapter: Name of the adapter that read it.
        synthetic: Nobody in it exists; every page made from it says so.
        notice: Attribution or warning that goes onto every page ("" for none).
        dates_shifted: Each patient's dates were moved by an amount of their own: nobody is current.
        slot_hours: How dense its records are, where the adapter says so: the width of a time slot of sequences.
        transaction_time: When the export was made, where it says so.
        latest_event: The latest event (birth and static facts excepted).
        index_from: The adapter's earliest honest prediction time, if it declares one.
        history_from: Before this, how much is on record depends on what came later: no model looks there.
        lasting: Types of resources that models look at whatever their age.
        patients: Number of subjects.
    """

    adapter: str
    synthetic: bool = False
    notice: str = ""
    dates_shifted: bool = False
    slot_hours: float | None = None
    transaction_time: datetime | None = None
    latest_event: datetime | None = None
    index_from: datetime | None = None
    history_from: datetime | None = None
    lasting: tuple[str, ...] = ()
    patients: int = 0

    @property
    def end(self) -> datetime | None:
        """The export's end: `transaction_time`, else the latest event."""
        return self.transaction_time or self.latest_event

    def to_json(self) -> dict[str, Any]:
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ExportInfo:
        times = ("transaction_time", "latest_event", "index_from", "history_from")
        return cls(**{k: datetime.fromisoformat(v) if k in times and v else v for k, v in value.items()})


def scan_events(folder: Path) -> pl.LazyFrame:
    """The events below a folder that need not be finished, lazily; columns as in `schema.EVENTS`."""
    return pl.scan_parquet(sorted((folder / "data").glob("*.parquet")), glob=False)


class Events:
    """An events folder opened for reading; tables are loaded at first use.

    Args:
        folder: The folder that `ehr-tl convert` wrote.

    Raises:
        RunError: The folder is not a complete MEDS dataset.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "metadata" / "export.json").is_file():
            raise RunError(
                f"{self.folder} is not a finished events folder: metadata/export.json is missing",
                expected="a folder that `ehr-tl convert` wrote",
                fix="run `ehr-tl convert EXPORT --adapter NAME --out EVENTS` first",
            )

    def scan(self) -> pl.LazyFrame:
        """All events, lazily; columns and order as in `schema.EVENTS`."""
        return scan_events(self.folder)

    def history(self) -> pl.LazyFrame:
        """The events that models may look at: like `scan`, without those from before `export.history_from`.

        Of what is older only resources of the types in `export.lasting` stay.
        """
        start, lasting = self.export.history_from, list(self.export.lasting)
        if start is None:
            return self.scan()
        kept = pl.col("time").is_null() | (pl.col("time") >= start) | pl.col("code").is_in([BIRTH, DEATH])
        return self.scan().filter(kept | pl.col("resource_id").str.extract(r"^(\w+)/").is_in(lasting))

    @cached_property
    def codes(self) -> pl.DataFrame:
        return pl.read_parquet(self.folder / "metadata" / "codes.parquet", glob=False)

    @cached_property
    def hierarchy(self) -> Hierarchy:
        """Which codes lie above which."""
        pairs = self.codes.select("code", "parent_codes").iter_rows()
        return Hierarchy({code: tuple(parents) for code, parents in pairs if parents})

    @cached_property
    def subjects(self) -> pl.DataFrame:
        return pl.read_parquet(self.folder / "metadata" / "subjects.parquet", glob=False)

    @cached_property
    def coverage(self) -> dict[str, Any]:
        return read_json(self.folder / "metadata" / "coverage.json")

    @cached_property
    def export(self) -> ExportInfo:
        return ExportInfo.from_json(read_json(self.folder / "metadata" / "export.json"))
