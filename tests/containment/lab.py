"""A zygote in the small, in which single layers can be switched off before one attack is tried.

`Lab` starts this module as a process of its own, because what `lockdown.prepare` does to its process is for good, and
forking is for processes with one thread. Every case gets a fresh zygote and a fresh child; what the child's attack came
to is one word: ``OK``, an errno's name, an exception's name, or how the child ended.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import msgspec

from trio_runner.sandbox import landlock, lockdown, probe
from trio_runner.sandbox.lockdown import Lockdown
from trio_runner.sandbox.policy import Confinement

NOBODY = 65534
_X86 = os.uname().machine == "x86_64"


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One experiment."""

    attack: str
    off: tuple[str, ...] = ()
    confinement: Confinement = Confinement()
    about: dict[str, Any] = {}
    """What the attack is aimed at; also what switches need."""
    as_user: bool = False
    """The zygote, too, is nobody: what a runner that was never root is like."""


class Lab:
    """The other end: asks for one experiment after the other."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "error::DeprecationWarning", "-m", "tests.containment.lab"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()

    def run(self, case: Case) -> Any:
        """The word for what became of it; for a probe, its layers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(case) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the lab is gone"
        return json.loads(line)


def main() -> None:
    """Reads cases from stdin, one a line, and answers each with one line."""
    for line in sys.stdin.buffer:
        case = msgspec.json.decode(line, type=Case)
        sys.stdout.write(json.dumps(_in_a_process_of_its_own(lambda case=case: _experiment(case))) + "\n")
        sys.stdout.flush()


