"""Every way in which the runner itself can fail, and what each means for the caller.

Three families: `RetryableError` (try again later), `FatalError` (end the process with `exit_code`, saying why) and, for
one task only, `WorkerError` and `PackagesError` (reported to the broker as that task's failure). Errors of user code
are no exceptions here: they are `sandbox.frames.Failure` values.
"""

from __future__ import annotations

from typing import ClassVar, Literal


class RunnerError(Exception):
    """Base of all."""


class RetryableError(RunnerError):
    """The broker cannot be reached or does not want us now. ``at_least`` seconds should pass before the next try."""

    reason: ClassVar[str] = "unreachable"
    """In one word, for the metrics."""

    def __init__(self, text: str, *, at_least: float = 0.0) -> None:
        super().__init__(text)
        self.at_least = at_least


class BrokerUnreachableError(RetryableError):
    """No connection, no answer in time, or a server error."""


class RateLimitedError(RetryableError):
    """The broker answered 429: five a second is all it takes (protocol.md 2)."""

    reason = "rate_limited"


class GrantRefusedError(RetryableError):
    """The broker refused a grant token: used up, expired, or of another process. A fresh one may do."""

    reason = "grant_refused"


class ConnectionLostError(RetryableError):
    """An established connection ended. ``code`` is the WebSocket close code, None when there was none."""

    reason = "lost"

    def __init__(self, text: str, *, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class FatalError(RunnerError):
    """The process cannot do its work and must say so loudly."""

    exit_code: ClassVar[int] = 1


class StartError(FatalError):
    """A port is taken, a platform is not supported, or the like."""

    exit_code = 1


class SandboxError(StartError):
    """The operator asked for more containment than this machine has."""

    exit_code = 6


class AuthRefusedError(FatalError):
    """The auth token is wrong: no retry will help."""

    exit_code = 3


class SingleUseError(FatalError):
    """The connection made with a grant token is gone, and a grant token works once: whoever started us starts anew."""

    exit_code = 4


class WorkerError(RunnerError):
    """A worker process could not serve its task. The text is for the workflow's author."""

    def __init__(self, message: str, description: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.description = description


class PackagesError(RunnerError):
    """A program does not get the packages that it asks for. The text is for the workflow's author."""

    def __init__(
        self,
        message: str,
        description: str = "",
        *,
        line: int | None = None,
        kind: Literal["error", "violation", "worker"] = "worker",
        before_start: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.description = description
        self.line = line
        self.kind = kind
        self.before_start = before_start
