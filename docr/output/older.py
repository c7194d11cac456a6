"""What earlier runs left in a document's folder and no record speaks of any more."""

import os
from pathlib import Path

from docr.output.files import writing
from docr.output.names import FIGURE_FILE, PAGE_FILE
from docr.output.read import figure_names, trusted_page
from docr.output.record import DocumentRecord


def remove_older(where: Path, record: DocumentRecord, figures: set[str]) -> bool:
    """Remove pages of other settings or content, and figures that no page has any more.

    Args:
        where: the document's folder.
        record: what it will say of the document; a page that it does not list, as its run was
            stopped, stays if it is good.
        figures: names of the files that the listed pages have.

    Returns:
        Whether the folder of figures is gone, too, as nothing was left in it.

    Raises:
        OutputError: the folder cannot be read, or not be written.
    """
    kept, used = {entry.page for entry in record.pages}, set(figures)
    with writing(where):
        files = [m for m in map(PAGE_FILE.fullmatch, os.listdir(where)) if m]  # noqa: PTH208
        for page in {int(match[1]) for match in files} - kept:
            found = trusted_page(where, page, record.fingerprint)
            if found is not None:
                kept.add(page)
                used.update(figure_names(found))
        for match in files:
            if int(match[1]) not in kept:
                (where / match[0]).unlink(missing_ok=True)
        album = where / "figures"
        if album.is_symlink() or not album.is_dir():
            return False
        names = os.listdir(album)  # noqa: PTH208 (names only)
        stale = [name for name in names if FIGURE_FILE.fullmatch(name) and name not in used]
        for name in stale:
            (album / name).unlink(missing_ok=True)
        if len(stale) < len(names):
            return False
        album.rmdir()
        return True
