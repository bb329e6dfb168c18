"""The options of an HTTP request: from what Python people write to what n8n takes, whose own names work as well.

Owns the names and their meaning; sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from trio_runner.sandbox.alike import closest
from trio_runner.sandbox.items import AttrDict

_OWN: Final = frozenset(
    "url baseURL method headers body qs arrayFormat auth disableFollowRedirect maxRedirects encoding "
    "skipSslCertificateValidation returnFullResponse ignoreHttpStatusErrors proxy timeout json "
    "uri form formData followRedirect followAllRedirects resolveWithFullResponse simple useQuerystring gzip "
    "rejectUnauthorized sendCredentialsOnCrossOriginRedirect agentOptions".split()
)
"""n8n's names, those of the older ``request`` included. They are passed on as they are."""

_SAME: Final = {
    "base_url": "baseURL",
    "params": "qs",
    "query": "qs",
    "data": "body",
    "array_format": "arrayFormat",
    "max_redirects": "maxRedirects",
    "return_full_response": "returnFullResponse",
    "full_response": "returnFullResponse",
    "ignore_http_status_errors": "ignoreHttpStatusErrors",
    "skip_ssl_certificate_validation": "skipSslCertificateValidation",
    "disable_follow_redirect": "disableFollowRedirect",
}
_CHANGED: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "verify": ("skipSslCertificateValidation", lambda verify: not verify),
    "allow_redirects": ("disableFollowRedirect", lambda allowed: not allowed),
    "follow_redirects": ("disableFollowRedirect", lambda allowed: not allowed),
    "timeout_seconds": ("timeout", lambda seconds: round(seconds * 1000)),
}


class Response(AttrDict):
    """A whole answer: ``body``, ``headers``, ``statusCode``, ``statusMessage``; by Python's names, too."""

    __slots__ = ()

    @property
    def status_code(self) -> int:
        """``statusCode``."""
        return int(self["statusCode"])

    @property
    def status_message(self) -> str:
        """``statusMessage``."""
        return str(self.get("statusMessage", ""))


def http_options(options: Mapping[str, Any] | str | None = None, /, *more: object, **named: Any) -> dict[str, Any]:
    """n8n's options out of a URL or a dict of options, and options by name. Raises TypeError for unknown ones."""
    if more:  # request("GET", url) as in `requests`, or get(url, params)
        raise TypeError("http_request takes the url, or a dict of options; all else by name, like method='POST'")
    given: dict[str, Any] = {"url": options} if isinstance(options, str) else dict(options or {})
    given |= named
    made: dict[str, Any] = {}
    for name, value in given.items():
        if value is None and name != "body":
            continue
        if name in _OWN:
            made[name] = value
        elif name in _SAME:
            made[_SAME[name]] = value
        elif name in _CHANGED:
            target, change = _CHANGED[name]
            made[target] = change(value)
        else:
            raise TypeError(f"http_request has no option '{str(name)[:60]}'{_alike(str(name))}")
    if not made.get("url") and not made.get("uri"):
        raise TypeError("http_request needs a url")
    if not isinstance(made.get("json", False), bool):  # as in `requests`: the value itself
        made["body"], made["json"] = made["json"], True
    if isinstance(made.get("auth"), tuple | list):
        username, password = made["auth"]
        made["auth"] = {"username": username, "password": password}
    made["body"] = _body(made.get("body"))
    if made["body"] is None:
        del made["body"]
    return made


def _body(body: Any) -> Any:
    if not isinstance(body, bytes | bytearray | memoryview):
        return body
    try:
        return bytes(body).decode()
    except UnicodeDecodeError:
        raise TypeError(
            "the body of a request can be text or a value for JSON; n8n takes no other bytes here"
        ) from None


def _alike(name: str) -> str:
    meant = closest(name, [*_OWN, *_SAME, *_CHANGED])
    return f"; did you mean '{meant}'?" if meant is not None else ""
