"""The published records as events folders, made where they are not there yet: what several benchmarks begin with."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

from ehr_tl.events import Events
from ehr_tl.files import remove

#: Set -> script beside this file that makes its events, and what it reads below DATA.
CHALLENGES = {
    "physionet_2012": ("data/physionet_2012.py", "physionet_2012/set-a-b.zip"),
    "physionet_2019_b": ("data/physionet_2019.py", "physionet_2019_b/training_setB.zip"),
}

log = logging.getLogger("ehr_tl")


def events_of(name: str, data: Path, work: Path, threads: int) -> Events:
    """The events of a set, at WORK/events/NAME; one that is there is taken as it is.

    Args:
        name: One of `CHALLENGES`; or a folder below `synthea` or `synthea/source`.
        data: Folder of the published records.
        work: Folder for what is made of them.
        threads: Processors to use.
    """
    from ehr_tl.convert import convert

    events = work / "events" / name
    if (events / "metadata" / "export.json").is_file():
        log.info("%s: taken as it is", events)
        return Events(events)
    if name in CHALLENGES:
        script, archive = CHALLENGES[name]
        tables = work / "tables" / name
        command = [sys.executable, str(Path(__file__).parent / script), str(data / archive)]
        subprocess.run([*command, "--out", str(tables), "--events", str(events)], check=True)
        remove(tables)
        return Events(events)
    synthea = data / "synthea"
    export = synthea / name if (synthea / name).is_dir() else synthea / "source" / name
    return convert(export, "example_local" if name == "target_local" else "synthea", events, threads=threads)
