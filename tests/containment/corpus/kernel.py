"""Attacks on the kernel's side: raw system calls, files, processes, signals, sockets, memory.

With source checks on all of them end at the import of ctypes or os. Without, each call must be refused by a layer, and
the word of the refusal is part of the expectation: EPERM and EACCES are refusals, ENOENT would be a typing error here.
Nothing is touched but canaries, loopback addresses and the process itself.
"""

from __future__ import annotations

import textwrap

from tests.containment.corpus import Blocked, Contained, Ends, Expectation, hostile, refused

PRELUDE = """
import ctypes, errno, mmap, os, signal, socket, struct, time
T = _items[0]["json"]
X86 = os.uname().machine == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def nr(x86, arm):
    return x86 if X86 else arm
def call(number, *args):
    ctypes.set_errno(0)
    value = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if type(a) is int else a for a in args])
    return f"OK {value}" if value >= 0 else errno.errorcode[ctypes.get_errno()]
def attempt(action, *args):
    try:
        return f"OK {action(*args)!r}"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
def machine(code, signature=ctypes.CFUNCTYPE(ctypes.c_long)):
    page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
    page.write(code)
    return signature(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
AT = -100
own, secret, folder = T["own_file"].encode(), T["secret_file"].encode(), T["folder"].encode()
"""
EPERM = Blocked(("EPERM",))
EITHER = Blocked(("EPERM", "EACCES"))
KILLED = Ends(("exited with code -31",))


def attack(
    name: str,
    technique: str,
    code: str,
    unchecked: Expectation,
    *,
    network: Expectation | None = None,
    machine: str = "",
) -> None:
    hostile(
        name,
        f"process: {technique}",
        PRELUDE.strip() + "\n" + textwrap.dedent(code).strip(),
        compat=refused("ctypes"),
        relaxed=refused("ctypes"),
        unchecked=unchecked,
        network=network,
        machine=machine,
    )


# --- files

