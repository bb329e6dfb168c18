"""What a child does to itself before it is given anything: every layer between user code and the machine.

`prepare` runs once in the zygote and builds all that can be built ahead; `Lockdown.apply` is what each child calls
while it is idle, so that a task pays nothing. The order is not free: files are opened before Landlock, the uid is
dropped before the parent-death signal (a change of uid clears it), seccomp comes last because it forbids the calls
above it. Whether the layers hold is not concluded here; `probe` tries.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C module; typeshed knows only the one above it
import _thread
import os
import resource
import select
import struct
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from trio_runner.sandbox import landlock, seccomp
from trio_runner.sandbox.policy import Confinement

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_SECCOMP: Final = 22
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_MODE_FILTER: Final = 2
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3: Final = 0x20080522
_MAX_FD: Final = 65536
_MAX_FD_NUMBER: Final = 2**31 - 1
_NOBODY: Final = 65534
_OPEN_FILES: Final = 256
_ADDRESS_SPACE: Final = 64 * 1024**3
"""Beyond a task's memory: reading untouched pages costs page tables, which no other limit counts (here 128 MiB)."""
_STACK: Final = 64 * 1024**2

Prctl = Callable[[int, int, int, int, int], int]
CloseRange = Callable[[int, int, int], int]


class Lockdown:
    """The prepared layers. Attributes that are None or False are layers that are off or cannot be had."""

    def __init__(self, confinement: Confinement, *, portable: bool) -> None:
        self.confinement = confinement
        self.zygote_pid = os.getpid()
        self.null_fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.close_range = None if portable else _load_close_range()
        self.prctl = None if portable or sys.platform != "linux" else _load_prctl()
        self.ruleset: int | None = None
        self.filter: seccomp.Loader | None = None
        self.sealed = False
        self.drop_uid = False
        self.drop_capabilities: Callable[[], None] | None = None
        self.limits: tuple[tuple[int, int], ...] = ()
        self.oom_fd: int | None = None
        self.missing: dict[str, str] = {}

    @property
    def confines(self) -> bool:
        """Whether the kernel confines children at all."""
        return self.prctl is not None and self.confinement.mode != "off"

    def apply(self, keep_fd: int) -> None:
        """Confines the calling process, for good. Only ``keep_fd`` stays open.

        Raises OSError when a layer that was prepared cannot be had: the process must then not run anything.
        """
        os.setsid()
        for fd in (0, 1, 2):
            os.dup2(self.null_fd, fd)
        inherited = () if self.close_range is not None else _open_files()  # while /proc can still be read
        if self.prctl is None:
            self._close(inherited, keep_fd)
            _thread.start_new_thread(_end_with_the_socket, (keep_fd,))
            return
        if self.confines:
            self._confine_credentials()
        self.prctl(_PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self.zygote_pid:
            os._exit(0)  # the zygote died between the fork and the call above: nobody would ever end us
        self.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if self.confines:
            if self.ruleset is not None:
                landlock.restrict_self(self.ruleset)
            self.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        self._close(inherited, keep_fd)
        if self.confines and self.filter is not None:
            self.filter.patch(os.getpid())
            if self.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, self.filter.address, 0, 0) != 0:
                raise OSError("the seccomp filter was refused")

    def set_victims(self, *, first: bool) -> None:
        """Whether processes forked from now on are the first to go when memory runs out. Called by the zygote.

        The value is inherited, and a write to a file that is open already costs a tenth of what it costs in a child.
        """
        if self.oom_fd is not None:
            with suppress(OSError):
                os.pwrite(self.oom_fd, b"1000" if first else b"0", 0)

    def _close(self, inherited: Iterable[int], keep_fd: int) -> None:
        """Leaves 0 to 2 and ``keep_fd``."""
        if self.close_range is not None:
            if keep_fd > 3:
                self.close_range(3, keep_fd - 1, 0)
            self.close_range(keep_fd + 1, _MAX_FD_NUMBER, 0)
        for fd in inherited:
            if fd > 2 and fd != keep_fd:
                with suppress(OSError):
                    os.close(fd)

    def _confine_credentials(self) -> None:
        if self.drop_uid:
            _become_nobody()
        elif self.drop_capabilities is not None:
            self.drop_capabilities()
        for limit, value in self.limits:
            # at the hard limit of time the kernel kills without a word; at the soft one the signal says what happened
            resource.setrlimit(limit, (value, value + 1 if limit == resource.RLIMIT_CPU else value))


