"""An export and an adapter to an events folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import meds
import polars as pl
import pyarrow.parquet as pq

import ehr_tl
from ehr_tl import schema
from ehr_tl.convert.adapter import Adapter, load_adapter
from ehr_tl.convert.codes import Glossary
from ehr_tl.convert.coverage import Coverage
from ehr_tl.convert.engine import Engine, started
from ehr_tl.convert.gather import Compare, Gather, PieceKey, Places, Repeats, settle
from ehr_tl.convert.index import DEVICE, DRUG, PATIENT, Links
from ehr_tl.convert.inventory import inventory
from ehr_tl.convert.part import Convert
from ehr_tl.convert.span import Days, add_days, span
from ehr_tl.convert.terminology import Terminology
from ehr_tl.errors import ExportError, RunError
from ehr_tl.events import STALE, Events, ExportInfo, scan_events
from ehr_tl.fhir.export import Export, masked
from ehr_tl.files import whole, write_json
from ehr_tl.progress import log

_URI = re.compile(r"([A-Za-z][\w+.-]+):/+")


def convert(
    export: str | Path | Export,
    adapter: str | Path | Adapter,
    out: str | Path,
    concept_maps: Sequence[str | Path] = (),
    *,
    engine: Literal["local", "spark"] = "local",
    threads: int | None = None,
    keep_quarantined: bool = False,
) -> Events:
    """From a FHIR export, or tables, to events: a MEDS 0.4 dataset
    (https://github.com/Medical-Event-Data-Standard/meds).

    The export is read twice: first what others are joined with (patients, ends of visits, drugs, devices) and what is
    there more than once, then everything. Memory grows with the former, by eight bytes for every other resource, and
    with one shard of events. The result is the same whatever the engine and the number of threads.

    Args:
        export: A folder, zip or file, or an opened export; with Spark also a URI that Spark can read.
        adapter: Name of a shipped adapter, the folder of one, or a loaded one.
        out: Events folder to write; an older one is replaced, whole or not at all. With Spark all machines share it.
        concept_maps: FHIR R4 ConceptMaps, CodeSystems and ValueSets: files, or folders of them. They go before the
            adapter's own.
        engine: Who does the work: processes of this machine, or Apache Spark (see `ehr_tl.convert.spark`).
        threads: Processes to share the work; None: one for each processor. A small export is read by one. Spark has
            settings of its own.

    Returns:
        The events folder, opened.

    Raises:
        ExportError: The export cannot be read or holds no patient.
        AdapterError: The adapter or a map is wrong.
        RunError: `out` holds something else than events; or Spark is not there, or fails.
    """
    out = _folder(out)
    if out.exists() and not (out / "metadata" / "export.json").is_file() and (out.is_file() or any(out.iterdir())):
        raise RunError(
            f"{out} is there and holds no events; it is not replaced",
            expected="a new or empty folder, or an older events folder",
            fix="name another folder",
        )
    adapter = load_adapter(adapter, concept_maps)
    with started(engine, export, adapter, threads) as running:
        running.export.check_outside(out)
        with whole(out) as folder:
            folder.mkdir(mode=0o700)  # it will hold patients' data
            (folder / "metadata").mkdir()
            _Conversion(running, adapter, folder).run(keep_quarantined)
    return Events(out)


def _folder(out: str | Path) -> Path:
    """A folder, which may be named by a `file:` URI (as Spark takes it: without escapes)."""
    uri = _URI.match(str(out))
    if uri is None:
        return Path(out)
    if uri[1].lower() != "file":
        raise RunError(
            f"Events are written to a folder, and {uri[1]}: is none",
            expected="a folder on disk, with Spark one that all machines share",
            fix="write to such a folder, and copy it when it is whole",
        )
    return Path("/", str(out)[uri.end() :])


class _Conversion:
    """One run of `convert`, into a folder that is not there yet for others."""

    def __init__(self, engine: Engine, adapter: Adapter, folder: Path):
        self.engine, self.export, self.adapter, self.folder = engine, engine.export, adapter, folder
        self.coverage, self.glossary, self.terminology = Coverage(), Glossary(), Terminology()
        self.terminology.add(adapter.terminology)
        self.days: Days = {}
        self.events = 0

    def run(self, keep_quarantined: bool) -> None:
        links, repeated = self._gather()
        task = Convert(self.adapter, links, repeated, keep_quarantined)
        self.index, self.units = task.index, task.units
        named: set[tuple[str, str]] = set()
        with (self.folder / "quarantine.ndjson").open("wb") as quarantine:
            for tally in self.engine.convert("Events", task, self.folder):
                self.events += tally.events
                self.glossary.add(tally.concepts)
                self.terminology.add(tally.terminology)
                self.coverage.add(tally.coverage)
                add_days(self.days, tally.days)
                named |= tally.named
                quarantine.writelines(line + b"\n" for line in tally.coverage.quarantine)
        for kind in (DRUG, DEVICE):
            self.coverage.reconsider(kind, "not_referenced", sum(name == kind for name, _ in named))
        if not self.index.subjects:
            raise _no_patients(self.export, self.coverage, self.adapter)
        self._write_metadata()

    def _gather(self) -> tuple[Links, dict[PieceKey, Places]]:
        """The first pass, and a second look at what is there more than once."""
        links, repeats = Links(), Repeats()
        for found in self.engine.map("Patients, visits, drugs, devices", Gather(self.adapter)):
            links.add(found.links)
            repeats.add(found.piece, found.marks)
        places = repeats.places()
        if not places:
            return links, {}
        compared = self.engine.map("Repeated resources", Compare(self.adapter, places), places.keys())
        return links, settle(compared, links)

    def _write_metadata(self) -> None:
        metadata = self.folder / "metadata"
        manifest = self.adapter.manifest
        table = self.glossary.table(self.terminology).to_arrow()
        pq.write_table(meds.CodeMetadataSchema.align(table), metadata / "codes.parquet")
        self._subjects().write_parquet(metadata / "subjects.parquet")
        maps = self.glossary.concept_maps()
        named = self.adapter.systems | maps.keys()
        if self.export.empty:
            log.warning("Tables that are there and empty: %s", ", ".join(self.export.empty))
        coverage = {
            "resources": self.coverage.to_json(),
            "events": self.events,
            **inventory(scan_events(self.folder), self.glossary.counts(), named, self.glossary.displays()),
            "units": self.units.changes(self.folder / "data"),
            "concept_maps": maps,
            "ignored_files": list(map(masked, self.export.ignored)),
            "patients_sharing_an_identifier": self.index.shared,
            **({"absent_tables": list(self.export.absent)} if self.export.absent else {}),
        }
        write_json(metadata / "coverage.json", coverage)
        write_json(metadata / "dataset.json", self._dataset())
        made, latest = self._end()
        info = ExportInfo(
            adapter=manifest.name,
            synthetic=manifest.synthetic,
            notice=manifest.notice,
            dates_shifted=manifest.dates_shifted,
            slot_hours=manifest.slot_hours,
            transaction_time=made,
            latest_event=latest,
            index_from=self.adapter.index_from(made or latest),
            history_from=self.adapter.history_from(made or latest),
            lasting=manifest.lasting,
            patients=len(set(self.index.subjects.values())),
        )
        write_json(metadata / "export.json", info.to_json())

    def _end(self) -> tuple[datetime | None, datetime | None]:
        """When the export was made, where it says so and its records agree; and the latest event."""
        first, latest, strays = span(self.days, len(self.index.subjects))
        if strays:
            log.warning(
                "%s events lie more than a year after all others: the records are taken to end on %s",
                f"{strays:,}",
                f"{latest:%Y-%m-%d}",
            )
        made = self.export.transaction_time
        if made and latest and not first <= made <= latest + STALE:
            log.warning(
                "The manifest says that the export was made on %s, its records are from %s to %s: these count",
                f"{made:%Y-%m-%d}",
                f"{first:%Y-%m-%d}",
                f"{latest:%Y-%m-%d}",
            )
            made = None
        return made, latest

    def _subjects(self) -> pl.DataFrame:
        pairs = [(number, key) for key, number in self.index.subjects.items() if key not in self.index.replaced]
        return pl.DataFrame(pairs, schema=schema.SUBJECTS, orient="row").sort("subject_id")

    def _dataset(self) -> dict[str, Any]:
        return {
            "dataset_name": self.export.path.name,
            "etl_name": f"ehr_tl/{self.adapter.manifest.name}",
            "etl_version": ehr_tl.__version__,
            "meds_version": meds.__version__,
            "raw_source_id_columns": ["visit_id", "resource_id", "source_code"],
            "code_modifier_columns": ["unit"],
        }


def _no_patients(export: Export, coverage: Coverage, adapter: Adapter) -> ExportError:
    resources = coverage.to_json()
    if adapter.manifest.tables:
        return _no_rows(export, resources, adapter)
    counts = {name: found["read"] for name, found in resources.items()}
    if not counts.keys() - {"?"}:
        return ExportError(
            f"{export.path} holds no FHIR resource: nothing in its files ({len(export.files):,} such as "
            f"{masked(export.files[0].name)}) is JSON with a resourceType",
            expected="FHIR R4 as NDJSON or JSON Bundles, in UTF-8",
            fix="export as FHIR R4 JSON; tables (CSV, Parquet) are read with the adapters omop, meds and spreadsheet, "
            "files of other formats cannot be read, whatever their name",
        )
    held = ", ".join(f"{number:,} {name}" for name, number in counts.items()) or "nothing"
    return ExportError(
        f"{export.path} holds no Patient (read: {held}{'; ? is a line that is no resource' if '?' in counts else ''})",
        expected="Patient resources beside the others",
        fix="export Patient too, and name the folder that holds all files of the export",
    )


def _no_rows(export: Export, resources: dict[str, Any], adapter: Adapter) -> ExportError:
    """Patients are rows here, and the adapter may read them from one of several tables."""
    names = " or ".join(name for name, table in adapter.manifest.tables.items() if table.resource == PATIENT)
    aside = resources.get("?", {}).get("set_aside", {})
    of_all = ", ".join(f"{number:,} {reason}" for reason, number in aside.items())
    return ExportError(
        f"The table {names} of {export.path} has no row that can be read"
        f"{f' (set aside, in all tables: {of_all})' if of_all else ''}",
        expected="a row for each patient, with an id, below the names of the columns",
        fix="see whether the table is whole, and export it anew if it is not",
    )
