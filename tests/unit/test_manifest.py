"""What the manifest takes over from the last one, and that it differs from a new one in nothing."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import docr.output.manifest
from docr.output import index
from docr.output.build import failed_document
from docr.output.line import to_line
from docr.output.manifest import write_manifest
from docr.output.read import look
from docr.output.record import RunInfo
from tests.fakes import records


def write_document(out: Path, folder: str, message: str = "needs a password") -> None:
    """As a store does, without its flushes: written beside, renamed into place."""
    where = out / folder
    where.mkdir(parents=True, exist_ok=True)
    info = records.source(folder)
    record = failed_document(
        source=info,
        code="encrypted",
        message=message,
        fingerprint=records.fingerprint(info),
        run=RunInfo(id="run"),
    )
    beside = out / ".docr" / "tmp" / "new"
    beside.write_bytes(to_line(record))
    beside.rename(where / "document.json")


@pytest.fixture
def out(tmp_path, monkeypatch):
    """An output folder whose stamps count at once."""
    monkeypatch.setattr(index, "SETTLED_NS", -(10**12))
    return new_out(tmp_path)


def new_out(folder: Path) -> Path:
    (folder / ".docr" / "tmp").mkdir(parents=True)
    return folder


def manifest(out: Path) -> bytes:
    write_manifest(out, temporary=out / ".docr" / "tmp")
    assert not any((out / ".docr" / "tmp").iterdir())
    return (out / "manifest.jsonl").read_bytes()


def paths(lines: bytes) -> list[str]:
    return [json.loads(line)["path"] for line in lines.splitlines()]


@pytest.fixture
def looked(monkeypatch):
    """The folders that are read."""
    seen: list[str] = []

    def watched(out: Path, folder: str):
        seen.append(folder)
        return look(out, folder)

    monkeypatch.setattr(docr.output.manifest, "look", watched)
    return seen


def test_only_folders_that_changed_are_read_again(out, looked):
    for name in ("a.pdf", "sub/b.pdf", "sub/c.pdf"):
        write_document(out, name)
    assert paths(manifest(out)) == ["a.pdf", "sub/b.pdf", "sub/c.pdf"]
    looked.clear()
    write_document(out, "sub/b.pdf", message="another")
    (out / "sub/c.pdf/document.json").unlink()
    write_document(out, "z/d.pdf")
    lines = manifest(out)
    assert paths(lines) == ["a.pdf", "sub/b.pdf", "z/d.pdf"]
    assert json.loads(lines.splitlines()[1])["message"] == "another"
    # OUT itself got a folder and the manifest; in "sub" nothing changed, only in what lies in it.
    assert looked == ["", "sub/b.pdf/", "sub/c.pdf/", "z/", "z/d.pdf/"]


def test_what_is_young_is_read_again(tmp_path, looked):
    """Two changes within the file system's resolution leave one stamp."""
    out = new_out(tmp_path)
    write_document(out, "a.pdf")
    manifest(out)
    looked.clear()
    manifest(out)
    assert looked == ["", "a.pdf/"]


def test_a_document_that_is_damaged_is_told_each_time(out, caplog):
    write_document(out, "a.pdf")
    (out / "a.pdf/document.json").write_bytes(b"{}")
    for _ in range(2):
        caplog.clear()
        assert manifest(out) == b""
        assert "a.pdf/document.json is damaged" in caplog.text


def test_a_manifest_that_somebody_altered_is_not_built_upon(out, looked):
    write_document(out, "a.pdf")
    lines = manifest(out)
    (out / "manifest.jsonl").write_bytes(lines.replace(b"a.pdf", b"b.pdf"))
    assert manifest(out) == lines


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-20],
        lambda content: bytes(50) + content[50:],
        lambda content: content.replace(b'["a.pdf/"', b'["a.pdf/'),
        lambda content: content.splitlines(keepends=True)[-1],
    ],
)
def test_a_damaged_index_costs_time_only(out, damage):
    for name in ("a.pdf", "b.pdf"):
        write_document(out, name)
    lines = manifest(out)
    path = out / ".docr" / "index.jsonl"
    content = path.read_bytes()
    assert damage(content) != content
    path.write_bytes(damage(content))
    assert manifest(out) == lines


def test_lines_of_another_docr_are_not_taken_over(out, looked, monkeypatch):
    write_document(out, "a.pdf")
    manifest(out)
    looked.clear()
    monkeypatch.setattr(index, "__version__", "999")
    manifest(out)
    assert looked == ["", "a.pdf/"]


NAMES = st.sampled_from(["a", "a.pdf", "a-b", "B", "ä", "a.pdf/figures", "a/a", "a/b", "a.pdf/b/c"])
CHANGES = st.lists(
    st.tuples(st.sampled_from(["write", "write", "remove", "forget", "sum up"]), NAMES),
    max_size=12,
)


@given(changes=CHANGES)
@settings(max_examples=150, deadline=None)
def test_it_equals_one_that_is_read_anew(tmp_path_factory, changes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "SETTLED_NS", -(10**12))
        out = new_out(tmp_path_factory.mktemp("out"))
        for step, (change, name) in enumerate(changes):
            match change:
                case "write":
                    write_document(out, name, message=f"{step}")
                case "remove":
                    shutil.rmtree(out / name, ignore_errors=True)
                case "forget":
                    (out / name / "document.json").unlink(missing_ok=True)
                case "sum up":
                    manifest(out)
            touched = out / name
            for folder in (touched, *touched.parents[: len(Path(name).parts)]):
                if folder.is_dir():  # changes here are closer together than a clock's ticks
                    os.utime(folder, ns=(0, step))
        lines = manifest(out)
        (out / ".docr" / "index.jsonl").unlink()
        assert manifest(out) == lines
        shutil.rmtree(out)
