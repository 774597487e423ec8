import numpy as np
import pytest

from ehr_tl.errors import CheckpointError
from ehr_tl.evaluate.metrics import auroc
from ehr_tl.files import read_json, write_json
from ehr_tl.models.source import SourceModels
from ehr_tl.transfer import source_models
from ehr_tl.transfer.held_out import TRAIN, parts
from ehr_tl.transfer.source_models import fit_source_models


@pytest.fixture
def two(ward):
    return ward("a"), ward("b", seed=1)


def fitted(hospitals, task, seed=0):
    return fit_source_models([each.events for each in hospitals], [task], seed)


def test_what_two_hospitals_teach_holds_at_a_third(two, ward, source_task):
    models = fitted(two, source_task({0: two[0].rows, 1: two[1].rows}))
    third = ward("c", seed=2)
    logit = models.score("decline", third.events, third.rows)
    label = third.rows["boolean_value"].to_numpy().astype(float)
    assert auroc(label, logit, np.ones(len(label))) > 0.75
    told = models.tasks["decline"]
    training = sum((parts(each.rows["subject_id"].to_numpy()) == TRAIN).sum() for each in two)
    assert (told["rows"], told["subjects"], told["adapters"]) == (training, training, ["test"])


def test_labels_of_the_other_parts_and_of_other_sources_are_not_looked_at(two, source_task):
    plain = fitted(two, source_task({0: two[0].rows}))
    training = parts(two[0].rows["subject_id"].to_numpy()) == TRAIN
    turned = two[0].rows.with_columns(boolean_value=two[0].rows["boolean_value"].to_numpy() ^ ~training)
    again = fitted(two, source_task({0: turned}))
    assert again.models["decline"].booster.model_to_string() == plain.models["decline"].booster.model_to_string()
    assert again.tasks == plain.tasks


def test_columns_are_joined_by_name_and_patients_of_one_number_stay_two(ward, source_task):
    first, second = ward("a", risk="RISK//ours"), ward("b", seed=1, risk="RISK//theirs")
    models = fitted([first, second], source_task({0: first.rows, 1: second.rows}))
    assert {"RISK//ours", "RISK//theirs", "LAB"} <= set(models.models["decline"].columns["code"])
    assert models.tasks["decline"]["subjects"] == models.tasks["decline"]["rows"]  # one row each, the same ids in both
    for hospital in (first, second):
        at_risk = hospital.events.scan().filter(code=f"RISK//{'ours' if hospital is first else 'theirs'}").collect()
        logit = models.score("decline", hospital.events, hospital.rows)
        mine = hospital.rows["subject_id"].is_in(at_risk["subject_id"].to_list()).to_numpy()
        assert logit[mine].mean() > logit[~mine].mean() + 1


def test_of_too_many_rows_those_of_some_subjects_are_taken(two, source_task, monkeypatch):
    monkeypatch.setattr(source_models, "MOST_ROWS", 100)
    models = fitted(two, source_task({0: two[0].rows, 1: two[1].rows}))
    assert models.tasks["decline"]["rows"] == 100


def test_a_task_with_too_few_outcomes_gets_no_model(two, source_task, caplog):
    few = two[0].rows.with_columns(boolean_value=two[0].rows["subject_id"] <= 3)
    assert fitted(two, source_task({0: few})).models == {}
    assert "decline: too few" in caplog.text


def test_saved_and_opened_they_score_the_same(two, source_task, tmp_path):
    models = fitted(two, source_task({0: two[0].rows}))
    models.save(tmp_path / "source")
    opened = SourceModels.load(tmp_path / "source")
    assert opened.tasks == models.tasks
    scores = [each.score("decline", two[1].events, two[1].rows) for each in (models, opened)]
    assert scores[0].std() > 0.1 and np.array_equal(*scores)
    with pytest.raises(CheckpointError, match=r"no source model 'other'.*decline"):
        opened.score("other", two[1].events, two[1].rows)
    assert opened.answer("other", two[1].events, two[1].rows) is None


def test_files_that_do_not_belong_together_are_refused(two, source_task, tmp_path):
    models = fitted(two, source_task({0: two[0].rows}))
    folder = tmp_path / "source"
    models.save(folder)
    trees = (folder / "decline.txt").read_text()
    (folder / "decline.txt").write_text(trees[: len(trees) // 2])
    with pytest.raises(CheckpointError, match=r"is not the file that tasks\.json describes"):
        SourceModels.load(folder)
    (folder / "decline.txt").write_text(trees)
    told = read_json(folder / "tasks.json")
    for broken in ({"columns": told["decline"]["columns"][1:]}, {"windows_days": None}, {"tuned": {}}):
        write_json(folder / "tasks.json", {"decline": {**told["decline"], **broken}})
        with pytest.raises(CheckpointError, match="does not describe 'decline' whole"):
            SourceModels.load(folder)
    write_json(folder / "tasks.json", {"../decline": told["decline"]})
    with pytest.raises(CheckpointError, match="no trees for"):
        SourceModels.load(folder)
