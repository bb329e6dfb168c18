"""One HTTP request as n8n's ``httpRequest`` makes it, with the standard library. Blocking: to be run in a thread.

Owns the translation of n8n's options and of errors. Only http and https: what a confined program asks for must not
become a read of a file.
"""

from __future__ import annotations

import base64
import errno
import http.client
import socket
import ssl
import urllib.error
import urllib.request
from email.message import Message
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

import msgspec
from msgspec import Raw

from trio_runner import __version__
from trio_runner.localhelpers import HelperFailed, buffer

_TIMEOUT: Final = 300.0
_LONGEST: Final = 86_400.0
"""Seconds. Beyond what the system can count a socket raises something that nobody expects of it."""
_MAX_BODY: Final = 1 << 30
_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"


def request(options: dict[str, Any] | str) -> Raw:
    """Carries it out: the body, or the whole response if that was asked for, as JSON. Raises `HelperFailed`."""
    if isinstance(options, str):
        options = {"url": options}
    address = _address(options)
    headers = {str(name).lower(): str(value) for name, value in (options.get("headers") or {}).items()}
    body = _body(options.get("body"), headers)
    headers.setdefault("user-agent", f"trio-runner/{__version__}")
    headers.setdefault("accept", "application/json, text/plain, */*")
    if auth := options.get("auth"):
        pair = f"{auth.get('username', '')}:{auth.get('password', '')}"
        headers["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    asked = urllib.request.Request(  # noqa: S310 - the opener below has no handler for other schemes
        address, data=body, headers=headers, method=str(options.get("method") or "GET").upper()
    )
    timeout = min(float(options.get("timeout") or _TIMEOUT * 1000) / 1000, _LONGEST)
    try:
        with _opener(options).open(asked, timeout=timeout) as response:
            return _answer(options, response)
    except urllib.error.HTTPError as error:
        with error:
            if options.get("ignoreHttpStatusErrors") or error.code < 400:
                return _answer(options, error)
            raise _refused(error) from None
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        raise _unreachable(error, address, timeout) from None


def translated(options: dict[str, Any] | str) -> dict[str, Any]:
    """Options of the older ``request`` in the words of `request`."""
    if isinstance(options, str):
        options = {"uri": options}
    found: dict[str, Any] = {
        name: options[name] for name in ("method", "headers", "qs", "body", "timeout", "json") if name in options
    }
    found["url"] = options.get("uri") or options.get("url")
    if form := options.get("form"):
        found["body"] = form
        found["headers"] = {**(options.get("headers") or {}), "content-type": _FORM}
    if auth := options.get("auth"):
        user, password = auth.get("user", auth.get("username")), auth.get("pass", auth.get("password"))
        found["auth"] = {"username": user, "password": password}
    found["returnFullResponse"] = bool(options.get("resolveWithFullResponse"))
    found["ignoreHttpStatusErrors"] = options.get("simple") is False
    found["disableFollowRedirect"] = options.get("followRedirect") is False
    found["skipSslCertificateValidation"] = options.get("rejectUnauthorized") is False
    if "encoding" in options and options["encoding"] is None:
        found["encoding"] = "arraybuffer"
    elif not options.get("json"):
        found["encoding"] = "text"
    return found


def _address(options: dict[str, Any]) -> str:
    url = str(options.get("url") or "")
    if base := options.get("baseURL"):
        url = urljoin(f"{str(base).rstrip('/')}/", url.lstrip("/"))
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise HelperFailed(f"Invalid URL: {url}", code="ERR_INVALID_URL")
    if query := _query(options.get("qs") or {}, str(options.get("arrayFormat") or "brackets")):
        parts = parts._replace(query=f"{parts.query}&{query}" if parts.query else query)
    return urlunsplit(parts)