attack(
    "read-files",
    "files",
    """
    import io, pathlib
    return {
        "open": attempt(open, secret),
        "openat": call(nr(257, 56), AT, secret, 0, 0),
        "openat2": call(437, AT, secret, struct.pack("<QQQ", 0, 0, 0), 24),
        "file-io": attempt(io.FileIO, secret),
        "pathlib": attempt(pathlib.Path(T["secret_file"]).read_text),
        "dot-dot": attempt(open, "/usr/lib/../.." + T["secret_file"]),
        "by-dirfd": attempt(lambda: os.open(T["secret_file"][1:], 0, dir_fd=os.open("/", os.O_PATH))),
        "by-o-path": attempt(lambda: open(f"/proc/self/fd/{os.open(secret, os.O_PATH)}")),
        "create": attempt(os.open, folder + b"/new", os.O_WRONLY | os.O_CREAT),
        "unnamed": attempt(os.open, folder, os.O_TMPFILE | os.O_RDWR),
        "list": attempt(os.listdir, folder),
        "link-then-read": attempt(os.link, secret, folder + b"/l"),
        "handle": call(nr(304, 265), AT, b"x" * 64, 0),
        "name-to-handle": call(nr(303, 264), AT, secret, b"\\x80" + b"\\0" * 200, b"\\0" * 8, 0),
    }
    """,
    EITHER,
)
attack(
    "write-by-symbolic-names",
    "files",
    """
    out = {}
    for place in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/proc/self", folder.decode()):
        out[place] = attempt(os.open, f"{place}/{T['token']}", os.O_WRONLY | os.O_CREAT, 0o666)
    out["null"] = attempt(open, "/dev/null", "w")
    out["ptmx"] = attempt(open, "/dev/ptmx", "r+")
    out["mem"] = attempt(open, "/dev/mem")
    out["kmsg"] = attempt(open, "/dev/kmsg")
    out["zero"] = attempt(open, "/dev/zero")
    return out
    """,
    Blocked(("EPERM", "EACCES", "ENOENT")),
)
attack(
    "change-what-is-its-own",
    "files",
    """
    return {
        "chmod": attempt(os.chmod, own, 0o777),
        "fchmodat2": call(452, AT, own, 0o777, 0),
        "fchmod-by-o-path": attempt(lambda: os.chmod(f"/proc/self/fd/{os.open(own, os.O_PATH)}", 0o777)),
        "chown": attempt(os.chown, own, os.getuid(), os.getgid()),
        "lchown": attempt(os.lchown, own, -1, -1),
        "utime": attempt(os.utime, own, (1, 1)),
        "futimesat": call(nr(261, 88), AT, own, 0),
        "setxattr": attempt(os.setxattr, own, "user.canary", b"x"),
        "removexattr": attempt(os.removexattr, own, "user.canary"),
        "truncate": attempt(os.truncate, own, 0),
        "o-trunc": attempt(os.open, own, os.O_WRONLY | os.O_TRUNC),
        "rename": attempt(os.rename, own, own + b".moved"),
        "renameat2": call(nr(316, 276), AT, own, AT, own + b".moved", 0),
        "link": attempt(os.link, own, own + b".linked"),
        "symlink": attempt(os.symlink, b"/etc/passwd", folder + b"/symbolic"),
        "unlink": attempt(os.unlink, own),
        "rmdir": attempt(os.rmdir, folder),
        "mkdir": attempt(os.mkdir, folder + b"/made"),
        "mkfifo": attempt(os.mkfifo, folder + b"/fifo"),
        "mknod": attempt(os.mknod, folder + b"/node", 0o100666),
        "creat": call(85, folder + b"/created", 0o666) if X86 else "EPERM",
    }
    """,
    EITHER,
)
attack(
    "copy-without-reading",
    "files",
    """
    a, b = os.pipe()
    page = os.open("/dev/urandom", 0)
    return {
        "sendfile": attempt(os.sendfile, 1, page, 0, 10),
        "splice": attempt(os.splice, a, 1, 10) if hasattr(os, "splice") else "EPERM",
        "tee": call(nr(276, 77), a, b, 10, 0),
        "vmsplice": call(nr(278, 75), b, b"\\0" * 32, 1, 0),
        "copy_file_range": call(nr(326, 285), page, 0, 1, 0, 10, 0),
        "preadv2": call(nr(327, 286), page, b"\\0" * 16, 1, 0, 0, 0),
        "fallocate": call(nr(285, 47), 1, 0, 0, 10),
        "ftruncate": attempt(os.ftruncate, 1, 10),
        "sync": call(nr(306, 267), 1),
    }
    """,
    EPERM,
)
attack(
    "watch-the-folder",
    "files",
    """
    return {
        "inotify_init1": call(nr(294, 26), 0),
        "inotify_init": call(253) if X86 else "EPERM",
        "fanotify_init": call(nr(300, 262), 0, 0),
        "dnotify": attempt(lambda: __import__("fcntl").fcntl(os.open(os.path.dirname(os.__file__), 0), 1026, 1)),
        "lease": attempt(lambda: __import__("fcntl").fcntl(os.open(os.__file__, 0), 1024, 0)),
    }
    """,
    EPERM,
)
attack(
    "what-proc-tells",
    "proc",
    """
    out = {}
    for who in ("self", str(os.getpid()), str(T["zygote_pid"]), str(T["runner_pid"]), str(T["sibling_pid"]),
                str(T["canary_pid"]), "1"):
        for what in ("environ", "mem", "maps", "cmdline", "status", "fd", "task"):
            path = f"/proc/{who}/{what}"
            out[path] = attempt(os.listdir, path) if what in ("fd", "task") else attempt(open, path, "rb")
    for what in ("exe", "cwd", "root"):
        for who in (T["zygote_pid"], T["sibling_pid"], T["runner_pid"]):
            out[f"{who}/{what}"] = attempt(os.listdir, f"/proc/{who}/{what}")
    out["fd-of-the-parent"] = attempt(open, f"/proc/{T['zygote_pid']}/fd/3", "rb")
    out["fd-of-the-runner"] = attempt(open, f"/proc/{T['runner_pid']}/fd/0", "rb")
    return out
    """,
    EITHER,
)
attack(
    "write-to-proc",
    "proc",
    """
    return {
        "own-mem": attempt(open, "/proc/self/mem", "r+b"),
        "parent-mem": attempt(open, f"/proc/{T['zygote_pid']}/mem", "r+b"),
        "oom": attempt(open, "/proc/self/oom_score_adj", "w"),
        "canary-oom": attempt(open, f"/proc/{T['canary_pid']}/oom_score_adj", "w"),
        "core-filter": attempt(open, "/proc/self/coredump_filter", "w"),
        "uid-map": attempt(open, "/proc/self/uid_map", "w"),
        "timens": attempt(open, "/proc/self/timens_offsets", "w"),
        "comm": attempt(open, f"/proc/{T['canary_pid']}/comm", "w"),
    }
    """,
    EITHER,
)

