"""The `docr` command: its subcommands, and the edge where errors become exit codes.

The modules of the commands are imported here, so that help and completion know them; what is
heavy they import when they run.
"""

import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated

import typer

from docr import __version__
from docr.cli.bench import bench
from docr.cli.configuration import config_app
from docr.cli.convert import convert
from docr.cli.doctor import doctor
from docr.cli.messages import StdoutClosed, emit, say
from docr.cli.models import models_app
from docr.cli.schema import schema
from docr.cli.session import Session
from docr.cli.status import status
from docr.errors import DocrError, OutputError

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
    sys.exit(_run())


def _run() -> int:
    session = Session()
    try:
        app(prog_name="docr", obj=session)
    except SystemExit as end:
        return _flushed(end.code if isinstance(end.code, int) else 1)
    except StdoutClosed as error:
        return error.exit_code
    except DocrError as error:
        say(f"ERROR: {error}")
        if session.verbose:
            traceback.print_exception(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # the edge: whatever it is, it ends in one line
        place = _keep_traceback(error, session)
        say(f"ERROR: internal error: {type(error).__name__}: {error}; {place}")
        if session.verbose:
            traceback.print_exception(error)
        return 1
    return 0


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
    for place in (folder, Path(tempfile.gettempdir())):
        if place is None or not place.is_dir():
            continue
        try:
            handle, name = tempfile.mkstemp(prefix="docr-error-", suffix=".txt", dir=place)
            with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"docr {__version__}, Python {sys.version}\n{text}")
        except OSError:
            continue
        return f"please report it with the traceback in {name}"
    return "its traceback could not be stored; -v prints it"
