"""From the auth token to a grant token: `POST <base>/auth` (protocol.md 2).

A grant token works for one connection, so it is fetched anew for each.
"""

from __future__ import annotations

import re
import ssl
from typing import Final

import msgspec

from trio_runner.config import BrokerAddress
from trio_runner.errors import AuthRefusedError, BrokerUnreachableError, RateLimitedError
from trio_runner.http import post_json

_PAGE: Final = 4096
_TITLE: Final = re.compile("<title>([^<]*)</title>", re.IGNORECASE)
_TAG: Final = re.compile("<[^>]*>")


class _Grant(msgspec.Struct):
    token: str


class _Answer(msgspec.Struct):
    data: _Grant


async def fetch_grant_token(address: BrokerAddress, auth_token: str, *, tls: ssl.SSLContext | None = None) -> str:
    """A fresh grant token.

    Raises `AuthRefusedError` when the auth token is wrong (final), `RateLimitedError` and `BrokerUnreachableError` when
    it is worth another try.
    """
    body = msgspec.json.encode({"token": auth_token})
    path = f"{address.base_path}/auth"
    response = await post_json(address, path, body, tls=tls)
    if response.status == 200:
        try:
            return msgspec.json.decode(response.body, type=_Answer).data.token
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise BrokerUnreachableError(f"{address.label}{path} gave no token: {error}") from error
    if response.status in (401, 403):  # n8n says 403; 401 is what a proxy in front of it says
        raise AuthRefusedError(
            f"The broker at {address.label} refused the auth token. "
            "N8N_RUNNERS_AUTH_TOKEN must be the same for n8n and for this runner."
        )
    if response.status == 429:
        raise RateLimitedError(
            f"{address.label} takes no more logins now (HTTP 429)", at_least=max(1.0, response.retry_after)
        )
    if response.status == 404:
        raise BrokerUnreachableError(
            f"{address.label}{path} does not exist (HTTP 404). "
            "N8N_RUNNERS_PATH must be the same for n8n and for this runner"
        )
    raise BrokerUnreachableError(
        f"{address.label}{path} answered HTTP {response.status}{_words(response.body)}", at_least=response.retry_after
    )


def _words(body: bytes) -> str:
    """What an unexpected answer says, in a line. A page for browsers, as proxies have them, says it by its title."""
    text = body[:_PAGE].decode(errors="replace")
    if text.lstrip().startswith("<"):
        found = _TITLE.search(text)
        text = found[1] if found else _TAG.sub(" ", text)
    flat = " ".join(text.split())[:200]
    return f": {flat}" if flat else ""
