"""The compiled filter, run by a small interpreter of BPF over every number and many arguments: only what is listed.

No system call is made here, so both architectures are checked on either.
"""

from __future__ import annotations

import errno
import platform
import random
import struct
from pathlib import Path

import pytest

from trio_runner.sandbox import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, EACCES, ENOSYS, ENOTTY = (0x00050000 | code for code in (1, 13, 38, 25))
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PID = 4711
_GENERIC = "asm-generic/unistd.h"
MODES = [(network, opens, writes) for network in (False, True) for opens in (False, True) for writes in (False, True)]

both = pytest.mark.parametrize("machine", AUDIT)


class Filter:
    """One compiled program on one architecture; called like the kernel calls it."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, machine: str, *, network: bool = False, opens: bool = True,
        writes: bool = False,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(platform, "machine", lambda: machine)
        self.audit = AUDIT[machine]
        self.column = list(AUDIT).index(machine)
        self.built = seccomp.build(network=network, opens=opens, writes=writes)
        loader = seccomp.Loader(self.built)
        loader.patch(PID)
        code = loader._buffer.raw
        self.program = [struct.unpack_from("<HBBI", code, at) for at in range(0, len(code), 8)]
        self.steps = 0

    def __call__(self, number: int, *arguments: int, audit: int | None = None) -> int:
        words = [argument & (1 << 64) - 1 for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
        data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, self.audit if audit is None else audit, 0xDEAD, *words)
        accumulator, at = 0, 0
        self.steps = 0
        while True:
            self.steps += 1
            code, when_true, when_false, k = self.program[at]
            at += 1
            match code:
                case 0x20:  # a word of the data
                    assert k % 4 == 0
                    (accumulator,) = struct.unpack_from("<I", data, k)
                case 0x54:
                    accumulator &= k
                case 0x05:
                    at += k
                case 0x15:
                    at += when_true if accumulator == k else when_false
                case 0x35:
                    at += when_true if accumulator >= k else when_false
                case 0x45:
                    at += when_true if accumulator & k else when_false
                case 0x06:
                    return k
                case _:
                    raise AssertionError(f"unknown instruction {code:#x}")

    def nr(self, name: str) -> int:
        """The number of a listed call here."""
        for table in (seccomp._PLAIN, seccomp._CHECKED, seccomp._OPENS, seccomp._CONNECTS, seccomp._WRITES):
            if name in table and (number := table[name][self.column]) is not None:
                return number
        raise KeyError(name)


@both
@pytest.mark.parametrize(("network", "opens", "writes"), MODES)
def test_only_listed_calls_are_ever_allowed(
    machine: str, network: bool, opens: bool, writes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Filter(monkeypatch, machine, network=network, opens=opens, writes=writes)
    tables = [seccomp._PLAIN]
    tables += [seccomp._OPENS] if opens else []
    tables += [seccomp._CONNECTS] if network else []
    tables += [seccomp._WRITES] if writes else []
    plain = {numbers[run.column] for table in tables for numbers in table.values()}
    checked = {numbers[run.column] for numbers in seccomp._CHECKED.values()}
    chance = random.Random(1)
    for number in range(1025):
        for _ in range(2):
            verdict = run(number, *(chance.choice((0, 1, 2, PID, chance.getrandbits(64))) for _ in range(6)))
            if number in plain:
                assert verdict == ALLOW, number
            elif number not in checked:
                assert verdict == EPERM, number


@both
def test_no_verdict_ever_depends_on_more_than_two_dozen_comparisons(
    machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Filter(monkeypatch, machine, network=True, writes=True)
    longest = 0
    for number in range(1025):
        run(number, 77, 77, 77, 77)
        longest = max(longest, run.steps)
    assert longest <= 24
    assert len(run.program) < 1000  # the kernel takes 4096


@both
def test_another_architecture_ends_the_process(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Filter(monkeypatch, machine)
    for audit in (0x40000003, 0x40000028, 0, *(AUDIT[name] for name in AUDIT if name != machine)):
        for number in (0, 1, 20, 39, 172, 400):
            assert run(number, audit=audit) == KILL


def test_the_x32_table_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Filter(monkeypatch, "x86_64")
    for number in (0x40000000, 0x40000001, 0x40000000 + 512, 0x7FFFFFFF, 0x80000000, -1):
        assert run(number) == KILL


def test_numbers_beyond_the_table_are_refused_on_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Filter(monkeypatch, "aarch64")
    for number in (0x40000000, 0x7FFFFFFF, -1):
        assert run(number) == EPERM


@both
def test_a_filter_for_no_files_has_no_way_to_open_or_change_one(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Filter(monkeypatch, machine, opens=False)
    for table in (seccomp._OPENS, seccomp._WRITES):
        for numbers in table.values():
            if (number := numbers[run.column]) is not None:
                assert run(number) == EPERM
    openat2, by_handle = 437, (304, 265)[run.column]
    assert run(openat2) == run(by_handle) == EPERM


@both
def test_strict_has_no_sockets(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Filter(monkeypatch, machine)
    for family in (*range(46), 2**32 + 2, 1 << 40):
        for kind in (1, 2, 3, 5, 0x80801):
            assert run(run.nr("socket"), family, kind, 0) == EACCES
    for number in ((42, 49, 50, 43, 288), (203, 200, 201, 202, 242))[run.column]:  # connect, bind, listen, accept
        assert run(number) == EPERM


@both
def test_network_has_internet_sockets_only_and_none_that_listens(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Filter(monkeypatch, machine, network=True)
    allowed = {
        (family, kind, protocol)
        for family in range(46)
        for kind in range(16)
        for protocol in (0, 1, 6, 17, 58, 132, 255, 262)
        if run(run.nr("socket"), family, kind, protocol) == ALLOW
    }
    assert allowed == {(family, kind, protocol) for family in (2, 10) for kind in (1, 2) for protocol in (0, 6, 17)}
    assert run(run.nr("socket"), 2, 1 | 0x80800, 6) == ALLOW  # non-blocking, closed on exec
    assert run(run.nr("connect")) == ALLOW
    for number in ((49, 50, 43, 288), (200, 201, 202, 242))[run.column]:
        assert run(number) == EPERM


def _allowed(run: Filter, name: str, *lists: list[int]) -> set[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()]
    for values in lists:
        found = [(*head, value) for head in found for value in values]
    return {arguments for arguments in found if run(run.nr(name), *arguments) == ALLOW}


@both
def test_clone_makes_threads_and_nothing_else(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Filter(monkeypatch, machine)
    clone = run.nr("clone")
    glibc, musl = 0x3D0F00, 0x7D0F00
    assert run(clone, glibc) == run(clone, musl) == ALLOW
    namespaces = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    for flag in namespaces:
        assert run(clone, glibc | flag) == EPERM
    chance = random.Random(2)
    for _ in range(5000):
        flags = chance.getrandbits(32)
        fine = flags & 0x10000 and not flags & sum(namespaces)
        assert run(clone, flags) == (ALLOW if fine else EPERM), hex(flags)
        assert run(clone, flags | chance.getrandbits(32) << 32) == run(clone, flags)  # the kernel takes the low half
    assert run(run.nr("clone3"), 0x10000, 88) == ENOSYS


@both
def test_memory_is_private_or_a_files_and_never_a_stack(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Filter(monkeypatch, machine)
    chance = random.Random(3)
    for _ in range(5000):
        flags = chance.getrandbits(20)
        shared_anonymous = flags & 0x01 and flags & 0x20
        assert run(run.nr("mmap"), 0, 4096, 7, flags, -1, 0) == (
            EPERM if shared_anonymous or flags & 0x100 else ALLOW
        ), hex(flags)
    assert run(run.nr("mmap"), 0, 4096, 3, 0x22) == ALLOW
    assert run(run.nr("mmap"), 0, 4096, 1, 0x01) == ALLOW
    assert run(run.nr("mmap"), 0, 4096, 3, 0x20022) == ALLOW  # what glibc maps for a thread
    assert run(run.nr("mmap"), 0, 4096, 3, 0x23 | 1 << 32) == EPERM


@both
def test_signals_and_limits_reach_only_the_process_itself(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Filter(monkeypatch, machine)
    others = [0, 1, 2, PID + 1, PID - 1, -1, -PID, 2**31, seccomp.PID]
    assert _allowed(run, "kill", [PID, *others], [0, 9, 15]) == {(PID, 0), (PID, 9), (PID, 15)}
    assert _allowed(run, "tgkill", [PID, *others], [PID, 1], [9]) == {(PID, PID, 9), (PID, 1, 9)}
    assert _allowed(run, "prlimit64", [PID, *others], [7]) == {(PID, 7), (0, 7)}
    assert run(run.nr("kill"), PID | 1 << 32, 9) == ALLOW  # a pid is an int: the kernel ignores the upper half


@both
def test_descriptors_cannot_be_made_to_signal_or_notify(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Filter(monkeypatch, machine)
    fcntls = {command for _, command in _allowed(run, "fcntl", [5], [*range(2048)])}
    assert fcntls == {0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032}  # duplicates, flags, locks, the size of a pipe
    assert run(run.nr("ioctl"), 3, 0x8901) == ENOTTY  # FIOSETOWN
    ioctls = {command for _, command in _allowed(run, "ioctl", [0], [*range(0x5400, 0x5500), *range(0x8900, 0x8A00)])}
    assert ioctls == {0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451}


@both
def test_prctl_only_reads_and_names(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Filter(monkeypatch, machine)
    options = {option for (option,) in _allowed(run, "prctl", [*range(200), 0x59616D61, 0x53564D41, -1])}
    assert options == {2, 3, 15, 16}


@both
def test_pairs_of_sockets_are_local_streams(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Filter(monkeypatch, machine)
    pairs = _allowed(run, "socketpair", [*range(46)], [*range(16), 0x801, 0x80001, 0x802, 0x80005])
    assert pairs == {(1, 1), (1, 0x801), (1, 0x80001)}


@both
def test_queues_of_sockets_keep_their_size_in_strict(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Filter(monkeypatch, machine)
    answers = {
        (level, option): run(run.nr("setsockopt"), 3, level, option) for level in (0, 1, 6, 41) for option in range(64)
    }
    done_nothing = 0x00050000  # an error of 0: the call says that it worked
    assert {asked: answer for asked, answer in answers.items() if answer != ALLOW} == {
        (1, 7): done_nothing,
        (1, 32): EPERM,
    }
    run = Filter(monkeypatch, machine, network=True)
    assert run(run.nr("setsockopt"), 3, 1, 7) == ALLOW


@both
@pytest.mark.parametrize(("name", "at"), [("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)])
def test_nothing_is_sent_that_connects_by_itself(
    name: str, at: int, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Filter(monkeypatch, machine, network=True)
    for flags, verdict in {0: ALLOW, 0x4000: ALLOW, 0x20000000: EPERM, 0x20004040: EPERM, 0x7FFFFFFF: EPERM}.items():
        arguments = [3] * at
        assert run(run.nr(name), *arguments, flags) == verdict


@both
def test_the_pid_is_patched_in_and_nowhere_else(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Filter(monkeypatch, machine)
    assert len(run.built.pid_offsets) == 3  # kill, tgkill, prlimit64
    assert not any(k == seccomp.PID for *_, k in run.program)
    before = [struct.unpack_from("<HBBI", run.built.code, at) for at in range(0, len(run.built.code), 8)]
    changed = [at * 8 + 4 for at, (old, new) in enumerate(zip(before, run.program, strict=True)) if old != new]
    assert tuple(changed) == run.built.pid_offsets


@both
def test_each_jump_stays_inside_and_each_path_ends(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Filter(monkeypatch, machine, network=True, writes=True)
    length = len(run.program)
    for at, (code, when_true, when_false, k) in enumerate(run.program):
        reach = [k] if code == 0x05 else [when_true, when_false] if code & 7 == 5 else []
        assert all(at + 1 + jump < length for jump in reach)
        assert code == 0x06 or at + 1 < length


def test_an_unknown_machine_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not seccomp.supported()


@both
def test_nothing_dangerous_is_on_the_list_by_mistake(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number, so that a slip in the table of names shows."""
    run = Filter(monkeypatch, machine, network=True, writes=True)
    dangerous = {
        "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117), "process_vm_readv": (310, 270),
        "process_vm_writev": (311, 271), "kexec_load": (246, 104), "mount": (165, 40), "umount2": (166, 39),
        "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41), "bpf": (321, 280),
        "perf_event_open": (298, 241), "memfd_create": (319, 279), "io_uring_setup": (425, 425),
        "userfaultfd": (323, 282), "add_key": (248, 217), "keyctl": (250, 219), "pidfd_open": (434, 434),
        "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "personality": (135, 92), "setuid": (105, 146),
        "setresuid": (117, 147), "setgroups": (116, 159), "capset": (126, 91), "shmget": (29, 194), "shmat": (30, 196),
        "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "bind": (49, 200), "listen": (50, 201),
        "accept4": (288, 242), "chmod": (90, 52), "fchmodat": (268, 53), "fchownat": (260, 54), "utimensat": (280, 88),
        "setxattr": (188, 5), "linkat": (265, 37), "symlinkat": (266, 36), "mknodat": (259, 33), "truncate": (76, 45),
        "sendfile": (40, 71), "splice": (275, 76), "inotify_init1": (294, 26), "fanotify_init": (300, 262),
        "seccomp": (317, 277), "landlock_restrict_self": (446, 446), "setpriority": (141, 140), "setsid": (112, 157),
        "sched_setaffinity": (203, 122), "rt_sigqueueinfo": (129, 138), "tkill": (200, 130), "acct": (163, 89),
        "open_by_handle_at": (304, 265), "openat2": (437, 437), "settimeofday": (164, 170), "reboot": (169, 142),
    }  # fmt: skip
    for name, numbers in dangerous.items():
        assert run(numbers[run.column], PID, 1, 1, 1) == EPERM, name


@both
def test_the_table_is_the_kernels(machine: str) -> None:
    """Each listed number, against the kernel's own headers where they are installed."""
    header = Path("/usr/include", {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h", "aarch64": _GENERIC}[machine])
    if not header.exists():
        pytest.skip("no kernel headers here")
    words = [line.split() for line in header.read_text().splitlines() if line.startswith("#define __NR")]
    known = {w[1].replace("__NR3264_", "").replace("__NR_", ""): w[2] for w in words if len(w) == 3}
    column = list(AUDIT).index(machine)
    found = 0
    for table in (seccomp._PLAIN, seccomp._CHECKED, seccomp._OPENS, seccomp._CONNECTS, seccomp._WRITES):
        for name, numbers in table.items():
            if name in known and known[name].isdecimal() and numbers[column] is not None:
                assert int(known[name]) == numbers[column], name
                found += 1
    assert found > 100


def test_refusals_are_these() -> None:
    assert (EPERM & 0xFFFF, EACCES & 0xFFFF, ENOSYS & 0xFFFF) == (errno.EPERM, errno.EACCES, errno.ENOSYS)
