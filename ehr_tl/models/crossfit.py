"""Cross-fitted scores: nobody is scored, stacked or calibrated by a model that saw them.

Subjects with a known outcome are dealt into K folds. For each pair of folds i < j, one base model M(i, j) is fitted on
all the others. A subject of fold i is scored by the mean of the M(i, j) over j. How these are stacked and calibrated
for fold i is learned from M(i, j)'s predictions for fold j, over all j: predictions for subjects that neither the
model nor fold i has anything to do with. Everybody else is scored by the mean over all folds' calibrated ensembles.
Means lie nearer to the middle than what they are of, and are spread out again (`Ensemble.fit`). All of it is linear in
the base logits, so explanations of base models add up to explanations of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from ehr_tl import schema
from ehr_tl.cohort.sites import subject_sites
from ehr_tl.config import Pipeline
from ehr_tl.errors import RunError
from ehr_tl.events import Events
from ehr_tl.features import profile
from ehr_tl.files import read_json, whole, write_json
from ehr_tl.models.abstention import Abstention
from ehr_tl.models.base import PARTS, Attribution, Learner, RiskModel
from ehr_tl.models.calibration import sigmoid
from ehr_tl.models.combination import recipes
from ehr_tl.models.ensemble import Ensemble, combine
from ehr_tl.models.fitting import Labelled, combinations, keep_or_discard, load_pairs, out_of_fold
from ehr_tl.models.pairs import Pair, PairFits, fit_pairs
from ehr_tl.progress import bar

VERSION = 4  # of the files in a models folder
NORMAL = 1.96  # half-width of a 95% interval in standard deviations
Key = TypeVar("Key")


@dataclass(frozen=True)
class CrossFit:
    """Fitted models of a cohort, ready to score.

    Attributes:
        folder: Where the models lie.
        learners: Learner by name, comparisons excepted.
        ensembles: Model name (`schema.SCORES`) -> how it is scored; the chosen one last.
        folds: `subject_id` and `fold` of labelled subjects, and `site` where sites are held out whole.
        abstention: When no score should be acted on.
    """

    folder: Path
    learners: dict[str, Learner]
    ensembles: dict[str, Ensemble]
    folds: pl.DataFrame
    abstention: Abstention

    @property
    def chosen(self) -> str:
        """The blend where there is one, else the only model: fixed in advance, never picked by held-out results."""
        return list(self.ensembles)[-1]

    def score(self, events: Events, rows: pl.DataFrame) -> pl.DataFrame:
        """Scores rows by models that did not see their subjects.

        Args:
            events: The events folder that was fitted on, or one of another export of the hospital.
            rows: `schema.ROWS`.

        Returns:
            `schema.SCORES`: model after model, each in the order of `rows`.
        """
        numbers = {model: np.zeros((rows.height, 3)) for model in self.ensembles}
        for audience, index, inputs in self._audiences(events, rows):
            logits, bases = {}, {}
            for name, learner in self.learners.items():
                models, own = self._models(name, audience), inputs[name]
                logits[name] = _of_each(models, _logits, own, index)
                bases[name] = _of_each(models, learner.base, own, index)
            for model, ensemble in self.ensembles.items():
                logit, variance = ensemble.score(audience, logits)
                base = ensemble.linear(audience, bases)
                numbers[model][index] = np.column_stack([logit, base, NORMAL * np.sqrt(variance)])
        reasons = pl.Series(self.abstention.reasons(profile(events, rows), self._audience(rows)), dtype=pl.String)
        return pl.concat([self._scores(rows, model, *numbers[model].T, reasons) for model in self.ensembles])

    def attributions(self, events: Events, rows: pl.DataFrame) -> dict[str, Attribution]:
        """Explains the scores of `rows`: model -> attribution, `row` being a position in `rows`."""
        bases = {model: np.zeros(rows.height) for model in self.ensembles}
        parts: dict[str, list[pl.DataFrame]] = {model: [] for model in self.ensembles}
        with bar("Explaining scores", rows.height) as progress:
            for audience, index, inputs in self._audiences(events, rows):
                explained = self._explained(audience, inputs, index)
                for model, ensemble in self.ensembles.items():
                    found = combine(ensemble, audience, explained)
                    bases[model][index] = found.base
                    place = pl.Series(index.astype(np.uint32))
                    parts[model].append(found.parts.with_columns(row=place.gather(found.parts["row"])))
                progress.advance(len(index))
        return {
            model: Attribution(bases[model], pl.concat(parts[model]).sort("row", maintain_order=True))
            for model in self.ensembles
        }

    def _explained(
        self, audience: int, inputs: dict[str, Any], index: np.ndarray
    ) -> dict[str, dict[Pair, Attribution]]:
        """Explains every learner's models; where one weighs in no score of the rows, its bases alone are told."""
        together: dict[Callable[..., list[Attribution]], dict[tuple[str, Pair], RiskModel]] = {}
        for name, learner in self.learners.items():
            weighs = any(ensemble.weighs(audience, name) for ensemble in self.ensembles.values())
            ask = learner.explain if weighs else partial(_unexplained, learner)
            models = {(name, pair): model for pair, model in self._models(name, audience).items()}
            together.setdefault(ask, {}).update(models)
        found: dict[str, dict[Pair, Attribution]] = {name: {} for name in self.learners}
        for ask, models in together.items():
            (first, _), *_ = models
            for (name, pair), attribution in _of_each(models, ask, inputs[first], index).items():
                found[name][pair] = attribution
        return found

    def _audience(self, rows: pl.DataFrame) -> np.ndarray:
        """The audience of each row: its subject's fold, or one more for everybody else."""
        joined = rows.select("subject_id").join(self.folds, on="subject_id", how="left", maintain_order="left")
        return joined["fold"].fill_null(self._folds).to_numpy()

    def _audiences(self, events: Events, rows: pl.DataFrame) -> Iterator[tuple[int, np.ndarray, dict[str, Any]]]:
        """Audience by audience: its number, the positions of its rows, and every learner's inputs."""
        audience = self._audience(rows)
        inputs = {name: learner.prepare(events, rows) for name, learner in self.learners.items()}
        for number in np.unique(audience):
            yield int(number), np.flatnonzero(audience == number), inputs

    @property
    def _folds(self) -> int:
        return next(iter(self.ensembles.values())).folds

    def _models(self, learner: str, audience: int) -> dict[Pair, RiskModel]:
        """The learner's models that may score an audience."""
        return {pair: model for pair, model in self._fitted[learner].items() if audience in (*pair, self._folds)}

    @cached_property
    def _fitted(self) -> dict[str, dict[Pair, RiskModel]]:
        return {name: load_pairs(learner, self.folder, self._folds) for name, learner in self.learners.items()}

    def _scores(
        self, rows: pl.DataFrame, model: str, logit: np.ndarray, base: np.ndarray, half: np.ndarray, reasons: pl.Series
    ) -> pl.DataFrame:
        return rows.select(
            "subject_id",
            "prediction_time",
            "split",
            model=pl.lit(model),
            chosen=pl.lit(model == self.chosen),
            logit=pl.Series(logit),
            risk=pl.Series(sigmoid(logit)),
            base=pl.Series(base),
            lower=pl.Series(sigmoid(logit - half)),
            upper=pl.Series(sigmoid(logit + half)),
            abstained=reasons.is_not_null(),
            reason=reasons,
        ).select(pl.col(name).cast(kind) for name, kind in schema.SCORES.items())

    def save(self) -> None:
        """Writes `folds.parquet`, what abstention needs and, last, `crossfit.json`."""
        with whole(self.folder / "folds.parquet") as temporary:
            self.folds.write_parquet(temporary)
        self.abstention.save(self.folder)
        models = {model: ensemble.to_json() for model, ensemble in self.ensembles.items()}
        shares = self.ensembles[self.chosen].shares
        told = {"version": VERSION, "models": models, "chosen": self.chosen, "shares": shares}
        write_json(self.folder / "crossfit.json", told)

    @classmethod
    def load(cls, folder: str | Path, learners: Sequence[Learner]) -> CrossFit:
        """Opens what `fit_crossfit` wrote.

        Args:
            folder: The models folder of a run.
            learners: The learners that it was fitted with; comparisons may be left out.

        Raises:
            RunError: The folder is absent, unfinished or of another version.
        """
        folder = Path(folder)
        if not (folder / "crossfit.json").is_file():
            raise RunError(
                f"{folder} holds no finished models: crossfit.json is missing", fix="run `ehr-tl train RUN` first"
            )
        saved = read_json(folder / "crossfit.json")
        if saved.get("version") != VERSION:
            raise RunError(
                f"{folder} was written by another version of this package (format {saved.get('version')})",
                expected=f"format {VERSION}",
                fix="train again with `ehr-tl run`",
            )
        ensembles = {model: Ensemble.from_json(value) for model, value in saved["models"].items()}
        by_name = {learner.name: learner for learner in learners if not learner.comparison}
        needed = {name for ensemble in ensembles.values() for name in ensemble.learners}
        if needed - by_name.keys():
            raise RunError(
                f"{folder} holds models of {', '.join(sorted(needed))}, the pipeline names {', '.join(by_name)}",
                fix="train again with `ehr-tl run`",
            )
        return cls(
            folder=folder,
            learners={name: by_name[name] for name in by_name if name in needed},
            ensembles=ensembles,
            folds=pl.read_parquet(folder / "folds.parquet", glob=False),
            abstention=Abstention.load(folder),
        )


