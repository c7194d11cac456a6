r"""Where a document's results go: a safe folder name for every input, and the files in it.

A source's folder is its path below its root, suffix kept. With several roots the root's last name
comes first, and 8 hex digits of its absolute path where two roots share that name. A component is
changed only for its own sake, never because of another file, so that adding inputs moves nothing:

    too long (over 200 bytes)             cut, then ~<8 hex>
    control characters, bidi marks, bytes each replaced by "_", then ~<8 hex>
    that are not UTF-8, any of <>:"|?*\
    "..", a trailing dot or space,        as it is, or "_" for the dot or space, then ~<8 hex>
    .docr, manifest.jsonl, CON, NUL, …
    a name that ends like ~<8 hex>        as it is, then ~<8 hex>: no two sources meet

The 8 hex digits are of the raw path below the root, up to and with that component. The one
exception are output file systems that fold case: there, names of one input directory that differ
in case only (or in Unicode normalisation) get the digits, all of them. Whether they do is read
from the input directory itself, so that it depends neither on --include nor on the walk's order.
"""

import hashlib
import os
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from docr.escape import UNPRINTABLE
from docr.types import SourceFile

PAGE_FILE = re.compile(r"page-(\d{4,})\.(json|md)")
FIGURE_FILE = re.compile(r"page-\d{4,}-\d+\.png")

MAX_COMPONENT_BYTES = 200  # file systems take 255; some encrypted ones less
MAX_FOLDER_BYTES = 1024  # of the whole path below OUT: with OUT it must stay under PATH_MAX, 4096

UNSAFE = re.compile(f'[{UNPRINTABLE}<>:"/\\\\|?*]')
"""Characters that no output name has: some file system, shell or terminal trips over each."""

RESERVED = re.compile(
    r"\.\.?|\.docr|manifest\.jsonl|(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?",
    re.IGNORECASE,
)
"""Names with a meaning of their own: to docr, or to Windows in any folder and with any suffix."""

HASHED = re.compile(r"~[0-9a-f]{8}$", re.IGNORECASE)


def page_stem(number: int) -> str:
    """The name of a page's files without suffix; `number` is 1-based."""
    return f"page-{number:04d}"


def folds_case(folder: Path) -> bool:
    """Whether names in an existing, writable folder are found in the other case, too."""
    with tempfile.NamedTemporaryFile(prefix="case-", dir=folder) as probe:
        return Path(probe.name).with_name(Path(probe.name).name.upper()).exists()


class Namer:
    """Gives each source its folder below OUT.

    Args:
        roots: the roots of all sources of the run (`SourceFile.root`); repeats do not matter.
        folds_case: whether the output file system folds case, see `folds_case()`.
    """

    def __init__(self, roots: Sequence[Path], *, folds_case: bool) -> None:
        self._folds_case = folds_case
        self._labels = _labels(sorted(set(roots)), folds_case=folds_case)

    def folder(self, source: SourceFile) -> str:
        """The source's folder relative to OUT, with "/" between components.

        Sources of one root differ in `relative`, and so do their folders, but for a chance of
        2**-32 where two names had to be cut or escaped to the same letters.
        """
        label = self._labels[source.root]
        raw = source.relative.split("/")
        parts = [self._component(source.root, raw[: end + 1]) for end in range(len(raw))]
        if sum(len(part.encode()) + 1 for part in parts) > MAX_FOLDER_BYTES:
            parts = [f"deep~{_digits('/'.join(raw[:-1]))}", parts[-1]]
        return "/".join([label, *parts] if label else parts)

    def _component(self, root: Path, raw: list[str]) -> str:
        """The output name of the last of these components."""
        name = raw[-1]
        if not _is_plain(name) or (self._folds_case and self._has_double(root, raw)):
            return _hashed(name, "/".join(raw))
        return name

    @staticmethod
    def _has_double(root: Path, raw: list[str]) -> bool:
        return _folded_names(root.joinpath(*raw[:-1]))[folded(raw[-1])] > 1


def _is_plain(name: str) -> bool:
    return not (
        not name
        or UNSAFE.search(name)
        or RESERVED.fullmatch(name)
        or HASHED.search(name)
        or name.endswith((".", " "))
        or len(name.encode()) > MAX_COMPONENT_BYTES
    )


def _hashed(name: str, raw_path: str) -> str:
    """The name, made safe and short, with the digits of the raw path it stands for."""
    digits = _digits(raw_path)
    safe = UNSAFE.sub("_", name)
    safe = safe.encode()[: MAX_COMPONENT_BYTES - len(digits) - 2].decode(errors="ignore")
    stem = safe.rstrip(". ") + "_" * (safe != safe.rstrip(". "))
    if RESERVED.fullmatch(f"{stem}~{digits}"):  # con.txt stays reserved with any suffix
        stem = f"_{stem}"
    return f"{stem or '_'}~{digits}"


def _digits(raw_path: str) -> str:
    return hashlib.sha256(os.fsencode(raw_path)).hexdigest()[:8]


def folded(name: str) -> str:
    """What file systems that fold case (and, as Apple's do, normalisation) compare."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


@lru_cache(maxsize=64)  # the walk is sorted: one directory's files come together
def _folded_names(directory: Path) -> Counter[str]:
    try:
        return Counter(folded(name) for name in os.listdir(directory))  # noqa: PTH208 (names only)
    except OSError:
        return Counter()


def _labels(roots: Sequence[Path], *, folds_case: bool) -> dict[Path, str]:
    """First components by root: "" for a single one, else distinct names."""
    if len(roots) == 1:
        return {roots[0]: ""}
    same = folded if folds_case else str
    shared = Counter(same(root.name) for root in roots)
    labels = {
        root: root.name
        if _is_plain(root.name) and shared[same(root.name)] == 1
        else _label_with_digits(root, 8)
        for root in roots
    }
    if len({same(label) for label in labels.values()}) < len(roots):
        # A root is named like another one's label with digits: whole hashes for all of them.
        return {root: _label_with_digits(root, 64) for root in roots}
    return labels


def _label_with_digits(root: Path, length: int) -> str:
    digits = hashlib.sha256(os.fsencode(root)).hexdigest()[:length]
    name = UNSAFE.sub("_", root.name).strip(". ").encode()[: MAX_COMPONENT_BYTES - 70]
    label = f"{name.decode(errors='ignore') or 'root'}-{digits}"
    return f"_{label}" if RESERVED.fullmatch(label) else label
