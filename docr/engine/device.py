"""The device: which one, in which dtype, how much memory it has, and how it says that it failed."""

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState

from docr.errors import DeviceError, OutOfMemory, UsageError
from docr.settings import Dtype

OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""How a lack of memory reads where torch has no exception type for it."""

DEVICE_LOST = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "MPS backend")


def find_device(name: str) -> torch.device:
    """The device of this name, if it is there; "auto" is CUDA, else MPS, else the CPU.

    Which of several CUDA devices "auto" and "cuda" mean is left open; nothing is set up there.

    Raises:
        UsageError: no such name.
        DeviceError: the device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise UsageError(f"--device is auto, cpu, cuda, cuda:N or mps, not {name!r}")
    device = torch.device(name)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("no MPS device (Apple GPU) is visible; try --device cpu")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError("no CUDA device is visible; try --device cpu")
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise DeviceError(f"{name} is not there: the {count} CUDA devices begin with cuda:0")
    return device


def cuda_device_count() -> int:
    """How many CUDA devices this process may use."""
    return torch.cuda.device_count()


def resolve_device(name: str) -> torch.device:
    """The device to run on: `find_device`, and of several CUDA devices the one for this process.

    Accelerate knows that one: each rank of a run has its own.

    Raises:
        UsageError: no such name.
        DeviceError: the device is not there.
    """
    device = find_device(name)
    if device.type == "cuda" and device.index is None:
        return torch.device(PartialState().device)
    return device


def resolve_dtype(name: Dtype, device: torch.device) -> torch.dtype:
    """The dtype of this name; "auto" is bfloat16 where the device computes in it.

    The released weights are bfloat16. Where it would be emulated, "auto" is float16 on CUDA
    devices and float32 on CPUs.
    """
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float16
    if device.type == "cpu" and not _cpu_has_bfloat16():
        return torch.float32
    return torch.bfloat16


def _cpu_has_bfloat16() -> bool:
    """Whether oneDNN multiplies bfloat16 matrices on this CPU instead of converting them."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a build of torch without oneDNN
        return False


def free_bytes(device: torch.device) -> int:
    """Memory that could be taken on the device now.

    On a CPU: what the system calls available, or what the process's control group still allows.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return min(_system_available(), *_cgroup_available())


def _system_available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _cgroup_available() -> list[int]:
    """What a control group (a container) leaves; empty where none limits memory."""
    group = Path("/sys/fs/cgroup")
    files = (  # version 2, then 1
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    )
    for limit, usage, stat in files:
        try:
            room = int((group / limit).read_text()) - int((group / usage).read_text())
            lines = (group / stat).read_text().splitlines()
        except (OSError, ValueError):  # no such file, or "max"
            continue
        # Files read lately, such as the weights, count as used but make way.
        return [room + sum(int(n) for key, n in map(str.split, lines) if key == "inactive_file")]
    return []


@contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """Turn what torch raises when a device fails into our errors.

    Raises:
        OutOfMemory: less at once may succeed.
        DeviceError: the device is lost.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(_first_line(error)) from error
    except torch.AcceleratorError as error:
        raise DeviceError(f"{device} failed: {_first_line(error)}") from error
    except RuntimeError as error:
        text = str(error)
        if any(sign in text for sign in OUT_OF_MEMORY):
            raise OutOfMemory(_first_line(error)) from error
        if device.type != "cpu" and any(sign in text for sign in DEVICE_LOST):
            raise DeviceError(f"{device} failed: {_first_line(error)}") from error
        raise


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def release_memory(device: torch.device) -> None:
    """Give back what a failed attempt held; only once its exception, which holds it, is gone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
