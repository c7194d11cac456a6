"""Running a conversion for a person or a script: events shown, results printed, exit code."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import docr.api
from docr.api import JobRequest
from docr.cli.messages import emit, route_logging, say
from docr.cli.progress import Progress
from docr.cli.signals import StopOnSignal, exit_code
from docr.events import DocumentFailed, Event, Observer, PageFinished, Tally
from docr.job import Stop


@dataclass(frozen=True, slots=True)
class Report:
    """How much is said, and which results stdout gets."""

    quiet: bool
    verbose: bool
    as_json: bool
    jsonl: bool


def run_to_folder(request: JobRequest, report: Report) -> int:
    """Convert into the output folder; returns the exit code.

    Raises:
        DocrError: the run could not begin, or not go on.
    """

    def on_event(event: Event) -> None:
        if report.jsonl and isinstance(event, PageFinished | DocumentFailed):
            emit(json.dumps(_event_line(event)) + "\n")

    tally, stop = _run(request, report, on_event)
    code = _exit_code(tally, stop, strict=request.settings.strict)
    if report.as_json:
        emit(json.dumps(summary(tally, code, request.out), indent=2) + "\n")
    if stop.signal_number is not None:
        say(f"go on with: {resume_command(sys.argv[1:])}")
    return code


def run_to_stdout(request: JobRequest, report: Report) -> int:
    """Convert one file and print its Markdown; nothing is written."""
    from docr.output.markdown import joined

    texts: dict[int, tuple[str, str | None]] = {}

    def on_event(event: Event) -> None:
        if isinstance(event, PageFinished):
            markdown = None if event.result is None else event.result.markdown
            texts[event.page] = (event.state, markdown)

    tally, stop = _run(request, report, on_event)
    for piece in joined((number, *texts[number]) for number in sorted(texts)):
        emit(piece)
    return _exit_code(tally, stop, strict=request.settings.strict)


def _run(request: JobRequest, report: Report, on_event: Observer) -> tuple[Tally, Stop]:
    """Run the job with everything around it that a terminal wants."""
    stop = Stop()
    # Lines of JSON and a live display would overwrite each other on one terminal.
    live = False if report.jsonl and sys.stdout is not None and sys.stdout.isatty() else None
    progress = Progress(quiet=report.quiet, verbose=report.verbose, live=live)

    def observe(event: Event) -> None:
        on_event(event)
        progress(event)

    route_logging(progress.line, verbose=report.verbose)
    with StopOnSignal(stop), progress:
        tally = docr.api.run(request, observer=observe, stop=stop)
    progress.finish(tally, _exit_code(tally, stop, strict=request.settings.strict))
    return tally, stop


def _exit_code(tally: Tally, stop: Stop, *, strict: bool) -> int:
    if stop.signal_number is not None:
        return exit_code(stop.signal_number)
    return tally.exit_code(strict=strict)


def _event_line(event: PageFinished | DocumentFailed) -> dict[str, object]:
    """A line of --jsonl; a file without pages has page null, as in the manifest."""
    if isinstance(event, DocumentFailed):
        return {
            "path": event.path,
            "page": None,
            "state": f"failed:{event.code}",
            "message": event.message,
            "record": None,
            "output_tokens": 0,
            "vision_tokens": 0,
            "seconds": 0.0,
        }
    return {
        "path": event.path,
        "page": event.page,
        "state": event.state,
        "message": event.message,
        "record": event.record,
        "output_tokens": event.output_tokens,
        "vision_tokens": event.vision_tokens,
        "seconds": round(event.seconds, 3),
    }


def summary(tally: Tally, code: int, out: Path | None) -> dict[str, object]:
    """The object of --json: the tally, where the output is, and the exit code."""
    return {
        **asdict(tally),
        "pages": dict(sorted(tally.pages.items())),
        "stage_seconds": {k: round(v, 3) for k, v in sorted(tally.stage_seconds.items())},
        "seconds": round(tally.seconds, 3),
        "failures": tally.failures,
        "out": None if out is None else str(out),
        "exit_code": code,
    }


def resume_command(arguments: Sequence[str]) -> str:
    """The command that goes on with a stopped run: the same one, quoted for a shell.

    Without --overwrite, which would do the finished pages once more, and without the password.
    """
    words = ["docr"]
    hide_next = False
    for argument in arguments:
        if hide_next:
            words.append("***")
        elif argument.startswith("--password="):
            words.append("--password=***")
        elif argument != "--overwrite":
            words.append(argument)
        hide_next = argument == "--password" and not hide_next
    return shlex.join(words)
