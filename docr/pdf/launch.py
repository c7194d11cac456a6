"""Starting and killing rendering children: through a fork server on Linux, else one by one.

The main process itself never forks: both ways are an exec of a fresh interpreter, which sees
this process's import path, not its memory. multiprocessing is not used, as it would import the
caller's script once more.
"""

import base64
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from docr.pdf.wire import Channel, Message

_SEND_SECONDS = 60.0
_WAIT_SECONDS = 5.0
KEEP_MEMORY = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432"
    ":glibc.malloc.trim_threshold=536870912"
)
"""GLIBC_TUNABLES for what works with large arrays: in huge pages where the system has them on
request, and in the memory that earlier ones gave back. By default each would be new to the process,
and the kernel would clear it: rendering in children took 38 to 45 % longer than without children,
with this it is 24 %."""

_SEND_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)


class Child(Protocol):
    """A started child."""

    connection: socket.socket

    def kill(self) -> None:
        """End it at once; more than once does no harm."""

    def wait(self) -> int | None:
        """Its exit code, minus the signal that ended it, or None if that cannot be known.

        The child has ended or was killed, so this does not take long.
        """

    def release(self) -> None:
        """Kill it if need be, and let go of all but the connection."""


class Launcher(Protocol):
    """Starts children; may be called from several threads."""

    def launch(self) -> Child:
        """Start one. Raises OSError."""

    def close(self) -> None:
        """Start no more, and end what serves to start them."""


def setup_message(transform: str, argument: object) -> Message:
    """What a fresh interpreter is told first; see child.load_transform."""
    return {
        "transform": transform,
        "argument": base64.b64encode(pickle.dumps(argument)).decode("ascii"),
    }


class ForkingLauncher:
    """Linux: asks a fork server (forkserver.py), which is started now, and again should it die."""

    def __init__(self, setup: Message) -> None:
        self._setup = json.dumps(setup).encode("ascii")
        self._lock = threading.Lock()
        self._closed = False
        self._start()

    def launch(self) -> Child:
        """Have a child forked. Raises OSError."""
        ours, theirs = socket.socketpair()
        lifeline, server_end = socket.socketpair()
        with theirs, server_end:
            try:
                with self._lock:
                    if self._closed:
                        raise OSError("the rendering processes were ended")
                    if self._process.poll() is not None:
                        self._control.close()
                        self._start()
                    self._pass_on(theirs, server_end)
            except BaseException:
                ours.close()
                lifeline.close()
                raise
        return _ForkedChild(ours, lifeline)

    def _pass_on(self, *ends: socket.socket) -> None:
        try:
            numbers = [end.fileno() for end in ends]
            socket.send_fds(self._control, [b"F"], numbers, _SEND_FLAGS)
        except ConnectionError:
            # The server has just died. The child is then one that ends before it says anything.
            self._process.wait(_WAIT_SECONDS)

    def close(self) -> None:
        """End the server; its children die with it."""
        with self._lock:
            self._closed = True
            self._control.close()
        self._process.kill()  # it may still be importing, and has nothing to put in order
        self._process.wait()

    def _start(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            self._process = _python(
                "docr.pdf.forkserver", str(number), pass_fds=(number,), stdin=subprocess.DEVNULL
            )
        self._control.settimeout(_SEND_SECONDS)
        with suppress(ConnectionError):  # it died at once: the next launch finds that out
            self._control.send(self._setup, _SEND_FLAGS)


class _ForkedChild:
    def __init__(self, connection: socket.socket, lifeline: socket.socket) -> None:
        self.connection = connection
        self._lifeline = lifeline
        lifeline.settimeout(_WAIT_SECONDS)

    def kill(self) -> None:
        with suppress(OSError):
            self._lifeline.send(b"K", _SEND_FLAGS)

    def wait(self) -> int | None:
        try:
            status = self._lifeline.recv(4)
        except OSError:
            return None
        return int.from_bytes(status, "big", signed=True) if len(status) == 4 else None

    def release(self) -> None:
        self._lifeline.close()


class SpawningLauncher:
    """Elsewhere: a fresh interpreter for each child."""

    def __init__(self, setup: Message) -> None:
        self._setup = setup

    def launch(self) -> Child:
        """Start an interpreter. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = _python("docr.pdf.child", stdin=theirs.fileno())
            except BaseException:
                ours.close()
                raise
        child = _SpawnedChild(ours, process)
        try:
            Channel(ours).send(self._setup)
        except OSError:
            child.release()
            ours.close()
            raise
        return child

    def close(self) -> None:
        """Nothing is shared between children."""


class _SpawnedChild:
    def __init__(self, connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.connection = connection
        self._process = process

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int | None:
        try:
            return self._process.wait(_WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def release(self) -> None:
        self._process.kill()
        self._process.wait()


def _python(
    module: str,
    *arguments: str,
    stdin: int,
    pass_fds: tuple[int, ...] = (),
) -> subprocess.Popen[bytes]:
    """Start an interpreter that imports what this one would, and nothing else."""
    # -P keeps the working folder out; "" stands for it, where this interpreter may import from it.
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    tuned = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": KEEP_MEMORY}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=stdin,
        stdout=subprocess.DEVNULL,  # ours carries results only
        env=os.environ | tuned | {"PYTHONPATH": path},
        pass_fds=pass_fds,
        start_new_session=True,  # Ctrl-C is for the main process
    )
