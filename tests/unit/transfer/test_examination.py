import json

import numpy as np
import polars as pl
import pytest

from ehr_tl.evaluate.metrics import auroc
from ehr_tl.transfer.examination import examine
from ehr_tl.transfer.held_out import TEST, VALIDATION, parts


def oracle(hospitals, strength=2.0):
    """A scorer that knows the labels and errs at random."""

    def score(task, events, rows):
        hospital = next(each for each in hospitals if each.events is events)
        label = rows.join(hospital.rows, on=["subject_id", "prediction_time"], how="left", maintain_order="left")
        noise = np.random.default_rng(0).normal(size=rows.height)
        return strength * (label["boolean_value"].to_numpy() - 0.5) + noise

    return score


@pytest.fixture
def two(ward):
    return ward("a", 600), ward("b", 300, seed=1)


def test_one_part_is_examined_over_all_sources(two, source_task):
    task, seen = source_task({0: two[0].rows, 1: two[1].rows}), []

    def score(task, events, rows):
        seen.append(rows["subject_id"].to_numpy())
        return oracle(two)(task, events, rows)

    sources = [each.events for each in two]
    found = examine(sources, [task], TEST, {"knows": score, "lacks": lambda *_: None}, {"next": 3.2})
    assert all((parts(subjects) == TEST).all() for subjects in seen)
    assert (found["part"], found["losses"]) == ("test", {"next": 3.2})
    told = found["tasks"]["decline"]
    rows = [task.rows(position, TEST) for position in (0, 1)]
    together = pl.concat(rows)
    assert told["rows"] == told["subjects"] == together.height  # patients of one number in two hospitals are two
    assert told["positives"] == together["boolean_value"].sum()
    assert list(told["models"]) == ["knows"]
    logit = np.concatenate([oracle(two)("decline", s, r) for s, r in zip(sources, rows)])
    expected = float(auroc(together["boolean_value"].to_numpy().astype(float), logit, np.ones(len(logit))))
    estimate = told["models"]["knows"]["auroc"]
    assert estimate["value"] == pytest.approx(expected, abs=1e-5)
    assert estimate["lower"] < expected < estimate["upper"]
    assert [(each["source"], each["rows"]) for each in told["sources"]] == [
        ("a", rows[0].height),
        ("b", rows[1].height),
    ]
    few = [each for each in told["sources"] if each["positives"] < 10]
    assert len(few) == 1 and few[0]["models"] == {} and "knows" in told["sources"][0]["models"]
    json.dumps(found, allow_nan=False)


def test_a_better_model_looks_better_and_subgroups_add_up(two, source_task):
    task = source_task({0: two[0].rows})
    scorers = {"good": oracle(two, 4.0), "poor": oracle(two, 0.5)}
    told = examine([two[0].events], [task], VALIDATION, scorers, {})["tasks"]["decline"]
    assert told["models"]["good"]["auroc"]["value"] > told["models"]["poor"]["auroc"]["value"]
    assert told["models"]["good"]["brier"]["value"] < told["models"]["poor"]["brier"]["value"]
    for group in ("sex", "age"):
        parts_of = [each for each in told["subgroups"]["good"] if each["group"] == group]
        assert sum(each["rows"] for each in parts_of) == told["rows"] and len(parts_of) > 1


def test_a_task_without_outcomes_in_the_part_says_so(two, source_task):
    task = source_task({0: two[0].rows.with_columns(boolean_value=False)})
    told = examine([two[0].events], [task], TEST, {"knows": oracle(two)}, {})["tasks"]["decline"]
    assert "models" not in told and "none without" in told["reason"] and told["positives"] == 0


def test_the_better_of_two_models_gets_the_larger_share(two, source_task):
    task, sources = source_task({0: two[0].rows, 1: two[1].rows}), [each.events for each in two]
    knows, guesses = oracle(two, 3.0), lambda task, events, rows: np.random.default_rng(1).normal(size=rows.height)

    def share(**scorers):
        return examine(sources, [task], VALIDATION, scorers, {})["tasks"]["decline"].get("share")

    assert share(lightgbm=knows, transformer=guesses) > 0.8
    assert share(lightgbm=guesses, transformer=knows) < 0.2
    assert share(lightgbm=knows, transformer=knows) == pytest.approx(0.5)
    assert share(lightgbm=knows) is None
