"""The system calls that a child may make: an allowlist, compiled to a BPF program once and loaded by each child.

Owns the list, the argument checks and the compiler. Everything that is not on the list fails with EPERM; a call through
another architecture's table ends the process. The checks that name the child's own pid are patched in before loading.
Pitfalls that the list answers are those of sandbox.md: shared anonymous memory, F_SETOWN, datagram socket pairs,
MSG_FASTOPEN, MPTCP, listen with autobind, x32.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from typing import Final

import msgspec

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_KILL: Final = 0x80000000
_DENY: Final = _ERRNO | errno.EPERM

# BPF opcodes: load word, and, jump always, jump if equal / greater or equal / set, return
_LD, _JA, _JEQ, _JGE, _JSET, _RET = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_NR_AT, _ARCH_AT, _ARGS_AT = 0, 4, 16

_ARCHITECTURES: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32: Final = 0x40000000

Instruction = tuple[int, int, int, int]
PID: Final = 0xFFFFFFF1
"""Stands for the child's own pid until it is known."""

_CLONE_THREAD: Final = 0x00010000
_CLONE_NEW: Final = 0x7E020000
_SHARED_ANONYMOUS: Final = 0x21
_GROWS_DOWN: Final = 0x100
_MSG_FASTOPEN: Final = 0x20000000
_FCNTLS: Final = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)
_IOCTLS: Final = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_PRCTLS: Final = (2, 3, 15, 16)  # its parent-death signal; is it dumpable; the name of a thread

# name: (x86_64, aarch64); None where the architecture has no such call
_PLAIN: Final[dict[str, tuple[int | None, int | None]]] = {
    # its own memory
    "brk": (12, 214), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233),
    "mincore": (27, 232), "msync": (26, 227), "membarrier": (324, 283),
    # descriptors that it has
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62), "pread64": (17, 67),
    "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "preadv": (295, 69), "pwritev": (296, 70),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "fsync": (74, 82), "fdatasync": (75, 83),
    "flock": (73, 32), "getdents64": (217, 61), "fstatfs": (138, 44), "fadvise64": (221, 223), "readahead": (187, 213),
    "pipe": (22, None), "pipe2": (293, 59), "select": (23, None), "pselect6": (270, 72), "poll": (7, None),
    "ppoll": (271, 73), "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, None), "epoll_pwait": (281, 22), "epoll_pwait2": (441, 441), "eventfd": (284, None),
    "eventfd2": (290, 19), "recvfrom": (45, 207), "recvmsg": (47, 212), "recvmmsg": (299, 243),
    "shutdown": (48, 210), "getsockopt": (55, 209), "getsockname": (51, 204),
    "getpeername": (52, 205), "close_range": (436, 436),
    # names of files: seeing is harmless where opening is confined
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "getcwd": (79, 17), "chdir": (80, 49),
    "fchdir": (81, 50), "readlink": (89, None), "readlinkat": (267, 78), "stat": (4, None), "lstat": (6, None),
    "newfstatat": (262, 79), "statx": (332, 291), "statfs": (137, 43), "umask": (95, 166),
    # time
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "gettimeofday": (96, 169), "time": (201, None),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "times": (100, 153), "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87), "setitimer": (38, 103), "getitimer": (36, 102),
    "alarm": (37, None), "pause": (34, None), "timer_create": (222, 107), "timer_settime": (223, 110),
    "timer_gettime": (224, 108), "timer_getoverrun": (225, 109), "timer_delete": (226, 111),
    # itself and its threads
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getpgid": (121, 155), "getpgrp": (111, None),
    "getsid": (124, 156), "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177),
    "getresuid": (118, 148), "getresgid": (120, 150), "getgroups": (115, 158), "getpriority": (140, 141),
    "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179), "uname": (63, 160), "getcpu": (309, 168),
    "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94), "wait4": (61, 260), "waitid": (247, 95),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "set_tid_address": (218, 96), "set_robust_list": (273, 99),
    "get_robust_list": (274, 100), "rseq": (334, 293), "futex": (202, 98), "futex_waitv": (449, 449),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
}  # fmt: skip
_CHECKED: Final[dict[str, tuple[int | None, int | None]]] = {
    "mmap": (9, 222), "clone": (56, 220), "clone3": (435, 435), "kill": (62, 129), "tgkill": (234, 131),
    "fcntl": (72, 25), "ioctl": (16, 29), "prctl": (157, 167), "prlimit64": (302, 261), "socketpair": (53, 199),
    "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269), "socket": (41, 198), "setsockopt": (54, 208),
}  # fmt: skip
_OPENS: Final[dict[str, tuple[int | None, int | None]]] = {"open": (2, None), "openat": (257, 56)}
_CONNECTS: Final[dict[str, tuple[int | None, int | None]]] = {"connect": (42, 203)}
_WRITES: Final[dict[str, tuple[int | None, int | None]]] = {
    "mkdir": (83, None), "mkdirat": (258, 34), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "rmdir": (84, None), "ftruncate": (77, 46), "creat": (85, None),
    "fallocate": (285, 47),
}  # fmt: skip


