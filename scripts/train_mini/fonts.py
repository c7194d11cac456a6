"""The faces that pages are set in: fetched from Debian, checked, split into training and held out.

    python -m scripts.train_mini.fonts .train/fonts

Downloads the packages (`apt-get download`: no root needed), keeps the faces that draw every
character of the mini's alphabet, and writes them beside `faces.json`. None of them is committed.
A training machine without network gets the folder as it is.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    *("adf-accanthis", "adf-baskervald", "adf-gillius", "adf-ikarius", "adf-libris"),
    *("adf-tribun", "adf-universalis", "anonymous-pro", "averia-sans-gwf"),
    *("averia-serif-gwf", "cabin", "cantarell", "cardo", "century-catalogue", "comfortaa"),
    *("croscore", "crosextra-caladea", "crosextra-carlito", "dejavu-core", "dejavu-extra"),
    *("dosis", "ebgaramond", "fanwood", "firacode", "freefont-ttf", "go", "goudybookletter"),
    *("hack", "inconsolata", "inter", "jetbrains-mono", "junicode", "jura", "lato"),
    *("league-spartan", "liberation", "linuxlibertine", "lmodern", "mononoki", "noto-core"),
    *("noto-mono", "oldstandard", "open-sans", "oxygen", "paratype", "play", "quicksand"),
    *("roboto-unhinted", "sil-andika", "sil-charis", "sil-gentium-basic", "texgyre"),
    *("tuffy", "urw-base35", "vollkorn", "yanone-kaffeesatz"),
)
"""Debian packages, without their "fonts-": freely licensed families that documents are set in."""

HELD_OUT = ("caladea", "cantarell", "linlibertine", "linbiolinum", "lato", "carlito")
"""Families that no training page is set in, by what their file names begin with.

Carlito is drawn after Lato.
"""

UNWANTED = (
    *("math", "symbol", "dingbat", "ornament", "emoji", "smallcaps", "outline", "initial"),
    *("hairline", "thin"),
)
"""Parts of file names: faces that nobody sets running text in."""

PER_PACKAGE = 8
"""Most faces of one package, so that none makes up most of the pages."""

MAX_BYTES = 700_000
"""Larger files hold other scripts; left out, the folder travels to a training machine."""

ALPHABET = (
    "".join(chr(code) for code in range(33, 127))
    + "ÀÁÂÄÅÆÇÈÉÊËÍÎÏÑÓÔÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüÿ"
    + "–—‘’“”„…•°§£€©«»×±·"
)
"""Characters that pages of the mini are made of, without the space."""


@dataclass(frozen=True, slots=True)
class Face:
    """One font file.

    Attributes:
        path: the file; PDF and Pillow read it alike.
        family: what the evaluation groups by: the package, without "fonts-".
        held_out: set in evaluation pages only.
    """

    path: Path
    family: str
    held_out: bool


def load_faces(folder: Path, *, held_out: bool) -> list[Face]:
    """The faces of one side of the split, sorted by path.

    Raises:
        FileNotFoundError: the folder was not made by this script.
    """
    rows = json.loads((folder / "faces.json").read_text(encoding="utf-8"))
    return [
        Face(folder / row["file"], row["family"], held_out)
        for row in rows
        if row["held_out"] == held_out
    ]


def is_held_out(file_name: str) -> bool:
    """Whether a font file belongs to a family that training never sees."""
    return file_name.lower().startswith(HELD_OUT)


def fetch(folder: Path) -> None:
    """Download the packages and keep their usable faces in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for family in PACKAGES:
            package = f"fonts-{family}"
            download = subprocess.run(
                ["apt-get", "download", "-q=2", package], cwd=scratch, capture_output=True
            )
            archives = sorted(Path(scratch).glob(f"{package}_*.deb"))
            if download.returncode or not archives:
                print(f"{package}: not available here, left out", file=sys.stderr)
                continue
            unpacked = Path(scratch) / package
            subprocess.run(["dpkg", "-x", archives[0], unpacked], check=True)
            rows += keep_faces(unpacked, package, folder)
    (folder / "faces.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"{len(rows)} faces, {sum(bool(row['held_out']) for row in rows)} of them held out")


def keep_faces(unpacked: Path, package: str, folder: Path) -> list[dict[str, object]]:
    """Copy a package's usable faces; returns their rows of faces.json."""
    candidates = [
        path
        for path in sorted((*unpacked.rglob("*.ttf"), *unpacked.rglob("*.otf")))
        if not path.is_symlink()
        and path.stat().st_size <= MAX_BYTES
        and not any(part in path.name.lower() for part in UNWANTED)
        and draws_alphabet(path)
    ]
    if len(candidates) > PER_PACKAGE:
        candidates = sorted(random.Random(package).sample(candidates, PER_PACKAGE))
    for path in candidates:
        shutil.copyfile(path, folder / path.name)
    family = package.removeprefix("fonts-")
    return [
        {"file": path.name, "family": family, "held_out": is_held_out(path.name)}
        for path in candidates
    ]


def draws_alphabet(path: Path) -> bool:
    """Whether a font file opens and has a glyph for all of the alphabet."""
    import pymupdf

    try:
        font = pymupdf.Font(fontfile=str(path))
    except RuntimeError:
        return False
    return all(font.has_glyph(ord(character)) for character in ALPHABET)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    fetch(parser.parse_args().folder)


if __name__ == "__main__":
    main()
