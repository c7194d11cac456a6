"""One run over a collection: hand out what is to do, finish documents, account for every page.

    survey (what there is to do) ─▶ chunks ─▶ Workforce ─▶ outcomes
                                                               │
      document.json, document.md, manifest.jsonl ◀── all pages accounted for

The seam for scale is here: a chunk of page references goes out, outcomes of a few hundred bytes
come back. Retry, resume and several devices are the same thing: pages without a finished record.
"""

import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from docr.errors import NoInput, OutputError
from docr.events import (
    DocumentFailed,
    DocumentFinished,
    DocumentFound,
    DocumentsCounted,
    Event,
    ModelReady,
    Notice,
    PageFinished,
    Tally,
)
from docr.output import build
from docr.output.record import PageEntry, RunInfo
from docr.output.store import Store
from docr.pipeline import CHUNK_PAGES, Message, Workforce
from docr.settings import Settings
from docr.survey import Document, Survey
from docr.writer import Chunk, PageOutcome

_POLL_SECONDS = 0.2

_WRITERS = 4  # documents written at a time: writing one is mostly waiting for the disk
_MOST_WRITING = 64  # finished documents that wait for it: they hold an entry a page


class Stop:
    """A request to end the run, made by a signal handler or another thread."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def request(self, signal_number: int) -> None:
        """Ask for a clean end: finished pages stay, pages in flight are dropped."""
        self.signal_number = signal_number

    @property
    def requested(self) -> bool:
        """Whether an end was asked for."""
        return self.signal_number is not None


@dataclass(slots=True)
class _OpenDocument:
    """A document that is being worked on, and the entries of its pages so far, by index."""

    document: Document
    entries: dict[int, PageEntry] = field(default_factory=dict)
    waiting: int = 0  # pages of this run without an outcome


class Job:
    """Drives a workforce over a survey. Used once.

    Args:
        store: where records go; None: outcomes carry their results and nothing is written.
        stop: looked at between polls.
    """

    def __init__(
        self,
        survey: Survey,
        workforce: Workforce,
        settings: Settings,
        *,
        store: Store | None,
        run_id: str,
        stop: Stop,
    ) -> None:
        self._survey = survey
        self._workforce = workforce
        self._settings = settings
        self._store = store
        self._run_id = run_id
        self._stop = stop
        self._open: dict[str, _OpenDocument] = {}  # by folder
        self._chunks: deque[Chunk] = deque()
        self._heard: deque[Message] = deque()  # of the workforce, and not yet accounted for
        # The device has this thread: while a document is put on the disk, it would stand still.
        self._hands = ThreadPoolExecutor(_WRITERS, thread_name_prefix="documents")
        self._writing: deque[tuple[Event, Future[str]]] = deque()
        self.tally = Tally()

    def run(self) -> Generator[Event, None, None]:
        """Do the work; at the end every page has a record, or `tally.open` counts those without.

        Raises:
            NoInput: there was not one document.
            ModelError, OutputError: the run cannot go on; what is finished stays.
        """
        begin = time.monotonic()
        counted, writable = False, True
        try:
            while not self._ended():
                if not counted and (total := self._survey.total) is not None:
                    counted = True
                    yield DocumentsCounted(total)
                yield from self._hand_out()
                if self._workforce.pending:
                    self._heard.extend(self._workforce.poll(_POLL_SECONDS))
                    # Who listens may leave at any event; what is left is then accounted for below.
                    while self._heard:
                        yield from self._account(self._heard.popleft())
                elif not self._chunks and self._survey.exhausted:
                    break
                yield from self._written(_MOST_WRITING)
            yield from self._written(0)
        except OutputError:
            writable = False
            raise
        finally:
            self._leave(sum_up=writable)
            self.tally.seconds = time.monotonic() - begin
        if self.tally.documents == 0 and not self._stop.requested:
            raise NoInput("no document found: no PDF and no page image under the given paths")

    def _ended(self) -> bool:
        """Whether the run is to end before all is done."""
        limit = 1 if self._settings.fail_fast else self._settings.max_failures
        return self._stop.requested or (limit is not None and self.tally.failures >= limit)

    def _hand_out(self) -> Iterator[Event]:
        """Keep the workforce supplied with chunks; documents with nothing to do end here."""
        while self._workforce.wants() and not self._ended():
            if self._chunks:
                self._workforce.submit(self._chunks.popleft())
                continue
            document = self._survey.next(0.0 if self._workforce.pending else _POLL_SECONDS)
            if document is None:
                return
            yield from self._begin(document)

    def _begin(self, document: Document) -> Iterator[Event]:
        """Take up a document: what earlier runs finished counts, the rest becomes chunks."""
        self.tally.documents += 1
        path = document.source.path
        if document.error is not None:
            yield from self._fail(document)
            return
        opened = _OpenDocument(document, dict(document.finished), waiting=len(document.todo))
        reused = [index for index in document.selected if index in document.finished]
        for index in reused:
            self.tally.pages[document.finished[index].state] += 1
        self.tally.reused += len(reused)
        yield DocumentFound(path, pages=len(document.selected), reused=len(reused))
        self._open[document.folder] = opened
        for start in range(0, len(document.todo), CHUNK_PAGES):
            indexes = document.todo[start : start + CHUNK_PAGES]
            attempts = {i: document.attempts[i] for i in indexes if i in document.attempts}
            self._chunks.append(
                Chunk(
                    document.file,
                    document.source,
                    document.folder,
                    indexes,
                    attempts,
                    rescued=document.rescued,
                )
            )
        if not document.todo:
            yield from self._finish(opened)

    def _fail(self, document: Document) -> Iterator[Event]:
        error = document.error
        assert error is not None
        self.tally.failed_documents += 1
        failed = DocumentFailed(document.source.path, error.code, error.message)
        if self._store is None:
            yield failed
        else:
            record = build.failed_document(
                source=document.source,
                code=error.code,
                message=error.message,
                fingerprint=document.fingerprint,
                run=RunInfo(id=self._run_id),
            )
            written = self._hands.submit(self._store.write_document, document.folder, record)
            self._writing.append((failed, written))

    def _account(self, message: PageOutcome | ModelReady | Notice) -> Iterator[Event]:
        """Take note of what a workforce says; the last page of a document finishes it."""
        if not isinstance(message, PageOutcome):
            yield message
            return
        opened = self._open[message.folder]
        entry = message.entry
        opened.entries[message.index] = entry
        opened.waiting -= 1
        self.tally.pages[entry.state] += 1
        self.tally.output_tokens += entry.output_tokens
        self.tally.vision_tokens += entry.vision_tokens
        self.tally.stage_seconds.update(message.seconds)
        yield PageFinished(
            path=opened.document.source.path,
            page=entry.page,
            state=entry.state,
            message=entry.message,
            record=None if self._store is None else entry.record,
            output_tokens=entry.output_tokens,
            vision_tokens=entry.vision_tokens,
            seconds=sum(message.seconds.values()),
            result=message.result,
        )
        if opened.waiting == 0:
            yield from self._finish(opened)

    def _finish(self, opened: _OpenDocument) -> Iterator[Event]:
        """All selected pages of a document have records: it gets its own."""
        document = opened.document
        del self._open[document.folder]
        entries = [opened.entries[index] for index in document.selected]
        failed = sum(entry.is_failure for entry in entries)
        finished = DocumentFinished(document.source.path, pages=len(entries), failed=failed)
        if self._store is None or document.settled:
            yield finished
        else:
            written = self._hands.submit(self._write_document, self._store, opened)
            self._writing.append((finished, written))

    def _written(self, most: int) -> Iterator[Event]:
        """What there is to say of documents that are on the disk; waits where > `most` are not.

        Raises:
            OutputError: one cannot be written.
        """
        while self._writing and (len(self._writing) > most or self._writing[0][1].done()):
            event, written = self._writing.popleft()
            written.result()
            yield event

    def _write_document(self, store: Store, opened: _OpenDocument) -> str:
        document = opened.document
        record = build.finished_document(
            source=document.source,
            page_count=document.page_count,
            pages=list(opened.entries.values()),
            rendered_by=document.rendered_by,
            warnings=document.warnings,
            fingerprint=document.fingerprint,
            run=RunInfo(id=self._run_id),
        )
        return store.write_document(document.folder, record)

    def _leave(self, *, sum_up: bool) -> None:
        """End the work; documents that are not done are recorded as far as they are.

        Args:
            sum_up: False where the output cannot be written. The pages' records are all that the
                next run needs, and a second error would hide the first.
        """
        try:
            if sum_up:
                self._heard.extend(self._workforce.settle())
                while self._heard:
                    for _ in self._account(self._heard.popleft()):
                        pass  # nobody listens any more
        finally:
            self._workforce.close()
            self._survey.close()
            self._hands.shutdown()
        self.tally.open = sum(opened.waiting for opened in self._open.values())
        if self._store is not None and sum_up:
            for _, written in self._writing:
                written.result()
            for opened in self._open.values():
                if opened.entries:
                    self._write_document(self._store, opened)
            self._store.write_manifest()
