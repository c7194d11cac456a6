"""`docr models` against a hub on loopback: pull, resume, check, work offline, fail in one line."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from docr.models.catalogue import CATALOGUE, DEFAULT_MODEL, FULL_MODEL, HubModel
from tests.fakes.hub import COMMIT, FakeHub

pytestmark = pytest.mark.e2e

ENTRY = CATALOGUE[FULL_MODEL]
assert isinstance(ENTRY, HubModel)
REPO = ENTRY.repo
SHARD = "model-00001-of-000001.safetensors"
SIZE = 24_000_000  # the hub library writes pieces of 10 MB


def _shard() -> bytes:
    """A safetensors file with one tensor."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [SIZE], "data_offsets": [0, SIZE]}})
    data = bytes(range(251)) * (SIZE // 251 + 1)
    return len(header).to_bytes(8, "little") + header.encode() + data[:SIZE]


FILES = {
    "config.json": b'{"model_type": "deepseek_vl_v2"}',
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b"{}",
    "model.safetensors.index.json": json.dumps({"weight_map": {"w": SHARD}}).encode(),
    SHARD: _shard(),
    "modeling_deepseekocr.py": b"raise SystemExit('code of the repository was run')",
    "README.md": b"# a model",
}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(REPO, FILES) as hub:
        yield hub


class Docr:
    """The command line with a home of its own."""

    def __init__(self, home: Path, endpoint: str) -> None:
        self.home = home
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "DOCR_", "XDG_"))}
        self.environ = clean | {
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": endpoint,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "no_proxy": "*",
        }

    def start(self, *arguments: str, **environ: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "docr", "models", *arguments],
            env=self.environ | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **environ)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


@pytest.fixture
def docr(hub: FakeHub, tmp_path: Path) -> Docr:
    return Docr(tmp_path, hub.endpoint)


def _downloads(hub: FakeHub) -> list[dict[str, str]]:
    """Headers of all requests for the weights."""
    return [headers for method, path, headers in hub.requests if path.startswith("/lfs/")]


def _part_size(docr: Docr) -> int:
    return sum(part.stat().st_size for part in (docr.home / "hf").rglob("*.docr-part"))


def test_pull_then_work_offline(hub: FakeHub, docr: Docr) -> None:
    code, out, err = docr("path", FULL_MODEL)
    assert (code, out) == (7, "")
    assert err.count("\n") == 1 and err.endswith("get it by: docr models pull deepseek-ocr\n")

    code, out, err = docr("pull", FULL_MODEL)
    assert code == 0, err
    folder = Path(out.strip())
    assert folder.name == COMMIT and (docr.home / "hf") in folder.parents
    for name in FILES:
        wanted = not name.endswith((".py", ".md"))
        assert (folder / name).exists() == wanted, name  # data only, never code
        assert not wanted or (folder / name).read_bytes() == FILES[name]

    hub.requests.clear()
    assert docr("path", FULL_MODEL, HF_HUB_OFFLINE="1")[:2] == (0, out)
    assert docr("pull", FULL_MODEL)[:2] == (0, out)  # here and checked: no need of the network
    assert docr("pull", FULL_MODEL, HF_HUB_OFFLINE="1")[:2] == (0, out)
    code, said, _ = docr("verify", FULL_MODEL, HF_HUB_OFFLINE="1")
    assert code == 0 and "5 files" in said
    listed = json.loads(docr("list", "--json")[1])
    paths = {model["name"]: model["path"] for model in listed}
    assert paths[FULL_MODEL] == str(folder)
    assert hub.requests == []


def test_broken_download_goes_on_where_it_stopped(hub: FakeHub, docr: Docr) -> None:
    hub.stall_after = SIZE // 2
    process = docr.start("pull", FULL_MODEL)
    assert hub.stalled.wait(30), process.communicate(timeout=5)
    deadline = time.monotonic() + 30
    while not _part_size(docr) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    have = _part_size(docr)
    assert 0 < have <= SIZE // 2
    assert docr("path", FULL_MODEL)[0] == 7  # half a model is none

    hub.release()
    code, out, err = docr("pull", FULL_MODEL)
    assert code == 0, err
    assert _downloads(hub)[-1]["Range"] == f"bytes={have}-"
    assert (Path(out.strip()) / SHARD).read_bytes() == FILES[SHARD]
    assert list((docr.home / "hf").rglob("*.docr-part*")) == []


