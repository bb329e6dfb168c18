"""``_helpers``: what goes to n8n for each call, what comes back, and the errors."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest

from tests.sandbox.n8n_kit import FakeN8n, items, result
from trio_runner.sandbox import buffers
from trio_runner.sandbox.channel import ChannelError
from trio_runner.sandbox.helpers import HelperError, HttpError
from trio_runner.sandbox.httpoptions import http_options

FILE = {"mimeType": "text/plain", "fileName": "a.txt", "data": "filesystem-v2", "id": "filesystem-v2:x"}
GIVEN = [item | {"binary": {"data": FILE}} for item in items({"n": 1}, {"n": 2})]


def buffer(content: bytes) -> dict[str, Any]:
    return {"type": "Buffer", "data": list(content)}


def sent(source: str, answer: Any = None, given: Any = GIVEN) -> tuple[str, list[Any]]:
    """The one call that a program makes."""
    methods = "httpRequest request getBinaryDataBuffer assertBinaryData prepareBinaryData setBinaryDataBuffer"
    n8n = FakeN8n(calls={f"helpers.{name}": lambda *_: answer for name in f"{methods} binaryToString".split()})
    result(f"{source}\nreturn []", n8n, given)
    (call,) = n8n.calls
    return call


# HTTP


@pytest.mark.parametrize(
    "call",
    [
        "http_request({'url': 'http://a', 'method': 'POST', 'body': {'x': 1}, 'json': True, 'qs': {'p': 1}})",
        "httpRequest({'url': 'http://a', 'method': 'POST', 'body': {'x': 1}, 'json': True, 'qs': {'p': 1}})",
        "http_request(url='http://a', method='POST', json={'x': 1}, params={'p': 1})",
        "http_request('http://a', method='POST', json={'x': 1}, query={'p': 1}, headers=None)",
        "http_request({'url': 'http://a'}, method='POST', body={'x': 1}, json=True, qs={'p': 1})",
    ],
)
def test_one_request_can_be_written_in_several_ways(call: str) -> None:
    options = {"url": "http://a", "method": "POST", "body": {"x": 1}, "json": True, "qs": {"p": 1}}
    assert sent(f"_helpers.{call}") == ("helpers.httpRequest", [options])


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"base_url": "http://b"}, {"baseURL": "http://b"}),
        ({"auth": ("ada", "secret")}, {"auth": {"username": "ada", "password": "secret"}}),
        ({"auth": {"username": "ada"}}, {"auth": {"username": "ada"}}),
        ({"verify": False}, {"skipSslCertificateValidation": True}),
        ({"allow_redirects": False}, {"disableFollowRedirect": True}),
        ({"follow_redirects": True}, {"disableFollowRedirect": False}),
        ({"timeout_seconds": 1.5}, {"timeout": 1500}),
        ({"timeout": 1500}, {"timeout": 1500}),
        ({"full_response": True}, {"returnFullResponse": True}),
        ({"return_full_response": True}, {"returnFullResponse": True}),
        ({"ignore_http_status_errors": True}, {"ignoreHttpStatusErrors": True}),
        (
            {"encoding": "arraybuffer", "arrayFormat": "brackets"},
            {"encoding": "arraybuffer", "arrayFormat": "brackets"},
        ),
        ({"data": "text"}, {"body": "text"}),
        ({"body": b"text"}, {"body": "text"}),
        ({"json": [1]}, {"body": [1], "json": True}),
    ],
)
def test_options_have_python_s_names_and_n8n_s(given: dict[str, Any], made: dict[str, Any]) -> None:
    assert http_options("http://a", **given) == {"url": "http://a"} | made


def test_options_that_make_no_request_are_refused() -> None:
    with pytest.raises(TypeError, match="no option 'header'; did you mean 'headers'"):
        http_options("http://a", header={})
    with pytest.raises(TypeError, match=r"no option 'xyzzy'$"):
        http_options("http://a", xyzzy=1)
    with pytest.raises(TypeError, match="all else by name, like method='POST'"):
        http_options("GET", "http://a")
    with pytest.raises(TypeError, match="needs a url"):
        http_options(method="GET")
    with pytest.raises(TypeError, match="takes no other bytes"):
        http_options("http://a", body=b"\xff")


def test_the_body_is_the_result_and_can_be_read_with_dots() -> None:
    n8n = FakeN8n(calls={"helpers.httpRequest": lambda _: {"user": {"name": "Ada"}}})
    source = "found = _helpers.http_request('http://a')\nreturn [found.user.name, found['user']]"
    assert result(source, n8n) == ["Ada", {"name": "Ada"}]


def test_a_whole_answer_has_python_s_names_too() -> None:
    full = {"body": buffer(b"\xff"), "headers": {"a": "b"}, "statusCode": 201, "statusMessage": "Created"}
    n8n = FakeN8n(calls={"helpers.httpRequest": lambda _: full})
    source = """