# --- processes

attack(
    "processes-by-python",
    "fork and exec",
    """
    import subprocess, multiprocessing, pty
    return {
        "fork": attempt(os.fork),
        "forkpty": attempt(os.forkpty),
        "posix_spawn": attempt(os.posix_spawn, "/bin/true", ["true"], {}),
        "execv": attempt(os.execv, "/bin/true", ["true"]),
        "subprocess": attempt(subprocess.run, ["/bin/true"]),
        "popen": attempt(os.popen, "true"),
        "fexecve": attempt(lambda: os.execve(os.open("/bin/true", os.O_PATH), ["true"], {})),
    }
    """,
    EITHER,
)
attack(
    "system",
    "fork and exec",
    "return {'system': 'EPERM' if os.system('true') not in (0,) else 'OK'}",
    EPERM,
)
attack(
    "processes-by-number",
    "fork and exec",
    """
    arguments = (ctypes.c_char_p * 2)(b"true", None)
    return {
        "fork": call(57) if X86 else "EPERM",
        "vfork": call(58) if X86 else "EPERM",
        "clone": call(nr(56, 220), signal.SIGCHLD, 0, 0, 0, 0),
        "clone-parent": call(nr(56, 220), 0x8000 | signal.SIGCHLD, 0, 0, 0, 0),
        "clone-untraced": call(nr(56, 220), 0x800000 | 17, 0, 0, 0, 0),
        "clone-namespace": call(nr(56, 220), 0x10000000 | 17, 0, 0, 0, 0),
        "clone-vm": call(nr(56, 220), 0x100 | 17, 0, 0, 0, 0),
        "clone-high-bits": call(nr(56, 220), (1 << 40) | 17, 0, 0, 0, 0),
        "execve": call(nr(59, 221), b"/bin/true", arguments, 0),
        "execveat": call(nr(322, 281), AT, b"/bin/true", arguments, 0, 0),
        "uselib": call(134, b"/bin/true") if X86 else "EPERM",
    }
    """,
    EPERM,
)
attack(
    "clone3",
    "fork and exec",
    """
    made = struct.pack("<8Q", 0, 0, 0, 0, 17, 0, 0, 0)
    into = struct.pack("<11Q", 0x200000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)
    return {"clone3": call(435, made, 64), "into-cgroup": call(435, into, 88)}
    """,
    Blocked(("ENOSYS",)),
)
attack(
    "namespaces",
    "namespaces",
    """
    out = {f"unshare-{flag:x}": call(nr(272, 97), flag)
           for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x4000000, 0x8000000, 0x2000000, 0x80, 0x400)}
    return out | {
        "setns": call(nr(308, 268), 1, 0),
        "setns-pidfd": call(nr(308, 268), 0, 0x20000),
        "chroot": attempt(os.chroot, folder),
        "pivot_root": call(nr(155, 41), folder, folder),
        "mount": call(nr(165, 40), b"tmpfs", folder, b"tmpfs", 0, 0),
        "umount2": call(nr(166, 39), folder, 0),
        "open_tree": call(428, AT, folder, 1),
        "move_mount": call(429, AT, folder, AT, folder, 0),
        "fsopen": call(430, b"tmpfs", 0),
        "fspick": call(433, AT, folder, 0),
        "mount_setattr": call(442, AT, folder, 0, b"\\0" * 32, 32),
    }
    """,
    EPERM,
)
attack(
    "credentials",
    "namespaces",
    """
    return {
        "setuid": attempt(os.setuid, 0),
        "setgid": attempt(os.setgid, 0),
        "setresuid": attempt(os.setresuid, 0, 0, 0),
        "setresgid": attempt(os.setresgid, 0, 0, 0),
        "setreuid": attempt(os.setreuid, 0, 0),
        "setgroups": attempt(os.setgroups, [0]),
        "setfsuid": call(nr(122, 151), 0),
        "capset": call(nr(126, 91), struct.pack("<Ii", 0x20080522, 0), b"\\xff" * 24),
        "capget": call(nr(125, 90), ctypes.create_string_buffer(struct.pack("<Ii", 0x20080522, 0)), bytes(24)),
        "setpgid": attempt(os.setpgid, 0, T["zygote_pid"]),
        "setsid": attempt(os.setsid),
    }
    """,
    EPERM,
)
attack(
    "undo-the-confinement",
    "namespaces",
    """
    import resource
    out = {
        "dumpable": str(libc.prctl(4, 1, 0, 0, 0)),
        "death-signal": str(libc.prctl(1, 0, 0, 0, 0)),
        "ptracer": str(libc.prctl(0x59616d61, -1, 0, 0, 0)),
        "securebits": str(libc.prctl(28, 0, 0, 0, 0)),
        "subreaper": str(libc.prctl(36, 1, 0, 0, 0)),
        "mm": str(libc.prctl(35, 1, 0, 0, 0)),
        "keep-capabilities": str(libc.prctl(8, 1, 0, 0, 0)),
        "second-filter": str(libc.prctl(22, 2, ctypes.create_string_buffer(16), 0, 0)),
    }
    out = {name: "EPERM" if word == "-1" else word for name, word in out.items()}
    out["seccomp"] = call(nr(317, 277), 1, 0, 0)
    out["landlock"] = call(444, bytes(8), 8, 0)
    out["personality"] = call(nr(135, 92), 0x0040000)
    for name in ("CORE", "NOFILE", "FSIZE", "MEMLOCK", "MSGQUEUE", "DATA", "NPROC", "STACK", "AS", "CPU"):
        limit = getattr(resource, "RLIMIT_" + name)
        try:
            resource.setrlimit(limit, (-1, -1))
            out[name] = "OK"
        except (ValueError, OSError):
            out[name] = "EPERM"
    return out
    """,
    EPERM,
)

