"""Checkpoint folders: config.json, model.safetensors, vocabulary.json, MODEL_CARD.md, and what goes with these.

They are opened offline and read-only. Nothing in them is executed: no pickle, no code of their own.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ehr_tl.errors import CheckpointError
from ehr_tl.files import whole, write_json
from ehr_tl.models.context_clues import ContextClues, is_context_clues, load_context_clues
from ehr_tl.models.folder import (
    CONFIG,
    COPY_AGAIN,
    ELSEWHERE,
    WEIGHTS,
    cut_off,
    read_config,
    read_text,
    refuse_executable,
    require_files,
)
from ehr_tl.resources import checkpoints

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import torch

    from ehr_tl.events import Events
    from ehr_tl.models.network import EhrModel
    from ehr_tl.models.source import SourceModels
    from ehr_tl.tokens.vocabulary import Vocabulary

VOCABULARY, CARD, SOURCE = "vocabulary.json", "MODEL_CARD.md", "source"
_FILES = (CONFIG, WEIGHTS, VOCABULARY, CARD)
#: Keys of config.json: `transformers` takes some others for the name of code to fetch and run.
_KEYS = frozenset(
    """
    architectures attention_bias attention_dropout bins bos_token_id buckets dtype eos_token_id head_dim hidden_act
    hidden_size horizons_days initializer_range intermediate_size max_position_embeddings max_slots mlp_bias model_type
    num_attention_heads num_hidden_layers num_key_value_heads outcomes pad_token_id pretraining_tp rms_norm_eps
    rope_parameters slot_hours tasks tie_word_embeddings time_unit_hours transformers_version use_cache valued
    vocab_size
    """.split()  # noqa: SIM905 (a list would fill half a screen)
)
#: Those of them that are sizes, widths and the like.
_POSITIVE = frozenset(
    """
    bins buckets head_dim hidden_size intermediate_size max_position_embeddings max_slots num_attention_heads
    num_hidden_layers num_key_value_heads rms_norm_eps slot_hours time_unit_hours valued vocab_size
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Checkpoint:
    """A pretrained network with what it needs to read records.

    Attributes:
        model: The network, in evaluation mode, single precision.
        vocabulary: How it reads codes and values.
        card: Its model card, Markdown.
        path: Where it was opened.
    """

    model: EhrModel
    vocabulary: Vocabulary
    card: str
    path: Path

    @cached_property
    def source(self) -> SourceModels | None:
        """The boosted trees that were fitted on its source hospitals; None if it has none.

        Raises:
            CheckpointError: They are broken.
        """
        from ehr_tl.models.source import SourceModels

        return SourceModels.load(self.path / SOURCE) if (self.path / SOURCE).is_dir() else None

    def embed(self, events: Events, rows: pl.DataFrame) -> np.ndarray:
        """What the network makes of each row: its vector of the query slot, float32, shape (rows, width).

        Args:
            events: The events folder.
            rows: Columns `subject_id` and `prediction_time`; nothing after it is looked at.
        """
        from ehr_tl.models.embedding import embed

        return embed(self, events, rows)

    def answer(self, task: str, events: Events, rows: pl.DataFrame) -> np.ndarray | None:
        """Log odds of a source task's outcome by the network's own head, shape (rows,); None if it has none for it."""
        tasks = self.model.config.tasks or []
        return self._answers(events, rows)[:, tasks.index(task)] if task in tasks else None

    def source_scores(self, events: Events, rows: pl.DataFrame) -> pl.DataFrame:
        """What the sources' models say of another hospital's patients, as they are: not calibrated to it.

        Args:
            events: The events folder.
            rows: Columns `subject_id` and `prediction_time`; nothing after it is looked at.

        Returns:
            A row per task, model (`lightgbm`, `transformer`) and row: `task`, `model`, `subject_id`,
            `prediction_time`, `logit`. None where the checkpoint answers no question.
        """
        import polars as pl

        from ehr_tl import schema

        scores = {}
        if self.source is not None:
            scores.update({(task, "lightgbm"): self.source.score(task, events, rows) for task in self.source.tasks})
        if self.model.config.tasks:
            answers = self._answers(events, rows)
            scores.update({(task, "transformer"): answers[:, i] for i, task in enumerate(self.model.config.tasks)})
        asked = rows.select("subject_id", "prediction_time")
        kinds = {"task": pl.String, "model": pl.String, **schema.CURRENT, "logit": pl.Float64}
        lines = [
            asked.select(
                pl.lit(task).alias("task"),
                pl.lit(model).alias("model"),
                "subject_id",
                "prediction_time",
                pl.Series("logit", logits, dtype=pl.Float64),
            )
            for (task, model), logits in sorted(scores.items(), key=lambda item: item[0])
        ]
        return pl.concat(lines) if lines else pl.DataFrame(schema=kinds)

    def _answers(self, events: Events, rows: pl.DataFrame) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return self.model.tasks(torch.from_numpy(self.embed(events, rows))).numpy()


