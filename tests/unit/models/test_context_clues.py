import json
import socket
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file, save_model

from ehr_tl import load_checkpoint, schema
from ehr_tl.errors import CheckpointError
from ehr_tl.models.checkpoint import check_checkpoint, checkpoint_vocabulary
from ehr_tl.models.knowledge import checkpoint_knowledge
from ehr_tl.tokens.context_clues import BOS, CLS, EOS

DAY = datetime(2020, 1, 1)

#: Ids from 7 on, in this order. Ends of ranges are published as what 32 bits hold of a number, here of 128.9.
ENTRIES = [
    {"type": "code", "code": "SNOMED/3950001"},
    {"type": "code", "code": "Gender/F"},
    {"type": "code", "code": "SNOMED/44054006"},
    {
        "type": "numerical_range",
        "code": "LOINC/2345-7",
        "tokenization": {"unit": "None", "range_start": 0, "range_end": 90},
    },
    {
        "type": "numerical_range",
        "code": "LOINC/2345-7",
        "tokenization": {"unit": "None", "range_start": 90, "range_end": 128.89999389648438},
    },
    {"type": "code", "code": "RxNorm/860975"},
    {"type": "categorical", "code": "LOINC/5778-6", "tokenization": {"categories": ["Yellow"]}},
    {"type": "code", "code": "Visit/OP"},
]
SIZES = {
    "gpt2": {"n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 2},
    "llama": {
        "max_position_embeddings": 12,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
}
NETWORKS = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "mamba": "MambaForCausalLM"}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_):
        raise AssertionError("something asks the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def write_folder(tmp_path):
    """Writes a folder of the family with random weights, and gives it with its network."""

    def write(kind="gpt2", name=None, entries=ENTRIES, card=True, **saving):
        config = transformers.AutoConfig.for_model(
            kind, vocab_size=7 + len(ENTRIES), bos_token_id=0, eos_token_id=1, pad_token_id=4, **SIZES[kind]
        )
        torch.manual_seed(0)
        model = getattr(transformers, name or NETWORKS[kind])(config).eval()
        folder = tmp_path / f"{kind}-tiny-12-clmbr"
        model.save_pretrained(folder, **saving)
        text = json.dumps({"timestamp": "2024", "metadata": {}, "tokens": [{"stats": [], **each} for each in entries]})
        (folder / "tokenizer_config.json").write_text(text)
        if card:
            (folder / "README.md").write_text(f"This is a **{kind}** model with context length **12** with parameters.")
        return folder, model

    return write


@pytest.fixture
def records(write_events):
    """Events of two subjects, one more without any, and rows that ask about them."""
    facts = [
        (1, None, "GENDER//female"),
        (1, DAY - timedelta(days=9000), schema.BIRTH),
        (1, DAY, "VISIT_START//AMB"),
        (1, DAY, "LOINC//2345-7", 90.0, "mg/dL"),
        (1, DAY + timedelta(hours=1), "LOINC//2345-7", 128.9, "mg/dL"),
        (1, DAY + timedelta(hours=1), "SNOMED//44054006"),
        (1, DAY + timedelta(hours=2), "LOINC//2345-7", 200.0, "mg/dL"),
        (1, DAY + timedelta(hours=2), "LOCAL//1"),
        (1, DAY + timedelta(hours=3), "RxNorm//860975"),
        (1, DAY + timedelta(hours=3), "RxNorm//860975"),
        (2, DAY, "RxNorm//860975"),
        *[(3, DAY + timedelta(minutes=i), "SNOMED//44054006" if i % 2 else "RxNorm//860975") for i in range(20)],
    ]
    times = [(1, 0), (1, 2), (1, 3), (2, -1), (3, 24)]
    asked = [(subject, DAY + timedelta(hours=hours), None) for subject, hours in times]
    return write_events(facts), pl.DataFrame(asked, schema=schema.COHORT, orient="row")


def test_events_become_the_published_sequence(write_folder, records):
    folder, _ = write_folder()
    found = load_checkpoint(folder).encode(*records)
    upto_noon = [CLS, BOS, 7, 8, 14, 10]
    later = [11, 9]
    assert [list(map(int, ids)) for ids in found.ids] == [
        [*upto_noon, EOS],
        [*upto_noon, *later, EOS],
        [*upto_noon, *later, 12, 12, EOS],  # what comes again counts again
        [CLS, BOS, EOS],  # nothing was known yet
        [*[9, 12] * 5, 9, EOS],  # the last that fit into the context: as in the published evaluation
    ]
    assert found.known.tolist() == [4, 6, 8, 0, 20]
    assert found.unknown_codes.tolist() == [0, 1, 1, 0, 0]
    assert found.unknown_values.tolist() == [0, 1, 1, 0, 0]
    assert found.cut.tolist() == [0, 0, 0, 0, 11]
    assert all(ids.dtype == np.int64 for ids in found.ids)


def test_other_codes_of_an_event_and_texts_are_read(write_folder, write_events):
    events = write_events([(1, DAY, "LOCAL//sugar"), (1, DAY + timedelta(hours=1), "LOINC//5778-6")])
    path = events.folder / "data" / "0.parquet"
    frame = pl.read_parquet(path).with_columns(
        other_codes=pl.Series([["ICD10GM//E11.9", "SNOMED//44054006"], None], dtype=pl.List(pl.String)),
        text_value=pl.Series([None, "Yellow"]),
    )
    frame.write_parquet(path)
    rows = pl.DataFrame([(1, DAY + timedelta(days=1), None)], schema=schema.COHORT, orient="row")
    found = load_checkpoint(write_folder()[0]).encode(events, rows)
    assert found.ids[0].tolist() == [CLS, BOS, 9, 13, EOS]


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_comes_later_changes_no_id_and_no_vector(write_folder, records, kind):
    events, rows = records
    opened = load_checkpoint(write_folder(kind)[0])
    before = rows.filter(pl.col("prediction_time") <= DAY + timedelta(hours=2))
    path = events.folder / "data" / "0.parquet"
    ids, vectors = opened.encode(events, before).ids, opened.embed(events, before)
    kept = pl.col("time").is_null() | (pl.col("time") <= DAY + timedelta(hours=2))
    pl.read_parquet(path).filter(kept).write_parquet(path)
    again = opened.encode(events, before).ids
    assert [each.tolist() for each in again] == [each.tolist() for each in ids]
    np.testing.assert_array_equal(opened.embed(events, before), vectors)


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_embedding_is_the_last_hidden_state_of_a_direct_pass(write_folder, records, kind):
    folder, model = write_folder(kind)
    opened = load_checkpoint(folder)
    vectors = opened.embed(*records)
    assert vectors.shape == (5, 16) and vectors.dtype == np.float32
    for ids, vector in zip(opened.encode(*records).ids, vectors, strict=True):
        with torch.inference_mode():
            states = model(torch.from_numpy(ids)[None], output_hidden_states=True).hidden_states[-1]
        np.testing.assert_allclose(vector, states[0, -1].numpy(), rtol=1e-4, atol=1e-5)
    assert np.abs(np.diff(vectors, axis=0)).max(axis=1).min() > 1e-3  # they tell the rows apart


@pytest.mark.parametrize("kind", NETWORKS)
def test_it_opens_as_transformers_saved_it(write_folder, kind):
    folder, model = write_folder(kind)
    opened = load_checkpoint(str(folder))
    assert type(opened.model) is type(model) and not opened.model.training
    assert all(torch.equal(tensor, opened.model.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert opened.path == folder and kind in opened.card and opened.context == 12
    assert len(opened.tokenizer) == 15 and opened.tokenizer.tokens[9] == "SNOMED/44054006"


@pytest.mark.parametrize("kind", NETWORKS)
def test_half_precision_shards_and_the_published_way_of_saving_open_too(write_folder, kind):
    folder, model = write_folder(kind, max_shard_size="2KB")
    assert (folder / "model.safetensors.index.json").is_file() and not (folder / "model.safetensors").is_file()
    sharded = load_checkpoint(folder).model.state_dict()
    assert all(torch.equal(tensor, sharded[name]) for name, tensor in model.state_dict().items())
    save_model(model.half(), str(folder / "model.safetensors"), metadata={"format": "pt"})  # tied tensors once
    single = load_checkpoint(folder).model
    assert single.dtype == torch.float32
    assert all(torch.equal(tensor.float(), single.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("kind", "name"), [("gpt2", "GPT2Model"), ("llama", "LlamaModel"), ("mamba", "MambaModel")])
def test_a_network_without_a_head_embeds_alike(write_folder, records, kind, name):
    folder, model = write_folder(kind, name)
    opened = load_checkpoint(folder)
    ids = opened.encode(*records).ids[1]
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids)[None]).last_hidden_state[0, -1].numpy()
    np.testing.assert_allclose(opened.embed(*records)[1], expected, rtol=1e-4, atol=1e-5)


def test_mamba_without_a_card_reads_the_whole_record(write_folder, records):
    opened = load_checkpoint(write_folder("mamba", card=False)[0])
    assert opened.context is None and opened.card == ""
    assert len(opened.encode(*records).ids[4]) == 23


def test_opening_writes_nothing_and_needs_no_right_to(write_folder):
    folder, _ = write_folder()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    folder.chmod(0o500)
    load_checkpoint(folder)
    folder.chmod(0o700)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_no_rows_give_no_vectors(write_folder, records):
    events, rows = records
    assert load_checkpoint(write_folder()[0]).embed(events, rows.head(0)).shape == (0, 16)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "last.pt", "deep/model.pickle", "modeling_hyena.py"])
