"""What a run does while documents are being written, and when one cannot be."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from docr import api
from docr.errors import OutputError
from docr.events import DocumentFailed, DocumentFinished, Event, PageFinished
from docr.job import Stop
from docr.modes.prompt import Prompter
from docr.output.store import Store
from docr.pipeline import Message, Pipeline
from docr.types import Completion, PageFailure, PageInputs
from tests import pdfs
from tests.fakes.engines import EchoEngine

PATIENCE = 30.0


def convert(
    folder: Path, out: Path, seen: list[Event], *, stop: Stop | None = None, **settings: Any
) -> None:
    """Convert a folder with an engine that answers at once; notes all events."""
    settings = {"engine": "tests.fakes.engines:EchoEngine", "mode": "tiny"} | settings
    api.convert([folder], out, observer=seen.append, stop=stop, **settings)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    pdfs.saved(folder, "a.pdf", pdfs.garbage())
    for name in ("b.pdf", "c.pdf", "d.pdf"):
        pdfs.saved(folder, name, pdfs.text_pages())
    return folder


class Watched(list[Event]):
    """Events, and a way to wait for the third page."""

    def __init__(self) -> None:
        super().__init__()
        self.all_read = threading.Event()

    def append(self, event: Event) -> None:
        super().append(event)
        if sum(isinstance(each, PageFinished) for each in self) == 3:
            self.all_read.set()


def test_pages_are_read_while_documents_wait_for_the_disk(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Watched()
    write = Store.write_document

    def late(store: Store, folder: str, record: Any) -> str:
        assert seen.all_read.wait(PATIENCE), "the device waited for the disk"
        return write(store, folder, record)

    monkeypatch.setattr(Store, "write_document", late)
    convert(documents, tmp_path / "out", seen)
    ended = [Path(e.path).name for e in seen if isinstance(e, DocumentFinished | DocumentFailed)]
    assert sorted(ended) == ["a.pdf", "b.pdf", "c.pdf", "d.pdf"]
    for name in ended:
        assert (tmp_path / "out" / name / "document.json").exists()


def test_pages_are_read_while_others_prompts_are_made(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, one_is_read = [], threading.Event()
    inputs, step = Prompter.inputs, EchoEngine.step

    def late(prompter: Prompter, *arguments: Any, **options: Any) -> PageInputs:
        begun.append(prompter)
        assert len(begun) == 1 or one_is_read.wait(PATIENCE), "the device waited for a prompt"
        return inputs(prompter, *arguments, **options)

    def slow(engine: EchoEngine) -> list[Completion | PageFailure]:
        return step(engine) if len(begun) > 1 else []  # the first page is still being read

    class Reading(list[Event]):
        def append(self, event: Event) -> None:
            super().append(event)
            if isinstance(event, PageFinished):
                one_is_read.set()

    monkeypatch.setattr(Prompter, "inputs", late)
    monkeypatch.setattr(EchoEngine, "step", slow)
    seen = Reading()
    convert(documents, tmp_path / "out", seen)
    assert sum(isinstance(event, PageFinished) for event in seen) == len(begun) == 3


def test_a_document_is_announced_when_its_record_is_there(documents: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    class Checking(list[Event]):
        def append(self, event: Event) -> None:
            super().append(event)
            if isinstance(event, DocumentFinished | DocumentFailed):
                assert (out / Path(event.path).name / "document.json").exists()

    seen = Checking()
    convert(documents, out, seen)
    assert len(seen) > 4


def test_what_cannot_be_written_ends_the_run(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Store.write_document

    def full(store: Store, folder: str, record: Any) -> str:
        if folder == "c.pdf":
            raise OutputError("no space left")
        return write(store, folder, record)

    monkeypatch.setattr(Store, "write_document", full)
    seen: list[Event] = []
    with pytest.raises(OutputError, match="no space left"):
        convert(documents, tmp_path / "out", seen)
    assert "c.pdf" not in [Path(e.path).name for e in seen if isinstance(e, DocumentFinished)]


def test_a_stopped_run_sums_up_what_was_being_written(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, write, out = Stop(), Store.write_document, tmp_path / "out"
    stopped = threading.Event()

    def late(store: Store, folder: str, record: Any) -> str:
        assert stopped.wait(PATIENCE)
        return write(store, folder, record)

    class Stopping(Watched):
        def append(self, event: Event) -> None:
            super().append(event)
            if self.all_read.is_set():
                stop.request(2)
                stopped.set()

    monkeypatch.setattr(Store, "write_document", late)
    convert(documents, out, Stopping(), stop=stop)
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert {name.parent.name for name in out.glob("*/document.json")} == {
        "a.pdf",
        "b.pdf",
        "c.pdf",
        "d.pdf",
    }


def test_who_stops_listening_costs_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pages are done at once, and whoever listens leaves at the first of them."""
    documents = tmp_path / "in"
    documents.mkdir()
    pdfs.saved(documents, "a.pdf", pdfs.text_pages(count=5))
    poll = Pipeline.poll

    def all_at_once(pipeline: Pipeline, timeout: float) -> list[Message]:
        messages: list[Message] = []
        while pipeline.pending:
            messages += poll(pipeline, timeout)
        return messages

    class Leaving(list[Event]):
        def append(self, event: Event) -> None:
            if isinstance(event, PageFinished):
                raise BrokenPipeError

    monkeypatch.setattr(Pipeline, "poll", all_at_once)
    out = tmp_path / "out"
    with pytest.raises(BrokenPipeError):
        convert(documents, out, Leaving())
    lines = map(json.loads, (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines())
    counted = sum(line["page"] is not None for line in lines)
    assert counted == len(list(out.glob("*/page-*.json"))) > 1