# --- signals and other processes

attack(
    "signals",
    "signals",
    """
    canary, zygote, sibling, runner = T["canary_pid"], T["zygote_pid"], T["sibling_pid"], T["runner_pid"]
    info = bytes(128)
    return {
        "kill-canary": attempt(os.kill, canary, signal.SIGTERM),
        "kill-zygote": attempt(os.kill, zygote, signal.SIGTERM),
        "kill-sibling": attempt(os.kill, sibling, signal.SIGKILL),
        "look-at-the-runner": attempt(os.kill, runner, 0),
        "kill-group": attempt(os.kill, -canary, signal.SIGTERM),
        "killpg-sibling": attempt(os.killpg, sibling, signal.SIGKILL),
        "kill-own-group": attempt(os.kill, 0, signal.SIGCONT),
        "tkill": call(nr(200, 130), canary, 15),
        "tgkill": call(nr(234, 131), canary, canary, 15),
        "sigqueue": call(nr(129, 138), canary, 15, info),
        "tgsigqueue": call(nr(297, 240), canary, canary, 15, info),
        "pidfd_open": call(434, canary, 0),
        "pidfd_send_signal": call(424, 1, 15, 0, 0),
        "process_mrelease": call(448, 1, 0),
    }
    """,
    EPERM,
)
attack(
    "signals-by-descriptors",
    "signals",
    """
    import fcntl
    out = {}
    a, b = socket.socketpair()
    for name, target in {"canary": T["canary_pid"], "zygote": T["zygote_pid"], "group": -T["canary_pid"]}.items():
        out[f"setown-{name}"] = attempt(fcntl.fcntl, a, fcntl.F_SETOWN, target)
        out[f"setown-ex-{name}"] = attempt(fcntl.fcntl, a, 15, struct.pack("ii", 1, target))
    out["setsig"] = attempt(fcntl.fcntl, a, 10, signal.SIGTERM)
    out["fiosetown"] = attempt(fcntl.ioctl, a, 0x8901, struct.pack("i", T["canary_pid"]))
    out["siocspgrp"] = attempt(fcntl.ioctl, a, 0x8902, struct.pack("i", T["canary_pid"]))
    out["mq-notify"] = call(nr(244, 184), 1, bytes(64))
    return out
    """,
    Blocked(("EPERM", "ENOTTY")),
)
attack(
    "look-into-others",
    "signals",
    """
    buffer = ctypes.create_string_buffer(4096)
    vector = struct.pack("<QQ", ctypes.addressof(buffer), 4096)
    out = {}
    for name in ("sibling_pid", "zygote_pid", "runner_pid", "canary_pid"):
        pid = T[name]
        out |= {
            f"ptrace-attach-{name}": call(nr(101, 117), 16, pid, 0, 0),
            f"ptrace-seize-{name}": call(nr(101, 117), 0x4206, pid, 0, 0),
            f"readv-{name}": call(nr(310, 270), pid, vector, 1, vector, 1, 0),
            f"writev-{name}": call(nr(311, 271), pid, vector, 1, vector, 1, 0),
            f"pidfd-{name}": call(434, pid, 0),
            f"kcmp-{name}": call(nr(312, 272), os.getpid(), pid, 0, 0, 0),
            f"robust-list-{name}": call(nr(274, 100), pid, buffer, buffer),
            f"move-pages-{name}": call(nr(279, 239), pid, 0, 0, 0, 0, 0),
            f"migrate-pages-{name}": call(nr(256, 238), pid, 0, 0, 0),
        }
    out["traceme"] = call(nr(101, 117), 0, 0, 0, 0)
    out["pidfd_getfd"] = call(438, 1, 0, 0)
    out["process_madvise"] = call(440, 1, vector, 1, 21, 0)
    return out
    """,
    EPERM,
)
attack(
    "change-others",
    "signals",
    """
    out = {}
    for name in ("canary_pid", "zygote_pid", "sibling_pid"):
        pid = T[name]
        out |= {
            f"nice-{name}": attempt(os.setpriority, os.PRIO_PROCESS, pid, 19),
            f"affinity-{name}": attempt(os.sched_setaffinity, pid, {0}),
            f"scheduler-{name}": attempt(os.sched_setscheduler, pid, os.SCHED_IDLE, os.sched_param(0)),
            f"setattr-{name}": call(nr(314, 274), pid, bytes(48), 0),
            f"limits-{name}": call(nr(302, 261), pid, 7, struct.pack("<QQ", 3, 3), 0),
            f"read-limits-{name}": call(nr(302, 261), pid, 7, 0, ctypes.create_string_buffer(16)),
            f"ioprio-{name}": call(nr(251, 30), 1, pid, 0x6007),
            f"setpgid-{name}": attempt(os.setpgid, pid, 0),
        }
    out["nice-of-a-group"] = attempt(os.setpriority, os.PRIO_PGRP, T["canary_pid"], 19)
    out["own-nice"] = attempt(os.nice, -1)
    return out
    """,
    EPERM,
)

