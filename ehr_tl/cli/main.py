"""The command `ehr-tl`: its options, and what becomes of an error.

Exit codes: 0 done, 2 the user's input, 1 a defect of this package. Results go to stdout, progress and logs to stderr.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import traceback
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from ehr_tl import __version__
from ehr_tl.cli import adapters, convert, coverage, doctor, embed, fetch, pretrain, push, run, score, stages, study
from ehr_tl.errors import EhrTlError
from ehr_tl.threads import let_others_work

#: What a file system refuses for reasons that lie outside of this package.
_PLACES = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
}

#: How libraries that raise errors of their own tell of a full disk.
_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

#: What the process exits with after Ctrl-C (typer), or after one of the signals.
_INTERRUPTED = {130, *(128 + number for number in _SIGNALS)}

app = typer.Typer(
    name="ehr-tl",
    help="Calibrated, explained clinical risk scores from a FHIR export, offline and on a CPU.",
    epilog="Example: ehr-tl run demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (run, fetch, convert, stages, score, doctor, adapters, coverage, pretrain, embed, push, study):
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
    verbose, arguments = _arguments(sys.argv[1:])
    os.umask(0o077)  # whatever is written may tell of patients
    let_others_work()
    for number in _SIGNALS:
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup has SIGHUP ignored
            signal.signal(number, _end)
    try:
        app(arguments, prog_name="ehr-tl")
    except EhrTlError as error:
        _fail(f"Error: {error}", 2, verbose)
    except OSError as error:
        if error.errno not in _PLACES:
            _defect(error, verbose)
        _fail_at_place(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror), verbose)
    except SystemExit as end:
        if end.code in _INTERRUPTED:
            with suppress(OSError):  # the terminal may be gone
                typer.echo("Interrupted. Run the same command again to go on from the last finished step.", err=True)
        raise
    except Exception as error:
        for full in _FULL:
            if full in str(error):
                _fail_at_place(full, verbose)
        _defect(error, verbose)


def _arguments(given: list[str]) -> tuple[bool, list[str]]:
    """Whether --verbose is among the arguments, wherever it stands, and the arguments with it in its place."""
    rest = [each for each in given if each != "--verbose"]
    verbose = len(rest) < len(given)
    return verbose, ["--verbose", *rest] if verbose else rest


def _end(number: int, frame: object) -> NoReturn:
    """Ends as after an error, so that half-written files are removed; a second signal does not disturb that."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _fail_at_place(problem: str, verbose: bool) -> NoReturn:
    _fail(
        f"Error: {problem}. What to do: check the path, who may read and write there, and the space that is left on "
        "the disk.",
        2,
        verbose,
    )


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
