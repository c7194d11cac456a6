"""Finding documents: files, folders, patterns and lists of names, in one fixed order.

A folder is read one directory at a time, so that memory depends on its largest directory and not
on the collection. Symbolic links to directories are not followed below a root (they can lead
back to it); links to files are.
"""
# ruff: noqa: PTH100, PTH109, PTH112, PTH118, PTH122, PTH207
# Names stay strings, of which there may be millions, and are made absolute without following
# links, which pathlib cannot.

import glob
import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from docr.errors import InputError, UsageError
from docr.pdf.sources import IMAGE_SUFFIXES, PDF_HEAD, input_error, require_regular
from docr.types import SourceFile

_SUFFIXES = IMAGE_SUFFIXES | {".pdf"}

Found = SourceFile | tuple[SourceFile, InputError]

_Kind = Literal["named", "plain", "odd", "directory"]
_Entry = tuple[str, str, _Kind | InputError]
"""The root, the path below it, and what is there, or why it cannot be listed."""


class Discovery:
    """The documents under some inputs; iterate once.

    The names of `files_from` come first, then the inputs in the order given, directories sorted
    by name. A path is yielded once. A file that is named is always tried, whatever it is called;
    below a directory only known suffixes (in any case) and files without a suffix that begin as
    a PDF. Hidden entries and the output folder are passed over. A pattern that the shell left
    alone is expanded as the shell would have done it.

    `include` and `exclude` are patterns on the path below the root: `*`, `?` and `[...]` stay
    within a component, `**` crosses them, and a pattern without "/" is tried on the last
    component alone. `exclude` wins, prunes directories, and applies to named files as well;
    `include` chooses among the files found below directories.

    A file's root is the directory it was found under, or its parent if it was named. Names in
    `files_from` have the working directory as root, and those outside it the file system's: so
    `find docs -name '*.pdf' | docr convert --files-from -` keeps the tree, and more names in the
    list change nothing for the others.

    Args:
        inputs: files, directories and patterns.
        include: patterns, one of which a file found below a directory must match.
        exclude: patterns, none of which a path may match.
        files_from: names of files and directories; iterated twice, see NameList.
        exclude_dir: the output folder.
        follow_links: follow links to files anywhere.

    Attributes:
        roots: all roots, in order of appearance.
        skipped: entries passed over, by reason: "hidden", "other" (not a known kind), "excluded",
            "output folder", "linked directory". Complete after iteration.
    """

    def __init__(
        self,
        inputs: Sequence[str | Path],
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        files_from: Iterable[bytes] | None = None,
        exclude_dir: Path | None = None,
        follow_links: bool = False,
    ) -> None:
        self.skipped: Counter[str] = Counter()
        self._include = [glob_regex(pattern) for pattern in include]
        self._exclude = [glob_regex(pattern) for pattern in exclude]
        self._exclude_dir = exclude_dir.resolve() if exclude_dir else None
        self._follow_links = follow_links
        self._list = files_from or ()
        self._working = os.getcwd()
        paths = dict.fromkeys(path for text in inputs for path in _expand(os.fspath(text)))
        self._inputs = [(path, os.path.isdir(path)) for path in paths]
        # What is not for a walk to yield: other inputs and, with a list, whatever came before.
        # Digests, since a list may name millions.
        self._taken = {_digest(path) for path in paths}
        self.roots = tuple(dict.fromkeys(self._find_roots()))

    def __iter__(self) -> Iterator[Found]:
        return itertools.starmap(self._found, self._entries())

    def names(self) -> Iterator[str]:
        """The paths below their roots of all that iterating would yield, to count them."""
        return (relative for _, relative, _ in self._entries())

    def _entries(self) -> Iterator[_Entry]:
        for name in self._list:
            path = os.path.abspath(os.fsdecode(name))
            root = self._list_root(path)
            relative = os.path.relpath(path, root).replace(os.sep, "/")
            if os.path.isdir(path):
                yield from self._walk(root, "" if path == root else relative)
            elif self._take(path):
                yield from self._file(root, relative)
        for path, is_dir in self._inputs:
            yield from self._walk(path, "") if is_dir else self._file(*os.path.split(path))

    def _find_roots(self) -> Iterator[Path]:
        for name in self._list:
            yield Path(self._list_root(os.path.abspath(os.fsdecode(name))))
        for path, is_dir in self._inputs:
            yield Path(path) if is_dir else Path(path).parent

    def _list_root(self, path: str) -> str:
        within = path == self._working or path.startswith(os.path.join(self._working, ""))
        return self._working if within else Path(path).anchor

    def _file(self, root: str, relative: str) -> Iterator[_Entry]:
        """A file that was named."""
        if _matches(self._exclude, relative):
            self.skipped["excluded"] += 1
        else:
            yield root, relative, "named"

    def _walk(self, root: str, folder: str) -> Iterator[_Entry]:
        """All documents below a directory of a root, depth first, by name."""
        start = Path(root, folder)
        if self._exclude_dir and start.resolve().is_relative_to(self._exclude_dir):
            self.skipped["output folder"] += 1
            return
        # A stack of listings and no recursion: the depth of a tree is not ours to bound.
        stack = [self._listing(root, folder)]
        while stack:
            found = next(stack[-1], None)
            if found is None:
                stack.pop()
            elif found[2] == "directory":
                stack.append(self._listing(root, found[1]))
            else:
                yield found

    def _listing(self, root: str, folder: str) -> Iterator[_Entry]:
        """One directory, sorted: its documents and its directories."""
        names: list[str] = []  # names only, "/" after a directory's: entries are ten times larger
        odd: set[str] = set()  # those that need a closer look
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    relative = f"{folder}/{entry.name}" if folder else entry.name
                    if reason := self._reason_to_skip(entry, relative):
                        self.skipped[reason] += 1
                    elif entry.is_dir(follow_symlinks=False):
                        names.append(entry.name + "/")
                    else:
                        names.append(entry.name)
                        if not entry.is_file(follow_symlinks=False):
                            odd.add(entry.name)
        except OSError as error:
            yield root, folder, input_error(error)
            return
        names.sort(key=lambda name: name.removesuffix("/"))
        for name in names:
            relative = f"{folder}/{name}" if folder else name
            if not self._take(os.path.join(root, relative.removesuffix("/"))):
                continue
            if name.endswith("/"):
                yield root, relative.removesuffix("/"), "directory"
            else:
                yield root, relative, "odd" if name in odd else "plain"

    def _found(self, root: str, relative: str, kind: _Kind | InputError) -> Found:
        """The document that an entry is, or why it is none."""
        top = _path(root)
        source = SourceFile(top / relative, top, relative, named=kind == "named")
        if isinstance(kind, InputError):
            return replace(source, relative=relative or top.name), kind
        if kind == "odd":
            return self._odd(source)
        return _checked(source) if kind == "named" else source

    def _odd(self, source: SourceFile) -> Found:
        """What is no plain file: a link, or nothing to be read."""
        found = _checked(source)
        if isinstance(found, SourceFile) and not self._follow_links:
            target = os.path.realpath(source.path)
            if not Path(target).is_relative_to(os.path.realpath(source.root)):
                what = "a link out of the folder; --follow-links follows it"
                return source, InputError("special-file", what)
        return found

    def _take(self, path: str) -> bool:
        """Whether a path is still to be yielded; it then counts as taken."""
        if not self._taken and not self._list:
            return True  # one directory alone: nothing can come twice
        digest = _digest(path)
        if digest in self._taken:
            return False
        if self._list:
            self._taken.add(digest)
        return True

    def _reason_to_skip(self, entry: os.DirEntry[str], relative: str) -> str | None:
        is_dir = entry.is_dir(follow_symlinks=False)
        if entry.name.startswith("."):
            return "hidden"
        if is_dir and self._is_output(entry):
            return "output folder"
        if entry.is_symlink() and os.path.isdir(entry.path):
            return "linked directory"
        if not is_dir and not _looks_like_document(entry):
            return "other"
        if _matches(self._exclude, relative):
            return "excluded"
        if self._include and not is_dir and not _matches(self._include, relative):
            return "excluded"
        return None

    def _is_output(self, entry: os.DirEntry[str]) -> bool:
        return (
            self._exclude_dir is not None
            and entry.name == self._exclude_dir.name
            and Path(entry.path).resolve() == self._exclude_dir
        )