def fit_crossfit(
    learners: Sequence[Learner],
    events: Events,
    rows: pl.DataFrame,
    config: Pipeline,
    folder: str | Path,
    threads: int = 1,
) -> CrossFit:
    """Fits all learners on the rows whose outcome is known; goes on where an interrupted call stopped.

    Args:
        learners: Those that take part in the scores, and comparisons.
        events: The events folder.
        rows: `schema.ROWS`; rows without an outcome are not looked at.
        config: Number of folds, seed and the limits of abstention.
        folder: The models folder; fits in it are kept if they are of the same events, rows and settings.
        threads: Fits at a time.

    Returns:
        The fitted models. Comparisons' out-of-fold logits are in `comparison.parquet` of `folder`.

    Raises:
        CohortError: Too few subjects with or without the outcome, or too few sites.
    """
    folder = Path(folder)
    prefix = config.evaluation.sites
    labelled = Labelled.of(rows, config.evaluation, None if prefix is None else subject_sites(events, prefix))
    keep_or_discard(folder, learners, events, labelled)
    jobs = [
        PairFits(
            learner,
            learner.prepare(events, labelled.rows),
            labelled.label,
            labelled.fold,
            folder,
            config.evaluation.seed,
        )
        for learner in learners
    ]
    fit_pairs(jobs, labelled.folds, threads)
    base = {job.learner.name: out_of_fold(job, labelled.folds) for job in jobs}
    ensembles = {}
    for name, recipe in recipes(learners).items():
        made = combinations(labelled, base, recipe)
        own = {learner: base[learner] for learner in made[0].weights}
        ensembles[name] = Ensemble.fit(made, own, labelled.fold)
    compared = {learner.name: ensembles.pop(learner.name) for learner in learners if learner.comparison}
    _write_comparison(folder, labelled, compared, base)
    limits = config.abstention
    crossfit = CrossFit(
        folder=folder,
        learners={learner.name: learner for learner in learners if not learner.comparison},
        ensembles=ensembles,
        folds=labelled.subjects(),
        abstention=Abstention.fit(profile(events, labelled.rows), labelled.fold, labelled.folds, limits),
    )
    crossfit.save()
    return crossfit


