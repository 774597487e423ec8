"""`ehr-tl convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: ehr-tl convert /data/fhir --adapter fhir_r4 --out events")(convert)


def convert(
    export: Annotated[str, typer.Argument(help="Folder or zip of FHIR files.")],
    adapter: Annotated[str, typer.Option(metavar="NAME|FOLDER", help="Adapter name or folder.")],
    out: Annotated[Path, typer.Option(metavar="EVENTS", help="Events folder to write.")],
) -> None:
    """From a FHIR export to events: a MEDS 0.4 dataset with coverage and quarantine."""
    from ehr_tl.convert import convert as convert_export
    from ehr_tl.convert import coverage_text

    events = convert_export(export, adapter, out)
    typer.echo(coverage_text(events.coverage))
    typer.echo(f"Events: {events.folder}")
