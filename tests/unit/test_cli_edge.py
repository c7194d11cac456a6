"""The edge of the program: exit codes, one line an error, quiet pipes, quick help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from docr.cli.messages import printable

HEAVY = {
    "torch",
    "transformers",
    "accelerate",
    "pymupdf",
    "pypdfium2",
    "huggingface_hub",
    "tokenizers",
    "numpy",
    "PIL",
    "pydantic",
    "tqdm",
}


def _docr(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "docr", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
        check=False,
    )


def _python(script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom docr.cli import main\n"
        "try: main.run()\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    result = _python(script, *arguments)
    code, _, modules = result.stderr.partition(" ")
    assert code == "0" and result.stdout
    assert not HEAVY & set(eval(modules))


def test_every_command_has_help() -> None:
    out = _docr("--help").stdout
    for command in ("convert", "status", "models", "config", "doctor", "schema"):
        assert f" {command} " in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["convert"], 2, "nothing to convert"),
        (["convert", "a.pdf", "--mode", "huge"], 2, "huge"),
        (["convert", "a.pdf", "--max-tiles", "10"], 2, "10"),
        (["convert", "a.pdf", "--task", "locate"], 2, "--query"),
        (["convert", "a.pdf", "--dtype", "fp17"], 2, "dtype"),
        (["convert", "a.pdf", "--json", "--jsonl"], 2, "--jsonl"),
        (["convert", "a.pdf", "-0"], 2, "--files-from"),
        (["convert", "-", "--files-from", "-"], 2, "stdin"),
        (["convert", "a.pdf", "-o", "-", "--json"], 2, "stdout"),
        (["convert", "a.pdf", "b.pdf", "-o", "-"], 2, "one file"),
        (["convert", ".", "-o", "-"], 2, "one file"),
        (["convert", "a.pdf", "--config", "nowhere.toml"], 8, "nowhere.toml"),
        (["status", "nowhere"], 8, "nowhere"),
        (["convrt"], 2, "convert"),
        (["models", "path", "--revision"], 2, "revision"),
    ],
)
def test_wrong_arguments(arguments: list[str], code: int, words: str, tmp_path: Path) -> None:
    result = _docr(*arguments, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert words in result.stderr and result.stdout == ""
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []  # nothing was begun


_BROKEN = """
import sys
from docr.cli import main
from docr.errors import OutputError
@main.app.command()
def boom(kind: str) -> None:
    if kind == "bug":
        raise ZeroDivisionError("line one\\nline two")
    if kind == "interrupt":
        raise KeyboardInterrupt
    raise OutputError("disk \\x1b[31m full")
main.run()
"""


def test_internal_error_is_one_line_and_keeps_its_traceback() -> None:
    result = _python(_BROKEN, "boom", "bug")
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "ZeroDivisionError" in result.stderr and r"line one\x0aline two" in result.stderr
    kept = Path(result.stderr.strip().rpartition("traceback in ")[2])
    try:
        assert "Traceback" in kept.read_text(encoding="utf-8")
    finally:
        kept.unlink()


def test_own_errors_carry_their_exit_code() -> None:
    result = _python(_BROKEN, "boom", "output")
    assert result.returncode == 5
    assert result.stderr == "docr: ERROR: disk \\x1b[31m full\n"


def test_interrupt() -> None:
    assert _python(_BROKEN, "boom", "interrupt").returncode == 130


def test_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "docr", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 5
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_under_stdout_is_said() -> None:
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "docr", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert result.returncode == 5
    assert result.stderr.count(b"\n") == 1 and b"stdout cannot be written" in result.stderr


def test_closed_streams_do_not_matter() -> None:
    command = f'"{sys.executable}" -m docr --version >&- 2>&- <&-'
    result = subprocess.run(["/bin/sh", "-c", command], timeout=30, check=False)
    assert result.returncode == 0


def test_schema_is_json() -> None:
    assert json.loads(_docr("schema").stdout)["$schema"].startswith("https://json-schema.org/")


def test_config_shows_values_and_origins(tmp_path: Path) -> None:
    (tmp_path / "docr.toml").write_text('[convert]\nmode = "base"\npassword = "secret"\n')
    shown = json.loads(_docr("config", "--json", cwd=tmp_path).stdout)
    assert shown["mode"] == {"value": "base", "origin": "docr.toml"}
    assert shown["max-tiles"] == {"value": 9, "origin": "default"}
    plain = _docr("config", cwd=tmp_path).stdout
    assert 'mode             "base"' in plain and "secret" not in plain
    assert str(tmp_path / "docr.toml") in _docr("config", "path", cwd=tmp_path).stdout


def test_printable_escapes_what_moves_the_cursor_or_cannot_be_encoded() -> None:
    assert printable("a\nb\x1b[2J\u202etxt\udcff é漢") == r"a\x0ab\x1b[2J\u202etxt\xff é漢"
