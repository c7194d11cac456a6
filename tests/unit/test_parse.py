"""From the model's text to blocks, Markdown and figures."""

import json
from pathlib import Path

import pytest

from docr.modes.parse import parse
from docr.modes.safe import safe_markdown
from docr.types import Affine, ParsedPage

VECTORS = Path(__file__).parents[2] / "../shared/vectors/misc_cases.json"


def tag(label: str, *boxes: tuple[float, ...]) -> str:
    coordinates = ", ".join(str(list(box)) for box in boxes)
    return f"<|ref|>{label}<|/ref|><|det|>[{coordinates}]<|/det|>"


BOX = (100, 200, 300, 400)


def parsed(
    text: str,
    *,
    number: int = 1,
    size: tuple[int, int] = (999, 999),
    px_to_pt: Affine | None = None,
    header_footer: bool = True,
) -> ParsedPage:
    return parse(
        text, ref_number=number, image_size=size, px_to_pt=px_to_pt, header_footer=header_footer
    )


def test_a_page_in_the_models_own_style() -> None:
    text = "\n\n".join(
        [
            f"{tag('title', (115, 166, 485, 202))}\n# Sheet 4 ",
            f"{tag('text', (575, 179, 880, 196))}\nSome text with \\(a \\coloneqq b\\) .  ",
            f"{tag('image', (45, 245, 953, 850))}",
            f"{tag('image_caption', (34, 888, 965, 972))}\n<center>Figure 1: caption. </center>  ",
            f"{tag('table', (67, 103, 452, 581))}",
            f"{tag('table_caption', (68, 87, 435, 101))}\nTable 1.   \n\n"
            "<table><tr><td>A</td></tr></table>",
        ]
    )
    page = parsed(text, number=7, size=(1000, 800))
    assert page.markdown == (
        "# Sheet 4\n\n"
        "Some text with \\(a \\coloneqq b\\) .\n\n"
        "![image](figures/page-0007-1.png)\n\n"
        "Figure 1: caption.\n\n"
        "Table 1.\n\n<table><tr><td>A</td></tr></table>\n"
    )
    assert [block.label for block in page.blocks] == [
        *("title", "text", "image", "image_caption", "table", "table_caption")
    ]
    assert page.blocks[1].text == "Some text with \\(a \\coloneqq b\\) ."
    assert page.blocks[1].boxes[0].norm == (575, 179, 880, 196)
    assert page.blocks[1].boxes[0].px == (575, 143, 880, 156)
    assert page.blocks[2].figure == "figures/page-0007-1.png"
    assert page.figures == (("figures/page-0007-1.png", (45, 196, 953, 680)),)


@pytest.mark.skipif(not VECTORS.exists(), reason="no official vectors beside the checkout")
def test_blocks_and_boxes_are_the_official_ones() -> None:
    cases = json.loads(VECTORS.read_text())["postproc"]
    assert cases
    for case in cases:
        blocks = [b for b in parsed(case["raw"], size=(1000, 800)).blocks if b.boxes]
        official = case["image_script"]["matches"]
        assert [block.label for block in blocks] == [label for _, label, _ in official]
        boxes = [[list(box.px) for box in block.boxes] for block in blocks]
        assert boxes == case["boxes_1000x800"]


# Plain text


@pytest.mark.parametrize("text", ["", " \n\t\n ", "<｜end▁of▁sentence｜>", "\x00\x1b"])
def test_an_empty_page(text: str) -> None:
    assert parsed(text) == ParsedPage("", (), ())


def test_text_without_tags_is_one_block() -> None:
    page = parsed("Free text.\n\nSecond paragraph.")
    assert page.markdown == "Free text.\n\nSecond paragraph.\n"
    assert [(b.label, b.boxes, b.text) for b in page.blocks] == [
        ("text", (), "Free text.\n\nSecond paragraph.")
    ]


def test_text_before_the_first_tag_is_a_block() -> None:
    page = parsed(f"Before\n{tag('text', BOX)}\nAfter")
    assert [block.text for block in page.blocks] == ["Before", "After"]
    assert page.markdown == "Before\n\nAfter\n"


