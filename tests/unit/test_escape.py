import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docr.escape import escaped


def test_what_moves_the_cursor_or_reorders_or_cannot_be_encoded_is_spelled_out() -> None:
    assert escaped("a\nb\x1b[2J\u202etxt\udcff é漢") == r"a\x0ab\x1b[2J\u202etxt\xff é漢"


@pytest.mark.parametrize("text", ["", "a b.pdf", "Größe (1) – final", "日本", "مرحبا", "a\u200db"])
def test_all_else_stays(text: str) -> None:
    assert escaped(text) == text


@given(st.text(st.characters()))
def test_a_line_stays_a_line(text: str) -> None:
    line = escaped(text)
    line.encode()
    assert len(line.splitlines()) <= 1
    kinds = {unicodedata.bidirectional(c) for c in line}
    assert not kinds & {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI", "B"}
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in line)
    assert escaped(line) == line
