"""docr from Python: settings in, records out, on one device or many. The CLI stands on this.

tally = docr.convert(["./pdfs"], "out", mode="base")
for page in docr.iter_pages(["report.pdf"], mode="small"):
    print(page.page, page.state, page.markdown)
"""

import os
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docr.distributed.accelerate import Ranks, rank_count
from docr.errors import OutputError, UsageError
from docr.events import Event, ModelReady, Notice, Observer, PageFinished, RunStarted, Tally
from docr.job import Job, Stop
from docr.modes.tiles import grid_of
from docr.output.record import JSON, ModelInfo, PageRecord
from docr.output.store import Store
from docr.pdf.discover import Discovery
from docr.pdf.stdin import NameList, spool_stdin
from docr.pipeline import Pipeline, PipelineConfig, Workforce
from docr.reader import find_reader, planned
from docr.rendering import mode_of, open_cage
from docr.settings import Settings
from docr.survey import Survey
from docr.types import Grid
from docr.writer import PageWriter

_REASONS = {
    "hidden": "hidden",
    "other": "neither PDF nor image",
    "excluded": "by --include or --exclude",
    "output folder": "output folder",
    "linked directory": "linked directory",
}

_RENDER_WORKERS = 8
"""Most rendering processes a rank: four feed the fastest GPU there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What to convert, how, and where to.

    Attributes:
        inputs: files, directories and globs as given; "-" is one PDF on standard input.
        out: the output folder; None: results are handed out and nothing is written.
        files_from: a file with one path a line ("-": standard input), or NUL-separated where
            `files_from_nul`.
    """

    inputs: tuple[str, ...]
    settings: Settings
    out: Path | None
    files_from: Path | None = None
    files_from_nul: bool = False


@dataclass(frozen=True, slots=True)
class PlannedDocument:
    """What a run would do with a document.

    Attributes:
        path: relative to its root.
        pages: selected by --pages; of these, `reused` are finished, `redo` are tried again.
        grids: of the pages to do, how many have which grid of tiles.
        vision_tokens: in the sequences of the pages to do.
        error: why the file cannot be read.
    """

    path: str
    pages: int = 0
    reused: int = 0
    redo: int = 0
    grids: Counter[Grid] = field(default_factory=Counter)
    vision_tokens: int = 0
    error: str | None = None


def convert(
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    observer: Observer | None = None,
    stop: Stop | None = None,
    **settings: Any,
) -> Tally:
    """Convert documents into an output folder, resuming what is there.

    Args:
        paths: files, directories and glob patterns.
        out: the output folder.
        observer: called with each event, in this thread.
        stop: a clean end can be requested through it, from any thread.
        settings: fields of `docr.settings.Settings`.

    Returns:
        The counts; `exit_code()` is what the command line would exit with.

    Raises:
        DocrError: the run could not begin, or not go on; see docr.errors.
    """
    request = JobRequest(
        inputs=tuple(os.fspath(path) for path in paths),
        settings=Settings(**settings),
        out=Path(out),
    )
    return run(request, observer=observer or _ignore, stop=stop or Stop())


def iter_pages(paths: Iterable[str | Path], **settings: Any) -> Iterator[PageRecord]:
    """Recognise documents and yield their pages' records as they are ready; nothing is written.

    Pages of different documents are mixed: a record says whose it is. A file that cannot be read
    has no page; `convert` with an observer tells of those, too.

    Args:
        paths: files, directories and glob patterns.
        settings: fields of `docr.settings.Settings`.

    Raises:
        DocrError: as `convert`.
    """
    request = JobRequest(
        inputs=tuple(os.fspath(path) for path in paths), settings=Settings(**settings), out=None
    )
    for event in _events(request, Stop()):
        if isinstance(event, PageFinished):
            assert event.result is not None, event
            yield event.result


def run(request: JobRequest, *, observer: Observer, stop: Stop) -> Tally:
    """Run a request to its end, or until `stop` is requested; see `convert`."""
    with closing(_events(request, stop)) as events:
        while True:
            try:
                observer(next(events))
            except StopIteration as end:
                tally: Tally = end.value
                return tally


