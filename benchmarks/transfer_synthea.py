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

import argparse
import logging
import time
from pathlib import Path

from published import events_of
from transfers import Plan, run, write_summary

from ehr_tl.files import whole
from ehr_tl.threads import limit

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the published records")
    parser.add_argument("--work", required=True, type=Path, help="folder for everything that is made")
    parser.add_argument("--quick", action="store_true", help="three repeats, three sizes")
    parser.add_argument("--threads", type=int, default=2, help="studies at a time; default: 2")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    limit(1)
    began = time.monotonic()
    for name in (SOURCE, *TARGETS):
        events_of(name, options.data, options.work, options.threads)
    plans = [_plan(options.work / "plans", target, pipeline) for target in TARGETS for pipeline in QUESTIONS]
    found = run([plans], options.work, options.threads, options.quick)
    folder = options.work / "studies" / ("quick" if options.quick else "")
    print(write_summary(found, folder))
    print(f"{(time.monotonic() - began) / 60:.0f} minutes; charts: {folder / 'transfer.html'}")


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
