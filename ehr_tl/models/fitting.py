"""The steps of cross-fitting: deal folds, see whether earlier fits still hold, predict out of fold, combine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehr_tl import __version__
from ehr_tl.config import EvaluationConfig
from ehr_tl.errors import CohortError
from ehr_tl.events import Events
from ehr_tl.files import fingerprint, read_json, remove, write_json
from ehr_tl.models.base import Learner, RiskModel
from ehr_tl.models.combination import Combination, Recipe
from ehr_tl.models.folds import site_folds, subject_folds
from ehr_tl.models.pairs import Pair, PairFits, pair_folder, pairs_of
from ehr_tl.wording import counted

FEWEST = 2  # positive and negative subjects that every fit must have

_HOLD_OUT_SUBJECTS = "leave out evaluation.sites, so that subjects are held out and not sites; or ask for fewer folds"


@dataclass(frozen=True)
class Labelled:
    """The rows that models learn from.

    Attributes:
        rows: `schema.ROWS` with a known outcome.
        label, subject, fold: Of each row.
        folds: Number of folds.
        site: Of each row, where folds are of whole sites.
    """

    rows: pl.DataFrame
    label: np.ndarray
    subject: np.ndarray
    fold: np.ndarray
    folds: int
    site: np.ndarray | None = None

    @classmethod
    def of(cls, rows: pl.DataFrame, config: EvaluationConfig, sites: pl.DataFrame | None = None) -> Labelled:
        """Takes the rows whose outcome is known and deals their subjects, or their sites, into folds.

        Args:
            rows: `schema.ROWS`.
            config: Number of folds, seed.
            sites: `subject_id` and `site` of all subjects, where sites are to be held out whole.

        Raises:
            CohortError: Too few subjects are positive, or negative, for every fit to see some; or too few sites.
        """
        known = rows.filter(pl.col("boolean_value").is_not_null())
        label, subject = known["boolean_value"].cast(pl.Float64).to_numpy(), known["subject_id"].to_numpy()
        folds = _count(label, subject, config.folds)
        if sites is None:
            return cls(known, label, subject, subject_folds(subject, label, folds, config.seed), folds)
        site = known.join(sites, on="subject_id", how="left", maintain_order="left")["site"].to_numpy()
        _check_enough_sites(site, folds)
        dealt = cls(known, label, subject, site_folds(site, subject, label, folds, config.seed), folds, site)
        dealt._check_every_fit()
        return dealt

    def _check_every_fit(self) -> None:
        """Whether folds of sites, which are as they are, leave some subjects of each kind to every fit."""
        for pair in pairs_of(self.folds):
            outside = ~np.isin(self.fold, pair)
            positive = np.unique(self.subject[outside & (self.label == 1)])
            rarer = min(len(positive), len(np.setdiff1d(self.subject[outside], positive)))
            if rarer < FEWEST:
                raise CohortError(
                    f"Without two of {self.folds} folds of whole sites only {counted(rarer, 'subject')} with, or "
                    "without, the outcome can be left",
                    expected=f"at least {FEWEST} of each",
                    fix=_HOLD_OUT_SUBJECTS,
                )

    def subjects(self) -> pl.DataFrame:
        """`subject_id` and `fold`; and `site`, where folds are of sites."""
        frame = pl.DataFrame({"subject_id": self.subject, "fold": self.fold.astype(np.int32)})
        if self.site is not None:
            frame = frame.with_columns(site=pl.Series(self.site, dtype=pl.String))
        return frame.unique().sort("subject_id")


def _check_enough_sites(site: np.ndarray, folds: int) -> None:
    if len(found := np.unique(site)) < folds:
        raise CohortError(
            f"The subjects with a known outcome are from {counted(len(found), 'site')}, too few for "
            f"{folds} folds of whole sites",
            expected="at least as many sites as folds (evaluation.folds)",
            fix=_HOLD_OUT_SUBJECTS,
        )


def _count(label: np.ndarray, subject: np.ndarray, wanted: int) -> int:
    """The number of folds that the rarer kind of subject allows, the one that is wanted if it does."""
    subjects = len(np.unique(subject))
    positive = len(np.unique(subject[label == 1]))
    rarer = min(positive, subjects - positive)
    for folds in (wanted, 5, 4):
        if folds <= rarer and rarer - 2 * -(-rarer // folds) >= FEWEST:
            return folds
    raise CohortError(
        f"{subjects} subjects have a known outcome, {positive} of them with it: too few to cross-validate",
        expected="at least 4 subjects with and 4 without the outcome (20 and more to trust the result)",
        fix="use a larger export, a longer outcome window or a broader outcome",
    )


def keep_or_discard(folder: Path, learners: Sequence[Learner], events: Events, labelled: Labelled) -> None:
    """Removes earlier fits unless they were made from the same events, rows, folds and settings."""
    plan_file = folder / "plan.json"
    dealt = labelled.rows.with_columns(fold=pl.Series(labelled.fold)).write_csv()
    plan = {
        "version": __version__,
        "events": fingerprint(events.folder / "data", events.folder / "metadata" / "codes.parquet"),
        "rows": sha256(dealt.encode()).hexdigest(),
        "learners": {learner.name: _settings(learner) for learner in learners},
    }
    if not plan_file.is_file() or read_json(plan_file) != plan:
        remove(folder)
        write_json(plan_file, plan)


def _settings(learner: Learner) -> dict[str, Any]:
    settings = asdict(learner.config)
    # Through JSON, so that it equals what is read back.
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    if settings.get("checkpoint"):
        from ehr_tl.models.checkpoint import checkpoint_path

        settings["checkpoint"] = fingerprint(checkpoint_path(settings["checkpoint"]))
    return settings


def load_pairs(learner: Learner, folder: Path, folds: int) -> dict[Pair, RiskModel]:
    """Opens the fits of a learner."""
    return {pair: learner.load(pair_folder(folder, learner.name, pair)) for pair in pairs_of(folds)}


def out_of_fold(job: PairFits, folds: int) -> dict[Pair, np.ndarray]:
    """Each pair model's logits of the rows in its two folds, NaN elsewhere."""
    logits = {}
    for pair, model in load_pairs(job.learner, job.folder, folds).items():
        index = np.flatnonzero(np.isin(job.fold, pair))
        logits[pair] = np.full(len(job.fold), np.nan)
        logits[pair][index] = model.logit(job.inputs, index)
    return logits


def combinations(
    labelled: Labelled, base: dict[str, dict[Pair, np.ndarray]], recipe: Recipe
) -> tuple[Combination, ...]:
    """One combination for each fold, learned from what its pair models say of the other folds.

    Args:
        labelled: Labels and folds.
        base: Learner -> pair -> logits of the rows in the pair's folds.
        recipe: Makes one.
    """
    made = []
    for fold in range(labelled.folds):
        others = np.flatnonzero(labelled.fold != fold)
        inner = {learner: _inner(by_pair, labelled.fold, fold)[others] for learner, by_pair in base.items()}
        made.append(recipe(inner, labelled.label[others], labelled.subject[others]))
    return tuple(made)


def _inner(by_pair: dict[Pair, np.ndarray], fold: np.ndarray, outer: int) -> np.ndarray:
    """For each row outside fold `outer`, the logit by the model that saw neither its fold nor `outer`."""
    logit = np.full(len(fold), np.nan)
    for pair, values in by_pair.items():
        if outer in pair:
            other = pair[0] + pair[1] - outer
            logit[fold == other] = values[fold == other]
    return logit
