"""What a conversion costs on one machine's processors and on Spark: wall time, processor time, memory.

    python benchmarks/spark.py FOLDER [--observations 10000000] [--patients 5000] [--master 'local[2]']

FOLDER keeps the synthetic export between runs. Each engine runs in a process of its own; the processor time is that of
all its processes, sampled, and so is the memory. Both results are compared at the end: they must be the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ehr_tl.files import remove, whole

FILES = 8  # of Observations
CODES = ("2345-7", "718-7", "2160-0", "2823-3", "2951-2", "8310-5", "8867-4", "59408-5", "777-3", "6690-2")
UNITS = ("mg/dL", "g/dL", "mg/dL", "mmol/L", "mmol/L", "Cel", "/min", "%", "10*3/uL", "10*3/uL")

PATIENT = '{{"resourceType":"Patient","id":"p{0}","gender":"{1}","birthDate":"{2}-01-01"}}\n'
OBSERVATION = (
    '{{"resourceType":"Observation","id":"o{0}","status":"final","category":[{{"coding":[{{"system":'
    '"http://terminology.hl7.org/CodeSystem/observation-category","code":"laboratory"}}]}}],"code":{{"coding":[{{'
    '"system":"http://loinc.org","code":"{1}"}}]}},"subject":{{"reference":"Patient/p{2}"}},"effectiveDateTime":'
    '"{3}-{4:02}-{5:02}T{6:02}:00:00Z","valueQuantity":{{"value":{7:.1f},"unit":"{8}","system":'
    '"http://unitsofmeasure.org","code":"{8}"}}}}\n'
)

_PAGE, _TICK = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")


def make(folder: Path, observations: int, patients: int) -> None:
    """Writes the export, if it is not there: people without history but for measurements at random times."""
    if folder.exists():
        return
    with whole(folder) as begun:
        begun.mkdir(parents=True)
        with (begun / "Patient.ndjson").open("w") as file:
            file.writelines(PATIENT.format(n, ("male", "female")[n % 2], 1930 + n % 70) for n in range(patients))
        for part, numbers in enumerate(np.array_split(np.arange(observations), FILES)):
            rng = np.random.default_rng(part)
            what, whom = rng.integers(len(CODES), size=len(numbers)), rng.integers(patients, size=len(numbers))
            when = rng.integers((2010, 1, 1, 0), (2025, 13, 29, 24), size=(len(numbers), 4))
            much = rng.gamma(9, 10, size=len(numbers))
            rows = zip(numbers.tolist(), what.tolist(), whom.tolist(), when.tolist(), much.tolist())
            with (begun / f"Observation.{part:03}.ndjson").open("w") as file:
                for n, kind, patient, time_, value in rows:
                    file.write(OBSERVATION.format(n, CODES[kind], patient, *time_, value, UNITS[kind]))


@dataclass
class Cost:
    """What a command took: seconds, seconds of all processors, MiB of its first process and of all together."""

    wall: float
    cpu: float
    first: float
    all: float


def cost(command: list[str], environment: dict[str, str]) -> Cost:
    """Runs a command to its end, and looks at its processes four times a second."""
    started = time.monotonic()
    process = subprocess.Popen(command, env=os.environ | environment, start_new_session=True, stdout=subprocess.DEVNULL)
    seconds: dict[int, float] = {}
    first = most = wall = 0.0
    while found := _processes(process.pid):
        if process.poll() is None:
            wall = time.monotonic() - started
        seconds |= {number: used for number, (used, _) in found.items()}
        first = max(first, found.get(process.pid, (0, 0))[1])
        most = max(most, sum(memory for _, memory in found.values()))
        time.sleep(0.25)
    if process.wait():
        sys.exit(f"failed: {' '.join(command)}")
    return Cost(wall, sum(seconds.values()), first, most)


def _processes(session: int) -> dict[int, tuple[float, float]]:
    """Seconds of processor and MiB of each living process of a session."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[2]) == session and state != "Z":
            used = (int(fields[10]) + int(fields[11])) / _TICK
            found[int(path.parent.name)] = used, int(fields[20]) * _PAGE / (1 << 20)
    return found


def same(one: Path, other: Path) -> bool:
    names = [sorted(path.name for path in (folder / "data").iterdir()) for folder in (one, other)]
    return names[0] == names[1] and all(
        pl.read_parquet(one / "data" / name).equals(pl.read_parquet(other / "data" / name)) for name in names[0]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--observations", type=int, default=10_000_000)
    parser.add_argument("--patients", type=int, default=5_000)
    parser.add_argument("--master", default="local[2]", help="Spark's master")
    options = parser.parse_args()
    export = options.folder / f"export_{options.observations}_{options.patients}"
    make(export, options.observations, options.patients)
    size = sum(path.stat().st_size for path in export.iterdir()) / 1e9
    print(f"{options.observations:,} synthetic Observations of {options.patients:,} patients, {size:.1f} GB\n")
    print("| engine | wall s | CPU s | wall s per million | CPU s per million | driver MiB | all processes MiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    code, millions, outs = "from ehr_tl.cli.main import main; main()", options.observations / 1e6, []
    for engine, name in (("local", f"local, {os.cpu_count()} processors"), ("spark", f"Spark {options.master}")):
        out = options.folder / f"events_{engine}"
        remove(out)
        command = [sys.executable, "-c", code, "convert", str(export), "--adapter", "fhir_r4", "--out", str(out)]
        took = cost([*command, "--engine", engine], {"MASTER": options.master})
        figures = (took.wall, took.cpu, took.wall / millions, took.cpu / millions, took.first, took.all)
        print(f"| {name} | {' | '.join(f'{figure:,.1f}' for figure in figures)} |", flush=True)
        outs.append(out)
    print(f"\nThe results are {'the same' if same(*outs) else 'NOT THE SAME'}.")


if __name__ == "__main__":
    main()
