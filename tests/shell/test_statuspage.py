"""Who may look at the status page, what a browser may do with it, and who follows its events."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

import trio_runner
from tests.shell.shell_kit import FakeExecutor, FakePool, config_for, our_records, registered, scripted_broker
from tests.shell.test_health import READY, ask, free_port, get
from tests.shell.test_status import World, over
from trio_runner import statuspage
from trio_runner.config import HealthConfig
from trio_runner.counters import Counters
from trio_runner.health import serve_health
from trio_runner.http import Request
from trio_runner.status import Snapshot
from trio_runner.statuspage import StatusPage, page, refusal
from trio_runner.supervisor import Runner

pytestmark = pytest.mark.e2e

BROWSER = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n"


@contextlib.asynccontextmanager
async def serving(snapshot: Callable[[float], Snapshot] | None = None) -> AsyncIterator[tuple[int, StatusPage]]:
    shown = StatusPage(snapshot or World().board.snapshot)
    async with trio.open_nursery() as nursery:
        with our_records() as records:
            config = HealthConfig(host="127.0.0.1", port=0, status_page=True)
            await nursery.start(serve_health, config, lambda: READY, Counters(), shown.answer)
            (line,) = records.lines
        yield int(line.rpartition(" ")[2]), shown
        nursery.cancel_scope.cancel()


async def local(port: int, path: str, more: str = "", method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """An answer to a client on this machine: status, headers, body."""
    head, body = await ask(port, f"{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\n{more}\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


class Counted:
    """Snapshots, and how many were made."""

    def __init__(self) -> None:
        self.made = 0
        self._world = World()

    def __call__(self, time_of_day: float) -> Snapshot:
        self.made += 1
        return self._world.board.snapshot(time_of_day)


class Following:
    """A client of the events."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.head = b""
        self._read = b""

    async def until(self, mark: bytes) -> bytes:
        with trio.fail_after(20):
            while mark not in self._read:
                received = await self.stream.receive_some()
                assert received, self._read
                self._read += received
        before, _, self._read = self._read.partition(mark)
        return before

    async def next(self) -> Snapshot:
        event = await self.until(b"\n\n")
        assert event.startswith(b"data: ")
        return msgspec.json.decode(event[6:], type=Snapshot)


@contextlib.asynccontextmanager
async def following(port: int) -> AsyncIterator[Following]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        client = Following(stream)
        await stream.send_all(b"GET /status/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n")
        client.head = await client.until(b"\r\n\r\n")
        yield client


# What is answered


async def test_the_page_the_snapshot_and_the_events_are_there_and_the_rest_is_as_before() -> None:
    async with serving() as (port, _):
        status, headers, body = await local(port, "/")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert body == page()[0]
        status, headers, body = await local(port, "/status.json")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert msgspec.json.decode(body, type=Snapshot).runner == "host, process 7"
        assert await get(port, "/healthz") == (200, b"OK")
        assert (await get(port, "/readyz"))[0] == 200
        assert await get(port, "/status") == (200, b"OK")


async def test_a_head_request_has_no_body_and_other_methods_are_refused() -> None:
    async with serving() as (port, shown):
        for path in ("/", "/status.json", "/status/events"):
            status, _, body = await local(port, path, method="HEAD")
            assert (status, body) == (200, b"")
            assert (await local(port, path, method="POST"))[0] == 405
        assert shown.listeners == 0