r = _helpers.http_request('http://a', full_response=True, encoding='arraybuffer')
return [r.statusCode, r.status_code, r.status_message, r.headers.a, r.body.hex(), list(r)]
"""
    expected = [201, 201, "Created", "b", "ff", ["body", "headers", "statusCode", "statusMessage"]]
    assert result(source, n8n) == expected


def test_a_body_of_bytes_is_bytes() -> None:
    n8n = FakeN8n(calls={"helpers.httpRequest": lambda _: buffer(b"\x00\xff")})
    assert result("return _helpers.http_request('http://a', encoding='arraybuffer').hex()", n8n) == "00ff"


AXIOS = {
    "message": "Request failed with status code 404",
    "name": "AxiosError",
    "code": "ERR_BAD_REQUEST",
    "status": 404,
    "config": {"headers": {"Authorization": "Bearer secret"}, "data": "x" * 10_000},
    "response": {"status": 404, "data": {"detail": "no such thing"}, "headers": {}},
}


def test_an_answer_that_is_an_error_is_an_exception_in_few_words() -> None:
    n8n = FakeN8n(calls={"helpers.httpRequest": lambda _: ChannelError(AXIOS)})
    source = """
try:
    _helpers.http_request('http://a')
except _helpers.HttpError as error:
    caught = error
return [caught.status_code, caught.statusCode, caught.code, caught.body, str(caught), caught.helper,
        isinstance(caught, _helpers.HelperError)]
