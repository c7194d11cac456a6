"""What the edge must know of the command that failed."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Session:
    """Filled in by the command, read by the edge when an error arrives there.

    Attributes:
        out: the output folder, once it is known.
        verbose: whether tracebacks are printed.
    """

    out: Path | None = None
    verbose: bool = False
