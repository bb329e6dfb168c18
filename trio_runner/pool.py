"""Owns the zygote and the children that wait for work; a lease is single-use.

`Pool.run` supervises the zygote (start, records, death, restart with backoff); `Pool.lease` hands out one idle child
and kills it and whatever it started when the lease ends. Must not know tasks or brokers.
"""

from __future__ import annotations

import errno
import math
import os
import random
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from trio_runner.counters import Counters
from trio_runner.demands import check_layers
from trio_runner.errors import StartError, WorkerError
from trio_runner.log import get_logger
from trio_runner.protocol.backoff import full_jitter
from trio_runner.sandbox import records
from trio_runner.sandbox.policy import Confinement, Policy
from trio_runner.zygoterecords import Records, read_report

if TYPE_CHECKING:
    from trio_runner.outfit import Outfit

log = get_logger("pool")

START_LIMIT = 60.0
"""Seconds that a zygote may take to say READY; importing large packages on a slow disk is what takes long."""
FORK_LIMIT = 10.0
"""Seconds after which an unanswered fork request means that the zygote hangs."""
LEASE_LIMIT = 30.0
"""Seconds that a task waits for a worker before it fails."""
PING_AFTER = 15.0
"""Seconds of silence after which the zygote is asked whether it is there."""
QUIET = 0.05
"""Seconds without a task's end after which the last few missing workers are made."""
EXIT_LIMIT = 5.0
"""Seconds to wait for the exit status of a child that has hung up."""
_HEALTHY_AFTER = 30.0

_SILENCE: Final = 10.0
"""Seconds between two lines about workers that cannot be made; the metric counts all of them."""
_NO_PROCESS: Final = "no more processes are allowed (ulimit -u, or the container's limit of pids)"
_THREADS_OFF: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Native libraries must not start threads before a fork (sandbox.md, pitfall 8)."""


class Worker:
    """One child: its socket, and how to end it."""

    def __init__(self, pid: int, sock: socket.socket, pidfd: int | None, kill: _Killer) -> None:
        self.pid = pid
        self.sock = sock
        self._pidfd = pidfd
        self._kill = kill
        self._exited = trio.Event()
        self._status: int | None = None

    def note_exit(self, status: int | None) -> None:
        """The zygote has reaped it; None when the zygote died first."""
        self._status = status
        self._exited.set()

    @property
    def exited(self) -> bool:
        """Whether the child is known to be gone."""
        return self._exited.is_set()

    async def wait_exit(self) -> int | None:
        """The wait status, or None when it is not known within `EXIT_LIMIT` seconds."""
        with trio.move_on_after(EXIT_LIMIT):
            await self._exited.wait()
        return self._status

    def end(self) -> None:
        """Kills what may be left of it and lets go of its descriptors. The zygote sees to the rest of its tree."""
        if self._pidfd is not None:
            with suppress(ProcessLookupError):  # also when the zygote died: its word is then only a guess
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        elif not self.exited:
            self._kill.kill(self.pid)
        self.sock.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


class _Killer:
    """Kills through the zygote where there are no pidfds: only the parent knows whether a pid is still its child's."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def kill(self, pid: int) -> None:
        with suppress(OSError):
            self._control.send(records.RECORD.pack(records.KILL, pid, 0, 0))


class Lease:
    """The time in which a worker belongs to a task."""

    def __init__(self, take: Callable[[], Awaitable[Worker]], refill: Callable[[], None]) -> None:
        self._take = take
        self._refill = refill
        self._worker: Worker | None = None

    async def __aenter__(self) -> Worker:
        self._worker = await self._take()
        return self._worker

    async def __aexit__(self, *_: object) -> None:
        assert self._worker is not None
        self._worker.end()
        self._refill()