# --- sockets

attack(
    "sockets",
    "sockets",
    """
    out = {}
    # internet, local, netlink, packets, crypto, virtual machines, RDS, XDP
    for family in (2, 10, 1, 16, 17, 38, 40, 21, 44):
        for kind in (1, 2, 3, 5):
            out[f"{family}-{kind}"] = attempt(socket.socket, family, kind)
    return out
    """,
    Blocked(("EACCES",)),
    network=Contained(),
)
attack(
    "every-way-to-connect",
    "sockets",
    """
    port = T["tcp_port"]
    def by(family, address, option=None, protocol=0, blocking=True):
        with socket.socket(family, 1, protocol) as sock:
            if option:
                sock.setsockopt(6, option, 1)
            sock.setblocking(blocking)
            sock.connect(address)
    def first_packet(way):
        with socket.socket() as sock:
            way(sock)
    return {
        "plainly": attempt(by, 2, ("127.0.0.1", port)),
        "in the background": attempt(by, 2, ("127.0.0.1", port), None, 0, False),
        "mapped": attempt(by, 10, ("::ffff:127.0.0.1", port)),
        "to any": attempt(by, 2, ("0.0.0.0", port)),
        "deferred": attempt(by, 2, ("127.0.0.1", port), 30),
        "by several paths": attempt(by, 2, ("127.0.0.1", port), None, 262),
        "by SCTP": attempt(by, 2, ("127.0.0.1", port), None, 132),
        "with the first packet": attempt(first_packet, lambda s: s.sendto(b"x", 0x20000000, ("127.0.0.1", port))),
        "in a message": attempt(first_packet, lambda s: s.sendmsg([b"x"], [], 0x20000000, ("127.0.0.1", port))),
        "bound before": attempt(first_packet, lambda s: s.bind(("127.0.0.1", 0))),
        "listening": attempt(first_packet, lambda s: s.listen()),
        "ping": attempt(socket.socket, 2, 2, 1),
        "raw": attempt(socket.socket, 2, 3, 6),
    }
    """,
    Blocked(("EACCES",)),
    network=EITHER,
)
attack(
    "sockets-from-a-pair",
    "sockets",
    """
    import array
    a, b = socket.socketpair()
    unix = T["unix_path"]
    out = {
        "datagram-pair": attempt(socket.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM),
        "packet-pair": attempt(socket.socketpair, socket.AF_UNIX, socket.SOCK_SEQPACKET),
        "datagram-with-flags": attempt(socket.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM | 0x80800),
        "tipc-pair": attempt(socket.socketpair, 30, 1),
        "inet-pair": attempt(socket.socketpair, socket.AF_INET, socket.SOCK_STREAM),
        "connect": attempt(a.connect, unix),
        "connect-abstract": attempt(a.connect, "\\0" + T["token"]),
        "bind": attempt(a.bind, "\\0" + T["token"] + "x"),
        "listen": attempt(a.listen, 1),
        "accept": attempt(a.accept),
        "fastopen": attempt(a.sendto, b"x", 0x20000000, unix),
        "fastopen-message": attempt(a.sendmsg, [b"x"], [], 0x20000000),
        "fastopen-many": call(nr(307, 269), a.fileno(), bytes(64), 1, 0x20000000),
    }
    return out
    """,
    Blocked(("EPERM", "EACCES")),
    network=Blocked(("EPERM", "EACCES", "EISCONN", "ECONNREFUSED")),
)
attack(
    "send-to-a-path",
    "sockets",
    """
    a, b = socket.socketpair()
    return {
        "path": attempt(a.sendto, b"x", T["dgram_path"]),
        "abstract": attempt(a.sendto, b"x", "\\0" + T["token"]),
        "message": attempt(a.sendmsg, [b"x"], [], 0, T["dgram_path"]),
        "listener": attempt(a.sendto, b"x", T["unix_path"]),
    }
    """,
    Blocked(("EISCONN", "EOPNOTSUPP", "EPERM")),
)
attack(
    "guess-descriptors",
    "descriptors",
    """
    mine = {0, 1, 2}
    found = {}
    for fd in range(3, 1024):
        try:
            kind = os.fstat(fd).st_mode & 0o170000
        except OSError:
            continue
        if fd not in mine:
            found[fd] = kind
    others = {}
    for fd, kind in found.items():
        if kind == 0o140000:
            sock = socket.socket(fileno=os.dup(fd))
            others[fd] = "channel" if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM else "other"
        else:
            others[fd] = oct(kind)
    for fd in mine:
        if not os.stat("/dev/null").st_rdev == os.fstat(fd).st_rdev:
            others[fd] = "not null"
    return others
    """,
    Blocked(("channel",)),
)
attack(
    "listen-and-bind",
    "sockets",
    """
    return {
        "create_server": attempt(socket.create_server, ("127.0.0.1", 0)),
        "fromfd": attempt(socket.fromfd, 0, socket.AF_INET, 1),
        "raw-bind": call(nr(49, 200), 0, bytes(16), 16),
        "raw-listen": call(nr(50, 201), 0, 1),
        "raw-accept4": call(nr(288, 242), 0, 0, 0, 0),
        "raw-connect": call(nr(42, 203), 0, bytes(16), 16),
        "raw-socket": call(nr(41, 198), 1, 1, 0),
    }
    """,
    Blocked(("EPERM", "EACCES", "ENOTSOCK")),
)

