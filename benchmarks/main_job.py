"""What the main job costs: per stage wall and CPU seconds, peak memory, and how much it works through.

    python benchmarks/main_job.py demo                              # runs it anew in a temporary folder
    python benchmarks/main_job.py mortality_1y --export DIR --adapter synthea --threads 1
    python benchmarks/main_job.py --run runs/demo                   # reads the manifest of a finished run

Prints a markdown table. CPU seconds count child processes; peak memory is that of the main process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HEADER = ("stage", "wall s", "CPU s", "peak MiB", "resources / CPU s", "events / CPU s")


def execute(arguments: argparse.Namespace, folder: Path) -> Path:
    """Runs the pipeline in a process of its own and returns the run folder."""
    run = folder / "run"
    command = [str(Path(sys.executable).with_name("ehr-tl")), "run", arguments.pipeline, "--out", str(run)]
    for name in ("export", "adapter", "threads"):
        value = getattr(arguments, name)
        if value is not None:
            command += [f"--{name}", value]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return run


def table(manifest: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row per stage and one for the whole; only converting reads resources."""
    stages = manifest["stages"]
    work = stages["convert"]["notes"]
    rows = [line(name, stage["cost"], work, name == "convert") for name, stage in stages.items()]
    costs = [stage["cost"] for stage in stages.values()]
    whole = {
        "seconds": sum(cost["seconds"] for cost in costs),
        "cpu_seconds": sum(cost["cpu_seconds"] for cost in costs),
        "peak_memory_mib": max(cost["peak_memory_mib"] for cost in costs),
    }
    return [*rows, line("all", whole, work, True)]


def line(name: str, cost: dict[str, float], work: dict[str, int], reads: bool) -> tuple[str, ...]:
    def rate(count: int) -> str:
        return f"{count / max(cost['cpu_seconds'], 0.01):,.0f}"

    return (
        name,
        f"{cost['seconds']:.1f}",
        f"{cost['cpu_seconds']:.1f}",
        f"{cost['peak_memory_mib']:,.0f}",
        rate(work["resources"]) if reads else "",
        rate(work["events"]),
    )


def markdown(rows: list[tuple[str, ...]]) -> str:
    rule = ("---",) + ("---:",) * (len(HEADER) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (HEADER, rule, *rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", nargs="?", default="demo", help="a pipeline file or the name of a shipped one")
    parser.add_argument("--export", help="folder or zip of FHIR files; default: the pipeline's")
    parser.add_argument("--adapter", help="adapter name or folder; default: the pipeline's")
    parser.add_argument("--threads", help="processors to use; default: all")
    parser.add_argument("--run", type=Path, help="a finished run to read instead of running anew")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = arguments.run or execute(arguments, Path(temporary))
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    settings, environment, work = manifest["settings"], manifest["environment"], manifest["stages"]["convert"]["notes"]
    print(
        f"Pipeline {settings['pipeline']}: {work['resources']:,} resources, {work['events']:,} events, "
        f"{settings['threads']} threads, {environment['platform']}, Python {environment['python']}.\n"
    )
    print(markdown(table(manifest)))


if __name__ == "__main__":
    main()
