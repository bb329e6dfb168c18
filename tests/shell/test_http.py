"""The little HTTP of ours against clients and servers that do not behave."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
import trustme
from trio.testing import MockClock

from tests.shell.shell_kit import Records, mute, read_all, read_head, tcp_server
from trio_runner.config import BrokerAddress
from trio_runner.errors import BrokerUnreachableError, StartError
from trio_runner.http import (
    LONGEST_RETRY_AFTER,
    MAX_BODY,
    MAX_CONNECTIONS,
    REQUEST_LIMIT,
    Request,
    Response,
    post_json,
    retry_after,
    serve,
    trust,
)

pytestmark = pytest.mark.e2e


@contextlib.asynccontextmanager
async def server(requests: list[Request] | None = None) -> AsyncIterator[int]:
    """A server that says hello. Gives its port; fails the test when it dies."""

    async def hello(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        if requests is not None:
            requests.append(request)
        return Response(200, b"hello")

    async with trio.open_nursery() as nursery:
        port = await nursery.start(partial(serve, hello, "127.0.0.1", 0))
        yield port
        assert await ask(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == HELLO, "the server must have survived"
        nursery.cancel_scope.cancel()


HELLO = (
    b"HTTP/1.1 200 \r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
)


async def ask(port: int, data: bytes) -> bytes:
    """Sends bytes and gives all that comes back until the server closes."""
    with trio.fail_after(30):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(data)
            return await read_all(stream)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


# The server


async def test_a_request_is_answered_and_the_connection_closed() -> None:
    async with server() as port:
        assert await ask(port, b"GET /any?thing HTTP/1.1\r\nHost: x\r\n\r\n") == HELLO


async def test_a_request_in_single_bytes_is_read_like_any_other() -> None:
    requests: list[Request] = []
    async with server(requests) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            with trio.fail_after(5):
                for byte in b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nX-Y: z\r\nContent-Length: 4\r\n\r\nbody":
                    await stream.send_all(bytes([byte]))
                assert await read_all(stream) == HELLO
        (request,) = requests
        assert (request.method, request.target, request.path, request.body) == ("POST", "/a?b=c", "/a", b"body")
        assert request.header("x-y") == "z"
        assert request.header("absent") is None


async def test_a_head_request_gets_the_head_only() -> None:
    async with server() as port:
        assert await ask(port, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n") == HELLO.removesuffix(b"hello")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"GET / FTP/1.1\r\n\r\n",
        b"\x00" * 100,
    ],
    ids=["tls", "no target", "blank lines", "another protocol", "zeros"],
)
async def test_garbage_gets_an_error_or_nothing_and_hurts_nobody(garbage: bytes) -> None:
    async with server() as port:
        answer = await ask(port, garbage + b"\r\n\r\n")
        assert answer == b"" or status(answer) == 400


async def test_garbage_behind_a_request_is_not_looked_at() -> None:
    requests: list[Request] = []
    async with server(requests) as port:
        assert await ask(port, b"GET /one HTTP/1.1\r\nHost: x\r\n\r\n" + b"\xff\x00 nonsense\r\n" * 50) == HELLO
        assert [request.target for request in requests] == ["/one"]


async def test_a_second_request_on_the_same_connection_is_not_served() -> None:
    requests: list[Request] = []
    async with server(requests) as port:
        one = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"
        assert await ask(port, one % 1 + one % 2) == HELLO
        assert [request.target for request in requests] == ["/1"]


async def test_a_huge_header_is_refused_before_it_is_all_there() -> None:
    async with server() as port:
        assert status(await ask(port, b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000)) == 431


async def test_endless_headers_are_refused() -> None:
    async with server() as port:
        assert status(await ask(port, b"GET / HTTP/1.1\r\n" + b"X-Y: z\r\n" * 10_000)) == 431


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nf4240\r\n"]
)
async def test_a_huge_body_is_refused(framing: bytes) -> None:
    async with server() as port:
        answer = await ask(port, b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"x" * (MAX_BODY + 4096))
        assert status(answer) == 413


async def test_a_body_as_large_as_allowed_is_taken() -> None:
    requests: list[Request] = []
    async with server(requests) as port:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % MAX_BODY
        assert await ask(port, head + b"x" * MAX_BODY) == HELLO
        assert len(requests[0].body) == MAX_BODY


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhell"])
async def test_a_client_that_stops_in_the_middle_is_cut_after_the_limit(jump_clock: MockClock, begun: bytes) -> None:
    async with server() as port:
        started = trio.current_time()
        assert await ask(port, begun) == b""
        assert trio.current_time() - started == pytest.approx(REQUEST_LIMIT, abs=0.5)


async def test_a_client_that_drips_is_cut_after_the_limit_all_the_same(jump_clock: MockClock) -> None:
    async with server() as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        started = trio.current_time()
        with trio.fail_after(60), contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"X")
                await trio.sleep(1)
        assert REQUEST_LIMIT <= trio.current_time() - started <= REQUEST_LIMIT + 3


async def test_a_client_that_hangs_up_in_the_middle_hurts_nobody() -> None:
    async with server() as port:
        for begun in (b"", b"GET", b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(begun)
            await stream.aclose()


async def test_clients_beyond_the_limit_are_turned_away_until_others_are_done() -> None:
    async with server() as port:
        waiting = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await ask(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        for stream in waiting:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.05)


async def test_a_port_that_is_taken_is_named() -> None:
    async with server() as port:
        with pytest.raises(StartError) as caught:
            await serve(_never, "127.0.0.1", port)
        assert str(caught.value) == f"Port {port} is already in use"


async def test_a_host_that_does_not_exist_is_no_port_in_use() -> None:
    with pytest.raises(StartError, match=r"^Port 0 is not available on 256\.0\.0\.1: [^\[]+$") as caught:
        await serve(_never, "256.0.0.1", 0)
    assert "in use" not in str(caught.value)


async def test_a_handler_that_fails_costs_one_answer(records: Records) -> None:
    async def fail(request: Request) -> Response:
        raise ZeroDivisionError

    async with trio.open_nursery() as nursery:
        port = await nursery.start(partial(serve, fail, "127.0.0.1", 0))
        for _ in range(2):
            assert status(await ask(port, b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")) == 500
        nursery.cancel_scope.cancel()
    assert records.lines == ["GET /x could not be answered"] * 2


async def _never(request: Request) -> Response:
    raise AssertionError


# The client


def broker_at(host: str, port: int, *, secure: bool = False) -> BrokerAddress:
    return BrokerAddress(scheme="https" if secure else "http", host=host, port=port)


async def post(port: int, *, secure: bool = False, limit: float = 10.0) -> Response:
    with trio.fail_after(60):
        return await post_json(
            broker_at("127.0.0.1", port, secure=secure), "/runners/auth", b'{"token":"t"}', limit=limit
        )


async def post_to(answer: bytes) -> Response | str:
    """What the client makes of a server that says these bytes and closes: an answer, or what is wrong with it."""

    async def say(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await stream.send_all(answer)

    async with tcp_server(say) as port:
        try:
            return await post(port)
        except BrokerUnreachableError as error:
            return str(error).removeprefix(f"127.0.0.1:{port} ")


async def test_a_post_is_one_request_that_asks_to_close() -> None:
    heard: list[bytes] = []

    async def listen(stream: trio.SocketStream) -> None:
        heard.append(await read_head(stream))
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    async with tcp_server(listen) as port:
        assert await post(port) == Response(200, b"{}")
    head, _, body = heard[0].partition(b"\r\n\r\n")
    assert body == b'{"token":"t"}'
    assert head.decode().split("\r\n") == [
        "POST /runners/auth HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Content-Type: application/json",
        "Content-Length: 13",
        "Connection: close",
    ]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            Response(200, b"abcde"),
        ),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", Response(403, b"")),
        (b"HTTP/1.1 500 Oops\r\n\r\n<html>no length</html>", Response(500, b"<html>no length</html>")),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n", Response(429, b"")),
        (b"HTTP/1.0 200 OK\r\n\r\nold", Response(200, b"old")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}trailing garbage", Response(200, b"{}")),
    ],
    ids=["chunked", "4xx without length", "5xx without length", "after a 100", "HTTP/1.0", "garbage behind"],
)
async def test_an_answer_is_understood_however_it_is_framed(answer: bytes, expected: Response) -> None:
    assert await post_to(answer) == expected


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "does not speak HTTP: "),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak HTTP: "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "does not speak HTTP: "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "does not speak HTTP: "),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000, "does not speak HTTP: the answer is too large"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "does not speak HTTP: "),
    ],
    ids=["nothing", "another protocol", "cut short", "bad chunk", "endless body", "endless header"],
)
async def test_an_answer_that_is_none_is_said_in_words(answer: bytes, words: str) -> None:
    found = await post_to(answer)
    assert isinstance(found, str)
    assert found.startswith(words)


async def test_a_server_that_never_answers_is_given_up_on_after_the_limit(jump_clock: MockClock) -> None:
    async with tcp_server(mute) as port:
        started = trio.current_time()
        with pytest.raises(BrokerUnreachableError) as caught:
            await post(port, limit=3.5)
        assert str(caught.value) == f"127.0.0.1:{port} did not answer within 3.5s"
        assert trio.current_time() - started == pytest.approx(3.5, abs=0.2)


async def test_a_server_that_drips_its_answer_is_given_up_on_after_the_limit(jump_clock: MockClock) -> None:
    async def drip(stream: trio.SocketStream) -> None:
        await read_head(stream)
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000:
            await stream.send_all(bytes([byte]))
            await trio.sleep(1)

    async with tcp_server(drip) as port:
        with pytest.raises(BrokerUnreachableError, match=r"did not answer within 10s"):
            await post(port)


async def test_a_refused_connection_says_so() -> None:
    async with tcp_server(mute) as port:
        pass
    with pytest.raises(BrokerUnreachableError) as caught:
        await post(port)
    assert str(caught.value) == f"127.0.0.1:{port}: Connection refused"


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
async def test_a_name_that_no_resolver_takes_is_unreachable_and_no_crash(host: str) -> None:
    with pytest.raises(BrokerUnreachableError) as caught:
        await post_json(broker_at(host, 5679), "/", b"{}")
    assert str(caught.value) == f"{host}:5679: that is no host name"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"5", 5),
        (b" 5 ", 5),
        (b"0", 0),
        (b"301", LONGEST_RETRY_AFTER),
        (b"9" * 5000, LONGEST_RETRY_AFTER),
        (b"-5", 0),
        (b"1.5", 0),
        (b"", 0),
        (b"soon", 0),
        (b"\xff\xfe", 0),
        ("\u0665".encode(), 0),
        (b"Wed, 21 Oct 2015 07:28:00 GMT", 0),
        (b"Wed, 21 Oct 2999 07:28:00 GMT", LONGEST_RETRY_AFTER),
        (b"Wed, 99 Oct 2999 07:28:00 GMT", 0),
        (b"Wed, 21 Oct 99999 07:28:00 GMT", 0),
    ],
)
def test_a_retry_after_is_a_bounded_number_of_seconds(value: bytes, seconds: float) -> None:
    assert retry_after(value) == seconds


def test_a_retry_after_may_be_a_date() -> None:
    assert 25 < retry_after(formatdate(time.time() + 30, usegmt=True).encode()) <= 31


async def tls_server(stream: trio.SocketStream, certificate: trustme.LeafCert) -> None:
    """Serves one login over TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    with contextlib.suppress(trio.BrokenResourceError):
        head = await secure.receive_some()
        await secure.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" if b"Host: n8n" in head else b"")
        await secure.aclose()


