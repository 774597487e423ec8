"""When no score should be acted on: too little is known, in codes nobody learned from, or of a record unlike any seen.

Each fold's ensemble is compared with the subjects that it was trained on, and a subject outside all folds with all of
them. These groups are called *audiences* here: 0 to folds - 1, then `folds` for everybody else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ehr_tl.config import AbstentionConfig
from ehr_tl.features import Profile
from ehr_tl.features.profile import SUMMARY
from ehr_tl.files import read_json, whole, write_json
from ehr_tl.progress import log

_FOREIGN = 0.8  # least share of known events in an export that looks like the one that was learned from


@dataclass(frozen=True)
class Reference:
    """Where the records of training subjects lie.

    Attributes:
        mean: Of each summary, shape (summaries,).
        whitening: Turns deviations into independent ones of unit variance, shape (summaries, summaries).
        farthest: Distance (Mahalanobis) beyond which a record is unlike the training subjects'.
    """

    mean: np.ndarray
    whitening: np.ndarray
    farthest: float

    @classmethod
    def fit(cls, summary: np.ndarray, quantile: float) -> Reference:
        mean = np.nansum(summary, axis=0) / np.maximum(1, np.sum(~np.isnan(summary), axis=0))
        deviation = np.nan_to_num(summary - mean)
        covariance = deviation.T @ deviation / max(1, len(summary) - 1)
        # A tenth of each variance, and a little more, is added: summaries that never vary must not count as infinite.
        covariance += np.diag(0.1 * np.diag(covariance) + 1e-2)
        values, vectors = np.linalg.eigh(covariance)
        reference = cls(mean, vectors / np.sqrt(values), np.inf)
        return cls(mean, reference.whitening, float(np.quantile(reference.distance(summary), quantile)))

    def distance(self, summary: np.ndarray) -> np.ndarray:
        """Mahalanobis distance of each row; an unknown summary counts as average."""
        return np.linalg.norm(np.nan_to_num(summary - self.mean) @ self.whitening, axis=1)

    def strangest(self, summary: np.ndarray) -> np.ndarray:
        """Position of the summary that deviates most in each row."""
        inverse = self.whitening @ self.whitening.T
        deviation = np.nan_to_num(summary - self.mean)
        return np.argmax(np.abs(deviation * (deviation @ inverse)), axis=1)


@dataclass(frozen=True)
class Abstention:
    """What each audience's training subjects were like.

    Attributes:
        config: The limits.
        known: `code` and `audience`: codes (and ancestors of codes) that the audience's training subjects have.
        references: One for each audience.
    """

    config: AbstentionConfig
    known: pl.DataFrame
    references: tuple[Reference, ...]

    @classmethod
    def fit(cls, profile: Profile, fold: np.ndarray, folds: int, config: AbstentionConfig) -> Abstention:
        """Learns from labelled rows; `fold` is each row's."""
        known, references = [], []
        for audience in range(folds + 1):
            train = np.flatnonzero(fold != audience)
            references.append(Reference.fit(profile.summary[train], config.max_distance))
            seen = profile.seen(train).to_frame()
            known.append(seen.with_columns(audience=pl.lit(audience, pl.Int32)))
        return cls(config, pl.concat(known), tuple(references))

    def reasons(self, profile: Profile, audience: np.ndarray) -> list[str | None]:
        """Why each row has no score to act on, in words; None where it has one."""
        reasons: list[str | None] = [None] * len(audience)
        met = np.ones(len(audience))
        for number in np.unique(audience):
            rows = np.flatnonzero(audience == number)
            known = self.known.filter(pl.col("audience") == number)["code"]
            share, reference = profile.known_share(known)[rows], self.references[number]
            met[rows] = share
            far = reference.distance(profile.summary[rows]) > reference.farthest
            strangest = reference.strangest(profile.summary[rows])
            for i, row in enumerate(rows):
                reasons[row] = self._reason(int(profile.events[row]), share[i], bool(far[i]), int(strangest[i]))
        if profile.events.any() and (overall := float(np.average(met, weights=profile.events))) < _FOREIGN:
            log.warning(
                "Only %.0f%% of the events have a code that the models have met: another adapter, or another hospital?",
                100 * overall,
            )
        return reasons

    def _reason(self, events: int, share: float, far: bool, strangest: int) -> str | None:
        if events < self.config.min_events:
            return (
                f"only {events} events (beginnings and ends of visits aside) are on record before this time; at least "
                f"{self.config.min_events} are needed"
            )
        if share < self.config.min_known:
            return (
                f"only {share:.0%} of the patient's events have a code that occurs among the patients whom the models "
                f"learned from; at least {self.config.min_known:.0%} are needed"
            )
        if far:
            return f"the record is unlike those that the models learned from, most of all in {SUMMARY[strangest]}"
        return None

    def save(self, folder: Path) -> None:
        """Writes `known_codes.parquet` and `abstention.json`."""
        with whole(folder / "known_codes.parquet") as temporary:
            self.known.write_parquet(temporary)
        references = [
            {"mean": r.mean.tolist(), "whitening": r.whitening.tolist(), "farthest": r.farthest}
            for r in self.references
        ]
        write_json(folder / "abstention.json", {"limits": asdict(self.config), "references": references})

    @classmethod
    def load(cls, folder: Path) -> Abstention:
        saved = read_json(folder / "abstention.json")
        references = tuple(
            Reference(np.array(r["mean"]), np.array(r["whitening"]), r["farthest"]) for r in saved["references"]
        )
        known = pl.read_parquet(folder / "known_codes.parquet", glob=False)
        return cls(AbstentionConfig(**saved["limits"]), known, references)
