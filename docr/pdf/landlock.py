"""The files that a rendering child may read: a Landlock ruleset of Linux.

Programs, libraries, modules and fonts may be read, and nothing written, made, removed or started.
A second wall behind seccomp.py, which does not know one file from another.

Source: Documentation/userspace-api/landlock.rst.
"""

import ctypes
import os
import struct
import sys

# The same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1  # flag of _CREATE_RULESET
_PATH_BENEATH = 1

_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# How many rights over files each version of the interface knows; the last holds for later ones.
_FILE_RIGHTS = (13, 14, 15, 15, 16)
_NETWORK_SINCE, _TCP = 4, 0b11  # bind, connect
_SCOPES_SINCE, _OUTSIDERS = 6, 0b11  # abstract sockets of others, signals to others

_SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/fonts")


def restrict() -> bool:
    """Keep to these files from now on; needs no_new_privs. Open descriptors stay as they are.

    Returns:
        False where the system has no Landlock.
    """
    syscall = ctypes.CDLL(None).syscall
    version = syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return False
    rights = (1 << _FILE_RIGHTS[min(version, len(_FILE_RIGHTS)) - 1]) - 1
    attributes = struct.pack("=Q", rights)
    if version >= _NETWORK_SINCE:
        attributes += struct.pack("=Q", _TCP)
    if version >= _SCOPES_SINCE:
        attributes += struct.pack("=Q", _OUTSIDERS)
    ruleset = syscall(_CREATE_RULESET, ctypes.c_char_p(attributes), len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        for path in _readable():
            _allow(ruleset, path)
        return bool(syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _readable() -> set[str]:
    """What Python and the libraries below it may still want to load."""
    return {*_SYSTEM, sys.prefix, sys.base_prefix, *(path for path in sys.path if path)}


def _allow(ruleset: int, path: str) -> None:
    """Let a file, or all below a folder, be read; nothing where there is none."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = _READ_FILE | (_READ_DIR if os.path.isdir(place) else 0)  # noqa: PTH112
        rule = struct.pack("=Qi", rights, place)
        # Where this is refused, one path less can be read.
        ctypes.CDLL(None).syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(place)