def test_a_file_that_could_execute_code_is_refused(write_folder, name):
    folder, _ = write_folder()
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
        ({"auto_map": {"AutoModelForCausalLM": "modeling_hyena.HyenaForCausalLM"}}, "auto_map"),
        ({"architectures": ["HyenaDNAForCausalLM"], "model_type": "hyenadna"}, "needs code from a hub"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "'BertForMaskedLM'.*Expected: one of GPT2"),
        ({"architectures": None}, "no architecture"),
        ({"architectures": ["LlamaForCausalLM"]}, "of type 'gpt2'"),
        ({"vocab_size": 16}, "has 15 tokens, 7 special.* embeds 16"),
        ({"vocab_size": "15"}, "embeds '15'"),
        ({"n_embd": 32}, "make no network"),
        ({"n_embd": "wide"}, "make no network"),
        ({"n_head": 0}, "make no network"),
        ({"n_layer": 3}, "do not fit"),
        ({"n_layer": 1}, "do not fit"),
        ({"activation_function": "unheard-of"}, "make no network"),
    ],
)
def test_a_wrong_configuration_is_refused(write_folder, changes, message):
    folder, _ = write_folder()
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation": "somebody/kernel"},
        {"attn_implementation": "somebody/kernel"},
        {"quantization_config": {"quant_method": "somebody"}},
        {"output_hidden_states": True, "unk_token_id": 2, "n_ctx": 12},
    ],
)
def test_keys_that_say_nothing_of_the_shape_are_not_heeded(write_folder, changes):
    folder, model = write_folder()
    edit(folder, **changes)
    opened = load_checkpoint(folder).model
    assert opened.config._attn_implementation == model.config._attn_implementation
    assert not hasattr(opened.config, "quantization_config") and not opened.config.output_hidden_states


