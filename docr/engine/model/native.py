"""The decoder's layers as docr's own kernels for CPUs compute them, with the same weights.

Products of many rows with one matrix, as in a prefill, are left to PyTorch, except in a step of
decoding where there is a matrix unit. With `--quantize int8` the matrices are in 8 bits, and all
rows take the kernels. A row's result does not depend on the rows that it is computed with, as long
as they are few.

Each class takes over the weights of the one that it replaces, so none calls its initialiser.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from docr.engine.model.decoder import (
    MLP,
    Attention,
    Decoder,
    DecoderLayer,
    Experts,
    KVCache,
    MoE,
    RMSNorm,
    RowCache,
    rotary_table,
)
from docr.engine.model.deepseek_ocr import DeepseekOCR
from docr.engine.native import products
from docr.engine.native.layers import Layers, LayerWeights
from docr.engine.native.products import Int8Matrices, Matrices

FEW_ROWS = 128
"""Up to so many rows a product with a matrix is as fast as oneDNN's; up to half of them, faster."""

MANY_ROWS = 512
"""Where a matrix unit multiplies, a step of so many rows is one call, too: 6 to 14 % faster with
144 to 288 of them. Steps of 32 pages have no more."""


class NativeNorm(RMSNorm):
    """A root mean square norm."""

    def __init__(self, norm: RMSNorm) -> None:
        nn.Module.__init__(self)
        self.weight, self.eps = norm.weight, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of x."""
        return products.norm(x, self.weight, self.eps)


class NativeLinear(nn.Linear):
    """x W^T in bf16."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.matrix = linear.weight

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each row of x [...,I]."""
        rows = x.reshape(-1, x.shape[-1])
        product = products.linear if len(rows) <= FEW_ROWS else F.linear
        return product(rows, self.matrix).view(*x.shape[:-1], -1)


class NativeInt8Linear(nn.Linear):
    """x W^T, both in 8 bits, in and out in bf16."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.matrix = Int8Matrices.of(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each row of x [...,I]."""
        rows = x.reshape(-1, x.shape[-1])
        return products.linear(rows, self.matrix).view(*x.shape[:-1], -1)


Linear = type[NativeLinear] | type[NativeInt8Linear]


class NativeAttention(Attention):
    """Attention whose queries and keys are rotated in place."""

    qkv_proj: NativeLinear | NativeInt8Linear
    o_proj: NativeLinear | NativeInt8Linear

    def __init__(self, attention: Attention, linear: Linear) -> None:
        nn.Module.__init__(self)
        self.layer, self.heads = attention.layer, attention.heads
        self.qkv_proj = linear(attention.qkv_proj)
        self.o_proj = linear(attention.o_proj)

    def split(self, qkv: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As Attention does it."""
        products.rotate(qkv.flatten(0, 1), rotary)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # B,T,3,H,hd -> 3,B,H,T,hd
        return q, k, v


class NativeMLP(MLP):
    """down(silu(gate x) * up x), for a few rows in one go."""

    gate_up_proj: NativeLinear | NativeInt8Linear
    down_proj: NativeLinear | NativeInt8Linear

    def __init__(self, mlp: MLP, linear: Linear) -> None:
        nn.Module.__init__(self)
        self.gate_up_proj, self.down_proj = linear(mlp.gate_up_proj), linear(mlp.down_proj)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each row of x [...,D]."""
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) > FEW_ROWS:
            return super().forward(x)
        return products.mlp(rows, *self.matrices).view_as(x)

    @property
    def matrices(self) -> tuple[Matrices, Matrices]:
        """Gate and up in one, and down."""
        return self.gate_up_proj.matrix, self.down_proj.matrix


class NativeExperts(Experts):
    """Routed experts in bf16, over the same weights."""

    def __init__(self, experts: Experts) -> None:
        nn.Module.__init__(self)
        self.count = experts.count
        self.gate_up_proj, self.down_proj = experts.gate_up_proj, experts.down_proj

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """As Experts does it."""
        return products.mix_experts(x, weights, chosen, *self.matrices)

    @property
    def matrices(self) -> tuple[Matrices, Matrices]:
        """All experts' gates and ups, and downs."""
        return self.gate_up_proj, self.down_proj


