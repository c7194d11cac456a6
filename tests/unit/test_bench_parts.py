"""What the bench takes for the work of a page, by hand; and how it draws tokens."""

import pytest
import torch

from docr.bench.engine import _sampling
from docr.bench.roofline import page_flop
from docr.engine.model.config import ClipConfig, ModelConfig, SamConfig


@pytest.mark.parametrize(
    ("views", "prompt", "expected"),
    [
        (((512, 1),), 85, 314e9),
        (((1024, 1),), 285, 1355e9),
        (((1280, 1),), 433, 2293e9),
        (((1024, 1), (640, 6)), 915, 4206e9),
    ],
    ids=["tiny", "base", "large", "gundam"],
)
def test_a_page_of_the_released_size(
    views: tuple[tuple[int, int], ...], prompt: int, expected: float
) -> None:
    config = ModelConfig(sam=SamConfig(), clip=ClipConfig())
    assert page_flop(config, views, prompt) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("shape", [(3000,), (1000, 3)], ids=["rows", "rows-and-drafts"])
def test_tokens_are_drawn_as_likely_as_they_are(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    logits = torch.randn(300) * 2
    drawn = _sampling(lambda hidden: hidden.clone())(logits.expand(*shape, 300)).argmax(-1)
    assert drawn.shape == shape
    share = torch.bincount(drawn.flatten(), minlength=300) / 3000
    assert (share - logits.softmax(-1)).abs().max() < 0.03
