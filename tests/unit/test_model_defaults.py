"""docr.json: what a checkpoint says of itself, and what it may not say."""

import json
from pathlib import Path

import pytest

from docr.errors import CheckpointError
from docr.models.defaults import CheckpointDefaults, read_defaults
from docr.settings import Settings

DIGEST = "0123456789abcdef" * 4


def test_no_file_no_wishes(tmp_path: Path) -> None:
    assert read_defaults(tmp_path) == CheckpointDefaults()


def test_all_that_can_be_said(tmp_path: Path) -> None:
    content = {
        "name": "docr-mini",
        "mode": "tiny",
        "task": "ocr",
        "preview": "reads large type only",
        "sha256": {"model.safetensors": DIGEST},
    }
    (tmp_path / "docr.json").write_text(json.dumps(content))
    defaults = read_defaults(tmp_path)
    assert {name: getattr(defaults, name) for name in content} == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\xff", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"moed": "tiny"}', "unknown key 'moed'; there are: name, mode, task"),
        ('{"mode": "huge"}', "mode is one of tiny, small, base, large, gundam, gundam-m"),
        ('{"mode": ["tiny"]}', "mode is one of"),
        ('{"mode": null}', "mode is one of"),
        ('{"task": "locate"}', "task is one of markdown, ocr, image, figure, describe, not"),
        ('{"name": ""}', "name is one line of text"),
        ('{"name": 3}', "name is one line of text"),
        ('{"preview": "two\\nlines"}', "preview is one line of text"),
        ('{"sha256": "abc"}', "sha256 is an object of file names"),
        ('{"sha256": {"model.safetensors": "abc"}}', "sha256 is"),
        (json.dumps({"sha256": {"../secret": DIGEST}}), "sha256 is"),
        (json.dumps({"sha256": {"..": DIGEST}}), "sha256 is"),
        (json.dumps({"sha256": {"": DIGEST}}), "sha256 is"),
    ],
)
def test_mistakes_name_the_file(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "docr.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError) as caught:
        read_defaults(tmp_path)
    assert f"{tmp_path / 'docr.json'}: " in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize(
    ("said", "wished", "result"),
    [
        ("base", "tiny", "base"),
        (None, "tiny", "tiny"),
        (None, None, "gundam"),
    ],
)
def test_a_run_goes_before_the_model(said: str | None, wished: str | None, result: str) -> None:
    assert Settings(mode=said).completed(mode=wished, task=None).mode == result


def test_a_task_is_completed_as_a_mode_is() -> None:
    settings = Settings(max_tokens=7).completed(mode=None, task="ocr")
    assert (settings.task, settings.max_tokens) == ("ocr", 7)
    assert Settings().completed(mode=None, task=None).task == "markdown"
