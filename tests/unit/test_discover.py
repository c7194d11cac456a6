import os
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

from docr.errors import OutputError, UsageError
from docr.pdf.discover import Discovery, glob_regex
from docr.pdf.stdin import NameList, spool_stdin
from docr.types import SourceFile


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    for name in ("b.pdf", "a/z.PDF", "a/2.tiff", "a.b/x.pdf", "c/deep/er/scan.Jpeg", ".hid/x.pdf"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"%PDF-1.7")
    (root / ".hidden.pdf").write_bytes(b"%PDF-1.7")
    (root / "notes.txt").write_text("not a document")
    (root / "README").write_text("no suffix, no PDF")
    (root / "nosuffix").write_bytes(b"%PDF-1.4 something")
    return root


def found(discovery: Discovery) -> list[str]:
    """Relative paths, with the code of what cannot be read."""
    return [
        each.relative if isinstance(each, SourceFile) else f"{each[0].relative}!{each[1].code}"
        for each in discovery
    ]


ALL = ["a/2.tiff", "a/z.PDF", "a.b/x.pdf", "b.pdf", "c/deep/er/scan.Jpeg", "nosuffix"]


def test_a_folder_is_walked_in_order(tree: Path) -> None:
    discovery = Discovery([tree])
    files = list(discovery)
    assert [file.relative for file in files if isinstance(file, SourceFile)] == ALL
    first = files[0]
    assert first == SourceFile(path=tree / "a/2.tiff", root=tree, relative="a/2.tiff")
    assert discovery.skipped == {"hidden": 2, "other": 2}
    assert discovery.roots == (tree,)


def test_a_named_file_is_always_tried(tree: Path) -> None:
    (file,) = Discovery([tree / "notes.txt"])
    assert file == SourceFile(tree / "notes.txt", tree, "notes.txt", named=True)


def test_what_is_given_twice_comes_once(tree: Path) -> None:
    assert found(Discovery([tree, str(tree) + "/", tree / "a" / ".."])) == ALL
    both = found(Discovery([tree, tree / "b.pdf", tree / "b.pdf"]))
    assert sorted(both) == sorted(ALL)
    nested = found(Discovery([tree, tree / "a"]))
    assert nested == ["a.b/x.pdf", "b.pdf", "c/deep/er/scan.Jpeg", "nosuffix", "2.tiff", "z.PDF"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*.pdf"], [], ["a.b/x.pdf", "b.pdf"]),
        (["*.[pP][dD][fF]"], [], ["a/z.PDF", "a.b/x.pdf", "b.pdf"]),
        (["a/*"], [], ["a/2.tiff", "a/z.PDF"]),
        (["**/x.pdf"], [], ["a.b/x.pdf"]),
        (["**/b.pdf"], [], ["b.pdf"]),
        (["c/**"], [], ["c/deep/er/scan.Jpeg"]),
        ([], ["a"], ["a.b/x.pdf", "b.pdf", "c/deep/er/scan.Jpeg", "nosuffix"]),
        ([], ["c/deep/", "*.pdf"], ["a/2.tiff", "a/z.PDF", "nosuffix"]),
        (["*.pdf"], ["b*"], ["a.b/x.pdf"]),
    ],
)
def test_patterns(tree: Path, include: list[str], exclude: list[str], expected: list[str]) -> None:
    assert found(Discovery([tree], include=include, exclude=exclude)) == expected


def test_exclude_applies_to_named_files_and_include_does_not(tree: Path) -> None:
    named = [tree / "b.pdf", tree / "notes.txt"]
    assert found(Discovery(named, include=["nothing"])) == ["b.pdf", "notes.txt"]
    discovery = Discovery(named, exclude=["b.*"])
    assert found(discovery) == ["notes.txt"]
    assert discovery.skipped == {"excluded": 1}


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("a?c", "abc", True),
        ("a?c", "x/abc", True),
        ("x/a?c", "x/a/c", False),
        ("[!a]*", "b", True),
        ("[!a]*", "a", False),
        ("[]]", "]", True),
        ("[^]x[]", "]", False),
        ("[\\^]", "\\", True),
        ("[a-c]1", "b1", True),
        ("x/[!a]", "x//", False),
        ("[", "[", True),
        ("a.b", "aXb", False),
        ("**", "any/thing", True),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("line*", "line\nbreak", True),
        ("*.pdf", "caf\udce9.pdf", True),
    ],
)
def test_glob(pattern: str, path: str, matches: bool) -> None:
    assert bool(glob_regex(pattern).fullmatch(path)) == matches


def test_a_pattern_that_makes_no_sense_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="z-a"):
        Discovery([], exclude=["[z-a]"])


