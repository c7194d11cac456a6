"""The parser is total, loses nothing and takes linear time, whatever the model writes."""

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docr.modes.parse import parse
from docr.types import ParsedPage

SIZE = (1240, 1754)
TO_POINTS = (0.5, 0.0, 0.0, -0.5, 0.0, 877.0)

MARKS = ("<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>")
SPECIALS = (*MARKS, "<|grounding|>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<|User|>")

words = st.text(st.sampled_from("QXZJ"), min_size=1, max_size=4)
"""Letters that no tag, table, label or token contains."""

numbers = st.one_of(
    st.integers(-2000, 2000).map(str),
    st.floats(allow_nan=True).map(str),
    st.sampled_from(["9" * 400, "-", "1.", ".5", "0x1", "１", "999", "0"]),
)
boxes = st.lists(st.lists(numbers, min_size=3, max_size=5).map(lambda n: f"[{', '.join(n)}]"))
labels = st.sampled_from(["title", "text", "image", "table_caption", "header", "other", "a b", ""])
good_tags = st.builds(
    lambda label, box: f"<|ref|>{label}<|/ref|><|det|>[{box}]<|/det|>",
    labels,
    st.lists(st.integers(0, 999), min_size=4, max_size=4),
)
any_tags = st.builds(
    lambda label, box: f"<|ref|>{label}<|/ref|><|det|>[{','.join(box)}]<|/det|>", labels, boxes
)
debris = st.sampled_from(
    [
        *SPECIALS,
        *("<|re", "f|>", "|>", "<|", "<｜", "｜>", "[[", "]]", "[", "]", ",", "1", "\x00", "\x1b"),
        *("\n", "\n\n\n\n", "  ", "\r", "# ", "\\(", "\\)", "\\[", "\\]", "```"),
        *("<table>", "</table>", "<td>", "</td>", "<center>", "__import__('os')"),
    ]
)
hostile_texts = st.lists(st.one_of(words, good_tags, any_tags, debris), max_size=25).map("".join)


def parsed(text: str) -> ParsedPage:
    return parse(text, ref_number=1, image_size=SIZE, px_to_pt=TO_POINTS, header_footer=True)


def letters(text: str) -> str:
    """What no spelling changes: `&lt;` may stand for `<`."""
    return "".join(c for c in text.replace("&lt;", "<") if c.isalnum())


def check_invariants(page: ParsedPage) -> None:
    markdown = page.markdown
    assert not any(token in markdown for token in SPECIALS)
    assert markdown == "" or (markdown.endswith("\n") and not markdown.endswith("\n\n"))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", markdown)
    for block in page.blocks:
        assert letters(block.text) in letters(markdown)
        assert not any(token in block.label + block.text for token in SPECIALS)
        for box in block.boxes:
            for (x0, y0, x1, y1), width, height in ((box.norm, 999, 999), (box.px, *SIZE)):
                assert 0 <= x0 <= x1 <= width
                assert 0 <= y0 <= y1 <= height
            assert box.pt is not None
            assert box.pt[0] <= box.pt[2]
            assert box.pt[1] <= box.pt[3]
    assert [name for name, _ in page.figures] == [
        f"figures/page-0001-{k}.png" for k in range(1, len(page.figures) + 1)
    ]
    for name, (x0, y0, x1, y1) in page.figures:
        assert x0 < x1
        assert y0 < y1
        assert f"({name})" in markdown


@settings(deadline=None)
@given(st.text())
def test_any_text_keeps_its_letters(text: str) -> None:
    page = parsed(text)
    check_invariants(page)
    assert letters(page.markdown) == letters(text)


@settings(max_examples=150, deadline=None)
@given(hostile_texts)
def test_mixtures_of_tags_and_debris_never_fail_and_lose_no_word(text: str) -> None:
    page = parsed(text)
    check_invariants(page)
    everything = "".join(block.label + block.text for block in page.blocks)
    for letter in "QXZJ":
        assert everything.count(letter) >= text.count(letter)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(words, good_tags, debris.filter(lambda t: t != "<|/det|>"))))
def test_words_outside_whole_tags_reach_the_markdown_in_their_order(parts: list[str]) -> None:
    """Without a stray end mark no word can get into a tag."""
    written = [c for c in "".join(parts) if c in "QXZJ"]
    assert [c for c in parsed("".join(parts)).markdown if c in "QXZJ"] == written


@settings(deadline=None)
@given(st.lists(st.tuples(labels.filter(bool), words), max_size=8))
def test_what_is_written_as_blocks_is_read_as_blocks(written: list[tuple[str, str]]) -> None:
    text = "\n\n".join(
        f"<|ref|>{label}<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\n{content}"
        for label, content in written
    )
    page = parsed(text)
    assert [block.label for block in page.blocks] == [label for label, _ in written]
    for block, (_, content) in zip(page.blocks, written, strict=True):
        assert block.text.endswith(content)


def repeated(unit: str, before: str = "", after: str = "") -> Callable[[int], str]:
    return lambda size: before + unit * (size // len(unit)) + after


DET = "<|ref|>a<|/ref|><|det|>"


@pytest.mark.parametrize(
    "make",
    [
        *(repeated(unit) for unit in ("<|ref|>", "<|ref|>a<|/ref|> ", "<", "<｜tool▁calls▁", "[")),
        *(repeated(unit) for unit in (" ", "\n", " \n", "\x00", "\\(", "\\(\\[```", "<table>")),
        repeated(" ", "a", "b"),
        repeated("<|re", "", "<|det|>" + "f|>" * 1000),
        repeated("<table></table>"),
        repeated(f"{DET}[[1, 2"),
        repeated(f"{DET}[[1, 2, 3, 4]]<|/det|>" + "b" * 100),
        repeated("[", DET, "<|/det|>"),
        repeated(" ", f"{DET}[[1,", "]]<|/det|>"),
        repeated("9", f"{DET}[[1, 2, 3, ", "]]<|/det|>"),
        repeated("[1, 2, 3, 4], ", f"{DET}[", "[5]]<|/det|>"),
        repeated("a ", "<|ref|>", "<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>"),
    ],
)
def test_time_grows_with_the_length(make: Callable[[int], str]) -> None:
    """Sixteen times the text, at most 80 times the time: quadratic work would take 256 times.

    Five times what linear work needs: this must not fail because the machine is busy.
    """
    small, large = make(1 << 16), make(1 << 20)

    def seconds(text: str) -> float:
        start = time.process_time()
        parsed(text)
        return time.process_time() - start

    floor = 0.005  # seconds; below it the clock is all that is measured
    allowed = 80 * max(*(seconds(small) for _ in range(3)), floor)
    assert any(seconds(large) < allowed for _ in range(3))
