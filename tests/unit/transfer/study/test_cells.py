from dataclasses import replace

import numpy as np
import pytest

from ehr_tl.config import Pipeline, TaskConfig
from ehr_tl.schema import BLEND, FINETUNED, LIGHTGBM, PROBE, RECALIBRATED, SOURCE
from ehr_tl.transfer.study import cells as module
from ehr_tl.transfer.study.cells import Cells, made_from, read_cells, run_cells
from ehr_tl.transfer.study.config import Population, Study
from ehr_tl.transfer.study.contest import TABULAR_BLEND, Remembering
from ehr_tl.transfer.study.setting import of_cohort

STUDY = Study("made_up", "Made up", "demo", Population("here"), cases=(8, 32), repeats=3, seeds=(0, 1))
PIPELINE = Pipeline("made_up", "Made up", "Who?", "Ill", TaskConfig({}, "asked", {}), transformer=None)


@pytest.fixture
def learners(made_up, monkeypatch):
    found = [made_up(LIGHTGBM), made_up(SOURCE, 0.3, as_is=True), made_up(PROBE, 0.5)]
    monkeypatch.setattr(module, "arms", lambda pipeline, sources: found)
    return found


@pytest.fixture
def both(clinic, tmp_path, learners):
    setting = of_cohort(STUDY, PIPELINE, *clinic())
    digest = made_from(setting, None, None)
    return setting, [Cells(setting, seed, None, None, tmp_path / "cells", digest) for seed in STUDY.seeds]


def test_a_cell_holds_every_arms_logits_of_the_test_rows_and_is_not_made_again(both):
    setting, cells = both
    assert run_cells(setting, cells, 1) == 6
    found = read_cells(setting, cells)
    assert [told["seed"] for told, _ in found] == [0, 0, 1, 1, 0, 0]  # in turn from repeat to repeat
    for told, logits in found:
        assert set(logits.columns) == {LIGHTGBM, SOURCE, RECALIBRATED, PROBE, BLEND, TABULAR_BLEND}
        assert logits.height == len(setting.draws.test) and np.isfinite(logits.to_numpy()).all()
        assert sum(told["weights"].values()) == pytest.approx(1)
        assert told["subjects"] == told["size"] and told["events"] >= 2
    assert run_cells(setting, cells, 1) == 0


def test_a_study_that_was_killed_between_cells_goes_on_and_ends_alike(both, monkeypatch):
    setting, cells = both
    run_cells(setting, cells, 1)
    whole = [(told | {"seconds": 0, "fitting": {}}, logits) for told, logits in read_cells(setting, cells)]
    for path in cells[0].folder.iterdir():
        path.unlink()
    write, written = module.write_json, []

    def die_after_two(path, value):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, value)

    monkeypatch.setattr(module, "write_json", die_after_two)
    with pytest.raises(KeyboardInterrupt):
        run_cells(setting, cells, 1)
    monkeypatch.setattr(module, "write_json", write)
    assert run_cells(setting, cells, 1) == 4
    again = [(told | {"seconds": 0, "fitting": {}}, logits) for told, logits in read_cells(setting, cells)]
    assert all(a == b and x.equals(y) for (a, x), (b, y) in zip(whole, again))


def test_other_settings_or_labels_make_cells_anew(both, clinic):
    setting, cells = both
    run_cells(setting, cells, 1)
    pipeline = replace(PIPELINE, lightgbm=replace(PIPELINE.lightgbm, rounds=7))
    events, labelled = clinic()
    for other in (of_cohort(STUDY, pipeline, events, labelled), of_cohort(STUDY, PIPELINE, *clinic("other", seed=1))):
        digest = made_from(other, None, None)
        assert not any(replace(cells[0], setting=other, digest=digest).done(draw) for draw in other.draws.each)
    longer = of_cohort(replace(STUDY, repeats=4), PIPELINE, events, labelled)
    again = [replace(each, setting=longer, digest=made_from(longer, None, None)) for each in cells]
    assert run_cells(longer, again, 1) == 2  # the first three repeats are there


def test_both_blends_of_a_cell_share_their_fits(both, learners):
    setting, cells = both
    draw = setting.draws.each[0]
    cells[0](draw)
    folds = min(5, draw.events)
    assert [learner.fits for learner in learners] == [folds + 1, 1, folds + 1]