# --- memory that is shared, and other kernel objects

attack(
    "shared-memory",
    "shared memory",
    """
    from multiprocessing import shared_memory
    return {
        "shared-anonymous": attempt(mmap.mmap, -1, 4096),
        "shared-validate": call(nr(9, 222), 0, 4096, 3, 0x23, -1, 0),
        "grows-down": call(nr(9, 222), 0, 4096, 3, 0x122, -1, 0),
        "memfd_create": call(nr(319, 279), b"x", 0),
        "memfd_secret": call(447, 0),
        "shmget": call(nr(29, 194), T["system_v"], 4096, 0o1600),
        "shmat": call(nr(30, 196), 0, 0, 0),
        "semget": call(nr(64, 190), T["system_v"], 1, 0o1600),
        "msgget": call(nr(68, 186), T["system_v"], 0o1600),
        "mq_open": call(nr(240, 180), b"canary-" + T["token"].encode(), 0o102, 0o600, 0),
        "posix-shm": attempt(lambda: shared_memory.SharedMemory(T["token"], create=True, size=4096)),
        "mlock": call(nr(149, 228), bytes(4096), 4096),
        "userfaultfd": call(nr(323, 282), 0),
        "remap_file_pages": call(nr(216, 234), 0, 4096, 0, 0, 0),
        "pkey_alloc": call(nr(330, 289), 0, 0),
    }
    """,
    EITHER,
)
attack(
    "kernel-objects",
    "kernel interfaces",
    """
    return {
        "io_uring_setup": call(425, 8, ctypes.create_string_buffer(120)),
        "io_uring_enter": call(426, 0, 0, 0, 0, 0, 0),
        "io_uring_register": call(427, 0, 0, 0, 0),
        "io_setup": call(nr(206, 0), 8, ctypes.create_string_buffer(8)),
        "bpf": call(nr(321, 280), 0, bytes(72), 72),
        "perf_event_open": call(nr(298, 241), bytes(120), 0, -1, -1, 0),
        "add_key": call(nr(248, 217), b"user", b"canary", b"x", 1, -2),
        "request_key": call(nr(249, 218), b"user", b"canary", 0, -2),
        "keyctl": call(nr(250, 219), 0, -3, 0),
        "quotactl": call(nr(179, 60), 0, 0, 0, 0),
        "syslog": call(nr(103, 116), 3, bytes(16), 16),
        "lookup_dcookie": call(nr(212, 18), 0, bytes(16), 16),
        "set_mempolicy": call(nr(238, 237), 0, 0, 0),
        "seccomp-listener": call(nr(317, 277), 1, 8, bytes(16)),
        "landlock_create_ruleset": call(444, bytes(8), 8, 0),
        "iopl": call(172, 3) if X86 else "EPERM",
        "modify_ldt": call(154, 0, bytes(16), 16) if X86 else "EPERM",
        "arch_prctl": call(158, 0x1003, bytes(8)) if X86 else "EPERM",
        "statmount": call(457, bytes(32), bytes(512), 512, 0),
        "listmount": call(458, bytes(32), bytes(512), 64, 0),
        "unknown": call(999),
        "restart-of-nothing": call(nr(219, 128)).replace("EINTR", "EPERM"),
    }
    """,
    EPERM,
)
attack(
    "foreign-call-tables-int80",
    "kernel interfaces",
    # eax = 20 (getpid of the 32-bit table); int 0x80; ret
    'return {"int80": machine(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")}',
    KILLED,
    machine="x86_64",
)
attack(
    "foreign-call-tables-x32",
    "kernel interfaces",
    'return {"x32-getpid": call(0x40000000 + 39)}',
    KILLED,
    machine="x86_64",
)
attack(
    "foreign-call-tables-x32-open",
    "kernel interfaces",
    'return {"x32-open": call(0x40000002, secret, 0, 0)}',
    KILLED,
    machine="x86_64",
)
attack(
    "call-number-minus-one",
    "kernel interfaces",
    'return {"minus-one": call(-1)}',
    KILLED,
    machine="x86_64",
)

