"""One program through the embedded broker and a real runner, in one process tree: what `trio-runner exec` does.

Owns what a person sees while it runs: a progress line on a terminal, prints as they happen on standard error, the
result on standard output.
"""

from __future__ import annotations

import errno
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from trio_runner import log
from trio_runner.config import AUTH_TOKEN, BROKER_URI, CONNECTION, MAX_CONCURRENCY, ConfigError, load
from trio_runner.errors import FatalError
from trio_runner.executor import unquote
from trio_runner.localbroker import LocalBroker, TaskFailed
from trio_runner.localinput import InputError
from trio_runner.localworkflow import LocalWorkflow
from trio_runner.protocol.messages import NULL, ResultData
from trio_runner.supervisor import Runner

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

_COLOURED_AT_MOST = 200_000  # colouring is slow: a second for each million characters, or more


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, and the workflow that it finds itself in. ``query`` is JSON."""

    source: str
    workflow: LocalWorkflow = msgspec.field(default_factory=LocalWorkflow)
    each_item: bool = False
    query: bytes | None = None

    def settings(self) -> bytes:
        """The settings object that n8n would send."""
        workflow = self.workflow
        return msgspec.json.encode(
            {
                "code": self.source,
                "nodeMode": "runOnceForEachItem" if self.each_item else "runOnceForAllItems",
                "workflowMode": workflow.mode,
                "continueOnFail": False,
                "items": msgspec.Raw(workflow.items),
                "nodeId": workflow.node_name,
                "nodeName": workflow.node_name,
                "workflowId": workflow.workflow_id,
                "workflowName": workflow.workflow_name,
                "query": msgspec.Raw(self.query) if self.query is not None else NULL,
            }
        )


def run_program(
    program: Program,
    environ: Mapping[str, str],
    *,
    as_json: bool,
    verbose: bool,
    notes: Iterable[str] = (),
    save_static_data: Callable[[dict[str, Any]], None] | None = None,
) -> int:
    """Runs it and shows what comes of it, after the ``notes``. Returns the exit code.

    ``save_static_data`` is called with what the program changed there.
    """
    console = _Console(as_json=as_json, verbose=verbose)
    log.configure("DEBUG" if verbose else "CRITICAL", stream=sys.stderr)
    # the environment decides what a program may do; which broker it names does not count here
    ours = {name: value for name, value in environ.items() if name not in CONNECTION}
    ours |= {AUTH_TOKEN.name: secrets.token_hex(16), MAX_CONCURRENCY.name: "1"}
    try:
        loaded = load(ours)
        for warning in (*loaded.warnings, *notes):
            console.complain(f"Warning: {warning}")
        started = time.perf_counter()
        with console.progress():
            result = trio.run(_whole, program, ours, console)
        console.result(result, seconds=time.perf_counter() - started)
        console.beside(result)
        if save_static_data is not None and isinstance(result.static_data, msgspec.Raw):
            save_static_data(msgspec.json.decode(result.static_data, type=dict[str, Any]))
    except InputError as error:
        console.complain(str(error))
        return 1
    except ConfigError as error:
        for problem in error.problems:
            console.complain(f"Invalid configuration: {problem}")
        return 1
    except TaskFailed as failed:
        console.failure(failed.error)
        return 1
    except FatalError as error:
        console.complain(str(error))
        return error.exit_code
    except trio.TooSlowError:
        console.complain("The program did not start in time; --verbose shows why")
        return 1
    except KeyboardInterrupt:
        console.complain("Interrupted")
        return 130
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # click knows what to do when nobody reads on
        console.complain(f"Cannot write the result: {error.strerror}")
        return 1
    return 0


async def _whole(program: Program, environ: dict[str, str], console: _Console) -> ResultData:
    """Broker, runner and one task, each over the socket as with n8n.

    Raises `TaskFailed`, `FatalError`, `trio.TooSlowError`, or `KeyboardInterrupt`. The latter is taken as a signal: as
    an exception it would hit any task, where a cancelled clean-up on its way out may swallow it.
    """
    outcome: ResultData | TaskFailed | FatalError | trio.TooSlowError | None = None
    async with trio.open_nursery() as nursery:

        async def serve(runner: Runner) -> None:
            nonlocal outcome
            try:
                await runner.run(handle_signals=False)
            except FatalError as error:
                outcome = error
                nursery.cancel_scope.cancel()

        async def interrupt(*, task_status: trio.TaskStatus[None]) -> None:
            with trio.open_signal_receiver(signal.SIGINT) as signals:
                task_status.started()
                async for _ in signals:
                    nursery.cancel_scope.cancel()

        await nursery.start(interrupt)
        broker = LocalBroker(auth_token=environ[AUTH_TOKEN.name])
        port = await nursery.start(broker.serve)
        config = load({**environ, BROKER_URI.name: f"http://127.0.0.1:{port}"}).config
        nursery.start_soon(serve, Runner(config, environment=environ))
        try:
            outcome = await broker.run_task(program.settings(), console.print, program.workflow)
        except (TaskFailed, trio.TooSlowError) as failed:
            outcome = failed
        nursery.cancel_scope.cancel()
    if isinstance(outcome, ResultData):
        return outcome
    raise outcome or KeyboardInterrupt


def moving_line(terminal: RichConsole) -> AbstractContextManager[object]:
    """A line that says that something runs. It is there when the block begins and gone when it ends.

    Not `Console.status`: that leaves the first drawing to a thread, and a print of the same moment lands behind it.
    """
    from rich.live import Live
    from rich.spinner import Spinner

    return Live(Spinner("dots", "Running…"), console=terminal, transient=True, refresh_per_second=12.5)


class _Console:
    """What a person sees. On a terminal with rich, in a pipe with nothing but the result."""

    def __init__(self, *, as_json: bool, verbose: bool) -> None:
        self._quiet = verbose  # log lines would tear a moving line apart
        self._pretty = sys.stdout.isatty() and not as_json
        self._terminal: Any = None
        if sys.stderr.isatty():
            from rich.console import Console

            self._terminal = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def progress(self) -> AbstractContextManager[object]:
        """A line that moves while the program runs, gone when it is done."""
        return nullcontext() if self._terminal is None or self._quiet else moving_line(self._terminal)

    def print(self, params: list[object]) -> None:
        """One print of the program, as it happens."""
        text = " ".join(unquote(param) if isinstance(param, str) else str(param) for param in params)
        if self._terminal is None:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        else:
            self._terminal.print(text)

    def complain(self, text: str) -> None:
        """Something of ours is wrong."""
        if self._terminal is None:
            sys.stderr.write(text + "\n")
        else:
            self._terminal.print(text, style="yellow")

    def failure(self, error: dict[str, object]) -> None:
        """The program failed: what n8n would show, and where."""
        line = error.get("lineNumber")
        context = error.get("context")
        item = context.get("itemIndex") if isinstance(context, dict) else None
        message, description = str(error.get("message", "")), str(error.get("description") or "")
        where = f" [line {line}]" if line is not None and f"line {line})" not in message else ""
        where += f" [item {item}]" if item is not None else ""
        if self._terminal is None:
            sys.stderr.write(f"Error: {message}{where}\n" + (f"{description}\n" if description else ""))
        else:
            self._terminal.print(f"Error: {message}{where}", style="bold red")
            if description:
                self._terminal.print(description, style="dim")

    def beside(self, data: ResultData) -> None:
        """What a program leaves behind beside its result."""
        for what, value in (("Custom data", data.custom_data), ("Static data", data.static_data)):
            if isinstance(value, msgspec.Raw):
                text = f"{what}: {bytes(memoryview(value)).decode()}"
                if self._terminal is None:
                    sys.stderr.write(f"{text}\n")
                else:
                    self._terminal.print(text, style="dim")

    def result(self, data: ResultData, *, seconds: float) -> None:
        """The result: pretty on a terminal, one line of JSON in a pipe."""
        text = bytes(memoryview(data.result)).decode() if isinstance(data.result, msgspec.Raw) else "null"
        if not self._pretty:
            # bytes: the result is JSON in UTF-8, whatever the locale
            sys.stdout.buffer.write(text.encode() + b"\n")
            sys.stdout.flush()
            return
        from rich.console import Console

        out = Console()
        if len(text) <= _COLOURED_AT_MOST:
            out.print_json(text)
        else:
            sys.stdout.write(msgspec.json.format(text, indent=2) + "\n")
        value = msgspec.json.decode(text)
        count = f"{len(value)} item{'' if len(value) == 1 else 's'}, " if isinstance(value, list) else ""
        out.print(f"{count}{seconds * 1000:.0f} ms with start-up", style="dim", highlight=False)
