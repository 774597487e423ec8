import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from ehr_tl.errors import CheckpointError
from ehr_tl.models import checkpoint
from ehr_tl.models.checkpoint import check_checkpoint, load_checkpoint, round_to_half, save_checkpoint
from ehr_tl.models.network import EhrConfig, EhrModel
from ehr_tl.tokens.records import read_records
from ehr_tl.tokens.vocabulary import Vocabulary


@pytest.fixture
def saved(hospital, tmp_path):
    """A small checkpoint folder, and its network."""
    vocabulary = Vocabulary.fit([read_records(hospital(20))], 3, buckets=64)
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "buckets": 64,
    }
    config = EhrConfig(outcomes=["MEDS_DEATH"], horizons_days=[30, 365], **sizes).fitted(vocabulary)
    model = EhrModel(config).eval()
    round_to_half(model)
    save_checkpoint(tmp_path / "saved", model, vocabulary, "# A card\n")
    return tmp_path / "saved", model


def test_what_was_saved_is_what_is_opened(saved):
    folder, model = saved
    opened = load_checkpoint(folder)
    assert opened.card == "# A card\n" and not opened.model.training
    assert opened.model.config.to_dict() == load_checkpoint(str(folder)).model.config.to_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, opened.model.state_dict()[name]), name


def test_it_opens_with_from_pretrained(saved):
    from transformers import AutoModel

    folder, model = saved
    opened = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    assert type(opened) is EhrModel
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), opened.state_dict().values()))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocabulary.json", "MODEL_CARD.md"])
def test_a_missing_file_is_named(saved, name):
    folder, _ = saved
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "deep/vocabulary.pkl", "modeling.py"])
def test_a_file_that_could_execute_code_is_refused(saved, name):
    folder, _ = saved
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match="execute code"):
        load_checkpoint(folder)


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoModel": "modeling.Model"}}, "auto_map"),
        ({"model_type": "llama"}, "'llama'"),
        ({"intermediate_size": 72}, "does not fit"),
        ({"vocab_size": 7}, "does not fit"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide'"),
        ({"hidden_size": -8}, "hidden_size is -8"),
        ({"slot_hours": 0}, "slot_hours is 0"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": 5}, "no network that can be made"),
        ({"hidden_act": "unheard-of"}, "no network that can be made"),
        ({"pad_token_id": 10_000}, "no network that can be made"),
        ({"dtype": "float17"}, "no network that can be made"),
        ({"_attn_implementation": "somebody/kernel"}, "'_attn_implementation'"),
        ({"attn_implementation": "somebody/kernel"}, "'attn_implementation'"),
    ],
)
def test_a_wrong_configuration_is_refused(saved, changes, message):
    folder, _ = saved
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_the_keys_that_are_allowed_are_those_of_the_network():
    assert EhrConfig(outcomes=["X"], horizons_days=[1]).to_diff_dict().keys() <= checkpoint._KEYS


def test_weights_that_are_no_numbers_are_refused(saved):
    from safetensors.torch import load_file, save_file

    folder, _ = saved
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="no number"):
        load_checkpoint(folder)


@pytest.mark.parametrize("changes", [{"valued": []}, {"codes": [7]}, {"buckets": 0}, {"edges": {"AGE": {"": [1.0]}}}])
def test_a_vocabulary_whose_parts_do_not_fit_is_refused(saved, changes):
    folder, _ = saved
    vocabulary = json.loads((folder / "vocabulary.json").read_text())
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary | changes))
    with pytest.raises(CheckpointError, match="is no vocabulary"):
        load_checkpoint(folder)


def test_a_vocabulary_of_another_checkpoint_is_refused(saved):
    folder, _ = saved
    vocabulary = json.loads((folder / "vocabulary.json").read_text())
    vocabulary["codes"].append("X//1")
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary))
    with pytest.raises(CheckpointError, match="says otherwise"):
        load_checkpoint(folder)


@pytest.mark.parametrize("kept", [0, 5, 0.5])
def test_a_cut_off_weights_file_is_refused(saved, kept):
    path = saved[0] / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(CheckpointError, match="broken"):
        load_checkpoint(saved[0])


def test_a_config_that_is_no_json_is_refused(saved):
    (saved[0] / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="no JSON"):
        load_checkpoint(saved[0])


@pytest.mark.parametrize("opened", [check_checkpoint, load_checkpoint])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("MODEL_CARD.md", b"\xff\xfe", "MODEL_CARD.md is no UTF-8 text"),
        ("config.json", b"\xff", "no JSON object"),
        ("model.safetensors", b"short", "broken or cut off"),
        ("vocabulary.json", b"[]", "no vocabulary"),
        ("vocabulary.json", b"{}", "vocabulary.json has no 'version'"),
        ("vocabulary.json", None, "vocabulary.json has no 'edges'.*What to do: copy"),
    ],
)
def test_a_broken_file_is_named_before_a_network_is_made(saved, opened, name, content, message):
    path = saved[0] / name
    if content is None:
        vocabulary = json.loads(path.read_text())
        del vocabulary["edges"]
        content = json.dumps(vocabulary).encode()
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        opened(saved[0])


def test_a_look_into_a_checkpoint_imports_no_network():
    code = (
        "import sys; from ehr_tl.models.checkpoint import check_checkpoint; check_checkpoint('ehr_tl_base'); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["no_such", "../checkpoints", "/no/such/folder"])
def test_an_unknown_name_is_an_error(name):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(name)


def test_opening_writes_nothing(saved):
    folder, _ = saved
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    folder.chmod(0o500)
    load_checkpoint(folder)
    folder.chmod(0o700)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    shutil.rmtree(folder)
    assert np.isfinite(before["config.json"])


def test_the_shipped_checkpoint_opens_and_is_small():
    opened = load_checkpoint("ehr_tl_base")
    assert sum(p.stat().st_size for p in opened.path.rglob("*")) < 16e6
    assert {"SNOMED//44054006", "LOINC//4548-4", "LOINC//2160-0", "GENDER//female"} <= set(opened.vocabulary.codes)
    assert opened.model.config.tasks and set(opened.source.tasks) <= set(opened.model.config.tasks)
    assert opened.model.config.outcomes[0] == "MEDS_DEATH"
    assert "synthetic" in opened.card
