"""A disk that fails, or a process that dies, at a chosen one of all calls that change the disk.

As a module it is the command line under such a fate. Calls that change the output folder count, and
its last line of stderr says how many there were:

    python -m tests.fakes.disk SIGKILL 17 convert a.pdf -o out    # dies before the 17th call
    python -m tests.fakes.disk ENOSPC 17 convert a.pdf -o out     # the 17th and all later ones fail
    python -m tests.fakes.disk SIGKILL 0 convert a.pdf -o out     # lives; counts

Only this process is concerned: what it starts has a disk that works.
"""

import errno
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CALLS = ("open", "write", "fsync", "replace", "mkdir", "unlink", "rmdir", "ftruncate")
"""What changes the disk. Each may be the last that a run gets to make."""

Act = Callable[[str, tuple[object, ...]], None]


@contextmanager
def before_call(number: int, act: Act, *, below: Path | None = None) -> Iterator[list[int]]:
    """Do something before the n-th call that changes the disk, counted from 1, and each later.

    Args:
        number: 0: never.
        act: takes the call's name and its arguments.
        below: count, and hit, only calls on this folder and what is in it.

    Yields:
        A list of one number: calls so far.
    """
    calls = itertools.count(1)  # threads may share it
    counted = [0]
    originals = {name: getattr(os, name) for name in CALLS}

    def wrapped(name: str) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            creates = name != "open" or int(str(args[1])) & os.O_CREAT
            if creates and (below is None or _is_below(args[0], below)):
                counted[0] = here = next(calls)
                if 0 < number <= here:
                    act(name, args)
            return originals[name](*args, **options)

        return call

    for name in CALLS:
        setattr(os, name, wrapped(name))
    try:
        yield counted
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def _is_below(file: object, folder: Path) -> bool:
    """Whether a path, or what a descriptor stands for, is a folder or in it."""
    path = Path(f"/proc/self/fd/{file}").readlink() if isinstance(file, int) else Path(str(file))
    return path.is_relative_to(folder)


def failing(code: int) -> Act:
    """A disk that fails with this errno."""

    def fail(name: str, args: tuple[object, ...]) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def dying(end: Callable[[], object]) -> Act:
    """A process that ends, halfway through if the call is a write."""
    write = os.write

    def die(name: str, args: tuple[object, ...]) -> None:
        if name == "write":
            descriptor, data = args
            write(descriptor, data[: len(data) // 2])  # type: ignore[arg-type, index]
        end()

    return die


def main() -> None:
    fate, number, *arguments = sys.argv[1:]
    sys.argv = ["docr", *arguments]
    from docr.cli.main import run

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    act = dying(kill) if fate == "SIGKILL" else failing(getattr(errno, fate))
    out = Path(arguments[arguments.index("-o") + 1]).resolve()
    with before_call(int(number), act, below=out) as count:
        try:
            run()
        finally:
            print(count[0], file=sys.stderr)


if __name__ == "__main__":
    main()
