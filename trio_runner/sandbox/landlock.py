"""Landlock through the raw system calls: which files a child may open, which ports it may reach, whom it may signal.

The ruleset is made once in the zygote (0.85 ms) and inherited; a child only enforces it on itself (0.1 ms). Owns the
kernel's numbers and the ABI differences. Needs no privileges.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from contextlib import suppress
from typing import Final

import msgspec

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_FILE_RIGHTS: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ: Final = _READ_FILE | _READ_DIR
_REFER: Final = 1 << 13
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_SCOPE_ABSTRACT_UNIX, _SCOPE_SIGNAL = 1 << 0, 1 << 1


class Grants(msgspec.Struct, frozen=True, kw_only=True):
    """What stays reachable."""

    read: tuple[str, ...]
    write: tuple[str, ...] = ()
    connect_ports: tuple[int, ...] = ()


def abi() -> int:
    """The kernel's Landlock version; 0 where there is none (old kernels, gVisor, a container engine that blocks it)."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)))


def make_ruleset(grants: Grants) -> int:
    """A descriptor of a ruleset that refuses everything but ``grants``. Raises OSError.

    A path that does not exist is left out: there is nothing to reach.
    """
    version = abi()
    handled = _handled_fs(version)
    net = (_BIND_TCP | _CONNECT_TCP) if version >= 4 else 0
    scoped = (_SCOPE_ABSTRACT_UNIX | _SCOPE_SIGNAL) if version >= 6 else 0
    attributes = struct.pack("<QQQ", handled, net, scoped)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    try:
        for path in grants.read:
            _allow_path(ruleset, path, _READ & handled)
        for path in grants.write:
            _allow_path(ruleset, path, handled & ~(_EXECUTE | _IOCTL_DEV | _REFER))
        for port in grants.connect_ports if net else ():
            _call(_ADD_RULE, ruleset, _RULE_NET_PORT, struct.pack("<QQ", _CONNECT_TCP, port), 0)
    except OSError:
        os.close(ruleset)
        raise
    return ruleset


def restrict_self(ruleset: int) -> None:
    """Enforces a ruleset on the calling process, for good. Needs no-new-privileges. Raises OSError."""
    _call(_RESTRICT_SELF, ruleset, 0)


def _handled_fs(version: int) -> int:
    bits = (1 << 13) - 1
    if version >= 2:
        bits |= _REFER
    if version >= 3:
        bits |= _TRUNCATE
    if version >= 5:
        bits |= _IOCTL_DEV
    return bits


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                rights &= _FILE_RIGHTS
            _call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("<Qi", rights, fd), 0)
        finally:
            os.close(fd)


_library: ctypes.CDLL | None = None


def _libc() -> ctypes.CDLL:
    global _library  # noqa: PLW0603 - loading it costs a search of the file system
    if _library is None:
        _library = ctypes.CDLL(None, use_errno=True)
    return _library


def _call(number: int, *arguments: object) -> int:
    result = int(_libc().syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock call {number} failed: {os.strerror(code)}")
    return result


UNSUPPORTED: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
"""What the kernel says where Landlock is missing, switched off or blocked."""
