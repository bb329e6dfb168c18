"""What user code finds beside the language: print, stdout and stderr that reach the workflow's author.

Owns how a print becomes texts (runner-behaviour 9) and how much of it is kept. Knows nothing of sockets: whoever makes
a `Printer` says where a record goes.
"""

from __future__ import annotations

import _thread
import io
import json
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec

from trio_runner.sandbox.tracebacks import clip, type_name

MAX_PRINTS: Final = 100
PRINTS_CUT: Final = "[Output truncated"
MAX_PRINT_BYTES: Final = 1_048_576
MAX_PRINT_TEXT: Final = 65_536
MAX_STDERR: Final = 65_536

_to_json = json.JSONEncoder(default=str, ensure_ascii=False).encode


class Printer:
    """Turns print calls into records, JSON arrays of texts, and hands them on at once, up to the limits.

    Programs with threads print from any of them: a record is made and handed on by one thread at a time.
    """

    def __init__(self, emit: Callable[[bytes], None], max_bytes: int = MAX_PRINT_BYTES) -> None:
        self._emit = emit
        self._max_bytes = max_bytes
        self._lock = _thread.RLock()  # a signal handler may print while a print is under way
        self._line: list[str] = []
        self._line_size = 0
        self._kept = 0
        self._bytes = 0
        self._dropped = 0

    def print(
        self, *args: object, sep: str | None = None, end: str | None = None, file: Any = None, flush: bool = False
    ) -> None:
        """The ``print`` of user code. Plain calls are recorded value by value, as n8n shows them.

        With ``sep`` or ``end`` the author has laid out the text, so the record is that text; without a line end it
        waits for the rest of the line. Another ``file`` is written to as usual.
        """
        if file is not None and file is not sys.stdout:
            print(*args, sep=sep, end=end, file=file, flush=flush)
        elif sep is None and end is None and not self._line:
            # what is not kept is not formatted either: a flood of prints costs next to nothing
            self._record([] if self._full else [_as_text(value) for value in args])
        else:
            text = io.StringIO()
            print(*args, sep=sep, end=end, file=text)
            self.write(text.getvalue())
            if flush:
                self.flush()

    def write(self, text: str) -> None:
        """What is written to stdout: one record for each line."""
        with self._lock:
            start = 0
            while (stop := text.find("\n", start)) >= 0:
                if self._full:
                    self._dropped += text.count("\n", start)
                    start = text.rindex("\n") + 1
                    self._line, self._line_size = [], 0
                    break
                self._line.append(text[start:stop])
                self._end_line()
                start = stop + 1
            if start < len(text):
                self._line.append(text[start:])
                self._line_size += len(text) - start
                if self._line_size > MAX_PRINT_TEXT:
                    self._end_line()

    def flush(self) -> None:
        """Records an unfinished line."""
        with self._lock:
            if self._line:
                self._end_line()

    def finish(self) -> None:
        """The program is over: records the unfinished line, and how many calls did not fit."""
        self.flush()
        if self._dropped:
            self._emit(msgspec.json.encode([f"{PRINTS_CUT} - {self._dropped} more print statements]"]))

    @property
    def busy(self) -> bool:
        """Whether this thread is in the middle of a print, as a signal handler may find it."""
        return held(self._lock)

    @property
    def _full(self) -> bool:
        return self._dropped > 0 or self._kept == MAX_PRINTS

    def _end_line(self) -> None:
        line, self._line, self._line_size = "".join(self._line), [], 0
        self._record([f"'{line}'"])

    def _record(self, texts: list[str]) -> None:
        with self._lock:
            if self._full:
                self._dropped += 1
                return
            record = msgspec.json.encode([clip(text, MAX_PRINT_TEXT) for text in texts])
            self._bytes += len(record)
            if self._bytes > self._max_bytes:
                self._dropped += 1
                return
            self._kept += 1
            self._emit(record)


def held(lock: Any) -> bool:
    """Whether the calling thread itself holds this RLock."""
    return bool(lock._is_owned())  # what threading.Condition asks it; the type has it in every version


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return f"'{value}'"
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    try:
        return _to_json(value)
    except (ValueError, TypeError, RecursionError):
        return f"[Circular {type_name(value)}]"


class LineStream(io.TextIOBase):
    """``sys.stdout`` of user code: pprint, logging and friends end up where print does."""

    encoding = "utf-8"

    def __init__(self, printer: Printer) -> None:
        self._printer = printer

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Takes text; a record leaves for each finished line."""
        text = _only_text(text)
        self._printer.write(text)
        return len(text)


class CapturedErrors(io.TextIOBase):
    """``sys.stderr`` of user code: the last of it is told when the program fails."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Keeps the end of what was written."""
        text = _only_text(text)
        self._parts.append(text[-MAX_STDERR:])
        self._size += len(self._parts[-1])
        if self._size > 4 * MAX_STDERR:  # not at every write: a program that writes letter by letter would crawl
            self._parts[:] = [self.text]
            self._size = len(self._parts[0])
        return len(text)

    @property
    def text(self) -> str:
        """What there is to tell."""
        return "".join(self._parts)[-MAX_STDERR:]


def _only_text(text: str) -> str:
    """``text`` as an exact str: a subclass could answer differently each time it is asked."""
    if not issubclass(type(text), str):
        raise TypeError(f"write() argument must be str, not {type_name(text)}")
    return str.__str__(text)
