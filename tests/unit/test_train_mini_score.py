"""The mini's evaluation: what the figures mean, and that nothing unread passes for read."""

import json
import random
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from docr.modes.mode import MODES
from docr.pdf.render import PdfDocument, is_blank
from docr.pdf.settings import RenderSettings
from docr.types import PageRef
from scripts.train_mini import evaluate, tables
from scripts.train_mini.chart import BOTTOM, TOP, Curve, precision_chart
from scripts.train_mini.compression import MeasuredPage, buckets, count_tokens, curves, train_bpe
from scripts.train_mini.realpages import example_pages, score_real
from scripts.train_mini.score import (
    Distance,
    PageScore,
    Reading,
    bag_f1,
    character_distance,
    found,
    score_pages,
    summarise,
    without_marks,
    word_distance,
)
from scripts.train_mini.testset import LARGE_PAGES, ContentWriter, all_groups, write_blank_pages

WORDS = ["harbour", "stone", "ladder", "winter", "copper", "meadow", "candle", "bridge"]
EXAMPLES = Path(__file__).parents[2] / "examples"


def texts(count: int, *, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [
        f"# Page {n}\n\n" + " ".join(rng.choice(WORDS) + str(rng.randrange(99)) for _ in range(20))
        for n in range(count)
    ]


def read(text: str, state: str = "ok") -> Reading:
    return Reading(text, state, len(text), 64)


def scored(truths: list[str], outputs: list[str], blank: str = "") -> list[PageScore]:
    return score_pages(truths, [read(text) for text in outputs], [blank] * len(truths))


class TestDistances:
    @given(st.text(min_size=1).filter(str.strip))
    def test_a_text_is_no_edit_from_itself(self, text: str) -> None:
        assert character_distance(text, text).edits == 0
        assert word_distance(text, text).edits == 0

    def test_only_the_amount_of_white_space_is_free(self) -> None:
        assert character_distance("a b\n\nc", " a  b c\n").edits == 0
        assert character_distance("a b", "ab") == Distance(1, 3)

    def test_marks_count_unless_they_are_taken_off(self) -> None:
        truth, output = "Fees\n- one\n- two", "# Fees\n• one\ntwo"
        assert character_distance(truth, output).edits > 0
        assert without_marks(truth) == without_marks(output) == "Fees\none\ntwo"

    def test_leaders_of_any_length_are_alike(self) -> None:
        assert without_marks("Index ........ 9") == without_marks("Index . . . . . . . . . . 9")

    def test_words_are_counted_whole(self) -> None:
        assert word_distance("one two three", "one tWo three four") == Distance(2, 3)


class TestGroups:
    def test_perfect_output(self) -> None:
        truths = texts(5)
        summary = summarise(scored(truths, truths))
        assert summary.cer == summary.cer_low == summary.cer_high == summary.wer == 0
        assert summary.precision == 1
        assert summary.is_reading

    def test_outputs_of_other_pages_are_not_reading(self) -> None:
        truths = texts(6)
        shuffled = truths[3:] + truths[:3]
        summary = summarise(scored(truths, shuffled))
        assert not summary.is_reading
        assert abs(summary.reading) < 0.2

    def test_the_same_text_for_every_page_is_not_reading(self) -> None:
        truths = [f"{text} {n}" for n, text in enumerate(texts(1) * 4)]
        summary = summarise(scored(truths, [truths[0]] * 4, blank=truths[0]))
        assert summary.cer < 0.05  # looks like reading
        assert not summary.is_reading

    def test_a_blank_page_that_gives_the_text_away_is_found(self) -> None:
        truths = texts(4)
        scores = score_pages(truths, [read(text) for text in truths], truths)
        assert summarise(scores).wrong > 0.4
        assert not summarise(scores).is_reading

    def test_babble_is_not_clipped_but_for_precision(self) -> None:
        summary = summarise(scored(["short", "brief"], ["x" * 50, "y" * 50]))
        assert summary.cer == summary.cer_mean == 10
        assert summary.precision == 0

    def test_long_pages_weigh_more_but_not_in_the_mean(self) -> None:
        summary = summarise(scored(["ab", "c" * 98], ["xy", "c" * 98]))
        assert summary.cer == pytest.approx(0.02)
        assert summary.cer_mean == pytest.approx(0.5)

    def test_the_interval_holds_the_rate(self) -> None:
        truths = texts(12)
        outputs = [text[: 10 * n] for n, text in enumerate(truths)]
        summary = summarise(scored(truths, outputs))
        assert summary.cer_low < summary.cer < summary.cer_high

    def test_states_are_counted(self) -> None:
        states = ["ok", "repetition", "truncated", "failed:page-error"]
        readings = [read("text", state) for state in states]
        summary = summarise(score_pages(["text"] * 4, readings, [""] * 4))
        assert summary.repetition == 0.5
        assert summary.failed == 1

    def test_one_page_alone_has_no_control(self) -> None:
        with pytest.raises(ValueError, match="two pages"):
            scored(["text"], ["text"])


class TestBags:
    @given(st.lists(st.sampled_from(WORDS), min_size=1))
    def test_order_does_not_matter(self, words: list[str]) -> None:
        assert bag_f1(words, words[::-1]) == 1

    def test_repeating_a_word_does_not_help(self) -> None:
        assert bag_f1(["a", "b"], ["a", "a", "a", "a"]) == pytest.approx(1 / 3)

    def test_large_type_is_found_wherever_it_stands(self) -> None:
        assert found(["Ferry  Timetable"], "some text\n# Ferry\nTimetable\nmore").edits == 0
        assert found(["Ferry", "Boats"], "") == Distance(10, 10)
        assert found(["Ferry"], "Fer") == Distance(2, 5)


class TestRealPages:
    def test_the_text_layer_itself_is_perfect(self) -> None:
        pages = example_pages(EXAMPLES)
        readings = [read(page.truth) for page in pages]
        total, bags, rows = score_real(pages, readings, "")
        assert total.cer == 0
        assert bags.words_f1 == bags.characters_f1 == 1
        assert bags.words_f1_wrong < 0.5 < bags.characters_f1_wrong
        assert bags.large_recall == 1
        assert [row["page"] for row in rows][-1] == "tides.pdf#1"


def measured(content: str, tokens: int, output: str) -> MeasuredPage:
    (score, _) = scored(["a text"] * 2, [output] * 2)
    return MeasuredPage(content, 3 * tokens, tokens, 64, 30.0, score)


class TestCompression:
    def test_tokens_are_fewer_than_characters_and_forget_nothing(self) -> None:
        bpe = train_bpe(texts(50))
        text = "harbour1 Zürich “quoted”"
        assert count_tokens(bpe, text) < len(text.encode())
        assert bpe.decode(bpe.encode(text).ids) == text

    def test_pages_are_put_by_what_they_compress(self) -> None:
        pages = [measured("prose", 64, "a text")] * 3 + [measured("prose", 640, "")] * 2
        pages += [measured("strings", 64, "a text")]  # too few
        sparse, dense = buckets(pages)
        assert (sparse.pages, sparse.compression, sparse.precision) == (3, 1, 1)
        assert (dense.pages, dense.compression, dense.precision) == (2, 10, 0)
        assert dense.characters_per_vision_token == 30

    def test_curves_are_ours_and_the_papers(self) -> None:
        names = [curve.name for curve in curves(buckets([measured("prose", 64, "")] * 2))]
        assert names == ["mini: prose", "paper: 64 tokens", "paper: 100 tokens"]


class TestChart:
    SVG = "{http://www.w3.org/2000/svg}"

    def test_is_a_picture_that_opens(self) -> None:
        svg = precision_chart([Curve("a & b", [(1, 0.9), (2, 0.5)], "#0072b2")], title="<title>")
        with pymupdf.open("svg", svg.encode()) as document:
            assert document[0].rect.width == pytest.approx(800, abs=200)
            assert "a & b" in document[0].get_text()

    @given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-5, 5))))
    def test_no_point_leaves_the_plot(self, points: list[tuple[float, float]]) -> None:
        root = ElementTree.fromstring(precision_chart([Curve("x", points, "red")], title="t"))
        marks = root.findall(f"{self.SVG}circle")
        assert len(marks) == len(points) + 1  # one in the legend
        assert all(TOP <= float(mark.attrib["cy"]) <= BOTTOM for mark in marks)

    def test_more_precision_stands_higher(self) -> None:
        points = [(1.0, 0.2), (2.0, 0.8)]
        root = ElementTree.fromstring(precision_chart([Curve("x", points, "red")], title="t"))
        low, high, _ = root.findall(f"{self.SVG}circle")
        assert float(high.attrib["cy"]) < float(low.attrib["cy"])
        assert float(high.attrib["cx"]) > float(low.attrib["cx"])