def test_remembered_fits_are_those_of_the_same_rows_and_seed(made_up):
    learner = made_up(LIGHTGBM)
    remembering, labels, inputs = Remembering(learner), np.array([0, 1, 0, 1]), np.arange(4.0)
    fit = lambda train, seed: remembering.fit(inputs, labels, np.array(train), seed=seed, state=None)
    assert fit([0, 1], 3) is fit([0, 1], 3)
    assert fit([0, 1], 3) is not fit([0, 1], 4) and fit([0, 1], 3) is not fit([0, 2], 3)
    assert learner.fits == 3 and remembering.name == LIGHTGBM


def test_of_one_case_of_each_class_only_what_the_source_knows_is_asked(clinic, tmp_path, learners):
    setting = of_cohort(replace(STUDY, shots=(1, 4), repeats=1, seeds=(0,)), PIPELINE, *clinic())
    cells = [Cells(setting, 0, None, None, tmp_path / "cells", "")]
    run_cells(setting, cells, 1)
    (one, few), (_, more) = read_cells(setting, cells)
    assert few.columns == [SOURCE] and one["weights"] == {} and BLEND in more.columns


def test_the_test_parts_labels_are_not_looked_at(clinic, tmp_path, learners):
    events, labelled = clinic()
    setting = of_cohort(STUDY, PIPELINE, events, labelled)
    turned = setting.labels.copy()
    turned[setting.test] = 1 - turned[setting.test]
    logits = []
    for labels in (setting.labels, turned):
        rows = setting.rows.with_columns(boolean_value=labels == 1)
        cell = Cells(replace(setting, rows=rows), 0, None, None, tmp_path / "cells", "")
        cell(setting.draws.each[1])
        logits.append(read_cells(replace(setting, draws=replace(setting.draws, each=setting.draws.each[1:2])), [cell]))
    assert logits[0][0][1].equals(logits[1][0][1])


def test_where_sites_are_held_out_no_model_has_seen_the_site_of_whom_it_scores(
    clinic, write_events, tmp_path, learners, monkeypatch
):
    events, labelled = clinic()
    facts = events.scan().select("subject_id", "time", "code", "numeric_value", "unit").collect().rows()
    facts = [(s, time, f"UNIT//{s % 6}" if "UNIT" in code else code, *more) for s, time, code, *more in facts]
    pipeline = replace(PIPELINE, evaluation=replace(PIPELINE.evaluation, sites="UNIT//"))
    few = replace(STUDY, cases=(64,), repeats=1, seeds=(0,))
    setting = of_cohort(few, pipeline, write_events(facts, folder=tmp_path / "sited"), labelled)
    fit, trained = learners[0].fit, []
    monkeypatch.setattr(learners[0], "fit", lambda *given, **more: trained.append(given[2]) or fit(*given, **more))
    [draw] = setting.draws.each
    Cells(setting, 0, None, None, tmp_path / "cells", "")(draw)
    cases, unit = setting.positions(draw.subjects), setting.subject % 6
    assert len(set(unit[setting.test])) == 3 and len(trained) == 4  # without each of three sites, and with all
    for train in trained:
        assert not set(unit[train]) & {*unit[setting.test], *unit[np.setdiff1d(cases, train)]}


def test_networks_alone_are_blended_and_have_no_blend_without_themselves(both, made_up, monkeypatch):
    setting, cells = both
    monkeypatch.setattr(module, "arms", lambda pipeline, sources: [made_up(PROBE), made_up(FINETUNED, 0.5)])
    cells[0](setting.draws.each[0])
    _, logits = read_cells(replace(setting, draws=replace(setting.draws, each=setting.draws.each[:1])), cells)[0]
    assert set(logits.columns) == {PROBE, FINETUNED, BLEND}


def test_rows_that_other_hospitals_lend_reach_the_arms_and_count_as_what_a_cell_is_made_from(both, clinic, monkeypatch):
    setting, cells = both
    lent = (clinic("elsewhere", seed=3),)
    other, asked = replace(setting, lent=lent), []
    monkeypatch.setattr(module, "arms", lambda pipeline, sources: asked.append(sources) or [])
    assert replace(cells[0], setting=other).learners == []
    assert len(asked[0]) == 1 and asked[0][0][1].equals(lent[0][1])
    assert made_from(other, None, None) != made_from(setting, None, None)
