"""The command `ehr-tl`: its options, and what becomes of an error.

Exit codes: 0 done, 2 the user's input, 1 a defect of this package. Results go to stdout, progress and logs to stderr.
"""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from ehr_tl import __version__
from ehr_tl.cli import convert, doctor, run, score, stages
from ehr_tl.errors import EhrTlError

#: What a file system refuses for reasons that lie outside of this package.
_PLACES = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.ENAMETOOLONG}

#: What typer exits with after Ctrl-C.
_INTERRUPTED = 130

app = typer.Typer(
    name="ehr-tl",
    help="Calibrated, explained clinical risk scores from a FHIR export, offline and on a CPU.",
    epilog="Example: ehr-tl run demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (run, convert, stages, score, doctor):
    module.register(app)


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"ehr_tl {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show tracebacks and detailed logs.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("ehr_tl").setLevel(logging.DEBUG if verbose else logging.INFO)


def main() -> None:
    """Runs the command line and exits."""
    verbose = "--verbose" in sys.argv
    try:
        app()
    except EhrTlError as error:
        _fail(f"Error: {error}", 2, verbose)
    except OSError as error:
        if error.errno not in _PLACES:
            _defect(error, verbose)
        where = f"{error.filename}: " if error.filename else ""
        _fail(
            f"Error: {where}{error.strerror}. What to do: check the path, who may read and write there, and the space "
            "that is left on the disk.",
            2,
            verbose,
        )
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            typer.echo("Interrupted. Run the same command again to go on from the last finished step.", err=True)
        raise
    except Exception as error:
        _defect(error, verbose)


def _defect(error: Exception, verbose: bool) -> NoReturn:
    # The message of a foreign exception may quote data: only its kind and place are shown.
    place = traceback.extract_tb(error.__traceback__)[-1]
    _fail(
        f"ehr_tl failed: {type(error).__name__} at {place.filename}:{place.lineno}. This is a defect of ehr_tl, not of "
        "your input. Run again with `ehr-tl --verbose ...` to see the whole traceback (it may quote records: read it "
        "before you pass it on).",
        1,
        verbose,
    )


def _fail(message: str, code: int, verbose: bool) -> NoReturn:
    if verbose:
        traceback.print_exc()
    typer.echo(message, err=True)
    sys.exit(code)