def _open_files() -> Iterable[int]:
    """Descriptors that may be open, from the list of them: where Python was built without close_range, as distributed
    builds are, os.closerange makes a call for each number there could be."""
    try:
        return [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208 - in every child, so without Path's objects
    except OSError:
        return range(min(os.sysconf("SC_OPEN_MAX"), _MAX_FD))


def _end_with_the_socket(fd: int) -> None:
    """For systems on which nobody else would: ends this process and its group when the runner closes the task's socket.

    Without a parent-death signal and pidfds, a dead zygote would leave a looping program behind that nobody can name.
    """
    poll = select.poll()
    poll.register(fd, 0)  # nothing to read, only the end
    poll.poll()
    os.killpg(0, _signal.SIGKILL)


def prepare(confinement: Confinement, *, portable: bool = False) -> Lockdown:
    """Looks once, in the zygote, at what this machine offers: after the preloading, before the first fork."""
    locks = Lockdown(confinement, portable=portable)
    if locks.prctl is None:
        return locks
    # orphans of a child come to the zygote, which ends them, instead of living on under init
    locks.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    locks.prctl(_PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0)
    if not locks.confines:
        return locks
    locks.oom_fd = _open_oom_score()
    locks.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _prepare_landlock(locks)
    locks.sealed = locks.ruleset is None
    if seccomp.supported():
        network = confinement.mode == "network"
        opens = not locks.sealed
        # without Landlock a grant of one folder would be a grant of all
        writes = opens and bool(confinement.write)
        locks.filter = seccomp.Loader(seccomp.build(network=network, opens=opens, writes=writes))
    else:
        locks.missing["seccomp"] = f"the system calls of {os.uname().machine} are not known"
    locks.limits = _limits(confinement)
    _prepare_credentials(locks)
    return locks


_MIME_FOLDERS: Final = (
    *("/etc", "/etc/httpd", "/etc/httpd/conf", "/etc/apache", "/etc/apache2"),
    *("/usr/local/etc", "/usr/local/etc/httpd/conf"),
)


def readable_by_default(mode: str) -> tuple[str, ...]:
    """What lazy imports need, and in ``network`` what name resolution and TLS need.

    The folder that the runner was started in is on the path of `python -m`, but holds who knows what.
    """
    here = _folder()
    places = {*(path for path in sys.path if path not in ("", here)), sys.prefix, sys.base_prefix, sys.exec_prefix}
    system = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/localtime"]
    system += ["/etc/ld.so.cache", "/dev/null", "/dev/urandom"]
    # what the module mimetypes reads when it is used first: one that is there and may not be read is its end
    system += [f"{folder}/mime.types" for folder in _MIME_FOLDERS]
    if mode == "network":
        system += ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"]
        system += ["/etc/services", "/etc/protocols", "/etc/ssl", "/etc/pki", "/usr/share/ca-certificates"]
        system += ["/usr/local/share/ca-certificates", "/run/systemd/resolve"]
    return (*sorted(places - {"/"}), *system)


def _folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # removed since
        return ""


def _prepare_landlock(locks: Lockdown) -> None:
    confinement = locks.confinement
    grants = landlock.Grants(
        read=(*readable_by_default(confinement.mode), *confinement.read, *confinement.write),
        write=confinement.write,
        connect_ports=confinement.connect_ports if confinement.mode == "network" else (),
    )
    try:
        locks.ruleset = landlock.make_ruleset(grants)
    except OSError as error:
        locks.missing["landlock"] = os.strerror(error.errno or 0)


def _prepare_credentials(locks: Lockdown) -> None:
    if os.geteuid() != 0:
        locks.missing["uid"] = "the runner is not root, so its children are not either"
        locks.missing["capabilities"] = "the runner has none to drop"
        return
    reads, writes = [*sys.path, *locks.confinement.read], locks.confinement.write
    if not _works(_become_nobody):
        locks.missing["uid"] = "the runner may not change its uid, or not end processes of another"
    elif not all(map(_open_to_all, filter(None, reads))):
        locks.missing["uid"] = "the Python installation, or a granted path, is readable for its owner only"
    elif not all(_open_to_all(path, 0o002) for path in writes):
        locks.missing["uid"] = "a granted path is writable for its owner only"
    else:
        locks.drop_uid = True
        return
    locks.drop_capabilities = _capability_dropper()


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _works(change: Callable[[], None]) -> bool:
    """Whether a child may change its ids so, and can still be ended by us: capabilities and user namespaces differ."""
    pid = os.fork()
    if pid == 0:
        try:
            change()
        except OSError:
            os._exit(1)
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        os.kill(pid, 0)  # it is dead but not reaped: only the permission is looked at
    except PermissionError:
        os.waitpid(pid, 0)
        return False
    return os.waitpid(pid, 0)[1] == 0


def _open_to_all(place: str, access: int = 0) -> bool:
    """Whether nobody can get there and has ``access`` (mode bits for others); what is not there is no obstacle."""
    try:
        path = Path(place).resolve()
        needed = access | (0o005 if path.is_dir() else 0o004)
        return path.stat().st_mode & needed == needed and all(folder.stat().st_mode & 0o001 for folder in path.parents)
    except OSError:
        return True


def _limits(confinement: Confinement) -> tuple[tuple[int, int], ...]:
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, _OPEN_FILES), (resource.RLIMIT_MEMLOCK, 0)]
    # no RLIMIT_NPROC: it counts the whole uid, containers that share it included; memory bounds the threads
    limits += [(resource.RLIMIT_MSGQUEUE, 0)]
    if not confinement.write:
        limits.append((resource.RLIMIT_FSIZE, 0))
    if confinement.cpu:
        limits.append((resource.RLIMIT_CPU, confinement.cpu))
    if confinement.memory:
        limits.append((resource.RLIMIT_DATA, confinement.memory + _own("VmData")))
        # a stack is no data for the kernel, and neither are page tables
        limits.append((resource.RLIMIT_STACK, min(_current(resource.RLIMIT_STACK)[0], _STACK)))
        limits.append((resource.RLIMIT_AS, confinement.memory + _own("VmSize") + _ADDRESS_SPACE))
    return tuple((limit, min(value, _current(limit)[1])) for limit, value in limits)


