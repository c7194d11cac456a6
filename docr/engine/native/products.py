"""What the kernels compute, on tensors.

Call these only where `fits`, `attends` and `takes_grid` allow it.
"""

import ctypes
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from docr.engine.native.library import has_amx, library

Argument: TypeAlias = "Tensor | int | float | ctypes.Array[Any] | ctypes.Structure"

STEP = 64
"""Inner sides of matrices are multiples of this."""

HEADS = (32, 64, 96, 128)
"""Widths of the decoder's heads."""

GRID_HEAD, GRID_SIDE = 64, 128
"""Width of a head over a grid, and the grid's side at most."""


@dataclass(frozen=True, slots=True)
class Int8Matrices:
    """Matrices in 8 bits, each row of them with its scale.

    Attributes:
        values: i8 [...,N,K].
        scales: fp32 [...,N], what 1 stands for.
        sums: i32 [...,N], of each row's values.
    """

    values: Tensor
    scales: Tensor
    sums: Tensor

    @classmethod
    def of(cls, weights: Tensor) -> "Int8Matrices":
        """Round weights [...,N,K]."""
        values = torch.empty(weights.shape, dtype=torch.int8)
        scales = torch.empty(weights.shape[:-1])
        sums = torch.empty(weights.shape[:-1], dtype=torch.int32)
        # A few rows at a time: all in fp32 would take four times the memory that is saved.
        whole, rows = values.view(-1, weights.shape[-1]), weights.reshape(-1, weights.shape[-1])
        for start in range(0, len(rows), 4096):
            some = slice(start, start + 4096)
            wide = rows[some].float()
            scale = wide.abs().amax(-1).clamp_(min=1e-12) / 127
            whole[some] = wide.div_(scale[:, None]).round_()
            scales.view(-1)[some] = scale
            sums.view(-1)[some] = whole[some].sum(-1, dtype=torch.int32)
        return cls(values, scales, sums)

    @property
    def shape(self) -> torch.Size:
        """[...,N,K]."""
        return self.values.shape


Matrices: TypeAlias = Tensor | Int8Matrices


class Matrix(ctypes.Structure):
    """Matrix, or matrices, of products.h."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
    )


def fits(*weights: Tensor) -> bool:
    """Whether there are kernels for matrices [...,N,K] like these."""
    return all(
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and weight.shape[-1] % STEP == 0
        and weight.shape[-2] % 4 == 0
        for weight in weights
    ) and (library() is not None)


def multiplies_many() -> bool:
    """Whether products of many rows, too, are as fast here as oneDNN's: with a matrix unit."""
    found = library()
    return found is not None and has_amx(found)


def attends(q: Tensor) -> bool:
    """Whether there is a kernel for queries, or keys, like these, [...,hd]."""
    return (
        q.device.type == "cpu"
        and q.dtype == torch.bfloat16
        and q.shape[-1] in HEADS
        and library() is not None
    )


def takes_grid(q: Tensor, side: int) -> bool:
    """Whether there is a kernel for queries [B,H,N,hd] over a grid of this side."""
    return (
        q.device.type == "cpu"
        and q.dtype == torch.bfloat16
        and q.shape[-1] == GRID_HEAD
        and side <= GRID_SIDE
        and library() is not None
    )


def linear(x: Tensor, weight: Matrices) -> Tensor:
    """Multiply rows x [R,K] with a matrix [N,K], transposed: [R,N], in bf16."""
    x = x.contiguous()
    out = x.new_empty(len(x), weight.shape[0])
    call("docr_linear", x, matrix(weight), out, len(x), *weight.shape)
    return out


def mlp(x: Tensor, gate_up: Matrices, down: Matrices) -> Tensor:
    """down(silu(gate x) * up x) for bf16 x [R,D], gate_up [2F,D], down [D,F]: one expert of one."""
    chosen = torch.zeros(len(x), 1, dtype=torch.int64)
    return mix_experts(x, torch.ones(len(x), 1), chosen, gate_up, down)


