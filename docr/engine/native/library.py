"""Compiling the kernels and loading them, once a process.

Wheels stay plain Python: the machine's own C compiler makes the library when it is first wanted, in
about two seconds, and it is kept in the user's cache. Without a compiler, or on a processor without
AVX512 for bf16, docr computes by PyTorch alone, and slower.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import platformdirs

log = logging.getLogger(__name__)

SOURCES = sorted(Path(__file__).parent.glob("*.[ch]"))

COMPILERS = ("cc", "gcc", "clang")

# Named, not "native": a cache may lie on a disk that many kinds of machines share.
FLAGS = (
    *("-O3", "-shared", "-fPIC", "-fopenmp"),
    *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512bf16", "-mavx512vnni", "-mfma"),
)

COMPILE_SECONDS = 120

DIGEST = hashlib.sha256().digest_size
"""Bytes behind the library's own, which loaders do not mind."""

_CPU_FLAGS = {"avx512f", "avx512bw", "avx512vl", "avx512_bf16", "avx512_vnni"}


class Unavailable(Exception):
    """Why there is no library here, in a few words."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None where they cannot be had; the reason is logged."""
    try:
        return load(cache_folder())
    except Unavailable as reason:
        log.info("decoding on the CPU without docr's own kernels: %s", reason)
        return None


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    return platformdirs.user_cache_path("docr") / "native"


def load(folder: Path) -> ctypes.CDLL:
    """Load the library from a cache folder, compiled into it if need be.

    Raises:
        Unavailable: this processor lacks what it needs, or there is no compiler.
    """
    _check_processor()
    parts = [" ".join(FLAGS).encode(), *(source.read_bytes() for source in SOURCES)]
    name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16] + ".so"
    _share_openmp()
    if _is_ours(folder):
        kept = folder / name
        try:
            if not _is_whole(kept):
                _compile(kept)
            return ctypes.CDLL(str(kept))
        except OSError as error:  # a disk that is full, or from which nothing may be run
            log.debug("%s: %s", kept, error)
    try:
        with tempfile.TemporaryDirectory(prefix="docr-native-") as scratch:
            made = Path(scratch) / name
            _compile(made)
            return ctypes.CDLL(str(made))
    except OSError as error:
        raise Unavailable(f"what was compiled cannot be used: {error}") from error


def _is_whole(path: Path) -> bool:
    """Whether a library is there with all its bytes: one cut short would crash the process."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def _check_processor() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable("they are for Linux on x86-64")
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        flags = next((line for line in lines if line.startswith("flags")), "")
    missing = _CPU_FLAGS - set(flags.split())
    if missing:
        raise Unavailable(f"the processor lacks {', '.join(sorted(missing))}")


def _is_ours(folder: Path) -> bool:
    """Make the cache's folder; whether nobody else can have put code into it."""
    if not folder.is_absolute():  # who runs this has no home
        return False
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError:
        return False
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _compile(target: Path) -> None:
    """Make the library under a name of its own, then give it the target's: ranks may race.

    Raises:
        Unavailable: there is no compiler, or it fails.
        OSError: the folder takes no file.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise Unavailable("there is no C compiler (cc, gcc or clang)")
    descriptor, made = tempfile.mkstemp(prefix=target.stem, suffix=".part", dir=target.parent)
    os.close(descriptor)
    try:
        code = [str(source) for source in SOURCES if source.suffix == ".c"]
        command = [compiler, *FLAGS, *code, "-o", made, "-lm"]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,  # a rank's is not for others
            capture_output=True,
            text=True,
            timeout=COMPILE_SECONDS,
            check=False,
        )
        if done.returncode:
            line = next(iter(done.stderr.splitlines()), f"exit status {done.returncode}")
            raise Unavailable(f"{compiler} failed: {line}")
        with open(made, "r+b") as file:
            digest = hashlib.sha256(file.read()).digest()
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())
        Path(made).replace(target)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{compiler} took more than {COMPILE_SECONDS} s") from error
    finally:
        Path(made).unlink(missing_ok=True)


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