# Markdown


@pytest.mark.parametrize(
    ("label", "content", "markdown"),
    [
        ("title", "Report", "# Report\n"),
        ("title", "## Report", "## Report\n"),
        ("sub_title", "1. Aims", "## 1. Aims\n"),
        ("sub_title", "### 1. Aims", "### 1. Aims\n"),
        ("text", "Report", "Report\n"),
        ("title", "", ""),
    ],
)
def test_headings(label: str, content: str, markdown: str) -> None:
    page = parsed(f"{tag(label, BOX)}\n{content}")
    assert page.markdown == markdown
    assert page.blocks[0].text == content


def test_captions_lose_their_center_and_nothing_else_does() -> None:
    assert parsed(f"{tag('table_caption', BOX)}\n<center>T 1</center>").markdown == "T 1\n"
    assert parsed(f"{tag('text', BOX)}\n<center>x</center>").blocks[0].text == "<center>x</center>"
    cell = "<table><tr><td><center>x</center></td></tr></table>"
    page = parsed(f"{tag('table_caption', BOX)}\nT 1\n\n{cell}")
    assert page.blocks[0].text == f"T 1\n\n{cell}"
    assert page.markdown == (
        "T 1\n\n<table><tr><td>&lt;center>x&lt;/center></td></tr></table>\n"  # it only shows
    )


@pytest.mark.parametrize("label", ["header", "footer", "page_number", "page_footnote"])
def test_furniture_can_be_left_out_of_the_markdown(label: str) -> None:
    text = f"{tag(label, BOX)}\n17\n\n{tag('text', BOX)}\nBody"
    without = parsed(text, header_footer=False)
    assert without.markdown == "Body\n"
    assert [block.text for block in without.blocks] == ["17", "Body"]
    assert parsed(text).markdown == "17\n\nBody\n"


def test_unknown_labels_are_kept() -> None:
    page = parsed(f"{tag('margin_note', BOX)}\nNota bene")
    assert (page.blocks[0].label, page.blocks[0].text) == ("margin_note", "Nota bene")
    assert page.markdown == "Nota bene\n"


def test_a_label_that_is_text_is_read_as_text() -> None:
    """Locate and "OCR this image" answer with the text itself between the ref tags."""
    page = parsed(f"{tag('the teacher', BOX, (0, 0, 9, 9))}\n{tag('Exit', BOX)}\n{tag('dog', BOX)}")
    assert [block.label for block in page.blocks] == ["the teacher", "Exit", "dog"]
    assert [block.text for block in page.blocks] == ["the teacher", "Exit", "dog"]
    assert len(page.blocks[0].boxes) == 2
    assert page.markdown == "the teacher\n\nExit\n\ndog\n"
    assert parsed(f"{tag('The Teacher', BOX)} waves").markdown == "The Teacher\nwaves\n"


def test_blank_lines_and_trailing_spaces_are_tidied() -> None:
    assert parsed("a  \n \n\n\t\n\nb \t\nc\n\nd\n\n\n").markdown == "a\n\nb\nc\n\nd\n"
    assert parsed("a\r\nb\rc").markdown == "a\nb\nc\n"
    assert parsed("  - a\n    - b").markdown == "- a\n    - b\n"


@pytest.mark.parametrize(
    "verbatim",
    [
        "<table><tr><td rowspan=2>a  \n\n\n\nb</td><td></td></tr></table>",
        "\\[ a  \n\n\n\n \\quad (1) \\]",
        "\\(a \n\n\n b\\)",
        "```\nx  \n\n\n\ny\n```",
    ],
)
def test_tables_maths_and_code_stay_as_they_are(verbatim: str) -> None:
    assert parsed(f"a  \n\n\n\n{verbatim}  \n\n\n\nb").markdown == f"a\n\n{verbatim}\n\nb\n"
    page = parsed(f"a {verbatim} b")
    assert page.blocks[0].text == f"a {verbatim} b"
    assert page.markdown == safe_markdown(f"a {verbatim} b") + "\n"