class NativeInt8Experts(Experts):
    """Routed experts in 8 bits."""

    def __init__(self, experts: Experts) -> None:
        nn.Module.__init__(self)
        self.count = experts.count
        self.matrices = Int8Matrices.of(experts.gate_up_proj), Int8Matrices.of(experts.down_proj)

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """As Experts does it."""
        return products.mix_experts(x, weights, chosen, *self.matrices)


RoutedExperts = type[NativeExperts] | type[NativeInt8Experts]


class NativeMoE(MoE):
    """Each token through its best experts, and through the shared ones."""

    experts: NativeExperts | NativeInt8Experts
    shared_experts: NativeMLP

    def __init__(self, moe: MoE, linear: Linear, experts: RoutedExperts) -> None:
        nn.Module.__init__(self)
        self.top_k, self.gate = moe.top_k, moe.gate
        self.wide_gate = moe.gate.float()
        self.experts = experts(moe.experts)
        self.shared_experts = NativeMLP(moe.shared_experts, linear)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As MoE does it."""
        return products.route(x, self.wide_gate, self.top_k)


class NativeDecoder(Decoder):
    """Layers of this module; for a few tokens on a cache in rows, all of them in one call.

    Attributes:
        whole: whether it may be one call, of whose insides nothing can be seen.
    """

    def __init__(self, decoder: Decoder) -> None:
        nn.Module.__init__(self)
        self.config, self.layers, self.norm = decoder.config, decoder.layers, decoder.norm
        self.whole = True
        self._most_rows = MANY_ROWS if products.multiplies_many() else FEW_ROWS
        self._few = Layers(
            [_weights(layer) for layer in decoder.layers],
            self.norm.weight,
            eps=self.config.rms_norm_eps,
            heads=self.config.num_attention_heads,
            top_k=self.config.num_experts_per_tok,
        )

    def forward(self, x: Tensor, positions: Tensor, cache: KVCache | None) -> Tensor:
        """As Decoder does it."""
        is_few = x.shape[0] * x.shape[1] <= self._most_rows
        if not (self.whole and is_few and isinstance(cache, RowCache)):
            return super().forward(x, positions, cache)
        rotary = rotary_table(positions, self.config, x.dtype)
        return self._few(x, rotary, positions, cache.starts, cache.rows)


def _weights(layer: nn.Module) -> LayerWeights:
    assert isinstance(layer, DecoderLayer)
    norms = layer.input_norm.weight, layer.post_attention_norm.weight
    attention, mlp = layer.attention, layer.mlp
    assert isinstance(attention, NativeAttention)
    attending = attention.qkv_proj.matrix, attention.o_proj.matrix
    if isinstance(mlp, NativeMLP):
        return LayerWeights(*norms, *attending, *mlp.matrices)
    assert isinstance(mlp, NativeMoE)
    return LayerWeights(
        *norms, *attending, *mlp.shared_experts.matrices, mlp.wide_gate, *mlp.experts.matrices
    )


def make_native(model: DeepseekOCR, *, eight: bool) -> None:
    """Have the kernels decode, with matrices in 8 bits or as they are.

    A layer at a time, so that the weights are not kept twice.
    """
    linear: Linear = NativeInt8Linear if eight else NativeLinear
    experts: RoutedExperts = NativeInt8Experts if eight else NativeExperts
    for layer in model.decoder.layers:
        assert isinstance(layer, DecoderLayer)
        layer.input_norm = NativeNorm(layer.input_norm)
        layer.attention = NativeAttention(layer.attention, linear)
        layer.post_attention_norm = NativeNorm(layer.post_attention_norm)
        if isinstance(layer.mlp, MoE):
            layer.mlp = NativeMoE(layer.mlp, linear, experts)
        else:
            layer.mlp = NativeMLP(layer.mlp, linear)
    model.decoder.norm = NativeNorm(model.decoder.norm)
    model.decoder = NativeDecoder(model.decoder)
    model.lm_head = linear(model.lm_head)
