"""The training of the mini: pages and their truth agree, labels, codes, legs. No font is needed."""

import dataclasses
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pymupdf
import pytest
import torch

from docr.modes.mode import MODES
from docr.modes.prepare import prepare_views
from scripts.train_mini.attention import attend
from scripts.train_mini.fonts import ALPHABET, Face, is_held_out, load_faces
from scripts.train_mini.labels import (
    CLASSES,
    IdealCode,
    Slots,
    count_lines,
    label_view,
    script_places,
)
from scripts.train_mini.layout import NO_GLYPH, Page, Word, script_text
from scripts.train_mini.pages import PageMaker, PagePlan, stretched_plan
from scripts.train_mini.paint import Look, paint, write_pdf
from scripts.train_mini.recipe import load_recipe
from scripts.train_mini.stream import POOL, batches
from scripts.train_mini.text import Writer, sentences
from scripts.train_mini.tokenizer import EOS_ID, build_tokenizer
from scripts.train_mini.trainee import SLIPS, slip

ALL_BLOCKS = dict.fromkeys(("paragraph", "list", "table", "code", "formula", "figure"), 1.0)
SLOTS = Slots(bands=2, depth=5)


@pytest.fixture(scope="session")
def face(tmp_path_factory: pytest.TempPathFactory) -> Face:
    """A face that every machine has: the one MuPDF carries."""
    path = tmp_path_factory.mktemp("fonts") / "helv.cff"
    path.write_bytes(pymupdf.Font("helv").buffer)
    return Face(path, "helv", held_out=False)


def make_page(face: Face, seed: int) -> tuple[Page, PagePlan]:
    rng = random.Random(seed)
    wanted = stretched_plan(rng, 512, (26.0, 60.0), 36.0, two_columns=0.3, furniture=0.3)
    return PageMaker([face], rng, blocks=ALL_BLOCKS).make(wanted), wanted


@pytest.mark.parametrize("seed", range(20))
def test_script_spells_the_glyphs_it_points_at(face: Face, seed: int) -> None:
    page, _ = make_page(face, seed)
    for script in (page.plain(), page.grounded()):
        pointed = [(char, glyph) for char, glyph in script if glyph != NO_GLYPH]
        for char, glyph in pointed:
            drawn = page.glyphs[glyph].character
            assert char == drawn or (char, drawn) == ("-", "•")
        assert len({glyph for _, glyph in pointed}) == len(pointed)


@pytest.mark.parametrize("seed", range(8))
def test_pdf_and_truth_hold_the_same_characters(face: Face, seed: int) -> None:
    page, _ = make_page(face, seed)
    with pymupdf.open(stream=write_pdf([page]), filetype="pdf") as document:
        text = document[0].get_text()
    drawn = sorted(glyph.character for glyph in page.glyphs if glyph.character != " ")
    assert sorted("".join(text.split())) == drawn


def test_paint_puts_ink_where_the_glyphs_are(face: Face) -> None:
    page = Page(200, 100)
    page.put(Word("HH", 40, 60, face, 40))
    for turn in (0.0, 3.0):
        pixels = paint(page, 1.0, Look(turn=turn), 0)
        labels = label_view(page, [], (512 / 200, 512 / 100), 8, 8, SLOTS, turn=turn)
        view = prepare_views(pixels, MODES["tiny"]).global_view
        ink = 255 - view.min(axis=0).reshape(32, 16, 32, 16).min(axis=(1, 3))
        assert (labels.patches[ink > 128] != 0).mean() > 0.8
        assert (ink[labels.patches != 0] > 80).mean() > 0.8


def test_labels_hold_every_character_in_reading_order(face: Face) -> None:
    page = Page(512, 64)
    script = page.put(Word("Reading", 10, 40, face, 30))
    labels = label_view(page, script, (1.0, 1.0), 1, 8, SLOTS)
    read = "".join(CLASSES[kind] for kind in labels.slots.flatten() if kind)
    assert read == "Reading"
    places = script_places(script, labels)
    for (char, _), (cell, slot) in zip(script, places, strict=True):
        assert CLASSES[labels.slots[0, cell, slot]] == char


def test_tokens_without_room_are_not_claimed(face: Face) -> None:
    page = Page(64, 64)
    page.put(Word("iiiiiiiiiiii", 0, 40, face, 14))
    labels = label_view(page, [], (1.0, 1.0), 1, 1, SLOTS)
    assert (labels.place[:, 1] >= 0).sum() == SLOTS.depth


def test_lines_are_counted_as_they_are_written(face: Face) -> None:
    page = Page(512, 192)
    script = [("#", NO_GLYPH), (" ", NO_GLYPH)]
    for baseline, text in ((30, "one"), (100, "two"), (140, "three")):
        if page.words:
            script += [("\n", NO_GLYPH)] * (2 if baseline == 100 else 1)
        script += page.put(Word(text, 10, baseline, face, 30))
    written = count_lines(script)
    assert [line for line, _ in written] == [0] * 7 + [1] * 4 + [2] * 5
    assert [start for _, start in written] == [*range(7), *range(4), *range(5)]
    labels = label_view(page, script, (1.0, 1.0), 3, 8, SLOTS)
    # The first band of each line begins with the line's first glyph: two marks precede "one".
    first = labels.counts[:, 0].reshape(-1, 2)
    assert [tuple(pair) for pair in first if pair[0] >= 0] == [(0, 2), (1, 0), (2, 0)]
    assert (labels.counts[:, 4:] == -1).all()


