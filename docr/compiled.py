"""Parts of docr in C: compiled by the machine's own compiler, kept in the user's cache, loaded.

Wheels stay plain Python: what is wanted for the first time is compiled then, which takes a second
or four. Whoever loads such a part has a way to do without.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

log = logging.getLogger(__name__)

COMPILERS = ("cc", "gcc", "clang")

COMPILE_SECONDS = 120

DIGEST = hashlib.sha256().digest_size
"""Bytes behind the library's own, which loaders do not mind."""


class Unavailable(Exception):
    """Why there is no library here, in a few words."""


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    return platformdirs.user_cache_path("docr") / "native"


@dataclass(frozen=True, slots=True)
class Code:
    """What a library is made of.

    Attributes:
        sources: files in C, and headers that these include.
        flags: for the compiler. They name what the processor has, never "native": a cache may lie
            on a disk that many kinds of machines share.
        needs: flags of the processor, as Linux names them.
    """

    sources: Sequence[Path]
    flags: Sequence[str]
    needs: Iterable[str]

    def check_processor(self) -> None:
        """Raises Unavailable where the processor lacks what the code needs."""
        if sys.platform != "linux" or platform.machine() != "x86_64":
            raise Unavailable("it is for Linux on x86-64")
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
        missing = set(self.needs) - set(flags.split())
        if missing:
            raise Unavailable(f"the processor lacks {', '.join(sorted(missing))}")

    def load(self, folder: Path) -> ctypes.CDLL:
        """Load the library from a cache folder, compiled into it if need be.

        Raises:
            Unavailable: this processor lacks what it needs, or there is no compiler.
        """
        self.check_processor()
        parts = [" ".join(self.flags).encode(), *(source.read_bytes() for source in self.sources)]
        name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16] + ".so"
        if _is_ours(folder):
            kept = folder / name
            try:
                if not _is_whole(kept):
                    self._compile(kept)
                return ctypes.CDLL(str(kept))
            except OSError as error:  # a disk that is full, or from which nothing may be run
                log.debug("%s: %s", kept, error)
        try:
            with tempfile.TemporaryDirectory(prefix="docr-native-") as scratch:
                made = Path(scratch) / name
                self._compile(made)
                return ctypes.CDLL(str(made))
        except OSError as error:
            raise Unavailable(f"what was compiled cannot be used: {error}") from error

    def _compile(self, target: Path) -> None:
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
            code = [str(source) for source in self.sources if source.suffix == ".c"]
            command = [compiler, *self.flags, *code, "-o", made, "-lm"]
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


def _is_whole(path: Path) -> bool:
    """Whether a library is there with all its bytes: one cut short would crash the process."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


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
