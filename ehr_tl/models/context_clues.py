"""Checkpoints of the Context Clues family: GPT-2, Llama and Mamba weights with hf_ehr's `tokenizer_config.json`.

They are opened offline and read-only, without hf_ehr, and can be embedded. Reference: Wornow et al. 2025, "Context
Clues: Evaluating Long Context Models for Clinical Prediction Tasks on EHRs", https://arxiv.org/abs/2412.16178.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ehr_tl import schema
from ehr_tl.concepts import concept, names_of
from ehr_tl.errors import CheckpointError
from ehr_tl.events import Events
from ehr_tl.models.folder import (
    CONFIG,
    COPY_AGAIN,
    ELSEWHERE,
    WEIGHTS,
    cut_off,
    read_config,
    read_object,
    read_text,
    refuse_executable,
    require_files,
)
from ehr_tl.progress import track
from ehr_tl.tokens.context_clues import BOS, CLS, EOS, PAD, SPECIAL, UNKNOWN_CODE, UNKNOWN_VALUE, CodeTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENIZER, INDEX, CARD = "tokenizer_config.json", "model.safetensors.index.json", "README.md"

#: The networks that `transformers` can make of such weights, by the name in config.json.
_ARCHITECTURES = ("GPT2LMHeadModel", "GPT2Model", "LlamaForCausalLM", "LlamaModel", "MambaForCausalLM", "MambaModel")

#: What `transformers` raises where a configuration and weights make no network.
_INVALID = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, AssertionError, RuntimeError, OSError)

_BATCH = 8192  # tokens of one pass


@dataclass(frozen=True)
class Tokenized:
    """Rows as ids, and what became of their events.

    Attributes:
        ids: Of each row `[CLS] [BOS] ... [EOS]`, the last ones where that is more than the network reads; int64.
        known: Events that have a token, shape (rows,).
        unknown_codes: Events none of whose codes the vocabulary has, shape (rows,). They give no token.
        unknown_values: Events whose code it has, but whose value is none of its ranges or texts, shape (rows,). They
            give no token.
        cut: Ids that were cut off at the beginning, shape (rows,).
    """

    ids: tuple[np.ndarray, ...]
    known: np.ndarray
    unknown_codes: np.ndarray
    unknown_values: np.ndarray
    cut: np.ndarray


@dataclass(frozen=True)
class ContextClues:
    """A checkpoint of the Context Clues family.

    Attributes:
        model: The network as `transformers` makes it, in evaluation mode, single precision.
        tokenizer: How it reads events.
        card: Its README.md, "" if it has none.
        path: Where it was opened.
    """

    model: PreTrainedModel
    tokenizer: CodeTokenizer
    card: str
    path: Path

    @property
    def context(self) -> int | None:
        """How many ids it reads: its positions; for Mamba, which has none, what the card says; None without a bound."""
        stated = re.search(r"context length \**(\d+)", self.card)
        return getattr(self.model.config, "max_position_embeddings", None) or (int(stated[1]) if stated else None)

    def encode(self, events: Events, rows: pl.DataFrame) -> Tokenized:
        """Ids of the events that are known at each row's prediction time, as hf_ehr makes them.

        Events are in the order of their times, and of the events folder where these are equal; what has no time stands
        after the birth. An event that gives no token is left out, as by hf_ehr, and counted.

        Args:
            events: The events folder.
            rows: Columns `subject_id` and `prediction_time`.
        """
        subject, time, token = _tokens(events, rows, self.tokenizer)
        asked = rows["subject_id"].to_numpy()
        first, last = np.searchsorted(subject, asked), np.searchsorted(subject, asked, "right")
        until = rows["prediction_time"].dt.timestamp("us").to_numpy()
        seen = [token[a : a + np.searchsorted(time[a:b], t, "right")] for a, b, t in zip(first, last, until)]
        whole = [np.r_[CLS, BOS, tokens[tokens >= 0], EOS] for tokens in seen]
        context = self.context or max(map(len, whole), default=0)
        return Tokenized(
            ids=tuple(each[-context:] for each in whole),
            known=_counts(tokens >= 0 for tokens in seen),
            unknown_codes=_counts(tokens == UNKNOWN_CODE for tokens in seen),
            unknown_values=_counts(tokens == UNKNOWN_VALUE for tokens in seen),
            cut=np.array([max(0, len(each) - context) for each in whole], dtype=np.int64),
        )

    def embed(self, events: Events, rows: pl.DataFrame) -> np.ndarray:
        """What the network makes of each row: the last hidden state of its last id, float32, shape (rows, width).

        Args:
            events: The events folder.
            rows: Columns `subject_id` and `prediction_time`.
        """
        import torch
        from torch.nn.utils.rnn import pad_sequence

        ids = self.encode(events, rows).ids
        vectors = np.zeros((len(ids), self.model.config.hidden_size), dtype=np.float32)
        for batch in track(list(_batches(ids)), f"embedding with {self.path.name}"):
            lengths = torch.tensor([len(ids[row]) for row in batch])
            # Padding stands behind, where a causal network does not see it.
            padded = pad_sequence([torch.from_numpy(ids[row]) for row in batch], batch_first=True, padding_value=PAD)
            mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
            with torch.inference_mode():
                states = self.model.base_model(padded, attention_mask=mask, use_cache=False).last_hidden_state
            vectors[batch] = states[torch.arange(len(batch)), lengths - 1].numpy()
        return vectors


def _counts(masks: Iterator[np.ndarray]) -> np.ndarray:
    return np.array([int(mask.sum()) for mask in masks], dtype=np.int64)


def _batches(ids: tuple[np.ndarray, ...]) -> Iterator[list[int]]:
    """Rows of like length that fill at most `_BATCH` padded places (or one row)."""
    batch: list[int] = []
    for row in sorted(range(len(ids)), key=lambda row: len(ids[row])):
        if batch and (len(batch) + 1) * len(ids[row]) > _BATCH:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _tokens(events: Events, rows: pl.DataFrame, tokenizer: CodeTokenizer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subject, time (microseconds since 1970) and id of all events of the rows' subjects, in the order of reading."""
    birth, static = pl.col("code") == schema.BIRTH, pl.col("time").is_null()
    born = pl.col("time").filter(birth).min().over("subject_id")
    frame = (
        events.history()
        .filter(pl.col("subject_id").is_in(rows["subject_id"].unique().to_list()))
        .select("subject_id", "code", "time", "numeric_value", "text_value", "unit", concept=concept())
        .with_columns(pl.col("time").fill_null(born), rank=pl.when(birth).then(0).when(static).then(1).otherwise(2))
        .sort("subject_id", "time", "rank", nulls_last=False, maintain_order=True)
        .collect()
    )
    codes = {each: tuple(names_of(each)) for each in frame["concept"].unique()}
    values = zip(frame["concept"], frame["numeric_value"], frame["text_value"], frame["unit"])
    found = (tokenizer.identify(codes[each], number, text, unit) for each, number, text, unit in values)
    time = frame["time"].dt.timestamp("us").fill_null(np.iinfo(np.int64).min)
    return frame["subject_id"].to_numpy(), time.to_numpy(), np.fromiter(found, dtype=np.int64, count=frame.height)


