"""`docr convert --dry-run`: what a run would do."""

import json
import shutil
from collections import Counter
from pathlib import Path

import docr.api
from docr.api import JobRequest, PlannedDocument
from docr.cli.messages import count, emit
from docr.escape import escaped


def show_plan(request: JobRequest, *, as_json: bool) -> int:
    """Print what there is and what would be done; writes nothing, loads no model.

    Returns:
        0, or 3 where a file cannot be read.

    Raises:
        NoInput: there is not one document.
    """
    documents = list(docr.api.plan(request))
    free = None if request.out is None else shutil.disk_usage(_existing(request.out)).free
    if as_json:
        emit(json.dumps(_plan_object(documents, free), indent=2) + "\n")
    else:
        for document in documents:
            emit(f"{escaped(document.path)}: {_plan_line(document)}\n")
        emit(f"{_totals(documents, free)}\n")
    return 3 if any(document.error is not None for document in documents) else 0


def _existing(path: Path) -> Path:
    """The nearest folder above `path`, or itself, that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def _plan_line(document: PlannedDocument) -> str:
    if document.error is not None:
        return f"cannot be read: {escaped(document.error)}"
    todo = document.pages - document.reused
    parts = [count(document.pages, "page"), f"{todo} to do"]
    if document.redo:
        parts.append(f"{document.redo} of them again")
    parts.append(f"{document.vision_tokens} vision tokens")
    return ", ".join(parts) + f" ({_grids(document.grids)})"


def _grids(grids: Counter[tuple[int, int]]) -> str:
    """Such as "2x3 tiles: 10, no tiles: 1"."""
    return ", ".join(
        f"{'no tiles' if grid == (1, 1) else f'{grid[0]}x{grid[1]} tiles'}: {number}"
        for grid, number in sorted(grids.items())
    )


def _totals(documents: list[PlannedDocument], free: int | None) -> str:
    pages = sum(document.pages for document in documents)
    todo = pages - sum(document.reused for document in documents)
    errors = sum(document.error is not None for document in documents)
    tokens = sum(document.vision_tokens for document in documents)
    grids: Counter[tuple[int, int]] = sum((d.grids for d in documents), Counter())
    text = f"{count(len(documents), 'file')} ({errors} unreadable), {count(pages, 'page')}, "
    text += f"{todo} to do, "
    text += f"{tokens} vision tokens ({_grids(grids)})"
    return text if free is None else f"{text}, {free / 1e9:.1f} GB free"


def _plan_object(documents: list[PlannedDocument], free: int | None) -> dict[str, object]:
    return {
        "documents": [
            {
                "path": document.path,
                "pages": document.pages,
                "grids": {f"{c}x{r}": n for (c, r), n in sorted(document.grids.items())},
                "vision_tokens": document.vision_tokens,
                "redo": document.redo,
                "reused": document.reused,
                "error": document.error,
            }
            for document in documents
        ],
        "pages": sum(document.pages for document in documents),
        "vision_tokens": sum(document.vision_tokens for document in documents),
        "free_bytes": free,
    }
