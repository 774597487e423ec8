"""`ehr-tl run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ehr_tl.cli.arguments import AcceptCoverage, ConceptMaps, folder, named


def register(app: typer.Typer) -> None:
    app.command(
        short_help="From a FHIR export to explained risk scores and a report.",
        epilog="Example: ehr-tl run readmission_30d --export /data/fhir --adapter fhir_r4",
    )(run)


def run(
    pipeline: Annotated[
        str, typer.Argument(parser=named, metavar="PIPELINE", help="A pipeline file, or the name of a shipped one.")
    ],
    export: Annotated[
        str | None,
        typer.Option(parser=named, metavar="DIR", help="Folder or zip of FHIR files; default: the pipeline's."),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            parser=named, metavar="NAME|FOLDER", help="How to read it; default: the pipeline's, else guessed."
        ),
    ] = None,
    concept_map: ConceptMaps = None,
    as_of: Annotated[
        str | None, typer.Option(metavar="DATE", help="Score as of this day (YYYY-MM-DD); default: the export's end.")
    ] = None,
    accept_coverage: AcceptCoverage = False,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="Processors to use; default: all.")] = None,
    out: Annotated[
        Path | None, typer.Option(parser=folder, metavar="RUN", help="Run folder; default: runs/<pipeline>.")
    ] = None,
) -> None:
    """From a FHIR export to calibrated, explained risk scores and a report.

    A run that was interrupted goes on where it stopped; stages whose inputs are unchanged are skipped. Where PIPELINE
    is a run's own pipeline.yaml, options that are not given are as in that run.
    """
    from ehr_tl import threads as processors

    processors.limit(processors.allowed(threads))
    from ehr_tl.pipeline import run as run_pipeline

    finished = run_pipeline(
        pipeline,
        export=export,
        adapter=adapter,
        concept_maps=concept_map,
        as_of=as_of,
        threads=threads,
        out=out,
        accept_coverage=accept_coverage or None,
    )
    typer.echo(finished.summary())
