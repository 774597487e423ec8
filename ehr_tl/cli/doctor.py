"""`ehr-tl doctor`."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: ehr-tl doctor /data/fhir")(doctor)


def doctor(
    export: Annotated[str, typer.Argument(help="Folder or zip of FHIR files.")],
    adapter: Annotated[
        str | None, typer.Option(metavar="NAME|FOLDER", help="How to read it; default: guessed, and said why.")
    ] = None,
) -> None:
    """What is in an export, which shipped pipelines it can feed, and whether there are enough cases."""
    from ehr_tl.doctor import diagnose

    typer.echo(diagnose(export, adapter).text)
