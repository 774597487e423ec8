import numpy as np
import polars as pl
import pytest

from ehr_tl.models.source import SourceModels
from ehr_tl.transfer.source_models import fit_source_models


@pytest.fixture
def checkpoint(ward, source_task, write_checkpoint, tmp_path):
    """A checkpoint that has learned trees alone: of the task `decline`, and of `rise`, whose rows are the same."""
    hospitals = [ward("source a", seed=10), ward("source b", seed=11)]
    labels = {position: each.rows for position, each in enumerate(hospitals)}
    tasks = [source_task(labels), source_task({0: hospitals[0].rows}, "rise")]
    models = fit_source_models([each.events for each in hospitals], tasks, 0)
    folder = write_checkpoint(tmp_path / "checkpoint", {"RISK": None, "LAB": None})
    models.save(folder / "source")
    assert list(SourceModels.load(folder / "source").models) == ["decline", "rise"]
    return folder


@pytest.fixture
def here(ward):
    """The hospital itself: its events, rows, labels and subjects."""
    hospital = ward("here", subjects=400, seed=5)
    label = hospital.rows["boolean_value"].cast(pl.Float64).to_numpy()
    return hospital.events, hospital.rows, label, np.arange(len(label))
