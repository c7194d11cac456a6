"""Fine-tuning learns, goes on after a kill, and leaves a checkpoint that docr loads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor

from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.model.load import INDEX, checkpoint_tensors, load_model
from docr.errors import UsageError
from docr.models.defaults import read_defaults
from docr.models.files import resolve
from scripts.make_random_checkpoint import SHARD, toy_config, write_checkpoint
from scripts.train_mini import checkpoint, finetune, learner, lora
from scripts.train_mini.finetune import PairReader, Settings, split
from scripts.train_mini.learner import Learner

TEXTS = ["# One", "two three", "- four", "five"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_checkpoint(folder, toy_config())
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for number, text in enumerate(TEXTS):
        image = Image.new("RGB", (160, 120), "white")
        ImageDraw.Draw(image).rectangle((10, 10, 30 + 30 * number, 90), fill="black")
        image.save(folder / f"page-{number}.{'jpg' if number else 'png'}")
        (folder / f"page-{number}.md").write_text(text + "\n", encoding="utf-8")
    return folder


def run(settings: Settings, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Fine-tune; returns the printed lines."""
    capsys.readouterr()
    finetune.finetune(settings)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def logits(model: DeepseekOCR) -> Tensor:
    """For a few tokens [1,T,vocabulary], fp32."""
    with torch.inference_mode():
        hidden = model(model.embed(torch.arange(20, 40)[None]), torch.arange(20)[None])
        return model.logits(hidden)


