"""The edge of the program: exit codes, one line an error, quiet pipes, quick help."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from docr.cli import main

ROOT = Path(__file__).parents[2]
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("DOCR_")}
ENVIRON["PYTHONPATH"] = str(ROOT)

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
    "tqdm",
}
"""Not pydantic: typer itself loads it as soon as a command has options."""


class Docr:
    """The command line in this process, in an empty folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["docr", *arguments])
        with pytest.raises(SystemExit) as end:
            main.run()
        captured = self._capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, captured.out, captured.err


@pytest.fixture
def docr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Docr:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    for name in set(os.environ) - set(ENVIRON):
        monkeypatch.delenv(name)
    return Docr(monkeypatch, capsys)


def _python(script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env=ENVIRON,
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


def test_every_command_has_help(docr: Docr) -> None:
    _, out, _ = docr("--help")
    for command in ("convert", "status", "models", "config", "doctor", "schema"):
        assert f" {command} " in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["convert"], 2, "nothing to convert"),
        (["convert", "a.pdf", "--mode", "huge"], 2, "huge"),
        (["convert", "a.pdf", "--max-tiles", "10"], 2, "max-tiles"),
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
        (["convert", "--help.pdf"], 2, "help.pdf"),
        (["convert", "-\x1b[31m\u202efdp.x"], 2, r"-\x1b[31m\u202efdp.x"),
    ],
)
def test_wrong_arguments(
    docr: Docr, arguments: list[str], code: int, words: str, tmp_path: Path
) -> None:
    returned, out, err = docr(*arguments)
    assert (returned, out) == (code, ""), err
    assert words in err and "Traceback" not in err
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
        [sys.executable, "-m", "docr", "schema"],
        env=ENVIRON,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
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
    result = subprocess.run(["/bin/sh", "-c", command], env=ENVIRON, timeout=30, check=False)
    assert result.returncode == 0


def test_schema_is_json(docr: Docr) -> None:
    code, out, _ = docr("schema")
    assert code == 0 and json.loads(out)["$schema"].startswith("https://json-schema.org/")


def test_config_shows_values_and_origins(docr: Docr, tmp_path: Path) -> None:
    (tmp_path / "docr.toml").write_text('[convert]\nmode = "base"\npassword = "secret"\n')
    shown = json.loads(docr("config", "--json")[1])
    assert shown["mode"] == {"value": "base", "origin": "docr.toml"}
    assert shown["max-tiles"] == {"value": 9, "origin": "default"}
    plain = docr("config")[1]
    assert ["mode", '"base"'] in [line.split()[:2] for line in plain.splitlines()]
    assert "secret" not in plain
    assert str(tmp_path / "docr.toml") in docr("config", "path")[1]
