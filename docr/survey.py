"""What there is to do: finds documents, hashes them, looks up their records, counts their pages.

Runs a few documents ahead of the work, in threads: hashing waits for the disk and counting for
a child process, and neither may keep a device waiting.
"""

import copy
import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from docr.errors import RETRIED_CODES, InputError
from docr.output.names import Namer
from docr.output.record import PageEntry, SourceInfo
from docr.output.store import Store
from docr.pdf.cage import DocumentInfo
from docr.pdf.discover import Discovery
from docr.pdf.pages import parse_page_ranges
from docr.pdf.settings import by_second_engine
from docr.pdf.sources import open_source
from docr.settings import Settings
from docr.types import SourceFile

_THREADS = 4
_READ_BYTES = 1 << 20


@dataclass(slots=True)
class Document:
    """A document and what is left to do in it.

    Attributes:
        folder: its place below the output folder.
        error: why the file failed as a whole; then it has no pages.
        page_count: pages in the file.
        rendered_by: the engine that counted them.
        warnings: what that engine complained about on opening the file.
        selected: 0-based pages that --pages selects.
        finished: trusted records of earlier runs that need not be done again, by index.
        todo: selected pages without a finished record.
        attempts: earlier tries of the pages in `todo`, where there were any.
        settled: nothing is left to do, and the document's own record says so already.
    """

    file: SourceFile
    folder: str
    source: SourceInfo
    fingerprint: str
    error: InputError | None = None
    page_count: int = 0
    rendered_by: str | None = None
    warnings: tuple[str, ...] = ()
    selected: tuple[int, ...] = ()
    finished: dict[int, PageEntry] = field(default_factory=dict)
    todo: tuple[int, ...] = ()
    attempts: dict[int, int] = field(default_factory=dict)
    settled: bool = False

    @property
    def rescued(self) -> bool:
        """Whether only the second engine could open the file."""
        return by_second_engine(self.rendered_by)


class Survey:
    """The documents of a run, in the order of the walk.

    Args:
        inspect: counts pages; called from several threads.
        fingerprint: of records made in this run, by the SHA-256 of a file's content.
        store: where earlier runs may have left records; None: nothing is done yet.
    """

    def __init__(
        self,
        discovery: Discovery,
        settings: Settings,
        *,
        inspect: Callable[[SourceFile], DocumentInfo],
        fingerprint: Callable[[str | None], str],
        store: Store | None,
    ) -> None:
        self._settings = settings
        self._ranges = None if settings.pages is None else parse_page_ranges(settings.pages)
        self._inspect = inspect
        self._fingerprint = fingerprint
        self._store = store
        folds_case = store is not None and store.folds_case
        self._namer = Namer(discovery.roots, folds_case=folds_case)
        self._known_roots = () if store is None else store.known_roots
        self._known_namer = Namer(self._known_roots, folds_case=folds_case)
        self._files = iter(discovery)
        self._walked = False
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="survey")
        self._ahead: deque[Future[Document]] = deque()
        self._closed = False
        self._total = self._pool.submit(self._count_files, copy.deepcopy(discovery))

    def close(self) -> None:
        """Wait for the threads; what they were looking at is dropped."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def total(self) -> int | None:
        """How many documents there are; None until a walk of its own has counted them."""
        return self._total.result() if self._total.done() else None

    def _count_files(self, discovery: Discovery) -> int:
        count = 0
        for _ in discovery.names():
            count += 1
            if self._closed:
                break
        return count

    @property
    def exhausted(self) -> bool:
        """Whether every document has been handed out."""
        return self._walked and not self._ahead

    def next(self, timeout: float) -> Document | None:
        """The next document; None where none is ready within `timeout` seconds, or at the end."""
        while not self._walked and len(self._ahead) < 2 * _THREADS:
            found = next(self._files, None)
            if found is None:
                self._walked = True
            elif isinstance(found, SourceFile):
                self._ahead.append(self._pool.submit(self._look, found))
            else:
                self._ahead.append(self._pool.submit(self._look, *found))
        if not self._ahead:
            return None
        try:
            document = self._ahead[0].result(timeout)
        except TimeoutError:
            return None
        self._ahead.popleft()
        return document

    def _look(self, file: SourceFile, error: InputError | None = None) -> Document:
        file, folder = self._place(file)
        sha256, size = None, None
        if error is None:
            try:
                sha256, size = _digest(file, max_bytes=self._settings.max_file_mib << 20)
            except InputError as failure:
                error = failure
        source = SourceInfo.of(file, sha256=sha256, size=size)
        document = Document(file, folder, source, self._fingerprint(sha256), error)
        if error is None:
            try:
                self._count(document)
            except InputError as failure:
                document.error = failure
        return document

    def _place(self, file: SourceFile) -> tuple[SourceFile, str]:
        """The file's folder below the output; a file that is named keeps the place it has.

        A walk gives a file its path below the root that was walked. Naming the same file later,
        as when retrying failures through --files-from, must find that place again.
        """
        if file.named:
            for root in self._known_roots:
                if file.path.is_relative_to(root):
                    relative = file.path.relative_to(root).as_posix()
                    file = replace(file, root=root, relative=relative)
                    return file, self._known_namer.folder(file)
        return file, self._namer.folder(file)

    def _count(self, document: Document) -> None:
        """Fill in the pages: how many there are, which are done, which are to do.

        Raises:
            InputError: the file cannot be opened, now or, for the same content, before.
        """
        store = None if self._settings.overwrite else self._store
        known = None if store is None else store.document(document.folder)
        if known is not None and known["fingerprint"] != document.fingerprint:
            known = None
        if known is not None and known["code"] is not None:
            if not self._again(known["code"]):
                raise InputError(known["code"], known["message"] or "failed before")
            known = None
        if known is None or known["page_count"] is None:
            info = self._inspect(document.file)
            document.page_count, document.rendered_by = info.page_count, info.rendered_by
            document.warnings = info.warnings
        else:
            document.page_count = known["page_count"]
            document.rendered_by = known["rendered_by"]
            document.warnings = tuple(known.get("warnings", ()))
        document.selected = (
            tuple(range(document.page_count))
            if self._ranges is None
            else self._ranges.select(document.page_count)
        )
        if store is not None:
            for page in store.finished_pages(document.folder, document.fingerprint):
                index = page.page - 1
                if page.code is not None and index in document.selected and self._again(page.code):
                    document.attempts[index] = store.attempts(page)
                else:
                    document.finished[index] = page
        document.todo = tuple(i for i in document.selected if i not in document.finished)
        listed = (
            {} if known is None else {each["page"]: each["checksum"] for each in known["pages"]}
        )
        found = {page.page: page.checksum for page in document.finished.values()}
        document.settled = (
            known is not None
            and not document.todo
            and listed == found
            and store is not None
            and store.has_markdown(document.folder)
        )

    def _again(self, code: str) -> bool:
        """Whether a failure of an earlier run is tried again."""
        if code == "encrypted" and self._settings.password is not None:
            return True
        return self._settings.retry_failed or code in RETRIED_CODES


def _digest(file: SourceFile, *, max_bytes: int) -> tuple[str, int]:
    """SHA-256 and size of a file's content.

    Raises:
        InputError: it is no regular file, empty, too large, or cannot be read.
    """
    with os.fdopen(open_source(file.path, max_bytes=max_bytes), "rb", buffering=0) as stream:
        try:
            digest = hashlib.sha256()
            size = 0
            while piece := stream.read(_READ_BYTES):
                digest.update(piece)
                size += len(piece)
            return digest.hexdigest(), size
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError("io-read", f"cannot be read: {reason}") from error
