"""How parts in C are compiled, kept and loaded."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from docr import compiled
from docr.compiled import Code, Unavailable


def has_compiler() -> bool:
    return any(map(shutil.which, compiled.COMPILERS))


def may_compile() -> bool:
    try:
        Code(sources=(), flags=(), needs=()).check_processor()
    except Unavailable:
        return False
    return has_compiler()


needs_compiler = pytest.mark.skipif(not may_compile(), reason="no C compiler on Linux, x86-64")


@pytest.fixture
def code(tmp_path: Path) -> Code:
    source = tmp_path / "code" / "answer.c"
    source.parent.mkdir()
    source.write_text("int answer(void) { return 42; }\n")
    return Code(sources=(source,), flags=("-shared", "-fPIC"), needs=())


@needs_compiler
def test_it_is_compiled_once(code: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code.load(tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.suffix == ".so" and (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert code.load(tmp_path / "cache").answer() == 42


@needs_compiler
def test_other_sources_or_flags_are_another_library(code: Code, tmp_path: Path) -> None:
    code.load(tmp_path / "cache")
    replace(code, flags=("-O2", *code.flags)).load(tmp_path / "cache")
    code.sources[0].write_text("int answer(void) { return 43; }\n")
    assert code.load(tmp_path / "cache").answer() == 43
    assert len(list((tmp_path / "cache").iterdir())) == 3


@needs_compiler
def test_what_is_cut_short_is_made_again(code: Code, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    code.load(tmp_path / "other")
    (whole,) = (tmp_path / "other").iterdir()
    folder.mkdir(mode=0o700)
    kept = folder / whole.name
    kept.write_bytes(whole.read_bytes()[:1000])
    code.load(folder)
    assert kept.read_bytes() == whole.read_bytes()
    assert [path.name for path in folder.iterdir()] == [kept.name]


@needs_compiler
def test_a_folder_that_others_can_write_to_is_not_trusted(code: Code, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    assert code.load(folder).answer() == 42
    assert not list(folder.iterdir())


@needs_compiler
def test_no_home_is_no_obstacle(
    code: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    assert code.load(tmp_path / "file" / "cache").answer() == 42
    monkeypatch.chdir(tmp_path)
    assert code.load(Path("~/.cache")).answer() == 42
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code", "file"]


@needs_compiler
def test_without_a_compiler_there_is_a_reason(
    code: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Unavailable, match="no C compiler"):
        code.load(tmp_path)


@needs_compiler
def test_a_compiler_that_fails_is_quoted(code: Code, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no-such-flag"):
        replace(code, flags=("-fno-such-flag",)).load(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_processor_that_lacks_something(code: Code, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"avx1024|Linux"):
        replace(code, needs=("avx1024",)).load(tmp_path)


def test_another_system(code: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(Unavailable, match="Linux"):
        code.load(tmp_path)
