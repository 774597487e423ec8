"""An export and an adapter to an events folder."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import meds
import polars as pl
import pyarrow.parquet as pq

import ehr_tl
from ehr_tl import schema
from ehr_tl.convert.adapter import Adapter, load_adapter
from ehr_tl.convert.codes import Codes
from ehr_tl.convert.coverage import Coverage
from ehr_tl.convert.emit import SET_ASIDE, Emitter, Event, SetAside
from ehr_tl.convert.index import DRUG, PATIENT, Index
from ehr_tl.convert.inventory import inventory
from ehr_tl.convert.write import Shards
from ehr_tl.errors import ExportError, RunError
from ehr_tl.events import STALE, Events, ExportInfo, scan_events
from ehr_tl.fhir.export import Export, Read, open_export
from ehr_tl.fhir.versions import refuse_other_versions
from ehr_tl.files import whole, write_json
from ehr_tl.progress import bar, log


def convert(export: str | Path | Export, adapter: str | Path | Adapter, out: str | Path) -> Events:
    """From a FHIR export to events: a MEDS 0.4 dataset (https://github.com/Medical-Event-Data-Standard/meds).

    The export is read twice: first what others are joined with (patients, ends of visits, drugs), then everything.
    Memory grows with those, with the number of resource ids, and with one shard of events.

    Args:
        export: A folder, zip or file, or an opened export.
        adapter: Name of a shipped adapter, the folder of one, or a loaded one.
        out: Events folder to write; an older one is replaced, whole or not at all.

    Returns:
        The events folder, opened.

    Raises:
        ExportError: The export cannot be read or holds no patient.
        AdapterError: The adapter is wrong.
        RunError: `out` holds something else than events.
    """
    out = Path(out)
    if out.exists() and not (out / "metadata" / "export.json").is_file() and (out.is_file() or any(out.iterdir())):
        raise RunError(
            f"{out} is there and holds no events; it is not replaced",
            expected="a new or empty folder, or an older events folder",
            fix="name another folder",
        )
    export = export if isinstance(export, Export) else open_export(export)
    adapter = adapter if isinstance(adapter, Adapter) else load_adapter(adapter)
    export.check_outside(out)
    refuse_other_versions(export)
    with whole(out) as folder:
        folder.mkdir(mode=0o700)  # it will hold patients' data
        (folder / "metadata").mkdir()
        _Conversion(export, adapter, folder).run()
    return Events(out)


class _Conversion:
    """One run of `convert`, into a folder that is not there yet for others."""

    def __init__(self, export: Export, adapter: Adapter, folder: Path):
        self.export, self.adapter, self.folder = export, adapter, folder
        self.coverage = Coverage(folder / "quarantine.ndjson")
        self.codes = Codes(adapter)
        self.index = Index.read(export, adapter, self.codes)
        self.shards = Shards(folder, len(self.index.subjects), self.index.vague)
        self.emitters: dict[str, list[Emitter]] = defaultdict(list)
        for name, rule in adapter.manifest.events.items():
            view = adapter.views[name]
            self.emitters[view.resource].append(Emitter(adapter, view, rule, self.index, self.codes))
        self.seen: dict[str, set[int]] = defaultdict(set)

    def run(self) -> None:
        with bar("Events", sum(file.size for file in self.export.files)) as progress:
            for file in self.export.files:
                for read in self.export.read_file(file):
                    self._read(read)
                progress.advance(file.size, file.name)
        self.coverage.reconsider(DRUG, "not_referenced", len(self.index.referenced))
        self.coverage.close()
        if not self.index.subjects:
            raise _no_patients(self.export, self.coverage)
        self.shards.finish()
        self._write_metadata()

    def _read(self, read: Read) -> None:
        """Counts one resource under what became of it; its events are kept if all of it can be believed."""
        if read.resource is None:
            self.coverage.set_aside(read, read.fault or "not_a_resource")
            return
        key = self.index.key(read)
        resource_id = f"{read.type}/{key}" if key else None
        if key:
            read.resource["id"] = key  # where views look for it
            ids, mark = self.seen[read.type], hash(key)
            if mark in ids or self.index.is_outdated(read.type, key, read.resource):
                self.coverage.set_aside(read, "repeated", resource_id)
                return
            ids.add(mark)
        if reason := self._not_read(read.type, key):
            self.coverage.unused(read.type, reason)
            return
        events: list[Event] = []
        self.index.named.clear()
        try:
            reason = self._emit(read, resource_id, events)
        except SetAside as fault:
            self.coverage.set_aside(read, fault.reason, resource_id)
        else:
            if events:
                self.index.referenced |= self.index.named
                self.shards.add(events)
                self.coverage.used(read.type)
            else:
                self.coverage.unused(read.type, reason or "no_rows")

    def _not_read(self, kind: str, key: str | None) -> str | None:
        """Why the views are not asked at all."""
        if kind == DRUG:
            return "not_referenced"
        if kind not in self.emitters:
            return "no_view"
        return "replaced" if kind == PATIENT and key in self.index.replaced else None

    def _emit(self, read: Read, resource_id: str | None, events: list[Event]) -> str | None:
        """Runs every view of the resource's type; the first reason counts if none gives an event.

        A Patient is not set aside for a birth date that cannot be: its death would go with it.
        """
        reason, faults = None, []
        for emitter in self.emitters[read.type]:
            try:
                found = emitter.emit(read.resource, resource_id, events)
            except SetAside as fault:
                if read.type != PATIENT:
                    raise
                found = fault.reason
            if found in SET_ASIDE:
                faults.append(found)
            if reason in (None, "no_rows"):
                reason = found or reason
        if faults and not events:
            raise SetAside(faults[0])
        for fault in faults:
            self.coverage.fault(read.type, fault)
        return reason

    def _write_metadata(self) -> None:
        metadata = self.folder / "metadata"
        manifest = self.adapter.manifest
        pq.write_table(meds.CodeMetadataSchema.align(self.codes.table().to_arrow()), metadata / "codes.parquet")
        self._subjects().write_parquet(metadata / "subjects.parquet")
        codes = self.codes.counts()
        coverage = {
            "resources": self.coverage.to_json(),
            "events": self.shards.events,
            "codes": codes,
            **inventory(scan_events(self.folder), codes, self.codes.displays),
            "ignored_files": list(self.export.ignored),
        }
        write_json(metadata / "coverage.json", coverage)
        write_json(metadata / "dataset.json", self._dataset())
        made, latest = self._end()
        info = ExportInfo(
            adapter=manifest.name,
            synthetic=manifest.synthetic,
            notice=manifest.notice,
            dates_shifted=manifest.dates_shifted,
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
        first, latest, strays = self.shards.span()
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


def _no_patients(export: Export, coverage: Coverage) -> ExportError:
    counts = {name: found["read"] for name, found in coverage.to_json().items()}
    if not counts.keys() - {"?"}:
        return ExportError(
            f"{export.path} holds no FHIR resource: nothing in its files (the first is {export.files[0].name}) is JSON "
            "with a resourceType",
            expected="FHIR R4 as NDJSON or JSON Bundles",
            fix="export as FHIR R4 JSON; files of other formats cannot be read, whatever their name",
        )
    held = ", ".join(f"{number:,} {name}" for name, number in counts.items()) or "nothing"
    return ExportError(
        f"{export.path} holds no Patient (read: {held}; ? is a line that is no resource)",
        expected="Patient resources beside the others",
        fix="export Patient too, and name the folder that holds all files of the export",
    )
