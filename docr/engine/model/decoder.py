"""The DeepSeek-V2 style decoder: plain multi-head attention, a mixture of experts as MLP.

Shapes: B sequences, T tokens of this call, K tokens to attend to, D hidden size, H heads,
hd head dim, E routed experts, F an expert's width, R rows of tokens (B*T).
"""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from docr.engine.kernels import HAS_TRITON, PIECE
from docr.engine.model.config import ModelConfig


class KVCache(Protocol):
    """Where keys and values of earlier calls are kept."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store this call's keys and values, then attend to all that are stored.

        Args:
            layer: index of the decoder layer, 0-based.
            q: [B,H,T,hd], rotary positions applied.
            k: the same.
            v: [B,H,T,hd].

        Returns:
            [B,H,T,hd]. A token sees those before it in its sequence, and itself.
        """
        ...


@runtime_checkable
class RowCache(KVCache, Protocol):
    """A cache in which each page has a row, and that others may write and read by themselves.

    Attributes:
        rows: keys and values of each layer, [>=B,H,L,hd]; a token's are at its position.
        starts: i64 [B+1]. In a sequence of all pages' tokens, where each page's begin, and the end.
    """

    rows: list[Tensor]
    starts: Tensor


class RMSNorm(nn.Module):
    """Root mean square norm: in fp32, cast to the input's dtype, then times the weight."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of x."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return wide.to(x.dtype) * self.weight


def rotary_table(positions: Tensor, config: ModelConfig, dtype: torch.dtype) -> Tensor:
    """Cosines and sines of the rotary position embedding.

    Args:
        positions: i64 [B,T].
        config: for the head's width and the base of the frequencies.
        dtype: of the result; the angles are computed in fp32.

    Returns:
        [2,B,1,T,hd]: cosines, then sines, each with its two halves equal.
    """
    steps = torch.arange(0, config.head_dim, 2, device=positions.device, dtype=torch.float32)
    # Spelled as the reference spells it: at position 1000 the last bit of a frequency counts.
    frequencies: Tensor = 1.0 / config.rope_theta ** (steps / config.head_dim)
    angles = positions[:, None, :, None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return torch.stack((angles.cos(), angles.sin())).to(dtype)


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Apply rotary positions to x [...,B,H,T,hd], pairing channel i with channel i + hd/2."""
    cos, sin = rotary
    left, right = x.chunk(2, dim=-1)
    turned: Tensor = x * cos + torch.cat((-right, left), dim=-1) * sin
    return turned


FEW = 16
"""Queries of a page in a decoding step, at most."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of q [B,H,T,hd] over k, v [B,H,K,hd].

    The mask is bool [B,1,T,K], True: may attend; None means plain causal attention with K = T.
    """
    if q.shape[2] <= FEW and mask is not None and q.device.type == "cpu":
        # A few queries a head: two products and an fp32 softmax are 4x as fast as SDPA on a CPU.
        scores = _products(q, k).float() * q.shape[-1] ** -0.5
        scores = scores.masked_fill(~mask, -torch.inf)
        mixed: Tensor = scores.softmax(-1).to(v.dtype) @ v
        return mixed
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)


