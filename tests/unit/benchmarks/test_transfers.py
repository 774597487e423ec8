from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from ehr_tl.errors import RunError
from ehr_tl.files import read_json, write_json


@pytest.fixture
def script(repository: Path, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module("transfers")


def found(value, width=0.02):
    return {"value": value, "lower": value - width, "upper": value + width}


def size(cases, *, local, single, network, slope=1.0, pooled=True):
    arms = {arm: {m: found(0.8) for m in ("auroc", "brier")} for arm in ("local_lightgbm", "blend")}
    for arm in arms.values():
        arm["calibration_slope"] = found(slope)
    differences = {
        "chosen - best local": found(local),
        "chosen - best single": found(single),
        "chosen - best single without networks": found(2 * network),
        "chosen - the same without networks": found(network),
    }
    told = {"size": cases, "subjects": cases, "events": cases / 8, "chosen": "blend", "best_local": "local_lightgbm"}
    return {**told, "arms": arms | ({"pooled": arms["blend"]} if pooled else {}), "differences": differences}


def results(name, *sizes):
    told = {"synthetic": False, "shots": False, "test": {"subjects": 900, "events": 90}, "repeats": 3, "seconds": 120}
    return {"name": name, "title": name.title(), **told, "sizes": sizes}


def test_goals_are_told_where_they_were_met_and_where_not(script, tmp_path):
    labelled = results(
        "labelled",
        size(64, local=0.12, single=-0.004, network=0.01, slope=1.3),
        size(256, local=0.01, single=-0.006, network=0.03),
        size(512, local=0.01, single=0.0, network=0.04),
    )
    without = results("without", size(64, local=0.04, single=0.0, network=0.0, pooled=False))
    rare = results("rare", size(64, local=-0.3, single=-0.3, network=0.3, slope=9.0))  # shown, and without a goal
    text = script.write_summary([labelled, without, rare], tmp_path, goals={"labelled", "without"})
    assert "**Rare**" in text and "rare 64" not in text
    goals = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    assert "| 1 of 1 | - |" in goals["source has the label, 64 cases or fewer: +0.10 on the best local arm"]
    assert (
        "| 0 of 1 | without 64: +0.040 |"
        in goals["source has no label, 64 cases or fewer: +0.05 on the best local arm"]
    )
    assert "| 3 of 4 | labelled 256: -0.006 |" in goals["never more than 0.005 behind the best single arm"]
    assert "| 1 of 2 | labelled 64: 1.30 |" in goals["median slope with 64 cases within 0.8 to 1.2"]
    lifted = goals["the blend above itself without networks, interval above 0"]
    assert "| 1 of 2 studies | labelled at 256, 512: +0.030 to +0.040 |" in lifted
    page = (tmp_path / "transfer.html").read_text()
    assert page.count("<svg") == 3 and "http" not in page.replace("http://www.w3.org", "")


def test_other_subjects_than_the_committed_ones_are_refused(script, tmp_path):
    plan, committed = script.Plan("some", ()), tmp_path / "splits.json"
    told = {"subjects": 10, "events": 2, "digest": "ab"}
    made = {"seed": 3, "seeds": [0, 1], "test": told, "draws": [{"repeat": 0, "size": 16, **told}]}
    for folder in ("studies/some", "studies/quick/some"):
        (tmp_path / folder).mkdir(parents=True)
        write_json(tmp_path / folder / "splits.json", {**made, "seeds": [0]} if "quick" in folder else made)
    script.check_splits([plan], tmp_path, False, committed)
    seeds = {"seed": "3", "seeds of pretraining": "0 1"}
    assert read_json(committed) == {"some": {**seeds, "test": "10 2 ab", "0-16": "10 2 ab"}}
    script.check_splits([plan], tmp_path, True, committed)
    write_json(tmp_path / "studies/quick/some/splits.json", {**made, "test": {**told, "digest": "cd"}})
    with pytest.raises(RunError, match="first in test"):
        script.check_splits([plan], tmp_path, True, committed)