def test_a_table_cut_off_by_the_token_limit_stays_as_it_is() -> None:
    table = "<table><tr><td>a  \n\n\n\nb</td><td>c"
    assert parsed(f"{tag('table', BOX)}\n{table}").markdown == f"{table}\n"


def test_maths_without_an_end_is_text() -> None:
    assert parsed("\\( a  \n\n\n\nb \\[ c").markdown == "\\( a\n\nb \\[ c\n"


def test_table_tokens_survive() -> None:
    assert parsed("<td>a</td><tr>b</tr>").markdown == "<td>a</td><tr>b</tr>\n"


def test_markup_stays_and_what_would_act_only_shows() -> None:
    text = "a *b* _c_ $i$ & j\\_k"
    assert parsed(text).markdown == f"{text}\n"
    page = parsed(f"{tag('title', BOX)}\n[d](e) <b>f</b> ![g](../h.png)")
    assert page.blocks[0].text == "[d](e) <b>f</b> ![g](../h.png)"
    assert page.markdown == "# [d] (e) &lt;b>f&lt;/b> ![g] (../h.png)\n"


def test_what_a_block_leaves_open_stays_in_it() -> None:
    page = parsed(f"{tag('text', BOX)}\n```\n<b>\n{tag('text', BOX)}\n```\n<b>\n```")
    assert page.markdown == "```\n<b>\n```\n\n```\n<b>\n```\n"


# Special tokens


@pytest.mark.parametrize(
    "token",
    [
        *("<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<|grounding|>", "<|User|>", "<|EOT|>"),
        *("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", "<｜▁pad▁｜>", "<｜User｜>"),
        *("<｜place▁holder▁no▁799｜>", "<｜tool▁calls▁begin｜>", "<｜fim▁hole｜>"),
    ],
)
def test_special_tokens_go(token: str) -> None:
    assert parsed(f"a{token}b").markdown == "a b\n"
    assert parsed(f"a{token}").markdown == "a\n"
    assert parsed(f"{tag('text' + token, BOX)}a").blocks[0].label == "text"


@pytest.mark.parametrize("text", ["xs |> f <| y", "<|x|>", "<｜x｜>", "a < b | c > d"])
def test_what_only_looks_like_a_token_is_text(text: str) -> None:
    assert parsed(text).markdown == f"{text}\n"
    assert parsed("<ref>").blocks[0].text == "<ref>"


def test_removal_forms_no_new_tokens() -> None:
    nested = "<|re" * 3 + "<|det|>" + "f|>" * 3
    assert parsed(nested).markdown == "<|re<|re<|re f|>f|>f|>\n"
    assert parsed("<|re\x00f|>a").markdown == "a\n"


def test_control_characters_go() -> None:
    assert parsed("a\x1b[31mb\x00\x07\x9b\tc\ud800").markdown == "a[31mb\tc\n"


# Boxes and figures


def test_boxes_are_cut_to_whole_pixels_of_the_page_image() -> None:
    page = parsed(tag("text", (0, 1, 998, 999)), size=(1654, 2339))
    assert page.blocks[0].boxes[0].px == (0, 2, 1652, 2339)
    assert page.blocks[0].boxes[0].pt is None


@pytest.mark.parametrize(
    ("px_to_pt", "points"),
    [
        ((0.5, 0, 0, -0.5, 0, 500), (50, 300, 150, 400)),  # y up
        ((0.5, 0, 0, -0.5, 20, 510), (70, 310, 170, 410)),  # crop box at (20, 10)
        ((0, -0.5, -0.5, 0, 500, 500), (300, 350, 400, 450)),  # rotated by a right angle
        ((1 / 3, 0, 0, 1 / 3, 0, 0), (33.333, 66.667, 100, 133.333)),
    ],
)
def test_points_are_in_the_documents_own_space(px_to_pt: Affine, points: tuple[float, ...]) -> None:
    page = parsed(tag("text", BOX), px_to_pt=px_to_pt)
    assert page.blocks[0].boxes[0].pt == points