class Pool:
    """Idle children, as many as asked for, and a zygote that makes more."""

    def __init__(
        self,
        policy: Policy,
        *,
        max_payload: int,
        idle: int,
        environment: Mapping[str, str] | None = None,
        confinement: Confinement | None = None,
        preload: tuple[str, ...] | None = None,
        portable: bool = False,
        counters: Counters | None = None,
    ) -> None:
        self._setup = records.Setup(
            policy, confinement or Confinement(), max_payload, records.preload_list(policy, preload), portable
        )
        self._environment = {**(environment or {}), **_THREADS_OFF, records.BIND_NOW: "1"}
        self._counters = counters or Counters()
        self._idle_target = idle
        self._idle: deque[Worker] = deque()
        self._children: dict[int, Worker] = {}
        self._requested = 0
        self._requested_at = math.inf
        self._waiting = 0
        self._idle_deaths = 0
        self._fork_failures, self._fork_again_at, self._tell_again_at = 0, -math.inf, -math.inf
        self._barren = False
        self._top_up_at = self._ping_at = self._pinged_at = math.inf
        self._patience = trio.CancelScope()
        self._arrival = trio.Event()
        self._control: socket.socket | None = None
        self.restarts = 0
        self.report: records.Report | None = None
        self.changed: Callable[[], None] = lambda: None  # to be set by who wants to know when `alive` may have changed

    def equip(self, outfit: Outfit) -> None:
        """Takes what an environment decides in place of what the pool was made with. Before `run`."""
        self._setup = msgspec.structs.replace(self._setup, **msgspec.structs.asdict(outfit))

    @property
    def idle(self) -> int:
        """Children that wait for a task."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """Children that have a task, or had one and are not reaped yet."""
        return len(self._children) - len(self._idle)

    @property
    def starting(self) -> int:
        """Children that the zygote was asked for and has not made yet."""
        return self._requested

    @property
    def alive(self) -> bool:
        """Whether a task would get a worker: there is a zygote, and an idle worker or nothing against making one."""
        return self._control is not None and not self._barren

    @property
    def zygote_pid(self) -> int | None:
        """The zygote's process id, for tests and the log."""
        return self.report.pid if self.report is not None and self._control is not None else None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps a zygote alive until cancelled. The first start must succeed (`StartError`); later ones are retried."""
        waits = full_jitter(random.random, base=0.2, cap=5.0)
        first = True
        while True:
            started_at = trio.current_time()
            try:
                await self._one_zygote(task_status if first else trio.TASK_STATUS_IGNORED)
            except StartError as error:
                if first:
                    raise
                log.error("%s", error)
            except OSError as error:  # no descriptors, processes or memory to start one with
                if first:
                    raise StartError(f"The zygote could not be started: {error}") from error
                log.error("The zygote could not be started: %s", error)
            first = False
            self.restarts += 1
            if trio.current_time() - started_at > _HEALTHY_AFTER:
                waits = full_jitter(random.random, base=0.2, cap=5.0)
            wait = next(waits)
            log.warning("The zygote is gone, starting another in %.1fs", wait)
            await trio.sleep(wait)

    def lease(self) -> Lease:
        """One idle child, for one task: an async context manager. The child is dead and gone when the block is left.

        Entering raises `WorkerError` when there is none within `LEASE_LIMIT` seconds.
        """
        return Lease(self._take, self._refill)

    async def _take(self) -> Worker:
        if not self._idle:
            self._waiting += 1
            try:
                with trio.move_on_after(LEASE_LIMIT):
                    while not self._idle:
                        self._refill()  # also after others took those that were made for us
                        await self._arrival.wait()
            finally:
                self._waiting -= 1
            if not self._idle:
                raise WorkerError(
                    "Task subprocess exited with code -1",
                    f"No worker process could be started within {LEASE_LIMIT:.0f} seconds. "
                    "The runner's log says why. [TR408]",
                )
        self._idle_deaths = 0
        return self._idle.popleft()

    @property
    def _missing(self) -> int:
        return self._idle_target + self._waiting - len(self._idle) - self._requested

    def _refill(self) -> None:
        """Sees to the missing workers: at once when somebody waits or half are missing, else in a quiet moment.

        Forks in a row cost the zygote half of what they cost one by one, and most tasks have the processors to
        themselves: with one task at a time the median is a fifth lower.
        """
        if self._missing <= 0:
            return
        if self._waiting or not self._idle or self._missing > self._idle_target // 2:
            self._ask_for_workers()
        else:
            self._top_up_at = trio.current_time() + QUIET
            self._patience.deadline = self._next_look()

    def _ask_for_workers(self) -> None:
        missing = self._missing
        if missing <= 0 or self._control is None:
            return
        if self._fork_failures and trio.current_time() < self._fork_again_at:
            self._top_up_at = self._fork_again_at
            self._patience.deadline = self._next_look()
            return
        try:
            self._control.send(records.RECORD.pack(records.FORK, missing, 0, 0))
        except OSError:
            return  # dead or not reading: `_listen` notices and replaces it
        if self._requested == 0:
            self._requested_at = trio.current_time()
        self._requested += missing
        self._top_up_at = math.inf
        self._patience.deadline = self._next_look()

    def _next_look(self) -> float:
        """When `_listen` has something to do though the zygote says nothing."""
        return min(self._answer_due(), self._top_up_at, self._ping_at)

    def _answer_due(self) -> float:
        asked = min(self._requested_at if self._requested else math.inf, self._pinged_at)
        return asked + FORK_LIMIT

    def _ping(self, now: float) -> None:
        """A zygote that was stopped, or hangs, is noticed also while nobody needs it."""
        assert self._control is not None
        with suppress(OSError):  # not reading any more: then there will be no answer either
            self._control.send(records.RECORD.pack(records.PING, 0, 0, 0))
        self._pinged_at, self._ping_at = now, math.inf

    async def _one_zygote(self, task_status: trio.TaskStatus[None]) -> None:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = _start(theirs, self._environment)
            ours.setblocking(False)
            control = trio.socket.from_stdlib_socket(ours)
            try:
                setup = msgspec.msgpack.encode(self._setup)
                with trio.move_on_after(START_LIMIT) as limit:
                    await _send_all(control, records.RECORD.pack(0, 0, 0, len(setup)) + setup)
                    self.report = await read_report(control, Records(ours))
                if limit.cancelled_caught:
                    raise StartError(f"The zygote was not ready within {START_LIMIT:.0f} seconds")
                assert self.report is not None
                check_layers(self.report, self._setup)
                for name, reason in self.report.not_preloaded.items():
                    log.warning("Module %s is allowed but cannot be imported here: %s", name, reason)
                await self._serve_zygote(ours, task_status)
            finally:
                self._forget_all()
                control.close()
                await _stop(process)

    async def _serve_zygote(
        self, control: socket.socket, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """A zygote is ready on the other end: asks it for workers, until it is gone or does not answer."""
        stream = Records(control)
        self._control = control
        self._pinged_at, self._ping_at = math.inf, trio.current_time() + PING_AFTER
        self._refill()
        self.changed()
        task_status.started()
        await self._listen(stream)

    async def _listen(self, stream: Records) -> None:
        """Takes the zygote's records until it is gone or does not answer."""
        while True:
            with trio.CancelScope(deadline=self._next_look()) as self._patience:  # which moves with every request
                received = await stream.next()
            now = trio.current_time()
            if self._patience.cancelled_caught:
                if now >= self._answer_due():
                    log.error("The zygote has not answered for %.0fs, replacing it", FORK_LIMIT)
                    return
                if now >= self._top_up_at:
                    self._top_up_at = math.inf
                    self._ask_for_workers()
                if now >= self._ping_at:
                    self._ping(now)
                continue
            if received is None:
                return
            self._pinged_at, self._ping_at = math.inf, now + PING_AFTER
            kind, pid, status, _, fds = received
            if kind == records.CHILD and fds:
                self._add(pid, fds)
            elif kind == records.CHILD:
                control_end = self._control
                if control_end is not None:
                    _Killer(control_end).kill(pid)
                self._not_forked("its descriptors could not be received: too many open files")
            elif kind == records.EXIT and self._note_exit(pid, status):
                # workers that die before they are used would otherwise be made and lost as fast as the machine can
                self._idle_deaths += 1
                await trio.sleep(_growing(0.01, self._idle_deaths))
                self._refill()
            elif kind == records.FORK_FAILED:
                self._not_forked(_NO_PROCESS if status == errno.EAGAIN else os.strerror(status))

    def _not_forked(self, reason: str) -> None:
        """Tries again after waits that grow, and lets no more tasks come when no worker is left for them."""
        self._requested = max(0, self._requested - 1)
        self._counters.fork_failures += 1
        if self._requested:
            return  # the others that were asked for at the same time have the same trouble
        if trio.current_time() >= self._tell_again_at:  # a shortage lasts, and some are made in between
            self._tell_again_at = trio.current_time() + _SILENCE
            log.error("There is one worker less: %s", reason)
        self._fork_failures += 1
        self._fork_again_at = self._top_up_at = trio.current_time() + _growing(0.1, self._fork_failures)
        if not self._idle and not self._barren:
            self._barren = True
            self.changed()

    def _add(self, pid: int, fds: list[int]) -> None:
        self._requested -= 1
        self._counters.forks += 1
        self._requested_at = trio.current_time()
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(False)
        assert self._control is not None
        worker = Worker(pid, sock, fds[1] if len(fds) > 1 else None, _Killer(self._control))
        self._children[pid] = worker
        self._idle.append(worker)
        self._fork_failures = 0
        if self._barren:
            self._barren = False
            self.changed()
        if self._waiting:
            self._arrival.set()
            self._arrival = trio.Event()

    def _note_exit(self, pid: int, status: int) -> bool:
        """Whether it was an idle worker that died: there is one to be made in its place."""
        worker = self._children.pop(pid, None)
        if worker is None:
            return False
        worker.note_exit(status)
        if worker not in self._idle:
            return False
        self._counters.worker_deaths["idle"] += 1
        log.warning("Idle worker %d died (%s)", pid, describe_status(status))
        self._idle.remove(worker)
        worker.end()
        return True

    def _forget_all(self) -> None:
        self._control, self._barren = None, False
        self.changed()
        self._requested = self._fork_failures = 0
        for worker in self._children.values():
            worker.note_exit(None)
        self._children.clear()
        for worker in self._idle:
            worker.end()
        self._idle.clear()


