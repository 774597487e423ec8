"""Which adapter an export asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import orjson

from ehr_tl.convert.adapter import Adapter, adapter_names, load_adapter
from ehr_tl.errors import ExportError
from ehr_tl.fhir.export import Export, open_export
from ehr_tl.tables.export import tables_named

#: Resources looked at in each file, and files looked at.
_RESOURCES, _FILES = 50, 40

BASE = "fhir_r4"


def guess_adapter(export: str | Path | Export) -> tuple[str, str]:
    """The adapter, shipped or installed, whose marks (`recognise` of its manifest) the export bears, and why in words.

    Looks at the profiles and code systems of the first resources of each file; without any mark it is `fhir_r4`. Where
    there are tables and no resource, it is the adapter that reads most of them.

    Raises:
        ExportError: The export cannot be read; or it is tables that some adapter almost reads: says which, and what is
            amiss.
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
        return _guess_of_tables(export, adapters)
    if not found:
        return BASE, f"none of {seen} resources looked at names a known source: the base adapter reads any FHIR R4"
    name, count = found.most_common(1)[0]
    return name, f"{count} of {seen} resources looked at bear its marks ({', '.join(marks[name])})"


def _guess_of_tables(export: Export, adapters: Mapping[str, Adapter]) -> tuple[str, str]:
    """The adapter that reads most of an export's tables. One that cannot convert it is told with what it lacks."""
    named: Counter[str] = Counter()
    read: Counter[str] = Counter()
    amiss: dict[str, ExportError] = {}
    for name, adapter in adapters.items():
        tables = adapter.manifest.tables
        if tables and (number := tables_named(export, {**adapter.manifest.look_ups, **tables})):
            named[name] = number
            try:
                read[name] = len({file.name for file in adapter.opened(export).files})
            except ExportError as error:
                amiss[name] = error
    of_all = f"of {len(export.tables)} tables"
    if read:
        name, number = read.most_common(1)[0]
        return name, f"{number} {of_all} looked at have the names and columns it asks for"
    if not named:
        return BASE, "no adapter knows tables of these names"
    name, number = named.most_common(1)[0]
    raise ExportError(
        f"{export.path} looks like {name} ({number} {of_all}, by their names), which cannot read it: "
        f"{amiss[name].problem}",
        expected=amiss[name].expected,
        fix=f"mend that and try `--adapter {name}`, or say what your tables are called in an adapter of your own: "
        f"ehr-tl adapters new my_hospital --from {name}",
    )
