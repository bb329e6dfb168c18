"""The process that children are forked from: small, single-threaded, started once, replaced when it dies.

Preloads what the policy allows, freezes the heap, forks on request, hands each child's socket to the runner and reaps.
Never sees code or data of a task. Talks to the runner by records on a stream socket: kind, pid, status, length of a
payload; the record of a new child carries its descriptors.
"""

from __future__ import annotations

import _socket
import gc
import importlib
import os
import select
import struct
import sys
from _signal import (  # type: ignore[import-not-found]  # the C module; typeshed knows only the one above it
    SIG_BLOCK,
    SIG_DFL,
    SIG_SETMASK,
    SIGCHLD,
    SIGHUP,
    SIGINT,
    SIGKILL,
    SIGTERM,
    alarm,
    default_int_handler,
    pause,
    pthread_sigmask,
    set_wakeup_fd,
    signal,
)
from contextlib import suppress
from typing import NoReturn

import msgspec

from trio_runner.sandbox import cgroups, child, lockdown, probe
from trio_runner.sandbox.records import (
    ACTIVE,
    BIND_NOW,
    CHILD,
    EXIT,
    FORK,
    FORK_FAILED,
    KILL,
    OFF,
    OURS_BY_NAME,
    PING,
    PONG,
    READY,
    RECORD,
    UNAVAILABLE,
    WARM_UPS,
    Layer,
    Report,
    Setup,
)

_ONE_FD = struct.Struct("i")
_TWO_FDS = struct.Struct("ii")
_FOR_THE_RUNNER = (SIGINT, SIGTERM, SIGHUP)
"""Sent to all processes of a terminal or a service at once. The runner ends us in order, after its tasks."""

# A page that a child touches is a page that the kernel copies: about 1.5 µs each, and more than half of what a task
# costs. Hence the C modules below `signal` and `socket` in everything that happens between two forks, hence no objects
# that could be made ahead, and hence the rehearsal.


def main(control_fd: int) -> NoReturn:
    """The zygote's whole life. Exits when the runner closes its end."""
    os.environ.pop(BIND_NOW, None)  # the loader has read it; it is none of the program's business
    control = _socket.socket(fileno=control_fd)
    setup = msgspec.msgpack.decode(_read_payload(control), type=Setup)
    if not setup.policy.allows_import("trio"):
        # ours, not the user's: packages that can use it (httpcore) would load it into every child
        sys.modules["trio"] = None  # type: ignore[assignment]
    if setup.path is not None:  # ours are loaded by now, and find what they still need in their own packages
        _preload(OURS_BY_NAME)
        sys.path[:] = setup.path
    not_preloaded = _preload(setup.preload)
    prepared = child.Prepared(setup.policy, setup.max_payload, setup.confinement)
    child.rehearse(setup.policy)
    spare_children_the_thread_hook()
    locks = lockdown.prepare(setup.confinement, portable=setup.portable)
    if setup.policy.block_env:
        _clear_environment()
    _leave_signals_to_the_runner()
    gc.collect()
    gc.freeze()
    gc.disable()
    groups, cgroup_layer = _open_groups(locks)
    layers = [*probe.probe(locks, block_env=setup.policy.block_env), cgroup_layer]
    pidfds = not setup.portable and _pidfds_work()
    report = Report(os.getpid(), tuple(layers), locks.sealed, pidfds, not_preloaded)
    payload = msgspec.msgpack.encode(report)
    try:
        control.sendall(RECORD.pack(READY, 0, 0, len(payload)) + payload)
    except BrokenPipeError:  # the runner did not wait
        os._exit(0)
    Zygote(control, prepared, locks, groups, setup.confined_preload, pidfds=pidfds).run()


