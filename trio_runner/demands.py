"""Whether the layers of the sandbox that hold on this machine are those that the operator asked for.

Owns the verdict on a zygote's report and the lines of the log about it. Must not know how a layer is made.
"""

from __future__ import annotations

import os

from trio_runner.errors import SandboxError
from trio_runner.log import get_logger
from trio_runner.sandbox import records
from trio_runner.sandbox.policy import Confinement

log = get_logger("demands")


def absent(confinement: Confinement) -> list[str]:
    """What tasks were to read or write and is not there. It would be granted silently, and refused to every task."""
    return [path for path in (*confinement.read, *confinement.write) if not os.path.exists(path)]  # noqa: PTH110 - a text


def check_layers(report: records.Report, setup: records.Setup) -> None:
    """Says what holds and refuses to go on where that is not enough. Raises `SandboxError`.

    Of an environment's zygote (it has a path of its own) nobody needs to read what the first one has said already.
    """
    level = 20 if setup.path is None else 10
    mode = setup.confinement.mode
    status = {layer.name: layer for layer in report.layers}
    active = [layer.name for layer in report.layers if layer.status == records.ACTIVE]
    sealed = " (sealed: no file can be opened)" if report.sealed else ""
    log.log(level, "Sandbox %s%s: %s", mode, sealed, ", ".join(active))
    for layer in report.layers:
        if layer.status == records.UNAVAILABLE:
            log.log(level, "Sandbox layer %s is unavailable: %s", layer.name, layer.detail)
    for path in absent(setup.confinement) if setup.path is None else ():
        log.warning("%s does not exist, so no task can use it (N8N_RUNNERS_SANDBOX_READ or _WRITE)", path)
    for name in setup.confinement.require:
        if status[name].status != records.ACTIVE:
            raise SandboxError(
                f"Sandbox layer {name} is required (N8N_RUNNERS_SANDBOX_REQUIRE) but {status[name].status}: "
                f"{status[name].detail}"
            )
    seccomp = status["seccomp"].status == records.ACTIVE
    if mode == "off":
        log.warning("N8N_RUNNERS_SANDBOX is off: user code is contained by source checks alone")
        if setup.policy.relaxed:
            raise SandboxError("N8N_RUNNERS_POLICY=relaxed needs the sandbox: it leaves the containment to the kernel")
    elif not seccomp:
        # with seccomp alone the sealed mode holds; with Landlock alone processes and sockets would be open
        raise SandboxError(
            f"User code cannot be contained on this machine: {status['seccomp'].detail or 'no seccomp'}. "
            "Set N8N_RUNNERS_SANDBOX=off to run it with source checks alone."
        )
