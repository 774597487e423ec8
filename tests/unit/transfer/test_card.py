from dataclasses import replace

import numpy as np
import pytest

from ehr_tl.events import Events
from ehr_tl.files import write_json
from ehr_tl.models.checkpoint import load_checkpoint, save_checkpoint
from ehr_tl.models.folder import PRETRAINING
from ehr_tl.models.network import EhrConfig, EhrModel
from ehr_tl.tokens.vocabulary import Vocabulary
from ehr_tl.transfer.card import write_card
from ehr_tl.transfer.examination import examine
from ehr_tl.transfer.foresight import read_hospital
from ehr_tl.transfer.held_out import TEST

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "buckets": 64}
MADE = {
    "command": "ehr-tl pretrain events --out small",
    "licence": "odc-by",
    "settings": {"epochs": 3, "horizons_days": [30, 365]},
    "timings": {"training": 1800.0, "source models": 360.0},
}


def with_export(events: Events, **changes) -> Events:
    write_json(events.folder / "metadata" / "export.json", replace(events.export, **changes).to_json())
    return Events(events.folder)


@pytest.fixture
def checkpoint(tmp_path):
    def make(events: Events):
        records = read_hospital(events, 24).records
        vocabulary = Vocabulary.fit([records], 1, SMALL["buckets"])
        folder = tmp_path / "small"
        save_checkpoint(folder, EhrModel(EhrConfig(**SMALL).fitted(vocabulary)), vocabulary, "to come")
        write_json(folder / PRETRAINING, {**MADE, "history": []})
        return folder

    return make


def test_the_card_states_sources_numbers_and_limits(ward, source_task, checkpoint):
    wards = [ward("simulated", 300), ward("intensive", 600, seed=1)]
    real = {"adapter": "physionet_2012", "synthetic": False, "dates_shifted": True, "notice": "PhysioNet 2012, ODC-By."}
    sources = [wards[0].events, with_export(wards[1].events, **real)]
    tasks = [source_task({1: wards[1].rows}, "decline"), source_task({0: wards[0].rows}, "simulated_decline")]
    random = np.random.default_rng(0)
    scorers = {"lightgbm": lambda _, __, rows: random.normal(size=rows.height)}
    examination = examine(sources, tasks, TEST, scorers, {"next": 3.21})
    folder = checkpoint(sources[0])
    write_card(folder, sources, examination)
    card = load_checkpoint(folder).card
    assert (
        card.startswith("---\nlicense: odc-by\n")
        and "under the licence odc-by" in card
        and "synthetic]" not in card
        and "# small" in card
    )
    assert "| simulated | test | 300 | 2026-01-01 | yes |" in card
    assert "| intensive | physionet_2012 | 600 | dates are shifted or invented | no |" in card
    assert "PhysioNet 2012, ODC-By." in card and "says nothing of transfer" in card.replace("\n  ", " ")
    assert "0.60 hours: training 30.0 min" in card and "| horizons_days | 30, 365 |" in card
    assert "| next | 3.2100 |" in card and "part `test`" in card
    estimate = examination["tasks"]["decline"]["models"]["lightgbm"]["auroc"]
    assert f"{estimate['value']:.3f} ({estimate['lower']:.3f} to {estimate['upper']:.3f})" in card
    assert "| Decline (synthetic) | lightgbm |" in card and "| Decline | lightgbm |" in card
    assert "| Decline | sex female |" in card and "must not be used for" in card


def test_a_checkpoint_of_synthetic_records_without_tasks_says_that_alone(ward, checkpoint):
    events = ward("simulated", 40).events
    folder = checkpoint(events)
    write_json(folder / PRETRAINING, {**MADE, "command": "", "licence": None})
    write_card(folder, [events], {"part": "test", "losses": {}, "tasks": {}})
    card = load_checkpoint(folder).card
    assert "time-slots, synthetic]" in card and "rules of a simulator" in card
    assert "license" not in card and "licence" not in card and "```" not in card  # nobody said any
    assert "AUROC" not in card and "MIMIC" not in card and "real sources" not in card


def test_numbers_that_would_point_at_somebody_are_not_told(ward, checkpoint):
    events = ward("simulated", 40).events
    few, enough = (
        {"rows": 9, "subjects": 3, "positive_subjects": 2},
        {"rows": 17, "subjects": 8, "positive_subjects": 4},
    )
    empty = {"auroc": {"value": None}}
    groups = [
        {"group": "sex", "value": "other", "outcomes": 6, **few, **empty},
        {"group": "sex", "value": "male", "outcomes": 6, **enough, **empty},
    ]
    told = {"title": "Decline", "synthetic": True, "positives": 6, **enough, "reason": "too few"}
    told |= {"subgroups": {"trees": groups}, "sources": [{"source": "here", "positives": 6, **few, "models": {}}]}
    folder = checkpoint(events)
    write_card(folder, [events], {"part": "test", "losses": {}, "tasks": {"decline": told}})
    card = load_checkpoint(folder).card
    assert "| too few | 17 | 8 | fewer than 5 |" in card
    assert "| here | fewer than 5 | fewer than 5 | - |" in card
    assert "| sex other | fewer than 5 | fewer than 5 | - |" in card
    assert "| sex male | 17 | fewer than 5 | - |" in card


def test_a_task_that_cannot_be_examined_says_why(ward, source_task, checkpoint):
    hospital = ward("simulated", 40)
    none = source_task({0: hospital.rows.with_columns(boolean_value=False)})
    folder = checkpoint(hospital.events)
    write_card(folder, [hospital.events], examine([hospital.events], [none], TEST, {}, {}))
    assert "no row with, or none without, the outcome" in load_checkpoint(folder).card