def checkpoint_path(name: str | Path) -> Path:
    """The folder of a checkpoint given by path or shipped name.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(name)
    if path.is_dir():
        return path
    shipped = checkpoints() / str(name)
    if shipped.is_dir() and shipped.parent == checkpoints():
        return shipped
    names = sorted(each.name for each in checkpoints().glob("*") if each.is_dir())
    raise CheckpointError(
        f"There is no checkpoint {str(name)!r}", expected=f"a folder or one of: {', '.join(names) or '(none ships)'}"
    )


def check_checkpoint(name: str | Path) -> Path:
    """The folder of a checkpoint; looks into all of its files, but makes no network of them, so that it is quick.

    Raises:
        CheckpointError: There is none, it is another family's, a file is missing or broken, or something in the folder
            could execute code.
    """
    from safetensors import SafetensorError, safe_open

    path = _own(name)
    _check_files(path)
    _config(path / CONFIG), _vocabulary(path / VOCABULARY), read_text(path / CARD)
    try:
        with safe_open(path / WEIGHTS, framework="numpy"):  # reads the header: are all tensors there, in whole length?
            pass
    except SafetensorError:
        raise cut_off(path / WEIGHTS) from None
    if (path / SOURCE).is_dir():
        from ehr_tl.models.source import SourceModels

        SourceModels.load(path / SOURCE)
    return path


def checkpoint_vocabulary(name: str | Path) -> Vocabulary:
    """What a checkpoint knows of codes and values; its network is not opened.

    Raises:
        CheckpointError: There is no such checkpoint, it is another family's, or its vocabulary is broken.
    """
    return _vocabulary(_own(name) / VOCABULARY)


def checkpoint_tasks(name: str | Path) -> tuple[str, ...]:
    """The source tasks that a checkpoint's network answers; the network is not opened.

    Raises:
        CheckpointError: There is no such checkpoint, it is another family's, or its configuration is broken.
    """
    return tuple(_config(_own(name) / CONFIG).get("tasks") or ())


def _own(name: str | Path) -> Path:
    """The folder of a checkpoint of this package."""
    path = checkpoint_path(name)
    if is_context_clues(path):
        raise CheckpointError(
            f"{path} is a checkpoint of the Context Clues family, which can be embedded and cannot be adapted here",
            expected="a checkpoint of this package",
            fix="name another, or use the vectors of ehr_tl.load_checkpoint(FOLDER).embed in a model of your own",
        )
    return path


def load_checkpoint(name: str | Path) -> Checkpoint | ContextClues:
    """Opens a checkpoint folder, or a shipped checkpoint by name, without network access.

    A folder that has hf_ehr's `tokenizer_config.json` and no vocabulary of ours is one of the Context Clues family.

    Raises:
        CheckpointError: A file is missing or broken, something in the folder could execute code, or sizes disagree.
    """
    path = checkpoint_path(name)
    return load_context_clues(path) if is_context_clues(path) else load_own_checkpoint(path)


def load_own_checkpoint(name: str | Path) -> Checkpoint:
    """Opens a checkpoint of this package, the only kind that can be adapted; see `load_checkpoint`."""
    path = _own(name)
    _check_files(path)
    config, vocabulary, card = _config(path / CONFIG), _vocabulary(path / VOCABULARY), read_text(path / CARD)
    model = load_model(path, config)
    fitted = model.config.fitted(vocabulary)
    if fitted.to_dict() != model.config.to_dict():
        raise CheckpointError(
            f"{path}: {VOCABULARY} has {len(vocabulary.codes)} codes, {len(vocabulary.valued)} of them with values, "
            f"and {CONFIG} says otherwise",
            expected="both from one checkpoint",
            fix=COPY_AGAIN,
        )
    return Checkpoint(model, vocabulary, card, path)


def _check_files(path: Path) -> None:
    refuse_executable(path, f"{CONFIG}, {WEIGHTS}, {VOCABULARY} and {CARD} alone")
    require_files(path, *_FILES)


def _config(path: Path) -> dict[str, Any]:
    config = read_config(path)
    kind = config.get("model_type")
    if kind != "ehr_tl":
        raise CheckpointError(f"{path} describes a model of type {kind!r}", expected="model_type 'ehr_tl'")
    if unknown := sorted(config.keys() - _KEYS):
        raise CheckpointError(
            f"{path} has the key {unknown[0]!r}, which is none of this package's",
            expected=f"keys {', '.join(sorted(_KEYS))}",
            fix=ELSEWHERE,
        )
    for name in _POSITIVE & config.keys():
        value = config[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise CheckpointError(f"{path}: {name} is {value!r}", expected="a number above 0", fix=COPY_AGAIN)
    return config


def _vocabulary(path: Path) -> Vocabulary:
    from ehr_tl.tokens.vocabulary import Vocabulary

    try:
        return Vocabulary.load(path)
    except CheckpointError as error:
        if isinstance(error.__context__, KeyError):
            raise CheckpointError(f"{path} has no {error.__context__.args[0]!r}", fix=COPY_AGAIN) from None
        raise


def load_model(folder: Path, config: dict[str, Any] | None = None) -> EhrModel:
    """Opens config.json and model.safetensors of a folder as a network in evaluation mode, single precision."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ehr_tl.models.network import EhrConfig, EhrModel

    invalid = (StrictDataclassError, TypeError, ValueError, LookupError, AttributeError, AssertionError, RuntimeError)
    try:
        model = EhrModel(EhrConfig.from_dict(config if config is not None else _config(folder / CONFIG)))
    except invalid as error:
        raise CheckpointError(
            f"{folder / CONFIG} describes no network that can be made ({type(error).__name__})", fix=COPY_AGAIN
        ) from None
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError:
        raise cut_off(folder / WEIGHTS) from None
    _check_shapes(folder, model, tensors)
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"{folder / WEIGHTS}: {broken[0]} holds what is no number", fix=COPY_AGAIN)
    model.load_state_dict(tensors)
    return model.eval()


