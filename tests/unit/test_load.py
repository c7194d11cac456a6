"""A checkpoint either loads whole or is refused with one line that says what is wrong."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from docr.engine.model.load import INDEX, checkpoint_tensors, load_model
from docr.errors import CheckpointError
from scripts.make_random_checkpoint import SHARD, toy_config, write_checkpoint

NORM = "model.norm.weight"
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path, toy_config(), dtype="bf16")
    return tmp_path


def load(folder: Path, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    return checkpoint_tensors(load_model(folder, device="cpu", dtype=dtype))


def refusal(folder: Path, dtype: torch.dtype = torch.bfloat16) -> str:
    """The message with which the folder is refused; one line that names the folder."""
    with pytest.raises(CheckpointError) as caught:
        load_model(folder, device="cpu", dtype=dtype)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Change the tensors of a checkpoint that has one shard and no index."""
    tensors = load_file(folder / SHARD)
    change(tensors)
    save_file(tensors, folder / SHARD)
    (folder / INDEX).unlink()


def test_every_tensor_arrives(folder: Path) -> None:
    stored = load_file(folder / SHARD)
    del stored["model.vision_model.embeddings.patch_embedding.weight"]
    loaded = load(folder)
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)


def test_a_loaded_model_is_ready_for_inference(folder: Path) -> None:
    model = load_model(folder, device="cpu", dtype=torch.bfloat16)
    assert not model.training
    assert all(
        p.device.type == "cpu" and p.dtype == torch.bfloat16 and not p.requires_grad
        for p in model.parameters()
    )


@pytest.mark.parametrize("stored", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_any_dtype_to_any(tmp_path: Path, stored: str, dtype: torch.dtype) -> None:
    write_checkpoint(tmp_path, toy_config(), dtype=stored)
    expected = load_file(tmp_path / SHARD)
    loaded = load(tmp_path, dtype)
    assert all(torch.equal(loaded[name], expected[name].to(dtype)) for name in loaded)


def test_shards_and_extra_buffers(folder: Path) -> None:
    expected = load(folder)
    tensors = load_file(folder / SHARD)
    del tensors["model.vision_model.embeddings.patch_embedding.weight"]  # unused: may be absent
    tensors["model.vision_model.embeddings.position_ids"] = torch.arange(257)[None]
    names, weight_map = sorted(tensors), {}
    (folder / SHARD).unlink()
    for i in range(3):
        shard = f"model-0000{i + 1}-of-00003.safetensors"
        save_file({name: tensors[name] for name in names[i::3]}, folder / shard)
        weight_map |= dict.fromkeys(names[i::3], shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    loaded = load(folder)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_of_a_tensor_stored_twice_the_index_chooses(folder: Path) -> None:
    expected = load(folder)
    save_file({NORM: torch.zeros(64, dtype=torch.bfloat16)}, folder / "a.safetensors")
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    index["weight_map"]["model.vision_model.embeddings.position_ids"] = "a.safetensors"
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    assert torch.equal(load(folder)[NORM], expected[NORM])


def test_a_single_file_needs_no_index(folder: Path) -> None:
    (folder / INDEX).unlink()
    (folder / SHARD).rename(folder / "model.safetensors")
    load(folder)


def test_nothing_there(tmp_path: Path) -> None:
    assert "config.json: not found" in refusal(tmp_path)


def test_no_weights(folder: Path) -> None:
    (folder / INDEX).unlink()
    (folder / SHARD).rename(folder / "pytorch_model.bin")
    assert "no weights" in refusal(folder)


def test_shards_without_index(folder: Path) -> None:
    (folder / INDEX).unlink()
    (folder / "other.safetensors").write_bytes((folder / SHARD).read_bytes())
    assert f"2 *.safetensors files but no {INDEX}" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": 1}'])
def test_damaged_index(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text, encoding="utf-8")
    assert INDEX in refusal(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "", "config.json", 1])
def test_an_index_does_not_lead_out_of_the_folder(folder: Path, name: object) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {NORM: name}}), encoding="utf-8")
    assert "no safetensors file of this folder" in refusal(folder)


def test_missing_shard(folder: Path) -> None:
    (folder / SHARD).unlink()
    assert f"{SHARD}: missing" in refusal(folder)


