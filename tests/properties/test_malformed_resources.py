"""Whatever stands in place of an element of a resource, the conversion counts it and goes on."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from ehr_tl.convert import convert
from ehr_tl.fhir.export import open_export
from ehr_tl.resources import bundled

JUNK = [
    None,
    "",
    " ",
    "x",
    0,
    -1.5,
    True,
    1e300,
    2**63,
    [],
    ["x"],
    [None],
    {},
    {"x": 1},
    [{"x": 1}, {"x": 2}],
    "2020-13-41",
]
CASES = [("fhir_r4", "ward"), ("mimic_iv", "stay"), ("synthea", "bundle")]


def paths(value: Any, at: tuple = ()) -> Iterator[tuple]:
    """Every place in a resource, the id and type of the resource itself excepted."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if (*at, key) not in (("id",), ("resourceType",)):
            yield (*at, key)
            yield from paths(inner, (*at, key))


def replaced(resource: dict, path: tuple, junk: Any) -> dict:
    changed = copy.deepcopy(resource)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = junk
    return changed


@pytest.mark.parametrize(("adapter", "case"), CASES)
def test_junk_anywhere(tmp_path, adapter, case):
    sound = [read.resource for read in open_export(bundled("adapters") / adapter / "examples" / case / "in").read()]
    changed = [
        {**replaced(resource, path, junk), "id": f"{resource['id']}-{number}-{place}"}
        for resource in sound
        for place, path in enumerate(paths(resource))
        for number, junk in enumerate(JUNK)
    ]
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "all.ndjson").write_text("\n".join(map(json.dumps, sound + changed)))
    events = convert(folder, adapter, tmp_path / "events")
    counts = events.coverage["resources"]
    assert sum(found["read"] for found in counts.values()) == len(sound) + len(changed)
    for found in counts.values():
        assert found["read"] == found["used"] + sum(found["unused"].values()) + sum(found["set_aside"].values())
    frame = events.scan().collect()
    assert frame["code"].null_count() == 0
    assert frame.filter(frame["numeric_value"].is_nan() | frame["numeric_value"].is_infinite()).is_empty()
