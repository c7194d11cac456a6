"""docr: folders of PDFs to Markdown and JSON through DeepSeek-OCR.

The public names below are loaded when first used: importing docr is cheap.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from docr.api import convert as convert
    from docr.api import iter_pages as iter_pages
    from docr.errors import DocrError as DocrError
    from docr.events import Event as Event
    from docr.events import Tally as Tally
    from docr.job import Stop as Stop
    from docr.output.record import DocumentRecord as DocumentRecord
    from docr.output.record import PageRecord as PageRecord
    from docr.settings import Settings as Settings

_HOMES = {
    "convert": "docr.api",
    "iter_pages": "docr.api",
    "DocrError": "docr.errors",
    "Event": "docr.events",
    "Tally": "docr.events",
    "Stop": "docr.job",
    "DocumentRecord": "docr.output.record",
    "PageRecord": "docr.output.record",
    "Settings": "docr.settings",
}

__all__ = [
    "DocrError",
    "DocumentRecord",
    "Event",
    "PageRecord",
    "Settings",
    "Stop",
    "Tally",
    "__version__",
    "convert",
    "iter_pages",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
