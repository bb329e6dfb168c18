"""n8n's helpers without n8n: HTTP over loopback, binary data in memory, the answers to data requests."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import trio
from msgspec import Raw

from tests.shell.shell_kit import tcp_server
from trio_runner.http import Request, Response, serve
from trio_runner.localhelpers import HelperFailed, carry_out
from trio_runner.localhttp import translated
from trio_runner.localworkflow import LocalWorkflow

FILE = {"data": base64.b64encode(b"hello").decode(), "mimeType": "text/plain", "fileName": "a.txt"}
ITEMS = json.dumps([{"json": {}}, {"json": {}, "binary": {"data": FILE, "elsewhere": {"id": "filesystem:7"}}}]).encode()


async def call(name: str, *params: object) -> Any:
    with trio.fail_after(20):
        result = await carry_out(f"helpers.{name}", Raw(msgspec.json.encode(params)), LocalWorkflow(items=ITEMS))
    return msgspec.json.decode(result)


@contextlib.asynccontextmanager
async def http(answers: dict[str, Response] | None = None) -> AsyncIterator[tuple[str, list[Request]]]:
    """A server with these answers by path; anything else is told what it asked for."""
    asked: list[Request] = []

    async def answer(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        asked.append(request)
        if answers and request.path in answers:
            return answers[request.path]
        told = {"method": request.method, "target": request.target, "body": request.body.decode()}
        return Response(200, msgspec.json.encode(told), "application/json")

    async with trio.open_nursery() as nursery:
        port = await nursery.start(serve, answer, "127.0.0.1", 0)
        yield f"http://127.0.0.1:{port}", asked
        nursery.cancel_scope.cancel()


async def test_a_request_gives_its_body_parsed_if_it_is_json_and_else_as_text() -> None:
    async with http(
        {"/text": Response(200, b"plain", "text/plain"), "/odd": Response(200, b'{"a":1}', "text/html")}
    ) as (
        url,
        _,
    ):
        assert await call("httpRequest", {"url": f"{url}/x"}) == {"method": "GET", "target": "/x", "body": ""}
        assert await call("httpRequest", {"url": f"{url}/text"}) == "plain"
        assert await call("httpRequest", {"url": f"{url}/odd"}) == {"a": 1}
        assert await call("httpRequest", {"url": f"{url}/text", "encoding": "arraybuffer"}) == {
            "type": "Buffer",
            "data": list(b"plain"),
        }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"qs": {"a": 1, "b": ["x", "y"]}}, "/?a=1&b%5B%5D=x&b%5B%5D=y"),
        ({"qs": {"b": ["x", "y"]}, "arrayFormat": "repeat"}, "/?b=x&b=y"),
        ({"qs": {"b": ["x", "y"]}, "arrayFormat": "indices"}, "/?b%5B0%5D=x&b%5B1%5D=y"),
        ({"qs": {"b": ["x", "y"]}, "arrayFormat": "comma"}, "/?b=x%2Cy"),
    ],
)
async def test_queries_are_written_as_the_options_say(options: dict[str, Any], expected: str) -> None:
    async with http() as (url, _):
        assert (await call("httpRequest", {"url": f"{url}/", **options}))["target"] == expected


async def test_bodies_headers_and_credentials_are_sent() -> None:
    async with http() as (url, asked):
        sent = {
            "baseURL": url,
            "url": "/p",
            "method": "POST",
            "body": {"a": [1]},
            "auth": {"username": "u", "password": "p"},
        }
        assert (await call("httpRequest", sent))["body"] == '{"a":[1]}'
        assert asked[0].header("authorization") == "Basic " + base64.b64encode(b"u:p").decode()
        assert asked[0].header("content-type") == "application/json"
        form = {
            "url": url,
            "method": "PUT",
            "body": {"a": "b c"},
            "headers": {"Content-Type": "application/x-www-form-urlencoded"},
        }
        assert (await call("httpRequest", form))["body"] == "a=b+c"
        assert (await call("httpRequest", {"url": url, "method": "POST", "body": "text"}))["body"] == "text"


async def test_the_whole_response_can_be_had() -> None:
    async with http() as (url, _):
        full = await call("httpRequest", {"url": url, "returnFullResponse": True})
        assert (full["statusCode"], full["statusMessage"]) == (200, "OK")
        assert full["headers"]["content-type"] == "application/json"
        assert full["body"]["method"] == "GET"


async def test_an_error_status_is_an_error_unless_it_is_asked_for() -> None:
    async with http({"/gone": Response(404, b"not here", "text/plain")}) as (url, _):
        with pytest.raises(HelperFailed, match="Request failed with status code 404") as caught:
            await call("httpRequest", {"url": f"{url}/gone"})
        assert caught.value.data["status"] == 404
        assert await call("httpRequest", {"url": f"{url}/gone", "ignoreHttpStatusErrors": True}) == "not here"


@pytest.mark.parametrize(
    ("url", "code"),
    [("file:///etc/passwd", "ERR_INVALID_URL"), ("ftp://host/x", "ERR_INVALID_URL"), ("", "ERR_INVALID_URL")],
)
async def test_only_http_is_spoken(url: str, code: str) -> None:
    with pytest.raises(HelperFailed, match="Invalid URL") as caught:
        await call("httpRequest", {"url": url})
    assert caught.value.data["code"] == code


async def test_a_redirect_is_followed_or_is_the_answer_and_never_leads_to_a_file() -> None:
    async def serve_one(stream: trio.SocketStream) -> None:
        head = await stream.receive_some(65536)
        to = {b"GET /a": b"/b", b"GET /f": b"file:///etc/hostname"}.get(bytes(head[:6]))
        if to is None:
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n7")
        else:
            head = b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % to
            await stream.send_all(head)

    async with tcp_server(serve_one) as port:
        url = f"http://127.0.0.1:{port}"
        assert await call("httpRequest", {"url": f"{url}/a"}) == 7
        stay = {"url": f"{url}/a", "disableFollowRedirect": True, "returnFullResponse": True}
        assert (await call("httpRequest", stay))["statusCode"] == 302
        assert await call("httpRequest", {"url": f"{url}/f"}) == ""  # the redirect's own body


async def test_a_server_that_is_not_there_or_says_nothing_is_told_apart() -> None:
    async with tcp_server(_mute) as port:
        with pytest.raises(HelperFailed, match="timeout of 50ms exceeded") as caught:
            await call("httpRequest", {"url": f"http://127.0.0.1:{port}/", "timeout": 50})
        assert caught.value.data["code"] == "ECONNABORTED"
    with pytest.raises(HelperFailed, match="ECONNREFUSED"):
        await call("httpRequest", {"url": f"http://127.0.0.1:{port}/"})


async def _mute(stream: trio.SocketStream) -> None:
    """Reads until the client gives up."""
    async for _ in stream:
        pass


def test_the_older_interface_is_translated() -> None:
    assert translated({"uri": "u", "form": {"a": 1}, "simple": False, "resolveWithFullResponse": True}) == {
        "url": "u",
        "body": {"a": 1},
        "headers": {"content-type": "application/x-www-form-urlencoded"},
        "returnFullResponse": True,
        "ignoreHttpStatusErrors": True,
        "disableFollowRedirect": False,
        "skipSslCertificateValidation": False,
        "encoding": "text",
    }
    assert translated({"url": "u", "encoding": None})["encoding"] == "arraybuffer"
    assert translated("u")["url"] == "u"


async def test_binary_data_is_read_made_and_replaced() -> None:
    hello = {"type": "Buffer", "data": list(b"hello")}
    assert await call("getBinaryDataBuffer", 1, "data") == hello
    assert await call("assertBinaryData", 1, "data") == FILE
    made = await call("prepareBinaryData", hello, "b.json", "application/json")
    assert base64.b64decode(made["data"]) == b"hello"
    assert (made["fileName"], made["fileExtension"], made["fileType"], made["fileSize"]) == (
        "b.json",
        "json",
        "json",
        "5 B",
    )
    assert (await call("prepareBinaryData", hello))["mimeType"] == "text/plain"
    replaced = await call("setBinaryDataBuffer", made, {"type": "Buffer", "data": [0] * 2000})
    assert (replaced["fileName"], replaced["fileSize"], replaced["bytes"]) == ("b.json", "2 kB", 2000)
    assert await call("binaryToString", {"type": "Buffer", "data": [228]}, "latin1") == "ä"


async def test_large_buffers_are_whole() -> None:
    data = bytes(range(256)) * 2000
    made = await call("prepareBinaryData", {"type": "Buffer", "data": list(data)})
    assert base64.b64decode(made["data"]) == data
    workflow = LocalWorkflow(items=msgspec.json.encode([{"json": {}, "binary": {"data": made}}]))
    back = await carry_out("helpers.getBinaryDataBuffer", Raw(b'[0,"data"]'), workflow)
    assert bytes(msgspec.json.decode(back)["data"]) == data


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("getBinaryDataBuffer", (9, "data")),
        ("getBinaryDataBuffer", (0, "data")),
        ("getBinaryDataBuffer", (1, "elsewhere")),
        ("getBinaryDataBuffer", ()),
        ("assertBinaryData", (1, "other")),
        ("prepareBinaryData", ({"type": "Buffer", "data": [256]},)),
        ("prepareBinaryData", (None,)),
        ("binaryToString", ("x", "klingon")),
        ("httpRequest", ()),
        ("httpRequest", (7,)),
        ("httpRequest", ({"url": "http://127.0.0.1:9/", "timeout": 1e300},)),
        ("nothing", ()),
    ],
)
async def test_a_call_that_cannot_be_carried_out_says_why(name: str, params: tuple[object, ...]) -> None:
    with pytest.raises(HelperFailed) as caught:
        await call(name, *params)
    assert caught.value.data["message"]