"""
    status, same, code, body, text, helper, is_helper = result(source, n8n)
    assert (status, same, code, body, helper, is_helper) == (
        404, 404, "ERR_BAD_REQUEST", {"detail": "no such thing"}, "httpRequest", True,
    )  # fmt: skip
    assert text == "httpRequest: Request failed with status code 404"


def test_an_error_drags_nothing_of_n8n_s_along() -> None:
    n8n = FakeN8n(calls={"helpers.httpRequest": lambda _: ChannelError(AXIOS)})
    with pytest.raises(HttpError) as caught:
        result("return _helpers.http_request('http://a')", n8n)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    assert "secret" not in repr(vars(caught.value))


@pytest.mark.parametrize(
    ("data", "kind", "text", "status"),
    [
        ({"message": "connect ECONNREFUSED", "code": "ECONNREFUSED"}, HelperError, "connect ECONNREFUSED", None),
        ({"httpCode": "502", "message": "Bad gateway"}, HttpError, "Bad gateway", 502),
        ({"response": {"statusCode": 500}}, HttpError, "the server answered with status 500", 500),
        ({"status": "error", "message": "m"}, HelperError, "m", None),
        ({"message": "x" * 5000}, HelperError, "x" * 500, None),
        ({"description": "why"}, HelperError, "why", None),
        ("Method not allowed", HelperError, "Method not allowed", None),
        ({}, HelperError, "n8n gave no reason", None),
        (None, HelperError, "n8n gave no reason", None),
    ],
)
def test_errors_of_every_form(data: Any, kind: type[HelperError], text: str, status: int | None) -> None:
    n8n = FakeN8n(calls={"helpers.httpRequest": lambda _: ChannelError(data)})
    with pytest.raises(HelperError) as caught:
        result("return _helpers.httpRequest({'url': 'http://a'})", n8n)
    assert type(caught.value) is kind
    assert str(caught.value) == f"httpRequest: {text}"
    assert getattr(caught.value, "status_code", None) == status


# binary data


@pytest.mark.parametrize(
    "call",
    [
        "get_binary_data(_input.all()[1], 'data')", "get_binary_data(1)", "get_binary_data(_items[1])",
        "getBinaryDataBuffer(1, 'data')", "get_binary_data_buffer(1, 'data')", "get_binary_data(_input.last())",
    ],
)  # fmt: skip
def test_binary_data_is_read_by_item_or_index(call: str) -> None:
    n8n = FakeN8n(calls={"helpers.getBinaryDataBuffer": lambda *_: buffer(b"caf\xc3\xa9")})
    assert result(f"len(_items)\nreturn _helpers.{call}.decode()", n8n, GIVEN) == "café"
    assert n8n.calls == [("helpers.getBinaryDataBuffer", [1, "data"])]


def test_binary_data_that_is_in_the_item_itself_is_not_asked_for() -> None:
    inline = {"binary": {"data": {"mimeType": "x", "data": base64.b64encode(b"\x00\xff").decode()}}, "json": {}}
    source = "return [_helpers.get_binary_data(_input.first()).hex(), _helpers.get_binary_data(dict(_items[0])).hex()]"
    assert result(source, given=[inline]) == ["00ff", "00ff"]


def test_binary_data_of_other_items_cannot_be_read() -> None:
    for item, error in (("{'binary': {}}", ValueError), ("'a'", TypeError), ("True", TypeError)):
        with pytest.raises(error):
            result(f"return _helpers.get_binary_data({item})", given=GIVEN)


def test_binary_data_that_is_missing_is_an_error_that_says_which() -> None:
    n8n = FakeN8n(calls={"helpers.getBinaryDataBuffer": lambda *_: ChannelError({})})
    with pytest.raises(HelperError, match="does input item 0 have binary data named 'nope'"):
        result("return _helpers.get_binary_data(0, 'nope')", n8n, GIVEN)


def test_something_else_than_a_buffer_is_an_error() -> None:
    n8n = FakeN8n(calls={"helpers.getBinaryDataBuffer": lambda *_: {"type": "Buffer", "data": [1, 256]}})
    with pytest.raises(HelperError, match="something else than a buffer"):
        result("return _helpers.get_binary_data(0)", n8n, GIVEN)


@pytest.mark.parametrize(
    ("call", "name", "params"),
    [
        (
            "prepare_binary_data(b'ab', 'a.txt', 'text/plain')",
            "prepareBinaryData",
            [buffer(b"ab"), "a.txt", "text/plain"],
        ),
        ("prepare_binary_data(b'', file_name='a')", "prepareBinaryData", [buffer(b""), "a"]),
        ("prepare_binary_data(b'ab', mime_type='x')", "prepareBinaryData", [buffer(b"ab"), None, "x"]),
        ("prepareBinaryData('ab', fileName='a', mimeType='b')", "prepareBinaryData", [buffer(b"ab"), "a", "b"]),
        ("prepare_binary_data(bytearray(b'ab'))", "prepareBinaryData", [buffer(b"ab")]),
        ("set_binary_data({'id': 1}, b'ab')", "setBinaryDataBuffer", [{"id": 1}, buffer(b"ab")]),
        ("setBinaryDataBuffer({'id': 1}, b'ab')", "setBinaryDataBuffer", [{"id": 1}, buffer(b"ab")]),
        ("assert_binary_data(1, 'f')", "assertBinaryData", [1, "f"]),
        ("assertBinaryData(_input.all()[0], 'f')", "assertBinaryData", [0, "f"]),
        ("binary_to_string(b'ab', 'cp-unheard-of')", "binaryToString", [buffer(b"ab"), "cp-unheard-of"]),
        ("request({'uri': 'http://a', 'json': True})", "request", [{"uri": "http://a", "json": True}]),
    ],
)
def test_each_helper_sends_what_n8n_s_takes(call: str, name: str, params: list[Any]) -> None:
    assert sent(f"_helpers.{call}") == (f"helpers.{name}", params)


def test_what_is_prepared_can_be_returned() -> None:
    n8n = FakeN8n(calls={"helpers.prepareBinaryData": lambda *_: FILE})
    source = """
