"""`ehr-tl convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ehr_tl.cli.arguments import ConceptMaps, folder, named


def register(app: typer.Typer) -> None:
    app.command(
        short_help="From a FHIR export or tables to events, MEDS 0.4.",
        epilog="Example: ehr-tl convert /data/fhir --adapter fhir_r4 --out events",
    )(convert)


def convert(
    export: Annotated[str, typer.Argument(parser=named, metavar="EXPORT", help="Folder or zip: FHIR or tables.")],
    adapter: Annotated[str, typer.Option(parser=named, metavar="NAME|FOLDER", help="Adapter name or folder.")],
    out: Annotated[Path, typer.Option(parser=folder, metavar="EVENTS", help="Events folder to write.")],
    concept_map: ConceptMaps = None,
    engine: Annotated[str, typer.Option(metavar="local|spark", help="Who does the work: docs/spark.md.")] = "local",
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="Processors to use; default: all.")] = None,
    keep_quarantined: Annotated[
        bool, typer.Option("--keep-quarantined", help="Keep what is set aside, in full: patients' data.")
    ] = False,
) -> None:
    """From a FHIR export, or tables, to events: a MEDS 0.4 dataset with coverage and quarantine."""
    from ehr_tl.convert import convert as convert_export
    from ehr_tl.convert import coverage_text
    from ehr_tl.report import write_coverage

    maps = concept_map or ()
    events = convert_export(
        export, adapter, out, maps, engine=engine, threads=threads, keep_quarantined=keep_quarantined
    )
    write_coverage(events.folder / "coverage.html", events)
    typer.echo(coverage_text(events.coverage))
    typer.echo(f"Events: {events.folder}")
    typer.echo(f"What became of everything: {events.folder / 'coverage.html'}")