def test_dropped_connection_is_taken_up_again(hub: FakeHub, docr: Docr) -> None:
    hub.drop_after = SIZE // 2
    code, out, err = docr("pull", FULL_MODEL)
    assert code == 0, err
    assert len(_downloads(hub)) == 2 and "Range" in _downloads(hub)[1]
    assert (Path(out.strip()) / SHARD).read_bytes() == FILES[SHARD]


def test_damaged_download_is_found_and_dropped(hub: FakeHub, docr: Docr) -> None:
    hub.corrupt.add(SHARD)
    code, out, err = docr("pull", FULL_MODEL)
    assert (code, out) == (7, "")
    assert "sha256" in err and SHARD in err and err.count("\n") == 1
    assert docr("path", FULL_MODEL)[0] == 7
    hub.corrupt.clear()
    assert docr("pull", FULL_MODEL)[0] == 0


def test_verify_finds_what_changed_later(hub: FakeHub, docr: Docr) -> None:
    folder = Path(docr("pull", FULL_MODEL)[1].strip())
    shard = (folder / SHARD).resolve()
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    code, _, err = docr("verify", FULL_MODEL)
    assert code == 7 and SHARD in err and "docr models pull" in err


def test_token_goes_to_the_hub_only(hub: FakeHub, docr: Docr) -> None:
    assert docr("pull", FULL_MODEL)[0] == 0
    assert not any("authorization" in map(str.lower, headers) for _, _, headers in hub.requests)
    hub.requests.clear()
    assert docr("pull", FULL_MODEL, HF_TOKEN="hf_secret", HF_HOME=str(docr.home / "other"))[0] == 0
    sent = {
        path.startswith("/lfs/"): {k.lower(): v for k, v in headers.items()}.get("authorization")
        for _, path, headers in hub.requests
    }
    assert sent == {False: "Bearer hf_secret", True: None}


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        (["pull", FULL_MODEL, "--revision", "nowhere"], {}, "no revision nowhere"),
        (["pull", FULL_MODEL], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
        (["pull", FULL_MODEL], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        (["pull", "deepseek-orc"], {}, "did you mean deepseek-ocr?"),
        (["use", "deepsek-ocr"], {}, "did you mean deepseek-ocr?"),
        (["verify", FULL_MODEL], {}, "docr models pull deepseek-ocr"),
        (["path", "mini", "--revision", "main"], {}, "--revision is for models of the hub"),
    ],
)
def test_failures_are_one_line_and_exit_7(
    docr: Docr, arguments: list[str], environ: dict[str, str], words: str
) -> None:
    code, out, err = docr(*arguments, **environ)
    assert (code, out) == (7, ""), err
    assert words in err and err.count("\n") == 1 and "Traceback" not in err


def test_repository_that_is_not_there(docr: Docr, hub: FakeHub) -> None:
    hub.repo = "somebody/else"
    code, _, err = docr("pull", FULL_MODEL)
    assert code == 7 and REPO in err and err.count("\n") == 1


def test_branch_is_resolved_to_its_commit(docr: Docr) -> None:
    code, out, err = docr("pull", FULL_MODEL, "--revision", "main")
    assert code == 0, err
    assert Path(out.strip()).name == COMMIT
    assert docr("path", FULL_MODEL, "--revision", "main", HF_HUB_OFFLINE="1")[:2] == (0, out)


def test_use_remembers_a_folder(docr: Docr) -> None:
    folder = docr.home / "mine"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors.index.json", SHARD):
        (folder / name).write_bytes(FILES[name])
    assert docr("use", str(folder))[0] == 0
    assert docr("path")[1] == f"{folder}\n"
    assert docr("pull")[0] == 7  # a folder is fetched from nowhere
    assert docr("verify")[1].endswith(": no digests are known\n")
    assert docr("use", FULL_MODEL)[0] == 0
    code, _, err = docr("path")
    assert code == 7 and f"the weights of {FULL_MODEL}" in err
    assert [
        model["name"] for model in json.loads(docr("list", "--json")[1]) if model["chosen"]
    ] == [FULL_MODEL]


def test_mini_is_used_until_another_is_chosen(docr: Docr) -> None:
    listed = {model["name"]: model for model in json.loads(docr("list", "--json")[1])}
    mini = listed[DEFAULT_MODEL]
    assert mini["chosen"] and not listed[FULL_MODEL]["chosen"]
    assert (mini["repo"], mini["licence"]) == (None, "MIT")
    assert f"* {DEFAULT_MODEL}  " in docr("list")[1]