def test_the_loss_falls_and_docr_loads_the_result(
    toy: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    settings = Settings(toy, pairs, out, steps=12, batch=2, rate=8e-3, held_out=0)
    lines = run(settings, capsys)
    first, last = trained_losses(toy, out, pairs)
    assert last < first / 2, (first, last)
    assert lines[-1]["step"] == 12 and lines[-1]["pages_s"] > 0
    assert resolve(str(out / "model")).name == "out"
    assert read_defaults(out / "model").mode == "tiny"


def trained_losses(before: Path, out: Path, pairs: Path) -> tuple[float, float]:
    """The loss on all pairs of a checkpoint, and of what has become of it."""
    reader = PairReader(before, "tiny", "ocr")
    batch = reader.batch(reader.read(pairs))
    losses = []
    for folder in (before, out / "model"):
        with torch.inference_mode():
            model = load_model(folder, device="cpu", dtype=torch.float32)
            losses.append(float(Learner(model)(batch)))
    return losses[0], losses[1]


def test_a_killed_training_ends_as_one_that_was_not(
    toy: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Settings(toy, pairs, tmp_path / "whole", steps=6, batch=2, lora=4, held_out=0.25)
    killed = Settings(toy, pairs, tmp_path / "killed", steps=6, batch=2, lora=4, held_out=0.25)
    lines = run(whole, capsys)
    assert {"loss", "held_out_loss", "held_out_cer"} <= lines[-1].keys()

    monkeypatch.setattr(finetune, "SAVE_SECONDS", 0.0)
    steps = iter(range(4))

    def dying(*arguments: Any) -> float:
        if next(steps) == 3:
            raise KeyboardInterrupt
        return learner.optimise(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "optimise", dying)
        with pytest.raises(KeyboardInterrupt):
            finetune.finetune(killed)
    (tmp_path / "killed" / "state.pt.new").write_bytes(b"torn")
    lines = run(killed, capsys)
    assert lines[0]["step"] in (1, 2, 3) and lines[-1]["step"] == 6

    one, other = (load_file(s.out / "model" / "model.safetensors") for s in (whole, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    start = load_file(toy / SHARD)
    changed = {name for name in one if not torch.equal(one[name], start[name])}
    assert changed
    assert all(name.startswith("model.layers.") for name in changed)
    assert not any(".experts." in name or "norm" in name or ".gate." in name for name in changed)

    with pytest.raises(UsageError, match="begun with lora 4, not 8"):
        finetune.finetune(Settings(toy, pairs, killed.out, steps=6, lora=8, held_out=0.25))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_merged_adapters_compute_the_same(toy: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    model = load_model(toy, device="cpu", dtype=dtype)
    plain = logits(model)
    lora.add_adapters(model, 4)
    trained = [name for name, each in model.named_parameters() if each.requires_grad]
    assert all(name.endswith((".up", ".down")) for name in trained) and len(trained) == 3 * 4 * 2
    assert torch.equal(logits(model), plain)
    with torch.no_grad():
        for name in trained:
            if name.endswith(".up"):
                model.get_parameter(name).normal_(std=0.1)
    adapted = logits(model)
    assert not torch.allclose(adapted, plain, atol=0.1)
    lora.merge_adapters(model)
    assert torch.equal(logits(model), adapted)
    checkpoint.write_checkpoint(
        *(model, toy, tmp_path / "merged"),
        **{"name": "x", "mode": "base", "task": "ocr", "preview": None},
        max_shard_bytes=100_000,
    )
    assert (tmp_path / "merged" / INDEX).is_file()
    written = load_model(tmp_path / "merged", device="cpu", dtype=dtype)
    # The file is bf16: what a model in fp32 loses by that is seen in its logits.
    assert torch.allclose(logits(written), adapted, atol=0 if dtype == torch.bfloat16 else 0.3)
    half, whole = checkpoint_tensors(written), checkpoint_tensors(model)
    assert all(torch.equal(half[name], whole[name].bfloat16().to(dtype)) for name in whole)


def test_padding_and_tiles_do_not_change_a_page(toy: Path, tmp_path: Path) -> None:
    for name, size, text in (("a", (600, 300), "one"), ("b", (1400, 700), "two " * 30)):
        Image.fromarray(np.full((*size[::-1], 3), 200, np.uint8)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.md").write_text(text, encoding="utf-8")
    reader = PairReader(toy, "gundam", "ocr")
    read = reader.read(tmp_path)
    learner = Learner(load_model(toy, device="cpu", dtype=torch.float32))
    with torch.inference_mode():
        alone = [float(learner(reader.batch([pair]))) * len(pair.answer) for pair in read]
        batch = reader.batch(read)
        together = float(learner(batch)) * sum(len(pair.answer) for pair in read)
    assert batch.grids == ((1, 1), (2, 1))
    assert together == pytest.approx(sum(alone), rel=1e-4)


@pytest.mark.parametrize(
    ("gone", "message"), [("page-2.md", "page-2.jpg has no page-2.md"), ("page-2.jpg", "no image")]
)
def test_an_incomplete_page_is_named(toy: Path, pairs: Path, gone: str, message: str) -> None:
    (pairs / gone).unlink()
    with pytest.raises(UsageError, match=message):
        PairReader(toy, "tiny", "ocr").read(pairs)


def test_the_command_says_in_one_line_what_is_wrong(
    toy: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pairs / "page-0.md").unlink()
    arguments = [str(toy), str(pairs), "--out", str(tmp_path / "out"), "--minutes", "1"]
    monkeypatch.setattr("sys.argv", ["finetune", *arguments])
    with pytest.raises(SystemExit, match=r"^finetune: .*: page-0\.png has no page-0\.md$"):
        finetune.main()
    monkeypatch.setattr("sys.argv", ["finetune", *arguments, "--lora", "0"])
    with pytest.raises(SystemExit, match=r"^finetune: numbers must be above 0"):
        finetune.main()


def test_a_page_that_does_not_fit_is_named(toy: Path, pairs: Path) -> None:
    (pairs / "page-1.md").write_text("long " * 4000, encoding="utf-8")
    with pytest.raises(UsageError, match=r"page-1\.jpg: .* tokens"):
        PairReader(toy, "tiny", "ocr").read(pairs)


def test_a_damaged_image_is_named(toy: Path, pairs: Path) -> None:
    (pairs / "page-1.jpg").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"page-1\.jpg"):
        PairReader(toy, "tiny", "ocr").read(pairs)


def test_pages_are_held_out_by_the_seed(toy: Path, pairs: Path) -> None:
    read = PairReader(toy, "tiny", "ocr").read(pairs)
    trained, held_out = split(read, 0.25, 0)
    assert (len(trained), len(held_out)) == (3, 1)
    assert split(read, 0.25, 0) == (trained, held_out)
    assert split(read, 0, 0) == (read, [])
    assert split(read[:1], 0.5, 0) == (read[:1], [])
