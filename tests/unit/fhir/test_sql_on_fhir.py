"""The SQL-on-FHIR test suite (https://sql-on-fhir.org), as data in EHR_TL_DATA."""

import json
import os
from pathlib import Path

import orjson
import pytest

from ehr_tl.errors import AdapterError
from ehr_tl.fhir.views import Node, compile_reader, compile_view, element, run_view

_FOLDER = Path(os.environ.get("EHR_TL_DATA", ""), "sql_on_fhir", "tests")


def _cases():
    for file in sorted(_FOLDER.glob("*.json")):
        suite = json.loads(file.read_text())
        for number, test in enumerate(suite["tests"]):
            yield pytest.param(suite["resources"], test, id=f"{file.stem}-{number}-{test['title']}")


def _sorted(rows):
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


@pytest.mark.skipif(not _FOLDER.is_dir(), reason="EHR_TL_DATA does not name a folder with sql_on_fhir/tests")
@pytest.mark.parametrize("resources, test", _cases())
def test_official_case(resources, test):
    if test.get("expectError"):
        with pytest.raises(AdapterError):
            run_view(test["view"], resources)
        return
    rows = run_view(test["view"], resources)
    assert _sorted(rows) == _sorted(test["expect"])
    if "expectColumns" in test:
        assert list(compile_view(test["view"]).columns) == test["expectColumns"]


@pytest.mark.skipif(not _FOLDER.is_dir(), reason="EHR_TL_DATA does not name a folder with sql_on_fhir/tests")
@pytest.mark.parametrize("resources, test", _cases())
def test_official_case_through_a_reader(resources, test):
    if test.get("expectError"):
        pytest.skip("no rows are expected")
    view = compile_view(test["view"])
    read = [compile_reader([view]).decode(orjson.dumps(resource)) for resource in resources]
    own = [resource for resource in read if element(resource, "resourceType") == view.resource]
    rows = [dict(zip(view.columns, row)) for resource in own for row in view.rows(resource)]
    assert _sorted(rows) == _sorted(test["expect"])
    levels = '"repeat"' in json.dumps(test["view"])  # of any depth, which a struct cannot hold
    assert all(isinstance(resource, Node) is not levels for resource in own)
