"""The six modes: how many pixels of a page the model sees, and what that costs in tokens.

DeepEncoder reads square views and makes one vision token of every 64 x 64 pixels: patches of
16 pixels, compressed 4 times along each side. A native mode shows one view of the page. A tiled
mode adds local tiles, cut from the page enlarged to a grid of them.

    mode      view  tile        in the sequence                     as the paper counts
    tiny       512     -                     73                                      64
    small      640     -                    111                                     100
    base      1024     -                    273                                     256
    large     1280     -                    421                                     400
    gundam    1024   640     273 + 10r(10c + 1)                         256 + 100 tiles
    gundam-m  1280  1024     421 + 16r(16c + 1)                         400 + 256 tiles

for c columns and r rows of tiles. The paper leaves out what separates the rows and the views.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from docr.errors import UsageError
from docr.settings import ModeName
from docr.types import Grid

TOKEN_PX = 64
"""Pixels along the side of the square that becomes one vision token."""

MIN_TILES, MAX_TILES = 2, 9
"""The bounds of a tiled mode in the paper; the official vLLM scripts stop at 6 tiles."""

NO_TILES: Grid = (1, 1)

_STRETCHED_UP_TO_PX = 640


@dataclass(frozen=True, slots=True)
class Mode:
    """How a page is shown to the model.

    gundam-m exists in the paper only, for weights that were never released: the token counts are
    the paper's. That it pads, chooses its grid and leaves small pages whole by the same rules as
    gundam, with its own tile size in them, is our reading.

    Attributes:
        name: as in `--mode`.
        base_px: side of the global view.
        tile_px: side of a local tile; None in a native mode.
        max_tiles: most local tiles; 0 in a native mode.
        trained: whether the released weights were trained on this mode.
    """

    name: ModeName
    base_px: int
    tile_px: int | None = None
    max_tiles: int = 0
    trained: bool = True

    @property
    def stretches(self) -> bool:
        """Whether the global view takes the page's full extent in both directions, distorted.

        Otherwise the page keeps its proportions and grey fills the rest of the square.
        """
        return self.base_px <= _STRETCHED_UP_TO_PX

    def with_max_tiles(self, max_tiles: int) -> "Mode":
        """This mode with another limit of tiles; a native mode stays as it is.

        Raises:
            UsageError: `max_tiles` is not 2 to 9.
        """
        if not MIN_TILES <= max_tiles <= MAX_TILES:
            raise UsageError(f"max_tiles is {MIN_TILES} to {MAX_TILES}, not {max_tiles}")
        if self.tile_px is None:
            return self
        return dataclasses.replace(self, max_tiles=max_tiles)

    def num_vision_tokens(self, grid: Grid) -> int:
        """Vision tokens in the sequence.

        Every row of tokens ends with a newline token, over the full width of the grid of tiles,
        and a separator ends it all.

        Args:
            grid: (columns, rows) of tiles; (1, 1): none.

        Source: DeepseekOCRProcessor, process/image_process.py.
        """
        columns, rows = grid
        side = self.base_px // TOKEN_PX
        tile_side = self._tile_side(grid)
        local = tile_side * rows * (tile_side * columns + 1)
        return local + side * (side + 1) + 1

    def paper_tokens(self, grid: Grid) -> int:
        """Vision tokens as the paper counts them: without newlines and separator."""
        columns, rows = grid
        return (self.base_px // TOKEN_PX) ** 2 + columns * rows * self._tile_side(grid) ** 2

    def valid_tokens(self, image_size: tuple[int, int], grid: Grid) -> int:
        """Vision tokens that show the page rather than the grey beside it (the paper's eq. 1).

        Args:
            image_size: (width, height) of the page image.
            grid: (columns, rows) of tiles, which are never padded; (1, 1): none.
        """
        short, long = sorted(image_size)
        view = (self.base_px // TOKEN_PX) ** 2
        local = self.paper_tokens(grid) - view
        return local + (view if self.stretches else -(-view * short // long))

    def _tile_side(self, grid: Grid) -> int:
        """Tokens along a tile's side; 0 without tiles."""
        if grid == NO_TILES:
            return 0
        assert self.tile_px is not None, (self.name, grid)
        return self.tile_px // TOKEN_PX


MODES: Mapping[ModeName, Mode] = MappingProxyType(
    {
        "tiny": Mode("tiny", base_px=512),
        "small": Mode("small", base_px=640),
        "base": Mode("base", base_px=1024),
        "large": Mode("large", base_px=1280),
        "gundam": Mode("gundam", base_px=1024, tile_px=640, max_tiles=MAX_TILES),
        "gundam-m": Mode(
            "gundam-m", base_px=1280, tile_px=1024, max_tiles=MAX_TILES, trained=False
        ),
    }
)
"""All modes by name, cheapest first."""
