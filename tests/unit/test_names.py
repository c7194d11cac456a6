import hashlib
import os
import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from docr.output.names import (
    MAX_COMPONENT_BYTES,
    MAX_FOLDER_BYTES,
    Namer,
    folds_case,
    page_stem,
)
from docr.types import SourceFile

ROOT = Path("/in")


def source(relative: str, root: Path = ROOT) -> SourceFile:
    return SourceFile(path=root / relative, root=root, relative=relative)


def folder(relative: str, *, roots: tuple[Path, ...] = (ROOT,), folds: bool = False) -> str:
    return Namer(roots, folds_case=folds).folder(source(relative, roots[0]))


def digits(raw: str) -> str:
    return hashlib.sha256(os.fsencode(raw)).hexdigest()[:8]


@pytest.mark.parametrize(
    "name",
    ["a.pdf", "2024/Größe (1) – final.pdf", "-rf.pdf", "日本/報告.pdf", ".hidden/a.pdf", "~/x"],
)
def test_ordinary_names_stay(name):
    assert folder(name) == name


@pytest.mark.parametrize(
    ("raw", "stem"),
    [
        ("a\n.pdf", "a_.pdf"),
        ("caf\udce9.pdf", "caf_.pdf"),
        ("a:b?.pdf", "a_b_.pdf"),
        ("a\u202efdp.exe", "a_fdp.exe"),
        ("back\\slash", "back_slash"),
        ("dot.", "dot_"),
        ("space ", "space_"),
        ("..", "_"),
        (".docr", ".docr"),
        ("manifest.jsonl", "manifest.jsonl"),
        ("CON", "CON"),
        ("nul.pdf", "_nul.pdf"),
        ("a~0123abcd", "a~0123abcd"),
        ("x" * 250, "x" * 190),
        ("é" * 120, "é" * 95),
    ],
)
def test_names_are_changed_for_their_own_sake(raw, stem):
    assert folder(raw) == f"{stem}~{digits(raw)}"


def test_digits_are_of_the_raw_path_up_to_the_component():
    raw = "a\n/b\n.pdf"
    assert folder(raw) == f"a_~{digits('a' + chr(10))}/b_.pdf~{digits(raw)}"


def test_very_long_paths_lose_their_directories():
    parent = "/".join(["d" * 150] * 8)
    assert folder(f"{parent}/a.pdf") == f"deep~{digits(parent)}/a.pdf"


def test_several_roots_come_first_by_their_last_name():
    namer = Namer([Path("/x/a"), Path("/y/b")], folds_case=False)
    assert namer.folder(source("1.pdf", Path("/x/a"))) == "a/1.pdf"
    assert namer.folder(source("1.pdf", Path("/y/b"))) == "b/1.pdf"


def test_roots_of_one_name_get_the_digits_of_their_path():
    roots = [Path("/x/a"), Path("/y/a"), Path("/z/c")]
    namer = Namer(roots, folds_case=False)
    assert namer.folder(source("1.pdf", roots[0])) == f"a-{digits('/x/a')}/1.pdf"
    assert namer.folder(source("1.pdf", roots[1])) == f"a-{digits('/y/a')}/1.pdf"
    assert namer.folder(source("1.pdf", roots[2])) == "c/1.pdf"


@pytest.mark.parametrize("name", ["", "CON", "con.x", "..x..", "a\nb", ".docr", "manifest.jsonl"])
def test_odd_roots_have_safe_labels(name):
    roots = [Path("/") / name, Path("/other")]
    assert_safe(Namer(roots, folds_case=False).folder(source("a.pdf", roots[0])))


def test_a_root_that_is_named_like_another_ones_label():
    roots = [Path("/x/a"), Path("/y/a"), Path("/z") / f"a-{digits('/x/a')}"]
    namer = Namer(roots, folds_case=False)
    assert len({namer.folder(source("1.pdf", root)) for root in roots}) == 3


@pytest.fixture
def exact(tmp_path: Path) -> Path:
    """A folder on a file system that tells "a" from "A"."""
    if folds_case(tmp_path):
        pytest.skip("this file system folds case")
    return tmp_path


def test_names_equal_after_folding_all_get_digits(exact):
    same = ("a.pdf", "A.PDF", "e\u0301.pdf", "\u00e9.pdf")
    for name in (*same, "b.pdf"):
        (exact / name).touch()
    namer = Namer([exact], folds_case=True)
    assert namer.folder(source("b.pdf", exact)) == "b.pdf"
    for name in same:
        assert namer.folder(source(name, exact)) == f"{name}~{digits(name)}"


def test_directories_equal_after_folding_get_digits(exact):
    for name in ("dir", "Dir"):
        (exact / name).mkdir()
    one, two = (folder(f"{name}/x.pdf", roots=(exact,), folds=True) for name in ("dir", "Dir"))
    assert (one, two) == (f"dir~{digits('dir')}/x.pdf", f"Dir~{digits('Dir')}/x.pdf")


def test_this_file_system_is_probed(tmp_path):
    (tmp_path / "probe").touch()
    assert folds_case(tmp_path) == (tmp_path / "PROBE").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["probe"]


def test_page_files_count_from_one():
    assert (page_stem(1), page_stem(12345)) == ("page-0001", "page-12345")


def assert_safe(name: str) -> None:
    parts = name.split("/")
    assert not name.startswith("/") and not set(parts) & {"", ".", "..", ".docr"}
    name.encode()
    assert len(name.encode()) <= MAX_FOLDER_BYTES + 2 * MAX_COMPONENT_BYTES
    for part in parts:
        assert len(part.encode()) <= MAX_COMPONENT_BYTES
        assert not re.search(r'[\x00-\x1f\x7f\u202a-\u202e<>:"\\|?*]', part)
        assert part[-1] not in ". "


names = (
    st.binary(min_size=1, max_size=260).filter(lambda raw: not {0, 47} & set(raw)).map(os.fsdecode)
    | st.sampled_from(["a", "A", "a.", "..", "CON", "con.x", ".docr", "a~00000000", "a\n", "a_"])
    | st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
)
paths = st.lists(names, min_size=1, max_size=6).map("/".join)


@given(paths)
def test_folders_are_safe_relative_paths(relative):
    assert_safe(folder(relative))
    assert_safe(Namer([ROOT, Path("/other/in")], folds_case=False).folder(source(relative)))


@given(paths, paths)
def test_distinct_sources_get_distinct_folders(one, two):
    assume(one != two)
    assert folder(one) != folder(two)


@given(paths)
def test_a_folder_taken_for_a_name_is_another_one(relative):
    given_name = folder(relative)
    if given_name != relative:
        assert folder(given_name) != given_name


@given(st.lists(paths, min_size=1, max_size=5))
def test_names_depend_on_no_other_source(relatives):
    namer = Namer([ROOT], folds_case=False)
    assert [namer.folder(source(name)) for name in relatives] == [
        folder(name) for name in relatives
    ]


@given(st.lists(st.lists(names, min_size=1, max_size=2).map("/".join), min_size=2, max_size=5))
def test_distinct_roots_get_distinct_folders(raw_roots):
    roots = {Path("/") / raw for raw in raw_roots}
    assume(len(roots) > 1)
    namer = Namer(sorted(roots), folds_case=False)
    folders = {namer.folder(source("a.pdf", root)) for root in roots}
    assert len(folders) == len(roots)
    for name in folders:
        assert_safe(name)
