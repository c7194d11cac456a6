"""Prompts and ids, with a byte-level tokenizer made here whose ids are not the official ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from docr.errors import CheckpointError, UsageError
from docr.modes.mode import MODES
from docr.modes.prompt import Prompter, prompt_text, split_at_image
from docr.settings import Task
from docr.types import Grid, PageRef, PageViews

SHARED = Path(__file__).parents[2] / "../shared"
REF = PageRef(Path("a.pdf"), 0)
BOS, EOS, IMAGE = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<image>"
SPECIALS = (
    *(EOS, "<｜▁pad▁｜>", "<|EOT|>", IMAGE, BOS, "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>"),
    *("<|grounding|>", "<td>", "</td>", "<tr>", "</tr>", "<|User|>", "<|Assistant|>"),
)

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="no official files beside the checkout"
)


def byte_tokenizer(path: Path, *, specials: tuple[str, ...] = SPECIALS) -> Path:
    """Save a tokenizer of 256 bytes and `specials`, which adds BOS by itself as the official does.

    The ids of the special tokens follow the bytes'.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    if BOS in specials:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
        )
    tokenizer.save(str(path))
    return path


def views(grid: Grid = (1, 1)) -> PageViews:
    """Views of a grid; prompts never look at pixels."""
    return PageViews(
        (10, 10), np.zeros((3, 4, 4), np.uint8), np.zeros((0, 3, 4, 4), np.uint8), grid
    )


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    return byte_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("markdown", "<image>\n<|grounding|>Convert the document to markdown."),
        ("ocr", "<image>\nFree OCR."),
        ("image", "<image>\n<|grounding|>OCR this image."),
        ("figure", "<image>\nParse the figure."),
        ("describe", "<image>\nDescribe this image in detail."),
    ],
)
def test_official_prompts(task: Task, text: str) -> None:
    assert prompt_text(task, None, None) == text


def test_locate_asks_for_the_query() -> None:
    text = prompt_text("locate", " the {red} teacher ", None)
    assert text == "<image>\nLocate <|ref|>the {red} teacher<|/ref|> in the image."


@pytest.mark.parametrize(
    "query",
    [
        *(*SPECIALS, "a<|/ref|>b", "<｜User｜>", "x <|", "｜>"),
        *("", "  ", None),
    ],
)
def test_a_query_cannot_spell_special_tokens_or_be_empty(query: str | None) -> None:
    with pytest.raises(UsageError, match="query"):
        prompt_text("locate", query, None)


@needs_shared
def test_every_token_of_the_official_tokenizer_is_refused_in_a_query() -> None:
    config = json.loads((SHARED / "hub/tokenizer_config.json").read_text())
    tokens = [entry["content"] for entry in config["added_tokens_decoder"].values()]
    assert len(tokens) > 800
    for token in tokens:
        with pytest.raises(UsageError):
            prompt_text("locate", f"a {token} b", None)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("What is this?", "<image>\nWhat is this?"),
        ("What is <image> this? ", "What is <image> this?"),
        ("<|grounding|>Find all formulas.", "<image>\n<|grounding|>Find all formulas."),
    ],
)
def test_a_raw_prompt_wins_and_gets_an_image(prompt: str, text: str) -> None:
    assert prompt_text("markdown", None, prompt) == text


@pytest.mark.parametrize("prompt", ["<image><image>", "<image> a <image>", "", " \n"])
def test_a_raw_prompt_has_one_image_and_some_text(prompt: str) -> None:
    with pytest.raises(UsageError):
        prompt_text("markdown", None, prompt)


def test_undecodable_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="UTF-8"):
        prompt_text("locate", "caf\udce9", None)
    with pytest.raises(UsageError, match="UTF-8"):
        prompt_text("ocr", None, "caf\udce9")