def glob_regex(pattern: str) -> re.Pattern[str]:
    """Compile a pattern for paths with "/" between components; see Discovery.

    Raises:
        UsageError: a range in it runs backwards, as in "[z-a]".
    """
    body = pattern.removeprefix("./").rstrip("/")
    pieces: list[str] = [] if "/" in body or "**" in body else ["(?:.*/)?"]
    at = 0
    while at < len(body):
        if body.startswith("**/", at):
            pieces.append("(?:.*/)?")
            at += 3
        elif body.startswith("**", at):
            pieces.append(".*")
            at += 2
        elif match := re.compile(r"\[([!^]?)(\]?[^\]]*)\]").match(body, at):
            inside = re.sub(r"([\\\[\]&~|^])", r"\\\1", match[2])
            pieces.append(f"(?!/)[{'^' if match[1] else ''}{inside}]")
            at = match.end()
        else:
            pieces.append({"*": "[^/]*", "?": "[^/]"}.get(body[at], re.escape(body[at])))
            at += 1
    try:
        return re.compile("".join(pieces), re.DOTALL)
    except re.error as error:
        raise UsageError(f"pattern {pattern!r}: {error}") from error


def _matches(patterns: list[re.Pattern[str]], relative: str) -> bool:
    return any(pattern.fullmatch(relative) for pattern in patterns)


def _expand(text: str) -> list[str]:
    """Absolute paths that an input stands for: itself, or what it matches as a pattern."""
    if glob.has_magic(text) and not os.path.lexists(text):
        found = sorted(glob.glob(text, recursive=True))
        if found:
            return [os.path.abspath(path) for path in found]
    return [os.path.abspath(text)]


def _digest(path: str) -> bytes:
    return hashlib.blake2b(os.fsencode(path), digest_size=12).digest()


@lru_cache(64)
def _path(root: str) -> Path:
    return Path(root)


def _checked(source: SourceFile) -> Found:
    """The file, or why it is none."""
    try:
        require_regular(source.path.stat())
    except OSError as error:
        return source, input_error(error)
    except InputError as error:
        return source, error
    return source


def _looks_like_document(entry: os.DirEntry[str]) -> bool:
    """By its suffix or, having none, by its first bytes."""
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix or not entry.is_file():
        return suffix in _SUFFIXES
    try:
        with open(entry.path, "rb", buffering=0) as file:
            return file.read(len(PDF_HEAD)) == PDF_HEAD
    except OSError:
        return False