def _current(limit: int) -> tuple[int, int]:
    """Soft and hard, as numbers that can be compared."""
    soft, hard = (sys.maxsize if value == resource.RLIM_INFINITY else value for value in resource.getrlimit(limit))
    return soft, hard


def _own(what: str) -> int:
    """Bytes that the zygote has already: they are not the task's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    return 0


def _open_oom_score() -> int | None:
    """Before "not dumpable", after which an ordinary user may not open its own files in /proc."""
    try:
        return os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _load_prctl() -> Prctl | None:
    try:
        import ctypes

        call = ctypes.CDLL(None, use_errno=True).prctl
        call.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
        call.restype = ctypes.c_int
    except (ImportError, OSError, AttributeError):  # no libffi, or a libc without prctl
        return None
    return call


def _load_close_range() -> CloseRange | None:
    """The C library's function where it and the kernel have one (glibc 2.34, Linux 5.9): two calls close everything."""
    try:
        import ctypes

        call = ctypes.CDLL(None, use_errno=True).close_range
        call.argtypes = (ctypes.c_uint, ctypes.c_uint, ctypes.c_int)
        call.restype = ctypes.c_int
    except (ImportError, OSError, AttributeError):
        return None
    return call if call(_MAX_FD_NUMBER, _MAX_FD_NUMBER, 0) == 0 else None


def _capability_dropper() -> Callable[[], None]:
    """For a root whose uid cannot be dropped: root without capabilities is just the owner of root's files."""
    import ctypes

    number = _CAPSET.get(os.uname().machine, -1)  # a call that no kernel has
    header = ctypes.create_string_buffer(struct.pack("<Ii", _CAPABILITY_VERSION_3, 0))
    nothing = ctypes.create_string_buffer(24)
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.argtypes = (ctypes.c_long, ctypes.c_char_p, ctypes.c_char_p)
    syscall.restype = ctypes.c_long

    def drop() -> None:
        if syscall(number, header, nothing) != 0:
            raise OSError(ctypes.get_errno(), "capabilities could not be dropped")

    return drop
