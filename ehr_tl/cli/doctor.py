"""`ehr-tl doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from ehr_tl.cli.arguments import ConceptMaps, named


def register(app: typer.Typer) -> None:
    app.command(
        short_help="What is in an export, and which pipelines it can feed.",
        epilog="Example: ehr-tl doctor /data/fhir",
    )(doctor)


def doctor(
    export: Annotated[str, typer.Argument(parser=named, metavar="EXPORT", help="Folder or zip: FHIR or tables.")],
    adapter: Annotated[
        str | None,
        typer.Option(parser=named, metavar="NAME|FOLDER", help="How to read it; default: guessed, and said why."),
    ] = None,
    concept_map: ConceptMaps = None,
) -> None:
    """What is in an export, which shipped pipelines it can feed, and whether there are enough cases."""
    from ehr_tl.doctor import diagnose

    typer.echo(diagnose(export, adapter, concept_map or ()).text)