def is_context_clues(path: Path) -> bool:
    """Whether a folder is of this family, by the files in it: a tokenizer of theirs and no vocabulary of ours."""
    return (path / TOKENIZER).is_file() and not (path / "vocabulary.json").is_file()


def load_tokenizer(path: Path) -> CodeTokenizer:
    """How a checkpoint of this family reads events; its network is not opened."""
    return CodeTokenizer(_entries(path / TOKENIZER))


def load_context_clues(path: Path) -> ContextClues:
    """Opens a folder of this family: config.json, weights in safetensors, tokenizer_config.json, README.md if there is.

    Raises:
        CheckpointError: A file is missing or broken, something in the folder could execute code or names another
            model to be fetched, the architecture is none of the family's, or sizes disagree.
    """
    require_files(path, CONFIG)
    config = read_config(path / CONFIG)
    name = _architecture(path, config)
    refuse_executable(path, f"{CONFIG}, {WEIGHTS}, {TOKENIZER} and {CARD} alone")
    if (path / "adapter_config.json").exists():
        raise CheckpointError(
            f"{path} holds adapter_config.json, which names another model to be fetched", expected="whole weights"
        )
    tokenizer = load_tokenizer(path)
    _check_weights(path)
    if config.get("vocab_size") != len(tokenizer):
        raise CheckpointError(
            f"{path}: {TOKENIZER} has {len(tokenizer):,} tokens, {len(SPECIAL)} special ones among them, and {CONFIG} "
            f"embeds {config.get('vocab_size')!r}",
            expected="both from one checkpoint",
            fix=COPY_AGAIN,
        )
    card = read_text(path / CARD) if (path / CARD).is_file() else ""
    return ContextClues(_model(path, name, config), tokenizer, card, path)