@pytest.mark.parametrize(
    ("det", "norm"),
    [
        ("[[1, 2, 3, 4]]", (1, 2, 3, 4)),
        ("[[1,\n2,3,4]]", (1, 2, 3, 4)),
        (" [ [ 1 , 2 , 3 , 4 ] , ] ", (1, 2, 3, 4)),
        ("[1, 2, 3, 4]", (1, 2, 3, 4)),
        ("[[3, 4, 1, 2]]", (1, 2, 3, 4)),
        ("[[1.9, 2., 3.5, 4.0]]", (1, 2, 3, 4)),
        ("[[-5, +2, 3, 4000]]", (0, 2, 3, 999)),
        ("[[1, 2, 3, " + "9" * 10_000 + "]]", (1, 2, 3, 999)),
    ],
)
def test_coordinates_in_other_spellings(det: str, norm: tuple[int, ...]) -> None:
    page = parsed(f"<|ref|>text<|/ref|><|det|>{det}<|/det|>a")
    assert [box.norm for box in page.blocks[0].boxes] == [norm]
    assert page.markdown == "a\n"


def test_a_tag_may_have_no_boxes() -> None:
    page = parsed("<|ref|>title<|/ref|><|det|>[]<|/det|>a")
    assert page.blocks[0].boxes == ()
    assert page.markdown == "# a\n"


@pytest.mark.parametrize(
    "det",
    [
        *("", "[[]]", "[[1, 2, 3]]", "[[1, 2, 3, 4, 5]]", "[[1, 2, 3, 4]", "1, 2, 3, 4"),
        *("[[1, 2, 3, 4] [5, 6, 7, 8]]", "[[1, 2, 3, 4], [5]]", "[[1e3, 2, 3, 4]]", "[,]"),
        *("[[nan, inf, 0x1, 4]]", "[[１, 2, 3, 4]]", "__import__('os').abort()", "[" * 99),
    ],
)
def test_what_is_not_boxes_stays_as_text(det: str) -> None:
    page = parsed(f"a <|ref|>text<|/ref|><|det|>{det}<|/det|> b")
    assert "".join(page.markdown.split()) == "".join(f"atext{det}b".split())
    assert [block.boxes for block in page.blocks] == [()]


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("cut <|ref|>text<|/ref|><|det|>[[1, 2, 3", "cut  text  [[1, 2, 3\n"),
        ("cut <|ref|>te", "cut  te\n"),
        ("<|/det|>a<|det|>b<|/ref|>c<|ref|>d", "a b c d\n"),
        ("<|ref|>a<|/ref|>b<|det|>[[1, 2, 3, 4]]<|/det|>", "a b [[1, 2, 3, 4]]\n"),
        ("<|ref|>x<|ref|>text<|/ref|>\n<|det|>[[1, 2, 3, 4]]<|/det|>a", "x\n\na\n"),
    ],
)
def test_broken_tags_stay_as_text(text: str, markdown: str) -> None:
    assert parsed(text).markdown == markdown


def test_figures_are_numbered_over_the_page_and_listed() -> None:
    text = "\n".join(
        [
            tag("image", (0, 0, 500, 500), (7, 7, 7, 9), (500, 0, 999, 500)),
            tag("image", (1, 1, 1, 1)),
            f"{tag('image', (0, 0, 500, 500))}\nstray text",
        ]
    )
    page = parsed(text, number=12345)
    names = [f"figures/page-12345-{k}.png" for k in (1, 2, 3)]
    assert [name for name, _ in page.figures] == names
    assert [box for _, box in page.figures] == [
        *((0, 0, 500, 500), (500, 0, 999, 500), (0, 0, 500, 500))
    ]
    assert [block.figure for block in page.blocks] == [names[0], None, names[2]]
    assert [len(block.boxes) for block in page.blocks] == [3, 1, 1]
    assert page.markdown == "\n\n".join([*(f"![image]({n})" for n in names), "stray text"]) + "\n"


def test_a_figure_without_pixels_is_not_cropped() -> None:
    page = parsed(tag("image", (1, 1, 2, 2)), size=(100, 100))
    assert page.blocks[0].boxes[0].px == (0, 0, 0, 0)
    assert page.figures == ()
    assert page.markdown == ""