async def test_nothing_is_kept_sniffed_framed_or_loaded_from_elsewhere() -> None:
    async with serving() as (port, _):
        for path in ("/", "/status.json"):
            _, headers, _ = await local(port, path)
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
        policy = (await local(port, "/"))[1]["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert len(re.findall(r"(script|style)-src 'sha256-[a-z0-9+/]{43}='(;|$)", policy)) == 2


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_nothing_but_itself_and_makes_no_markup_of_texts() -> None:
    text = page()[0].decode()
    tags = Tags()
    tags.feed(text)
    for tag, attributes in tags.found:
        assert "src" not in attributes, tag
        assert "style" not in attributes, "the policy forbids it"
        assert not [name for name in attributes if name.startswith("on")], "the policy forbids it"
        assert (attributes.get("href") or "data:").startswith(("data:", "status.json", "metrics", "readyz"))
    for markup in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser", "@import"):
        assert markup not in text


def test_the_page_is_part_of_the_package() -> None:
    assert (Path(trio_runner.__file__).parent / "status.html").is_file()


# Who may look


def a_request(
    path: str = "/status.json", *, peer: str = "127.0.0.1", here: str = "127.0.0.1", **headers: str
) -> Request:
    given = {"host": "localhost:5681", **{name.replace("_", "-"): value for name, value in headers.items()}}
    encoded = tuple((name.encode(), value.encode()) for name, value in given.items())
    return Request("GET", path, encoded, b"", b"", peer, here)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:5681",
        "127.0.0.1:5681",
        "127.8.9.1",
        "[::1]:5681",
        "[::1]",
        "a.localhost:1",
        "localhost.",
    ],
)
@pytest.mark.parametrize("peer", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_this_machine_may_look_under_its_local_names(host: str, peer: str) -> None:
    assert refusal(a_request(peer=peer, host=host), frozenset()) is None


def test_this_machine_may_also_come_by_an_outer_address() -> None:
    assert refusal(a_request(peer="10.1.2.3", here="10.1.2.3"), frozenset()) is None


@pytest.mark.parametrize("peer", ["10.1.2.3", "fe80::1", "::ffff:10.1.2.3", "", "nonsense", "172.17.0.1"])
def test_no_other_machine_may_look_whatever_it_says(peer: str) -> None:
    refused = refusal(a_request(peer=peer, here="10.0.0.1", host="localhost"), frozenset())
    assert refused is not None
    assert "N8N_RUNNERS_STATUS_PAGE_HOSTS" in refused


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:5681", "", "[evil]", "10.0.0.1", "0.0.0.0"],
)
def test_a_name_that_was_made_to_point_here_is_refused(host: str) -> None:
    assert refusal(a_request(host=host), frozenset()) is not None


@pytest.mark.parametrize("header", ["x_forwarded_for", "forwarded", "via", "x_real_ip"])
def test_a_proxy_on_this_machine_is_not_this_machine(header: str) -> None:
    assert refusal(a_request(**{header: "10.1.2.3"}), frozenset()) is not None
    assert refusal(a_request(host="runner.example", **{header: "10.1.2.3"}), frozenset({"runner.example"})) is None


def test_names_that_are_given_let_others_look_under_these_and_no_other() -> None:
    hosts = frozenset({"runner.example", "10.0.0.1"})
    for host in ("runner.example:5681", "Runner.Example", "10.0.0.1:5681"):
        assert refusal(a_request(peer="10.1.2.3", host=host), hosts) is None
    assert refusal(a_request(peer="10.1.2.3", host="evil.example"), hosts) is not None
    assert refusal(a_request(peer="10.1.2.3", host="localhost"), hosts) is not None
    assert refusal(a_request(), hosts) is None, "this machine still may"
    assert refusal(a_request(peer="10.1.2.3", host="anything"), frozenset({"*"})) is None


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_web_site_gets_no_data_but_may_link_to_the_page(site: str) -> None:
    for hosts in (frozenset[str](), frozenset({"*"})):
        assert refusal(a_request(sec_fetch_site=site), hosts) is not None
        assert refusal(a_request("/", sec_fetch_site=site), hosts) is None
        assert refusal(a_request(sec_fetch_site="same-origin"), hosts) is None


