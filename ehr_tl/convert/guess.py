"""Which adapter an export asks for."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import orjson

from ehr_tl.convert.adapter import Adapter, adapter_names, load_adapter
from ehr_tl.errors import ExportError
from ehr_tl.fhir.export import Export, open_export

#: Resources looked at in each file, and files looked at.
_RESOURCES, _FILES = 50, 40

BASE = "fhir_r4"


def guess_adapter(export: str | Path | Export) -> tuple[str, str]:
    """The adapter, shipped or installed, whose marks (`recognise` of its manifest) the export bears, and why in words.

    Looks at the profiles and code systems of the first resources of each file; without any mark it is `fhir_r4`. Where
    there are tables and no resource, it is the adapter that reads most of them.
    """
    export = export if isinstance(export, Export) else open_export(export)
    adapters = {name: load_adapter(name) for name in adapter_names()}
    marks = {name: adapter.manifest.recognise for name, adapter in adapters.items()}
    found: Counter[str] = Counter()
    seen = 0
    for file in export.files[:_FILES]:
        for read in islice(export.read_file(file), _RESOURCES):
            if read.resource is None:
                continue
            seen += 1
            try:
                text = orjson.dumps(read.resource).decode()
            except TypeError:  # nested more deeply than can be written
                continue
            found.update(name for name, parts in marks.items() if any(part in text for part in parts))
    if not seen and export.tables:
        tables = {name: number for name, adapter in adapters.items() if (number := _tables_read(export, adapter))}
        if tables:
            name = max(tables, key=tables.__getitem__)
            count = f"{tables[name]} of {len(export.tables)} tables looked at"
            return name, f"{count} have the names and columns it asks for"
    if not found:
        return BASE, f"none of {seen} resources looked at names a known source: the base adapter reads any FHIR R4"
    name, count = found.most_common(1)[0]
    return name, f"{count} of {seen} resources looked at bear its marks ({', '.join(marks[name])})"


def _tables_read(export: Export, adapter: Adapter) -> int:
    """How many tables of an export an adapter reads; none if it could not convert it."""
    if not adapter.manifest.tables:
        return 0
    try:
        opened = adapter.opened(export)
    except ExportError:
        return 0
    return len({file.name for file in opened.files})
