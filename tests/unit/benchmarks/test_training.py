import sys
from pathlib import Path

import numpy as np
import pytest

SMALL = "--width 16 --head 8 --layers 1 --max-slots 16 --batch-slots 64 --steps 2 --rounds 1 --device cpu"


@pytest.fixture
def training(repository: Path, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    sys.modules.pop("training", None)
    import training

    return training


@pytest.fixture
def small(training):
    options = training.arguments().parse_args(SMALL.split())
    config, sources = training.sources_of([training.made_up(subjects=40, codes=12)], options)
    how = training.TrainingConfig(epochs=1, batch_slots=64, lane_slots=16)
    return config, sources, how


def test_padding_changes_no_loss(training, small):
    config, sources, how = small
    objective = training.Objective(training.new_network(config), how, half=False).eval()
    (drawn, lanes), *_ = training.draw(sources, how, config.max_slots)
    apart = [[sequence] for lane in lanes for sequence in lane]
    losses = []
    for length in (0, 48):
        asked = training.Collator(how, length)([(drawn, apart)])["asked"]
        assert asked.batch.shape[1] >= length
        losses.append({name: float(loss) for name, loss in objective(asked)[1].items()})
    assert losses[0].keys() == {"codes", "values", "outcomes"}
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_attention_between_sequences_and_padding_are_no_work(training, small):
    config, sources, how = small
    drawn, lanes = training.draw(sources, how, config.max_slots)[0]
    pairs = 0
    for sequence in (sequence for lane in lanes for sequence in lane):
        alone = drawn.reading.batch([[sequence]])
        seen = alone.sequence[0] >= 0
        whole = alone.whole[0]
        pairs += sum(1 + int(whole[:place].sum()) for place in np.flatnonzero(seen))
    assert training._pairs(drawn.reading.batch(lanes)) == pairs


def test_all_ways_are_told(training, monkeypatch, capsys):
    monkeypatch.setattr(training, "SIZES", (32,))
    monkeypatch.setattr(training, "made_up", lambda make=training.made_up: make(subjects=40, codes=12))
    monkeypatch.setattr(sys, "argv", ["training.py", *SMALL.split()])
    training.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 5
    assert lines[2].startswith("| ehr_tl |")
    assert lines[2].endswith(" 1.0 |")
