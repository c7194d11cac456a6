"""The `docr` command: its subcommands, and the edge where errors become exit codes.

The modules of the commands are imported here, so that help and completion know them; what is
heavy they import when they run.
"""

import itertools
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from docr import __version__
from docr.cli.bench import bench
from docr.cli.configuration import config_app
from docr.cli.convert import convert
from docr.cli.doctor import doctor
from docr.cli.messages import StdoutClosed, emit, occupy_standard_streams, say
from docr.cli.models import models_app
from docr.cli.schema import schema
from docr.cli.session import Session
from docr.cli.status import status
from docr.errors import DocrError, OutputError, UsageError
from docr.escape import escaped

NO_HOME = "/nonexistent"  # as Debian gives to users who have none

app = typer.Typer(
    name="docr",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(convert)
app.command()(status)
app.add_typer(models_app, name="models")
app.add_typer(config_app, name="config")
app.command()(doctor)
app.command()(bench)
app.command()(schema)


def _print_version(wanted: bool) -> None:
    if wanted:
        emit(f"docr {__version__}\n")
        raise typer.Exit


@app.callback()
def _docr(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Turn folders of PDFs and page images into Markdown and JSON with DeepSeek-OCR."""


def run() -> None:
    """Run the command line and exit. The console script."""
    occupy_standard_streams()
    _settle_home()
    sys.exit(_run())


def _settle_home() -> None:
    """Give a user without a home and a name, as in some containers, a home where nothing is."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = NO_HOME


def _run() -> int:
    session = Session()
    try:
        _check_options(sys.argv[1:])
        app(prog_name="docr", obj=session)
    except SystemExit as end:
        return _flushed(end.code if isinstance(end.code, int) else 1)
    except StdoutClosed as error:
        return error.exit_code
    except DocrError as error:
        say(f"ERROR: {error}")
        if session.verbose:
            _say_traceback(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # the edge: whatever it is, it ends in one line
        place = _keep_traceback(error, session)
        say(f"ERROR: internal error: {type(error).__name__}: {error}; {place}")
        if session.verbose:
            _say_traceback(error)
        return 1
    return 0


def _say_traceback(error: Exception) -> None:
    """Print a traceback line by line, as all that may quote a file's name."""
    for line in "".join(traceback.format_exception(error)).splitlines():
        say(line)


def _check_options(arguments: Sequence[str]) -> None:
    """Refuse options that nobody can have meant: names of files that a shell's * has put there.

    The parser's own message would quote them as they are.

    Raises:
        UsageError: one holds a character that is not to be printed.
    """
    for argument in itertools.takewhile(lambda argument: argument != "--", arguments):
        name = argument.partition("=")[0]
        if name.startswith("-") and escaped(name) != name:
            raise UsageError(f"no such option: {name}; names of files that begin so go after --")


def _flushed(code: int) -> int:
    """The exit code, unless what was printed cannot be written."""
    try:
        emit("")
    except OutputError as error:
        if not isinstance(error, StdoutClosed):
            say(f"ERROR: {error}")
        return code or error.exit_code
    return code


def _keep_traceback(error: Exception, session: Session) -> str:
    """Write the traceback where it can be found; says where in words."""
    text = "".join(traceback.format_exception(error))
    folder = session.out / ".docr" if session.out is not None else None
    for place in (folder, None):  # None: where temporary files go, if there is such a place
        if place is not None and not place.is_dir():
            continue
        try:
            handle, name = tempfile.mkstemp(prefix="docr-error-", suffix=".txt", dir=place)
            with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"docr {__version__}, Python {sys.version}\n{text}")
        except OSError:
            continue
        return f"please report it with the traceback in {name}"
    return "its traceback could not be stored; -v prints it"
