"""Weights laid out for a CPU's products, packed once instead of in every call.

oneDNN multiplies packed weights; F.linear packs a bf16 weight anew each time, which for the few
rows of a decoding step takes as long as reading it. The operators that pack once and multiply are
not documented by torch, so they are tried before they are relied on.

In int8 there is half as much to read. Weights have a scale for each output, activations one for
all rows of a call, chosen anew each time: the text of a page then depends a little on the pages
that are read together with it.
"""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from docr.engine.model.decoder import Experts
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.errors import DeviceError

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


class Int8Linear(nn.Module):
    """What nn.Linear computes, roughly: weights and activations of 8 bits.

    Args:
        weight: [out,in]; not kept.
        bias: [out].
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        wide = weight.detach().float()
        scales = wide.abs().amax(1).clamp_(min=1e-12) / 127
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        quantized = torch.quantize_per_channel(wide, scales, zeros, 0, torch.qint8)
        wide_bias = None if bias is None else bias.detach().float()
        self._packed = torch.ops.quantized.linear_prepack(quantized, wide_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each row of x [...,in]."""
        out: Tensor = torch.ops.quantized.linear_dynamic(x.float(), self._packed)
        return out.to(x.dtype)


PackedKind = type[PackedLinear] | type[Int8Linear]


class PackedExperts(nn.Module):
    """What Experts computes."""

    def __init__(self, experts: Experts, kind: PackedKind) -> None:
        super().__init__()
        self._gate_up = [kind(weight) for weight in experts.gate_up_proj]
        self._down = [kind(weight) for weight in experts.down_proj]

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """One expert's output [n,D] for the rows x [n,D] that chose it."""
        gate, up = self._gate_up[expert](x).chunk(2, dim=-1)
        out: Tensor = self._down[expert](F.silu(gate) * up)
        return out


def pack(model: DeepseekOCR, *, int8: bool = False) -> bool:
    """Pack the weights of a bf16 model on a CPU, in place; whether this torch can.

    Each weight is given back as soon as its packed form is there.

    Args:
        model: is changed.
        int8: the decoder's in 8 bits; the encoder's, which are read once a page, never.

    Raises:
        DeviceError: 8 bits are asked for, and this torch cannot.
    """
    if int8:
        if not can_pack(Int8Linear):
            raise DeviceError("this build of torch has no 8-bit products; leave --quantize out")
        _pack(model.decoder, Int8Linear)
        model.lm_head = Int8Linear(model.lm_head.weight)  # type: ignore[assignment]
    if not can_pack(PackedLinear):
        log.info("this build of torch cannot pack weights; reading on the CPU will be slower")
        return False
    _pack(model, PackedLinear)
    return True


def _pack(model: nn.Module, kind: PackedKind) -> None:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, kind(child.weight, child.bias))
            elif isinstance(child, Experts):
                setattr(module, name, PackedExperts(child, kind))


def can_pack(kind: PackedKind) -> bool:
    """Whether this build of torch has the operators, and they compute what F.linear does."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 64, generator=generator).bfloat16() for n in (3, 32))
    try:
        packed = kind(weight)(x)
    except (AttributeError, RuntimeError):
        return False
    # Values of deviation 8; 8 bits err by 0.1 of that at most.
    return torch.allclose(packed, F.linear(x, weight), rtol=0.02, atol=0.8)
