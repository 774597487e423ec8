"""Which adapter an export asks for."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import orjson

from ehr_tl.convert.adapter import adapter_names, load_adapter
from ehr_tl.fhir.export import Export, open_export

#: Resources looked at in each file, and files looked at.
_RESOURCES, _FILES = 50, 40

BASE = "fhir_r4"


def guess_adapter(export: str | Path | Export) -> tuple[str, str]:
    """The adapter, shipped or installed, whose marks (`recognise` of its manifest) the export bears, and why in words.

    Looks at the profiles and code systems of the first resources of each file; without any mark it is `fhir_r4`.
    """
    export = export if isinstance(export, Export) else open_export(export)
    marks = {name: load_adapter(name).manifest.recognise for name in adapter_names()}
    found: Counter[str] = Counter()
    seen = 0
    for file in export.files[:_FILES]:
        for read in islice(file.read(), _RESOURCES):
            if read.resource is None:
                continue
            seen += 1
            try:
                text = orjson.dumps(read.resource).decode()
            except TypeError:  # nested more deeply than can be written
                continue
            found.update(name for name, parts in marks.items() if any(part in text for part in parts))
    if not found:
        return BASE, f"none of {seen} resources looked at names a known source: the base adapter reads any FHIR R4"
    name, count = found.most_common(1)[0]
    return name, f"{count} of {seen} resources looked at bear its marks ({', '.join(marks[name])})"