def _of_each(models: dict[Key, RiskModel], ask: Callable[..., list[Any]], *what: Any) -> dict[Key, Any]:
    """What `ask` gives for each model; one that serves several pairs is asked once."""
    distinct = list({id(model): model for model in models.values()}.values())
    answers = dict(zip(map(id, distinct), ask(distinct, *what)))
    return {key: answers[id(model)] for key, model in models.items()}


def _logits(models: list[RiskModel], inputs: Any, index: np.ndarray) -> list[np.ndarray]:
    return [model.logit(inputs, index) for model in models]


def _unexplained(learner: Learner, models: list[RiskModel], inputs: Any, index: np.ndarray) -> list[Attribution]:
    return [Attribution(base, pl.DataFrame(schema=PARTS)) for base in learner.base(models, inputs, index)]


def _write_comparison(
    folder: Path, labelled: Labelled, compared: dict[str, Ensemble], base: dict[str, dict[Pair, np.ndarray]]
) -> None:
    """`comparison.parquet`: subject_id, prediction_time, model, logit of models that take no part in the scores."""
    kinds = {name: schema.SCORES[name] for name in ("subject_id", "prediction_time", "model", "logit")}
    frames = [pl.DataFrame(schema=kinds)]
    for name, ensemble in compared.items():
        logit = np.zeros(len(labelled.fold))
        for fold in range(labelled.folds):
            index = np.flatnonzero(labelled.fold == fold)
            logits = {name: {pair: values[index] for pair, values in base[name].items()}}
            logit[index] = ensemble.score(fold, logits)[0]
        frames.append(labelled.rows.select("subject_id", "prediction_time", model=pl.lit(name), logit=pl.Series(logit)))
    with whole(folder / "comparison.parquet") as temporary:
        pl.concat(frames).write_parquet(temporary)
