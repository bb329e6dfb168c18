"""From the auth token to a grant token: which answer means what (protocol.md 2)."""

from __future__ import annotations

import pytest
import trio

from tests.shell.shell_kit import config_for, read_head, scripted_broker, tcp_server
from trio_runner.auth import fetch_grant_token
from trio_runner.config import BrokerAddress
from trio_runner.errors import (
    AuthRefusedError,
    BrokerUnreachableError,
    FatalError,
    RateLimitedError,
    RetryableError,
    RunnerError,
)
from trio_runner.http import Response

pytestmark = pytest.mark.e2e

SECRET = "s3cr3t-Zq8vLw"


async def error_for(response: Response) -> tuple[RunnerError, str]:
    """What a broker with this answer makes us raise, and its words with the broker's address replaced."""
    found: RunnerError | None = None
    async with scripted_broker() as broker:
        broker.logins = [response]
        (address,) = config_for(broker.port).brokers
        try:
            await fetch_grant_token(address, SECRET)
        except RunnerError as error:
            found = error
    assert found is not None
    assert SECRET not in str(found)
    return found, str(found).replace(address.label, "BROKER")


async def test_the_auth_token_is_posted_and_the_grant_token_returned() -> None:
    async with scripted_broker() as broker:
        (address,) = config_for(broker.port).brokers
        assert await fetch_grant_token(address, SECRET) == "grant-0"
        assert await fetch_grant_token(address, SECRET) == "grant-1"
        assert broker.login_bodies == [{"token": SECRET}] * 2


async def test_the_path_follows_the_base_path() -> None:
    heard: list[bytes] = []

    async def listen(stream: trio.SocketStream) -> None:
        heard.append(await read_head(stream))
        await stream.send_all(b'HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{"data":{"token":"abc"}}')

    async with tcp_server(listen) as port:
        address = BrokerAddress(scheme="http", host="127.0.0.1", port=port, base_path="/n8n/runners")
        assert await fetch_grant_token(address, SECRET) == "abc"
    assert heard[0].startswith(b"POST /n8n/runners/auth HTTP/1.1\r\n")


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_auth_token_is_final_and_says_which_variable_is_wrong(status: int) -> None:
    error, text = await error_for(Response(status, b'{"code":403,"message":"Forbidden"}'))
    assert isinstance(error, AuthRefusedError)
    assert isinstance(error, FatalError)
    assert error.exit_code == 3
    assert text == (
        "The broker at BROKER refused the auth token. "
        "N8N_RUNNERS_AUTH_TOKEN must be the same for n8n and for this runner."
    )


async def test_429_is_tried_again_not_before_a_second_has_passed() -> None:
    error, text = await error_for(Response(429, b'{"message":"Too many requests"}'))
    assert isinstance(error, RateLimitedError)
    assert error.at_least == 1.0
    assert text == "BROKER takes no more logins now (HTTP 429)"


async def answered(head: bytes) -> RetryableError:
    async def listen(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await stream.send_all(head + b"\r\nContent-Length: 0\r\n\r\n")

    async with tcp_server(listen) as port:
        with pytest.raises(RetryableError) as caught:
            await fetch_grant_token(BrokerAddress(scheme="http", host="127.0.0.1", port=port), SECRET)
    return caught.value


async def test_a_retry_after_is_kept_to() -> None:
    assert (await answered(b"HTTP/1.1 429 Slow\r\nRetry-After: 17")).at_least == 17
    assert (await answered(b"HTTP/1.1 429 Slow\r\nRetry-After: 0")).at_least == 1
    assert (await answered(b"HTTP/1.1 503 Down\r\nRetry-After: 30")).at_least == 30
    assert (await answered(b"HTTP/1.1 503 Down")).at_least == 0


async def test_404_says_which_variable_is_wrong() -> None:
    error, text = await error_for(Response(404, b"<html>"))
    assert isinstance(error, BrokerUnreachableError)
    assert text.startswith("BROKER/runners/auth does not exist (HTTP 404). N8N_RUNNERS_PATH must be the same")


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (Response(400, b'{"code":400,"message":"invalid_type"}'), 'HTTP 400: {"code":400,"message":"invalid_type"}'),
        (Response(500, b"<html>\n  Oops\n</html>"), "HTTP 500: Oops"),
        (
            Response(502, b"<!doctype html><head>\n<TITLE>502 Bad\nGateway</TITLE>\n<style>a{}</style>"),
            "HTTP 502: 502 Bad Gateway",
        ),
        (Response(500, b"x" * 1000), "HTTP 500: " + "x" * 200),
        (Response(503), "HTTP 503"),
        (Response(302), "HTTP 302"),
        (Response(502, b"\xff\xfe"), "HTTP 502: \ufffd\ufffd"),
    ],
)
async def test_other_answers_are_worth_another_try_and_are_shown(response: Response, words: str) -> None:
    error, text = await error_for(response)
    assert isinstance(error, BrokerUnreachableError)
    assert isinstance(error, RetryableError)
    assert text == f"BROKER/runners/auth answered {words}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK",
        b"null",
        b"[]",
        b'{"data":{}}',
        b'{"data":{"token":null}}',
        b'{"data":{"token":5}}',
        b'{"data":"abc"}',
        b'{"data":{"token":"a',
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"x":' + b"[" * 50_000,
    ],
)
async def test_a_200_without_a_token_is_worth_another_try(body: bytes) -> None:
    error, text = await error_for(Response(200, body))
    assert isinstance(error, BrokerUnreachableError)
    assert text.startswith("BROKER/runners/auth gave no token: ")


async def test_a_broker_that_is_not_there_is_unreachable() -> None:
    async with scripted_broker() as broker:
        (address,) = config_for(broker.port).brokers
    with pytest.raises(BrokerUnreachableError, match=address.label):
        await fetch_grant_token(address, SECRET)