def test_ideal_code_can_be_read_back() -> None:
    code = IdealCode(256, SLOTS)
    slots = torch.randint(0, len(CLASSES), (2, 3, 4, SLOTS.count))
    counts = torch.randint(-1, 20, (2, 3, 4, SLOTS.bands, 2))
    tokens = code.encode(slots, counts)
    for band in range(SLOTS.bands):
        lines = code.lines[band]
        nearest = torch.cdist(tokens @ lines.T, lines @ lines.T).argmin(-1)
        assert torch.equal(nearest % len(lines), counts[..., band, 0] % len(lines))
    # What is left of a token without its place projects onto each slot's own axes.
    tokens = tokens - code.rows[:3, None] - code.columns[None, :4]
    table = code.glyphs.view(SLOTS.count, len(CLASSES), -1)
    distance = torch.cdist(
        torch.einsum("...d,scd->...sc", tokens, table).flatten(0, -2),
        torch.einsum("scd,sed->sce", table, table).flatten(0, 1),
    )
    nearest = distance.argmin(-1).view(*slots.shape) % len(CLASSES)
    assert (nearest == slots).float().mean() > 0.98


def test_tokenizer_has_a_token_for_every_character() -> None:
    tokenizer = build_tokenizer()
    text = "# " + ALPHABET + "\n<td>ß</td> 漢"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert len(tokenizer.encode(ALPHABET, add_special_tokens=False).ids) == len(ALPHABET)
    assert tokenizer.token_to_id("<｜end▁of▁sentence｜>") == EOS_ID
    assert tokenizer.get_vocab_size() <= load_recipe().model.vocab_size


def test_held_out_text_and_faces_stay_apart(tmp_path: Path) -> None:
    assert not set(sentences(held_out=True)) & set(sentences(held_out=False))
    assert is_held_out("Lato-Regular.ttf") and not is_held_out("DejaVuSans.ttf")
    rows = [{"file": f"{name}.ttf", "family": name, "held_out": name == "a"} for name in ("a", "b")]
    (tmp_path / "faces.json").write_text(json.dumps(rows))
    assert [face.family for face in load_faces(tmp_path, held_out=True)] == ["a"]
    assert [face.family for face in load_faces(tmp_path, held_out=False)] == ["b"]


@pytest.mark.parametrize("kind", ["prose", "words", "invented", "strings", "code"])
def test_writer_uses_the_alphabet_only(kind: str) -> None:
    writer = Writer(random.Random(0))
    for length in (1, 30, 300):
        text = writer.text(kind, length)
        assert text and set(text) <= {" ", *ALPHABET}
        assert len(text) <= max(length, 40)


@pytest.mark.parametrize("causal", [False, True])
def test_plain_attention_is_attention(causal: bool) -> None:
    q, k, v = torch.randn(3, 2, 3, 5, 8).unbind(0)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(attend(q, k, v, is_causal=causal), wanted)


@pytest.mark.parametrize("mask", [torch.ones(5, 5).tril().bool(), torch.randn(5, 5)])
def test_plain_attention_takes_masks_of_both_kinds(mask: torch.Tensor) -> None:
    q, k, v = torch.randn(3, 2, 3, 5, 8).unbind(0)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend(q, k, v, attn_mask=mask), wanted)


def test_script_of_a_table_is_html(face: Face) -> None:
    rng = random.Random(3)
    page = PageMaker([face], rng, blocks={"table": 1.0}).make(
        PagePlan(595, 842, (1.0, 1.0), (14.0, 18.0), 0.0)
    )
    text = script_text(page.plain())
    assert "<table><tr><td>" in text and text.count("<td>") == text.count("</td>")
    assert page.blocks[-1].label == "table"


def test_noise_and_colour_do_not_change_the_size(face: Face) -> None:
    page, _ = make_page(face, 1)
    look = Look(ink=(240, 240, 240), paper=(10, 10, 60), noise=9.0, blur=0.6, jpeg=60)
    pixels = paint(page, 1.0, look, 1)
    assert pixels.shape == (round(page.height), round(page.width), 3)
    assert np.array_equal(pixels, paint(page, 1.0, look, 1))


def test_pages_of_like_length_are_read_together(face: Face) -> None:
    rows = [{"file": face.path.name, "family": face.family, "held_out": False}]
    (face.path.parent / "faces.json").write_text(json.dumps(rows))
    recipe = load_recipe()
    recipe = dataclasses.replace(
        recipe, data=dataclasses.replace(recipe.data, fonts=face.path.parent)
    )
    stage = dataclasses.replace(recipe.stages["decoder"], batch=4, grids=((5, 7),), dense=0.5)
    pool = list(itertools.islice(batches(recipe, stage, seed=1, workers=0), POOL))
    assert all(batch.slots.shape == (4, 5, 7, SLOTS.count) for batch in pool)
    lengths = [(batch.targets >= 0).sum(1).tolist() for batch in pool]
    ranges = sorted((min(each), max(each)) for each in lengths)
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(ranges))


def test_slips_are_characters_of_the_same_text() -> None:
    torch.manual_seed(0)
    text = torch.arange(200).repeat(30, 1) + 1000 * torch.arange(30)[:, None]
    slipped = slip(text)
    assert torch.equal(slipped // 1000, text // 1000)
    wrong = (slipped != text).float().mean(1)
    assert 0.4 * SLIPS < float(wrong.mean()) < 0.6 * SLIPS
    assert float(wrong.max()) < 1.7 * SLIPS and float(wrong.min()) < 0.2 * SLIPS
    assert slip(text[:, :0]).shape == (30, 0)
