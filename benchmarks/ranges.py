"""How honest a score is about itself, where the truth is known: calibration, and how often `lower` to `upper` holds it.

    python benchmarks/ranges.py [--repeats N]     # less than a minute on one core

Patients are simulated: ten numbers each, three of which decide the risk. Models are cross-fitted, calibrated and pooled
as in a run. Prints a markdown table: the slope of the true logit on the score's (1 is right), outcomes for each that
was expected, and the share of patients whose true risk lies in their range; for patients who were held out, and for new
ones. The last column is for the tenth of the patients at highest risk.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import sparse

from ehr_tl.config import LightGBMConfig
from ehr_tl.models.calibration import fit_logistic, sigmoid
from ehr_tl.models.combination import single
from ehr_tl.models.crossfit import NORMAL
from ehr_tl.models.ensemble import Ensemble
from ehr_tl.models.fitting import Labelled, combinations
from ehr_tl.models.folds import subject_folds
from ehr_tl.models.pairs import pairs_of
from ehr_tl.models.tuning import tune

FOLDS, FEATURES, NEW = 5, 10, 2_000
EFFECTS = np.r_[1.2, -0.8, 0.6, np.zeros(FEATURES - 3)]
HEADER = ("model", "patients", "events", "of", "slope", "observed / expected", "truth in range", "of the top tenth")

Fit = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]


def logistic(features: np.ndarray, label: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    design = np.column_stack([np.ones(len(features)), features])
    precision = np.r_[0.0, np.ones(FEATURES)]
    zero = np.zeros(len(label))
    weights = fit_logistic(design, label, zero, centre=np.zeros(FEATURES + 1), precision=precision)
    return lambda others: weights[0] + others @ weights[1:]


def trees(features: np.ndarray, label: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    matrix = sparse.csr_matrix(features.astype(np.float32))
    booster, kept, tuned = tune(matrix, label, np.arange(len(label)), LightGBMConfig(rounds=100, trials=2), seed=0)
    return lambda others: tuned.shift + booster.predict(others[:, kept], raw_score=True, num_threads=1)


CASES: tuple[tuple[str, Fit, int, float], ...] = (
    ("logistic regression", logistic, 400, -3.2),
    ("logistic regression", logistic, 1_000, -2.6),
    ("LightGBM", trees, 400, -3.2),
    ("LightGBM", trees, 1_000, -2.3),
)


def simulate(fit: Fit, patients: int, intercept: float, rng: np.random.Generator) -> tuple[float, ...]:
    """One simulated hospital: events, then the measures of held-out and of new patients."""
    known, new = rng.normal(size=(patients, FEATURES)), rng.normal(size=(NEW, FEATURES))
    truth, new_truth = intercept + known @ EFFECTS, intercept + new @ EFFECTS
    label = (rng.random(patients) < sigmoid(truth)).astype(float)
    subject = np.arange(patients)
    fold = subject_folds(subject, label, FOLDS, seed=0)
    models = {pair: fit(known[~np.isin(fold, pair)], label[~np.isin(fold, pair)]) for pair in pairs_of(FOLDS)}
    base = {"m": {pair: np.where(np.isin(fold, pair), model(known), np.nan) for pair, model in models.items()}}
    calibrated = combinations(Labelled(None, label, subject, fold, FOLDS), base, partial(single, "m"))
    ensemble = Ensemble.fit(calibrated, base, fold)
    held_out = np.zeros((patients, 2))
    for number in range(FOLDS):
        rows = np.flatnonzero(fold == number)
        held_out[rows] = np.column_stack(ensemble.score(number, {"m": {p: v[rows] for p, v in base["m"].items()}}))
    current = np.column_stack(ensemble.score(FOLDS, {"m": {pair: model(new) for pair, model in models.items()}}))
    return label.sum(), *measures(held_out, truth), *measures(current, new_truth)


def measures(scored: np.ndarray, truth: np.ndarray) -> tuple[float, float, float, float]:
    logit, half = scored[:, 0], NORMAL * np.sqrt(scored[:, 1])
    design = np.column_stack([np.ones(len(truth)), logit])
    slope = fit_logistic(
        design, sigmoid(truth), np.zeros(len(truth)), centre=np.array([0.0, 1.0]), precision=np.zeros(2)
    )[1]
    held = np.abs(logit - truth) <= half
    top = truth >= np.quantile(truth, 0.9)
    return float(slope), float(sigmoid(truth).sum() / sigmoid(logit).sum()), float(held.mean()), float(held[top].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40, help="simulated hospitals per case")
    repeats = parser.parse_args().repeats
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    print("| " + " | ".join(HEADER) + " |\n|" + " --- |" * len(HEADER))
    for name, fit, patients, intercept in CASES:
        rng = np.random.default_rng(1)
        found = np.mean([simulate(fit, patients, intercept, rng) for _ in range(repeats)], axis=0)
        for who, part in (("held out", found[1:5]), ("new", found[5:])):
            cells = (name, f"{patients:,}", f"{found[0]:.0f}", who, f"{part[0]:.2f}", f"{part[1]:.2f}")
            print("| " + " | ".join([*cells, f"{part[2]:.0%}", f"{part[3]:.0%}"]) + " |", flush=True)


if __name__ == "__main__":
    main()