async def test_who_may_not_look_is_told_why_and_a_probe_of_the_root_is_content() -> None:
    async with serving() as (port, _):
        head, body = await ask(port, "GET /status.json HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert b" 403 " in head
        assert b"'evil.example'" in body
        head, body = await ask(port, f"GET / HTTP/1.1\r\nHost: evil.example\r\n{BROWSER}\r\n")
        assert b" 403 " in head
        assert b"<" not in body
        head, body = await ask(port, "GET / HTTP/1.1\r\nHost: evil.example\r\nAccept: */*\r\n\r\n")
        assert (head.split()[1], body) == (b"200", b"OK"), "as without the page"


# Events


async def test_events_come_at_once_and_then_each_second(jump_clock: MockClock) -> None:
    world = World()
    async with serving(world.board.snapshot) as (port, _), following(port) as client:
        assert b"Content-Type: text/event-stream" in client.head
        assert b"Content-Length" not in client.head
        assert (await client.next()).done == 0
        started = trio.current_time()
        world.ended(over(1001.0))
        assert (await client.next()).done == 1
        await client.next()
        await client.next()
        assert 2.0 < trio.current_time() - started <= 3.0


async def test_all_who_look_share_one_snapshot(jump_clock: MockClock) -> None:
    counted = Counted()
    async with serving(counted) as (port, _):
        async with following(port) as one, following(port) as two, following(port) as three:
            for client in (one, two, three):
                await client.next()
            before = counted.made
            for _ in range(5):
                for client in (one, two, three):
                    await client.next()
        assert counted.made - before == 5


async def test_nothing_is_made_when_nobody_looks(jump_clock: MockClock) -> None:
    counted = Counted()
    async with serving(counted) as (port, shown):
        async with following(port) as client:
            await client.next()
        await trio.sleep(0.1)
        assert shown.listeners == 0, "its place is free as soon as it is gone"
        before = counted.made
        await trio.sleep(100)
        assert counted.made == before


async def test_only_so_many_may_follow_and_a_place_that_is_left_is_free_again(jump_clock: MockClock) -> None:
    async with serving() as (port, shown), contextlib.AsyncExitStack() as clients:
        for _ in range(statuspage.LISTENERS - 1):
            await (await clients.enter_async_context(following(port))).next()
        async with following(port) as last:
            await last.next()
            status, headers, _ = await local(port, "/status/events")
            assert (status, headers["retry-after"]) == (503, "5")
            assert (await local(port, "/status.json"))[0] == 200
            assert await get(port, "/healthz") == (200, b"OK")
        await trio.sleep(0.1)
        assert shown.listeners == statuspage.LISTENERS - 1
        async with following(port) as another:
            await another.next()


async def test_one_that_does_not_read_is_let_go_and_disturbs_nobody(jump_clock: MockClock) -> None:
    world = World()
    for number in range(50):  # so that a socket is full soon
        world.ended(over(1001.0, "error", reason=f"{number} {'x' * 300}"))
    async with serving(world.board.snapshot) as (port, shown), following(port):
        with trio.fail_after(3600):
            while shown.listeners:  # noqa: ASYNC110 - what is waited for is that nothing comes
                await trio.sleep(10)
        async with following(port) as reader:
            await reader.next()


# In a runner


async def test_a_runner_shows_its_tasks_and_failures(jump_clock: MockClock) -> None:
    port = free_port()
    async with scripted_broker() as broker:
        config = config_for(
            broker.port,
            N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED="true",
            N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT=str(port),
            N8N_RUNNERS_STATUS_PAGE="true",
            N8N_RUNNERS_STATUS_PAGE_HOSTS="runner.example",
        )
        runner = Runner(config, pool=FakePool(), executor=FakeExecutor())  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: runner.run(handle_signals=False))
            connection = await registered(broker)
            await connection.start("t1", "hang")
            await connection.start("t2", "fail")
            await connection.until("runner:taskerror")
            await connection.offer()
            async with following(port) as client:
                snapshot = await client.next()
                assert snapshot.ready
                assert [(task.task_id, task.ended) for task in snapshot.running] == [("t1", False)]
                assert [(task.task_id, task.outcome) for task in snapshot.failures] == [("t2", "error")]
                await connection.send("broker:taskcancel", taskId="t1", reason="Stopped by Ada")
                snapshot = await client.next()
                assert snapshot.running == []
                assert snapshot.failures[0].reason == "Stopped by Ada"
                assert snapshot.failed == {"error": 1, "cancelled": 1}
            for host, status in (("runner.example", b"200"), ("evil.example", b"403")):
                head, _ = await ask(port, f"GET /status.json HTTP/1.1\r\nHost: {host}\r\n\r\n")
                assert head.split()[1] == status
            nursery.cancel_scope.cancel()


async def test_without_the_variable_the_root_is_ok_and_nobody_remembers_anything(jump_clock: MockClock) -> None:
    port = free_port()
    async with scripted_broker() as broker:
        config = config_for(
            broker.port,
            N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED="true",
            N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT=str(port),
        )
        runner = Runner(config, pool=FakePool(), executor=FakeExecutor())  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: runner.run(handle_signals=False))
            await registered(broker)
            for path in ("/", "/status.json", "/status/events"):
                status, _, body = await local(port, path, BROWSER)
                assert (status, body) == (200, b"OK")
            assert runner.counters.task_ended is None
            nursery.cancel_scope.cancel()
