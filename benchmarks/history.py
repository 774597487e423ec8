"""What it does to look at old records that are kept for some people only: LightGBM on all, on what an adapter declares.

    ehr-tl convert EXPORT --adapter synthea --out EVENTS
    python benchmarks/history.py EVENTS mortality_1y diabetic_complications

`all` looks at every event, `cut` at none from before `history_from`, `declared` also at older resources of the types in
`lasting`. Where a model has learned from what is kept for those alone who will have the outcome, held-out people are
ranked well, and current ones, of whom nobody has it yet, get a mean risk far from the outcome's share.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import polars as pl
from sklearn.metrics import roc_auc_score

from ehr_tl import schema
from ehr_tl.cohort import Cohort, build_cohort
from ehr_tl.config import Pipeline, load_pipeline
from ehr_tl.events import Events
from ehr_tl.models.crossfit import fit_crossfit
from ehr_tl.models.gradient_boosting import GradientBoostingLearner


class Everything(Events):
    def history(self) -> pl.LazyFrame:
        return self.scan()


class Cut(Events):
    def history(self) -> pl.LazyFrame:
        old = pl.col("time") < self.export.history_from
        return self.scan().filter(~old.fill_null(False) | pl.col("code").is_in([schema.BIRTH, schema.DEATH]))


VARIANTS = {"all": Everything, "cut": Cut, "declared": Events}


def rows_of(cohort: Cohort) -> pl.DataFrame:
    columns = list(schema.ROWS)
    labelled = cohort.labelled.with_columns(split=pl.lit(schema.HELD_OUT)).select(columns)
    unknown = {"boolean_value": pl.lit(None, pl.Boolean), "split": pl.lit(schema.CURRENT_SPLIT)}
    return pl.concat([labelled, cohort.current.with_columns(**unknown).select(columns)])


def measured(events: Events, pipeline: Pipeline, cohort: Cohort) -> tuple[float, float, float]:
    """AUROC on held-out rows, and the mean risks of held-out and of current ones."""
    rows = rows_of(cohort)
    with tempfile.TemporaryDirectory() as folder:
        learner = GradientBoostingLearner(pipeline.lightgbm)
        scores = fit_crossfit([learner], events, rows, pipeline, Path(folder) / "models").score(events, rows)
    held_out = scores.filter(pl.col("split") == schema.HELD_OUT)
    told = held_out.join(cohort.labelled, on=["subject_id", "prediction_time"])
    means = dict(scores.group_by("split").agg(pl.mean("risk")).iter_rows())
    auroc = float(roc_auc_score(told["boolean_value"], told["logit"]))
    return auroc, means[schema.HELD_OUT], means.get(schema.CURRENT_SPLIT, float("nan"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path, help="an events folder")
    parser.add_argument("pipelines", nargs="+", help="pipeline files, or names of shipped ones")
    options = parser.parse_args()
    if Events(options.events).export.history_from is None:
        parser.error(f"the adapter of {options.events} declares no history_from")
    print("| pipeline | looks at | outcome's share | AUROC | mean risk, held out | mean risk, current |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name in options.pipelines:
        pipeline = load_pipeline(name)
        cohort = build_cohort(Events(options.events), pipeline.task)
        share = cohort.labelled["boolean_value"].mean()
        for variant, opened in VARIANTS.items():
            auroc, held_out, current = measured(opened(options.events), pipeline, cohort)
            print(f"| {name} | {variant} | {share:.2%} | {auroc:.3f} | {held_out:.2%} | {current:.2%} |", flush=True)


if __name__ == "__main__":
    main()
