"""What options of several commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def named(text: str) -> str:
    """A name that is not empty: an unset variable in a script must not come to mean the working directory."""
    if not text.strip():
        raise typer.BadParameter("it is empty: a name is expected")
    return text


def folder(text: str) -> Path:
    """A folder's name that is not empty."""
    return Path(named(text))


#: Maps and terminology of the hospital's own, beside those of the adapter.
ConceptMaps = Annotated[
    list[str] | None,
    typer.Option(
        "--concept-map",
        parser=named,
        metavar="FILE|FOLDER",
        help="FHIR ConceptMap, CodeSystem or ValueSet; may be repeated.",
    ),
]

#: Going on with a checkpoint that knows little of the records.
AcceptCoverage = Annotated[
    bool,
    typer.Option(
        "--accept-coverage",
        help="Train though the checkpoint knows less of the events than the pipeline asks for (transformer.min_known).",
    ),
]

#: A checkpoint to open.
Checkpoint = Annotated[
    str, typer.Argument(parser=named, metavar="CHECKPOINT", help="A checkpoint folder or a shipped name.")
]

#: An events folder to read.
EventsFolder = Annotated[
    Path,
    typer.Argument(parser=folder, metavar="EVENTS", help="An events folder, such as RUN/events."),
]
