"""Makes the checkpoint that ships: pretrains on events folders, each a hospital of its own.

    ehr-tl convert EXPORT --adapter synthea --out EVENTS        # for each source
    python benchmarks/pretrain_synthea.py EVENTS... --out ehr_tl/checkpoints/synthea_small

Stopped at any moment, the same command goes on after the last whole epoch (its state lies in OUT.state until the end).
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path

from ehr_tl.events import Events
from ehr_tl.files import remove
from ehr_tl.threads import limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", nargs="+", type=Path, help="events folders")
    parser.add_argument("--out", required=True, type=Path, help="checkpoint folder to write")
    parser.add_argument("--epochs", type=int, help="passes over the subjects")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    limit(options.threads)

    from ehr_tl.models.checkpoint import save_checkpoint
    from ehr_tl.models.network import EhrConfig
    from ehr_tl.transfer.card import pretraining_card
    from ehr_tl.transfer.pretrain import PretrainConfig, pretrain

    started = time.monotonic()
    config = PretrainConfig()
    if options.epochs:
        config = replace(config, epochs=options.epochs)
    sources = [Events(folder) for folder in options.events]
    state = options.out.with_name(options.out.name + ".state")
    result = pretrain(sources, config, EhrConfig(), state)
    card = pretraining_card(options.out.name, result, config, sources)
    save_checkpoint(options.out, result.model, result.vocabulary, card)
    remove(state)
    logging.getLogger("ehr_tl").info("written after %.0f s", time.monotonic() - started)


if __name__ == "__main__":
    main()
