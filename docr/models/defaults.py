"""What a checkpoint says of itself to docr: the optional file docr.json in its folder.

    {
      "name": "docr-mini",
      "mode": "tiny",
      "task": "ocr",
      "preview": "what a small model can read, in a few words",
      "sha256": {"model.safetensors": "64 hexadecimal digits"}
    }

Every key may be left out. None of them tells one checkpoint from another: mode and task take part
in a record's fingerprint once they are a run's settings, and the weights are told apart by
`docr.models.files.content_digest`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePath
from typing import cast, get_args

from docr.errors import CheckpointError
from docr.settings import ModeName, Task

DEFAULTS_FILE = "docr.json"

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CheckpointDefaults:
    """A checkpoint's own wishes; None where it has none.

    Attributes:
        name: what records and messages call the model.
        mode, task: used where a run does not say which.
        preview: what a small model can read, to be told to its users.
        sha256: digests of files in the folder, by name, for `docr models verify`.
    """

    name: str | None = None
    mode: ModeName | None = None
    task: Task | None = None
    preview: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)


def read_defaults(directory: Path) -> CheckpointDefaults:
    """Read a checkpoint's docr.json; without that file there are no wishes.

    Raises:
        CheckpointError: the file cannot be read, is no JSON object, has an unknown key or a value
            that makes no sense; the message names the file.
    """
    path = directory / DEFAULTS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return CheckpointDefaults()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    known = [each.name for each in fields(CheckpointDefaults)]
    for key, value in content.items():
        if key not in known:
            raise CheckpointError(f"{path}: unknown key {key!r}; there are: {', '.join(known)}")
        if (wanted := _wanted(key, value)) is not None:
            raise CheckpointError(f"{path}: {key} is {wanted}, not {value!r}")
    return CheckpointDefaults(**cast(dict[str, str], content))  # type: ignore[arg-type]


def _wanted(key: str, value: object) -> str | None:
    """What the key's value should be; None where it is."""
    match key:
        case "mode" | "task":
            # Not "locate": it needs words that only a run can say.
            known = get_args(ModeName if key == "mode" else Task)
            words = [word for word in known if word != "locate"]
            return None if value in words else f"one of {', '.join(words)}"
        case "sha256":
            if isinstance(value, dict) and all(map(_is_digest, value, value.values())):
                return None
            return "an object of file names and 64 hexadecimal digits each"
        case _:
            is_line = isinstance(value, str) and value.strip() and value.isprintable()
            return None if is_line else "one line of text"


def _is_digest(name: str, digest: object) -> bool:
    plain = PurePath(name).name == name and name not in ("", "..")  # in this folder alone
    return plain and isinstance(digest, str) and _SHA256.fullmatch(digest) is not None
