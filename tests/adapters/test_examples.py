"""Every adapter's examples: `in` is an export, `out` what it must become.

To write `out` anew after a change that was meant: EHR_TL_WRITE_EXAMPLES=1 pytest tests/adapters; then read the diff.
"""

import json
import os
from pathlib import Path

import polars as pl
import pytest

from ehr_tl.convert import adapter_names, convert
from ehr_tl.convert.guess import guess_adapter
from ehr_tl.resources import bundled

CASES = sorted(path.parent for path in bundled("adapters").glob("*/examples/*/in"))


def result(case: Path, folder: Path) -> dict[str, str]:
    """The files of `out`: events with patient ids for numbers, codes, coverage and quarantine."""
    events = convert(case / "in", case.parent.parent, folder / "events")
    rows = events.scan().collect().join(events.subjects, on="subject_id", how="left").drop("subject_id")
    first = ["patient_id", "time", "code", "resource_id"]
    rows = rows.with_columns(pl.col("other_codes").list.join(" "))
    rows = rows.select(*first, pl.all().exclude(first)).sort(first, nulls_last=False)
    codes = events.codes.with_columns(pl.col("parent_codes").list.join(" "))
    return {
        "events.csv": rows.write_csv(),
        "codes.csv": codes.write_csv(),
        "coverage.json": json.dumps(events.coverage, indent=1) + "\n",
        "quarantine.ndjson": (events.folder / "quarantine.ndjson").read_text(),
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.parent.name}-{case.name}")
def test_example(case, tmp_path):
    found = result(case, tmp_path)
    out = case / "out"
    if os.environ.get("EHR_TL_WRITE_EXAMPLES"):
        out.mkdir(exist_ok=True)
        for name, text in found.items():
            (out / name).write_text(text, encoding="utf-8")
    for name, text in found.items():
        assert text == (out / name).read_text(encoding="utf-8"), name


def test_every_adapter_has_an_example():
    assert {case.parent.parent.name for case in CASES} == set(adapter_names())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.parent.name}-{case.name}")
def test_the_adapter_is_guessed(case):
    name, reason = guess_adapter(case / "in")
    assert name == case.parent.parent.name
    assert "resources looked at" in reason
