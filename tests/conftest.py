"""Fixtures for all tests. Real records are read from the folder that the variable EHR_TL_DATA names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from filelock import FileLock

from ehr_tl.config import pipeline_path

if TYPE_CHECKING:
    from ehr_tl.pipeline import Run

REPOSITORY = Path(__file__).parent.parent

#: The demo, cut down to what still goes through every line: few folds, few rounds, few epochs.
SMALL = {
    "lightgbm": {"rounds": 40, "trials": 1},
    "transformer": {"epochs": 2, "max_slots": 48, "players": 6, "compare_from_scratch": False},
    "evaluation": {"folds": 3, "resamples": 40},
}


@pytest.fixture(scope="session")
def repository() -> Path:
    """The top of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real and synthetic records for tests."""
    named = os.environ.get("EHR_TL_DATA")
    if not named:
        pytest.skip("EHR_TL_DATA is not set: it names the folder of records for tests")
    folder = Path(named).resolve()
    assert folder.is_dir(), f"EHR_TL_DATA names {folder}, which is no folder"
    return folder


@pytest.fixture(scope="session")
def small_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline file: the demo with settings that train in seconds."""
    raw = yaml.safe_load(pipeline_path("demo").read_text(encoding="utf-8"))
    path = tmp_path_factory.mktemp("pipeline") / "small.yaml"
    path.write_text(yaml.safe_dump(raw | SMALL | {"name": "small"}, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished_run(small_pipeline: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Run:
    """A finished run of the small pipeline on the sample export, made once for all processes. Not to be changed."""
    import ehr_tl

    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent  # each xdist worker has a folder of its own below the common one
    folder = shared / "finished_run"
    with FileLock(f"{folder}.lock"):
        if not (folder / "finished").is_file():
            ehr_tl.run(small_pipeline, out=folder / "small", threads=1)
            (folder / "finished").touch()
    return ehr_tl.load_run(folder / "small")


@pytest.fixture(scope="session")
def write_checkpoint() -> Callable[..., Path]:
    """Writes a small checkpoint that has learned nothing: its folder, what it knows (code -> description, or None)."""

    def write(folder: Path, codes: dict[str, str | None]) -> Path:
        import torch

        from ehr_tl.models.checkpoint import save_checkpoint
        from ehr_tl.models.network import EhrConfig, EhrModel
        from ehr_tl.schema import AGE
        from ehr_tl.tokens.vocabulary import Vocabulary

        described = {code: text for code, text in codes.items() if text}
        vocabulary = Vocabulary(list(codes), [AGE], {}, described, {}, 64)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = EhrConfig(outcomes=["MEDS_DEATH"], horizons_days=[30], buckets=64, **sizes)
            model = EhrModel(network.fitted(vocabulary)).eval()
        save_checkpoint(folder, model, vocabulary, "# A card\n")
        return folder

    return write