def _architecture(path: Path, config: dict[str, Any]) -> str:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if name not in _ARCHITECTURES:
        hyena = "hyena" in f"{name} {config.get('model_type')}".lower()
        raise CheckpointError(
            f"{path / CONFIG} describes {f'the architecture {name!r}' if name else 'no architecture'}"
            + (", which needs code from a hub to be executed" if hyena else ""),
            expected=f"one of {', '.join(_ARCHITECTURES)}",
            fix="take one of the GPT-2, Llama or Mamba checkpoints of the family",
        )
    return name


def _entries(path: Path) -> list[Any]:
    entries = read_object(path).get("tokens")
    if not isinstance(entries, list):
        raise CheckpointError(
            f"{path} has no list of tokens",
            expected="the file that hf_ehr wrote for the weights, with `metadata` and `tokens`",
            fix=COPY_AGAIN,
        )
    return entries


def _check_weights(path: Path) -> None:
    """Whether all shards are there, in whole length."""
    from safetensors import SafetensorError, safe_open

    shards = [WEIGHTS] if not (path / INDEX).is_file() or (path / WEIGHTS).is_file() else _shards(path / INDEX)
    require_files(path, *shards)
    for shard in shards:
        try:
            with safe_open(path / shard, framework="numpy"):
                pass
        except SafetensorError:
            raise cut_off(path / shard) from None


def _shards(index: Path) -> list[str]:
    """The files that an index names, all in its own folder."""
    named = read_object(index).get("weight_map")
    shards = sorted(set(named.values())) if isinstance(named, dict) and all(map(_is_shard, named.values())) else []
    if not shards:
        raise CheckpointError(
            f"{index} has no weight_map of tensors to files",
            expected="names of safetensors files beside it",
            fix=COPY_AGAIN,
        )
    return shards


def _is_shard(name: Any) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def _model(path: Path, name: str, config: dict[str, Any]) -> PreTrainedModel:
    """The network with its weights, in evaluation mode, single precision."""
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    network = getattr(transformers, name)
    kind = network.config_class
    if config.get("model_type") != kind.model_type:
        raise CheckpointError(
            f"{path / CONFIG} describes a {name} of type {config.get('model_type')!r}", expected=f"{kind.model_type!r}"
        )
    # Only what says how the network is built: `transformers` takes other keys for the name of code to fetch and run.
    shape = {*kind.__annotations__, *kind.attribute_map, "rope_theta", "rope_scaling"}
    try:
        with _no_bar():
            model, found = network.from_pretrained(
                path,
                config=kind.from_dict({key: value for key, value in config.items() if key in shape}),
                dtype="float32",
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (StrictDataclassError, SafetensorError, *_INVALID) as error:
        raise CheckpointError(
            f"{path}: {CONFIG} and the weights make no network ({type(error).__name__})",
            expected="both from one checkpoint",
            fix=COPY_AGAIN,
        ) from None
    wrong = sorted([*found["missing_keys"], *found["unexpected_keys"], *map(str, found["mismatched_keys"])])
    if wrong:
        raise CheckpointError(
            f"{path}: the weights do not fit {CONFIG}: {len(wrong)} tensors differ, the first is {wrong[0]}",
            fix=COPY_AGAIN,
        )
    if any(not tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise CheckpointError(f"{path}: the weights hold what is no number", fix=ELSEWHERE)
    return model.eval()


@contextmanager
def _no_bar() -> Iterator[None]:
    """Keeps `transformers` from drawing a bar over a matter of a second."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()
