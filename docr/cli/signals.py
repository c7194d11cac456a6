"""Ctrl-C and its kin: the first asks for a clean stop, the second ends the process."""

import os
import signal
import socket
import threading
from types import FrameType, TracebackType
from typing import Protocol, Self

from docr.cli.messages import say

GRACE_SECONDS = 10.0
"""How long a clean stop may take."""


class Stoppable(Protocol):
    """What is asked to stop; `docr.job.Stop` is one."""

    def request(self, signal_number: int) -> None:
        """Ask for a clean stop."""


def exit_code(signal_number: int) -> int:
    """130 for Ctrl-C, 143 for a request to terminate; a lost terminal is such a request."""
    return 130 if signal_number == signal.SIGINT else 143


class StopOnSignal:
    """While entered, signals go to `stop`.

    Python runs signal handlers between two steps of the main thread, so a long call into a
    library would hold up the second Ctrl-C as well as the first. Here the interpreter's C code
    writes the signal's number to a socket, and a thread reads it. The thread also ends the
    process where a clean stop takes too long; it lives on after `__exit__` for that, because the
    interpreter's own shutdown can hang, too.

    Signals that are ignored when we start stay ignored: nohup and background jobs rely on it.
    """

    def __init__(self, stop: Stoppable, *, grace_seconds: float = GRACE_SECONDS) -> None:
        self._stop = stop
        self._grace_seconds = grace_seconds
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._stopping = False
        names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # the last two by platform
        self._numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may set handlers
        self._before = {
            number: signal.signal(number, _left_to_the_thread)
            for number in self._numbers
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stopping or not self._before:
            return
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as it was given to us
        self._writer.close()  # ends the thread

    def _watch(self) -> None:
        """Wait for signals, then for the second one or the end of our patience."""
        number = self._next_signal()
        if number is None:
            self._reader.close()
            return
        self._stopping = True
        self._stop.request(number)
        say(f"{signal.Signals(number).name}: stopping; once more to stop at once")
        self._reader.settimeout(self._grace_seconds)
        try:
            self._next_signal()
        except TimeoutError:
            say(f"the clean stop took more than {self._grace_seconds:g} s; ending now")
        os._exit(exit_code(number))

    def _next_signal(self) -> int | None:
        """The next of our signals' numbers; None once the writing end is closed."""
        while data := self._reader.recv(1):
            if data[0] in self._before:
                return data[0]
        return None


def _left_to_the_thread(number: int, frame: FrameType | None) -> None:
    """Do nothing: without a Python handler the signal's default would end the process."""
