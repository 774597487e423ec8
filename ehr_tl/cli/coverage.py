"""`ehr-tl coverage`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ehr_tl.cli.arguments import Checkpoint, EventsFolder, folder


def register(app: typer.Typer) -> None:
    app.command(
        short_help="How much of a hospital's events a checkpoint knows.",
        epilog="Example: ehr-tl coverage ehr_tl_base runs/demo/events --subjects strangers.parquet",
    )(coverage)


def coverage(
    checkpoint: Checkpoint,
    events: EventsFolder,
    subjects: Annotated[
        Path | None,
        typer.Option(
            parser=folder,
            metavar="FILE",
            help="Parquet file for the subjects of whose events it knows fewer than half, by id.",
        ),
    ] = None,
) -> None:
    """How much of a hospital's events and codes a checkpoint knows: exactly, by a relative, by words, or not."""
    from ehr_tl.doctor import familiarity_lines
    from ehr_tl.events import Events
    from ehr_tl.files import whole
    from ehr_tl.models.checkpoint import checkpoint_path
    from ehr_tl.models.knowledge import checkpoint_knowledge
    from ehr_tl.tokens.familiarity import familiarity, strangers

    known, read = checkpoint_knowledge(checkpoint), Events(events)
    found = familiarity(read, known, checkpoint_path(checkpoint).name)
    typer.echo("\n".join(familiarity_lines(found)))
    if subjects is not None:
        with whole(subjects) as temporary:
            strangers(read, known).write_parquet(temporary)
        typer.echo(f"By id: {subjects}")
