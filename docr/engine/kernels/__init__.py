"""Kernels in Triton; each has a twin in PyTorch that says what it computes.

Import a kernel's module where it is called: a run without a GPU need not have Triton. Under
TRITON_INTERPRET=1 kernels run on a CPU, which is how tests compare them with their twins.
"""

import importlib.util

HAS_TRITON = importlib.util.find_spec("triton") is not None
"""It comes with builds of torch for GPUs, not with those for CPUs."""

LEAST = 16
"""Rows and columns of the smallest product that a matrix unit takes."""

PIECE = 64
"""Sides of experts' weights are multiples of this, and are taken in such pieces."""


def is_power_of_two(number: int) -> bool:
    """Whether a kernel can take a side of this length whole."""
    return number > 0 and number & (number - 1) == 0
