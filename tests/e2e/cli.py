"""Drives the real command line in a child process, and compares what it leaves on disk."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tests.pdfs import Page, image_file, pdf, words

ROOT = Path(__file__).parents[2]
MINI = ROOT / "docr/models/mini"
ECHO = "tests.fakes.engines:echo"
SLOW_ECHO = "tests.fakes.engines:slow_echo"
TIMEOUT_S = 120
WAIT_S = 60


def text_pdf(path: Path, *, pages: int = 1, text: str = "some words") -> Path:
    """A document of small pages that all differ."""
    box = (0.0, 0.0, 300.0, 400.0)
    contents = (words(f"{text}, page {number}", x=20, y=300) for number in range(1, pages + 1))
    path.write_bytes(pdf(*(Page(content, media_box=box) for content in contents)))
    return path


def page_image(path: Path) -> Path:
    """A page as a picture, by the suffix PNG."""
    image = Image.effect_noise((300, 400), 60).convert("RGB")
    path.write_bytes(image_file(image, "PNG"))
    return path


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without settings of docr, and with the tests importable."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DOCR_")}
    env.update(PYTHONPATH=str(ROOT), COLUMNS="100", TERM="dumb", **extra)
    return env


def fresh_home(home: Path, **extra: str) -> dict[str, str]:
    """The environment of a user who has never used docr, at home in `home`."""
    clean = {k: v for k, v in environment().items() if not k.startswith(("HF_", "XDG_"))}
    return clean | {"HOME": str(home), **extra}


def docr(
    *args: str | Path,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run `docr ARGS` to its end; text streams, surrogates where a byte is not UTF-8."""
    return run_module("docr", *args, stdin=stdin, cwd=cwd, env=env)


def run_module(
    module: str,
    *args: str | int | Path,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT_S,
) -> "subprocess.CompletedProcess[str]":
    """Run `python -m MODULE ARGS` as `docr()` runs docr."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, args)],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env=environment() if env is None else dict(env),
        timeout=timeout,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args,
        done.returncode,
        done.stdout.decode(errors="surrogateescape"),
        done.stderr.decode(errors="surrogateescape"),
    )


def start(*args: str | Path, stderr: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    """Start `docr ARGS` in the background, silent unless `stderr` is asked for."""
    return subprocess.Popen(
        [sys.executable, "-m", "docr", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env=environment(),
        start_new_session=True,
    )


def page_files(out: Path) -> list[Path]:
    """The page records of a folder that a run may be writing to."""
    return [path for path in out.rglob("page-*.json") if ".docr" not in path.parts]


def wait_for_records(out: Path, count: int = 1) -> None:
    """Return as soon as a folder holds so many page records."""
    deadline = time.monotonic() + WAIT_S
    while not out.exists() or len(page_files(out)) < count:
        assert time.monotonic() < deadline, "too few records in time"
        time.sleep(0.01)


def manifest(out: Path) -> list[dict[str, Any]]:
    """The lines of a folder's manifest."""
    text = (out / "manifest.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def page_records(out: Path) -> dict[str, dict[str, Any]]:
    """All page records of a folder, by their path in it."""
    return {
        path.relative_to(out).as_posix(): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(out.rglob("page-*.json"))
        if ".docr" not in path.relative_to(out).parts
    }


def tree(out: Path) -> dict[str, bytes | Any]:
    """All files of a folder but .docr/, as two runs of the same work must leave them.

    Timings and what else belongs to a run are taken out of JSON, with the checksums over them;
    confidence is rounded to what batching may move.
    """
    files: dict[str, bytes | Any] = {}
    for path in sorted(out.rglob("*")):
        relative = path.relative_to(out)
        if relative.parts[0] == ".docr" or not path.is_file():
            continue
        content = path.read_bytes()
        name = relative.as_posix()
        if path.suffix == ".json":
            files[name] = _plain(json.loads(content))
        elif path.suffix == ".jsonl":
            files[name] = [_plain(json.loads(line)) for line in content.splitlines()]
        else:
            files[name] = content
    return files


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        dropped = {"run", "checksum", "confidence"}
        return {key: _plain(each) for key, each in value.items() if key not in dropped}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


def inodes(out: Path) -> dict[str, tuple[int, int]]:
    """(inode, modification time) of every file of a folder but .docr/."""
    return {
        path.relative_to(out).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in _files(out)
    }


def _files(out: Path) -> Iterator[Path]:
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.relative_to(out).parts[0] != ".docr":
            yield path