def mix_experts(
    x: Tensor, shares: Tensor, chosen: Tensor, gate_up: Matrices, down: Matrices
) -> Tensor:
    """The chosen experts' outputs, weighted and summed in fp32; see decoder.Experts.forward.

    Args:
        x: bf16 [R,D].
        shares: fp32 [R,k].
        chosen: i64 [R,k].
        gate_up: [E,2F,D], or of a single expert [2F,D].
        down: [E,D,F], or [D,F].
    """
    x = x.contiguous()
    out = torch.empty_like(x)
    inputs = x, chosen.contiguous(), shares.contiguous()
    sizes = [*chosen.shape, *((1, *down.shape)[-3:])]
    call("docr_experts", *inputs, matrix(gate_up), matrix(down), out, *sizes)
    return out


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    starts: Tensor,
) -> Tensor:
    """Store k and v in a cache; then attention, each query to the keys up to its own position.

    Args:
        q: bf16 [1,H,R,hd], one page's tokens after the other's.
        k: the same.
        v: the same.
        keys: the cache's, bf16 [>=B,H,L,hd], a head's tokens contiguous.
        values: the same, with the same strides.
        positions: i64 [1,R], below L.
        starts: i64 [B+1], where each page's tokens begin, and R.

    Returns:
        [1,H,R,hd].
    """
    _, H, R, hd = q.shape
    assert keys.stride()[2:] == (hd, 1), keys.stride()
    assert values.stride() == keys.stride(), (values.stride(), keys.stride())
    assert positions.shape == (1, R), (positions.shape, R)
    assert starts.dtype == torch.int64 and int(starts[-1]) == R, (starts, R)
    assert q.stride(3) == k.stride(3) == v.stride(3) == 1
    strides = [step for tensor in (q, k, v) for step in tensor.stride()[1:3]] + [*keys.stride()[:2]]
    out = q.new_empty(1, R, H, hd)
    packed = (ctypes.c_int64 * len(strides))(*strides)
    places = positions.contiguous(), starts
    call("docr_attend_bf16", q, k, v, packed, keys, values, *places, out, len(starts) - 1, H, hd)
    return out.transpose(1, 2)


def rotate(qkv: Tensor, rotary: Tensor) -> None:
    """Rotate queries and keys of bf16 [R,3,H,hd] in place, by decoder.rotary_table's result."""
    R, _, H, hd = qkv.shape
    assert qkv.is_contiguous() and rotary.numel() == 2 * R * hd, (qkv.shape, rotary.shape)
    call("docr_rotate_bf16", qkv, rotary.contiguous(), R, H, hd)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide each row of bf16 x [...,D] by its root mean square, times the weight [D]."""
    x = x.contiguous()
    out = torch.empty_like(x)
    call("docr_norm_bf16", x, weight, eps, out, x.numel() // len(weight), len(weight))
    return out


def route(x: Tensor, gate: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """See decoder.MoE.route: bf16 x [R,D], gate fp32 [E,D]."""
    x = x.contiguous()
    shares = torch.empty(len(x), count)
    chosen = torch.empty(len(x), count, dtype=torch.int64)
    call("docr_route_bf16", x, gate, shares, chosen, len(x), count, *gate.shape)
    return shares, chosen


def grid_attention(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """See docr.engine.grid_attention: bf16; q, k and v with the same strides."""
    B, H, _, hd = q.shape
    g = rows.shape[-1]
    assert q.stride() == k.stride() == v.stride() and q.stride(3) == 1, (q.stride(), v.stride())
    out = q.new_empty(B, g * g, H, hd)
    strides = (ctypes.c_int64 * 3)(*q.stride()[:3])
    biases = rows.contiguous(), columns.contiguous()
    call("docr_grid_bf16", q, k, v, strides, *biases, out, B, H, g)
    return out.transpose(1, 2)


def pick(
    logits: Tensor, undecodable: Tensor, banned: list[Collection[int]]
) -> tuple[list[int], list[float]]:
    """See sampling.pick: fp32 logits [R,V] on a CPU; banned ones become -inf."""
    R, V = logits.shape
    ids = torch.tensor([token for tokens in banned for token in tokens], dtype=torch.int64)
    ends = torch.tensor([len(tokens) for tokens in banned]).cumsum(0)
    tokens, logprobs = torch.empty(R, dtype=torch.int64), torch.empty(R)
    call("docr_pick", logits, undecodable, ids, ends, tokens, logprobs, R, V)
    return tokens.tolist(), logprobs.tolist()


def matrix(weights: Matrices) -> Matrix:
    """Where weights are, which must outlive it."""
    if isinstance(weights, Int8Matrices):
        tensors = weights.values, weights.scales, weights.sums
        return Matrix(*(tensor.data_ptr() for tensor in tensors))
    return Matrix(weights.data_ptr())


def call(name: str, *arguments: Argument) -> None:
    """Call a kernel: tensors by their addresses, sizes as 64-bit integers, fp32.

    Raises:
        MemoryError: it found no memory for what it keeps in between.
    """
    found = library()
    assert found is not None
    if not getattr(found, name)(*map(_passed, arguments)):
        raise MemoryError(f"{name}: no memory")


def _passed(argument: Argument) -> object:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    return ctypes.c_float(argument) if isinstance(argument, float) else argument