@pytest.mark.parametrize("kept", [0, 5, 0.5])
def test_weights_that_are_cut_off_are_refused(write_folder, kept):
    path = write_folder()[0] / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(CheckpointError, match="broken or cut off"):
        load_checkpoint(path.parent)


def test_weights_that_are_missing_are_named(write_folder):
    folder, _ = write_folder()
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors missing"):
        load_checkpoint(folder)


def test_a_missing_shard_is_named(write_folder):
    folder, _ = write_folder(max_shard_size="2KB")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name} missing"):
        load_checkpoint(folder)


@pytest.mark.parametrize("named", ["../other.safetensors", "/etc/other.safetensors", "model.bin", 7, None])
def test_an_index_that_leads_elsewhere_is_refused(write_folder, named):
    folder, _ = write_folder(max_shard_size="2KB")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": named} if named is not None else None}))
    with pytest.raises(CheckpointError, match="no weight_map"):
        load_checkpoint(folder)


def test_weights_that_are_no_numbers_are_refused(write_folder):
    folder, _ = write_folder()
    tensors = load_file(folder / "model.safetensors")
    tensors[sorted(tensors)[0]].view(-1)[0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="no number"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b""])
def test_broken_json_is_named(write_folder, name, content):
    folder, _ = write_folder()
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"/{name} is no JSON object"):
        load_checkpoint(folder)


def test_a_tokenizer_of_another_kind_is_refused(write_folder):
    folder, _ = write_folder()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024}')
    with pytest.raises(CheckpointError, match="no list of tokens"):
        load_checkpoint(folder)


def test_a_vocabulary_that_does_not_fit_the_embedding_is_refused(write_folder):
    folder, _ = write_folder(entries=ENTRIES[:-1])
    with pytest.raises(CheckpointError, match=r"has 14 tokens, 7 special ones among them.* embeds 15"):
        load_checkpoint(folder)


def test_an_adapter_that_names_another_model_is_refused(write_folder):
    folder, _ = write_folder()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/model"}')
    with pytest.raises(CheckpointError, match="names another model"):
        load_checkpoint(folder)


@pytest.mark.parametrize("opened", [check_checkpoint, checkpoint_vocabulary])
def test_it_cannot_be_adapted(write_folder, opened):
    with pytest.raises(CheckpointError, match=r"Context Clues family.*cannot be adapted"):
        opened(write_folder()[0])


def test_a_pipeline_that_begins_with_one_is_refused_before_anything_is_read(write_folder, tmp_path):
    import yaml

    import ehr_tl
    from ehr_tl.config import pipeline_path

    folder, _ = write_folder()
    raw = yaml.safe_load(pipeline_path("demo").read_text(encoding="utf-8"))
    raw["transformer"] = {**(raw.get("transformer") or {}), "checkpoint": str(folder)}
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"Context Clues family.*cannot be adapted"):
        ehr_tl.run(tmp_path / "pipeline.yaml", out=tmp_path / "run")
    assert not (tmp_path / "run" / "events").exists()


def test_what_it_knows_of_codes_is_told_without_opening_its_network(write_folder):
    folder, _ = write_folder()
    (folder / "model.safetensors").unlink()
    known = checkpoint_knowledge(folder)
    assert {"SNOMED//44054006", "LOINC//2345-7", "GENDER//female", "VISIT_START//AMB"} <= known.codes
    assert "SNOMED//1" not in known.codes and not known.parents and not known.words
