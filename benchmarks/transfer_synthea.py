"""What the checkpoint that ships is worth at five synthetic hospitals, by number of their own cases.

    python benchmarks/transfer_synthea.py DATA --work WORK [--quick] [--threads 2]

DATA holds `synthea/source/texas` and `synthea/target_...`. `ehr_tl_base` has learned from three hospitals of the same
simulator and from nobody of these. Of the sources one (Texas) lends its rows to the pooled arms. `target_local` is the
hospital with codes and units of its own, a part of them mapped. Everybody is invented: what is measured is whether the
machinery carries over other codes, other units and another prevalence, and nothing about real patients.

Studies are written to WORK/plans and run as by `ehr-tl study`; WORK/studies/transfer.md and .html sum them up. Stopped
at any moment, the same command goes on, cell by cell.
"""

from __future__ import annotations

from pathlib import Path

from published import events_of
from transfers import Plan, options, run, summed_up

from ehr_tl.files import whole

SOURCE = "texas"
TARGETS = ("target_local", "target_mississippi", "target_new_mexico", "target_west_virginia", "target_small")
QUESTIONS = {
    "mortality_1y": "Death within a year",
    "kidney_disease": "Chronic kidney disease",
    "diabetic_complications": "Complications of diabetes",
}

STUDY = """\
name: {name}
title: {title} ({target}, synthetic)
pipeline: {pipeline}
source: {{events: {source}}}
target: {{events: {target}}}
checkpoint: ehr_tl_base
seeds: [0]
cases: [16, 64, 256, all]
repeats: 5
"""


def main() -> None:
    asked = options(__doc__, "three repeats, three sizes")
    for name in (SOURCE, *TARGETS):
        events_of(name, asked.data, asked.work, asked.threads)
    plans = [_plan(asked.work / "plans", target, pipeline) for target in TARGETS for pipeline in QUESTIONS]
    found = run([plans], asked.work, asked.threads, asked.quick)
    print(summed_up(found, asked))


def _plan(folder: Path, target: str, pipeline: str) -> Plan:
    """Writes the study of one question at one hospital."""
    path = folder / f"{target}_{pipeline}.yaml"
    with whole(path) as temporary:
        temporary.write_text(
            STUDY.format(name=path.stem, title=QUESTIONS[pipeline], target=target, source=SOURCE, pipeline=pipeline)
        )
    return Plan(str(path), (SOURCE, target))


if __name__ == "__main__":
    main()
