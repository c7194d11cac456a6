"""Memory that is handed over cannot be changed behind one's back."""

import mmap
import os
import sys

import numpy as np
import pytest

from docr.pdf.memory import make_memory, take_contents


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
def test_it_can_neither_be_changed_nor_cut_short_afterwards() -> None:
    memory = make_memory()
    os.pwrite(memory, b"page", 0)
    contents = take_contents(memory)
    for change in (
        lambda: os.pwrite(memory, b"P", 0),
        lambda: os.ftruncate(memory, 0),
        lambda: os.ftruncate(memory, 1 << 20),
    ):
        with pytest.raises(PermissionError):
            change()
    assert contents.tobytes() == b"page"
    os.close(memory)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is sealed on Linux only")
def test_it_is_not_taken_while_somebody_could_write_to_it() -> None:
    memory = make_memory()
    os.pwrite(memory, b"page", 0)
    held = mmap.mmap(memory, 4)
    with pytest.raises(OSError, match="busy"):
        take_contents(memory)
    held.close()
    assert take_contents(memory).tobytes() == b"page"
    os.close(memory)
