"""Input trees full of traps, and pages that make the model write what harms: nothing escapes."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pymupdf
import pytest

from tests import pdfs
from tests.e2e.cli import ECHO, TIMEOUT_S, docr, environment, manifest, page_records, text_pdf
from tests.fakes.engines import HOSTILE_TEXT

pytestmark = pytest.mark.e2e

MOVES_OR_REORDERS = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0

PROCESSED = [
    *("plain.pdf", "hardlink.pdf", "linked.pdf", "loop/a/x.pdf", "dir.pdf/inner.pdf"),
    *("bad_\udcff\udcfe_utf8.pdf", "new\nline.pdf", 'tab\tquote".pdf', "\x1b[2J\x1b]0;x\x07.pdf"),
    *("\u202efdp.exe.pdf", "-x.pdf", "--help.pdf", "$(touch docr_pwned).pdf", " .pdf", "~.pdf"),
    *("dup/a.pdf", "dup/a.PDF", "dup/A.pdf", "col/a/b.pdf", "col/a_b.pdf", "col/a%2Fb.pdf"),
    *("caf\u00e9.pdf", "cafe\u0301.pdf", "x" * 251 + ".pdf", "/".join(["deep"] * 60) + "/d.pdf"),
    *("con.pdf", "manifest.jsonl.pdf", "dots..pdf..pdf", "a~0123abcd.pdf"),
]
REFUSED = {
    "outside.pdf": "special-file",
    "dangling.pdf": "unreadable",
    "circle.pdf": "unreadable",
    "zero.pdf": "special-file",
    "fifo.pdf": "special-file",
    "socket.pdf": "special-file",
    "empty.pdf": "empty-file",
    r"\x1b[31m\u202efdp.pdf": "empty-file",
    "sparse.pdf": "too-large",
}


@pytest.fixture
def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree in which every name and every kind of file is a trap."""
    root = tmp_path / "in"
    good = text_pdf(tmp_path / "good.pdf").read_bytes()
    for name in PROCESSED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name not in ("hardlink.pdf", "linked.pdf"):
            (root / name).write_bytes(good)
    (root / "hardlink.pdf").hardlink_to(root / "plain.pdf")
    (root / "linked.pdf").symlink_to("plain.pdf")
    (root / "loop/a/back").symlink_to(root / "loop")
    (root / "outside.pdf").symlink_to(tmp_path / "good.pdf")
    (root / "dangling.pdf").symlink_to(root / "nowhere.pdf")
    (root / "circle.pdf").symlink_to("circle.pdf")
    (root / "zero.pdf").symlink_to("/dev/zero")
    os.mkfifo(root / "fifo.pdf")
    (root / "empty.pdf").touch()
    (root / "\x1b[31m\u202efdp.pdf").touch()
    with (root / "sparse.pdf").open("wb") as sparse:
        sparse.truncate(40 << 30)
    monkeypatch.chdir(root)  # a socket's path has room for 100 bytes
    with socket.socket(socket.AF_UNIX) as trap:
        trap.bind("socket.pdf")
    return root


def convert(*args: str | Path, engine: str = ECHO, cwd: Path | None = None) -> "object":
    return docr("convert", "--engine", engine, "--mode", "tiny", *args, cwd=cwd)


