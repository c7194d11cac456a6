"""Packed weights compute what the unpacked ones do, and the unpacked ones are gone."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from docr.engine.model import packed
from docr.engine.model.decoder import Experts
from docr.engine.model.load import load_model
from docr.engine.model.packed import PackedExperts, PackedLinear, can_pack, pack
from scripts.make_random_checkpoint import toy_config, write_checkpoint

pytestmark = pytest.mark.skipif(not can_pack(), reason="this torch cannot pack weights")

CLOSE = {"rtol": 0.02, "atol": 0.02}  # bf16 has 8 bits


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).mul(0.2).bfloat16()


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(1,), (3,), (40,), (2, 7), (300,)])
@pytest.mark.parametrize("biased", [True, False])
def test_a_packed_linear_is_a_linear(shape: tuple[int, ...], biased: bool) -> None:
    x, weight, bias = random(*shape, 96), random(80, 96), random(80) if biased else None
    torch.testing.assert_close(PackedLinear(weight, bias)(x), F.linear(x, weight, bias), **CLOSE)


@torch.inference_mode()
def test_packed_experts_are_the_experts() -> None:
    experts = Experts(3, 64, 32).bfloat16()
    experts.gate_up_proj.data, experts.down_proj.data = random(3, 64, 64), random(3, 64, 32)
    both = PackedExperts(experts)
    for expert in range(3):
        x = random(expert + 1, 64)
        torch.testing.assert_close(both(x, expert), experts(x, expert), **CLOSE)


@torch.inference_mode()
def test_a_packed_model_reads_alike_and_holds_its_weights_once(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, toy_config())
    models = [load_model(tmp_path, device="cpu", dtype=torch.bfloat16) for _ in range(2)]
    kept = sum(p.numel() for p in models[0].parameters())
    assert pack(models[1])
    left = sum(p.numel() for p in models[1].parameters())
    unpacked = {id(p) for p in models[1].parameters()}
    assert not [m for m in models[1].modules() if isinstance(m, torch.nn.Linear | Experts)]
    assert left < kept / 2 and len(unpacked) > 0
    views = torch.randint(0, 256, (1, 3, 512, 512), dtype=torch.uint8)
    logits = []
    for model in models:
        x = torch.cat((model.encode_views(views), model.embed(torch.arange(30)[None])), 1)
        logits.append(model.logits(model(x, torch.arange(x.shape[1])[None])))
    error = (logits[1] - logits[0]).square().mean() / logits[0].square().mean()
    assert float(error) < 1e-3


def test_a_torch_without_the_operators_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise AttributeError("_OpNamespace 'mkldnn' has no attribute '_reorder_linear_weight'")

    monkeypatch.setattr(packed, "PackedLinear", missing)
    assert not can_pack()


def test_operators_that_compute_something_else_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Wrong(PackedLinear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 1.5

    monkeypatch.setattr(packed, "PackedLinear", Wrong)
    assert not can_pack()
