"""The system calls that a rendering child keeps: a seccomp filter of Linux.

A list of what is allowed: computing, memory, reading files, and talking over descriptors that are
open. All else answers ENOSYS, as a kernel does that never had the call, and libraries know what
to do then. So there is no socket to make, no program or process to start, no file to write, and
nothing of what later kernels bring. Calls are numbered differently on each architecture.

Source: Documentation/userspace-api/seccomp_filter.rst and the kernel's tables of system calls.
"""

import ctypes
import errno
import os
import struct

# name: (x86_64, aarch64); None where the architecture has no such call
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # descriptors that are open
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "preadv": (295, 69),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "fcntl": (72, 25),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "shutdown": (48, 210),
    # looking for files: fonts, modules that are imported late
    "stat": (4, None),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    # memory
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "msync": (26, 227),
    "mincore": (27, 232),
    "madvise": (28, 233),
    # signals to itself, timers, the end
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132),
    "pause": (34, None),
    "alarm": (37, None),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
    # threads
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "rseq": (334, 293),
    "membarrier": (324, 283),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    # clocks, chance, and who am I
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
}

# name: numbers as above, argument, mask, value that the masked argument must have
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CLONE_THREAD = 0x10000
_ALL_BITS = 0xFFFFFFFF
_LIMITED: dict[str, tuple[tuple[int | None, int | None], int, int, int | None]] = {
    "open": ((2, None), 1, _WRITING, 0),
    "openat": ((257, 56), 2, _WRITING, 0),
    "clone": ((56, 220), 0, _CLONE_THREAD, _CLONE_THREAD),
    # only to itself, whose number is put in for None
    "kill": ((62, 129), 0, _ALL_BITS, None),
    "tkill": ((200, 130), 0, _ALL_BITS, None),
    "tgkill": ((234, 131), 0, _ALL_BITS, None),
}

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH

_LOAD, _AND, _IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2


def numbers(machine: str) -> dict[str, int]:
    """The calls that are allowed on an architecture, some of them with certain arguments only."""
    column, _ = _ARCHITECTURES[machine]
    named = _ALLOWED | {name: limited[0] for name, limited in _LIMITED.items()}
    found = {name: columns[column] for name, columns in named.items()}
    return {name: number for name, number in found.items() if number is not None}


def restrict() -> bool:
    """Keep to these system calls from now on; needs no_new_privs.

    Returns:
        False where the system has no such filters, or the architecture no list.
    """
    machine = os.uname().machine
    if machine not in _ARCHITECTURES or struct.calcsize("P") != 8:
        return False
    program = _program(machine, process=os.getpid())
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    result: int = ctypes.CDLL(None).prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(header), 0, 0
    )
    return result == 0


def _program(machine: str, *, process: int) -> bytes:
    """The filter, in the instructions of the kernel's packet filters."""
    _, architecture = _ARCHITECTURES[machine]
    absent, refused = _ERROR | errno.ENOSYS, _ERROR | errno.EPERM
    code = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        # 32-bit calls have numbers of their own; none of them is allowed.
        _instruction(_IF_EQUAL, architecture, then=1),
        _instruction(_RETURN, absent),
        _instruction(_LOAD, _NUMBER_AT),
    ]
    for name, number in numbers(machine).items():
        if name in _ALLOWED:
            code += [_instruction(_IF_EQUAL, number, otherwise=1), _instruction(_RETURN, _ALLOW)]
            continue
        _, argument, mask, value = _LIMITED[name]
        code += [
            _instruction(_IF_EQUAL, number, otherwise=5),
            # The low half, which is all that the kernel looks at in these arguments.
            _instruction(_LOAD, _ARGUMENTS_AT + 8 * argument),
            _instruction(_AND, mask),
            _instruction(_IF_EQUAL, process if value is None else value, otherwise=1),
            _instruction(_RETURN, _ALLOW),
            _instruction(_RETURN, refused),
        ]
    return b"".join([*code, _instruction(_RETURN, absent)])


def _instruction(operation: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """One struct sock_filter; jumps count instructions."""
    return struct.pack("=HBBI", operation, then, otherwise, value)
