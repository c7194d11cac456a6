"""The kernels of the engine, compiled and loaded once a process.

Without a compiler, or on a processor without AVX512 for bf16, docr computes by PyTorch alone, and
slower.
"""

import ctypes
import functools
import logging
from pathlib import Path

from docr.compiled import Code, Unavailable, cache_folder

log = logging.getLogger(__name__)

CODE = Code(
    sources=sorted(Path(__file__).parent.glob("*.[ch]")),
    flags=(
        *("-O3", "-shared", "-fPIC", "-fopenmp"),
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512bf16", "-mavx512vnni", "-mfma"),
    ),
    needs=("avx512f", "avx512bw", "avx512vl", "avx512_bf16", "avx512_vnni"),
)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None where they cannot be had; the reason is logged."""
    try:
        return load(cache_folder())
    except Unavailable as reason:
        log.info("decoding on the CPU without docr's own kernels: %s", reason)
        return None


def load(folder: Path) -> ctypes.CDLL:
    """Load the kernels from a cache folder, compiled into it if need be.

    Raises:
        Unavailable: this processor lacks what they need, or there is no compiler.
    """
    CODE.check_processor()
    _share_openmp()
    return CODE.load(folder)


def _share_openmp() -> None:
    """Let the library find torch's own OpenMP first.

    With a second one each would have a thread for every core, and one's would wait for work on the
    cores that the other's need.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        mapped = (line.split(maxsplit=5)[-1].strip() for line in lines if "libgomp" in line)
        runtime = next(mapped, None)
    if runtime is not None:
        ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
