from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.parity.oracle import NEAR_EPSILON, Pair, make_pair

STREAM_SCALES = {"unit": 1.0, "near-epsilon": NEAR_EPSILON}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these lose more to threads waiting for each other than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", params=STREAM_SCALES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Our model and the reference: activations of size one, or so small that norms' eps counts."""
    folder: Path = tmp_path_factory.mktemp("checkpoint")
    return make_pair(folder, seed=7, stream_scale=STREAM_SCALES[request.param])
