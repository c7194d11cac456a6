"""A smoke run of the whole training: three stages, a kill, the next leg, the export, a page."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pymupdf
import pytest
import torch

from docr.engine.model.load import load_model
from scripts.train_mini.recipe import RECIPE, load_recipe
from scripts.train_mini.trainee import Trainee
from scripts.train_mini.weights import PART_BYTES, load_leg
from tests.e2e.cli import docr

SMALLER = (
    ("hidden_size = 256", "hidden_size = 96"),
    ("width = 192", "width = 48"),
    ("width = 640", "width = 64"),
    ("heads = 10", "heads = 2"),
    ("[256, 640]", "[64, 64]"),
    ("out_chans = 64", "out_chans = 16"),
    ("depth = 5", "depth = 4"),
    ("batch = 16", "batch = 2"),
    ("batch = 10", "batch = 2"),
    ("batch = 8", "batch = 2"),
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe with a small network, and two faces that every machine has."""
    folder = tmp_path_factory.mktemp("recipe")
    rows = []
    for name, held_out in (("helv", False), ("tiro", True)):
        (folder / f"{name}.cff").write_bytes(pymupdf.Font(name).buffer)
        rows.append({"file": f"{name}.cff", "family": name, "held_out": held_out})
    (folder / "faces.json").write_text(json.dumps(rows))
    text = RECIPE.read_text(encoding="utf-8").replace(".train/fonts", str(folder))
    for old, new in SMALLER:
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def command(recipe: Path, stage: str, legs: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "scripts.train_mini.train", stage),
        *("--minutes", "2", "--legs", str(legs), "--recipe", str(recipe), "--check-pages", "1"),
        *more,
    ]


def train(recipe: Path, stage: str, legs: Path, *more: str) -> list[dict[str, float]]:
    """Run a leg; returns its log lines."""
    done = subprocess.run(
        command(recipe, stage, legs, *more), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_stages_follow_each_other_to_a_model_that_docr_runs(recipe: Path, tmp_path: Path) -> None:
    decoder, encoder, whole = (tmp_path / name for name in ("decoder", "encoder", "whole"))
    train(recipe, "decoder", decoder, "--steps", "3")
    train(recipe, "encoder", encoder, "--steps", "2")
    start = ("--start", str(decoder), str(encoder))
    lines = train(recipe, "whole", whole, "--steps", "2", *start)
    assert lines[-1]["samples"] == 4 and lines[-1]["cer"] > 0
    assert all(part.stat().st_size <= PART_BYTES for part in whole.rglob("*.safetensors"))
    lines = train(recipe, "whole", whole, "--steps", "1", "--anneal")
    assert lines[-1]["samples"] == 6, "the second leg goes on from the first"

    out = tmp_path / "model"
    export = (sys.executable, "-m", "scripts.train_mini.export", str(whole), str(out))
    subprocess.run([*export, "--recipe", str(recipe), "--preview", "nothing yet"], check=True)
    trainee = Trainee(load_recipe(recipe))
    load_leg(trainee, whole)
    model = load_model(out, device="cpu", dtype=torch.float32)
    views = torch.randint(0, 256, (1, 3, 512, 512), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(
            model.encode_views(views), trainee.model.encode_views(views), rtol=1e-3, atol=1e-3
        )
    done = docr(
        *("convert", "examples/slides.pdf", "-o", tmp_path / "read"),
        *("--model", out, "--max-tokens", "20", "--pages", "1"),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "read/slides.pdf/page-0001.json").read_text())
    assert record["mode"] == "tiny" and record["model"]["name"] == "docr-mini"


def test_a_killed_leg_leaves_weights_that_the_next_one_takes(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    legs = tmp_path / "legs"
    process = subprocess.Popen(
        command(recipe, "decoder", legs, "--save-seconds", "0"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while not (legs / "weights" / "state.json").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.5)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    trainee = Trainee(load_recipe(recipe))
    state = load_leg(trainee, legs)
    assert state is not None and state.stage == "decoder" and state.samples > 0
    assert all(torch.isfinite(value).all() for value in trainee.state_dict().values())
