"""What an author can do about mistakes with n8n's names, in words; `mistakes` knows when to say them.

Owns the advice to people who come from the earlier Python node, from JavaScript or from `requests`. Nothing of the
user's is called: what is looked into is of exact types.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from trio_runner.sandbox import tracebacks
from trio_runner.sandbox.alike import LONGEST, closest
from trio_runner.sandbox.helpers import HttpError

_LONGEST_ANSWER: Final = 200
_OF_REQUESTS: Final = frozenset("json text content status_code statusCode ok headers body data".split())
_REQUEST: Final = re.compile(r"_helpers\b.*\b(http_request|httpRequest)")

OTHER_WORDS: Final = {
    "true": "True",
    "false": "False",
    "null": "None",
    "undefined": "None",
    "NaN": "float('nan')",
    "console": "print(…)",
    "JSON": "json.loads(…) and json.dumps(…)",
    "parseInt": "int(…)",
    "parseFloat": "float(…)",
    "Math": "the module math",
    "Date": "the module datetime",
    "DateTime": "_now and its methods, like _now.fromISO(…), or the module datetime",
    "this": "_helpers, where it was this.helpers",
    "require": "import",
}
"""Names of JavaScript."""
METHODS: Final = {
    "concat": "a + b",
    "every": "all(…)",
    "filter": "[each for each in values if …]",
    "find": "next((each for each in values if …), None)",
    "forEach": "for each in values:",
    "hasOwnProperty": "name in value",
    "includes": "part in value",
    "length": "len(value)",
    "map": "[… for each in values]",
    "reduce": "sum(…), or functools.reduce(…)",
    "slice": "value[start:end]",
    "some": "any(…)",
    "substring": "text[start:end]",
    "toFixed": "f'{value:.2f}'",
    "toString": "str(value)",
}
"""Methods of JavaScript that are none in Python."""


def missing_field(name: str, known: str, source: str) -> str:
    """For a field that an item lacks; ``known`` are those it has, with commas."""
    if name in _OF_REQUESTS and _REQUEST.search(source):
        return "http_request gives the body itself, parsed if it is JSON; all of the answer with full_response=True."
    name = tracebacks.clip(name, LONGEST)
    meant = closest(name, known.split(", "))
    return f"{f'Did you mean {meant!r}? ' if meant else ''}A field that may be missing is read with .get({name!r})."


def refused_request(error: BaseException) -> str:
    """For an answer with an error status: what the server said, or how to read it. n8n keeps it to itself as a rule."""
    if type(error) is not HttpError:
        return ""
    said = " ".join(_text(error.body).split())
    said = "" if said.startswith("<") else tracebacks.clip(said, _LONGEST_ANSWER)  # a page tells nothing in a panel
    if said:
        return f"The server said: {said}"
    return (
        "To read what the server said: ignore_http_status_errors=True, full_response=True. To go on without it: "
        "except _helpers.HttpError as error"
    )


def _text(body: Any) -> str:
    return body if type(body) is str else "" if body is None else msgspec.json.encode(body).decode()


def failed_request(text: str) -> str:
    """For a request that was not answered at all."""
    return next((advice for pattern, advice in _FAILED if re.search(pattern, text)), "")


_FAILED: Final = (
    (r"timeout of \S+ exceeded|ECONNABORTED", "timeout counts milliseconds, timeout_seconds seconds."),
    ("Invalid URL", "An address begins with http:// or https://."),
    (
        "ENOTFOUND|EAI_AGAIN|ECONNREFUSED|EHOSTUNREACH|ENETUNREACH|ETIMEDOUT",
        "It is n8n that sends the request: it must be able to reach the address, and localhost is n8n's own machine.",
    ),
)


def do_not_mix(groups: tuple[str, ...]) -> str:
    """For two types without a common operation; ``groups`` are their names, if they were said."""
    kinds = set(groups)
    if kinds & {
        "DateTime",
        "datetime",
        "date",
        "timedelta",
        "datetime.datetime",
        "datetime.date",
        "datetime.timedelta",
    }:
        return "A date is moved by timedelta(days=1), those that come from _now by .plus(days=1) as well."
    if not kinds or kinds & {"str", "bytes"}:
        return "Text and numbers do not mix: convert with str(…), int(…) or float(…), or write f'{…}'."
    return "Values of these two types do not go together: look at them with print(repr(…))."
