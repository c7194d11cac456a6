"""DeepSeek-OCR: DeepEncoder and decoder, and how vision tokens become part of a sequence.

Shapes: N views, S side in pixels, n = S/64 side in vision tokens, B sequences, T tokens,
D hidden size, V vision tokens of a page.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from docr.engine.model.config import ModelConfig
from docr.engine.model.decoder import Decoder, KVCache
from docr.engine.model.deepencoder import DeepEncoder
from docr.types import Grid


class DeepseekOCR(nn.Module):
    """The whole network. Parameters are left unset: docr.engine.model.load fills them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = DeepEncoder(config)
        self.image_newline = nn.Parameter(torch.empty(config.hidden_size))
        self.view_separator = nn.Parameter(torch.empty(config.hidden_size))
        # Not nn.Embedding, whose initialisation imports torch's compiler: 3 s of a start.
        self.embed_tokens = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.decoder = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def encode_views(self, views: Tensor) -> Tensor:
        """Encode square views of one size.

        Args:
            views: u8 [N,3,S,S] on the model's device; S a multiple of 64.

        Returns:
            [N,n*n,D] in the parameters' dtype, tokens row by row.
        """
        assert views.shape[-1] % self.config.sam.px_per_token == 0, views.shape
        pixels = (views.float() / 255 - 0.5) / 0.5
        out: Tensor = self.encoder(pixels.to(self.image_newline.dtype))
        return out

    def image_sequence(self, global_features: Tensor, tile_features: Tensor, grid: Grid) -> Tensor:
        """Lay out a page's vision tokens as the decoder reads them.

        The local tiles come first, stitched to one map, then the global view, then a separator;
        each row of either map ends in a newline token.

        Args:
            global_features: [n*n,D].
            tile_features: [tiles,m*m,D], row-major over the grid; not looked at for grid (1, 1).
            grid: (columns, rows) of tiles.

        Returns:
            [V,D].
        """
        parts = [self._with_newlines(_square(global_features)), self.view_separator[None]]
        columns, rows = grid
        if columns * rows > 1:
            tiles, per_tile, D = tile_features.shape
            assert tiles == columns * rows, (tile_features.shape, grid)
            m = math.isqrt(per_tile)
            stitched = tile_features.view(rows, columns, m, m, D).transpose(1, 2)
            parts.insert(0, self._with_newlines(stitched.reshape(rows * m, columns * m, D)))
        return torch.cat(parts)

    def _with_newlines(self, rows: Tensor) -> Tensor:
        """A map [h,w,D] as [h*(w+1),D]: a newline token ends each row."""
        h, _, D = rows.shape
        return torch.cat((rows, self.image_newline.expand(h, 1, D)), dim=1).flatten(0, 1)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Embeddings [...,D] of token ids i64 [...]."""
        return F.embedding(input_ids, self.embed_tokens)

    def forward(self, x: Tensor, positions: Tensor, cache: KVCache | None = None) -> Tensor:
        """Run the decoder.

        Args:
            x: embeddings [B,T,D].
            positions: i64 [B,T], counted over the whole sequence, vision tokens included.
            cache: keys and values of earlier calls; None: plain causal attention, nothing kept.

        Returns:
            Hidden states [B,T,D], after the final norm.
        """
        out: Tensor = self.decoder(x, positions, cache)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores fp32 [...,vocabulary] of the next token after hidden [...,D]."""
        out: Tensor = self.lm_head(hidden).float()
        return out


def _square(tokens: Tensor) -> Tensor:
    """Tokens [n*n,D] as a map [n,n,D]."""
    n = math.isqrt(len(tokens))
    assert n * n == len(tokens), tokens.shape
    return tokens.view(n, n, -1)
