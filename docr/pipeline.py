"""THE FLOW of pages on one device: render -> prepare -> generate -> parse -> write.

    chunks ─▶ pdf.cage (render, prepare) ─▶ prompter ─▶ engine ─▶ writer (parse, record) ─▶ outcomes

The device has this thread; what comes before it and after it has others, so that it never waits.
Every page of a submitted chunk comes back as exactly one outcome, whatever happens to it. What
to work on, and what to do with the outcomes, is job.py's business; a pipeline knows neither the
other devices nor the collection.
"""

import logging
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from docr.engine.config import EngineConfig
from docr.engine.engine import Engine
from docr.engine.factory import EngineFactory, create_engine, load_factory
from docr.errors import DocrError
from docr.events import ModelReady, Notice
from docr.modes.prompt import Prompter, prompt_text
from docr.output.record import ModelInfo
from docr.pdf.ahead import READY_PAGES, Ahead
from docr.pdf.cage import DocumentInfo, RenderedPage, RenderTask
from docr.rendering import mode_of, open_cage
from docr.settings import Settings
from docr.types import (
    Completion,
    PageFailure,
    PageImage,
    PageInputs,
    PageRef,
    PageViews,
    SourceFile,
)
from docr.writer import Chunk, PageOutcome, PageWriter

log = logging.getLogger(__name__)

CHUNK_PAGES = 16
"""Most pages of one document in a chunk: small enough to share out, large enough that opening
the document again for each chunk costs nothing beside recognising its pages."""

_WRITERS, _MOST_WRITING = 4, 8
"""Records written at a time, as writing one is mostly waiting for the disk; and pages read whose
records wait for that, at most: they hold their pixels."""

Message = PageOutcome | ModelReady | Notice
"""What a workforce has to say: outcomes, and now and then something for people."""


