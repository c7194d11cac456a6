"""The event log of a run: advisory, for people who want to know what happened when."""

import json
import logging
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from docr.errors import OutputError
from docr.output.files import DISK_FULL, writing
from docr.output.record import JSON

log = logging.getLogger(__name__)

_KEPT_SECONDS = 0.5
_KEPT_BYTES = 1 << 16


class EventLog:
    """Appends events to a file of JSON lines; several processes may append to the same one.

    Events in quick succession, as of finished documents, thousands a second, are written together.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._works = True
        self._kept = bytearray()
        self._written = -math.inf

    def write(self, event: Mapping[str, JSON]) -> None:
        """Append an event and the time. Where that fails, the log ends and the run goes on.

        Raises:
            OutputError: the disk is full: then the records cannot be written either.
        """
        if not self._works:
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._kept += json.dumps({"time": time, **event}).encode() + b"\n"
        is_late = monotonic() - self._written > _KEPT_SECONDS
        if is_late or len(self._kept) > _KEPT_BYTES:
            self._flush()

    def _flush(self) -> None:
        kept, self._kept = self._kept, bytearray()
        self._written = monotonic()
        try:
            if self._descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                self._descriptor = os.open(self._path, flags, 0o666)
            os.write(self._descriptor, kept)  # in one call, so that lines of two ranks do not mix
        except OSError as error:
            if error.errno in DISK_FULL:
                with writing(self._path):
                    raise
            log.warning("no event log: %s", error.strerror)
            self._works = False

    def close(self) -> None:
        """Write what is left, if that can still be done, and close the file."""
        if self._kept:
            with suppress(OutputError):
                self._flush()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
