"""The kernels of the engine, compiled and loaded once a process.

There are two forms of them, for AVX512 with bf16 and for a matrix unit (AMX) beside it. Without a
compiler, or on another processor, docr computes by PyTorch alone, and slower.
"""

import ctypes
import functools
import logging
from dataclasses import replace
from pathlib import Path

from docr.compiled import Code, Unavailable, cache_folder

log = logging.getLogger(__name__)

AVX512 = Code(
    sources=sorted(Path(__file__).parent.glob("*.[ch]")),
    flags=(
        *("-O3", "-shared", "-fPIC", "-fopenmp"),
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512bf16", "-mavx512vnni", "-mfma"),
    ),
    needs=("avx512f", "avx512bw", "avx512vl", "avx512_bf16", "avx512_vnni"),
)

AMX = replace(
    AVX512,
    flags=(*AVX512.flags, "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
    needs=(*AVX512.needs, "amx_tile", "amx_bf16", "amx_int8"),
)
"""The same for processors with a matrix unit, which multiplies whatever it takes."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None where they cannot be had; the reason is logged."""
    try:
        return load(cache_folder())
    except Unavailable as reason:
        log.info("decoding on the CPU without docr's own kernels: %s", reason)
        return None


def load(folder: Path) -> ctypes.CDLL:
    """Load the kernels that suit this processor best.

    Raises:
        Unavailable: it lacks what they need, or there is no compiler.
    """
    try:
        AMX.check_processor()
    except Unavailable:
        return load_form(AVX512, folder)
    try:
        return load_form(AMX, folder)
    except Unavailable as reason:
        log.info("without the processor's matrix unit: %s", reason)
        return load_form(AVX512, folder)


def load_form(code: Code, folder: Path) -> ctypes.CDLL:
    """Load one form of the kernels from a cache folder, compiled into it if need be.

    Raises:
        Unavailable: this processor lacks what it needs, or there is no compiler.
    """
    code.check_processor()
    _share_openmp()
    loaded = code.load(folder)
    if has_amx(loaded) and not loaded.docr_open_amx():
        raise Unavailable("the system does not let programs use the processor's matrix unit")
    return loaded


def has_amx(loaded: ctypes.CDLL) -> bool:
    """Whether these kernels are the form for a matrix unit."""
    return hasattr(loaded, "docr_open_amx")


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