class Workforce(Protocol):
    """Something that works on chunks: one pipeline, or ranks of them."""

    def inspect(self, file: SourceFile, *, sizes: bool = False) -> DocumentInfo:
        """Count a document's pages, in a child process; may be called from any thread.

        Raises:
            InputError: it cannot be opened.
        """
        ...

    def wants(self) -> bool:
        """Whether another chunk would be started soon."""
        ...

    def submit(self, chunk: Chunk) -> None:
        """Take a chunk; each of its pages comes back from `poll` once."""
        ...

    def poll(self, timeout: float) -> list[Message]:
        """Work, or wait for up to about `timeout` seconds; what has finished, maybe nothing.

        Raises:
            ModelError: the model cannot be loaded, or the device is lost.
            OutputError: a record cannot be written.
        """
        ...

    @property
    def pending(self) -> int:
        """Pages submitted and not yet returned."""
        ...

    def settle(self) -> list[Message]:
        """Before `close`: what is finished and was not yet returned by `poll`.

        Raises:
            OutputError: a record cannot be written.
        """
        ...

    def close(self) -> None:
        """Stop at once; pages in flight are dropped without a record."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """All that a pipeline needs; small and picklable, so that ranks receive the same."""

    settings: Settings
    engine: EngineConfig
    model: ModelInfo
    out: Path | None
    run_id: str
    render_workers: int


@dataclass(slots=True)
class _Open:
    """A page in flight, and what is known of it so far."""

    chunk: Chunk
    image: PageImage | None = None
    views: PageViews | None = None
    sequence_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class Pipeline:
    """One device's pages. A context manager: leaving it ends the children and frees the device.

    Args:
        factory: of the engine; None: the one that the settings name, or the model's.
    """

    def __init__(self, config: PipelineConfig, *, factory: EngineFactory | None = None) -> None:
        self._config = config
        name = config.settings.engine
        self._factory = factory or (create_engine if name is None else load_factory(name))
        settings = config.settings
        self._mode = mode_of(settings)
        assert settings.task is not None, "not completed"
        self._prompt = prompt_text(settings.task, settings.query, settings.prompt)
        self._engine: Engine | None = None
        self._failure: DocrError | None = None  # of the device, to be raised
        self._prompter: Prompter | None = None
        self._writer = self._new_writer(None)
        self._open: dict[PageRef, _Open] = {}
        # Before the engine: the cage's children must never inherit a device.
        self._cage = Ahead(open_cage(settings, workers=config.render_workers))
        # A text layer takes milliseconds to encode: on a fast device, a tenth of its time.
        self._prompts = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._encoding: deque[Future[PageInputs]] = deque()
        self._writing: deque[Future[PageOutcome]] = deque()
        self._hands = ThreadPoolExecutor(_WRITERS, thread_name_prefix="writer")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the rendering children, write what is read and release the device."""
        self._cage.close()
        self._prompts.shutdown(cancel_futures=True)
        self._hands.shutdown()
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def inspect(self, file: SourceFile, *, sizes: bool = False) -> DocumentInfo:
        """Count a document's pages; see `Workforce.inspect`."""
        return self._cage.inspect(file, sizes=sizes)

    @property
    def pending(self) -> int:
        """Pages submitted and not yet returned."""
        return len(self._open) + len(self._writing)

    def wants(self) -> bool:
        """Whether another chunk is needed to keep renderers and engine busy."""
        room = 0 if self._engine is None else self._room(self._engine)
        few = self._config.render_workers + READY_PAGES  # each may be of one page only
        return self._cage.pending < room or self._cage.tasks < few

    def submit(self, chunk: Chunk) -> None:
        """Take a chunk; each of its pages comes back from `poll` once."""
        for index in chunk.indexes:
            ref = PageRef(chunk.file.path, index)
            assert ref not in self._open, ref
            self._open[ref] = _Open(chunk)
        self._cage.submit(RenderTask(chunk.file, chunk.indexes, rescued=chunk.rescued))

    def poll(self, timeout: float) -> list[Message]:
        """Move pages along; see `Workforce.poll`."""
        messages: list[Message] = []
        if self._failure is not None:
            raise self._failure
        if self._engine is None:
            messages.append(self._load())
        assert self._engine is not None and self._prompter is not None
        room = self._room(self._engine)
        if room > 0:
            busy = self._engine.pending or self._encoding or self._writing
            for rendered in self._cage.poll(0.0 if busy else timeout, limit=room):
                self._admit(self._prompter, rendered)
        self._begin(self._engine, timeout)
        if self._engine.pending:
            try:
                done = self._engine.step()
            except DocrError as error:
                self._failure = error
                wait(self._writing)  # what is read comes first
                return [*messages, *self._written(0.0)]
            for finished in done:
                self._write(self._open.pop(finished.ref), finished)
            timeout = 0.0
        return [*messages, *self._written(timeout)]

    def settle(self) -> list[Message]:
        """Wait for records that are being written; see `Workforce.settle`."""
        wait(self._writing)
        return [*self._written(0.0)]

    def _write(self, page: _Open, finished: Completion | PageFailure | None) -> None:
        """Have a page's record made and written while the device goes on."""
        self._writing.append(self._hands.submit(self._finish, page, finished))

    def _written(self, timeout: float) -> list[PageOutcome]:
        """Outcomes whose records are on the disk; waits for the first where nothing else is to do.

        Raises:
            OutputError: a record cannot be written.
        """
        if self._writing and (timeout > 0 or len(self._writing) > _MOST_WRITING):
            wait([self._writing[0]], timeout or None)
        outcomes: list[PageOutcome] = []
        while self._writing and self._writing[0].done():
            if outcomes and self._writing[0].exception() is not None:
                break  # for the next time: what is written comes first
            outcomes.append(self._writing.popleft().result())
        return outcomes

    def _load(self) -> ModelReady:
        """Load the model, now that there is a page for it.

        Raises:
            ModelError: weights or device are not there, or not what they should be.
        """
        start = time.monotonic()
        self._engine = engine = self._factory(self._config.engine)
        self._prompter = Prompter(engine.info.tokenizer_file)
        self._writer = self._new_writer(engine)
        return ModelReady(
            model=engine.info.model_name,
            revision=engine.info.revision,
            device=engine.info.device,
            dtype=engine.info.dtype,
            seconds=time.monotonic() - start,
        )

    def _new_writer(self, engine: Engine | None) -> PageWriter:
        return PageWriter(
            self._config.settings,
            self._config.model,
            out=self._config.out,
            run_id=self._config.run_id,
            device=None if engine is None else engine.info.device,
            batch_pages=None if engine is None else engine.info.max_batch_pages,
        )

    def _room(self, engine: Engine) -> int:
        """Pages that the engine could take beyond those that are on their way to it."""
        return engine.wants() - len(self._encoding)

    def _admit(self, prompter: Prompter, rendered: RenderedPage | PageFailure) -> None:
        """Have a rendered page's prompt made, or finish one that does not need the model."""
        if isinstance(rendered, PageFailure):
            self._write(self._open.pop(rendered.ref), rendered)
            return
        page = self._open[rendered.image.ref]
        page.image, page.views = rendered.image, rendered.views
        page.seconds.update(render=rendered.seconds, prepare=rendered.transform_seconds)
        if rendered.views is None:
            self._write(self._open.pop(rendered.image.ref), None)
            return
        image, views = rendered.image, rendered.views
        make = partial(
            prompter.inputs, image.ref, views, self._mode, self._prompt, layer=image.text
        )
        self._encoding.append(self._prompts.submit(make))

    def _begin(self, engine: Engine, timeout: float) -> None:
        """Hand the engine what is ready; wait for a page only where it has none."""
        if self._encoding and not engine.pending:
            wait([self._encoding[0]], timeout)
        while self._encoding and self._encoding[0].done():
            inputs = self._encoding.popleft().result()
            self._open[inputs.ref].sequence_tokens = int(inputs.image_mask.sum())
            engine.add(inputs)

    def _finish(self, page: _Open, finished: Completion | PageFailure | None) -> PageOutcome:
        """Turn what came of a page into its record. The broad catch per page stands here.

        Args:
            page: what is known of it.
            finished: what the model, or rendering, made of it; None: nothing is on the page.
        """
        if finished is None:
            assert page.image is not None
            return self._writer.empty(page.chunk, page.image, seconds=page.seconds)
        if isinstance(finished, Completion):
            assert page.image is not None and page.views is not None, finished.ref
            page.seconds.update(finished.seconds)
            try:
                return self._writer.completed(
                    page.chunk,
                    finished,
                    page.image,
                    page.views,
                    sequence_tokens=page.sequence_tokens,
                    seconds=page.seconds,
                )
            except DocrError:
                raise  # the output or the device is at fault, not this page
            except Exception as error:
                log.exception("%s p.%d: not understood", finished.ref.path, finished.ref.number)
                message = f"{type(error).__name__}: {error}"
                finished = PageFailure(finished.ref, "parse", "internal", message)
        return self._writer.failed(page.chunk, finished, seconds=page.seconds)
