"""One child at work on one document, as the parent holds it: messages, deadline, cause of death."""

import dataclasses
import os
import selectors
import signal
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import PurePosixPath

from docr.errors import DocrError, FailureCode, SandboxMissing
from docr.pdf import wire
from docr.pdf.launch import Child, Launcher
from docr.pdf.memory import make_memory
from docr.pdf.settings import SANDBOX, RenderSettings
from docr.pdf.wire import Channel, Message, WireError
from docr.types import SourceFile

_MAX_START_FAILURES = 3  # in a row

START_SECONDS = 60.0  # until "hello": imports on a slow disk are not the document's fault


class ChildLost(Exception):
    """The child is gone or was killed; no page can come of it any more."""

    def __init__(self, code: FailureCode, message: str, *, started: bool) -> None:
        super().__init__(message)
        self.code: FailureCode = code
        self.message = message
        self.started = started  # False: it never got as far as the document


class Session:
    """A child with its job. Time runs from `mark`, which every message and request renews.

    Args:
        launcher: starts the child.
        source: which file; only its suffix is told.
        descriptor: of the opened file; stays the caller's.
        settings: for the child.
        pages: how many will be asked for at most.
        verify: whether opening makes sure of the pages, as must be done once for each file.
        sizes: whether opening reports the size of each page.
        rescue: only the second engine opens the document.

    Raises:
        OSError: no child could be started.
    """

    def __init__(
        self,
        launcher: Launcher,
        source: SourceFile,
        descriptor: int,
        settings: RenderSettings,
        *,
        pages: int = 0,
        verify: bool = False,
        sizes: bool = False,
        rescue: bool = False,
    ) -> None:
        self._settings = settings
        self._child: Child = launcher.launch()
        self.channel = Channel(self._child.connection)
        self._started = False
        self.sandbox: tuple[str, ...] = ()
        self._asked: deque[int] = deque()  # memories of pages
        self.mark = time.monotonic()
        job: Message = {
            "settings": dataclasses.asdict(settings),
            "suffix": PurePosixPath(source.relative).suffix.lower(),
            "pages": pages,
            "verify": verify,
            "sizes": sizes,
            "rescue": rescue,
        }
        try:
            self.channel.send_descriptor(descriptor)
            self.channel.send(job)
            self._child.connection.setblocking(False)
        except ConnectionError:
            pass  # it died while starting: receiving will tell how
        except BaseException:
            self.end()
            raise

    @property
    def deadline(self) -> float:
        """When, on time.monotonic, the child has had its time."""
        allowed = self._settings.page_timeout if self._started else START_SECONDS
        return self.mark + allowed

    def request(self, index: int, *, rescue: bool) -> None:
        """Ask for a page; with `rescue`, of the second engine. Raises OSError without memory."""
        memory = make_memory()
        self._asked.append(memory)
        self.mark = time.monotonic()
        with suppress(OSError):  # gone: receiving will tell how
            self.channel.send_descriptor(memory)
            self.channel.send({"index": index, "rescue": rescue})

    def answered(self) -> int:
        """The memory of the page that was asked for first; the caller's from now on."""
        return self._asked.popleft()

    def receive(self) -> Message | None:
        """The next message, None while there is none.

        Raises:
            ChildLost: the child died, or said what makes no sense.
            SandboxMissing: it is not locked up, and has to be.
        """
        try:
            while (message := self.channel.receive()) is not None:
                self.mark = time.monotonic()
                if self._started:
                    return message
                self._started = message.get("hello") is True
                if not self._started:
                    raise WireError("no hello")
                self._check_sandbox(wire.lines(message.get("sandbox")))
        except EOFError:
            raise self._cause_of_death() from None
        except WireError as error:
            raise self.nonsense(error) from error
        return None

    def first(self) -> Message:
        """The first message, waited for. Raises ChildLost."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.channel, selectors.EVENT_READ)
            while True:
                selector.select(max(0.0, self.deadline - time.monotonic()))
                if (message := self.receive()) is not None:
                    return message
                if self.deadline <= time.monotonic():
                    raise self.overdue()

    def is_silent(self) -> bool:
        """Whether the child lives and has nothing to say that was not asked for."""
        try:
            return self.receive() is None
        except ChildLost:
            return False

    def overdue(self) -> ChildLost:
        """Kill the child for having had its time; raise what is returned."""
        self._child.kill()
        if not self._started:
            what = f"a rendering process did not start within {START_SECONDS:g} s"
            return ChildLost("page-timeout", what, started=False)
        return self._timeout()

    def nonsense(self, error: WireError) -> ChildLost:
        """Kill the child for what it said; raise what is returned."""
        self._child.kill()
        return ChildLost(
            "page-crash", f"the rendering process answered nonsense: {error}", started=self._started
        )

    def end(self) -> None:
        """Kill the child, if it still lives, and let everything go."""
        self._child.release()
        self.channel.close()
        while self._asked:
            os.close(self._asked.popleft())

    def _check_sandbox(self, layers: tuple[str, ...]) -> None:
        self.sandbox = layers
        if self._settings.require_sandbox and SANDBOX not in layers:
            raise SandboxMissing(
                "--require-sandbox: this system cannot lock up the processes that render; it takes"
                " Linux with seccomp, on x86_64 or aarch64 (docr doctor shows what there is)"
            )

    def _timeout(self) -> ChildLost:
        what = f"took longer than {self._settings.page_timeout:g} s and was stopped"
        return ChildLost("page-timeout", what, started=True)

    def _cause_of_death(self) -> ChildLost:
        """By the exit status of a child that closed its end."""
        status = self._child.wait()
        if status in (-getattr(signal, "SIGALRM", 0), -getattr(signal, "SIGXCPU", 0)):
            return self._timeout()
        code: FailureCode = "page-crash"
        if status is None or status == -getattr(signal, "SIGKILL", 0):
            # Not by us: we do not listen to those we have killed. None: the fork server as well.
            code, how = "page-memory", "was killed by the system, which may be out of memory"
        elif status < 0:
            how = f"died of {_signal_name(-status)}"
        else:
            how = f"ended with exit code {status}"
        return ChildLost(code, f"the rendering process {how}", started=self._started)


class StartCounter:
    """Tells children that do not start, the machine's fault, from those that die of a document."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_a_row = 0

    def succeeded(self) -> None:
        """A child said something."""
        self._in_a_row = 0

    def failed(self, lost: ChildLost) -> None:
        """A child died before it said anything. Raises DocrError when that goes on."""
        with self._lock:
            self._in_a_row += 1
            if self._in_a_row >= _MAX_START_FAILURES:
                raise DocrError(f"cannot start a process to render in: {lost.message}") from lost


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