def _growing(base: float, times: int) -> float:
    """A wait in seconds that doubles with each time, up to two seconds. It may go on like this for days."""
    return min(2.0, base * 2.0 ** min(times, 10))


def describe_status(status: int) -> str:
    """A wait status in words, for the log."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:  # real-time signals have no names
        return f"signal {-code}"


def _start(theirs: socket.socket, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts a zygote with this environment and nothing inherited but its end of the control socket.

    Not through trio: its process starter uses a worker thread, and the zygote's parent-death signal would fire when
    that thread ends.
    """
    fd = theirs.fileno()
    code = f"import sys; sys.path[:] = {sys.path!r}; from trio_runner.sandbox.zygote import main; main({fd})"
    command = [sys.executable, "-I", "-X", "utf8", "-c", code]
    return subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
        command, pass_fds=(fd,), stdin=subprocess.DEVNULL, env=environment, start_new_session=True
    )


async def _stop(process: subprocess.Popen[bytes]) -> None:
    """Waits for a zygote whose control socket is closed: it ends its children and exits. Kills it if it does not."""
    with trio.CancelScope(shield=True):
        for grace in (1.0, 4.0):
            with trio.move_on_after(grace):
                await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
                return
            process.kill()
    log.error("Zygote %d does not end", process.pid)


async def _send_all(control: trio.socket.SocketType, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[await control.send(view) :]
