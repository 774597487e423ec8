"""Makes the checkpoint that ships, from the published records to the card: the one command that reproduces it.

    python benchmarks/pretrain_base.py DATA --work WORK --out ehr_tl/checkpoints/ehr_tl_base [--seeds 0 1 2]

DATA holds `physionet_2012/set-a-b.zip`, `physionet_2019_b/training_setB.zip` and `synthea/source/<state>`. The steps:

1. Each source becomes an events folder, WORK/events/<source>; one that is there is taken as it is.
2. Each seed is pretrained to a checkpoint, WORK/seed_<n>, source models included.
3. The seed with the lowest loss on the subjects who validate, all on the same rows, is chosen; nothing else is asked.
4. The chosen one alone is examined on the subjects who test, gets its card, and goes to --out.

What was measured lies in WORK/measured.json. Stopped at any moment, the same command goes on: with the step that was
interrupted, and in a training with its last state. What lies in WORK is not made again: name another folder after a
change of the recipe or of the code. `--quick` shows in minutes whether everything runs, with one epoch of each seed, in
WORK/quick beside the same events.
"""

from __future__ import annotations

import argparse
import logging
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from published import CHALLENGES, events_of

from ehr_tl.events import Events
from ehr_tl.files import read_json, remove, whole, write_json
from ehr_tl.threads import limit
from ehr_tl.transfer.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from ehr_tl.transfer.pretrain import Prepared

STATES = ("california", "new_york", "texas")
RECIPE = "ehr_tl_base"
COMMAND = "python benchmarks/pretrain_base.py DATA --work WORK --out ehr_tl/checkpoints/ehr_tl_base"

log = logging.getLogger("ehr_tl")


class Measured:
    """What was measured so far, kept in a file from step to step."""

    def __init__(self, path: Path):
        self.path = path
        self.values: dict[str, Any] = read_json(path) if path.is_file() else {"seconds": {}, "validation": {}}

    def note(self, **values: Any) -> None:
        self.values.update(values)
        write_json(self.path, self.values)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Notes how long a step took, if it ends well."""
        began = time.monotonic()
        yield
        self.note(seconds={**self.values["seconds"], step: round(time.monotonic() - began, 1)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the published records")
    parser.add_argument("--work", required=True, type=Path, help="folder for what lies between")
    parser.add_argument("--out", required=True, type=Path, help="checkpoint folder to write")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--threads", type=int, default=2, help="processors to use; default: 2")
    parser.add_argument("--quick", action="store_true", help="one epoch: to see whether everything runs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    limit(options.threads)
    work = options.work / "quick" if options.quick else options.work
    measured = Measured(work / "measured.json")
    measured.note(machine=platform.machine(), python=platform.python_version(), threads=options.threads)
    sources = [converted(name, options, measured) for name in (*CHALLENGES, *STATES)]
    recipe = load_recipe(RECIPE)
    if options.quick:
        recipe = replace(recipe, training=replace(recipe.training, epochs=1))
    make(sources, recipe, work, options.out, options.seeds, measured)


def converted(name: str, options: argparse.Namespace, measured: Measured) -> Events:
    """The events of a source, made if they are not there."""
    with measured.timed(f"converting {name}"):
        return events_of(name, options.data, options.work, options.threads)


def make(sources: list[Events], recipe: Recipe, work: Path, out: Path, seeds: list[int], measured: Measured) -> None:
    """From the events to the checkpoint: one for each seed, the choice, the last examination, the card."""
    from ehr_tl.models.checkpoint import load_checkpoint
    from ehr_tl.models.folder import PRETRAINING
    from ehr_tl.transfer.card import write_card
    from ehr_tl.transfer.held_out import TEST
    from ehr_tl.transfer.pretrain import examined, prepare

    with measured.timed("reading and labelling"):
        prepared = prepare(sources, recipe)
    for seed in seeds:
        pretrained(prepared, seed, work / f"seed_{seed}", measured)
    losses = {seed: measured.values["validation"][str(seed)]["loss"] for seed in seeds}
    chosen = min(losses, key=losses.__getitem__)
    log.info("validation losses by seed: %s; seed %d is chosen", losses, chosen)

    with measured.timed("last examination"), whole(out) as temporary:
        shutil.copytree(work / f"seed_{chosen}", temporary)
        write_json(temporary / PRETRAINING, {**read_json(temporary / PRETRAINING), "command": COMMAND})
        examination = examined(load_checkpoint(temporary), prepared, TEST)
        write_card(temporary, sources, examination, name=out.name)
    size = sum(each.stat().st_size for each in out.rglob("*") if each.is_file())
    measured.note(chosen=chosen, megabytes=round(size / 1e6, 2), test=examination)
    log.info("%s: seed %d, %.1f MB", out, chosen, size / 1e6)


def pretrained(prepared: Prepared, seed: int, folder: Path, measured: Measured) -> None:
    """A checkpoint of one seed, and its losses on the subjects who validate: the same rows for every seed."""
    from ehr_tl.models.checkpoint import load_checkpoint
    from ehr_tl.models.folder import PRETRAINING
    from ehr_tl.transfer.pretrain import train, write
    from ehr_tl.transfer.validation import validate

    if not folder.is_dir():
        state = folder.with_name(folder.name + ".state")
        write(folder, prepared, train(prepared, seed, state))
        remove(state)
    if str(seed) not in measured.values["validation"]:
        losses = validate(load_checkpoint(folder).model, prepared.sources, prepared.recipe.training, seed=0)
        seconds = {f"seed {seed}": read_json(folder / PRETRAINING)["timings"]}
        measured.note(
            validation={**measured.values["validation"], str(seed): losses},
            seconds={**measured.values["seconds"], **seconds},
        )


if __name__ == "__main__":
    main()
