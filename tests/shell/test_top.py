"""The status in a terminal: what a frame shows, where it comes from, and why there may be none."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from io import StringIO

import pytest
import trio
from msgspec.structs import replace
from rich.console import Console
from trio.testing import MockClock

from tests.shell.shell_kit import mute, read_all, read_head, tcp_server
from tests.shell.test_health import free_port
from tests.shell.test_health import serving as health_only
from tests.shell.test_status import BROKER, READY, World, a_task, over
from tests.shell.test_statuspage import serving
from trio_runner import topview
from trio_runner.config import HealthConfig
from trio_runner.counters import Counters
from trio_runner.health import serve_health
from trio_runner.sandbox.records import Layer
from trio_runner.status import Snapshot
from trio_runner.statuspage import StatusPage
from trio_runner.top import NothingToShowError, Source


def busy(*, tasks: int = 30, failures: int = 30) -> World:
    world = World()
    world.running = [a_task(workflow=f"Flow {number}", accepted_at=1000 - number) for number in range(tasks)]
    for number in range(failures):
        world.ended(over(1001.0 + number / 10, "error", reason=f"failed in its own way {number}"))
    world.state = replace(READY, tasks=min(tasks, 5))
    return world


def drawn(snapshot: Snapshot, *, width: int = 100, height: int | None = None, notice: str = "") -> str:
    console = Console(file=StringIO(), width=width, color_system=None, highlight=False)
    console.print(topview.frame(snapshot, width=width, height=height, notice=notice))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


# A frame


def test_a_frame_tells_state_brokers_tasks_failures_and_sandbox() -> None:
    world = busy(tasks=2, failures=1)
    lost = replace(BROKER, broker="other:5679", connected=False, registered=False, reconnects=3, last_error="refused")
    world.state = replace(world.state, brokers=[BROKER, lost])
    world.layers = [Layer("seccomp", "active"), Layer("uid", "unavailable", "not root")]
    frame = drawn(world.snapshot())
    for part in (
        *("trio_runner  Ready ", "1.2.3 on host, process 7", "2 of 5 taken", "n8n:5679", "● registered"),
        *("● not connected (3 reconnects)  refused", "strict, 1 of 2 layers; missing: uid"),
        *("Flow 1 › Code", "waits for a worker", "error", "failed in its own way 0"),
    ):
        assert part in frame


def test_an_idle_runner_and_one_without_a_sandbox_say_so() -> None:
    frame = drawn(World(mode="off").snapshot())
    for part in ("0 of 5 taken", "0 tasks/s", "Running tasks: 0", "Recent failures: none", "off: programs run with"):
        assert part in frame


def test_a_runner_that_is_not_ready_says_why() -> None:
    world = World()
    world.state = replace(READY, ready=False, workers_alive=False)
    frame = drawn(world.snapshot())
    assert "Not ready: there are no workers" in frame
    assert "none can be made, see the log" in frame
    assert "`trio-runner doctor` tries it." in frame


def test_on_a_narrow_screen_nothing_that_matters_is_cut() -> None:
    world = busy(tasks=0, failures=0)
    for outcome, number in (("error", 47), ("limit", 10), ("lost", 3)):
        for _ in range(number):
            world.ended(over(1000.0, outcome))
    lost = replace(BROKER, broker=f"worker-{'x' * 60}:5679", connected=False, registered=False, reconnects=12)
    lost = replace(lost, last_error="Name or service not known")
    world.state = replace(READY, brokers=[lost, replace(BROKER, registered=False, connected=False)])
    snapshot = world.snapshot()
    frame = drawn(snapshot, width=60)
    for part in (
        *(
            "reach? `trio-runner doctor` tries it.\n",
            "slots  ",
            "throughput  ",
            "run time  ",
            "finished  ",
            "5 idle, 1 busy, 0 starting; a task waits 1.0 ms",
        ),
        *("● not connected (12 reconnects)", "Name or service not known", "n8n:5679  ● not connected"),
    ):
        assert part in frame, frame
    assert len(drawn(snapshot, width=60, height=20).splitlines()) <= 20


@pytest.mark.parametrize("notice", ["", "gone"])
@pytest.mark.parametrize("height", [20, 37])
@pytest.mark.parametrize("width", [75, 200])
@pytest.mark.parametrize(("tasks", "failures"), [(0, 0), (30, 0), (0, 30), (30, 30), (1, 30), (30, 1)])
def test_a_frame_fits_the_screen_and_uses_it(width: int, height: int, tasks: int, failures: int, notice: str) -> None:
    snapshot = busy(tasks=tasks, failures=failures).snapshot()
    lines = drawn(snapshot, width=width, height=height, notice=notice).splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    shown = sum("Flow " in line or "failed in" in line for line in lines)
    assert shown >= min(tasks + failures, height - topview._OTHER_LINES - 2 - bool(snapshot.advice))


@pytest.mark.parametrize("nasty", ["[red]x[/red]", "[/]", "[link=http://evil]x[/link]", "\x1b[2Jx", "a\nb", "\u202ex"])
def test_no_text_is_markup_and_none_moves_the_cursor_whoever_answered(nasty: str) -> None:
    world = busy(tasks=1, failures=1)
    world.state = replace(world.state, brokers=[BROKER])
    plain = world.snapshot()
    evil = replace(
        plain,
        runner=nasty,
        version=nasty,
        state=nasty,
        sandbox_mode=nasty,
        brokers=[replace(BROKER, broker=nasty, last_error=nasty)],
        running=[replace(plain.running[0], workflow=nasty, node=nasty)],
        failures=[replace(plain.failures[0], workflow=nasty, node=nasty, reason=nasty, outcome=nasty)],
        failed={nasty: 1},
        layers=[replace(plain.layers[0], name=nasty, status="unavailable")],
    )
    frame = drawn(evil, width=250)
    assert len(frame.splitlines()) == len(drawn(plain, width=250).splitlines())
    assert all(character.isprintable() or character == "\n" for character in frame)
    if "[" in nasty and nasty.isprintable():
        assert frame.count(nasty) >= 8


def test_a_sparkline_has_the_highest_of_each_group_and_gaps_where_nothing_was() -> None:
    assert topview.sparkline([0, 1, 2, 4, None, 8], 6) == "▁▂▃▅ █"
    assert topview.sparkline([0, 1, 2, 4, None, 8], 3) == "▂▅█"
    assert topview.sparkline([None, None, 5], 1) == "█"
    assert topview.sparkline([0, 0], 2) == "▁▁"
    assert topview.sparkline([], 2) == ""
    assert len(topview.sparkline([1] * 120, 50)) == 40


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.9, "59 s"), (61, "1 min 1 s"), (3700, "1 h 1 min"), (200_000, "2 days 7 h")],
)
def test_times_are_as_exact_as_they_are_short(seconds: float, words: str) -> None:
    assert topview.duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "–"), (0.26, "0.3 ms"), (12.3, "12 ms"), (1234.0, "1.2 s"), (61_000.0, "1 min 1 s")],
)
def test_run_times_are_in_milliseconds_as_long_as_that_says_something(value: float | None, words: str) -> None:
    assert topview.milliseconds(value) == words


# Where it comes from


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("http://127.0.0.1:5681", "http://127.0.0.1:5681"),
        ("localhost:5681", "http://localhost:5681"),
        ("http://runner/status/", "http://runner:80/status"),
        ("https://[::1]", "https://[::1]:443"),
    ],
)
def test_an_address_may_be_written_as_people_do(written: str, url: str) -> None:
    assert Source.at(written).url == url


@pytest.mark.parametrize("written", ["", "http://", "ftp://x", "http://x:y", "http://x:99999", "http://[::1"])
def test_what_is_no_address_is_said_to_be_none(written: str) -> None:
    with pytest.raises(ValueError, match="is no address of a runner"):
        Source.at(written)


async def test_one_snapshot_or_one_each_second(jump_clock: MockClock) -> None:
    world = busy()
    async with serving(world.board.snapshot) as (port, _):
        source = Source.at(f"127.0.0.1:{port}")
        assert len((await source.snapshot()).running) == 30
        seen = []
        with trio.fail_after(20):
            async with contextlib.aclosing(source.snapshots()) as snapshots:
                async for snapshot in snapshots:
                    seen.append(trio.current_time())
                    assert len(snapshot.failures) == 30
                    if len(seen) == 4:
                        break
        assert 2.0 < seen[-1] - seen[0] <= 3.0


async def failing(port: int) -> str:
    """Why there is nothing to show; the same, whether one asks once or follows."""
    texts = set()
    source = Source.at(f"127.0.0.1:{port}")
    with trio.fail_after(60):
        with pytest.raises(NothingToShowError) as caught:
            await source.snapshot()
        texts.add(str(caught.value))
        with pytest.raises(NothingToShowError) as caught:
            await anext(source.snapshots())
        texts.add(str(caught.value))
    assert len(texts) == 1, texts
    return texts.pop()


async def test_where_nothing_listens_the_variables_are_named(jump_clock: MockClock) -> None:
    text = await failing(free_port())
    assert "Connection refused" in text
    assert "N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED=true" in text
    assert "N8N_RUNNERS_STATUS_PAGE=true" in text


async def test_a_runner_without_the_page_is_told_from_none(jump_clock: MockClock) -> None:
    async with health_only() as port:
        assert "Start it with N8N_RUNNERS_STATUS_PAGE=true" in await failing(port)


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """A server that says this to everybody, and no more."""

    async def serve_one(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await stream.send_all(answer)
        await stream.send_eof()
        await read_all(stream)

    async with tcp_server(serve_one) as port:
        yield port


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 403 \r\n\r\nOnly for\x1b[2J others.\n", r"HTTP 403\. Only for\\x1b\[2J others\."),
        (b"HTTP/1.1 404 \r\nContent-Length: 4\r\n\r\nnope", "HTTP 404"),
        (b"HTTP/1.1 200 \r\nContent-Type: text/html\r\n\r\n<html>", "another program's address"),
        (b"HTTP/1.1 200 \r\nContent-Type: application/json\r\n\r\ndata: {}\n\n", "another version"),
        (b"220 mail.example ESMTP\r\n", "does not speak HTTP"),
        (b"", "does not speak HTTP"),
        (b"HTTP/1.1 200 \r\nContent-Type: text/event-stream\r\n\r\n" + b"x" * 2_200_000, "no end"),
    ],
    ids=["refusal", "not found", "web site", "another version", "mail", "nothing", "endless"],
)
async def test_what_else_may_answer_is_told_from_a_runner(answer: bytes, reason: str, jump_clock: MockClock) -> None:
    async with answering(answer) as port:
        source = Source.at(f"127.0.0.1:{port}")
        with trio.fail_after(60):
            with pytest.raises(NothingToShowError, match=reason):
                await source.snapshot()
            with pytest.raises(NothingToShowError, match=reason):
                await anext(source.snapshots())


async def test_one_that_says_nothing_is_not_waited_for(jump_clock: MockClock) -> None:
    async with tcp_server(mute) as port:
        assert "does not say anything" in await failing(port)


# On a terminal


@contextlib.contextmanager
def on_a_terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`trio-runner top` on a terminal of 100 by 30: the process and our end of it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "trio_runner", "top", *arguments]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True)
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


async def shown(ours: int, part: str) -> None:
    """Waits until the terminal is told this."""
    text = b""
    with trio.fail_after(30):
        while part.encode() not in text:
            await trio.lowlevel.wait_readable(ours)
            text += os.read(ours, 65_536)


async def ended(process: subprocess.Popen[bytes], ours: int) -> int:
    await shown(ours, "\x1b[?1049l")  # its screen is left, what was there before is back
    with trio.fail_after(30):
        return await trio.to_thread.run_sync(process.wait)


@pytest.mark.e2e
async def test_it_follows_a_runner_that_goes_and_comes_back_until_q() -> None:
    world, port = busy(), free_port()
    page = StatusPage(world.board.snapshot)

    async def serve(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            config = HealthConfig(host="127.0.0.1", port=port)
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_health, config, lambda: READY, Counters(), page.answer)
                task_status.started(scope)

    async with trio.open_nursery() as nursery:
        runner = await nursery.start(serve)
        with on_a_terminal(f"127.0.0.1:{port}") as (process, ours):
            await shown(ours, "failed in its own way")
            runner.cancel()
            await shown(ours, "The runner does not answer")
            runner = await nursery.start(serve)
            world.state = replace(READY, tasks=0)
            await shown(ours, "0 of 5 taken")
            os.write(ours, b"q")
            assert await ended(process, ours) == 0
        runner.cancel()


@pytest.mark.e2e
async def test_ctrl_c_ends_it_without_a_trace() -> None:
    async with serving(busy().board.snapshot) as (port, _):
        with on_a_terminal(f"127.0.0.1:{port}") as (process, ours):
            await shown(ours, "failed in its own way")
            process.send_signal(signal.SIGINT)
            assert await ended(process, ours) == 0


@pytest.mark.e2e
async def test_once_prints_a_frame_for_scripts_and_fails_in_one_line() -> None:
    command = [sys.executable, "-m", "trio_runner", "top", "--once"]
    async with serving(busy().board.snapshot) as (port, _):
        done = await trio.run_process([*command, f"127.0.0.1:{port}"], capture_stdout=True)
        assert b"failed in its own way 29" in done.stdout
        assert b"\x1b" not in done.stdout
    environment = {**os.environ, "N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT": str(port)}
    failed = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, env=environment)
    assert (failed.returncode, failed.stdout) == (1, b"")
    assert failed.stderr.startswith(b"Error: Nothing answers at http://127.0.0.1:%d " % port)
    assert failed.stderr.count(b"\n") == 1
