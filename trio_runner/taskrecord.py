"""What is known of one task, from its settings to its end: for the log, the metrics and the trace.

Owns the words for how a task ended. One record a task, thrown away with it; must not know where any of it goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, get_args

from trio_runner.protocol.messages import TaskReply, TaskSettings

Outcome = Literal["done", "error", "violation", "syntax", "limit", "worker", "settings", "cancelled", "cut_off", "lost"]
OUTCOMES: Final[tuple[str, ...]] = get_args(Outcome)


class TaskRecord:
    """One task. Times are seconds of trio's clock."""

    __slots__ = (
        *("aborted", "accepted_at", "broker", "bytes_in", "bytes_out", "deliver", "ended_at", "leased_at", "outcome"),
        *("reason", "settings", "task_id"),
    )

    def __init__(self, task_id: str, settings: TaskSettings, *, broker: str, accepted_at: float) -> None:
        self.task_id = task_id
        self.settings = settings
        self.broker = broker
        self.accepted_at = accepted_at
        self.leased_at: float | None = None
        """When it had a worker."""
        self.ended_at = accepted_at
        self.outcome: Outcome | None = None
        self.aborted: Outcome | None = None
        """Why nobody waits for its result any more."""
        self.reason: str | None = None
        """In words, why it has no result. May hold what the program worked on, of any length."""
        self.bytes_in = memoryview(settings.items).nbytes  # now: they are let go of when the worker has them
        self.bytes_out = 0
        """Bytes of its items and of its result."""
        self.deliver: Callable[[TaskReply], None] | None = None
        """Takes n8n's answers to its calls; None for a task that has made none."""

    @property
    def queued(self) -> float:
        """Seconds from its acceptance to its worker, or to its end if it never had one."""
        return (self.ended_at if self.leased_at is None else self.leased_at) - self.accepted_at

    @property
    def ran(self) -> float | None:
        """Seconds from its worker to its end; None when it never had a worker."""
        return None if self.leased_at is None else self.ended_at - self.leased_at

    @property
    def place(self) -> str:
        """Its node and workflow, in the words of runner-behaviour 4."""
        settings = self.settings
        return (
            f'for node "{settings.node_name}" ({settings.node_id}) '
            f'in workflow "{settings.workflow_name}" ({settings.workflow_id})'
        )

    def end(self, outcome: Outcome, now: float) -> dict[str, object]:
        """Notes how it ended, for the first time, and gives what belongs to the line of the log that says so."""
        if self.outcome is not None:  # it was cancelled in the moment in which it was done, or the other way round
            return {"task": self}
        self.outcome = outcome
        self.ended_at = now
        return {"task": self, "outcome": outcome}

    def abort(self, outcome: Outcome, now: float) -> dict[str, object]:
        """As `end`, for a task whose result nobody waits for: it may be done in this very moment."""
        self.aborted = outcome
        return self.end(outcome, now)

    def never_told(self, now: float) -> None:
        """Its result, if there is one, was not sent: what counts is why."""
        self.end("lost", now)
        self.outcome = self.aborted or "lost"

    def fields(self) -> dict[str, object]:
        """Everything about it but its data and its outcome, with sizes in bytes and times in milliseconds."""
        settings = self.settings
        described: dict[str, object] = {
            "task_id": self.task_id,
            "workflow_id": settings.workflow_id,
            "workflow_name": settings.workflow_name,
            "node_id": settings.node_id,
            "node_name": settings.node_name,
            "broker": self.broker,
            "bytes_in": self.bytes_in,
        }
        if self.outcome is not None:
            described["bytes_out"] = self.bytes_out
            described["queue_ms"] = round(self.queued * 1000, 3)
            described["run_ms"] = None if self.ran is None else round(self.ran * 1000, 3)
        return described
