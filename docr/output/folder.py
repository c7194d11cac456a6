"""Whose an output folder is: its format, its settings, and what was there before docr."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

from docr.errors import IncompatibleError
from docr.escape import escaped
from docr.output.files import replace_file, sync_folder, writing
from docr.output.record import JSON

FORMAT_VERSION = 1


class Format(TypedDict):
    """The content of OUT/.docr/format.

    Attributes:
        version: of the folder's layout.
        foreign: names in OUT that were there before docr.
    """

    version: int
    foreign: list[str]


def read_format(out: Path) -> Format:
    """Read what an output folder is.

    Raises:
        IncompatibleError: it is not docr's, or of a version that this docr does not know.
    """
    try:
        found = json.loads((out / ".docr" / "format").read_bytes())
        version = found["version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise IncompatibleError(f"{escaped(str(out))} is not an output folder of docr") from None
    if version != FORMAT_VERSION:
        raise IncompatibleError(
            f"{escaped(str(out))} has format {version}, this docr writes {FORMAT_VERSION}: "
            "choose another output folder, or the docr that made it"
        )
    return cast(Format, found)


def claim(out: Path, *, settings: Mapping[str, JSON], overwrite: bool) -> None:
    """Make a folder docr's, or check that it goes with this run. The lock is held.

    Raises:
        IncompatibleError: it has other settings, or a manifest that is not docr's.
        OutputError: it cannot be written.
    """
    control = out / ".docr"
    is_new = not (control / "format").exists()
    if is_new and (out / "manifest.jsonl").exists():
        raise IncompatibleError(
            f"{escaped(str(out))} holds a manifest.jsonl but no .docr folder; "
            "choose another output folder"
        )
    if not is_new and not overwrite:
        _check_settings(out, settings)
    _write(control / "settings.json", dict(settings))
    if is_new:  # the format comes last: until it is there, the folder counts as new
        with writing(out):
            foreign = sorted(path.name for path in out.iterdir() if path != control)
        _write(control / "format", {"version": FORMAT_VERSION, "foreign": [*foreign]})
    sync_folder(control)


def known_roots(out: Path) -> tuple[Path, ...]:
    """The roots that `remember_roots()` was told last; none if it never was."""
    try:
        return tuple(map(Path, json.loads((out / ".docr" / "roots.json").read_bytes())))
    except (OSError, ValueError, TypeError):
        return ()


def remember_roots(out: Path, roots: Sequence[Path]) -> None:
    """Note under which directories a run finds its documents: they decide folders' names."""
    names = sorted({os.fspath(root) for root in roots})
    _write(out / ".docr" / "roots.json", [*names])


def sweep(temporary: Path) -> None:
    """Remove what a killed run was writing."""
    with writing(temporary):
        for path in temporary.iterdir():
            path.unlink(missing_ok=True)


def _check_settings(out: Path, ours: Mapping[str, JSON]) -> None:
    try:
        theirs = dict(json.loads((out / ".docr" / "settings.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return  # lost; every record still tells its fingerprint
    names = sorted(ours.keys() | theirs.keys())
    changes = [
        f"{name}: {_short(theirs.get(name))} -> {_short(ours.get(name))}"
        for name in names
        if theirs.get(name) != ours.get(name)
    ]
    if changes:
        raise IncompatibleError(
            f"{escaped(str(out))} was made with other settings ({'; '.join(changes)}): "
            "choose another output folder, or --overwrite to redo its pages"
        )


def _short(value: JSON) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _write(path: Path, content: JSON) -> None:
    replace_file(path, [json.dumps(content).encode() + b"\n"], temporary=path.parent / "tmp")
