"""`ehr-tl score`: the score stage of a run, or new patients with a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ehr_tl.cli.arguments import folder, named


def register(app: typer.Typer) -> None:
    app.command(
        short_help="Scores new patients with a finished run.",
        epilog="Example: ehr-tl score runs/demo --export /data/new_fhir --out scored",
    )(score)


def score(
    run: Annotated[Path, typer.Argument(parser=folder, metavar="RUN", help="A run folder.")],
    export: Annotated[
        str | None, typer.Option(parser=named, metavar="DIR", help="Folder or zip of FHIR files with new patients.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(parser=folder, metavar="DIR", help="Folder for the new scores (with --export).")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(metavar="DATE", help="Score as of this day (YYYY-MM-DD); default: the export's end.")
    ] = None,
) -> None:
    """Scores and explains new patients with a finished run (--export, --out); without them, the run's score stage."""
    if (export is None) != (out is None):
        raise typer.BadParameter("--export and --out go together: the new patients, and where their scores go")
    if export is None:
        from ehr_tl.pipeline import run_stage

        typer.echo(run_stage(run, "score"))
        return
    from ehr_tl.pipeline import score as score_export

    typer.echo(score_export(run, export, out, as_of=as_of).summary())