def _query(values: dict[str, Any], array_format: str) -> str:
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        if not isinstance(value, list):
            pairs.append((name, _text(value)))
        elif array_format == "comma":
            pairs.append((name, ",".join(map(_text, value))))
        else:
            for number, element in enumerate(value):
                key = {"indices": f"{name}[{number}]", "repeat": name}.get(array_format, f"{name}[]")
                pairs.append((key, _text(element)))
    return urlencode(pairs)


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _body(body: object, headers: dict[str, str]) -> bytes | None:
    """Bytes of a body, and the header that says what they are if the caller does not."""
    if body is None:
        return None
    if isinstance(body, str):
        headers.setdefault("content-type", "text/plain;charset=utf-8")
        return body.encode()
    if isinstance(body, dict) and headers.get("content-type", "").startswith(_FORM):
        return _query(body, "brackets").encode()
    headers.setdefault("content-type", _JSON)
    return msgspec.json.encode(body)


class _Stay(urllib.request.HTTPRedirectHandler):
    """The redirect is the answer."""

    def redirect_request(self, *_: object) -> None:
        return None


def _opener(options: dict[str, Any]) -> urllib.request.OpenerDirector:
    context = ssl.create_default_context()
    if options.get("skipSslCertificateValidation"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    proxies: dict[str, str] | None = None  # the environment's
    if proxy := options.get("proxy"):
        address = proxy if isinstance(proxy, str) else f"http://{proxy['host']}:{proxy['port']}"
        proxies = {"http": address, "https": address}
    redirects = urllib.request.HTTPRedirectHandler()
    vars(redirects)["max_redirections"] = int(options.get("maxRedirects", redirects.max_redirections))
    stay = options.get("disableFollowRedirect") or options.get("maxRedirects") == 0
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(proxies),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPDefaultErrorHandler(),
        _Stay() if stay else redirects,
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _answer(options: dict[str, Any], response: Any) -> Raw:
    content = response.read(_MAX_BODY + 1)
    if len(content) > _MAX_BODY:
        raise HelperFailed(f"The response is larger than {_MAX_BODY} bytes")
    body = _decoded(content, options, response.headers)
    if not options.get("returnFullResponse"):
        return body
    status = int(response.status)
    full = {
        "body": body,
        "headers": {name.lower(): value for name, value in response.headers.items()},
        "statusCode": status,
        "statusMessage": response.reason or HTTPStatus(status).phrase,
    }
    return Raw(msgspec.json.encode(full))


def _decoded(content: bytes, options: dict[str, Any], headers: Message) -> Raw:
    """JSON if it is JSON, whatever the header says of it; else text."""
    encoding = options.get("encoding")
    if encoding in ("arraybuffer", "blob", "stream"):
        return buffer(content)
    if encoding is None or encoding == "json":
        try:
            return Raw(msgspec.json.encode(msgspec.json.decode(content)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # text, then
    try:
        text = content.decode(headers.get_content_charset() or "utf-8", "replace")
    except LookupError:
        text = content.decode("utf-8", "replace")
    return Raw(msgspec.json.encode(text))


def _refused(error: urllib.error.HTTPError) -> HelperFailed:
    """As n8n tells of it: without the body of the answer."""
    return HelperFailed(
        f"Request failed with status code {error.code}",
        name="AxiosError",
        code="ERR_BAD_REQUEST" if error.code < 500 else "ERR_BAD_RESPONSE",
        status=error.code,
    )


def _unreachable(error: Exception, address: str, timeout: float) -> HelperFailed:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    where = urlsplit(address)
    if isinstance(reason, TimeoutError):
        return HelperFailed(f"timeout of {timeout * 1000:.0f}ms exceeded", name="AxiosError", code="ECONNABORTED")
    if isinstance(reason, socket.gaierror):
        return HelperFailed(f"getaddrinfo ENOTFOUND {where.hostname}", name="Error", code="ENOTFOUND")
    if isinstance(reason, OSError) and (code := errno.errorcode.get(reason.errno or 0)):
        return HelperFailed(f"connect {code} {where.netloc}", name="Error", code=code)
    return HelperFailed(str(reason), name="Error")
