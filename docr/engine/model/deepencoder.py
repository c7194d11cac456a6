"""DeepEncoder: SAM over the pixels, a 16x convolutional compressor, CLIP over what is left.

Shapes: B views, S side in pixels, g = S/16 side in patches, n = S/64 side in vision tokens,
N tokens, H heads, hd head dim, C channels. Source: the DeepSeek-OCR paper, section 3.2; SAM's and
CLIP's image encoders.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from docr.engine.grid_attention import grid_attention
from docr.engine.model.config import ClipConfig, ModelConfig, SamConfig


def resize_grid(table: Tensor, side: int) -> Tensor:
    """Resize a square table of positions.

    Args:
        table: [g0,g0,C].
        side: the new side g.

    Returns:
        [g,g,C] in the table's dtype; computed in fp32, bicubic with antialiasing, as trained.
    """
    if table.shape[0] == side:
        return table
    planes = table.permute(2, 0, 1)[None].float()
    resized = F.interpolate(
        planes, size=(side, side), mode="bicubic", antialias=True, align_corners=False
    )
    return resized[0].permute(1, 2, 0).to(table.dtype)


def relative_positions(table: Tensor, side: int) -> Tensor:
    """Spread a table of relative positions over pairs of query and key.

    Args:
        table: [2*g0-1,hd]; its rows are resized linearly, in fp32, where g0 is not `side`.
        side: g, of the grid attended over.

    Returns:
        [g,g,hd]: entry (q, k) is the row for the distance q - k.
    """
    rows = 2 * side - 1
    if table.shape[0] != rows:
        wide = F.interpolate(table.float().T[None], size=rows, mode="linear", align_corners=False)
        table = wide[0].T.to(table.dtype)
    place = torch.arange(side, device=table.device)
    return table[place[:, None] - place[None, :] + side - 1]


class SamAttention(nn.Module):
    """Multi-head attention over a square grid, with decomposed relative positions."""

    def __init__(self, config: SamConfig, side: int) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.rel_pos_h = nn.Parameter(torch.empty(2 * side - 1, config.head_dim))
        self.rel_pos_w = nn.Parameter(torch.empty(2 * side - 1, config.head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of x [B,g,g,C]."""
        B, g, _, C = x.shape
        out: Tensor = self.proj(self.mix(self.qkv(x).view(B, g * g, 3 * C), g).view(B, g, g, C))
        return out

    def in_windows(self, x: Tensor, w: int) -> Tensor:
        """Mix the tokens of x [B,g,g,C] in w x w windows; rows and columns beyond g are zeros.

        They are not masked: their keys and values are the biases of the projection, and the network
        was trained with them. One zero stands for all of them there, and none in the other.
        """
        B, g, _, C = x.shape
        tokens, m = B * g * g, -(-g // w)
        # Which token stands at each place of the windows, and where each token stands. Rows are
        # chosen by index_select, which takes a third of what indexing does on a CPU.
        place = torch.arange(tokens, device=x.device).view(B, g, g)
        place = F.pad(place, (0, m * w - g, 0, m * w - g), value=tokens)
        place = place.view(B, m, w, m, w).transpose(2, 3).flatten()
        where = torch.arange(len(place), device=x.device).view(B, m, m, w, w).transpose(2, 3)
        where = where.reshape(B, m * w, m * w)[:, :g, :g].flatten()
        qkv = self.qkv(torch.cat((x.reshape(tokens, C), x.new_zeros(1, C))))
        mixed = self.mix(qkv.index_select(0, place).view(B * m * m, w * w, 3 * C), w)
        out: Tensor = self.proj(mixed.flatten(0, 1).index_select(0, where).view(B, g, g, C))
        return out

    def mix(self, qkv: Tensor, g: int) -> Tensor:
        """Mix the tokens of grids, by their queries, keys and values [B,g*g,3C]: [B,g*g,C]."""
        B, N, _ = qkv.shape
        q, k, v = qkv.view(B, N, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return grid_attention(q, k, v, *self.biases(q, g)).transpose(1, 2).flatten(2)

    def biases(self, q: Tensor, g: int) -> tuple[Tensor, Tensor]:
        """What relative positions add to the scores of q [B,H,N,hd]: by rows and columns [B,H,N,g].

        They depend on the query: its product with the table's entry for the distance.
        """
        B, H, _, hd = q.shape
        places = q.reshape(B, H, g, g, hd)
        rows, columns = relative_positions(self.rel_pos_h, g), relative_positions(self.rel_pos_w, g)
        bias_h = torch.einsum("bnhwc,hic->bnhwi", places, rows).flatten(2, 3)
        bias_w = torch.einsum("bnhwc,wjc->bnhwj", places, columns).flatten(2, 3)
        return bias_h, bias_w


class SamMlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each row of x [...,C]."""
        out: Tensor = self.lin2(F.gelu(self.lin1(x)))
        return out


class SamBlock(nn.Module):
    """Pre-norm attention, over windows or the whole view, and MLP."""

    def __init__(self, config: SamConfig, *, window: int | None) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attn = SamAttention(config, window or config.position_grid)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = SamMlp(config.width, int(config.width * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Features [B,g,g,C] after this block of those before it.

        Padding of windows comes after the norm.
        """
        y = self.norm1(x)
        x = x + (self.attn(y) if self.window is None else self.attn.in_windows(y, self.window))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of [B,C,g,g], pixel by pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the channels of x."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Sam(nn.Module):
    """SAM's image encoder with its neck, and the 16x compressor: pixels to a map of features."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        side, width, neck = config.position_grid, config.width, config.neck_channels
        net_2, net_3 = config.downsample_channels
        patch, eps = config.patch_size, config.layer_norm_eps
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch)
        self.pos_embed = nn.Parameter(torch.empty(1, side, side, width))
        self.blocks = nn.ModuleList(
            SamBlock(config, window=None if layer in config.global_layers else config.window_size)
            for layer in range(config.layers)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(width, neck, 1, bias=False),
            LayerNorm2d(neck, eps=eps),
            nn.Conv2d(neck, neck, 3, padding=1, bias=False),
            LayerNorm2d(neck, eps=eps),
        )
        # The compressor: a quarter of the tokens each; nothing between the two, as trained.
        self.net_2 = nn.Conv2d(neck, net_2, 3, stride=2, padding=1, bias=False)
        self.net_3 = nn.Conv2d(net_2, net_3, 3, stride=2, padding=1, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features [B,C,n,n] of normalised pixels [B,3,S,S]."""
        # Laid out so, too: as the convolution leaves it, every block would transpose it anew.
        x = self.patch_embed(pixels).permute(0, 2, 3, 1).contiguous()  # B,C,g,g -> B,g,g,C
        x = x + resize_grid(self.pos_embed[0], x.shape[1])
        for block in self.blocks:
            x = block(x)
        x = self.neck(x.permute(0, 3, 1, 2))
        out: Tensor = self.net_3(self.net_2(x))
        return out


class ClipAttention(nn.Module):
    """Multi-head attention of every token to every token."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of x [B,N,C]."""
        B, N, C = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(B, N, C))
        return out


class ClipMlp(nn.Module):
    """Linear, CLIP's quick GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each row of x [...,C]."""
        x = self.fc1(x)
        out: Tensor = self.fc2(x * torch.sigmoid(1.702 * x))
        return out


class ClipLayer(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attn = ClipAttention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = ClipMlp(config.width, int(config.width * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B,N,C] after this layer of those before it."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Clip(nn.Module):
    """CLIP's vision transformer over SAM's features instead of patches; it has no final norm."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.side = config.position_grid
        self.class_embedding = nn.Parameter(torch.empty(config.width))
        self.position_embedding = nn.Parameter(torch.empty(1 + self.side**2, config.width))
        self.pre_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(ClipLayer(config) for _ in range(config.layers))

    def forward(self, features: Tensor) -> Tensor:
        """Tokens [B,1+n*n,C], the class token first, of features [B,C,n,n]."""
        B, C, n, _ = features.shape
        tokens = features.flatten(2).transpose(1, 2)  # B,C,n,n -> B,n*n,C
        tokens = torch.cat((self.class_embedding.expand(B, 1, C), tokens), dim=1)
        # The class token's position is no part of the grid and stays as it is.
        class_position, grid = self.position_embedding[:1], self.position_embedding[1:]
        grid = resize_grid(grid.view(self.side, self.side, C), n).reshape(n * n, C)
        x: Tensor = self.pre_norm(tokens + torch.cat((class_position, grid)))
        for layer in self.layers:
            x = layer(x)
        return x


class DeepEncoder(nn.Module):
    """Pixels of square views to vision tokens as wide as the decoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.sam = Sam(config.sam)
        self.clip = Clip(config.clip)
        self.projector = nn.Linear(2 * config.clip.width, config.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Vision tokens [B,n*n,D], row by row, of normalised pixels [B,3,S,S]."""
        local: Tensor = self.sam(pixels)
        whole = self.clip(local)[:, 1:]  # without the class token
        both = torch.cat((whole, local.flatten(2).transpose(1, 2)), dim=-1)
        out: Tensor = self.projector(both)
        return out
