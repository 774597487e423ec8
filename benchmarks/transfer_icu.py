"""What transfer is worth on real intensive care: nine directions between hospitals and units, by number of local cases.

    python benchmarks/transfer_icu.py DATA --work WORK [--quick] [--threads 2]

DATA holds `physionet_2012/set-a-b.zip` and `physionet_2019_b/training_setB.zip`. The steps:

1. Both sets become events, WORK/events.
2. The studies `pipelines/studies/icu_*.yaml` run, some at a time, into WORK/studies. Each pretrains its checkpoints on
   the source alone (WORK/pretrained; studies of one source share them): the one that ships has seen both sets.
3. The draws are compared with `transfer_icu_splits.json` beside this file: counts, and digests of ids.
4. WORK/studies/transfer.md and .html: tables, charts and goals. Every study has a page of its own, `study.html`.

Stopped at any moment, the same command goes on, cell by cell. `--quick` is three repeats with 16, 64 and 256 cases and
one seed, in WORK/studies/quick.
"""

from __future__ import annotations

from pathlib import Path

from published import CHALLENGES, events_of
from transfers import Plan, check_splits, options, run, summed_up

A, B = CHALLENGES

#: One study per source first: the others then find its checkpoint.
WAVES = (
    (
        Plan("icu_hypotension_2012_to_2019", (A, B)),
        Plan("icu_kidney_injury_2019_to_2012", (A, B)),
        Plan("icu_death_cardiac", (A,)),
        Plan("icu_death_general", (A,)),
        Plan("icu_sepsis_units", (B,), goals=False),
    ),
    (
        Plan("icu_hypotension_2019_to_2012", (A, B)),
        Plan("icu_kidney_injury_2012_to_2019", (A, B)),
        Plan("icu_sepsis_2012_to_2019", (A, B)),
        Plan("icu_death_2019_to_2012", (A, B)),
    ),
)
SPLITS = Path(__file__).with_name("transfer_icu_splits.json")


def main() -> None:
    asked = options(__doc__, "three repeats, three sizes, one seed")
    for name in CHALLENGES:
        events_of(name, asked.data, asked.work, asked.threads)
    found = run(WAVES, asked.work, asked.threads, asked.quick)
    plans = [plan for wave in WAVES for plan in wave]
    check_splits(plans, asked.work, asked.quick, SPLITS)
    print(summed_up(found, asked, [plan.name for plan in plans if plan.goals]))


if __name__ == "__main__":
    main()
