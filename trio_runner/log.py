"""Log lines: to stdout, one record a line, in the forms that n8n, its launcher and people expect (runner-behaviour 4).

The standard library's logging, because trio-websocket loads it anyway; a structured logger would double the start-up
time. On a terminal: time, level, message, coloured unless NO_COLOR is set. Elsewhere: the bare message, since n8n and
the launcher add their own prefix. Or, wherever it is asked for: one JSON object a line, with what belongs to a record
as fields (``extra`` of the logging call: ``task``, which can tell its own, or ``task_id``; ``outcome`` ends a task).
"""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from collections.abc import MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO

_COLOURS = {"DEBUG": "34", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "31"}
_ROOT = "trio_runner"
_LONGEST = 16_000
_LONGEST_LINE = 60_000
_LONGEST_NAME = 200
_SILENCE = 60.0
# Line ends, what moves a terminal's cursor or turns its text around, and halves of characters, which cannot be encoded.
_HARMFUL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def get_logger(name: str) -> logging.Logger:
    """The logger of one module of ours."""
    return logging.getLogger(f"{_ROOT}.{name}")


def naming(logger: logging.Logger, label: str) -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """The same logger with ``label`` in front of every line, if there is one: for what there may be several of."""
    return _Labelled(logger, {"label": label.replace("%", "%%")}) if label else logger


class _Labelled(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"{self.extra['label']}: {msg}" if self.extra else msg, kwargs


def configure(
    level: str = "INFO", *, no_color: bool = False, as_json: bool = False, stream: TextIO | None = None
) -> None:
    """Sends our records at ``level`` and above to ``stream`` (stdout). An unknown level means INFO, as in the
    reference."""
    out = stream or sys.stdout or sys.stderr or io.StringIO()  # a process may be started without either
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="backslashreplace")  # a record that this locale cannot show is still a record
    handler = _Handler(out)
    if as_json:
        handler.setFormatter(_JsonFormatter())
    elif out.isatty():
        handler.setFormatter(_TerminalFormatter(no_color=no_color))
    else:
        handler.setFormatter(_PlainFormatter())
    root = logging.getLogger(_ROOT)
    root.handlers[:] = [handler]
    root.propagate = False
    # what no record of ours shows: looking for it would take longer than writing the record
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # the documented way to skip the search for the caller
    root.setLevel(level.upper() if level.upper() in _COLOURS else "INFO")
    adopt("trio")  # a listener that finds no descriptor says so there, with a traceback of many lines


class _Handler(logging.StreamHandler[TextIO]):
    """Where nothing can be written (a full disk, a reader that left), the library would fill standard error with a
    traceback for each record. The runner goes on; that lines are lost is said, but not for each."""

    _told_at = float("-inf")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif time.monotonic() - self._told_at >= _SILENCE:
            self._told_at = time.monotonic()
            with suppress(OSError, ValueError, AttributeError):
                sys.stderr.write(f"Log lines are lost, because they cannot be written: {error.strerror}\n")


def adopt(name: str) -> None:
    """What another library has to say from a warning upwards goes where our records go, not to stderr."""
    logger = logging.getLogger(name)
    logger.handlers[:] = logging.getLogger(_ROOT).handlers
    logger.propagate = False
    logger.setLevel(max(logging.WARNING, logging.getLogger(_ROOT).level))


def one_line(text: str, longest: int = _LONGEST, mark: str = "… [cut]") -> str:
    """The launcher forwards lines: a record must be one, and below its 64 KiB (deployment.md 3.3). What user code
    prints must not be able to pose as another record or to talk to the terminal. ``mark`` ends what was cut."""
    flat = text[: longest + 1] if text.isprintable() else _HARMFUL.sub(_escaped, text[: longest + 1])
    return flat if len(flat) <= longest else f"{flat[:longest]}{mark}"


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f" ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})"
        return one_line(text)


class _JsonFormatter(logging.Formatter):
    """ASCII alone, so that no locale and no terminal can make anything else of it."""

    def __init__(self) -> None:
        super().__init__()
        import json  # which nobody else needs

        self._encode = json.dumps

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _cut(record.getMessage(), _LONGEST),
        }
        given = record.__dict__
        if (task := given.get("task")) is not None:
            line |= task.fields()
        elif "task_id" in given:
            line["task_id"] = given["task_id"]
        if "outcome" in given:
            line["outcome"] = given["outcome"]
        if record.exc_info:
            line["exception"] = _cut(self.formatException(record.exc_info), _LONGEST // 2)
        for name, value in line.items():
            if isinstance(value, str) and name not in ("message", "exception"):
                line[name] = _cut(value, _LONGEST_NAME)
        text = self._encode(line)
        if len(text) > _LONGEST_LINE:  # a character can take twelve
            line |= {name: _cut(line[name], 1000) for name in ("message", "exception") if name in line}
            text = self._encode(line)
        return text


def _cut(text: str, longest: int) -> str:
    whole = text if len(text) <= longest else f"{text[:longest]}… [cut]"
    return whole.encode("utf-8", "backslashreplace").decode("utf-8")  # halves of characters are no JSON to everybody


class _TerminalFormatter(logging.Formatter):
    def __init__(self, *, no_color: bool) -> None:
        super().__init__()
        self._no_color = no_color

    def format(self, record: logging.LogRecord) -> str:
        time = f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')}.{record.msecs:03.0f}"
        parts = (time, record.levelname, one_line(record.getMessage()))
        text = "\t".join(parts) if self._no_color else self._coloured(*parts)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text

    @staticmethod
    def _coloured(time: str, level: str, message: str) -> str:
        colour = _COLOURS.get(level, "0")
        return f"\x1b[2m{time}\x1b[0m  \x1b[{colour}m{level}\x1b[0m  {message}"