def test_patterns_that_the_shell_left_alone(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert found(Discovery(["*.pdf"])) == ["b.pdf"]
    assert sorted(found(Discovery(["**/*.pdf"]))) == ["b.pdf", "x.pdf"]
    assert found(Discovery(["*.nothing"])) == ["*.nothing!unreadable"]
    (tree / "[1].pdf").write_bytes(b"%PDF-1.7")
    assert found(Discovery(["[1].pdf"])) == ["[1].pdf"]  # a name before a pattern


def test_the_output_folder_is_not_walked(tree: Path) -> None:
    discovery = Discovery([tree], exclude_dir=tree / "a")
    assert "a/z.PDF" not in found(discovery)
    assert discovery.skipped["output folder"] == 1
    assert found(Discovery([tree / "a"], exclude_dir=tree)) == []


def test_links(tree: Path) -> None:
    (tree / "a" / "loop").symlink_to(tree)
    (tree / "a" / "link.pdf").symlink_to(tree / "b.pdf")
    (tree / "a" / "gone.pdf").symlink_to(tree / "nowhere")
    discovery = Discovery([tree / "a"], follow_links=True)
    assert found(discovery) == ["2.tiff", "gone.pdf!unreadable", "link.pdf", "z.PDF"]
    assert discovery.skipped == {"linked directory": 1}
    (tree.parent / "way").symlink_to(tree / "a")
    assert len(found(Discovery([tree.parent / "way"]))) == 4  # a link that is named is followed


def test_links_out_of_the_folder_are_refused(tree: Path) -> None:
    (tree / "a" / "out.pdf").symlink_to("../b.pdf")
    (tree / "a" / "in.pdf").symlink_to("z.PDF")
    within = ["2.tiff", "in.pdf", "out.pdf!special-file", "z.PDF"]
    assert found(Discovery([tree / "a"])) == within
    (tree.parent / "way").symlink_to(tree / "a")  # a root may be a link itself
    assert found(Discovery([tree.parent / "way"])) == within
    assert "a/out.pdf" in found(Discovery([tree]))  # from there it is no way out
    assert found(Discovery([tree / "a" / "out.pdf"])) == ["out.pdf"]  # named: somebody means it


def test_special_files_are_not_opened(tree: Path) -> None:
    os.mkfifo(tree / "a" / "pipe.pdf")
    os.mkfifo(tree / "a" / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tree / "a" / "s.pdf"))
        walked = found(Discovery([tree / "a", tree / "a" / "pipe"]))
    special = [each for each in walked if "!" in each]
    assert special == ["pipe.pdf!special-file", "s.pdf!special-file", "pipe!special-file"]


def test_missing_and_forbidden(tree: Path) -> None:
    assert found(Discovery([tree / "no.pdf"])) == ["no.pdf!unreadable"]
    assert found(Discovery([tree / "b.pdf" / "x.pdf"])) == ["x.pdf!unreadable"]
    assert found(Discovery(["x" * 5000])) == ["x" * 5000 + "!unreadable"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_without_permission_is_reported(tree: Path) -> None:
    (tree / "a").chmod(0)
    try:
        assert "a!permission" in found(Discovery([tree]))
    finally:
        (tree / "a").chmod(0o755)


def test_names_that_are_not_utf8(tree: Path) -> None:
    name = b"caf\xe9\n.pdf"
    Path(os.fsdecode(bytes(tree) + b"/a/" + name)).write_bytes(b"%PDF-1.7")
    walked = found(Discovery([tree / "a"]))
    assert os.fsdecode(name) in walked
    assert os.fsencode(walked[1]) == name


def test_names_from_a_list(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.parent)
    names = tree.parent / "names"
    outside = tree.parent.parent / "outside.pdf"
    lines: Iterable[str] = ["docs/b.pdf", "", "./docs/b.pdf", "docs/a", "missing.pdf", str(outside)]
    names.write_text("\n".join(lines))
    discovery = Discovery([tree / "nosuffix"], files_from=NameList(names))
    assert discovery.roots == (tree.parent, Path("/"), tree)
    missing = str(outside).lstrip("/") + "!unreadable"
    assert found(discovery) == [
        *("docs/b.pdf", "docs/a/2.tiff", "docs/a/z.PDF"),
        *("missing.pdf!unreadable", missing, "nosuffix"),
    ]


def test_a_list_may_name_directories_and_what_is_in_them(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    names = [b"a", b"a/z.PDF", b"a/2.tiff", b".", b"b.pdf"]
    assert sorted(found(Discovery([], files_from=names))) == sorted(ALL)


@pytest.mark.parametrize("length", [1, 7, 100_000])
def test_a_list_is_read_in_pieces(tmp_path: Path, length: int) -> None:
    names = [b"n" * length, b"with\nnewline", b"last"]
    listed = tmp_path / "names"
    listed.write_bytes(b"\0".join(names))
    assert list(NameList(listed, nul_separated=True)) == names
    listed.write_bytes(b"one\n\ntwo\n")
    assert list(NameList(listed)) == [b"one", b"two"]
    with pytest.raises(UsageError, match="No such file"):
        list(NameList(tmp_path / "missing"))


def test_standard_input_becomes_a_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"%PDF-1.7 data")
    with source.open("rb") as stream:
        spooled = spool_stdin(stream, tmp_path)
    assert spooled.path.read_bytes() == b"%PDF-1.7 data"
    assert spooled.relative == "stdin.pdf"
    assert list(Discovery([spooled.path])) == [spooled]
    with source.open("rb") as stream:
        names = NameList.spooled(stream, tmp_path)
    assert list(names) == [b"%PDF-1.7 data"]
    with source.open("rb") as stream, pytest.raises(OutputError, match="standard input"):
        spool_stdin(stream, tmp_path / "missing")


def test_a_deep_tree_and_a_wide_one(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(300):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "x.pdf").touch()
    wide = tmp_path / "wide"
    wide.mkdir()
    for number in range(2000):
        (wide / f"{number:04d}.pdf").touch()
    files = found(Discovery([tmp_path]))
    assert len(files) == 2001
    assert files == sorted(files)
