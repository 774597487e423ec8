"""What every model of this package can do: fit, score on the logit, and explain itself additively.

A *row* is a subject at a prediction time (`schema.ROWS`); models address rows by their position in the frame that
`Learner.prepare` was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from ehr_tl.events import Events

#: Columns of `Attribution.parts`.
PARTS = {"row": pl.UInt32, "kind": pl.String, "code": pl.String, "shap": pl.Float64}


@dataclass(frozen=True)
class Attribution:
    """Additive explanation of many logits: per row, `base` plus the sum of its `shap` is the logit.

    Attributes:
        base: Logit of each row when nothing is known of it, shape (n,).
        parts: Columns as in `PARTS`. `row` is a position in the index that was asked for; `kind` one of
            `schema.KINDS` ("event" when exactly one event of that code was in view, "missing" when none);
            `code` an event code, `schema.AGE`, `schema.GENDER`, or a group such as `GROUP//everything else`.
    """

    base: np.ndarray
    parts: pl.DataFrame

    def logit(self) -> np.ndarray:
        """Base plus the parts' sum, shape (n,).

        Examples:
            >>> parts = pl.DataFrame({"row": [0], "kind": ["demographic"], "code": ["AGE"], "shap": [2.0]})
            >>> Attribution(np.array([1.0, 0.5]), parts).logit().tolist()
            [3.0, 0.5]
        """
        total = np.array(self.base, dtype=float)
        np.add.at(total, self.parts["row"].to_numpy(), self.parts["shap"].to_numpy())
        return total


class RiskModel(Protocol):
    """One fitted model."""

    def logit(self, inputs: Any, index: np.ndarray) -> np.ndarray:
        """Raw log odds of the rows `index` of `inputs`, shape (len(index),)."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the model into `folder` (which exists): LightGBM text, safetensors or JSON.

        What it has from the learner's checkpoint is not written again.
        """
        ...


class Learner(Protocol):
    """A way to make models: encodes rows, fits, opens saved fits, explains.

    Attributes:
        name: Name of the model in `schema.SCORES`, or a comparison's.
        config: A dataclass of plain values; fits are repeated when it changes.
        comparison: The learner is evaluated beside the others and takes no part in the scores.
        as_is: Its scores were learned at the sources alone: `fit` looks at no label, and they stand as they are.
        share: Its weight in the blend before any case was looked at, relative to that of others; 0 where local cases
            alone teach it.
        related: It answers other questions, averaged, since it was not taught the one that is asked.
    """

    name: str
    config: Any
    comparison: bool
    as_is: bool
    share: float
    related: bool

    def prepare(self, events: Events, rows: pl.DataFrame) -> Any:
        """Encodes `rows` (`schema.ROWS`): nothing after a row's prediction time, nothing fitted on labels."""
        ...

    def fit(self, inputs: Any, labels: np.ndarray, train: np.ndarray, *, seed: int, state: Path) -> RiskModel:
        """Fits on the rows `train` (positions); `state` is a folder where an interrupted fit finds its state again.

        Args:
            inputs: What `prepare` gave.
            labels: 0 or 1 for each row of `inputs` (only those at `train` are looked at), shape (n,).
            train: Positions of the training rows. Subjects are whole: no subject has rows outside as well.
            seed: Fixes everything random.
            state: Folder that may hold an interrupted fit's state; the caller removes it after the fit was saved.
        """
        ...

    def load(self, folder: Path) -> RiskModel:
        """Opens what `RiskModel.save` wrote, and what that left out from the learner's checkpoint."""
        ...

    def base(self, models: list[RiskModel], inputs: Any, index: np.ndarray) -> list[np.ndarray]:
        """The `base` that `explain` gives the rows `index`, alone: scores state it without being explained."""
        ...

    def explain(self, models: list[RiskModel], inputs: Any, index: np.ndarray) -> list[Attribution]:
        """Explains the rows `index` under each model; the attributions have the same parts in the same order.

        Learners whose `explain` is one and the same share their inputs too, and their models are explained together.
        """
        ...
