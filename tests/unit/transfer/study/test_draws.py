from dataclasses import replace
from datetime import datetime
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_tl import schema
from ehr_tl.config import pipeline_path
from ehr_tl.errors import CohortError, EhrTlError, PipelineError
from ehr_tl.transfer.study.config import ALL, Population, Study, load_study, study_names
from ehr_tl.transfer.study.draws import FEWEST, draw_cases
from ehr_tl.transfer.study.populations import bind, members

STUDY = Study("made_up", "Made up", "demo", Population("here"), cases=(4, 16, 32, ALL), repeats=4, seeds=(0, 1))
DAY = datetime(2020, 1, 1)


def cohort(positive: int, negative: int, each: int = 1) -> pl.DataFrame:
    """Subjects with `each` rows; of those with the outcome one row has it."""
    rows = [
        (s, DAY.replace(day=1 + row), s <= positive and row == 0)
        for s in range(1, positive + negative + 1)
        for row in range(each)
    ]
    return pl.DataFrame(rows, schema=schema.COHORT, orient="row")


@settings(max_examples=40, deadline=None)
@given(
    positive=st.integers(8, 60),
    negative=st.integers(8, 120),
    seed=st.integers(0, 2**20),
    share=st.floats(0.3, 0.7),
    each_class=st.booleans(),
)
def test_draws_are_nested_stratified_and_apart_from_the_test_part(positive, negative, seed, share, each_class):
    study = replace(STUDY, seed=seed, test_share=share, shots=(1, 2, 8, ALL) if each_class else None)
    found = draw_cases(study, cohort(positive, negative))
    pool = positive + negative - len(found.test)
    left = positive - found.test_events
    assert abs(len(found.test) - share * (positive + negative)) <= 1
    assert abs(found.test_events - share * positive) <= 0.5
    for repeat in range(study.repeats):
        mine = [draw for draw in found.each if draw.repeat == repeat]
        for draw in mine:
            assert len(np.unique(draw.subjects)) == len(draw.subjects)
            assert not np.isin(draw.subjects, found.test).any()
            assert draw.events == (draw.subjects <= positive).sum()
            if draw.size == ALL:
                assert len(draw.subjects) == pool
            elif each_class:
                assert draw.events == min(draw.size, left)
                assert len(draw.subjects) - draw.events == min(draw.size, pool - left)
            else:
                assert len(draw.subjects) == draw.size
                assert FEWEST <= draw.events <= draw.size - FEWEST
                assert abs(draw.events - draw.size * left / pool) <= 0.5 or draw.events in (FEWEST, draw.size - FEWEST)
        for small, large in pairwise(mine):
            assert np.isin(small.subjects, large.subjects).all()


