"""The fork server: imports MuPDF, Pillow and the transform once, then forks a child a document.

A process of its own (`python -m docr.pdf.forkserver CONTROL_FD`), started before torch or any
thread, because a fork of the main process would copy CUDA's state and locks held by threads. It
reads no document and so survives them all.

Over the control socket (AF_UNIX, SOCK_SEQPACKET) come first the setup, then for each child two
sockets: the connection it will talk over, and its lifeline. Whatever is said on a lifeline, and
its closing, kills that child, which is a process group of its own; when a child has ended, its
wait status is written there. Only its parent may safely kill by process id: here no id is reused
before the child is reaped.
"""

import gc
import json
import os
import selectors
import signal
import socket
import struct
import sys
from contextlib import suppress

from docr.pdf import child
from docr.pdf.child import Transform
from docr.pdf.limits import die_with_parent

STATUS = struct.Struct(">i")  # as Popen.returncode: minus the signal's number, or the exit code
MAX_SETUP_BYTES = 1 << 16


class ForkServer:
    """The children of one main process."""

    def __init__(self, control: socket.socket, transform: Transform) -> None:
        self._control = control
        self._transform = transform
        self._lifelines: dict[int, socket.socket] = {}  # by process id
        self._selector = selectors.DefaultSelector()
        self._wakeup, wakeup_writer = socket.socketpair()
        for end in (self._wakeup, wakeup_writer):
            end.setblocking(False)
        self._wakeup_writer = wakeup_writer
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler, so that the wakeup is written
        signal.set_wakeup_fd(wakeup_writer.fileno(), warn_on_full_buffer=False)
        self._selector.register(control, selectors.EVENT_READ)
        self._selector.register(self._wakeup, selectors.EVENT_READ)

    def run(self) -> None:
        """Fork, kill and reap until the main process is gone; then kill the rest."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._control:
                    _, descriptors, _, _ = socket.recv_fds(self._control, 1, 2)
                    if not descriptors:
                        self._end()
                        return
                    connection, lifeline = (socket.socket(fileno=d) for d in descriptors)
                    self._fork(connection, lifeline)
                elif key.fileobj is self._wakeup:
                    self._wakeup.recv(4096)
                    self._reap()
                elif self._lifelines.get(key.data) is key.fileobj:  # not reaped just now
                    self._selector.unregister(key.fileobj)
                    os.killpg(key.data, signal.SIGKILL)

    def _fork(self, connection: socket.socket, lifeline: socket.socket) -> None:
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # too many processes: to the main process, a child that does not start
            connection.close()
            lifeline.close()
            return
        if pid == 0:
            self._become_child(server, connection, lifeline)
        connection.close()
        with suppress(ProcessLookupError):  # gone as soon as it came
            os.setpgid(pid, pid)  # here and there: nobody knows who is first
        self._lifelines[pid] = lifeline
        self._selector.register(lifeline, selectors.EVENT_READ, pid)

    def _become_child(
        self, server: int, connection: socket.socket, lifeline: socket.socket
    ) -> None:
        """Serve one document and exit; never returns into the server's loop."""
        status = 1
        try:
            die_with_parent(server)
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            child.silence()
            # A descriptor kept here would hide the end of another child from the main process.
            self._selector.close()
            others = [self._control, self._wakeup, self._wakeup_writer, lifeline]
            for other in others + list(self._lifelines.values()):
                other.close()
            child.serve(connection, self._transform)
            status = 0
        finally:
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            lifeline = self._lifelines.pop(pid)
            with suppress(KeyError):
                self._selector.unregister(lifeline)
            with suppress(OSError):  # nobody may be listening
                lifeline.send(STATUS.pack(os.waitstatus_to_exitcode(status)), socket.MSG_NOSIGNAL)
            lifeline.close()

    def _end(self) -> None:
        signal.set_wakeup_fd(-1)  # Python would complain of a child that ends after our sockets
        for pid in self._lifelines:
            os.killpg(pid, signal.SIGKILL)


def main() -> None:
    """Load, then serve until the control socket closes."""
    child.prepare_process()
    control = socket.socket(fileno=int(sys.argv[1]))
    transform = child.load_transform(json.loads(control.recv(MAX_SETUP_BYTES)))
    gc.freeze()  # a collection in a child would copy all pages it only reads
    ForkServer(control, transform).run()


if __name__ == "__main__":
    main()
