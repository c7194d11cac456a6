"""Memory that is handed over cannot be taken away again."""

import os
import sys

import numpy as np
import pytest

from docr.pdf.memory import make_memory, take_contents

if sys.platform != "win32":
    import fcntl


def test_what_was_written_outlives_the_descriptor() -> None:
    memory = make_memory()
    os.pwrite(memory, bytes(range(256)) * 40, 0)
    contents = take_contents(memory)
    os.close(memory)
    assert contents.dtype == np.uint8 and contents.tobytes() == bytes(range(256)) * 40
    assert not contents.flags.writeable


def test_nothing_may_have_been_written() -> None:
    memory = make_memory()
    assert len(take_contents(memory)) == 0
    os.close(memory)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is sealed on Linux only")
def test_it_cannot_be_cut_short_afterwards() -> None:
    memory = make_memory()
    os.pwrite(memory, b"page", 0)
    contents = take_contents(memory)
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(memory, size)
    assert contents.tobytes() == b"page"
    os.close(memory)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is sealed on Linux only")
def test_who_prevents_that_is_not_listened_to() -> None:
    memory = make_memory()
    os.pwrite(memory, b"page", 0)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
    with pytest.raises(PermissionError):
        take_contents(memory)
    os.close(memory)
