"""Runs a program as on a system without seccomp filters and Landlock.

    python -m tests.fakes.old_kernel PROGRAM ARGUMENTS

By a seccomp filter of its own, under which asking for another one, or for Landlock, fails.
"""

import ctypes
import errno
import os
import struct
import sys

_PRCTL = {"x86_64": 157, "aarch64": 167}
_LANDLOCK = 444
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000


def available() -> bool:
    return sys.platform == "linux" and os.uname().machine in _PRCTL


def age() -> None:
    code = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (_LOAD, 0, 0, 0),
            (_IF_EQUAL, 5, 0, _LANDLOCK),
            (_IF_EQUAL, 0, 3, _PRCTL[os.uname().machine]),
            (_LOAD, 0, 0, 16),
            (_IF_EQUAL, 0, 1, _PR_SET_SECCOMP),
            (_RETURN, 0, 0, _ERROR | errno.EINVAL),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _ERROR | errno.ENOSYS),
        )
    )
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    prctl = ctypes.CDLL(None).prctl
    assert prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(header), 0, 0) == 0


if __name__ == "__main__":
    age()
    os.execv(sys.argv[1], sys.argv[1:])
