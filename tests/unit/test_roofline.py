"""What the bench takes for the work of a page, against figures worked out by hand."""

import pytest

from docr.bench.roofline import page_flop
from docr.engine.model.config import ClipConfig, ModelConfig, SamConfig


@pytest.mark.parametrize(
    ("views", "prompt", "expected"),
    [
        (((512, 1),), 85, 338e9),
        (((1024, 1),), 285, 1376e9),
        (((1280, 1),), 433, 2303e9),
        (((1024, 1), (640, 6)), 915, 4243e9),
    ],
    ids=["tiny", "base", "large", "gundam"],
)
def test_a_page_of_the_released_size(
    views: tuple[tuple[int, int], ...], prompt: int, expected: float
) -> None:
    config = ModelConfig(sam=SamConfig(), clip=ClipConfig())
    assert page_flop(config, views, prompt) == pytest.approx(expected, rel=0.02)