def _check_shapes(folder: Path, model: EhrModel, tensors: dict[str, torch.Tensor]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{folder / WEIGHTS} does not fit {CONFIG}: {len(wrong)} tensors differ, the first is {name} with shape "
            f"{found.get(name, 'missing')}",
            expected=f"shape {expected.get(name, 'none of that name')}",
            fix=COPY_AGAIN,
        )


def save_model(model: EhrModel, folder: Path) -> None:
    """Writes config.json and model.safetensors, half precision, into a folder that exists."""
    import torch
    from safetensors.torch import save_file

    tensors = {name: tensor.to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    with whole(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    config = {**model.config.to_diff_dict(), "architectures": [type(model).__name__], "dtype": "float16"}
    write_json(folder / CONFIG, config)


def save_checkpoint(folder: Path, model: EhrModel, vocabulary: Vocabulary, card: str) -> None:
    """Writes a checkpoint folder, whole or not at all."""
    with whole(folder) as temporary:
        temporary.mkdir()
        save_model(model, temporary)
        vocabulary.save(temporary / VOCABULARY)
        (temporary / CARD).write_text(card, encoding="utf-8")


def keep_checkpoint(name: str | Path, folder: Path) -> None:
    """Copies what models read of a checkpoint, whole or not at all: not whom it has seen, nor how it was made."""
    path = checkpoint_path(name)
    trees = (file for file in (path / SOURCE).rglob("*") if file.is_file())
    with whole(folder) as temporary:
        for file in (*(path / each for each in _FILES), *trees):
            target = temporary / file.relative_to(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def round_to_half(model: EhrModel) -> None:
    """Rounds weights to what half precision can hold, so that a saved model is the model that was evaluated."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
