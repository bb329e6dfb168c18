"""The status page over HTTP: `/` for people, `/status.json` for programs, `/status/events` for both as it happens.

Owns who may look, and what a browser is allowed to do with it. The page itself is `status.html`: one file without a
value in it, which fills itself from the events and shows every text as text. Nothing runs while nobody looks; who does
gets a snapshot a second, made once for all of them.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import math
import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
import trio

from trio_runner.config import STATUS_HOSTS
from trio_runner.http import Request, Response
from trio_runner.status import Snapshot

PAGE: Final = "/"
JSON: Final = "/status.json"
EVENTS: Final = "/status/events"
LISTENERS: Final = 16
"""Who follows the events at the same time; who comes on top is asked to try again."""
_EVERY: Final = 1.0
_FRESH: Final = 0.25
_WRITE_LIMIT: Final = 10.0
_ANY: Final = "*"
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


class StatusPage:
    """What the health server answers on the page's paths."""

    def __init__(self, snapshot: Callable[[float], Snapshot], hosts: frozenset[str] = frozenset()) -> None:
        """``snapshot`` is told the time of day. ``hosts`` are the names under which others may look, too."""
        self._snapshot = snapshot
        self._hosts = hosts
        self._encoded = b""
        self._encoded_at = -math.inf
        self.listeners = 0

    def answer(self, request: Request) -> Response | None:
        """The answer to a request for the page or what belongs to it; None for any other."""
        if request.path not in (PAGE, JSON, EVENTS):
            return None
        if (refused := refusal(request, self._hosts)) is not None:
            return self._refuse(request, refused)
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"Only GET and HEAD are answered here.\n", headers=(("Allow", "GET, HEAD"), *_HEADERS))
        if request.path == PAGE:
            body, policy = page()
            protection = (("Content-Security-Policy", policy), ("X-Frame-Options", "DENY"))
            return Response(200, body, "text/html; charset=utf-8", headers=(*_HEADERS, *protection))
        if request.path == JSON:
            return Response(200, self._now(), "application/json", headers=_HEADERS)
        if self.listeners >= LISTENERS:
            text = b"Too many are looking already. Try again in a moment.\n"
            return Response(503, text, headers=(("Retry-After", "5"), *_HEADERS))
        return Response(200, content_type="text/event-stream", headers=_HEADERS, goes_on=self._send_events)

    def _refuse(self, request: Request, reason: str) -> Response | None:
        # a probe from elsewhere may ask for any path and must be content, as it is without the page
        if request.path == PAGE and "text/html" not in (request.header("accept") or ""):
            return None
        return Response(403, f"{reason}\n".encode(), headers=_HEADERS)

    def _now(self) -> bytes:
        """A snapshot as JSON; one for all who ask in the same moment."""
        now = trio.current_time()
        if not 0 <= now - self._encoded_at < _FRESH:
            self._encoded = msgspec.json.encode(self._snapshot(time.time()))
            self._encoded_at = now
        return self._encoded

    async def _send_events(self, stream: trio.abc.Stream) -> None:
        """A snapshot at once and one each second, until the client is gone or does not read."""
        if self.listeners >= LISTENERS:
            return
        self.listeners += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch_for_the_end, stream, nursery.cancel_scope)
                while True:
                    if not await _sent(stream, b"data: %b\n\n" % self._now()):
                        nursery.cancel_scope.cancel()
                    # all wake up at the same time, so that they share a snapshot
                    await trio.sleep_until((math.floor(trio.current_time() / _EVERY) + 1) * _EVERY)
        finally:
            self.listeners -= 1


async def _sent(stream: trio.abc.Stream, data: bytes) -> bool:
    with trio.move_on_after(_WRITE_LIMIT):
        try:
            await stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True
    return False


async def _watch_for_the_end(stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
    """A client that is gone gives its place back at once, not with the next writes."""
    try:
        while await stream.receive_some(1024):
            pass  # it has nothing to say
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()


def refusal(request: Request, hosts: frozenset[str]) -> str | None:
    """Why this request may not see the status, or None if it may.

    Without ``hosts`` only this machine may, under a local name: a page of another origin whose name was made to point
    here (DNS rebinding) has another one. With them everybody may, under one of these names.
    """
    if request.path != PAGE and request.header("sec-fetch-site") not in (None, "none", "same-origin"):
        return "Another web site asked for this."
    name = _host_name(request.header("host") or "")
    remedy = f"{STATUS_HOSTS.name} says under which names others may look."
    if _ANY in hosts or name in hosts:
        return None
    if not _is_local(request):
        return f"The status page is for the machine that the runner is on. {remedy}"
    if not _is_local_name(name):
        return f"The status page does not go by the name {name!r}. {remedy}"
    return None


def _is_local(request: Request) -> bool:
    """Whether the peer is this machine, and not a proxy on it that speaks for another one."""
    if not request.peer or any(request.header(name) is not None for name in _FORWARDED):
        return False
    return request.peer == request.here or _is_loopback(request.peer)


def _is_local_name(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _host_name(host: str) -> str:
    """A Host header without port, brackets and a last dot, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].removesuffix(".").lower()


@cache
def page() -> tuple[bytes, str]:
    """The page, and the policy by which a browser runs this script and this style and nothing else."""
    text = Path(__file__).with_name("status.html").read_text(encoding="utf-8")
    policy = (
        "default-src 'none'",
        f"script-src {_hash_of('script', text)}",
        f"style-src {_hash_of('style', text)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return text.encode(), "; ".join(policy)


def _hash_of(tag: str, text: str) -> str:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    assert len(found) == 1, f"status.html holds one <{tag}>"
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()}'"