class Program(msgspec.Struct, frozen=True):
    """A BPF program and the offsets at which the child's pid belongs."""

    code: bytes
    pid_offsets: tuple[int, ...]


def supported() -> bool:
    """Whether this machine's system call table is known here."""
    return platform.machine() in _ARCHITECTURES


def build(*, network: bool, opens: bool, writes: bool) -> Program:
    """Compiles the list. ``opens`` is False in sealed mode (no Landlock), ``writes`` follows the operator's grants."""
    audit, column = _ARCHITECTURES[platform.machine()]
    calls = {**_PLAIN, **(_OPENS if opens else {}), **(_CONNECTS if network else {}), **(_WRITES if writes else {})}
    leaves: dict[int, list[Instruction]] = {}
    for numbers in calls.values():
        if (number := numbers[column]) is not None:
            leaves[number] = [_ret(_ALLOW)]
    for name, numbers in _CHECKED.items():
        if (number := numbers[column]) is not None:
            leaves[number] = _check(name, network=network)
    program = [
        (_LD, 0, 0, _ARCH_AT),
        (_JEQ, 1, 0, audit),
        _ret(_KILL),
        (_LD, 0, 0, _NR_AT),
        *([(_JGE, 0, 1, _X32), _ret(_KILL)] if column == 0 else []),
        *_tree(_ranges(leaves)),
    ]
    offsets = tuple(index * 8 + 4 for index, instruction in enumerate(program) if instruction[3] == PID)
    return Program(b"".join(struct.pack("<HBBI", *instruction) for instruction in program), offsets)


def _ret(action: int) -> Instruction:
    return (_RET, 0, 0, action)


def _arg(index: int) -> Instruction:
    """Loads the low half of an argument; all that is checked here is an int for the kernel too."""
    return (_LD, 0, 0, _ARGS_AT + 8 * index)


def _one_of(index: int, values: tuple[int, ...], *, otherwise: int = _DENY) -> list[Instruction]:
    block = [_arg(index)]
    for position, value in enumerate(values):
        block.append((_JEQ, len(values) - position, 0, value))
    return [*block, _ret(otherwise), _ret(_ALLOW)]


def _without(index: int, bits: int) -> list[Instruction]:
    return [_arg(index), (_JSET, 0, 1, bits), _ret(_DENY), _ret(_ALLOW)]