def _in_a_process_of_its_own(action: Callable[[], Any]) -> Any:
    """The result of ``action``, called in a forked process in a session of its own."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            os.setsid()
            _send(theirs, action())
        except BaseException as error:
            _send(theirs, f"the lab failed: {type(error).__name__}: {error}")
        os._exit(0)
    theirs.close()
    answer = _receive(ours)
    ours.close()
    _, status = os.waitpid(pid, 0)
    return answer if answer is not None else f"the zygote ended: {_ending(status)}"


def _experiment(case: Case) -> Any:
    if case.attack == "probe":
        return _probe(case)
    if "secret" in case.about:
        secret = os.open(case.about["secret"], os.O_RDONLY)
        os.dup2(secret, 200)
        os.dup2(secret, 0)
    if case.as_user and os.geteuid() == 0:
        os.setgroups([])
        become(NOBODY)
    if "no-landlock" in case.about:
        landlock.make_ruleset = _unavailable
    locks = lockdown.prepare(case.confinement)
    for name in case.off:
        _switch_off(locks, name)
    ours, theirs = socket.socketpair()
    os.set_inheritable(200, True) if "secret" in case.about else None
    locks.set_victims(first=True)  # as the zygote does around its forks
    pid = os.fork()
    if pid == 0:
        ours.close()
        _be_the_child(case, locks, theirs)
    locks.set_victims(first=False)
    theirs.close()
    outside = OUTSIDE.get(case.attack)
    answer = _receive(ours)
    if outside is not None and answer == "ready":
        answer = _word(lambda: outside(pid, {**case.about, "uid": NOBODY if locks.drop_uid else os.geteuid()}))
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return answer if answer is not None else _ending(status)


def _be_the_child(case: Case, locks: Lockdown, sock: socket.socket) -> None:
    try:
        locks.apply(sock.fileno())
    except OSError as error:
        _send(sock, f"not confined: {errno.errorcode.get(error.errno or 0, error)}")
        os._exit(0)
    if case.attack in OUTSIDE:
        _send(sock, "ready")
        signal.pause()
    about = {**case.about, "zygote": locks.zygote_pid}
    _send(sock, _word(lambda: ATTACKS[case.attack](about)))
    os._exit(0)


def become(uid: int) -> None:
    """Another user for good."""
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _word(attack: Callable[[], Any]) -> str:
    try:
        value = attack()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except BaseException as error:
        return type(error).__name__
    return "OK" if value is None else str(value)


def _send(sock: socket.socket, value: Any) -> None:
    data = json.dumps(value).encode()
    sock.sendall(len(data).to_bytes(4, "little") + data)


def _receive(sock: socket.socket) -> Any:
    header = sock.recv(4, socket.MSG_WAITALL)
    if len(header) < 4:
        return None
    return json.loads(sock.recv(int.from_bytes(header, "little"), socket.MSG_WAITALL))


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit {code}" if code >= 0 else signal.Signals(-code).name


# --- switches


def _switch_off(locks: Lockdown, name: str) -> None:
    """One layer, after everything has been prepared as if it were to be used."""
    kind, _, detail = name.partition(":")
    match kind:
        case "landlock":
            locks.ruleset = None
        case "restrict":  # prepared, but never enforced
            landlock.restrict_self = lambda ruleset: None
        case "seccomp":
            locks.filter = None
        case "limit":
            number = getattr(resource, f"RLIMIT_{detail}")
            locks.limits = tuple((limit, value) for limit, value in locks.limits if limit != number)
        case "unlimited":
            locks.limits = ()
        case "raised":  # set, but higher than prepared
            real_set = resource.setrlimit
            resource.setrlimit = lambda limit, bounds: real_set(limit, (min(b + 1, 256) for b in bounds))
        case "capabilities":
            locks.drop_capabilities = lambda: None
        case "uid":
            locks.drop_uid = False
            locks.drop_capabilities = lockdown._capability_dropper()
        case "become-nobody":  # the other way round: where the installation is not readable for nobody
            locks.drop_uid = os.geteuid() == 0
        case "keep-root":
            locks.drop_uid = False
            locks.drop_capabilities = None
        case "prctl":
            real = locks.prctl
            assert real is not None
            locks.prctl = lambda option, *args: 0 if option == int(detail) else real(option, *args)
        case "session":
            os.setsid = lambda: None
        case "closing":
            lockdown.Lockdown._close = lambda self, inherited, keep_fd: None
        case "answer":  # of the probe: it hangs
            probe._LIMIT = 0.1
            probe._try_everything = lambda *_: signal.pause()
        case "null":
            locks.null_fd = 200
        case "oom":
            locks.oom_fd = None
        case "zygote-dumpable":
            real = locks.prctl
            assert real is not None
            real(4, 1, 0, 0, 0)
        case _:
            raise ValueError(name)


def _probe(case: Case) -> list[tuple[str, str, str]]:
    if "no-landlock" in case.about:
        landlock.make_ruleset = _unavailable
    if "abi" in case.about:
        landlock.abi = lambda: case.about["abi"]
    environment = os.environ.copy()
    os.environ.clear()
    os.environ.update({"LEFT": "over"} if "environment" in case.about else {})
    for fd in case.about.get("fds", ()):
        os.dup2(0, fd)
        os.set_inheritable(fd, True)
    if case.as_user and os.geteuid() == 0:
        os.setgroups([])
        become(NOBODY)
    locks = lockdown.prepare(case.confinement, portable="portable" in case.about)
    for name in case.off:
        _switch_off(locks, name)
    layers = probe.probe(locks, block_env="environment" not in case.about)
    os.environ.update(environment)
    return [(layer.name, layer.status, layer.detail) for layer in layers]


def _unavailable(grants: object) -> int:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


# --- attacks, from inside

ATTACKS: dict[str, Callable[[dict[str, Any]], Any]] = {}
OUTSIDE: dict[str, Callable[[int, dict[str, Any]], Any]] = {}


def attack(function: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """Registers what a confined child tries."""
    ATTACKS[function.__name__] = function
    return function


def from_outside(function: Callable[[int, dict[str, Any]], Any]) -> Callable[[int, dict[str, Any]], Any]:
    """Registers what is looked at, or tried, from another process while the child is there."""
    OUTSIDE[function.__name__] = function
    return function


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(number: int, *args: Any) -> int:
    """A raw system call. Raises OSError."""
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in args]
    value = int(_libc.syscall(ctypes.c_long(number), *words))
    if value < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return value


def nr(x86: int, arm: int) -> int:
    """The number of a system call here."""
    return x86 if _X86 else arm


@attack
def read_secret(about: dict[str, Any]) -> None:
    Path(about["secret"]).read_text()


@attack
def list_folder(about: dict[str, Any]) -> None:
    list(Path(about["folder"]).iterdir())


@attack
def create_file(about: dict[str, Any]) -> None:
    os.close(os.open(f"{about['folder']}/made-{os.getpid()}", os.O_WRONLY | os.O_CREAT))


@attack
def write_file(about: dict[str, Any]) -> None:
    Path(about["folder"], f"written-{os.getpid()}").write_text("x" * 100)


@attack
def read_inherited(about: dict[str, Any]) -> None:
    os.pread(200, 10, 0)


@attack
def read_stdin(about: dict[str, Any]) -> str:
    return "OK" if os.pread(0, 10, 0) else "nothing"


@attack
def connect(about: dict[str, Any]) -> None:
    with socket.socket() as sock:
        sock.connect(("127.0.0.1", about["port"]))


@attack
def bind_port(about: dict[str, Any]) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))


@attack
def connect_abstract(about: dict[str, Any]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect("\0" + about["abstract"])


@attack
def send_to_path(about: dict[str, Any]) -> None:
    first, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    first.sendto(b"x", about["datagram"])


@attack
def fast_open(about: dict[str, Any]) -> None:
    with socket.socket() as sock:
        sock.sendto(b"x", 0x20000000, ("127.0.0.1", about["port"]))


@attack
def multipath(about: dict[str, Any]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as sock:
        sock.connect(("127.0.0.1", about["port"]))


@attack
def listen(about: dict[str, Any]) -> None:
    with socket.socket() as sock:
        sock.listen()


@attack
def signal_canary(about: dict[str, Any]) -> None:
    os.kill(about["canary"], 0)


@attack
def signal_by_owner(about: dict[str, Any]) -> None:
    first, _ = socket.socketpair()
    fcntl.fcntl(first, fcntl.F_SETOWN, about["canary"])


@attack
def signal_own_group(about: dict[str, Any]) -> str:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.kill(0, signal.SIGUSR1)
    time.sleep(0.05)
    return "the zygote lives"


@attack
def renice_canary(about: dict[str, Any]) -> None:
    os.setpriority(os.PRIO_PROCESS, about["canary"], os.getpriority(os.PRIO_PROCESS, about["canary"]))


@attack
def fork(about: dict[str, Any]) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


@attack
def memfd(about: dict[str, Any]) -> None:
    os.close(os.memfd_create("x"))


@attack
def shared_memory(about: dict[str, Any]) -> None:
    mmap.mmap(-1, 4096).close()


@attack
def io_uring(about: dict[str, Any]) -> None:
    os.close(call(425, 8, ctypes.create_string_buffer(120)))


@attack
def change_mode(about: dict[str, Any]) -> None:
    Path(about["own"]).chmod(0o644)


@attack
def change_times(about: dict[str, Any]) -> None:
    os.utime(about["own"])


@attack
def personality(about: dict[str, Any]) -> None:
    call(nr(135, 92), 0x0040000)


@attack
def watch(about: dict[str, Any]) -> None:
    os.close(call(nr(294, 26), 0))


@attack
def keyring(about: dict[str, Any]) -> None:
    call(nr(248, 217), b"user", b"canary", b"x", 1, -2)


@attack
def int80(about: dict[str, Any]) -> None:
    page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # getpid of the 32-bit table
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()


@attack
def become_dumpable(about: dict[str, Any]) -> None:
    if _libc.prctl(4, 1, 0, 0, 0):
        raise PermissionError(errno.EPERM, "refused")


@attack
def read_zygote_memory(about: dict[str, Any]) -> None:
    os.close(os.open(f"/proc/{about['zygote']}/mem", os.O_RDONLY))


@attack
def take_ownership(about: dict[str, Any]) -> None:
    os.chown(about["foreign"], 4321, -1)


@attack
def read_foreign_file(about: dict[str, Any]) -> None:
    Path(about["foreign"]).read_text()


@attack
def read_roots_file(about: dict[str, Any]) -> None:
    Path(about["roots"]).read_text()


@attack
def gain_root(about: dict[str, Any]) -> str:
    """Runs a program that has the set-user-id bit of root: without new privileges the bit does nothing."""
    done = subprocess.run([about["setuid"], "-u"], capture_output=True, text=True, check=True)
    return "OK" if done.stdout.strip() == "0" else "EPERM"


@attack
def allocate(about: dict[str, Any]) -> None:
    bytearray(1 << 28)


@attack
def grow_a_stack(about: dict[str, Any]) -> None:
    _map(1 << 20, mmap.PROT_READ | mmap.PROT_WRITE, 0x122)


@attack
def enlarge_a_queue(about: dict[str, Any]) -> None:
    first, _ = socket.socketpair()
    before = first.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    first.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    if first.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before:
        raise PermissionError(errno.EPERM, "it says yes and does nothing")


@attack
def raise_the_stack_limit(about: dict[str, Any]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    if 0 <= hard <= 1 << 26:
        raise PermissionError(errno.EPERM, "bounded")


@attack
def reserve_page_tables(about: dict[str, Any]) -> None:
    _map(1 << 40, mmap.PROT_READ, 0x4022)


@attack
def open_files(about: dict[str, Any]) -> None:
    kept = [os.pipe() for _ in range(400)]
    kept.clear()


@attack
def lock_memory(about: dict[str, Any]) -> None:
    call(nr(149, 228), _map(1 << 16, 3, 0x22), 1 << 16)


@attack
def message_queue(about: dict[str, Any]) -> None:
    name = f"canary-{os.getpid()}".encode()
    os.close(call(nr(240, 180), name, 0o102, 0o600, 0))
    call(nr(241, 181), name)


@attack
def dump_core(about: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))


@attack
def a_few_threads(about: dict[str, Any]) -> None:
    threads = [threading.Thread(target=time.sleep, args=(0.01,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@attack
def import_a_module(about: dict[str, Any]) -> None:
    __import__(about["module"])


@attack
def read_python(about: dict[str, Any]) -> None:
    Path(os.__file__).read_bytes()


@attack
def write_in_grant(about: dict[str, Any]) -> None:
    path = Path(about["granted"]) / "new"
    path.write_text("x" * 100)
    path.rename(path.with_name("renamed"))
    path.with_name("renamed").unlink()


@attack
def write_through_a_link(about: dict[str, Any]) -> None:
    (Path(about["granted"]) / "link").write_text("x")


@attack
def read_granted(about: dict[str, Any]) -> None:
    Path(about["granted_file"]).read_text()


@attack
def remove_file(about: dict[str, Any]) -> None:
    Path(about["folder"], "to-be-removed").unlink()


@attack
def create_by_creat(about: dict[str, Any]) -> None:
    if not _X86:
        raise PermissionError(errno.EPERM, "there is no such call here")
    os.close(call(85, f"{about['folder']}/by-creat-{os.getpid()}".encode(), 0o600))


@attack
def time_of_apply(about: dict[str, Any]) -> None:
    """Nothing: what counts is the time that it took to get here."""


@from_outside
def oom_adjustment(pid: int, about: dict[str, Any]) -> str:
    return Path(f"/proc/{pid}/oom_score_adj").read_text().strip()


@from_outside
def read_the_childs_memory(pid: int, about: dict[str, Any]) -> str:
    """As another process of the same user, unconfined."""

    def attempt() -> str:
        if os.geteuid() == 0:
            become(about["uid"])
        return _word(lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY)))

    return str(_in_a_process_of_its_own(attempt))


@from_outside
def outlive_the_zygote(pid: int, about: dict[str, Any]) -> str:
    """Whether the child is still there a moment after its parent's end. Answers through a file: nobody else is left."""
    watcher = os.fork()
    if watcher == 0:
        os.setsid()
        for _ in range(100):
            time.sleep(0.005)
            if not _is_running(pid):
                Path(about["answer"]).write_text("gone")
                os._exit(0)
        Path(about["answer"]).write_text("OK")
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _map(size: int, protection: int, flags: int) -> int:
    _libc.mmap.restype = ctypes.c_void_p
    _libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    address = _libc.mmap(None, size, protection, flags, -1, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "refused")
    return int(address)


if __name__ == "__main__":
    main()
