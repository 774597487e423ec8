"""`ehr-tl cohort|train|explain|report`: one stage of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ehr_tl.cli.arguments import AcceptCoverage, folder

_HELP = {  # in one line each
    "cohort": "From events to a cohort: who, when, and with what outcome.",
    "train": "Fits the models on the cohort, cross-fitted by subject.",
    "explain": "Explains every score by parts that add up to it.",
    "report": "Writes report, model card, RiskAssessments and worklist.",
}

Run = Annotated[Path, typer.Argument(parser=folder, metavar="RUN", help="A run folder.")]


def register(app: typer.Typer) -> None:
    for name, text in _HELP.items():
        app.command(name, help=text, epilog=f"Example: ehr-tl {name} runs/demo")(_command(name))


def _command(stage: str):
    def command(run: Run) -> None:
        from ehr_tl.pipeline import run_stage

        typer.echo(run_stage(run, stage))

    def train(run: Run, accept_coverage: AcceptCoverage = False) -> None:
        from ehr_tl.pipeline import run_stage

        typer.echo(run_stage(run, stage, accept_coverage))

    return train if stage == "train" else command