def _products(q: Tensor, k: Tensor) -> Tensor:
    """Scores q k^T [B,H,T,K], on a CPU."""
    if q.shape[2] > 1 or q.dtype != torch.bfloat16:
        return q @ k.transpose(-1, -2)
    # One query a head: torch's own kernel reads keys twice as fast as oneDNN's.
    onednn = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # a property of the module
    try:
        return q @ k.transpose(-1, -2)
    finally:
        torch.backends.mkldnn.enabled = onednn


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions; no biases."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = config.num_attention_heads
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rotary: Tensor, cache: KVCache | None) -> Tensor:
        """Mix the tokens of x [B,T,D]; rotary as rotary_table returns it."""
        B, T, D = x.shape
        q, k, v = self.split(self.qkv_proj(x).view(B, T, 3, self.heads, D // self.heads), rotary)
        mixed = attend(q, k, v, None) if cache is None else cache.attend(self.layer, q, k, v)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(B, T, D))  # B,H,T,hd -> B,T,D
        return out

    def split(self, qkv: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, rotated, and values, each [B,H,T,hd], of qkv [B,T,3,H,hd]."""
        qkv = qkv.permute(2, 0, 3, 1, 4)  # B,T,3,H,hd -> 3,B,H,T,hd
        (q, k), v = rotate(qkv[:2], rotary), qkv[2]
        return q, k, v


class MLP(nn.Module):
    """down(silu(gate x) * up x), gate and up in one matrix."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(dim, 2 * width, bias=False)
        self.down_proj = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each row of x [...,D]."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        out: Tensor = self.down_proj(F.silu(gate) * up)
        return out


def padded_count(count: int, least: int = 1) -> int:
    """The next of 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, …: rows of an expert, or a step, are padded so.

    Those of one that has any are at least `least`.

    On a CPU oneDNN compiles and keeps a bf16 kernel for each number of rows. With as many numbers
    as chance gives, memory grew by 0.1 GB in 100 pages of a toy model.
    """
    if count == 0:
        return 0
    count = max(count, least)
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if count <= power * 3 // 4 else power


FEW_ROWS = 1024
"""Tokens up to which experts' weights, not products, take the time; not measured yet."""


def weighted_sum(y: Tensor, weights: Tensor) -> Tensor:
    """Sum of each token's outputs, fp32 [R,D]: y [R*k,D] by token and choice, weights [R,k].

    In fp32, as the reference sums: the shares of six experts are rounded once, not six times.
    """
    shares = y.view(*weights.shape, -1).float() * weights[..., None]
    return shares.sum(1)


class Experts(nn.Module):
    """The routed experts' weights, stacked: gate_up_proj [E,2F,D], down_proj [E,D,F].

    Attributes:
        count: E.
        least_rows: that an expert with any rows is best given on a CPU.
    """

    least_rows = 1

    def __init__(self, count: int, dim: int, width: int) -> None:
        super().__init__()
        self.count = count
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * width, dim))
        self.down_proj = nn.Parameter(torch.empty(count, dim, width))

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Sum of the chosen experts' outputs for x [R,D], weighted; weights, chosen [R,k]."""
        if x.is_cuda and x.dtype == torch.bfloat16:
            few = len(x) <= FEW_ROWS and self.kernel_fits
            # The kernel has no way back.
            trains = x.requires_grad or self.gate_up_proj.requires_grad
            mix = self.mix_few if few and not trains else self.mix_grouped
            return mix(x, weights, chosen)
        # By numpy: with the few choices of a decoding step, torch is mostly overhead.
        choices = chosen.flatten().cpu().numpy()
        counts = np.bincount(choices, minlength=self.count)
        least = self.least_rows
        sizes = [padded_count(count, least) if x.is_cpu else count for count in counts.tolist()]
        # Each expert's rows are one segment, with room for the padding: one product over its own
        # weights. `place` says where each choice went.
        gaps = np.cumsum(sizes) - sizes - (np.cumsum(counts) - counts)
        order = choices.argsort(kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        place += gaps[choices]
        row_of = np.zeros(sum(sizes), np.int64)  # padding repeats row 0
        row_of[place] = np.arange(len(order)) // chosen.shape[1]
        y = self.segments(x[torch.from_numpy(row_of).to(x.device)], sizes)
        mixed = weighted_sum(y[torch.from_numpy(place).to(x.device)], weights)
        return mixed.to(x.dtype)

    def segments(self, x: Tensor, sizes: list[int]) -> Tensor:
        """All experts' outputs [n,D] for rows x [n,D] sorted by expert; sizes: rows of each."""
        gate, up = self._products(x, sizes, self.gate_up_proj).chunk(2, dim=-1)
        return self._products(F.silu(gate) * up, sizes, self.down_proj)

    def _products(self, x: Tensor, sizes: list[int], weights: Tensor) -> Tensor:
        segments = zip(torch.split(x, sizes), weights, strict=True)
        return torch.cat([F.linear(rows, weight) for rows, weight in segments if len(rows)])

    @property
    def kernel_fits(self) -> bool:
        """Whether the kernel for few tokens takes weights of this shape."""
        _, dim, width = self.down_proj.shape
        return HAS_TRITON and dim % PIECE == 0 and width % PIECE == 0

    def mix_few(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """As forward, by a kernel that reads each weight once; no count leaves the device."""
        # Imported where it is used: a run without a GPU need not load Triton.
        from docr.engine.kernels.experts import mix_experts_triton

        return mix_experts_triton(x, weights, chosen, self.gate_up_proj, self.down_proj)

    def mix_grouped(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """As forward, by grouped products: no count leaves the device."""
        choices = chosen.flatten()
        order = choices.argsort(stable=True)
        every = torch.arange(self.count, device=x.device)
        ends = torch.searchsorted(choices[order], every, right=True).to(torch.int32)
        rows = x[order // chosen.shape[1]]
        both = F.grouped_mm(rows, self.gate_up_proj.transpose(1, 2), offs=ends)
        gate, up = both.chunk(2, dim=-1)
        y = F.grouped_mm(F.silu(gate) * up, self.down_proj.transpose(1, 2), offs=ends)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=x.device)
        return weighted_sum(y[place], weights).to(x.dtype)


class MoE(nn.Module):
    """Each token through its best few of E routed experts, and through the shared experts.

    The shared experts are one fused MLP.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, width = config.hidden_size, config.moe_intermediate_size
        self.top_k = config.num_experts_per_tok
        self.gate = nn.Parameter(torch.empty(config.n_routed_experts, dim))
        self.experts = Experts(config.n_routed_experts, dim, width)
        self.shared_experts = MLP(dim, config.n_shared_experts * width)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Choose experts for x [R,D]: probabilities fp32 [R,k], not renormalised, and ids [R,k]."""
        probabilities = F.linear(x.float(), self.gate.float()).softmax(-1)
        top = probabilities.topk(self.top_k, dim=-1)
        return top.values, top.indices

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of x [B,T,D]."""
        rows = x.reshape(-1, x.shape[-1])  # B,T,D -> R,D
        out: Tensor = self.experts(rows, *self.route(rows)) + self.shared_experts(rows)
        return out.view_as(x)


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP; the first layers are dense, the others mix experts."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        dense = layer < config.first_k_dense_replace
        self.input_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, layer)
        self.post_attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config.hidden_size, config.intermediate_size) if dense else MoE(config)

    def forward(self, x: Tensor, rotary: Tensor, cache: KVCache | None) -> Tensor:
        """Hidden states [B,T,D] after this layer of those before it."""
        x = x + self.attention(self.input_norm(x), rotary, cache)
        out: Tensor = x + self.mlp(self.post_attention_norm(x))
        return out


class Decoder(nn.Module):
    """The stack of decoder layers and the final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        layers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, positions: Tensor, cache: KVCache | None) -> Tensor:
        """Hidden states [B,T,D] of embeddings x [B,T,D] at positions i64 [B,T]."""
        rotary = rotary_table(positions, self.config, x.dtype)
        for layer in self.layers:
            x = layer(x, rotary, cache)
        out: Tensor = self.norm(x)
        return out
