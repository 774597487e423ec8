"""The files of a new adapter, for `ehr-tl adapters new`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from ehr_tl.convert import adapter_names, load_adapter
from ehr_tl.convert.adapter import adapter_folder
from ehr_tl.convert.check import examples, write_example
from ehr_tl.errors import AdapterError
from ehr_tl.files import whole

CASE = "first"

_NAME = re.compile(r"[a-z][a-z0-9_]*")

_MANIFEST = """\
# How the exports of {name} become events. All that is not said here is as in {parent}; a key here goes before the
# same key there, and null takes one away. An unknown key is an error that names it. Below, what has no space after
# its # is a setting to begin with.
name: {name}
title: FHIR R4 of {name}
extends: {extends}

# Of dates, and of times without an offset.
#time_zone: Europe/Berlin

# Code systems of your own, and how events call them. Where codes can be mapped to standard ones, put a FHIR ConceptMap
# into concept_maps/: a mapped event carries the target, and your code in source_code.
#local_systems:
#  {system}: LAB

# A rule for each view: when its rows are known, and what makes them no event. A file views/<name>.json, a SQL-on-FHIR
# ViewDefinition, replaces the view of that name, or adds one that a rule here can use.
#events:
#  procedure: null  # leaves procedures out
#  observation:
#    exclude: {{status: [registered, preliminary, cancelled, entered-in-error]}}

# Marks by which an export is known as yours: parts of its profiles or code systems.
#recognise: [{name}.example/fhir]
"""

_README = """\
# {name}: what it reads

Say here which system writes the exports, in which version and with which profiles; what this adapter reads otherwise
than `{parent}`, and why; and what it leaves out.

| file | holds |
| --- | --- |
| `adapter.yaml` | what differs from `{parent}` |
| `views/*.json` | SQL-on-FHIR ViewDefinitions that replace or add to those of `{parent}` |
| `concept_maps/*.json` | FHIR R4 ConceptMaps, from your codes to standard ones |
| `code_systems/*.json` | FHIR R4 CodeSystems and ValueSets: what lies above your codes, and what they mean |
| `examples/<case>/in` | an export with an invented patient; never a real one |
| `examples/<case>/out` | what it must become |

```sh
ehr-tl adapters check {folder}               # does every example give its `out`?
ehr-tl adapters check {folder} --write       # write `out` anew after a change that was meant; read what changed
ehr-tl adapters check {folder} /data/fhir    # what of an export is left out
```
"""


_TABLES = """\
# How the tables of {name} become events. All that is not said here is as in {parent}; a key here goes before
# the same key there, and null takes one away. An unknown key, or a column that a file does not have, is an error that
# names it.
name: {name}
title: Tables of {name}
extends: {extends}

# Of dates and times, which are written without one.
#time_zone: Europe/Berlin

# Code systems of your own, and how events call them. Where codes can be mapped to standard ones, put a FHIR ConceptMap
# into concept_maps/: a mapped event carries the target, and your code in source_code.
#local_systems:
#  {system}: LAB

# What follows is what {parent} says of tables. Change the names of files and columns to yours. What you leave as it
# is, or delete, stays as it is there; null takes a table or an element away. examples/first/in holds such tables of
# invented patients: change them likewise.
#
{tables}"""


def new_adapter(name: str, parent: str, folder: Path) -> None:
    """Writes an adapter that extends another and differs from it in nothing, with an example made by running it.

    Args:
        name: Its name.
        parent: Name or folder of the adapter that it extends.
        folder: Where it goes; nothing may be there.

    Raises:
        AdapterError: The name will not do, the other adapter is wrong, or `folder` is there.
    """
    if not _NAME.fullmatch(name):
        raise AdapterError(
            f"{name!r} is no name for an adapter",
            expected="small letters, digits and _, first a letter, such as my_hospital",
            fix="choose another name; where the folder goes is said with --out",
        )
    known = adapter_names()
    if name in known:
        raise AdapterError(f"There is an adapter {name} already", fix=f"choose another name than {', '.join(known)}")
    if folder.exists() or folder.is_symlink():
        raise AdapterError(f"{folder} is there already", fix="name another folder with --out")
    extends = parent if parent in known else json.dumps(str(adapter_folder(parent).resolve()))
    system = f"urn:{name}:laboratory"
    words = {"name": name, "parent": parent, "extends": extends, "system": system, "folder": folder}
    with whole(folder) as temporary:
        for below in ("views", "concept_maps", f"examples/{CASE}/in"):
            (temporary / below).mkdir(parents=True)
        tables = _tables_of(parent)
        manifest = _TABLES.format(**words, tables=tables) if tables else _MANIFEST.format(**words)
        (temporary / "adapter.yaml").write_text(manifest, encoding="utf-8")
        (temporary / "README.md").write_text(_README.format(**words), encoding="utf-8")
        given = examples(adapter_folder(parent))
        if tables and given:
            shutil.copytree(given[0] / "in", temporary / "examples" / CASE / "in", dirs_exist_ok=True)
        else:
            _write_resources(temporary / "examples" / CASE / "in", system)
        write_example(temporary / "examples" / CASE)


def _tables_of(parent: str) -> str:
    """What the manifest of an adapter, or of one that it extends, says of tables, with its comments."""
    folder = adapter_folder(parent)
    text = (folder / "adapter.yaml").read_text(encoding="utf-8")
    found = re.search(r"(^#.*\n)*^tables:.*\n(?:(?: .*)?\n)*", text, re.MULTILINE)
    if found:
        return found[0].rstrip() + "\n"
    extends = load_adapter(parent).manifest.extends
    return _tables_of(extends) if extends else ""


def _write_resources(folder: Path, system: str) -> None:
    for resource in _invented(system):
        file = folder / f"{resource['resourceType']}.ndjson"
        file.write_text(json.dumps(resource) + "\n", encoding="utf-8")


def _invented(system: str) -> list[dict[str, Any]]:
    """A patient whom nobody knows, a visit, a diagnosis, and a measurement with a code of the hospital's own."""
    patient, visit = {"reference": "Patient/invented"}, {"reference": "Encounter/visit"}
    return [
        {"resourceType": "Patient", "id": "invented", "gender": "female", "birthDate": "1950-02-01"},
        {
            "resourceType": "Encounter",
            "id": "visit",
            "status": "finished",
            "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
            "subject": patient,
            "period": {"start": "2020-03-01T08:00:00Z", "end": "2020-03-04T12:00:00Z"},
        },
        {
            "resourceType": "Condition",
            "id": "diagnosis",
            "code": {"coding": [{"system": "http://snomed.info/sct", "code": "44054006", "display": "Diabetes"}]},
            "subject": patient,
            "encounter": visit,
            "recordedDate": "2020-03-01T09:30:00Z",
        },
        {
            "resourceType": "Observation",
            "id": "measurement",
            "status": "final",
            "code": {"coding": [{"system": system, "code": "GLU", "display": "Glucose"}]},
            "subject": patient,
            "encounter": visit,
            "effectiveDateTime": "2020-03-01T10:00:00Z",
            "valueQuantity": {"value": 182, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"},
        },
    ]
