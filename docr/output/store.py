"""The output folder: atomic, resumable, locked. The records in it are the only truth.

    OUT/.docr/format          version, and the names that were in OUT before docr
    OUT/.docr/settings.json   the settings of all its records
    OUT/.docr/roots.json      the directories whose documents it holds
    OUT/.docr/index.jsonl     which folders the manifest need not read again
    OUT/.docr/lock            held for the whole run
    OUT/.docr/tmp/            files being written; swept when a run starts
    OUT/.docr/runs/<id>.jsonl event log, advisory
    OUT/manifest.jsonl        rebuilt from the records that have changed
    OUT/<document>/           page-0001.json, page-0001.md, figures/page-0001-1.png, document.json,
                              document.md

Figures come before a page's Markdown, that before its record, records before document.json, and
that before the manifest: what a record speaks of is there. A document's folder is docr's own and
keeps no page of other settings or another content. OUT itself may hold other
things: names that were there before docr are written down, and nothing is ever written below them.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from docr.errors import OutputError
from docr.events import DONE_STATES
from docr.output.eventlog import EventLog
from docr.output.figures import FigureFile
from docr.output.files import FolderLock, make_folder, replace_file, sync_folder, writing
from docr.output.folder import claim, known_roots, read_format, remember_roots, sweep
from docr.output.line import to_line
from docr.output.manifest import write_manifest
from docr.output.markdown import joined
from docr.output.names import FIGURE_FILE, PAGE_FILE, folded, folds_case, page_stem
from docr.output.older import remove_older
from docr.output.read import (
    DocumentJSON,
    entry_of,
    figure_names,
    read_document,
    read_page,
    trusted_page,
)
from docr.output.record import JSON, DocumentRecord, PageEntry, PageRecord, page_entry

MOST_MADE = 1024  # folders remembered: as many documents are hardly in flight at once


class Store:
    """An output folder that this run writes to. Made by `open()` or, in a rank, by `attach()`.

    Folders are named as `Namer` names them: relative to OUT, with "/" between components. What a
    resumed run asks of every page uses plain strings: joining paths would take a third of its time.

    Attributes:
        out: the output folder, absolute, links resolved.
        folds_case: whether its file system takes "A" and "a" for the same name.
        known_roots: the roots of an earlier run, as `remember_roots()` noted them.
    """

    def __init__(self, out: Path, *, run_id: str, lock: FolderLock | None) -> None:
        assert re.fullmatch(r"[\w.-]+", run_id), run_id
        self.out = out
        self._temporary = out / ".docr" / "tmp"
        self._log = EventLog(out / ".docr" / "runs" / f"{run_id}.jsonl")
        self._lock = lock
        self._made: set[str] = set()  # folders seen to exist, without links on the way
        self._foreign = frozenset(folded(name) for name in read_format(out)["foreign"])
        self.known_roots = known_roots(out)
        with writing(self._temporary):
            self.folds_case = folds_case(self._temporary)

    @classmethod
    def open(
        cls, out: Path, *, settings: Mapping[str, JSON], overwrite: bool, run_id: str
    ) -> "Store":
        """Take an output folder for this run, creating it where there is none.

        Args:
            out: the output folder; it may be a link itself, and may hold other things.
            settings: of this run; all records of a folder have the same.
            overwrite: take the folder even if it has other settings, and give it these.
            run_id: letters, digits, ".", "_" and "-".

        Raises:
            OutputLocked: another run has it.
            IncompatibleError: made by an unknown version, or with other settings.
            OutputError: it cannot be written.
        """
        with writing(out):
            out = out.resolve()
            make_folder(out, below=next(each for each in (out, *out.parents) if each.exists()))
        if (out / ".docr" / "format").exists():
            read_format(out)  # an unknown version is left untouched
        for name in ("tmp", "runs"):
            make_folder(out / ".docr" / name, below=out)
        lock = FolderLock(out / ".docr" / "lock", run_id=run_id)
        with ExitStack() as undo:
            undo.callback(lock.release)
            sweep(out / ".docr" / "tmp")
            claim(out, settings=settings, overwrite=overwrite)
            store = cls(out, run_id=run_id, lock=lock)
            undo.pop_all()
        return store

    @classmethod
    def attach(cls, out: Path, *, run_id: str) -> "Store":
        """Write into a folder that another process of the same run has opened."""
        return cls(out.resolve(), run_id=run_id, lock=None)

    def close(self) -> None:
        """Give the folder back."""
        self._log.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Pages

    def finished(
        self, folder: str, page: int, fingerprint: str, *, source_sha256: str | None = None
    ) -> PageEntry | None:
        """What an earlier run recorded for a page, failures included; None: to be done.

        A Markdown file that is missing or differs is written anew from the record.

        Args:
            folder: the document's.
            page: 1-based number.
            fingerprint: the one that this run would record; others are not trusted.
            source_sha256: checked, too, where given.

        Raises:
            OutputError: the Markdown file cannot be written.
        """
        found = trusted_page(f"{self.out}/{folder}", page, fingerprint)
        if found is None or source_sha256 not in (None, found["source"]["sha256"]):
            return None
        if found["markdown"] is not None:
            self._mend_markdown(folder, page, found["markdown"])
        return entry_of(found, folder)

    def finished_pages(self, folder: str, fingerprint: str) -> list[PageEntry]:
        """`finished()` for all pages of a document that have a record, by number."""
        where = f"{self.out}/{folder}"
        with writing(where):
            try:
                names = os.listdir(where)  # noqa: PTH208 (names only)
            except FileNotFoundError:
                return []
        matches = (PAGE_FILE.fullmatch(name) for name in names)
        numbers = {int(match[1]) for match in matches if match and match[2] == "json"}
        entries = (self.finished(folder, number, fingerprint) for number in sorted(numbers))
        return [entry for entry in entries if entry is not None]

    def write_page(
        self, folder: str, record: PageRecord, *, figures: Sequence[FigureFile] = ()
    ) -> PageEntry:
        """Write a page's figures, its Markdown and, last, its record.

        A page that has a result is not replaced by a failure of the same fingerprint.

        Returns:
            The page as it stands now.

        Raises:
            OutputError: the disk is full or the folder cannot be written.
        """
        path = f"{folder}/{page_stem(record.page)}.json"
        entry = page_entry(record, path)
        if entry.is_failure:
            kept = self.finished(folder, record.page, record.fingerprint)
            if kept is not None and not kept.is_failure:
                return kept
        assert [figure.name for figure in figures] == [figure.file for figure in record.figures]
        where = self._enter(folder)
        if figures:
            self._enter(f"{folder}/figures")
            for figure in figures:
                name = figure.name.removeprefix("figures/")
                assert FIGURE_FILE.fullmatch(name), name
                self._replace(where / "figures" / name, figure.png)
            sync_folder(where / "figures")
        markdown = where / f"{page_stem(record.page)}.md"
        if record.markdown is None:
            self._remove(markdown)
        else:
            self._replace(markdown, record.markdown.encode())
        self._replace(self.out / path, to_line(record))
        sync_folder(where)
        return entry

    def attempts(self, entry: PageEntry) -> int:
        """How often a page has been tried, as its record says; 0 if that cannot be read."""
        found = read_page(self.out / entry.record)
        return 0 if found is None else found["run"]["attempts"]

    # Documents

    def document(self, folder: str) -> DocumentJSON | None:
        """What an earlier run recorded for a document; None if nothing that can be trusted."""
        return read_document(f"{self.out}/{folder}/document.json")

    def has_markdown(self, folder: str) -> bool:
        """Whether a document's joined text is there."""
        return os.access(f"{self.out}/{folder}/document.md", os.F_OK)

    def write_document(self, folder: str, record: DocumentRecord) -> str:
        """Join the listed pages to document.md, remove older ones, write document.json.

        What is equal already, but for `run`, is left as it is. A document that has results is not
        replaced by a failure to read the file again, unless its content has changed.

        Returns:
            The record's path relative to OUT.

        Raises:
            OutputError: the disk is full, the folder cannot be written, or the record of a listed
                page is gone.
        """
        path = f"{folder}/document.json"
        found = self.document(folder)
        if record.code is not None and found is not None and _outranks(found, record):
            return path
        where = self._enter(folder)
        figures: set[str] = set()
        if record.pages:
            sections = joined(self._read_pages(record, figures))
            chunks = (section.encode() for section in sections)
            if replace_file(where / "document.md", chunks, temporary=self._temporary):
                sync_folder(where)  # nobody compares it later, as a page's Markdown is compared
        else:
            self._remove(where / "document.md")
        if remove_older(where, record, figures):
            self._made.discard(f"{folder}/figures")
        line = to_line(record)
        if found is None or _without_run(found) != _without_run(json.loads(line)):
            self._replace(self.out / path, line)
        sync_folder(where)
        return path

    # The run

    def remember_roots(self, roots: Sequence[Path]) -> None:
        """Note the roots of this run's documents, for later runs that name single files."""
        remember_roots(self.out, roots)

    def write_manifest(self) -> None:
        """Rebuild manifest.jsonl from the document records, whichever run wrote them."""
        write_manifest(self.out, temporary=self._temporary)

    def event(self, event: Mapping[str, JSON]) -> None:
        """Append to the run's event log; only a full disk is an error (OutputError) there."""
        self._log.write(event)

    # Inside

    def _mend_markdown(self, folder: str, page: int, markdown: str) -> None:
        name = f"{page_stem(page)}.md"
        text = markdown.encode()
        try:
            with open(f"{self.out}/{folder}/{name}", "rb") as file:
                if file.read() == text:
                    return
        except OSError:
            pass  # missing, or not to be read: written anew
        where = self._enter(folder)
        self._replace(where / name, text)
        sync_folder(where)

    def _read_pages(
        self, record: DocumentRecord, figures: set[str]
    ) -> Iterator[tuple[int, str, str | None]]:
        """Number, state and Markdown of the listed pages; collects their figures' file names."""
        for entry in record.pages:
            found = read_page(self.out / entry.record)
            if found is None or found["checksum"] != entry.checksum:
                raise OutputError(
                    f"{self.out / entry.record} was changed during the run; run again"
                )
            figures.update(figure_names(found))
            yield entry.page, entry.state, found["markdown"]

    def _enter(self, folder: str) -> Path:
        """The path of a folder below OUT, created where it is missing; links are refused."""
        where = self.out / folder
        if folder not in self._made:
            parts = folder.split("/")
            assert not set(parts) & {"", ".", "..", ".docr"}, folder
            if folded(parts[0]) in self._foreign:
                raise OutputError(
                    f"{self.out / parts[0]} was there before docr, which writes nothing below it; "
                    "choose another output folder"
                )
            make_folder(where, below=self.out)
            if len(self._made) == MOST_MADE:
                self._made.clear()
            self._made.add(folder)
        return where

    def _replace(self, path: Path, content: bytes) -> None:
        replace_file(path, [content], temporary=self._temporary)

    @staticmethod
    def _remove(path: Path) -> None:
        with writing(path):
            path.unlink(missing_ok=True)


def _outranks(found: DocumentJSON, record: DocumentRecord) -> bool:
    """Whether a document's results outlast this failure to read it again."""
    has_results = any(page["state"] in DONE_STATES for page in found["pages"])
    is_same = record.source.sha256 is None or found["fingerprint"] == record.fingerprint
    return has_results and is_same


def _without_run(document: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in document.items() if key not in ("run", "checksum")}
