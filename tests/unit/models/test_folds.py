"""How subjects and sites are dealt into folds."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_tl import schema
from ehr_tl.cohort.sites import UNKNOWN, subject_sites
from ehr_tl.config import EvaluationConfig
from ehr_tl.errors import CohortError
from ehr_tl.models.fitting import Labelled
from ehr_tl.models.folds import site_folds

DAY = datetime(2024, 1, 1)


def table(sites):
    """Rows and sites of subjects: site -> (positive, negative) subjects."""
    rows, homes = [], []
    for site, kinds in sites.items():
        for positive, number in zip((True, False), kinds):
            for _ in range(number):
                homes.append((len(homes), site))
                rows.append((len(rows), DAY, positive, schema.HELD_OUT))
    names = {"subject_id": pl.Int64, "site": pl.String}
    return pl.DataFrame(rows, schema.ROWS, orient="row"), pl.DataFrame(homes, names, orient="row")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 20)), min_size=5, max_size=30), st.integers(0, 99))
def test_no_site_lies_in_two_folds_and_none_is_far_heavier_than_it_must_be(kinds, seed):
    rows, homes = table({f"s{i:02}": kind for i, kind in enumerate(kinds)})
    label, subject = rows["boolean_value"].cast(int).to_numpy(), rows["subject_id"].to_numpy()
    site = homes["site"].to_numpy()
    fold = site_folds(site, subject, label, 5, seed)
    assert all(len(set(fold[site == each])) == 1 for each in set(site)) and set(fold) == set(range(5))
    share = np.array([(site == each).mean() + label[site == each].sum() / max(label.sum(), 1) for each in set(site)])
    held = np.bincount(fold, weights=1 / len(fold) + label / max(label.sum(), 1), minlength=5)
    assert held.max() - held.min() <= share.max() + 1e-9


def test_positive_subjects_are_balanced():
    rows, homes = table({f"s{i:02}": (3, 30) for i in range(20)})
    label, subject = rows["boolean_value"].cast(int).to_numpy(), rows["subject_id"].to_numpy()
    fold = site_folds(homes["site"].to_numpy(), subject, label, 5, 0)
    assert np.bincount(fold, weights=label).tolist() == [12] * 5


def test_another_seed_deals_otherwise():
    rows, homes = table({f"s{i:02}": (3, 30) for i in range(20)})
    label, subject = rows["boolean_value"].cast(int).to_numpy(), rows["subject_id"].to_numpy()
    dealt = [site_folds(homes["site"].to_numpy(), subject, label, 5, seed) for seed in (0, 0, 1)]
    assert (dealt[0] == dealt[1]).all() and (dealt[0] != dealt[2]).any()


def test_too_few_sites_are_named():
    rows, homes = table({f"s{i}": (10, 30) for i in range(4)})
    with pytest.raises(CohortError, match="4 sites, too few for 5 folds") as raised:
        Labelled.of(rows, EvaluationConfig(folds=5), homes)
    assert "evaluation.sites" in raised.value.fix
    assert Labelled.of(rows, EvaluationConfig(folds=4), homes).folds == 4


def test_sites_that_leave_a_fit_without_positives_are_named():
    rows, homes = table({"a": (10, 10), "b": (10, 10), "c": (0, 10), "d": (1, 10), "e": (0, 10)})
    with pytest.raises(CohortError, match="Without two of 5 folds of whole sites only 1 subject with"):
        Labelled.of(rows, EvaluationConfig(folds=5), homes)


def test_a_subjects_site_is_that_of_its_first_event(write_events):
    facts = [
        (1, DAY + timedelta(1), "UNIT//a"),
        (1, DAY, "UNIT//b"),
        (1, DAY - timedelta(1), "OTHER//UNIT//c"),
        (2, DAY, "UNIT//a"),
        (2, None, "UNIT//z"),
        (3, DAY, "OTHER//c"),
    ]
    found = subject_sites(write_events(facts), "UNIT//")
    assert found.rows() == [(1, "UNIT//b"), (2, "UNIT//z"), (3, UNKNOWN)]


def test_a_beginning_that_no_code_has_is_named(write_events):
    with pytest.raises(CohortError, match="begins with 'WARD//'") as raised:
        subject_sites(write_events([(1, DAY, "UNIT//a")]), "WARD//")
    assert "evaluation.sites" in raised.value.fix
