"""`ehr-tl pretrain`."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from ehr_tl.cli.arguments import folder, named


def register(app: typer.Typer) -> None:
    app.command(
        short_help="From whole hospitals' events to a checkpoint.",
        epilog="Example: ehr-tl pretrain events --from ehr_tl_base --out our_checkpoint",
    )(pretrain)


def pretrain(
    events: Annotated[list[Path], typer.Argument(parser=folder, metavar="EVENTS...", help="Events folders.")],
    out: Annotated[Path, typer.Option(parser=folder, metavar="CHECKPOINT", help="Checkpoint folder to write.")],
    start: Annotated[
        str | None,
        typer.Option("--from", parser=named, metavar="CHECKPOINT", help="Continue from this one, by name or folder."),
    ] = None,
    exclude: Annotated[
        Path | None,
        typer.Option(parser=folder, metavar="SUBJECTS.parquet", help="Who must stay unseen: a column subject_id."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(parser=named, metavar="NAME|FILE", help="How; default: ehr_tl_base, or continued with --from."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Fixes everything random.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="Processors to use; default: all.")] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(parser=folder, metavar="DIR", help="Write TensorBoard's logs there.")
    ] = None,
) -> None:
    """From whole hospitals' events to a checkpoint, without labels; or from a checkpoint on to a hospital's own.

    A training that was interrupted goes on where it stopped when the same command is given again. On several GPUs:
    `accelerate launch $(which ehr-tl) pretrain ...`.
    """
    from ehr_tl import threads as processors

    processors.limit(processors.allowed(threads))
    main = os.environ.get("RANK", "0") == "0"  # of the processes that `accelerate launch` starts one speaks
    if not main:
        logging.getLogger("ehr_tl").setLevel(logging.ERROR)
    from ehr_tl.transfer.pretrain import pretrain as make

    written = make(events, out, recipe=recipe, start=start, exclude=exclude, seed=seed, tensorboard=tensorboard)
    if main:
        typer.echo(f"Checkpoint: {written}")
        typer.echo(f"What it is, and how well it does: {written / 'MODEL_CARD.md'}")