# --- timers, dumps, ends

attack(
    "timers-aim-at-others",
    "timers",
    """
    event = struct.pack("<QiiiI", 0, signal.SIGTERM, 4, T["canary_pid"], 0) + bytes(40)
    made = ctypes.create_string_buffer(8)
    return {
        "timer-for-a-thread-of-another": call(nr(222, 107), 0, event, made),
        "clock_settime": call(nr(227, 112), 999, bytes(16)),
        "settimeofday": call(nr(164, 170), 0, 1),
        "clock_adjtime": call(nr(305, 266), 999, bytes(208)),
        "adjtimex": call(nr(159, 171), 1),
    }
    """,
    Blocked(("EPERM", "EINVAL")),
)
attack(
    "alarm-ends-itself",
    "timers",
    "signal.setitimer(signal.ITIMER_REAL, 0.01)\nwhile True: pass",
    Ends(("exited with code -14",)),
)
attack(
    "segmentation-fault",
    "ends and dumps",
    "return ctypes.string_at(1)",
    Ends(("exited with code -11",)),
)
attack(
    "abort-and-core",
    "ends and dumps",
    "os.abort()",
    Ends(("exited with code -6",)),
)
attack(
    "kill-itself",
    "ends and dumps",
    "os.kill(os.getpid(), signal.SIGKILL)",
    Ends(("SIGKILL",)),
)
attack(
    "end-with-success",
    "ends and dumps",
    "os._exit(0)",
    Ends(("Failed to read result",)),
)
attack(
    "ignore-every-signal",
    "ends and dumps",
    """
    out = {}
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    return {"done": "EPERM"}
    """,
    EPERM,
)
attack(
    "threads-that-stay",
    "ends and dumps",
    """
    import threading
    for _ in range(8):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    return {"done": "EPERM"}
    """,
    EPERM,
)
attack(
    "exit-hooks",
    "ends and dumps",
    """
    import atexit
    atexit.register(lambda: open(folder + b"/at-exit", "w"))
    return {"done": "EPERM"}
    """,
    EPERM,
)
attack(
    "many-descriptors-in-flight",
    "descriptors",
    """
    a, b = socket.socketpair()
    sent = 0
    try:
        while True:
            socket.send_fds(a, [b"x"], [b.fileno()] * 50)
            sent += 50
    except OSError as error:
        word = errno.errorcode[error.errno]
    return {"limited": word if sent < 2000 else "OK"}
    """,
    Blocked(("ETOOMANYREFS", "EAGAIN")),
)
attack(
    "write-own-registers",
    "kernel interfaces",
    """
    # a signal frame of its own making: returns to where it came from, still filtered
    return {"sigreturn": call(999), "process_vm_readv-self": call(nr(310, 270), os.getpid(), 0, 0, 0, 0, 0)}
    """,
    EPERM,
)
attack(
    "stat-of-a-known-path",
    "files",
    """
    # what is known to remain: the metadata of a path that one knows, never its content
    return {"size": os.stat(secret).st_size, "names": attempt(os.scandir, os.path.dirname(secret))}
    """,
    Contained(),
)