@pytest.mark.parametrize("left", [0.0, 0.00001, 0.01, 0.5, 0.999999])
def test_shard_cut_short(folder: Path, left: float) -> None:
    data = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(data[: int(len(data) * left)])
    assert re.search(f"{SHARD}: .*cut short", refusal(folder))


def test_shard_with_something_appended(folder: Path) -> None:
    with (folder / SHARD).open("ab") as file:
        file.write(b"\0")
    assert "longer than its header says" in refusal(folder)


def test_git_lfs_pointer(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / SHARD).write_text(pointer, encoding="utf-8")
    assert "git lfs pull" in refusal(folder)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "BF16", "shape": [64], "data_offsets": [0, 127]},
        {"dtype": "BF16", "shape": [64], "data_offsets": [128, 0]},
        {"dtype": "BF16", "shape": [-64], "data_offsets": [0, 128]},
        {"dtype": "BF16", "shape": [64]},
        {"dtype": "BF16", "shape": 64, "data_offsets": [0, 128]},
        {"dtype": "BF16", "shape": ["x"], "data_offsets": [0, 128]},
        [],
    ],
)
def test_damaged_header(folder: Path, entry: object) -> None:
    header = json.dumps({NORM: entry}).encode()
    (folder / SHARD).write_bytes(len(header).to_bytes(8, "little") + header + bytes(128))
    assert re.search(f"{SHARD}: damaged header.*{NORM}", refusal(folder))


def test_missing_and_unknown_tensors_are_named(folder: Path) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        tensors["model.qwen2_model.query_768.weight"] = tensors.pop(EXPERT)

    rewrite(folder, rename)
    message = refusal(folder)
    assert f"1 missing (first: {EXPERT})" in message
    assert "1 unknown (first: model.qwen2_model.query_768.weight)" in message


def test_wrong_shape(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({EXPERT: torch.zeros(3, 64)}))
    assert f"{EXPERT} [3, 64] instead of [32, 64]" in refusal(folder)


def test_quantised_weights(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({EXPERT: torch.zeros(32, 64).to(torch.int8)}))
    assert re.search(rf"{EXPERT} is stored as I8; docr reads BF16, F16, F32", refusal(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_values_that_are_no_numbers(folder: Path, value: float, dtype: torch.dtype) -> None:
    rewrite(folder, lambda tensors: tensors[EXPERT][31, 63].fill_(value))
    assert re.search(rf"{SHARD}: {EXPERT} holds values that are not finite", refusal(folder, dtype))


def test_values_too_large_for_the_dtype(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors[EXPERT][0, 0].fill_(1e6))
    load(folder, torch.bfloat16)
    assert "float16" in refusal(folder, torch.float16)


def test_large_values_are_not_taken_for_infinite(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors[EXPERT].fill_(3e38))  # their sum is infinite in fp32
    assert load(folder)[EXPERT].isfinite().all()


PEAK_GROWTH = """
import sys
from pathlib import Path
import torch
from docr.engine.model.load import load_model

def peak():  # highest resident size of this process so far, mapped files included
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

warm, folder = map(Path, sys.argv[1:])
load_model(warm, device="cpu", dtype=torch.bfloat16)  # what torch itself loads lazily
before = peak()
for dtype in (torch.bfloat16, torch.float16):  # as stored, and converted
    model = load_model(folder, device="cpu", dtype=dtype)
    print(peak() - before, sum(2 * p.numel() for p in model.parameters()))
    del model
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_loading_takes_little_more_memory_than_the_weights(tmp_path: Path) -> None:
    config = toy_config()
    decoder = config["language_config"]
    decoder |= {"hidden_size": 512, "moe_intermediate_size": 512, "n_routed_experts": 64}
    write_checkpoint(tmp_path / "warm", toy_config())
    write_checkpoint(tmp_path / "medium", config)
    out = subprocess.run(
        [sys.executable, "-c", PEAK_GROWTH, str(tmp_path / "warm"), str(tmp_path / "medium")],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    ).stdout
    for line in out.splitlines():
        growth, weights = map(int, line.split())
        assert weights > 200e6
        assert growth < 1.3 * weights
