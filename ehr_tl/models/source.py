"""Source scores: boosters that were fitted on the hospitals of a checkpoint, and go with it to others.

A folder `source` beside the weights holds `tasks.json` and, per task, the trees as LightGBM writes them (text). At
another hospital the features are made from its own events, and those that the trees ask for are taken by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import polars as pl

from ehr_tl import features
from ehr_tl.errors import CheckpointError
from ehr_tl.events import Events
from ehr_tl.files import whole, write_json
from ehr_tl.models.folder import COPY_AGAIN, read_object, read_text
from ehr_tl.models.gradient_boosting import GradientBoosting
from ehr_tl.models.tuning import Tuned

TASKS = "tasks.json"

#: What `tasks.json` says of a task beside its description: how its trees are read.
_READING = ("columns", "tuned", "sha256")


@dataclass(frozen=True)
class SourceModels:
    """One fitted booster for each source task.

    Attributes:
        tasks: Name of a task -> what is known of it: `title`, `question`, `outcome`, `adapters` (of the sources that
            labelled it), `rows`, `subjects`, `positives` (rows), `windows_days` of its features; and `share`, that of
            the trees in the mixture with the network's head that does best at the sources, where that was looked at.
        models: Name of a task -> its booster.
    """

    tasks: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, GradientBoosting]

    def score(self, name: str, events: Events, rows: pl.DataFrame) -> np.ndarray:
        """Log odds of a task's outcome, by trees that never saw this hospital.

        Args:
            name: The task.
            events: Events of any hospital; codes that the trees do not ask for do no harm, missing ones are empty.
            rows: `subject_id` and `prediction_time`, naive UTC; nothing after it is looked at.

        Returns:
            float64, shape (rows,).

        Raises:
            CheckpointError: There is no such task.
        """
        if name not in self.models:
            raise CheckpointError(
                f"The checkpoint has no source model {name!r}", expected=f"one of: {', '.join(self.models)}"
            )
        found = features.build(events, rows, self.tasks[name]["windows_days"])
        return self.models[name].logit(found, np.arange(rows.height))

    def answer(self, name: str, events: Events, rows: pl.DataFrame) -> np.ndarray | None:
        """What `score` gives; None where there is no model for the task."""
        return self.score(name, events, rows) if name in self.models else None

    def only(self, names: Sequence[str]) -> SourceModels:
        """The models of some tasks."""
        return SourceModels({name: self.tasks[name] for name in names}, {name: self.models[name] for name in names})

    def share(self, names: Sequence[str]) -> float:
        """The trees' share in the mixture for a task; one half where that was not looked at, and for several tasks.

        Several are averaged where none asks the question itself, and what does best for others is no guide.
        """
        return self.tasks.get(names[0], {}).get("share", 0.5) if len(names) == 1 else 0.5

    def mixed(self, examined: Mapping[str, Mapping[str, Any]]) -> SourceModels:
        """The same, told the `share` of each task by an examination of both models (`transfer.examination`)."""
        shares = {name: {"share": found["share"]} for name, found in examined.items() if "share" in found}
        return SourceModels({name: {**task, **shares.get(name, {})} for name, task in self.tasks.items()}, self.models)

    def save(self, folder: Path) -> None:
        """Writes `tasks.json` and the trees into a folder, whole or not at all."""
        with whole(folder) as temporary:
            temporary.mkdir()
            told = {}
            for name, model in self.models.items():
                text = model.booster.model_to_string()
                (temporary / f"{name}.txt").write_text(text, encoding="utf-8")
                reading = (model.columns.rows(), asdict(model.tuned), _digest(text))
                told[name] = {**self.tasks[name], **dict(zip(_READING, reading))}
            write_json(temporary / TASKS, told)

    @classmethod
    def load(cls, folder: Path) -> SourceModels:
        """Opens what `save` wrote.

        Raises:
            CheckpointError: A file is missing, broken or not the one that belongs there.
        """
        told, models = read_object(folder / TASKS), {}
        for name, task in told.items():
            try:
                models[name] = _model(folder, name, task)
            except (KeyError, TypeError, ValueError, pl.exceptions.PolarsError):
                raise CheckpointError(f"{folder / TASKS} does not describe {name!r} whole", fix=COPY_AGAIN) from None
        tasks = {name: {k: v for k, v in task.items() if k not in _READING} for name, task in told.items()}
        return cls(tasks, models)


def _model(folder: Path, name: str, task: dict[str, Any]) -> GradientBoosting:
    path = folder / f"{name}.txt"
    if Path(name).name != name or not path.is_file():
        raise CheckpointError(f"{folder} has no trees for {name!r}", expected=f"{name}.txt", fix=COPY_AGAIN)
    text = read_text(path)
    # LightGBM trusts what it reads: of trees that were cut off or exchanged it makes scores, or ends the process.
    if _digest(text) != task["sha256"]:
        raise CheckpointError(f"{path} is not the file that {TASKS} describes", fix=COPY_AGAIN)
    columns = pl.DataFrame(task["columns"], schema=features.COLUMNS, orient="row")
    booster = lgb.Booster(model_str=text)
    if booster.num_feature() != columns.height or not isinstance(task["windows_days"], list):
        raise ValueError(name)
    return GradientBoosting(booster, columns, Tuned(**task["tuned"]))


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
