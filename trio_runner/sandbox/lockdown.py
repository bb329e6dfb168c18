"""What a child does to itself before it is given anything.

The portable part (a session of its own, no inherited files) works everywhere; the rest are Linux calls that are
prepared once in the zygote. `prepare` says what is possible here; a child only calls what was prepared.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Final

import msgspec

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_CHILD_SUBREAPER: Final = 36
_MAX_FD: Final = 2**31 - 1


class Lockdown(msgspec.Struct, frozen=True):
    """The prepared calls. ``layers`` names what holds, for the log."""

    layers: tuple[str, ...]
    prctl: Callable[[int, int, int, int, int], int] | None
    zygote_pid: int
    null_fd: int

    def apply(self, keep_fd: int) -> None:
        """Confines the calling process, for good. Only ``keep_fd`` stays open."""
        os.setsid()
        if self.prctl is not None:
            self.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != self.zygote_pid:
                os._exit(0)  # the zygote died between the fork and the call above: nobody would ever end us
            self.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        for fd in (0, 1, 2):
            os.dup2(self.null_fd, fd)
        os.closerange(3, keep_fd)
        os.closerange(keep_fd + 1, _MAX_FD)


def prepare() -> Lockdown:
    """Looks once, in the zygote, at what this platform offers. Must run before the first fork."""
    null_fd = os.open(os.devnull, os.O_RDWR)
    layers = ["own session", "no inherited files"]
    prctl = _prctl() if sys.platform == "linux" else None
    if prctl is not None:
        # orphans of a child come to the zygote, which ends them, instead of living on under init
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        layers += ["dies with its parent", "no new privileges"]
    return Lockdown(tuple(layers), prctl, os.getpid(), null_fd)


def _prctl() -> Callable[[int, int, int, int, int], int] | None:
    try:
        import ctypes

        call = ctypes.CDLL(None, use_errno=True).prctl
        call.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
        call.restype = ctypes.c_int
    except (ImportError, OSError, AttributeError):  # no libffi, or a libc without prctl
        return None
    return call
