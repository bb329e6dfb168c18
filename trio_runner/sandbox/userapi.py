"""What user code finds beside the language: print, stdout and stderr that reach the workflow's author.

Owns how a print becomes texts (runner-behaviour 9) and how much of it is kept. Knows nothing of sockets: whoever makes
a `Printer` says where a record goes.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from typing import Any, Final

from trio_runner.sandbox.tracebacks import clip

MAX_PRINTS: Final = 100
MAX_PRINT_BYTES: Final = 1_048_576
MAX_PRINT_TEXT: Final = 65_536
MAX_STDERR: Final = 65_536

_to_json = json.JSONEncoder(default=str, ensure_ascii=False).encode


class Printer:
    """Turns print calls into records of texts and hands them on at once, up to the limits."""

    def __init__(self, emit: Callable[[list[str]], None]) -> None:
        self._emit = emit
        self._line = ""
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
            self._record([_as_text(value) for value in args])
        else:
            text = (" " if sep is None else sep).join(map(str, args)) + ("\n" if end is None else end)
            self.write(text)
            if flush:
                self.flush()

    def write(self, text: str) -> None:
        """What is written to stdout: one record for each line."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._record([f"'{line}'"])
        if len(self._line) > MAX_PRINT_TEXT:
            self.flush()

    def flush(self) -> None:
        """Records an unfinished line."""
        if self._line:
            line, self._line = self._line, ""
            self._record([f"'{line}'"])

    def finish(self) -> None:
        """The program is over: records the unfinished line, and how many calls did not fit."""
        self.flush()
        if self._dropped:
            self._emit([f"[Output truncated - {self._dropped} more print statements]"])

    def _record(self, texts: list[str]) -> None:
        if self._dropped or self._kept == MAX_PRINTS:
            self._dropped += 1
            return
        texts = [clip(text, MAX_PRINT_TEXT) for text in texts]
        self._bytes += sum(map(len, texts))
        if self._bytes > MAX_PRINT_BYTES:
            self._dropped += 1
            return
        self._kept += 1
        self._emit(texts)


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return f"'{value}'"
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    try:
        return _to_json(value)
    except (ValueError, TypeError, RecursionError):
        return f"[Circular {type(value).__name__}]"


class LineStream(io.TextIOBase):
    """``sys.stdout`` of user code: pprint, logging and friends end up where print does."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Takes text; a record leaves for each finished line."""
        self._printer.write(str(text))
        return len(text)


class CapturedErrors(io.TextIOBase):
    """``sys.stderr`` of user code: the last of it is told when the program fails."""

    def __init__(self) -> None:
        self._text = ""

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Keeps the end of what was written."""
        self._text = (self._text + str(text))[-MAX_STDERR:]
        return len(text)

    @property
    def text(self) -> str:
        """What there is to tell."""
        return self._text
