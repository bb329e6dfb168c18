"""What the runner and the zygote say to each other: records on a stream socket, and the structs inside them.

Kept apart from the zygote, so that the runner does not load what only its children need.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from trio_runner.sandbox.policy import ALL, Confinement, Policy

ACTIVE: Final = "active"
OFF: Final = "off"
UNAVAILABLE: Final = "unavailable"

PROBED_LAYERS: Final = (
    "session", "closed-files", "empty-environment", "parent-death-signal", "no-new-privileges", "not-dumpable",
    "limits", "landlock-files", "landlock-network", "landlock-signals", "seccomp", "capabilities", "uid",
)  # fmt: skip
LAYERS: Final = (*PROBED_LAYERS, "cgroup")
"""Every layer by the name that N8N_RUNNERS_SANDBOX_REQUIRE takes, in the order in which they are reported."""


class Layer(msgspec.Struct, frozen=True):
    """One layer of the confinement: ``active``, ``off`` (by choice, or not needed) or ``unavailable``, and why."""

    name: str
    status: str
    detail: str = ""


BIND_NOW: Final = "LD_BIND_NOW"
"""Set for the zygote: its loader looks up all names of C libraries at once, instead of each child some of them."""

RECORD: Final = struct.Struct("<BiiI")
# runner to zygote
FORK: Final = 1  # pid: how many
KILL: Final = 2  # pid: which
PING: Final = 3  # answered by PONG
# zygote to runner
READY: Final = 16  # payload: Report
CHILD: Final = 17  # pid, with the task socket and, on Linux, a pidfd
EXIT: Final = 18  # pid, wait status
FORK_FAILED: Final = 19  # status: errno
PONG: Final = 20


class Setup(msgspec.Struct, frozen=True):
    """What the runner tells the zygote first."""

    policy: Policy
    confinement: Confinement
    max_payload: int
    preload: tuple[str, ...]
    portable: bool = False
    """Only what every POSIX system has, as on macOS: no pidfds, no parent-death signal, no confinement."""
    path: tuple[str, ...] | None = None
    """Where modules are looked for, when not where the runner looks for its own."""
    confined_preload: tuple[str, ...] = ()
    """Modules that each child imports after it has confined itself, while it waits: those that nobody vouches for."""


class Report(msgspec.Struct, frozen=True):
    """What the zygote has found."""

    pid: int
    layers: tuple[Layer, ...]
    sealed: bool
    pidfds: bool
    not_preloaded: dict[str, str]


OURS_BY_NAME: Final = ("jmespath",)
"""What children import for us by its name: it must be there before modules are looked for elsewhere."""

NOT_WORTH_PRELOADING: Final = frozenset({"antigravity", "this", "idlelib", "turtle", "turtledemo", "tkinter", "test"})
"""Standard modules that do something when they are imported, or need a display."""

ALWAYS_PRELOADED: Final = (
    "_strptime", "encodings.idna", "datetime", "decimal", "json", "re", "unicodedata", "zoneinfo", "jmespath",
)  # fmt: skip
"""Loaded by the language behind the author's back (strptime, idna, big integers), or by what n8n's names stand for
(``_now``, ``_jmespath``: 4 ms and 0.9 MB, once); after the fork it would cost time."""


COMPANIONS: Final = {"httpx": ("httpcore",), "requests": ("urllib3", "idna"), "openai": ("httpx", "httpcore")}
"""What packages import only when they are first used: after the fork that would cost each task."""


WARM_UPS: Final = {
    "numpy": "numpy.arange(3).sum()",
    "pandas": "(lambda f: (f['b'].sum(), f[f['b'] > 1], f.groupby('a')['b'].sum().to_dict(), f.to_dict('records')))("
    "pandas.DataFrame({'a': ['x', 'y', 'x'], 'b': [1, 2, 3]}))",
}
"""What a package is made to do before the fork: it fills caches and loads modules with its first work, not before."""


def preload_list(policy: Policy, chosen: tuple[str, ...] | None) -> tuple[str, ...]:
    """What is imported before the fork: what the operator chose, or else what is allowed by name."""
    if chosen is not None:
        return (*ALWAYS_PRELOADED, *chosen)
    named = sorted((policy.stdlib_allow | policy.external_allow) - {ALL} - NOT_WORTH_PRELOADING)
    return (*ALWAYS_PRELOADED, *(module for name in named for module in (name, *COMPANIONS.get(name, ()))))
