"""Weights laid out once by oneDNN, for CPUs.

The encoder's, and where docr's own kernels are not to be had, the decoder's.

Without it every product would lay its matrix out anew, which for a few tokens takes longer than the
product, and for a view's 4096 a tenth of it. In bf16 the results are the same bits; with 8-bit
weights they differ a little, and half as many bytes are read.

The operators are private ones of torch, those that its compiler uses. Where they are missing,
models stay as they are.
"""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from docr.engine.model.decoder import Experts
from docr.engine.model.deepencoder import DeepEncoder, SamMlp
from docr.settings import Quantize

Packed = TypeVar("Packed", "PackedLinear", "Int8Linear")

FEW = 1
"""Rows that oneDNN is told to expect: a layout made for few serves many as well."""

MANY = 4096
"""The same in the encoder: the tokens of a view of 1024 px."""

LEAST_ROWS = 6
"""Rows that a product is made with at least, the rest of them zeros. Weights that lie in memory are
read faster by oneDNN's kernel for six rows than by that for one, by a fifth to a third on Zen 4;
and a page's result is then the same in small batches as alone."""


class PackedLinear(nn.Module):
    """x W^T + b in bf16.

    Args:
        then: "gelu", the exact one, of what is not rounded yet; or "none".
        rows: about how many there will be.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, *, then: str = "none", rows: int = FEW
    ) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        self._bias, self._then = bias, then

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each row of x [...,I]."""
        rows = x.reshape(-1, x.shape[-1])
        return self._product(_padded(rows))[: len(rows)].view(*x.shape[:-1], -1)

    @staticmethod
    def each(matrices: Iterable["PackedLinear"], x: Tensor, sizes: list[int]) -> Tensor:
        """Multiply the first sizes[0] rows of x [n,I] with the first matrix, and so on."""
        return torch.cat([matrix._product(rows) for matrix, rows in _parts(matrices, x, sizes)])

    def _product(self, rows: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._packed, self._bias, self._then, [], "none"
        )
        return out


class PackedSamMlp(SamMlp):
    """With its GELU in the first product."""

    lin1: PackedLinear  # type: ignore[assignment]  # in place of a linear layer
    lin2: PackedLinear  # type: ignore[assignment]

    def __init__(self, mlp: SamMlp) -> None:
        nn.Module.__init__(self)
        self.lin1, self.lin2 = _of_encoder(mlp.lin1, "gelu"), _of_encoder(mlp.lin2)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each row of x [...,C]."""
        out: Tensor = self.lin2(self.lin1(x))
        return out


def _of_encoder(linear: nn.Linear, then: str = "none") -> PackedLinear:
    return PackedLinear(linear.weight, linear.bias, then=then, rows=MANY)


def pack_encoder(encoder: DeepEncoder) -> None:
    """Lay out the weights of its linear layers, in bf16 on a CPU."""
    for module in list(encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, SamMlp):
                setattr(module, name, PackedSamMlp(child))
            elif isinstance(child, nn.Linear):
                setattr(module, name, _of_encoder(child))


class Int8Linear(nn.Module):
    """x W^T with both in 8 bits: each row of W has its scale, and each row of x, found as it comes.

    Products are summed as integers; the result has x's dtype.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._scales = _scales(weight)[:, 0]
        whole = (weight.float() / self._scales[:, None]).round_().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(whole, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each row of x [...,I]."""
        rows = x.reshape(-1, x.shape[-1])
        whole, scales = _whole(_padded(rows))
        out = self._product(whole)[: len(rows)].mul_(scales[: len(rows)])
        return out.to(x.dtype).view(*x.shape[:-1], -1)

    @staticmethod
    def each(matrices: Iterable["Int8Linear"], x: Tensor, sizes: list[int]) -> Tensor:
        """Multiply the first sizes[0] rows of x [n,I] with the first matrix, and so on."""
        whole, scales = _whole(x)
        parts = _parts(matrices, whole, sizes)
        out = torch.cat([matrix._product(rows) for matrix, rows in parts])
        return out.mul_(scales).to(x.dtype)

    def _product(self, whole: Tensor) -> Tensor:
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(whole, 1.0, 128),
            *(self._packed, self._scales, self._zeros, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        return out


def _parts(
    matrices: Iterable[Packed], x: Tensor, sizes: list[int]
) -> Iterator[tuple[Packed, Tensor]]:
    """Matrices and their rows of x, without those that have none: in decoding, most."""
    asked = [(matrix, size) for matrix, size in zip(matrices, sizes, strict=True) if size]
    parts = torch.split(x, [size for _, size in asked])
    return ((matrix, rows) for (matrix, _), rows in zip(asked, parts, strict=True))


def _padded(rows: Tensor) -> Tensor:
    missing = LEAST_ROWS - len(rows)
    return F.pad(rows, (0, 0, 0, missing)) if missing > 0 else rows


def _whole(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [R,I] in units of their scales [R,1], rounded, u8 with 128 for zero."""
    scales = _scales(rows)
    return (rows / scales).add_(128.5).to(torch.uint8), scales  # all positive: cutting off rounds


def _scales(rows: Tensor) -> Tensor:
    """What 1 of 127 stands for in each row of [R,I], fp32 [R,1]."""
    return rows.abs().amax(-1, keepdim=True).float().clamp_(min=1e-12) / 127


class PackedExperts(Experts):
    """Routed experts, each with its own packed matrices."""

    least_rows = LEAST_ROWS

    def __init__(self, experts: Experts, pack: type[PackedLinear | Int8Linear]) -> None:
        nn.Module.__init__(self)  # not Experts', which would make weights
        self.count = experts.count
        self._each: Any = pack.each
        self._gate_up = [pack(weight) for weight in experts.gate_up_proj]
        self._down = [pack(weight) for weight in experts.down_proj]

    def segments(self, x: Tensor, sizes: list[int]) -> Tensor:
        """As Experts does it."""
        gate, up = self._each(self._gate_up, x, sizes).chunk(2, dim=-1)
        out: Tensor = self._each(self._down, F.silu(gate) * up, sizes)
        return out


def packing(weight: Tensor, quantize: Quantize) -> type[PackedLinear | Int8Linear] | None:
    """How oneDNN can take weights like this one, or None."""
    if weight.device.type != "cpu":
        return None
    if quantize == "int8":
        return Int8Linear if _has(torch.ops.onednn, "qlinear_prepack") else None
    return PackedLinear if packs(weight) else None


def packs(weight: Tensor) -> bool:
    """Whether oneDNN can take weights like this one as they are, in bf16."""
    bf16 = weight.is_cpu and weight.dtype == torch.bfloat16
    return (
        bf16
        and _has(torch.ops.mkldnn, "_reorder_linear_weight")
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def _has(operators: object, name: str) -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(operators, name)  # type: ignore[no-untyped-call]
