"""What pages say: prose, random words and strings, numbers, code. Nothing is downloaded.

Prose is taken from the docstrings and comments of Python packages that the project needs anyway;
invented words come from its letter statistics, so that the model must read letters, not guess
words. A sentence belongs to training or to the evaluation by a hash of itself.
"""

import functools
import importlib.util
import random
import re
import sysconfig
import zlib
from collections.abc import Iterable
from pathlib import Path

from scripts.train_mini.fonts import ALPHABET

SOURCES = ("torch", "transformers", "pydantic", "numpy", "PIL", "hypothesis", "rich", "accelerate")
"""Packages beside the standard library whose docstrings are read, where they are installed."""

MAX_SENTENCES = 60_000
HELD_OUT_OF = 20
"""One sentence in so many is kept from training."""

KINDS = {"prose": 0.50, "words": 0.15, "invented": 0.20, "strings": 0.11, "code": 0.04}
"""Shares of a page's blocks by what they say."""

_DOCSTRING = re.compile(r'"""(.+?)"""', re.DOTALL)
_SENTENCE = re.compile(r"[A-Z][^.!?\n]{20,160}[.!?]")
_MARKUP = re.compile(r"[`*_\\|<>{}\[\]=#~^@$/]|::|--|>>>|https?")
_ACCENTED = "àáâäåæçèéêëíîïñòóôõöøùúûüßÀÂÄÇÉÈÊÖÜÓÑ"
_SYMBOLS = "".join(char for char in ALPHABET if not char.isalnum())


@functools.cache
def sentences(*, held_out: bool) -> tuple[str, ...]:
    """All sentences of one side of the split, in a fixed order."""
    # zlib.crc32, unlike hash(), is the same in every process.
    return tuple(
        sentence
        for sentence in _all_sentences()
        if (zlib.crc32(sentence.encode()) % HELD_OUT_OF == 0) == held_out
    )


@functools.cache
def _all_sentences() -> tuple[str, ...]:
    found: dict[str, None] = {}
    for path in _source_files():
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        for docstring in _DOCSTRING.findall(content):
            for sentence in _SENTENCE.findall(" ".join(docstring.split())):
                if not _MARKUP.search(sentence) and set(sentence) <= {" ", *ALPHABET}:
                    found[sentence] = None
        if len(found) >= MAX_SENTENCES:
            break
    return tuple(found)


def _source_files() -> Iterable[Path]:
    """Python files of the standard library and of SOURCES, a fixed shuffle of them."""
    library = Path(sysconfig.get_path("stdlib"))
    folders = [library]
    for name in SOURCES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            folders.append(Path(spec.submodule_search_locations[0]))
    files = {
        path
        for folder in folders
        for path in folder.rglob("*.py")
        if folder != library or "site-packages" not in path.parts
    }
    ordered = sorted(files)
    random.Random(0).shuffle(ordered)
    return ordered


@functools.cache
def _words(*, held_out: bool) -> tuple[str, ...]:
    """The words of the prose, each as often as it is used."""
    return tuple(
        word.strip(".,;:!?\"'()")
        for sentence in sentences(held_out=held_out)
        for word in sentence.split()
    )


@functools.cache
def _letter_statistics() -> dict[str, str]:
    """For each pair of letters, what follows it in the training words, as often as it does."""
    follows: dict[str, list[str]] = {}
    for word in _words(held_out=False)[:40_000]:
        padded = f"  {word.lower()} "
        for place in range(2, len(padded)):
            follows.setdefault(padded[place - 2 : place], []).append(padded[place])
    return {pair: "".join(letters) for pair, letters in follows.items()}


class Writer:
    """Writes text of any length, from one random generator."""

    def __init__(self, rng: random.Random, *, held_out: bool = False) -> None:
        self.rng = rng
        self.held_out = held_out

    def kind(self) -> str:
        """One of KINDS, by its share."""
        return self.rng.choices(list(KINDS), list(KINDS.values()))[0]

    def text(self, kind: str, length: int) -> str:
        """About `length` characters of one kind, in words; at least one word."""
        pieces: list[str] = []
        size = 0
        while size < length or not pieces:
            piece = self._piece(kind)
            pieces.append(piece)
            size += len(piece) + 1
        words = " ".join(pieces).split()
        while len(words) > 1 and sum(map(len, words)) + len(words) - 1 > length:
            words.pop()
        return " ".join(words)

    def _piece(self, kind: str) -> str:
        if kind == "prose":
            return self.rng.choice(sentences(held_out=self.held_out))
        if kind == "words":
            return self._number() if self.rng.random() < 0.2 else self._word()
        if kind == "invented":
            return self._invented_word()
        if kind == "strings":
            return self._string()
        return self._code()

    def _word(self) -> str:
        word = self.rng.choice(_words(held_out=self.held_out)) or "a"
        return self.rng.choice((word, word, word.lower(), word.capitalize(), word.upper()))

    def _invented_word(self) -> str:
        rng, statistics = self.rng, _letter_statistics()
        word, pair = "", "  "
        while len(word) < 14:
            letter = rng.choice(statistics.get(pair, " "))
            if letter == " ":
                break
            if rng.random() < 0.03:
                letter = rng.choice(_ACCENTED)
            word += letter
            pair = pair[1] + letter
        word = rng.choice((word, word, word, word.capitalize(), word.upper())) or "o"
        return word + (rng.choice(",.;:!?") if rng.random() < 0.08 else "")

    def _number(self) -> str:
        rng = self.rng
        forms = (
            f"{rng.randrange(10 ** rng.randint(1, 5))}",
            f"{rng.uniform(0, 1000):.{rng.randint(1, 3)}f}",
            f"{rng.randint(1, 28):02}.{rng.randint(1, 12):02}.{rng.randint(1900, 2050)}",
            f"{rng.randrange(1, 100)} %",
            f"{rng.randrange(1, 10**6):,}",
            f"({rng.randrange(1, 100)})",
            f"€{rng.randrange(1, 1000)}",
        )
        return rng.choice(forms)

    def _string(self) -> str:
        rng = self.rng
        letters = "abcdefghijklmnopqrstuvwxyz"
        pool = rng.choice((letters, letters + letters.upper() + "0123456789", "0123456789"))
        size = rng.randint(1, 9)
        characters = [rng.choice(pool) for _ in range(size)]
        if rng.random() < 0.35:
            characters[rng.randrange(size)] = rng.choice(_SYMBOLS)
        return "".join(characters)

    def _code(self) -> str:
        rng = self.rng
        names = [rng.choice(_words(held_out=self.held_out)).lower() or "x" for _ in range(3)]
        forms = (
            f"{names[0]} = {names[1]}({rng.randrange(100)})",
            f"{names[0]}_{names[1]}[{rng.randrange(10)}]",
            f"if {names[0]} != {names[1]}:",
            f'print("{names[0]}: {{}}")',
            f"return {names[0]} + {names[1]} * {rng.randrange(10)}",
            f"--{names[0]}={names[2]}",
        )
        return rng.choice(forms)