def at_sites(*sizes: tuple[int, int]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A cohort of sites with so many subjects with and without the outcome, and who is from where."""
    people = [(site, ill) for site, both in enumerate(sizes) for ill, n in zip((True, False), both) for _ in range(n)]
    rows = [(s, DAY, ill) for s, (_, ill) in enumerate(people, 1)]
    sites = pl.DataFrame({"subject_id": range(1, len(people) + 1), "site": [f"SITE//{site}" for site, _ in people]})
    return pl.DataFrame(rows, schema=schema.COHORT, orient="row"), sites


@pytest.mark.parametrize(
    ("sizes", "share", "tested"),
    [
        ([(10, 40)] * 4, 0.5, (20, 80)),
        ([(10, 40)] * 10, 0.05, (10, 40)),  # one at least
        ([(10, 40)] * 10, 0.95, (90, 360)),
        ([(60, 100), (20, 50), (20, 50)], 0.5, None),
        ([(30, 10), (2, 100), (2, 0), (0, 50)], 0.5, None),
    ],
)
def test_whole_sites_are_tested_on(sizes, share, tested):
    labelled, sites = at_sites(*sizes)
    found = draw_cases(replace(STUDY, test_share=share), labelled, sites)
    site, [rest, *_] = dict(sites.rows()), [draw.subjects for draw in found.each if draw.size == ALL]
    inside, outside = ({site[s] for s in some.tolist()} for some in (found.test, rest))
    assert inside and outside and not inside & outside and len(inside) == found.test_sites
    assert len(found.test) + len(rest) == labelled.height
    without = len(found.test) - found.test_events
    assert FEWEST <= found.test_events <= sum(ill for ill, _ in sizes) - FEWEST
    assert FEWEST <= without <= sum(well for _, well in sizes) - FEWEST
    assert tested is None or tested == (found.test_events, without)
    again = draw_cases(replace(STUDY, test_share=share), labelled.reverse(), sites.reverse())
    assert again.to_json() == found.to_json()


def test_sites_that_cannot_be_set_apart_are_told():
    for sizes in ([(30, 70)], [(30, 70), (1, 40)], [(30, 0), (0, 70)]):
        with pytest.raises(CohortError, match=f"from {len(sizes)} site.*no division of whole sites.*evaluation.sites"):
            draw_cases(STUDY, *at_sites(*sizes))


def test_repeats_draw_others_and_a_seed_draws_the_same_from_any_order_of_rows():
    rows = cohort(30, 70, each=3)
    found = draw_cases(STUDY, rows)
    told = found.to_json()
    assert draw_cases(STUDY, rows.sample(fraction=1.0, shuffle=True, seed=3)).to_json() == told
    first, second = (next(d for d in found.each if d.name == f"{repeat}-16") for repeat in (0, 1))
    assert first.subjects.tolist() != second.subjects.tolist()
    other = draw_cases(replace(STUDY, seed=1), rows).to_json()
    assert other["test"]["digest"] != told["test"]["digest"]
    assert [draw.repeat for draw in found.each if draw.size == ALL] == [0, 1]  # once for each seed of pretraining
    assert told["test"] | {"digest": ""} == {"subjects": 50, "events": 15, "digest": ""}


def test_a_longer_study_draws_what_a_shorter_one_drew():
    rows = cohort(30, 70)
    short, long = (draw_cases(replace(STUDY, cases=cases, repeats=n), rows) for cases, n in (((16,), 2), ((8, 16), 5)))
    drawn = {draw.name: draw.subjects.tolist() for draw in long.each}
    assert all(drawn[draw.name] == draw.subjects.tolist() for draw in short.each)


def test_too_few_subjects_are_told():
    with pytest.raises(CohortError, match="3 subjects with the outcome and 50 without"):
        draw_cases(STUDY, cohort(3, 50))
    with pytest.raises(CohortError, match="50 subjects are left"):
        draw_cases(replace(STUDY, cases=(512,)), cohort(30, 70))


def test_sizes_that_cannot_be_drawn_are_told(caplog):
    with caplog.at_level("INFO", "ehr_tl"):
        draw_cases(replace(STUDY, cases=(16, 64, 512)), cohort(30, 70))
    assert "Passed over: 64, 512. Only 50 subjects are left beside the test part, 15 with the outcome" in caplog.text


@pytest.mark.parametrize("name", study_names())
def test_every_shipped_study_is_sound(name):
    study = load_study(name)
    assert study.name == name and study.question().name
    assert study.source is not None or study.checkpoint is not None


def test_the_directions_of_intensive_care_never_start_from_the_checkpoint_that_has_seen_them():
    icu = [load_study(name) for name in study_names() if name.startswith("icu_")]
    assert len(icu) == 9 and all(study.checkpoint is None and len(study.seeds) == 3 for study in icu)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("cases: [16, 8]", "ascending"),
        ("cases: [all, 8]", "ascending"),
        ("cases: [most]", "cases is"),
        ("shots: []", "one number or more"),
        ("cases: [16]\nshots: [8]", "one of the two"),
        ("seeds: []", "one seed or more"),
        ("seeds: [0, 1, 0]", "each once"),
        ("arms: [local_lightgbm, prob]", "no arm 'prob'.*some of: local_lightgbm, .*probe"),
        ("recipe: nowhere", "There is no recipe 'nowhere'"),
        ("continued: nowhere", "There is no recipe 'nowhere'"),
        ("pipelin: demo", "Did you mean 'pipeline'"),
        ("pipeline: nowhere", "There is no pipeline 'nowhere'"),
    ],
)
def test_a_faulty_study_is_told(tmp_path, changed, said):
    path = tmp_path / "mine.yaml"
    base = "name: mine\ntitle: Mine\ntarget: {events: here}\n"
    path.write_text(base + ("" if changed.startswith("pipeline:") else "pipeline: demo\n") + changed)
    with pytest.raises(PipelineError, match=said):
        load_study(path)


@pytest.mark.parametrize(("changed", "seeds"), [("", (4,)), ("continued: continued", (4, 5))])
def test_seeds_take_turns_only_where_something_is_pretrained(tmp_path, changed, seeds):
    path = tmp_path / "mine.yaml"
    base = "name: mine\ntitle: Mine\npipeline: demo\ntarget: {events: here}\ncheckpoint: ehr_tl_base\nseeds: [4, 5]\n"
    path.write_text(base + changed)
    assert load_study(path).seeds == seeds


@pytest.mark.parametrize("changed", ["checkpoint: ehr_tl_base", "source: {events: there}\ncontinued: continued"])
def test_a_checkpoint_is_not_transferred_to_a_pipeline_that_does_without(tmp_path, changed):
    question = yaml.safe_load(pipeline_path("demo").read_text(encoding="utf-8")) | {"transformer": None}
    (tmp_path / "question.yaml").write_text(yaml.safe_dump(question))
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\ntitle: Mine\npipeline: question.yaml\ntarget: {{events: here}}\n{changed}\n")
    with pytest.raises(PipelineError, match="the pipeline demo does without"):
        load_study(path)


def test_who_belongs_to_a_population(write_events):
    facts = [(1, DAY, "UNIT//a"), (2, DAY, "UNIT//b"), (3, DAY, "UNIT//a"), (3, DAY, "UNIT//b"), (4, DAY, "LAB")]
    events = write_events(facts)
    found = lambda **codes: members(Population("here", **codes), events).tolist()
    assert found() == [1, 2, 3, 4]
    assert found(having=("UNIT//a",)) == [1, 3]
    assert found(having=("UNIT//a", "UNIT//b")) == [1, 2, 3]
    assert found(without=("UNIT//a",)) == [2, 4]
    assert found(having=("UNIT//b",), without=("UNIT//a",)) == [2]
    with pytest.raises(CohortError, match="Nobody"):
        found(having=("UNIT//c",))


def test_events_are_bound_by_name(write_events):
    events = write_events([(1, DAY, "LAB")])
    assert bind(STUDY, {"here": events.folder})["here"].folder == events.folder
    for folders in ({}, {"here": events.folder, "there": events.folder}):
        with pytest.raises(PipelineError, match="--events here=FOLDER"):
            bind(STUDY, folders)
    with pytest.raises(EhrTlError, match="not a finished events folder"):
        bind(STUDY, {"here": events.folder / "none"})