class Zygote:
    """The loop: records of the runner on one side, deaths of children on the other."""

    def __init__(
        self,
        control: _socket.socket,
        prepared: child.Prepared,
        locks: lockdown.Lockdown,
        groups: cgroups.Groups | None,
        confined_preload: tuple[str, ...] = (),
        *,
        pidfds: bool,
    ) -> None:
        self._control = control
        self._prepared = prepared
        self._locks = locks
        self._groups = groups
        self._confined_preload = confined_preload
        self._pidfds = pidfds
        self._alive: set[int] = set()
        self._wakeup, self._wakeup_end = _socket.socketpair()
        self._wakeup.setblocking(False)
        self._wakeup_end.setblocking(False)
        self._descendants = _open_descendants()

    def run(self) -> NoReturn:
        signal(SIGCHLD, _ignore)
        set_wakeup_fd(self._wakeup_end.fileno(), warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        wakeup = self._wakeup.fileno()
        poll.register(wakeup, select.POLLIN)
        try:
            while True:
                for fd, _ in poll.poll():
                    if fd == wakeup:
                        with suppress(BlockingIOError):
                            self._wakeup.recv(4096)
                        self._reap()
                    else:
                        self._obey()
        except (BrokenPipeError, ConnectionResetError):  # the runner is gone
            self._end_everybody()
        os._exit(0)

    def _obey(self) -> None:
        record = _read(self._control, RECORD.size)
        if record is None:
            self._end_everybody()
            os._exit(0)
        kind, number, _, _ = RECORD.unpack(record)
        if kind == FORK:
            self._locks.set_victims(first=True)
            for _ in range(number):
                self._fork()
            self._locks.set_victims(first=False)
        elif kind == KILL and number in self._alive:
            # not reaped yet, so the number is still this child's
            _kill_group(number)
        elif kind == PING:
            self._control.sendall(RECORD.pack(PONG, 0, 0, 0))

    def _fork(self) -> None:
        try:
            runner_end, child_end = _socket.socketpair()
            pid = os.fork()
        except OSError as error:
            self._control.sendall(RECORD.pack(FORK_FAILED, 0, error.errno or 0, 0))
            return
        if pid == 0:
            self._be_a_child(child_end)
        child_end.close()
        self._alive.add(pid)
        pidfd: int | None = None
        try:
            if self._groups is not None:
                self._groups.enter(pid)
            if self._pidfds:
                pidfd = os.pidfd_open(pid)
                fds = _TWO_FDS.pack(runner_end.fileno(), pidfd)
            else:
                fds = _ONE_FD.pack(runner_end.fileno())
            self._control.sendmsg([RECORD.pack(CHILD, pid, 0, 0)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fds)])
        except OSError as error:
            _kill_group(pid)
            self._control.sendall(RECORD.pack(FORK_FAILED, 0, error.errno or 0, 0))
        finally:
            runner_end.close()
            if pidfd is not None:
                os.close(pidfd)

    def _be_a_child(self, sock: _socket.socket) -> NoReturn:
        try:
            set_wakeup_fd(-1)
            signal(SIGCHLD, SIG_DFL)
            pthread_sigmask(SIG_SETMASK, ())
            self._locks.apply(sock.fileno())
            if self._confined_preload:
                _preload(self._confined_preload)
                gc.freeze()
            child.serve(sock, self._prepared)
        except BaseException:  # noqa: S110 - nothing may escape into the zygote's loop; the exit status tells
            pass
        os._exit(70)

    def _reap(self) -> None:
        """Takes every dead child, after an end to whatever it left behind."""
        with suppress(ChildProcessError):
            while (dead := self._take_dead()) is not None:
                pid, status = dead
                if self._groups is not None:
                    self._groups.leave(pid)
                if pid in self._alive:
                    self._alive.discard(pid)
                    self._control.sendall(RECORD.pack(EXIT, pid, status, 0))
                self._kill_orphans()

    def _take_dead(self) -> tuple[int, int] | None:
        """One dead child and its status, with its process group ended. Raises ChildProcessError when there is none."""
        if self._locks.prctl is None or not hasattr(os, "waitid"):  # macOS has had it since Python 3.13
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid in self._alive:
                with suppress(OSError):
                    os.killpg(pid, SIGKILL)
            return (pid, status) if pid else None
        dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if dead is None:
            return None
        if dead.si_pid in self._alive:
            _kill_group(dead.si_pid)  # not reaped yet, so that the number is still this group's
        return os.waitpid(dead.si_pid, 0)

    def _kill_orphans(self) -> None:
        """Ends processes that a dead child had moved out of its group: as their subreaper we are their parent now."""
        if self._descendants is None:
            return
        for number in map(int, os.pread(self._descendants, 65536, 0).split()):
            if number not in self._alive:
                with suppress(OSError):
                    if os.getsid(number) not in self._alive:
                        os.kill(number, SIGKILL)

    def _end_everybody(self) -> None:
        for pid in self._alive:
            _kill_group(pid)
        self._alive.clear()
        alarm(1)  # a process that cannot be killed must not keep us
        with suppress(ChildProcessError):
            while True:
                self._kill_orphans()
                os.waitpid(-1, 0)
        if self._groups is not None:
            self._groups.remove()


