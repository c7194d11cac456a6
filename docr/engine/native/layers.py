"""All of the decoder's layers in one call: a step of decoding."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from docr.engine.native.products import Matrices, Matrix, call, matrix


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Of a decoder layer; the last three only where it has routed experts.

    Attributes:
        input_norm, post_attention_norm: bf16 [D].
        qkv, out: [3D,D], [D,D].
        gate_up, down: of the MLP or the shared experts, [2F,D] and [D,F].
        gate: fp32 [E,D].
        experts_gate_up, experts_down: [E,2F,D], [E,D,F].
    """

    input_norm: Tensor
    post_attention_norm: Tensor
    qkv: Matrices
    out: Matrices
    gate_up: Matrices
    down: Matrices
    gate: Tensor | None = None
    experts_gate_up: Matrices | None = None
    experts_down: Matrices | None = None


class _Layer(ctypes.Structure):
    """Layer of layers.c."""

    _fields_ = (
        ("input_norm", ctypes.c_void_p),
        ("post_attention_norm", ctypes.c_void_p),
        ("qkv", Matrix),
        ("out", Matrix),
        ("gate_up", Matrix),
        ("down", Matrix),
        ("width", ctypes.c_int64),
        ("gate", ctypes.c_void_p),
        ("experts_gate_up", Matrix),
        ("experts_down", Matrix),
    )


class Layers:
    """All of a decoder's layers and its final norm, in one call.

    Args:
        layers: their weights, which stay where they are.
        norm: the final one's weight, bf16 [D].
        eps: of all norms.
        heads: of attention.
        top_k: experts of a token.
    """

    def __init__(
        self, layers: Sequence[LayerWeights], norm: Tensor, *, eps: float, heads: int, top_k: int
    ) -> None:
        self._weights, self._norm, self._eps = tuple(layers), norm, eps
        self._heads, self._top_k = heads, top_k
        self._layers = (_Layer * len(layers))(*map(_layer, layers))
        experts = next(
            (each.experts_down for each in layers if each.experts_down is not None), None
        )
        self._experts = (0, 0) if experts is None else (experts.shape[0], experts.shape[2])

    def __call__(
        self,
        x: Tensor,
        rotary: Tensor,
        positions: Tensor,
        starts: Tensor,
        cache: Sequence[Tensor],
    ) -> Tensor:
        """Normed hidden states of a few tokens of each page, as decoder.Decoder computes them.

        Args:
            x: embeddings bf16 [1,R,D], one page's tokens after the other's.
            rotary: as decoder.rotary_table returns it.
            positions: i64 [1,R], where keys and values are stored; each token sees those up to its
                own.
            starts: i64 [B+1], where each page's tokens begin, and R.
            cache: keys and values of each layer, bf16 [>=B,H,L,hd], all with the same strides.
        """
        _, R, D = x.shape
        assert all(rows.stride() == cache[0].stride() for rows in cache)
        assert cache[0].stride()[2:] == (D // self._heads, 1), cache[0].stride()
        assert x.shape == (1, R, D) and positions.shape == (1, R), (x.shape, positions.shape)
        assert starts.dtype == torch.int64 and int(starts[-1]) == R, (starts, R)
        x, out = x.clone(memory_format=torch.contiguous_format), x.new_empty(1, R, D)
        experts, width = self._experts
        call(
            "docr_layers",
            self._layers,
            len(self._layers),
            self._norm,
            self._eps,
            (ctypes.c_int64 * 7)(len(starts) - 1, R, D, self._heads, experts, self._top_k, width),
            x,
            rotary.contiguous(),
            positions.contiguous(),
            starts,
            (ctypes.c_void_p * len(cache))(*(rows.data_ptr() for rows in cache)),
            (ctypes.c_int64 * 2)(*cache[0].stride()[:2]),
            out,
        )
        return out


def _layer(weights: LayerWeights) -> _Layer:
    gate, gate_up, down = weights.gate, weights.experts_gate_up, weights.experts_down
    return _Layer(
        weights.input_norm.data_ptr(),
        weights.post_attention_norm.data_ptr(),
        matrix(weights.qkv),
        matrix(weights.out),
        matrix(weights.gate_up),
        matrix(weights.down),
        weights.down.shape[-1],
        None if gate is None else gate.data_ptr(),
        Matrix() if gate_up is None else matrix(gate_up),
        Matrix() if down is None else matrix(down),
    )
