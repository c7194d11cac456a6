"""Weights laid out for a CPU's bf16 products, packed once instead of in every call.

oneDNN multiplies packed weights; F.linear packs a bf16 weight anew each time, which for the few
rows of a decoding step takes as long as reading it. The two operators that pack once and multiply
are private to torch, so they are tried before they are relied on.
"""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from docr.engine.model.decoder import Experts
from docr.engine.model.deepseek_ocr import DeepseekOCR

log = logging.getLogger(__name__)


class PackedLinear(nn.Module):
    """What nn.Linear computes, to the rounding of bf16; for inference only.

    Args:
        weight: bf16 [out,in]; not kept.
        bias: [out].
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        # Packed for one row, which is also right for many.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 1)
        self._bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Transform each row of x [...,in]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, "none", [], ""
        )
        return out


class PackedExperts(nn.Module):
    """What Experts computes."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self._gate_up = [PackedLinear(weight) for weight in experts.gate_up_proj]
        self._down = [PackedLinear(weight) for weight in experts.down_proj]

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """One expert's output [n,D] for the rows x [n,D] that chose it."""
        gate, up = self._gate_up[expert](x).chunk(2, dim=-1)
        out: Tensor = self._down[expert](F.silu(gate) * up)
        return out


def pack(model: DeepseekOCR) -> bool:
    """Pack the weights of a bf16 model on a CPU, in place; whether this torch can.

    Each weight is given back as soon as its packed form is there.
    """
    if not can_pack():
        log.info("this build of torch cannot pack weights; decoding on the CPU will be slower")
        return False
    _pack_children(model)
    return True


def _pack_children(module: nn.Module) -> None:
    # By name: a list of the modules themselves would keep all the unpacked weights to the end.
    for name in [name for name, _ in module.named_children()]:
        child = module.get_submodule(name)
        if isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child.weight, child.bias))
        elif isinstance(child, Experts):
            setattr(module, name, PackedExperts(child))
        else:
            _pack_children(child)


def can_pack() -> bool:
    """Whether this build of torch has the operators, and they compute what F.linear does."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 64, generator=generator).bfloat16() for n in (3, 32))
    try:
        packed = PackedLinear(weight)(x)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(packed, F.linear(x, weight), rtol=0.02, atol=0.05)
