"""`docr bench` on a toy checkpoint: what it counts, what it compares, what it refuses."""

import json
from pathlib import Path

import pytest

from docr.bench.spec import BenchSpec
from scripts.make_random_checkpoint import toy_config, write_checkpoint
from tests.e2e.cli import ROOT, docr

pytestmark = pytest.mark.e2e

SLIDES = ROOT / "examples/slides.pdf"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_checkpoint(folder, toy_config())
    return folder


def test_drafts_take_fewer_steps_to_the_same_text(toy: Path) -> None:
    done = docr(
        *("bench", SLIDES, "--model", toy, "--mode", "tiny", "--device", "cpu", "--json"),
        *("--pages", 3, "--tokens", 60, "--given", 0.03, "--peer", "vllm"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (plain,), (drafted,) = found["runs"]["docr"], found["runs"]["docr with drafts"]
    assert plain["pages"] == drafted["pages"] == 3
    assert plain["tokens"] == drafted["tokens"] == 180
    assert plain["digest"] == drafted["digest"]
    assert plain["accepted"] == plain["drafted"] == 0
    assert drafted["steps"] < plain["steps"] / 2
    assert drafted["drafted"] >= drafted["accepted"] > 100
    assert 0 < plain["experts"] <= toy_config()["n_routed_experts"]
    assert plain["seconds"] >= plain["stages"]["decode"] > plain["bound_seconds"]["decode"] > 0
    assert list(found["absent"]) == ["vllm"] and "not measured" in found["absent"]["vllm"]


def test_what_it_cannot_do_is_said(toy: Path) -> None:
    done = docr("bench", SLIDES, "--peer", "fastocr")
    assert done.returncode == 2 and "--peer is one of" in done.stderr
    done = docr("bench", "nowhere.pdf")
    assert done.returncode == 2 and "no such file" in done.stderr
    done = docr("bench", SLIDES, "--mode", "huge")
    assert done.returncode == 2 and "--mode is one of" in done.stderr


def test_spread_lengths_have_the_mean_asked_for_and_are_repeatable() -> None:
    spec = BenchSpec(
        files=(SLIDES,),
        pages=1,
        model=None,
        tokenizer=SLIDES,
        mode="tiny",
        tokens=1000,
        lengths="spread",
    )
    lengths = [spec.length("a.pdf", index) for index in range(4000)]
    assert 960 < sum(lengths) / len(lengths) < 1040
    assert max(lengths) <= 4000 and min(lengths) > 50 and len(set(lengths)) > 1000
    assert lengths[:9] == [spec.length("a.pdf", index) for index in range(9)]
    assert lengths[:9] != [spec.length("b.pdf", index) for index in range(9)]
