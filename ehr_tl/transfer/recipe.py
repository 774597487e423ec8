"""A recipe: how a checkpoint is made. YAML, read as strictly as a pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from ehr_tl.config import Name, Said, Within, build, read_yaml, shipped_file
from ehr_tl.errors import PipelineError

#: What `ehr-tl pretrain` follows when it is told nothing else: from nothing on, and from a checkpoint on.
BASE, CONTINUED = "ehr_tl_base", "continued"


@dataclass(frozen=True)
class NetworkConfig:
    """The network.

    Attributes:
        width, layers, heads, feed_forward: Of the Llama decoder.
        buckets: Hash buckets for the words of descriptions.
        slot_hours: Width of a slot where an export's adapter names none.
        max_slots: Slots that a row looks back on.
        time_unit_hours: One step of the rotary position.
        rope_theta: Base of its frequencies: the longest wave is about 6 times as many steps.
    """

    width: Annotated[int, Within(8, 8192)] = 128
    layers: Annotated[int, Within(1, 128)] = 4
    heads: Annotated[int, Within(1, 128)] = 4
    feed_forward: Annotated[int, Within(8, 32_768)] = 384
    buckets: Annotated[int, Within(16, 1_000_000)] = 4096
    slot_hours: Annotated[float, Within(0.01, 10_000)] = 24.0
    max_slots: Annotated[int, Within(2, 8192)] = 256
    time_unit_hours: Annotated[float, Within(0.001, 10_000)] = 1.0
    rope_theta: Annotated[float, Within(10)] = 100_000.0


@dataclass(frozen=True)
class TrainingConfig:
    """How it is trained.

    Attributes:
        epochs: Passes over the subjects, each with one stretch of their record.
        queries: Random prediction times per subject and epoch; those in that stretch are used.
        batch_slots: Slots of one step.
        lane_slots: Slots of a lane, into which short sequences are packed.
        learning_rate, weight_decay: Of AdamW; the rate rises, then falls along a cosine.
        event_dropout: Share of events hidden at random.
        code_dropout: Mean share of codes that a step knows by their relatives and words alone; half of these by their
            words alone.
        min_subjects: Fewest subjects for a code to be known by itself and to be an outcome.
        horizons_days: Within how many days outcomes are foretold.
        values, outcomes, tasks: Weights of these losses beside that of the next slot's codes.
    """

    epochs: Annotated[int, Within(1, 10_000)] = 12
    queries: Annotated[int, Within(1, 1000)] = 6
    batch_slots: Annotated[int, Within(16)] = 4096
    lane_slots: Annotated[int, Within(16)] = 256
    learning_rate: Annotated[float, Within(1e-7, 1)] = 2e-3
    weight_decay: Annotated[float, Within(0, 1)] = 0.05
    event_dropout: Annotated[float, Within(0, 0.9)] = 0.2
    code_dropout: Annotated[float, Within(0, 0.5)] = 0.3
    min_subjects: Annotated[int, Within(1)] = 10
    horizons_days: tuple[Annotated[int, Within(1, 36_500)], ...] = (30, 365, 730)
    values: Annotated[float, Within(0)] = 0.5
    outcomes: Annotated[float, Within(0)] = 0.01
    tasks: Annotated[float, Within(0)] = 2.0


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is made.

    Attributes:
        name: Its name.
        title: What comes out, in a line.
        tasks: Name of an adapter -> pipelines whose questions its exports answer: the source tasks. Where pretraining
            is continued they are not looked at: heads and trees stay those of the checkpoint.
        network: Where pretraining is continued, the checkpoint's counts instead.
        training: How it is trained.
        licence: Under which its weights may be passed on (an SPDX identifier), as its card says; None: it says nothing.
    """

    name: Name
    title: Said
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    licence: Name | None = None


def load_recipe(name: str | Path) -> Recipe:
    """Reads a recipe file, or a shipped recipe by name.

    Raises:
        PipelineError: There is no such file, it is no YAML mapping, or a key or value is wrong.
    """
    path = shipped_file(name, "pipelines/pretraining", "recipe")
    recipe = build(Recipe, read_yaml(path, Recipe), str(path), PipelineError)
    network, horizons = recipe.network, recipe.training.horizons_days
    if network.width % (2 * network.heads):
        raise PipelineError(
            f"{path}: network: width is {network.width} and heads is {network.heads}",
            expected="a width that is a multiple of twice the heads: rotary positions turn pairs of numbers",
        )
    if not horizons or list(horizons) != sorted(set(horizons)):
        raise PipelineError(
            f"{path}: training: horizons_days is {list(horizons)}", expected="one number of days or more, ascending"
        )
    return recipe
