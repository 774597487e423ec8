"""`ehr-tl embed`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ehr_tl.cli.arguments import Checkpoint, EventsFolder, folder

if TYPE_CHECKING:
    import polars as pl

    from ehr_tl.events import Events


def register(app: typer.Typer) -> None:
    app.command(
        short_help="One vector per subject, for models of your own.",
        epilog="Example: ehr-tl embed ehr_tl_base runs/demo/events --out vectors.parquet --at 2025-01-01",
    )(embed)


def embed(
    checkpoint: Checkpoint,
    events: EventsFolder,
    out: Annotated[Path, typer.Option(parser=folder, metavar="FILE", help="Parquet file for the vectors.")],
    at: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="What is known by then (YYYY-MM-DD); default: by the export's end."),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            parser=folder,
            metavar="FILE",
            help="Parquet file with subject_id and prediction_time, such as a run's cohort: a vector for each row.",
        ),
    ] = None,
) -> None:
    """One vector per subject (or row) from a checkpoint: columns subject_id, prediction_time, embedding (float32)."""
    if at is not None and rows is not None:
        raise typer.BadParameter("--at and --rows exclude each other: rows bring their own prediction times")
    import polars as pl

    from ehr_tl.events import Events
    from ehr_tl.files import whole
    from ehr_tl.models.checkpoint import load_checkpoint

    read = Events(events)
    asked = _rows_of(rows, read) if rows is not None else _subjects_at(at, read)
    vectors = load_checkpoint(checkpoint).embed(read, asked)
    width = vectors.shape[1]
    with whole(out) as temporary:
        asked.with_columns(pl.Series("embedding", vectors, pl.Array(pl.Float32, width))).write_parquet(temporary)
    typer.echo(f"{len(vectors):,} vectors of {width:,} numbers: {out}")


def _subjects_at(at: str | None, events: Events) -> pl.DataFrame:
    """Every subject once, at the end of a day or of the export."""
    import polars as pl

    from ehr_tl.errors import RunError
    from ehr_tl.pipeline import parse_as_of
    from ehr_tl.schema import TIME

    moment = parse_as_of(at, "--at") or events.export.end
    if moment is None:
        raise RunError(f"Nothing tells when the export of {events.folder} ends", fix="say when with --at DATE")
    subjects = events.subjects["subject_id"].unique().sort().to_frame()
    return subjects.with_columns(prediction_time=pl.lit(moment, TIME))


def _rows_of(path: Path, events: Events) -> pl.DataFrame:
    """The rows in a file, in its order."""
    import polars as pl

    from ehr_tl.errors import RunError
    from ehr_tl.schema import CURRENT

    expected = "a parquet file with the columns subject_id (a whole number) and prediction_time (a time)"
    try:
        rows = pl.read_parquet(path, glob=False).select(pl.col(name).cast(kind) for name, kind in CURRENT.items())
    except (pl.exceptions.PolarsError, FileNotFoundError) as error:
        raise RunError(f"{path} gives no rows ({type(error).__name__})", expected=expected) from None
    if any(rows.null_count().row(0)):
        raise RunError(f"{path} has rows without subject or time", expected=expected)
    foreign = rows.filter(~pl.col("subject_id").is_in(events.subjects["subject_id"].to_list()))
    if foreign.height:
        raise RunError(
            f"{foreign.height:,} of the {rows.height:,} rows of {path} are of subjects whom {events.folder} has not",
            expected="rows of this events folder",
        )
    return rows
