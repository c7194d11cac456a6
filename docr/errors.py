"""What can go wrong, as types; each knows the exit code it stands for.

    DocrError            1  (a bug, unless it is one of those below)
    ├── UsageError       2  an argument that makes no sense
    ├── InputError       3  one file or page that cannot be read; carries a FailureCode
    ├── NoInput          4  nothing to work on
    ├── OutputError      5  the output folder cannot be written, or the disk is full
    │   └── OutputLocked 6  another run holds the output folder
    ├── ModelError       7  weights or device are not available
    │   ├── CheckpointError   the weights are not a DeepSeek-OCR checkpoint, or are damaged
    │   └── DeviceError       the device is missing, or failed
    │       └── OutOfMemory   … for want of memory; less work at once may succeed
    └── IncompatibleError 8  a configuration, or an output folder of other settings
        └── SandboxMissing   --require-sandbox, where the system has none

A message says what, where, and what to do about it, in one line.
"""

from typing import ClassVar, Literal

FailureCode = Literal[
    "not-a-pdf",
    "empty-file",
    "encrypted",
    "unreadable",
    "no-pages",
    "too-large",
    "too-many-pages",
    "special-file",
    "permission",
    "io-read",
    "input-changed",
    "page-timeout",
    "page-memory",
    "page-crash",
    "page-error",
    "page-missing",
    "skipped",
    "poison",
    "out-of-memory",
    "device",
    "internal",
]
"""Why a file or a page has no text; stable, part of the record schema."""

RETRIED_CODES: frozenset[FailureCode] = frozenset(
    {"io-read", "page-memory", "out-of-memory", "device"}
)
"""Failures of the machine rather than of the document: the next run tries these again by itself."""


class DocrError(Exception):
    """Base of all errors that docr raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(DocrError):
    """An argument or a combination of arguments that makes no sense."""

    exit_code = 2


class InputError(DocrError):
    """One file or page that cannot be read. The run goes on; the failure is recorded."""

    exit_code = 3

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code: FailureCode = code
        self.message = message

    def __reduce__(self) -> tuple[type["InputError"], tuple[FailureCode, str]]:
        return type(self), (self.code, self.message)  # two arguments: pickle's default sends one


class NoInput(DocrError):
    """No document was found under the given paths."""

    exit_code = 4


class OutputError(DocrError):
    """The output folder cannot be written, or the disk is full."""

    exit_code = 5


class OutputLocked(OutputError):
    """Another run holds the output folder."""

    exit_code = 6


class ModelError(DocrError):
    """The model cannot be had: weights missing, damaged, or no device to run it."""

    exit_code = 7


class CheckpointError(ModelError):
    """The weights are missing, damaged, or those of another architecture."""


class DeviceError(ModelError):
    """The device is not there, or failed while working."""


class OutOfMemory(DeviceError):
    """The device ran out of memory, even with the smallest batch."""


class IncompatibleError(DocrError):
    """A configuration that is wrong, or an output folder made with other settings."""

    exit_code = 8


class SandboxMissing(IncompatibleError):
    """A sandbox is required, and this system cannot lock up the processes that render."""