class TestTestset:
    def test_groups_have_names_of_their_own_and_a_wrong_image(self) -> None:
        for quick in (True, False):
            groups = all_groups(quick=quick)
            assert len({group.name for group in groups}) == len(groups)
            assert min(group.pages for group in groups) >= 2
            large = [group.pages for group in groups if group.table == "large"]
            assert min(large) >= LARGE_PAGES
        assert sum(group.pages for group in all_groups(quick=True)) < 100

    def test_blank_pages_are_white_and_still_shown_to_the_model(self, tmp_path: Path) -> None:
        path = tmp_path / "blank.pdf"
        pages = write_blank_pages(path)
        assert evaluate.A4 in pages
        document = PdfDocument(path.read_bytes(), RenderSettings(dpi=36))
        assert document.page_count == len(pages)
        for shape, index in pages.items():
            image = document.render(PageRef(path, index))
            assert image.page_pt == shape
            assert image.pixels.min() == 255
            assert not is_blank(image)

    def test_one_content_is_written_whatever_is_asked_for(self, monkeypatch: Any) -> None:
        prose = tuple(f"The {word} is {other}." for word in WORDS for other in WORDS)
        monkeypatch.setattr("scripts.train_mini.text.sentences", lambda *, held_out: prose)
        writer = ContentWriter(random.Random(0), "shuffled")
        text = writer.text("strings", 200)
        assert set(text.split()) <= set(" ".join(prose).split())
        assert 1 <= len(text) <= 200
        assert text not in " ".join(prose)


