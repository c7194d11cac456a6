"""How the settings have pages rendered and cut into views: the cage of `pdf` around `modes`."""

from docr.modes.mode import MODES, Mode
from docr.pdf.cage import Cage
from docr.pdf.settings import RenderSettings
from docr.settings import Settings

_MIN_PIXEL_BUDGET = 4 * 1024 * 1024  # an A3 page at the official 144 dpi


def mode_of(settings: Settings) -> Mode:
    """The mode that the settings name, with their limit on tiles."""
    assert settings.mode is not None, "not completed"
    return MODES[settings.mode].with_max_tiles(settings.max_tiles)


def render_settings(settings: Settings) -> RenderSettings:
    """How pages are rendered for the settings' mode.

    At least the mode's base size along the long edge, and no more pixels than the mode can use:
    twice its canvas of tiles, four times its global view, and always an A3 page at 144 dpi.
    """
    mode = mode_of(settings)
    tiles_px = 0 if mode.tile_px is None else 2 * mode.max_tiles * mode.tile_px**2
    return RenderSettings(
        dpi=settings.dpi,
        min_edge_px=mode.base_px,
        max_pixels=settings.max_pixels or max(4 * mode.base_px**2, tiles_px, _MIN_PIXEL_BUDGET),
        max_image_pixels=settings.max_image_pixels,
        max_aspect=settings.max_aspect,
        max_content=settings.max_content_mib << 20,
        max_pages=settings.max_pages_per_file,
        page_timeout=settings.page_timeout,
        password=settings.password,
        memory_limit=int(settings.page_memory * 1e9),
        require_sandbox=settings.require_sandbox,
    )


def open_cage(settings: Settings, *, workers: int) -> Cage:
    """The cage in which pages are rendered and cut into views, in children without torch.

    Raises:
        SandboxMissing: a sandbox is required, and cannot be had.
    """
    cage = Cage(
        render_settings(settings),
        transform="docr.modes.prepare:prepare_views",
        transform_arg=mode_of(settings),
        workers=workers,
    )
    if settings.require_sandbox:
        try:
            cage.check_sandbox()
        except BaseException:
            cage.close()
            raise
    return cage
