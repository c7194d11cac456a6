"""Weights laid out by oneDNN: the same numbers, or nearly the same in 8 bits."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from docr.engine.config import EngineConfig
from docr.engine.factory import resolved_dtype
from docr.engine.model.decoder import Experts
from docr.engine.model.deepencoder import SamMlp
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.model.layout import lay_out
from docr.engine.model.load import load_model
from docr.engine.model.packed import (
    Int8Linear,
    PackedExperts,
    PackedLinear,
    PackedSamMlp,
    packs,
)
from docr.engine.native import products
from docr.errors import UsageError
from scripts.make_random_checkpoint import toy_config, write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_checkpoint(folder, toy_config(), dtype="fp32")
    return folder


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "library", lambda: None)


def toy(folder: Path, dtype: torch.dtype) -> DeepseekOCR:
    return load_model(folder, device="cpu", dtype=dtype)


@torch.inference_mode()
def logits(model: DeepseekOCR, rows: int) -> torch.Tensor:
    ids = torch.arange(rows * 7).view(rows, 7) % model.config.vocab_size
    return model.logits(model(model.embed(ids), torch.arange(7).expand(rows, 7)))


@pytest.mark.parametrize("rows", [1, 5, 30])
def test_packed_weights_give_the_same_bits(folder: Path, rows: int) -> None:
    model = toy(folder, torch.bfloat16)
    before = logits(model, rows)
    lay_out(model, "none")
    if isinstance(model.lm_head, torch.nn.Linear):
        pytest.skip("oneDNN does not multiply in bf16 on this processor")
    assert isinstance(model.lm_head, PackedLinear)
    assert not any(type(m) in (torch.nn.Linear, Experts) for m in model.decoder.modules())
    assert torch.equal(logits(model, rows), before)


@pytest.mark.parametrize("side", [8, 10])  # of the map of tokens
@torch.inference_mode()
def test_the_encoder_sees_the_same(folder: Path, side: int) -> None:
    torch.manual_seed(0)
    model = toy(folder, torch.bfloat16)
    px = side * model.config.sam.px_per_token
    views = torch.randint(0, 256, (2, 3, px, px), dtype=torch.uint8)
    before, exact = model.encode_views(views), toy(folder, torch.float32).encode_views(views)
    lay_out(model, "none")
    if any(isinstance(module, torch.nn.Linear) for module in model.encoder.modules()):
        pytest.skip("oneDNN does not multiply in bf16 on this processor")
    after = model.encode_views(views)
    error = (after.float() - exact).norm() / exact.norm()
    assert error < 1.1 * (before.float() - exact).norm() / exact.norm()


@torch.inference_mode()
def test_gelu_is_the_exact_one() -> None:
    mlp = SamMlp(32, 128).bfloat16()
    if not packs(mlp.lin1.weight):
        pytest.skip("oneDNN does not multiply in bf16 on this processor")
    x = torch.randn(3, 4, 4, 32).bfloat16()
    exact, packed = deepcopy(mlp).float()(x.float()), PackedSamMlp(mlp)(x)
    assert (packed - exact).norm() / exact.norm() < 5e-3


def test_other_dtypes_stay_as_they_are(folder: Path) -> None:
    model = toy(folder, torch.float32)
    lay_out(model, "none")
    assert isinstance(model.lm_head, torch.nn.Linear)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_eight_bits_are_near(folder: Path, dtype: torch.dtype) -> None:
    model = toy(folder, dtype)
    before = logits(model, 4)
    lay_out(model, "int8")
    assert any(isinstance(module, PackedExperts) for module in model.decoder.modules())
    error = (logits(model, 4) - before).norm() / before.norm()
    assert 1e-4 < error < 0.05


@torch.inference_mode()
def test_each_row_has_its_own_scale() -> None:
    torch.manual_seed(0)
    weight = torch.randn(96, 64) * torch.logspace(-4, 2, 96)[:, None]
    x = torch.randn(3, 5, 64) * torch.logspace(-3, 3, 5)[:, None]
    x[1, 2] = 0.0
    got, wanted = Int8Linear(weight)(x), F.linear(x, weight)
    assert got.shape == wanted.shape and not got[1, 2].any()
    error = (got - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp(min=1e-9)
    assert error.max() < 0.03
    worst = (got - wanted).abs().amax((0, 1)) / wanted.abs().amax((0, 1))
    assert worst.max() < 0.05  # of every output, small or large


def test_records_say_so() -> None:
    config = EngineConfig(model_dir=None, device="cpu", dtype="bfloat16", quantize="int8")
    assert resolved_dtype(config) == "bfloat16+int8"


def test_it_is_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = EngineConfig(model_dir=None, device="cuda", quantize="int8")
    with pytest.raises(UsageError, match="--quantize int8 is for --device cpu"):
        resolved_dtype(config)