class TestReport:
    def test_says_what_was_not_read(self) -> None:
        assert tables.verdict({"reading": 0.39, "is_reading": False}) == "**not reading**, 39.0"
        assert tables.verdict({"reading": 0.75, "is_reading": True}) == "yes, 75.0"
        assert tables.percent(-0.0001) == "0.0"

    def test_keeps_what_is_written_by_hand(self, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr(evaluate, "report", lambda figures: f"run {figures['n']}")
        page = tmp_path / "mini.md"
        evaluate.write(tmp_path, {"n": 1}, "<svg/>")
        head, marker, _ = page.read_text(encoding="utf-8").partition(evaluate.MARKER)
        page.write_text(f"{head}By hand.\n\n{marker}\nold\n", encoding="utf-8")
        evaluate.write(tmp_path, {"n": 2}, "<svg/>")
        text = page.read_text(encoding="utf-8")
        assert text.startswith("# The mini model") and "By hand.\n" in text
        assert text.endswith(f"{evaluate.MARKER}\n\nrun 2\n")
        assert json.loads((tmp_path / "mini.json").read_text(encoding="utf-8")) == {"n": 2}
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "mini.json", "mini.md", "precision.svg",
        ]  # fmt: skip

    def test_native_modes_only(self) -> None:
        assert evaluate.native_modes("tiny,base") == ["tiny", "base"]
        with pytest.raises(Exception, match="gundam"):
            evaluate.native_modes("tiny,gundam")
        assert all(MODES[name].tile_px is None for name in evaluate.NATIVE)