def on_a_terminal(*args: str | Path) -> str:
    """What `docr ARGS` prints where stdout is a terminal."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "docr", *map(str, args)]
    subprocess.run(command, stdout=theirs, env=environment(), timeout=TIMEOUT_S, check=False)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    os.close(theirs)
    return said.replace("\r\n", "\n")


def names(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def raw_path(record: dict[str, object]) -> str:
    source = record["source"]
    if source["path_b64"] is None:
        return source["path"]
    return os.fsdecode(base64.b64decode(source["path_b64"]))


@pytest.mark.skipif(os.name != "posix", reason="the traps are POSIX's")
def test_a_tree_of_traps(traps: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "out", names(tmp_path)
    done = convert(traps, "-o", out, "-v", cwd=traps)
    assert done.returncode == 3, done.stderr
    assert {path for path in names(tmp_path) - before if not path.is_relative_to(out)} == set()

    records = page_records(out)
    assert sorted(map(raw_path, records.values())) == sorted(PROCESSED)  # each once, and exact
    assert {record["state"] for record in records.values()} == {"ok"}
    failed = {line["path"]: line["code"] for line in manifest(out) if line["page"] is None}
    assert failed == REFUSED
    assert len(manifest(out)) == len(PROCESSED) + len(REFUSED)

    failed_paths = docr("status", out, "--failed").stdout
    assert str(traps / "\x1b[31m\u202efdp.pdf") in failed_paths.split("\n")  # exact, for programs
    for text in (done.stderr, docr("status", out).stdout, on_a_terminal("status", out, "--failed")):
        assert not MOVES_OR_REORDERS.search(text)
    for path in REFUSED:
        assert sum(f"ERROR {path}: " in line for line in done.stderr.splitlines()) == 1
    (log,) = (out / ".docr/runs").glob("*.jsonl")
    for text in (log.read_text(), (out / "manifest.jsonl").read_text()):
        assert not MOVES_OR_REORDERS.search(text)
        assert text.count("\n") == len(text.splitlines())

    linked = convert(traps, "--include", "outside.pdf", "--follow-links", "-o", tmp_path / "linked")
    assert {line["state"] for line in manifest(tmp_path / "linked")} == {"ok"}, linked.stderr


@pytest.mark.skipif(IS_ROOT, reason="root may read what has mode 000")
def test_what_may_not_be_read(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "closed").mkdir(parents=True)
    for name in ("closed/y.pdf", "unreadable.pdf", "z.pdf"):
        text_pdf(root / name)
    (root / "unreadable.pdf").chmod(0)
    (root / "closed").chmod(0)
    try:
        done = convert(root, "-o", tmp_path / "out")
    finally:
        (root / "closed").chmod(0o700)
    assert done.returncode == 3, done.stderr
    codes = {line["path"]: line["code"] for line in manifest(tmp_path / "out")}
    assert codes == {"closed": "permission", "unreadable.pdf": "permission", "z.pdf": None}


def test_what_the_model_writes_only_shows(tmp_path: Path) -> None:
    source, out = tmp_path / "a.pdf", tmp_path / "out"
    with pymupdf.open(stream=pdfs.text_pages(2), filetype="pdf") as document:
        document.set_metadata({"title": "../../docr_pwned", "author": "\x1b[31m\u202e"})
        document.save(source)
    before = names(tmp_path)
    done = convert(source, "-o", out, engine="tests.fakes.engines:hostile", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path for path in names(tmp_path) - before if not path.is_relative_to(out)} == set()
    files = {path.name for path in (out / "a.pdf").rglob("*") if path.is_file()}
    assert files == {
        *("document.json", "document.md", "page-0001.json", "page-0001.md"),
        *("page-0002.json", "page-0002.md", "page-0001-1.png", "page-0002-1.png"),
    }
    record = page_records(out)["a.pdf/page-0001.json"]
    assert record["raw"] == HOSTILE_TEXT
    assert record["markdown"] == (out / "a.pdf/page-0001.md").read_text(encoding="utf-8")
    assert record["markdown"] == (
        "![image](figures/page-0001-1.png)\n\n"
        "![x] (../../../etc/passwd) &lt;img src=http://example.com/a.png>\n\n"
        "../../../tmp/docr_pwned\n"
        "&lt;script>alert(1)&lt;/script> [x] (javascript:alert(1)) [31m\u202etxt\n"
        " text  __import__('os').system('touch docr_pwned')\n"
        "<table><tr>&lt;td onclick=x>a</td></tr></table>\n&lt;!-- page 2 -->\n"
    )
    document = (out / "a.pdf/document.md").read_text(encoding="utf-8")
    assert re.findall("<!-- .* -->", document) == ["<!-- page 1 -->", "<!-- page 2 -->"]


def test_links_below_the_output_folder_are_refused(tmp_path: Path) -> None:
    source, out = text_pdf(tmp_path / "a.pdf"), tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()
    assert convert(source, "-o", out).returncode == 0
    for name in ("a.pdf", ".docr"):
        (out / name).rename(tmp_path / "moved")
        (out / name).symlink_to(tmp_path / "elsewhere")
        done = convert(source, "-o", out, "--overwrite")
        assert done.returncode in (5, 8), done.stderr
        assert list((tmp_path / "elsewhere").iterdir()) == []
        (out / name).unlink()
        (tmp_path / "moved").rename(out / name)


def test_damage_is_told(tmp_path: Path) -> None:
    """Lost pages, pages that are blank for want of what was on them, files without a page."""
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    (root / "cut.pdf").write_bytes(pdfs.truncated(pages=6))
    (root / "lost.pdf").write_bytes(pdfs.pdf(pdfs.Page(b"BT /F1 24 Tf (never ended")))
    (root / "none.pdf").write_bytes(pdfs.zero_pages())
    (root / "repaired.pdf").write_bytes(pdfs.broken_xref(pages=1))
    done = convert(root, "-o", out)
    assert done.returncode == 3, done.stderr
    lines = manifest(out)
    cut = [line["state"] for line in lines if line["path"] == "cut.pdf"]
    assert cut == ["ok", "ok", "ok", "damaged", *["failed:page-missing"] * 2]
    states = {line["path"]: line["state"] for line in lines if line["path"] != "cut.pdf"}
    assert states == {
        "lost.pdf": "damaged",
        "none.pdf": "failed:no-pages",
        "repaired.pdf": "ok",
    }
    repaired = json.loads((out / "repaired.pdf/document.json").read_text(encoding="utf-8"))
    assert any("repair" in warning for warning in repaired["warnings"])
    lost = page_records(out)["lost.pdf/page-0001.json"]
    assert lost["image"]["warnings"] and lost["message"]
