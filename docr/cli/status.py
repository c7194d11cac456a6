"""`docr status`: what an output folder holds, from its records."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from docr.cli.messages import count, emit
from docr.errors import UsageError
from docr.escape import escaped

if TYPE_CHECKING:
    from docr.output.status import Outcome, Status

_SHOWN = 20


def status(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="An output folder.", show_default=False)
    ],
    failed: Annotated[
        bool, typer.Option("--failed", help="Print only the paths of files with failures.")
    ] = False,
    nul: Annotated[
        bool, typer.Option("-0", "--null", help="End the paths of --failed in NUL.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 3 for truncated and repetitive pages, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Sum up an output folder, without a model; exits as the run that wrote it.

    `docr status OUT --failed -0 | docr convert --files-from - -0 --retry-failed -o OUT` tries
    once more what failed.
    """
    from docr.output.status import failed_sources, read_status

    if nul and not failed:
        raise UsageError("-0 is for --failed")
    if failed and as_json:
        raise UsageError("--failed prints paths; --json has them in its own object")
    found = read_status(out)
    code = found.tally.exit_code(strict=strict)
    if failed:
        end = b"\0" if nul else b"\n"
        exact = nul or sys.stdout is None or not sys.stdout.isatty()
        for path in failed_sources(out):
            emit(path + end if exact else escaped(os.fsdecode(path)) + "\n")
    elif as_json:
        emit(json.dumps(_as_object(found, code), indent=2) + "\n")
    else:
        _print_status(found, code)
    raise typer.Exit(code)


def _as_object(found: "Status", code: int) -> dict[str, object]:
    tally = found.tally
    return {
        "documents": tally.documents,
        "failed_documents": tally.failed_documents,
        "pages": dict(sorted(tally.pages.items())),
        "output_tokens": tally.output_tokens,
        "vision_tokens": tally.vision_tokens,
        "failures": tally.failures,
        "incomplete": found.incomplete,
        "failed": [asdict(outcome) for outcome in found.failures],
        "doubtful": [asdict(outcome) for outcome in found.doubtful],
        "exit_code": code,
    }


def _print_status(found: "Status", code: int) -> None:
    from docr.cli.progress import summary_line

    emit(escaped(summary_line(found.tally, code)) + "\n")
    if found.incomplete:
        emit(f"{count(found.incomplete, 'file')} with pages not selected, or not reached yet\n")
    for outcome in found.failures[:_SHOWN]:
        emit(escaped(f"  {_describe(outcome)}: {outcome.message or 'no message'}") + "\n")
    if len(found.failures) > _SHOWN:
        emit(f"  and {len(found.failures) - _SHOWN} more; --json has them\n")
    doubtful = [o for o in found.doubtful if o.state != "ok" or (o.confidence or 0) < 0.9]
    if doubtful:
        emit("pages to look at first:\n")
    for outcome in doubtful:
        sure = "" if outcome.confidence is None else f", confidence {outcome.confidence:.2f}"
        emit(escaped(f"  {_describe(outcome)}{sure}") + "\n")


def _describe(outcome: "Outcome") -> str:
    page = "" if outcome.page is None else f" p.{outcome.page}"
    return f"{outcome.path}{page}: {outcome.state} ({outcome.record})"
