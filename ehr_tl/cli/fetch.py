"""`ehr-tl fetch`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ehr_tl.cli.arguments import folder, named
from ehr_tl.errors import FetchError

#: A plain token, for those who keep it in the environment.
TOKEN = "EHR_TL_BEARER_TOKEN"


def register(app: typer.Typer) -> None:
    app.command(
        short_help="A FHIR server's Bulk Data export to a folder.",
        epilog="Example: ehr-tl fetch https://fhir.hospital.example/r4 --group 7 --client-id ehr-tl --key key.jwk "
        "--out export",
    )(fetch)


def fetch(
    url: Annotated[str, typer.Argument(parser=named, metavar="URL", help="Base URL of the FHIR R4 server.")],
    out: Annotated[Path, typer.Option(parser=folder, metavar="DIR", help="Folder to write, or to go on with.")],
    group: Annotated[
        str | None, typer.Option(parser=named, metavar="ID", help="Only records of this Group's members.")
    ] = None,
    patient: Annotated[bool, typer.Option("--patient", help="Only patients' records, of all patients.")] = False,
    type_: Annotated[
        list[str] | None,
        typer.Option("--type", parser=named, metavar="TYPE,...", help="Resource types; default: all."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(parser=named, metavar="TIME", help="Only what was changed since; UTC if no zone.")
    ] = None,
    client_id: Annotated[
        str | None, typer.Option(parser=named, metavar="ID", help="As which this client is registered.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(parser=folder, metavar="FILE", help="Its private key: JWK, JWK Set or PEM.")
    ] = None,
    token_url: Annotated[
        str | None, typer.Option(parser=named, metavar="URL", help="Token endpoint, if the server does not name it.")
    ] = None,
    bearer_token_file: Annotated[
        Path | None,
        typer.Option(parser=folder, metavar="FILE", help=f"A plain token instead; or set {TOKEN}."),
    ] = None,
    accept_errors: Annotated[
        bool, typer.Option("--accept-errors", help="Take the export though the server tells of errors.")
    ] = False,
) -> None:
    """A FHIR server's Bulk Data export, to a folder that doctor and convert read; after a break, run it again."""
    from ehr_tl.fetch import fetch as fetch_export

    fetched = fetch_export(
        url,
        out,
        group=group,
        patient=patient,
        types=[name.strip() for names in type_ or () for name in names.split(",")],
        since=since,
        client_id=client_id,
        key=key,
        token_url=token_url,
        bearer_token=_token(bearer_token_file) if not client_id or bearer_token_file else None,
        accept_errors=accept_errors,
    )
    typer.echo(fetched.text)
    typer.echo(f"Export: {fetched.folder}")


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN)
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise FetchError(f"The token file {file} cannot be read", fix="check the path and who may read it") from None