@pytest.mark.parametrize("form", ["path", "text"])
async def test_an_authority_of_one_s_own_is_trusted_and_a_name_is_verified_wherever_it_is(
    form: str, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("n8n")
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    tls = trust(str(path) if form == "path" else path.read_text().strip())
    async with tcp_server(partial(tls_server, certificate=certificate)) as port:
        with trio.fail_after(20):
            broker = broker_at("n8n", port, secure=True)
            there = msgspec.structs.replace(broker, address="127.0.0.1")
            assert await post_json(there, "/", b"{}", tls=tls) == Response(200, b"{}")
            with pytest.raises(BrokerUnreachableError, match=r"issuer certificate\. N8N_RUNNERS_TASK_BROKER_CA can"):
                await post_json(there, "/", b"{}")
            other = msgspec.structs.replace(there, host="another")
            with pytest.raises(BrokerUnreachableError, match=r"for 'another'\. N8N_RUNNERS_TASK_BROKER_URI must"):
                await post_json(other, "/", b"{}", tls=tls)


@pytest.mark.parametrize(
    ("authorities", "words"),
    [
        ("/nowhere/ca.pem", "No such file or directory"),
        ("README.md", "no certificate in PEM form"),
        ("-----BEGIN CERTIFICATE-----\nabc", "no certificate in PEM form"),
        ("-----BEGIN CERTIFICATE-----\u00e9", "no certificate in PEM form"),
    ],
)
def test_authorities_that_cannot_be_used_end_the_start(authorities: str, words: str) -> None:
    with pytest.raises(StartError) as caught:
        trust(authorities)
    assert str(caught.value) == f"N8N_RUNNERS_TASK_BROKER_CA cannot be used: {words}"


async def test_tls_to_a_server_without_it_says_that_tls_is_the_trouble() -> None:
    async def plain(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with tcp_server(plain) as port:
        with pytest.raises(BrokerUnreachableError) as caught:
            await post(port, secure=True)
    assert str(caught.value).startswith(f"127.0.0.1:{port}: TLS failed: ")
    assert "n8n's broker itself has no TLS" in str(caught.value)
    assert isinstance(caught.value.__cause__, trio.BrokenResourceError)
    assert isinstance(caught.value.__cause__.__cause__, ssl.SSLError)


async def test_tls_to_a_server_that_hangs_up_is_unreachable() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)

    async with tcp_server(hang_up) as port:
        with pytest.raises(BrokerUnreachableError, match=f"127.0.0.1:{port}"):
            await post(port, secure=True)
