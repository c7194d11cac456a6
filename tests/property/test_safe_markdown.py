"""Whatever the model writes: rendered by CommonMark's rules, it shows and does nothing.

markdown-it-py is the judge, with raw HTML passed through as most viewers' Markdown does.
"""

import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from docr.modes.parse import parse
from docr.modes.safe import safe_markdown
from docr.output.markdown import joined

RENDERER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
ONLY_TEXT = MarkdownIt("commonmark").disable(
    ["html_block", "html_inline", "autolink", "link", "image", "reference"]
)
"""The same without all that may act: what is to be seen of a text."""

TABLE_TAG = re.compile(
    r"</?(table|thead|tbody|tr|td|th)([ \t]+(col|row)span=[\"']?[0-9]+[\"']?)*[ \t]*/?>", re.I
)
OWN_FIGURE = re.compile(r"figures/page-\d{4}-\d+\.png")
TABLE_TAGS = {"table", "thead", "tbody", "tr", "td", "th"}
MARKDOWN_TAGS = {
    *("p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code"),
    *("em", "strong", "s", "hr", "br", "img"),
}


class Page(HTMLParser):
    """What a browser makes of it: elements with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.odd: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.odd.append(data)

    handle_decl = handle_pi = unknown_decl = handle_comment

    @property
    def letters(self) -> str:
        return "".join(self.text.split())


def tokens(markdown: str) -> Iterator[Token]:
    for token in RENDERER.parse(markdown):
        yield token
        yield from token.children or ()


def check(markdown: str) -> None:
    """Nothing in it acts."""
    for token in tokens(markdown):
        assert token.type not in ("link_open", "definition"), markdown
        if token.type == "html_inline":
            assert TABLE_TAG.fullmatch(token.content), markdown
        elif token.type == "html_block":
            assert not re.search(r"<[a-z/!?]", TABLE_TAG.sub("", token.content), re.I), markdown
        elif token.type == "image":
            assert OWN_FIGURE.fullmatch(str(token.attrs["src"])), markdown
    page = Page(RENDERER.render(markdown))
    assert not page.odd, markdown
    for tag, attributes in page.elements:
        assert tag in MARKDOWN_TAGS | TABLE_TAGS, markdown
        allowed = {"img": {"src", "alt"}, "code": {"class"}, "ol": {"start"}}.get(tag, set())
        if tag in TABLE_TAGS:
            allowed = {"colspan", "rowspan", "style"}  # style: GFM tables, right-aligned columns
        assert set(attributes) <= allowed, markdown


html = st.sampled_from(
    [
        *("<script>", "</script>", "<b>", "<a href=x>", "<img src=x onerror=y ", "<div", "<!--"),
        *(
            "-->",
            "<!X",
            "<?",
            "<![CDATA[",
            "]]>",
            "<pre>",
            "<style",
            "<textarea>",
            "<svg/onload=x>",
        ),
        *("<table>", "</table>", "<tr>", "<td colspan=2>", '<td onclick="x">', "<td", "</td>"),
        *(
            "<th rowspan='3'>",
            "<http://a>",
            "<a@b.c>",
            "<1@b>",
            "&lt;",
            "&#60;",
            "<",
            ">",
            '"',
            "'",
        ),
    ]
)
links = st.sampled_from(
    [
        *("[", "]", "(", ")", "](", "]:", "![", "[x](y)", "[x]: y", "[x][y]", "[]()", "\\", "\\["),
        *("\\]", "\\(", "\\)", "(<y>)", " 'title'", "https://a.b", "javascript:x", "[^1]: z"),
    ]
)
blocks = st.sampled_from(
    [
        *(
            "```",
            "~~~",
            "````",
            "`",
            "``",
            "```html",
            "``` x",
            "\n",
            "\n",
            "\n\n",
            "\n    ",
            "\n  ",
        ),
        *(
            "\n- ",
            "\n1. ",
            "\n> ",
            "\n\t",
            " ",
            "  ",
            "# ",
            "---",
            "===",
            "|",
            "\n|-|-|\n",
            "$",
            "$$",
        ),
        *(":", "*", "_", "x", "Q", "5", "-", "=", "/", "!"),
    ]
)
hostile = st.lists(st.one_of(html, links, blocks), max_size=30).map("".join)
plain = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], include_characters="\n\t")
)


@settings(max_examples=300, deadline=None)
@given(hostile)
def test_nothing_acts(text: str) -> None:
    safe = safe_markdown(text)
    check(safe)
    assert safe_markdown(safe) == safe


@settings(max_examples=60, deadline=None)
@given(st.lists(hostile, min_size=2, max_size=4))
def test_nothing_acts_across_blocks_and_pages(texts: list[str]) -> None:
    """What one block leaves open, the next one must not complete."""
    tag = "<|ref|>{}<|/ref|><|det|>[[1, 2, 300, 400]]<|/det|>\n{}"
    labels = ("text", "title", "image", "table_caption")
    pages = [
        parse(
            "".join(tag.format(label, text) for label, text in zip(labels, order, strict=False)),
            ref_number=1,
            image_size=(999, 999),
            px_to_pt=None,
            header_footer=True,
        ).markdown
        for order in (texts, texts[::-1])
    ]
    check("\n\n".join(pages))
    document = "".join(joined((n, "ok", page) for n, page in enumerate(pages, start=1)))
    for comment in ("<!-- page 1 -->\n", "<!-- page 2 -->\n"):
        document = document.replace(comment, "")
    check(document)


@settings(max_examples=150, deadline=None)
@given(st.one_of(plain, st.lists(st.one_of(links, plain), max_size=15).map("".join)))
def test_what_only_shows_shows_the_same(text: str) -> None:
    """Letter by letter what it would show if nothing could act; only spaces may be more."""
    text = re.sub(r"[`~$]|^[ \t]{4,}", "", text, flags=re.MULTILINE)  # where a < looks otherwise
    text = text.replace("\r", "")
    assume(not re.search(r"(?i)</?t", text))  # tables may act
    shown = Page(RENDERER.render(safe_markdown(text)))
    assert shown.letters == Page(ONLY_TEXT.render(text)).letters


@pytest.mark.parametrize("unit", ["<", "<a", "[", "](", "[x]:", "\n```\n", "\\"])
def test_a_megabyte_takes_no_time(unit: str) -> None:
    """Linear time, by a bound that quadratic work would miss by far: half an hour and more."""
    text = "z " + unit * ((1 << 20) // len(unit)) + " >"
    start = time.process_time()
    safe_markdown(text)
    assert time.process_time() - start < 20