def plan(request: JobRequest) -> Iterator[PlannedDocument]:
    """What a run would do, document by document; loads no model and writes nothing.

    Without the weights it cannot be known which records are this model's: then none counts.

    Raises:
        NoInput: there was not one document.
    """
    settings, model = planned(request.settings)
    mode = mode_of(settings)
    with ExitStack() as stack:
        discovery = _discover(request, stack)
        cage = open_cage(settings, workers=1)
        stack.callback(cage.close)
        store = None
        if model is None:
            model = ModelInfo(name="", revision=None, dtype="")
        elif request.out is not None and (request.out / ".docr").is_dir():
            store = Store.attach(request.out, run_id="plan")
        writer = PageWriter(settings, model, out=None, run_id="plan")
        survey = Survey(
            discovery,
            settings,
            inspect=cage.inspect,
            fingerprint=writer.fingerprint,
            store=store,
        )
        stack.callback(survey.close)
        while not survey.exhausted:
            document = survey.next(1.0)
            if document is None:
                continue
            path = document.source.path
            if document.error is not None:
                yield PlannedDocument(path, error=f"{document.error.code}: {document.error}")
                continue
            sizes = cage.inspect(document.file, sizes=True).sizes_px
            todo = (sizes[index] for index in document.todo)
            grids = Counter(grid_of(mode, *size) for size in todo if all(size))
            tokens = sum(mode.num_vision_tokens(grid) * n for grid, n in grids.items())
            done = sum(index in document.finished for index in document.selected)
            yield PlannedDocument(
                path,
                pages=len(document.selected),
                reused=done,
                redo=len(document.attempts),
                grids=grids,
                vision_tokens=tokens,
            )


def _ignore(event: Event) -> None:
    """Nobody is watching."""


def _events(request: JobRequest, stop: Stop) -> Generator[Event, None, Tally]:
    """The run: everything that is opened is opened, and closed, here."""
    run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
    with ExitStack() as stack:
        discovery = _discover(request, stack)
        reader = find_reader(request.settings)
        settings, model = reader.settings, reader.model
        store = None
        if request.out is not None:
            store = Store.open(
                request.out,
                settings={**settings.text_settings(), **model.model_dump()},
                overwrite=settings.overwrite,
                run_id=run_id,
            )
            stack.callback(store.close)
            if any(Path(each).is_dir() for each in request.inputs):
                store.remember_roots(discovery.roots)
        yield RunStarted(run_id, None if store is None else store.out)
        if not mode_of(settings).trained:
            yield Notice(f"the released weights were not trained on {settings.mode}", warning=True)
        ranks = rank_count(settings)
        config = PipelineConfig(
            settings=settings,
            engine=reader.engine,
            model=model,
            out=None if store is None else store.out,
            run_id=run_id,
            render_workers=settings.render_workers or _render_workers(ranks),
        )
        workforce: Workforce = (
            Ranks(config, count=ranks, environ=os.environ) if ranks else Pipeline(config)
        )
        stack.callback(workforce.close)
        writer = PageWriter(settings, model, out=None, run_id=run_id)
        survey = Survey(
            discovery,
            settings,
            inspect=workforce.inspect,
            fingerprint=writer.fingerprint,
            store=store,
        )
        stack.callback(survey.close)
        job = Job(survey, workforce, settings, store=store, run_id=run_id, stop=stop)
        # Closed here, not when it is forgotten: what goes wrong as a job ends must be heard.
        with closing(job.run()) as events:
            for event in events:
                if store is not None:
                    store.event(_log_line(event))
                yield event
                if isinstance(event, ModelReady) and reader.caution is not None:
                    yield Notice(reader.caution)
        if skipped := _skipped(discovery.skipped):
            yield Notice(skipped)
        return job.tally


def _log_line(event: Event) -> dict[str, JSON]:
    """An event as the run's log has it."""
    fields = {name: getattr(event, name) for name in event.__slots__ if name != "result"}
    return {"event": type(event).__name__, **fields}


def _discover(request: JobRequest, stack: ExitStack) -> Discovery:
    """The walk over the inputs; what comes on standard input is kept in a temporary folder."""
    settings = request.settings
    inputs = list(request.inputs)
    names = None
    if "-" in inputs or request.files_from is not None:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="docr-")))
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(
                f"no place to keep standard input in: {reason}; try TMPDIR"
            ) from error
        if "-" in inputs:
            if request.files_from == Path("-"):
                raise UsageError("standard input is either a PDF or a list of files, not both")
            (folder / "stdin").mkdir()
            stdin = spool_stdin(sys.stdin.buffer, folder / "stdin")
            inputs[inputs.index("-")] = str(stdin.path)
        if request.files_from == Path("-"):
            names = NameList.spooled(sys.stdin.buffer, folder, nul_separated=request.files_from_nul)
        elif request.files_from is not None:
            names = NameList(request.files_from, nul_separated=request.files_from_nul)
    return Discovery(
        inputs,
        include=settings.include,
        exclude=settings.exclude,
        files_from=names,
        exclude_dir=request.out,
        follow_links=settings.follow_links,
    )


def _render_workers(ranks: int) -> int:
    """Rendering processes of each rank: the cores but one, shared out."""
    return max(1, min(_RENDER_WORKERS, ((os.cpu_count() or 2) - 1) // max(1, ranks)))


def _skipped(counts: Counter[str]) -> str:
    """One line about what the walk passed over, empty where that is nothing."""
    total = sum(counts.values())
    if not total:
        return ""
    reasons = ", ".join(f"{count} {_REASONS[reason]}" for reason, count in sorted(counts.items()))
    return f"passed over {reasons}"
