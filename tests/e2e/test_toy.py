"""The whole pipeline on a random toy checkpoint in the official layout: real network, real CLI."""

import json
import shutil
from pathlib import Path

import pytest

import docr as package
from scripts.make_random_checkpoint import toy_config, write_checkpoint
from tests.e2e.cli import (
    docr,
    fresh_home,
    inodes,
    manifest,
    page_files,
    page_image,
    page_records,
    start,
    text_pdf,
    tree,
    wait_for_records,
)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "toy"
    write_checkpoint(folder, toy_config(), seed=1)
    return folder


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "pdfs"
    folder.mkdir()
    text_pdf(folder / "a.pdf", pages=3)
    text_pdf(folder / "b.pdf", pages=2, text="other")
    page_image(folder / "c.png")
    return folder


def convert(toy: Path, *args: str | Path) -> object:
    options = ("--model", toy, "--device", "cpu", "--dtype", "fp32", "--max-tokens", "24")
    return docr("convert", *options, *args)


@pytest.mark.parametrize("mode", ["tiny", "small", "base", "large", "gundam", "gundam-m"])
def test_every_mode(mode: str, toy: Path, collection: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = convert(toy, collection / "b.pdf", "-o", out, "--mode", mode, "--keep-tokens")
    assert done.returncode == 0, done.stderr
    for record in page_records(out).values():
        assert record["mode"] == mode
        assert record["state"] in ("ok", "truncated", "repetition")
        assert 0 < len(record["token_ids"]) <= 24
        assert record["vision_tokens"] < record["sequence_tokens"]
    assert ("not trained" in done.stderr) == (mode == "gundam-m")


def test_two_ranks_leave_the_tree_of_one(toy: Path, collection: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    mode = ("--mode", "small", "--keep-tokens")
    first = convert(toy, collection, "-o", one, *mode)
    assert first.returncode == 0, first.stderr
    second = convert(toy, collection, "-o", two, *mode, "--gpus", "2")
    assert second.returncode == 0, second.stderr
    assert tree(one) == tree(two)
    assert {line["state"] for line in manifest(two)} <= {"ok", "truncated", "repetition"}


def test_python_api_gives_what_the_command_line_gives(
    toy: Path, collection: Path, tmp_path: Path
) -> None:
    settings = {"model": str(toy), "mode": "small", "max_tokens": 24, "keep_tokens": True}
    settings |= {"device": "cpu", "dtype": "float32"}
    told = convert(toy, collection, "-o", tmp_path / "cli", "--mode", "small", "--keep-tokens")
    assert told.returncode == 0, told.stderr
    for ranks, name in ((1, "one"), (2, "two")):
        tally = package.convert([collection], tmp_path / name, gpus=ranks, **settings)
        assert tally.exit_code() == 0
        assert tree(tmp_path / name) == tree(tmp_path / "cli")
    pages = list(package.iter_pages([collection], **settings))
    stored = page_records(tmp_path / "cli")
    assert len(pages) == len(stored)
    by_name = {f"{page.source.path}/page-{page.page:04d}.json": page for page in pages}
    for name, record in stored.items():
        assert by_name[name].markdown == record["markdown"]
        assert list(by_name[name].token_ids) == record["token_ids"]


def test_a_checkpoint_chooses_what_the_run_does_not(
    toy: Path, collection: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(toy, own)
    wishes = {"name": "docr-toy", "mode": "tiny", "task": "ocr", "preview": "it reads nothing"}
    (own / "docr.json").write_text(json.dumps(wishes))
    home = fresh_home(tmp_path / "home")
    assert docr("models", "use", own, env=home).returncode == 0
    command = ("convert", collection / "b.pdf", "--max-tokens", "8", "-o", tmp_path / "out")

    planned = docr(*command, "--dry-run", env=home)
    assert "146 vision tokens" in planned.stdout  # two pages in the mode tiny

    done = docr(*command, env=home)
    assert done.returncode == 0, done.stderr
    first, second, last = done.stderr.splitlines()
    assert first.startswith("docr: docr-toy (local-")
    assert second == (
        "docr: note: docr-toy is a small preview (it reads nothing); the full model reads far "
        "better: docr models pull deepseek-ocr, then docr models use deepseek-ocr"
    )
    assert "2 pages" in last
    for record in page_records(tmp_path / "out").values():
        assert (record["model"]["name"], record["mode"]) == ("docr-toy", "tiny")

    said = docr(*command, "--mode", "tiny", "--task", "ocr", "-q", env=home)
    assert (said.returncode, said.stderr) == (0, "")  # the same settings, said or not
    assert docr(*command, "--task", "markdown", env=home).returncode == 8

    (own / "docr.json").write_text('{"mode": "huge"}')
    refused = docr(*command, env=home)
    assert refused.returncode == 7 and "docr.json: mode is one of tiny" in refused.stderr


def test_locate_needs_its_words_and_prompts_travel(
    toy: Path, collection: Path, tmp_path: Path
) -> None:
    page = collection / "c.png"
    located = convert(
        toy, page, "-o", tmp_path / "l", "--mode", "tiny", "--task", "locate", "--query", "total"
    )
    assert located.returncode == 0, located.stderr
    raw = convert(toy, page, "-o", tmp_path / "r", "--mode", "tiny", "--prompt", "<image>\nRead.")
    assert raw.returncode == 0, raw.stderr


def test_a_damaged_checkpoint_is_refused_before_any_page(
    toy: Path, collection: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(toy, cut)
    shard = next(cut.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    done = convert(cut, collection, "-o", tmp_path / "out", "--mode", "tiny")
    assert done.returncode == 7, done.stderr
    assert shard.name in done.stderr and "Traceback" not in done.stderr
    assert not page_records(tmp_path / "out")


def test_the_records_of_a_run_keep_to_the_schema(
    toy: Path, collection: Path, tmp_path: Path
) -> None:
    from docr.output.record import PageRecord

    out = tmp_path / "out"
    convert(toy, collection, "-o", out, "--mode", "tiny")
    schema = json.loads(docr("schema").stdout)
    assert schema["$defs"]["PageRecord"]["properties"]["state"]
    for record in page_records(out).values():
        PageRecord.model_validate(record, strict=False)


@pytest.mark.faults
def test_killed_three_times_with_a_network(toy: Path, tmp_path: Path) -> None:
    source = text_pdf(tmp_path / "a.pdf", pages=40)
    options = ("--model", toy, "--device", "cpu", "--dtype", "fp32", "--max-tokens", "24")
    command = ("convert", *options, "--mode", "tiny", source, "-o")
    assert docr(*command, tmp_path / "whole").returncode == 0
    out = tmp_path / "out"
    for count in (2, 14, 29):
        process = start(*command, out)
        wait_for_records(out, count)
        before = inodes(out)
        process.kill()
        process.wait()
        assert count <= len(page_files(out)) < 40
    assert docr(*command, out).returncode == 0
    records = [name for name in before if name.endswith(".json")]
    assert {name: inodes(out)[name] for name in records} == {name: before[name] for name in records}
    assert tree(out) == tree(tmp_path / "whole")