def _ignore(_number: int, _frame: object) -> None:
    """The handler of SIGCHLD: what counts is the byte that its arrival writes."""


def _leave_signals_to_the_runner() -> None:
    """Holds back, for good, what is sent to all processes of a terminal or a service at once.

    The runner ends us in order, after its tasks. A child finds the usual handlers and only has to lift the mask.
    """
    pthread_sigmask(SIG_BLOCK, _FOR_THE_RUNNER)
    signal(SIGINT, default_int_handler)
    signal(SIGTERM, SIG_DFL)
    signal(SIGHUP, SIG_DFL)


def spare_children_the_thread_hook() -> None:
    """What threading puts in order after a fork is in order when there was one thread; it would touch 150 pages.

    The hooks of other modules stay: random seeds itself anew, logging makes its locks.
    """
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() == 1:
        threading._after_fork.__code__ = (lambda: None).__code__


def _open_descendants() -> int | None:
    """The list of our direct children, kept open: opening it anew costs more than reading it.

    None where it cannot be had (not Linux, or a kernel without the list): the group is then all that can be reached.
    """
    try:
        return os.open("/proc/thread-self/children", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _pidfds_work() -> bool:
    """Old kernels lack them, and some containers refuse them."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError):
        return False
    return True


def _open_groups(locks: lockdown.Lockdown) -> tuple[cgroups.Groups | None, Layer]:
    """Control groups for the workers if they can be had, and what the report says of it: a child is put into one."""
    if not locks.confines:
        return None, Layer("cgroup", OFF, "N8N_RUNNERS_SANDBOX is off")
    try:
        groups = cgroups.open_groups(locks.confinement.cgroup, memory=locks.confinement.memory)
        pid = os.fork()
        if pid == 0:
            alarm(10)  # if we are killed in this moment, nobody else ends it
            pause()
        try:
            groups.enter(pid)
        finally:
            os.kill(pid, SIGKILL)
            os.waitpid(pid, 0)
            groups.leave(pid)
    except (cgroups.CgroupError, OSError) as error:
        status = OFF if locks.confinement.cgroup == "off" else UNAVAILABLE
        return None, Layer("cgroup", status, str(error))
    return groups, Layer("cgroup", ACTIVE, ", ".join(groups.controllers) or "no controller, but a sure kill")


def _clear_environment() -> None:
    """Leaves user code an empty ``os.environ``. The C library keeps TZ, or strftime would fall back to UTC."""
    timezone = os.environ.get("TZ")
    os.environ.clear()
    if timezone is not None:
        os.putenv("TZ", timezone)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, SIGKILL)
    except OSError:  # the group does not exist yet
        with suppress(OSError):
            os.kill(pid, SIGKILL)


def _preload(names: tuple[str, ...]) -> dict[str, str]:
    failed: dict[str, str] = {}
    for name in names:
        try:
            module = importlib.import_module(name)
            if name in WARM_UPS:
                for _ in range(child.REHEARSALS):
                    eval(WARM_UPS[name], {name: module})  # noqa: S307 - our own words
        except BaseException as error:
            failed[name] = f"{type(error).__name__}: {error}"
    return failed


def _read_payload(control: _socket.socket) -> bytes:
    record = _read(control, RECORD.size)
    if record is None:
        os._exit(0)
    payload = _read(control, RECORD.unpack(record)[3])
    if payload is None:
        os._exit(0)
    return payload


def _read(control: _socket.socket, size: int) -> bytes | None:
    """Exactly ``size`` bytes, or None when the runner is gone."""
    data = b""
    while len(data) < size:
        try:
            more = control.recv(size - len(data))
        except ConnectionResetError:
            return None
        if not more:
            return None
        data += more
    return data
