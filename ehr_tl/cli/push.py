"""`ehr-tl push` and `ehr-tl pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ehr_tl.cli.arguments import Checkpoint, folder, named

Online = Annotated[
    bool, typer.Option("--online", help="Allow the network for hf://owner/name (token: the variable HF_TOKEN).")
]


def register(app: typer.Typer) -> None:
    app.command(
        short_help="Copies a checkpoint to a shared folder or a hub.",
        epilog="Example: ehr-tl push checkpoints/ours /mnt/models/ours",
    )(push)
    app.command(
        short_help="Fetches a checkpoint from a shared folder or a hub.",
        epilog="Example: ehr-tl pull /mnt/models/ours checkpoints/ours",
    )(pull)


def push(
    checkpoint: Checkpoint,
    to: Annotated[str, typer.Argument(parser=named, metavar="TO", help="A new folder, or hf://owner/name.")],
    online: Online = False,
) -> None:
    """Copies a checkpoint folder with its card and checksums (SHA256SUMS) to a shared folder or a hub."""
    from ehr_tl.hub import push as copy

    typer.echo(f"{len(copy(checkpoint, to, online=online))} files: {to}")


def pull(
    source: Annotated[
        str, typer.Argument(parser=named, metavar="FROM", help="A folder that was pushed to, or hf://owner/name.")
    ],
    checkpoint: Annotated[Path, typer.Argument(parser=folder, metavar="CHECKPOINT", help="The new checkpoint folder.")],
    online: Online = False,
) -> None:
    """Fetches a checkpoint that was pushed: every file must fit its checksum, and none may execute code."""
    from ehr_tl.hub import pull as copy

    typer.echo(f"{len(copy(source, checkpoint, online=online))} files: {checkpoint}")