def _check(name: str, *, network: bool) -> list[Instruction]:
    """What a call must look like."""
    match name:
        case "mmap":  # memory that RLIMIT_DATA does not count: shared anonymous pages, and stacks
            return [
                _arg(3), (_JSET, 2, 0, _GROWS_DOWN),
                (0x54, 0, 0, _SHARED_ANONYMOUS), (_JEQ, 0, 1, _SHARED_ANONYMOUS), _ret(_DENY), _ret(_ALLOW),
            ]  # fmt: skip
        case "clone":  # threads, no processes
            return [
                _arg(0), (_JSET, 0, 2, _CLONE_THREAD), (_JSET, 1, 0, _CLONE_NEW), _ret(_ALLOW), _ret(_DENY),
            ]  # fmt: skip
        case "clone3":  # its flags are behind a pointer; the C library falls back to clone
            return [_ret(_ERRNO | errno.ENOSYS)]
        case "kill" | "tgkill":
            return _one_of(0, (PID,))
        case "prlimit64":
            return _one_of(0, (0, PID))
        case "fcntl":
            return _one_of(1, _FCNTLS)
        case "ioctl":
            return _one_of(1, _IOCTLS, otherwise=_ERRNO | errno.ENOTTY)
        case "prctl":
            return _one_of(0, _PRCTLS)
        case "socketpair":  # AF_UNIX streams; a datagram pair can send to any socket in the file system
            return [
                _arg(0), (_JEQ, 0, 3, 1), _arg(1), (0x54, 0, 0, 0xF), (_JEQ, 1, 0, 1), _ret(_DENY), _ret(_ALLOW),
            ]  # fmt: skip
        case "sendto":
            return _without(3, _MSG_FASTOPEN)
        case "sendmsg":
            return _without(2, _MSG_FASTOPEN)
        case "sendmmsg":
            return _without(3, _MSG_FASTOPEN)
        case "setsockopt":
            return [_ret(_ALLOW)] if network else _queue_check()
        case "socket":
            return _socket_check() if network else [_ret(_ERRNO | errno.EACCES)]
    raise AssertionError(name)


def _socket_check() -> list[Instruction]:
    """AF_INET and AF_INET6, streams and datagrams, with their usual protocols."""
    deny = _ret(_ERRNO | errno.EACCES)
    return [
        _arg(0), (_JEQ, 2, 0, 2), (_JEQ, 1, 0, 10), deny,
        _arg(1), (0x54, 0, 0, 0xF), (_JEQ, 2, 0, 1), (_JEQ, 1, 0, 2), deny,
        _arg(2), (_JEQ, 3, 0, 0), (_JEQ, 2, 0, 6), (_JEQ, 1, 0, 17), deny, _ret(_ALLOW),
    ]  # fmt: skip


def _queue_check() -> list[Instruction]:
    """No larger queues for pairs of sockets (SO_SNDBUF, SO_SNDBUFFORCE): they are memory of the kernel's, a gigabyte
    where wmem_max is 4 MiB. With the network they may be asked for, and TCP has large ones anyway.

    SO_SNDBUF is a wish, and the answer is yes while nothing is done: trio makes its own smaller when it starts.
    """
    return [
        _arg(1), (_JEQ, 0, 4, 1), _arg(2), (_JEQ, 1, 0, 7), (_JEQ, 2, 1, 32), _ret(_ERRNO), _ret(_ALLOW), _ret(_DENY),
    ]  # fmt: skip


def _ranges(leaves: dict[int, list[Instruction]]) -> list[tuple[int, list[Instruction]]]:
    """(first number, what to do from there on), with neighbours of the same kind merged."""
    ranges: list[tuple[int, list[Instruction]]] = [(0, [_ret(_DENY)])]
    for number in range(max(leaves) + 2):
        action = leaves.get(number, [_ret(_DENY)])
        if action != ranges[-1][1]:
            ranges.append((number, action))
    return ranges if ranges[0][0] != ranges[1][0] else ranges[1:]


def _tree(ranges: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """A binary search over the ranges: some seven comparisons a call instead of a hundred and fifty."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    left, right = _tree(ranges[:middle]), _tree(ranges[middle:])
    start = ranges[middle][0]
    if len(left) <= 255:
        return [(_JGE, len(left), 0, start), *left, *right]
    return [(_JGE, 0, 1, start), (_JA, 0, 0, len(left)), *left, *right]


class Loader:
    """A program in memory that the kernel can read, made once in the zygote; `load` is what a child calls."""

    def __init__(self, program: Program) -> None:
        self._buffer = ctypes.create_string_buffer(program.code, len(program.code))
        self._fprog = ctypes.create_string_buffer(
            struct.pack("@HxxxxxxP", len(program.code) // 8, ctypes.addressof(self._buffer))
        )
        base = ctypes.addressof(self._buffer)
        self._pids = tuple(ctypes.c_uint32.from_address(base + offset) for offset in program.pid_offsets)
        self.address = ctypes.addressof(self._fprog)

    def patch(self, pid: int) -> None:
        """Writes the child's pid where the checks need it."""
        for place in self._pids:
            place.value = pid