data = _helpers.prepare_binary_data(b"a", "a.txt")
return [{"json": {"name": data.fileName}, "binary": {"data": data}}]
"""
    assert result(source, n8n) == [{"json": {"name": "a.txt"}, "binary": {"data": FILE}}]


def test_text_is_decoded_here() -> None:
    source = """
return [_helpers.binary_to_string("\ufeffcafé".encode()), _helpers.binaryToString(b"caf\\xe9", "latin1"),
        _helpers.binary_to_string(b"\\xff"), _helpers.binary_to_string("ab".encode("utf-16-le"), "utf-16le")]
"""
    assert result(source) == ["café", "café", "\ufffd", "ab"]


@pytest.mark.parametrize(
    "call",
    ["prepare_binary_data({})", "prepare_binary_data(b'', filename='a')", "set_binary_data('a', b'')",
     "set_binary_data({}, 1)"],
)  # fmt: skip
def test_arguments_of_other_types_are_refused(call: str) -> None:
    with pytest.raises(TypeError):
        result(f"return _helpers.{call}")


@pytest.mark.parametrize("name", ["http_request_async", "httpRequestAsync"])
async def test_every_helper_has_a_twin_to_await(name: str) -> None:
    from trio_runner.sandbox import helpers
    from trio_runner.sandbox.items import Input

    n8n = FakeN8n(calls={"helpers.httpRequest": lambda options: {"got": options["url"]}})
    made: Any = helpers.make(lambda: n8n, Input(b"[]"))
    assert (await made[name]("http://a")).got == "http://a"
    n8n.functions["helpers.httpRequest"] = lambda _: ChannelError(AXIOS)
    with pytest.raises(HttpError):
        await made[name]("http://a")
    assert await made.binary_to_string_async(b"a") == "a"


def test_what_n8n_does_not_offer_is_not_there() -> None:
    with pytest.raises(AttributeError, match=r"_helpers has no 'httpRequestWithAuthentication'; it has .*http_request"):
        result("return _helpers.httpRequestWithAuthentication")


# buffers


@pytest.mark.parametrize("size", [0, 1, 255, 300_000, 2_500_000])
def test_a_buffer_survives_the_trip(size: int) -> None:
    content = os.urandom(size)
    text = bytes(buffers.params((content, "name", None)))
    assert text.endswith(b',"name",null]')
    assert buffers.decode(memoryview(text[1 : -len(b',"name",null]')])) == content


@pytest.mark.parametrize(
    "text",
    [
        b"", b"null", b"{}", b"[1]", b'{"type":"Buffer","data":[1,2', b'{"type":"Buffer","data":[256]}',
        b'{"type":"Buffer","data":[-1]}', b'{"type":"Buffer","data":["a"]}', b'{"type":"Buffer","data":[1]} ]}',
        b'{"type":"Buffer","data":[1],"more":[2]}', b'{"type":"Buffer","data":[1]}x', b'{"type":"Buffer","data":[',
        b'{"type":"Buffer","data":[1,]}', b'{"type":"Other","data":[1]}', b'{"type":"Buffer","data":[[1]]}',
    ],
)  # fmt: skip
def test_other_json_is_no_buffer(text: bytes) -> None:
    assert buffers.decode(memoryview(text)) is None


def test_a_buffer_may_be_written_with_spaces() -> None:
    assert buffers.decode(memoryview(b' { "type" : "Buffer", "data" : [ 1 , 2 ] } ')) == b"\x01\x02"
    assert buffers.decode(memoryview(b'{"type":"Buffer","data":[]}')) == b""


def test_what_is_no_address_is_named_where_n8n_gives_no_reason() -> None:
    n8n = FakeN8n(calls={"helpers.httpRequest": lambda _: ChannelError({})})
    with pytest.raises(HelperError, match=r"n8n gave no reason: does 'example.com/x' begin with http:// or https://"):
        result("return _helpers.http_request('example.com/x')", n8n)
    for options in ("'http://a'", "base_url='https://a', url='/x'"):
        with pytest.raises(HelperError, match=r"n8n gave no reason$"):
            result(f"return _helpers.http_request({options})", n8n)
