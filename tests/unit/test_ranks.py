"""How many processes a run's devices get, and which device each of them sees."""

import pytest

from docr.distributed.accelerate import rank_count, rank_environment
from docr.pdf.launch import KEEP_MEMORY
from docr.settings import Settings


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (Settings(device="cpu"), 1),
        (Settings(device="cpu", gpus=3), 3),
        (Settings(device="cuda:1"), 1),
        (Settings(engine="a:b"), 0),  # in this process
        (Settings(engine="a:b", gpus=1), 1),
    ],
)
def test_ranks(settings: Settings, count: int) -> None:
    assert rank_count(settings) == count


def test_each_rank_sees_its_own_device() -> None:
    seen = {"CUDA_VISIBLE_DEVICES": "4,GPU-7", "HOME": "/h"}
    huge = {"GLIBC_TUNABLES": KEEP_MEMORY}
    assert (
        rank_environment(seen, number=1, device="auto")
        == {
            "CUDA_VISIBLE_DEVICES": "GPU-7",
            "HOME": "/h",
        }
        | huge
    )
    assert rank_environment({}, number=1, device="cuda") == {"CUDA_VISIBLE_DEVICES": "1"} | huge
    assert rank_environment(seen, number=1, device="cpu") == seen | huge
    assert rank_environment(seen, number=0, device="cuda:1") == seen | huge
    own = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}
    assert rank_environment(own, number=0, device="cpu") == own