@needs_shared
def test_prompts_are_formatted_and_split_as_the_official_code_does() -> None:
    cases = json.loads((SHARED / "vectors/misc_cases.json").read_text())["prompts"]
    assert cases
    for case in cases:
        text = prompt_text("markdown", None, case["prompt"])
        if IMAGE in case["prompt"]:
            assert text == case["formatted"]
            assert list(split_at_image(text)) == case["splits"]
        else:  # the official code would answer without looking at the page
            assert text == f"<image>\n{case['formatted']}"


def test_ids_stand_in_order_around_the_image(tokenizer_file: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    bos, image = tokenizer.token_to_id(BOS), tokenizer.token_to_id(IMAGE)
    assert bos != 0
    inputs = Prompter(tokenizer_file).inputs(REF, views(), MODES["tiny"], "Ab<image>\n<|det|>c")
    text_ids = [tokenizer.encode(c, add_special_tokens=False).ids[0] for c in "Ab\nc"]
    expected = [bos, *text_ids[:2], *[image] * 73, text_ids[2]]
    expected += [tokenizer.token_to_id("<|det|>"), text_ids[3]]
    assert inputs.input_ids.tolist() == expected
    assert inputs.input_ids.dtype == np.int64
    assert inputs.image_mask.dtype == np.bool_
    assert inputs.image_mask.tolist() == [token == image for token in expected]


def test_surrounding_space_is_stripped_but_not_the_newline_after_the_image(
    tokenizer_file: Path,
) -> None:
    prompter = Prompter(tokenizer_file)
    bare = prompter.inputs(REF, views(), MODES["tiny"], "<image>\nHi.").input_ids
    padded = prompter.inputs(REF, views(), MODES["tiny"], "  <image>\nHi. \n").input_ids
    assert bare.tolist() == padded.tolist()
    assert len(bare) == 1 + 73 + len("\nHi.")


def test_the_grid_decides_the_number_of_placeholders(tokenizer_file: Path) -> None:
    mode = MODES["gundam"]
    page = views((2, 3))
    inputs = Prompter(tokenizer_file).inputs(REF, page, mode, prompt_text("ocr", None, None))
    assert inputs.image_mask.sum() == mode.num_vision_tokens((2, 3)) == 903
    assert inputs.ref == REF
    assert inputs.views is page


@pytest.mark.parametrize("text", ["no image", "<image><image>"])
def test_inputs_want_exactly_one_image(tokenizer_file: Path, text: str) -> None:
    with pytest.raises(UsageError, match="one <image>"):
        Prompter(tokenizer_file).inputs(REF, views(), MODES["tiny"], text)


@pytest.mark.parametrize("missing", [BOS, IMAGE])
def test_a_tokenizer_without_a_needed_token_is_named(tmp_path: Path, missing: str) -> None:
    specials = tuple(token for token in SPECIALS if token != missing)
    file = byte_tokenizer(tmp_path / "tokenizer.json", specials=specials)
    with pytest.raises(CheckpointError, match=missing):
        Prompter(file)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\xfe"])
def test_an_unreadable_tokenizer_is_a_checkpoint_error(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Prompter(file)


@needs_shared
def test_official_ids_and_lengths() -> None:
    prompter = Prompter(SHARED / "hub/stand_in_tokenizer.json")
    vectors = json.loads((SHARED / "vectors/preproc_cases.json").read_text())
    text = prompt_text("ocr", None, vectors["prompt"].replace("\\n", "\n"))
    case: dict[str, Any]
    for case in vectors["cases"]:
        columns, rows = case["grid_w_h"]
        inputs = prompter.inputs(REF, views((columns, rows)), MODES[case["mode"]], text)
        assert len(inputs.input_ids) == case["seq_len"]
        assert inputs.input_ids[0] == 0
        assert int(inputs.image_mask.argmax()) == case["first_image_pos"]
        assert set(inputs.input_ids[inputs.image_mask]) == {128815}
        assert inputs.image_mask.sum() == case["image_tokens"]
