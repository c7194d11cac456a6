"""`docr convert`: the options of a run, and a thin layer over docr.job."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, get_args

import typer
from typer.models import OptionInfo

from docr.cli.config import OUT, Configured, configure
from docr.cli.configuration import ConfigOption
from docr.cli.messages import say
from docr.cli.session import Session
from docr.errors import UsageError
from docr.settings import ModeName, Settings, Task

DEFAULT_OUT = "docr-out"

_INPUT, _OUTPUT, _MODEL, _PAGE = "Input", "Output", "Model", "Page"
_RUN, _LIMITS, _ADVANCED = "Run", "Limits", "Advanced"


def _value(
    panel: str,
    metavar: str,
    text: str,
    *,
    min: int | None = None,
    max: int | None = None,
    words: Sequence[str] = (),
) -> OptionInfo:
    """An option with a value; None means that the command line does not say.

    `words` are for completion. They are no type of the option: typer would load pydantic for it,
    and `configure` checks them with a better message.
    """

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    option: OptionInfo = typer.Option(
        metavar=metavar,
        help=text,
        rich_help_panel=panel,
        min=min,
        max=max,
        autocompletion=complete if words else None,
    )
    return option


def _switch(panel: str, name: str, text: str) -> OptionInfo:
    """An option with its contrary, so that a flag can undo what a file says."""
    names = f"--{name}/--no-{name}"
    option: OptionInfo = typer.Option(names, show_default=False, help=text, rich_help_panel=panel)
    return option


def _flag(panel: str, *names: str, text: str) -> OptionInfo:
    """An option without a value, and not a setting."""
    option: OptionInfo = typer.Option(*names, help=text, rich_help_panel=panel)
    return option


def convert(
    ctx: typer.Context,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATHS", show_default=False, help="Files and folders; - is a PDF on stdin."
        ),
    ] = None,
    files_from: Annotated[
        str | None, _value(_INPUT, "FILE|-", "Read more paths from a file, one a line.")
    ] = None,
    nul: Annotated[
        bool, _flag(_INPUT, "-0", "--null", text="The paths of --files-from end in NUL.")
    ] = False,
    include: Annotated[
        list[str] | None, _value(_INPUT, "GLOB", "Only files whose path matches; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, _value(_INPUT, "GLOB", "No files whose path matches; repeatable.")
    ] = None,
    follow_links: Annotated[
        bool | None,
        _switch(_INPUT, "follow-links", "Follow links to files outside the folder [refused]."),
    ] = None,
    max_file_mib: Annotated[
        int | None, _value(_INPUT, "MIB", "Refuse files larger than this [4096].", min=1)
    ] = None,
    pages: Annotated[
        str | None, _value(_INPUT, "RANGES", "Pages of each file, such as 1-3,7,10-.")
    ] = None,
    password: Annotated[
        str | None,
        _value(
            _INPUT, "TEXT", "For encrypted PDFs; DOCR_PASSWORD keeps it out of the process list."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help="Folder for the results [./docr-out]; - prints the Markdown of one file.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool | None, _switch(_OUTPUT, "overwrite", "Do finished pages again.")
    ] = None,
    header_footer: Annotated[
        bool | None,
        _switch(_OUTPUT, "header-footer", "Keep headers, footers and page numbers [kept]."),
    ] = None,
    keep_tokens: Annotated[
        bool | None, _switch(_OUTPUT, "keep-tokens", "Write all token ids into the records.")
    ] = None,
    as_json: Annotated[
        bool, _flag(_OUTPUT, "--json", text="Print one summary object on stdout.")
    ] = False,
    jsonl: Annotated[
        bool, _flag(_OUTPUT, "--jsonl", text="Print one object a page on stdout.")
    ] = False,
    model: Annotated[
        str | None,
        _value(
            _MODEL,
            "NAME|DIR",
            "A model of `docr models list`, or a checkpoint's folder [the one in use].",
        ),
    ] = None,
    revision: Annotated[
        str | None, _value(_MODEL, "REV", "Commit, branch or tag of the model [the pinned one].")
    ] = None,
    device: Annotated[
        str | None, _value(_MODEL, "DEVICE", "auto, cpu, cuda, cuda:N or mps [auto].")
    ] = None,
    dtype: Annotated[
        str | None,
        _value(_MODEL, "DTYPE", "auto, bfloat16 (bf16), float16 (fp16) or float32 (fp32) [auto]."),
    ] = None,
    quantize: Annotated[
        str | None,
        _value(
            _MODEL,
            "none|int8",
            "int8: the decoder's weights in 8 bits, on a CPU; faster, a little less exact [none].",
        ),
    ] = None,
    gpus: Annotated[
        int | None, _value(_MODEL, "N", "Devices to use [all there are].", min=1)
    ] = None,
    batch_size: Annotated[
        str | None,
        _value(_MODEL, "auto|N", "Most pages recognised at once [auto: as memory allows]."),
    ] = None,
    mode: Annotated[
        str | None,
        _value(
            _PAGE,
            "MODE",
            "What the model sees: tiny, small, base, large, gundam or gundam-m [the model's own].",
            words=get_args(ModeName),
        ),
    ] = None,
    max_tiles: Annotated[
        int | None, _value(_PAGE, "2..9", "Most tiles in the gundam modes [9].", min=2, max=9)
    ] = None,
    task: Annotated[
        str | None,
        _value(
            _PAGE,
            "TASK",
            "markdown, ocr, image, figure, describe or locate [the model's own].",
            words=get_args(Task),
        ),
    ] = None,
    query: Annotated[str | None, _value(_PAGE, "TEXT", "What --task locate looks for.")] = None,
    prompt: Annotated[str | None, _value(_PAGE, "TEXT", "Ask this instead of a task.")] = None,
    dpi: Annotated[
        float | None, _value(_PAGE, "DPI", "Rendering resolution [what the mode needs].")
    ] = None,
    retry_failed: Annotated[
        bool | None, _switch(_RUN, "retry-failed", "Try failed pages of earlier runs again.")
    ] = None,
    fail_fast: Annotated[
        bool | None, _switch(_RUN, "fail-fast", "Stop at the first failure.")
    ] = None,
    max_failures: Annotated[
        int | None, _value(_RUN, "N", "Stop after this many failures.", min=1)
    ] = None,
    strict: Annotated[
        bool | None, _switch(_RUN, "strict", "Exit 3 for truncated and repetitive pages, too.")
    ] = None,
    dry_run: Annotated[
        bool,
        _flag(
            _RUN,
            "--dry-run",
            text="Show files, pages, grids and vision tokens; load no model, write nothing.",
        ),
    ] = False,
    quiet: Annotated[bool, _flag(_RUN, "-q", "--quiet", text="Say errors only.")] = False,
    verbose: Annotated[
        bool, _flag(_RUN, "-v", "--verbose", text="Say every page, and print tracebacks.")
    ] = False,
    config: ConfigOption = None,
    page_timeout: Annotated[
        float | None,
        _value(_LIMITS, "SECONDS", "Longest time to open a file or render a page [30]."),
    ] = None,
    page_memory: Annotated[
        float | None,
        _value(_LIMITS, "GB", "Most address space of a rendering process [4].", min=2, max=1024),
    ] = None,
    max_pixels: Annotated[
        int | None,
        _value(
            _LIMITS,
            "N",
            "Most pixels of a rendered page; larger ones shrink [what the mode needs].",
        ),
    ] = None,
    max_image_pixels: Annotated[
        int | None,
        _value(_LIMITS, "N", "Page images that declare more pixels fail [400000000].", min=1),
    ] = None,
    max_aspect: Annotated[
        float | None,
        _value(_LIMITS, "N", "Pages more than N times as long as wide fail [200].", min=1),
    ] = None,
    max_content_mib: Annotated[
        int | None,
        _value(_LIMITS, "MIB", "Pages whose instructions unpack to more fail [256].", min=1),
    ] = None,
    max_pages_per_file: Annotated[
        int | None,
        _value(_LIMITS, "N", "Files that have, or claim, more pages fail [20000].", min=1),
    ] = None,
    require_sandbox: Annotated[
        bool | None,
        _switch(
            _LIMITS,
            "require-sandbox",
            "Refuse to run where rendering processes cannot be locked up (docr doctor).",
        ),
    ] = None,
    no_repeat_ngram: Annotated[
        int | None,
        _value(_ADVANCED, "N", "Never repeat N tokens within the window; 0: off [30].", min=0),
    ] = None,
    ngram_window: Annotated[
        int | None, _value(_ADVANCED, "N", "How many tokens that rule looks back [90].", min=0)
    ] = None,
    max_tokens: Annotated[
        int | None,
        _value(_ADVANCED, "N", "Most tokens written a page [what the context leaves].", min=1),
    ] = None,
    loop_stop: Annotated[
        bool | None, _switch(_ADVANCED, "loop-stop", "End a page that repeats itself [ended].")
    ] = None,
    drafts: Annotated[
        bool | None,
        _switch(_ADVANCED, "drafts", "Check guesses from a page's text layer: faster, same text."),
    ] = None,
    stall_timeout: Annotated[
        float | None,
        _value(_ADVANCED, "SECONDS", "Replace a device's process after so long a silence [600]."),
    ] = None,
    render_workers: Annotated[
        int | None, _value(_ADVANCED, "N", "Rendering processes [by the number of cores].", min=1)
    ] = None,
    engine: Annotated[str | None, typer.Option(metavar="MODULE:NAME", hidden=True)] = None,
) -> None:
    """Recognise documents and write Markdown and JSON.

    Finished pages are kept: the same command goes on where a run was stopped.
    """
    session: Session = ctx.obj
    session.verbose = verbose
    known = {field.name for field in fields(Settings)} | {OUT}
    # Every option that is a setting has the setting's name.
    flags = {name: value for name, value in ctx.params.items() if name in known}
    configured = configure(flags, config=config)
    _check_combination(configured, paths, files_from, nul=nul, as_json=as_json, jsonl=jsonl)

    from docr.api import JobRequest
    from docr.cli.plan import show_plan
    from docr.cli.run import Report, run_to_folder, run_to_stdout

    place = configured.out or DEFAULT_OUT
    if configured.out is None and not quiet:
        say(f"results go to ./{DEFAULT_OUT}; -o OUT puts them elsewhere")
    request = JobRequest(
        inputs=tuple(paths or ()),
        settings=configured.settings,
        out=None if place == "-" else Path(place),
        files_from=None if files_from is None else Path(files_from),
        files_from_nul=nul,
    )
    session.out = request.out
    report = Report(quiet=quiet, verbose=verbose, as_json=as_json, jsonl=jsonl)
    if dry_run:
        code = show_plan(request, as_json=as_json)
    elif place == "-":
        code = run_to_stdout(request, report)
    else:
        code = run_to_folder(request, report)
    raise typer.Exit(code)


def _check_combination(
    configured: Configured,
    paths: list[str] | None,
    files_from: str | None,
    *,
    nul: bool,
    as_json: bool,
    jsonl: bool,
) -> None:
    """Refuse what cannot be meant, before any work.

    Raises:
        UsageError: says which options do not go together.
    """
    if not paths and files_from is None:
        raise UsageError("nothing to convert: name files or folders, or --files-from FILE")
    if nul and files_from is None:
        raise UsageError("-0 is for --files-from")
    if files_from == "-" and "-" in (paths or ()):
        raise UsageError("stdin is either a document (-) or a list of paths (--files-from -)")
    if as_json and jsonl:
        raise UsageError("--json and --jsonl both want stdout; choose one")
    if configured.out == "-":
        if as_json or jsonl:
            raise UsageError("-o - prints Markdown on stdout, where --json and --jsonl print, too")
        one = len(paths or ()) == 1 and files_from is None
        if not one or Path((paths or [""])[0]).is_dir():
            raise UsageError("-o - is for one file; give a folder: -o OUT")
