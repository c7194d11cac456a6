"""Which model is used when none is named: `docr models use`, remembered for the user."""

from pathlib import Path

import platformdirs

from docr.errors import OutputError
from docr.models.catalogue import DEFAULT_MODEL


def choice_file() -> Path:
    """Where the choice is kept: one line of text in the user's state folder."""
    return platformdirs.user_state_path("docr") / "model"


def chosen_model() -> str:
    """The name or folder chosen by `docr models use`, else the catalogue's default."""
    try:
        chosen = choice_file().read_text(encoding="utf-8", errors="surrogateescape").strip()
    except (OSError, RuntimeError):  # never chosen, or no home folder: as good as never
        return DEFAULT_MODEL
    return chosen or DEFAULT_MODEL


def choose(name: str) -> None:
    """Remember a name of the catalogue, or the absolute path of a folder.

    Raises:
        OutputError: the state folder cannot be written.
    """
    path = choice_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name + "\n", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise OutputError(f"cannot remember the choice in {path}: {error.strerror}") from error
