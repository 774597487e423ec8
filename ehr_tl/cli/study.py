"""`ehr-tl study` and `ehr-tl learning-curve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ehr_tl.cli.arguments import folder, named

Threads = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Cells at a time, each in its own process; default: all.")
]


def register(app: typer.Typer) -> None:
    app.command(
        short_help="What transfer is worth, by number of local cases.",
        epilog="Example: ehr-tl study few_shot --events here=EVENTS --out studies",
    )(study)
    app.command(
        "learning-curve",
        short_help="What a run would do with fewer cases, and with more.",
        epilog="Example: ehr-tl learning-curve runs/demo --repeats 3",
    )(learning_curve)


def study(
    name: Annotated[
        str, typer.Argument(parser=named, metavar="STUDY", help="A study file, or the name of one that ships.")
    ],
    events: Annotated[
        list[str], typer.Option(parser=named, metavar="NAME=FOLDER", help="An events folder that the study names.")
    ],
    out: Annotated[Path, typer.Option(parser=folder, metavar="DIR", help="Folder of studies.")],
    quick: Annotated[bool, typer.Option("--quick", help="Few sizes and repeats, one seed: within an hour.")] = False,
    pretrained: Annotated[
        Path | None,
        typer.Option(parser=folder, metavar="DIR", help="What was pretrained for studies; default: OUT/pretrained."),
    ] = None,
    threads: Threads = None,
) -> None:
    """Fits every arm of transfer on few local cases and many, and tests all on the same other subjects.

    A study that was interrupted goes on where it stopped when the same command is given again.
    """
    _limit()
    from ehr_tl.studies import study as run

    written = run(name, _folders(events), out, quick=quick, pretrained=pretrained, threads=threads)
    typer.echo((written / "results.md").read_text(encoding="utf-8"))
    typer.echo(f"The curves: {written / 'study.html'}")


def learning_curve(
    run: Annotated[Path, typer.Argument(parser=folder, metavar="RUN", help="A run folder, made by `ehr-tl run`.")],
    cases: Annotated[
        str | None,
        typer.Option(parser=named, metavar="N,...", help="Numbers of cases; default: 16,32,64,128,256,512,all."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Draws of each number.")] = 5,
    threads: Threads = None,
) -> None:
    """How well each arm of a run would do with fewer cases; and how many more until a local model would do as well."""
    _limit()
    from ehr_tl.report.study import answers
    from ehr_tl.studies import learning_curve as curve

    for answer in answers(curve(run, cases=_numbers(cases), repeats=repeats, threads=threads)):
        typer.echo(answer)
    typer.echo(f"The curve: {run / 'learning_curve.html'}")


def _limit() -> None:
    """One thread for each process: the cells share the processors among them."""
    from ehr_tl import threads

    threads.limit(1)


def _folders(given: list[str]) -> dict[str, str]:
    found = dict(each.partition("=")[::2] for each in given)
    if not all(found.values()) or len(found) < len(given):
        raise typer.BadParameter("expected NAME=FOLDER, each name once", param_hint="--events")
    return found


def _numbers(text: str | None) -> list[int | str] | None:
    if text is None:
        return None
    from ehr_tl.transfer.study.config import ALL

    parts = [each.strip() for each in text.split(",")]
    if not all(each == ALL or (each.isdecimal() and int(each) > 3) for each in parts):
        raise typer.BadParameter(f"expected numbers of at least 4 and {ALL!r}, with commas", param_hint="--cases")
    return [each if each == ALL else int(each) for each in parts]
