"""What an exception of the program looks like to its author: type, the user's own lines, nothing of ours.

Owns the words and their bounds. Every text of the exception is the user's and may be huge or raise when asked for, and
so may every attribute: what is read here is read past the user's own classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from types import CodeType, TracebackType
from typing import Final

from trio_runner.sandbox.compiling import USER_FILES, USER_FUNCTION

MAX_TEXT: Final = 65_536
_MAX_LINE: Final = 160
_MAX_NAME: Final = 200
_FIRST_FRAMES: Final = 2
_LAST_FRAMES: Final = 6

# What ends a line for the interpreter. `str.splitlines` knows eight more, so that a form feed or a line separator in a
# text would shift every line below it.
LINE_END: Final = re.compile(r"\r\n|\r|\n")

# The interpreter's own attributes: a subclass can hide each of them behind a property that lies or raises.
_own_name = type.__dict__["__name__"].__get__
_own_traceback = BaseException.__dict__["__traceback__"].__get__
_own_cause = BaseException.__dict__["__cause__"].__get__
_own_context = BaseException.__dict__["__context__"].__get__
_own_suppression = BaseException.__dict__["__suppress_context__"].__get__


def clip(text: str, limit: int = MAX_TEXT) -> str:
    """The first ``limit`` characters of ``text`` as UTF-8 can carry them, and how many more there are."""
    text = str.__str__(text)  # a subclass can lie about its length and its pieces
    if len(text) > limit:
        text = f"{text[:limit]}… [{len(text) - limit} more characters]"
    return text.encode(errors="replace").decode()


def type_name(value: object) -> str:
    """The name of a value's real class, whatever its metaclass says."""
    return clip(_own_name(type(value)), _MAX_NAME)


def text_of(error: BaseException) -> str:
    """``str(error)``, whatever the error's own ``__str__`` does."""
    try:
        return clip(str(error))
    except BaseException as second:
        return f"<the text of this {type_name(error)} could not be read: {type_name(second)}>"


def user_frames(error: BaseException) -> list[tuple[int, str]]:
    """The user's own frames, outermost first, as (line, function name); the program itself has no name."""
    frames: list[tuple[int, str]] = []
    for traceback in chain(error):
        code = traceback.tb_frame.f_code
        if is_users(code):
            name = str.__str__(code.co_name)
            frames.append((traceback.tb_lineno or 0, "" if name in (USER_FUNCTION, "<module>") else name))
    return frames


def chain(error: BaseException) -> Iterator[TracebackType]:
    """The traceback of an exception, outermost call first."""
    traceback: TracebackType | None = _own_traceback(error)
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def is_users(code: CodeType) -> bool:
    """Whether this is code of the program itself."""
    return str.__str__(code.co_filename) in USER_FILES


def let_go(error: BaseException) -> None:
    """Frees what the frames of an exception still hold; their lines stay known."""
    for traceback in chain(error):
        with suppress(RuntimeError):  # a frame that is still running
            traceback.tb_frame.clear()


def summary(error: BaseException, source: str) -> str:
    """A short traceback in the usual form, last call last, with the user's source lines."""
    frames = user_frames(error)
    lines = LINE_END.split(source) if frames else []
    shown = [
        _frame(line, name, lines) for line, name in (*frames[:_FIRST_FRAMES], *frames[_FIRST_FRAMES:][-_LAST_FRAMES:])
    ]
    if len(frames) > len(shown):
        shown.insert(_FIRST_FRAMES, f"  … {len(frames) - len(shown)} more calls …")
    head = ["Traceback (most recent call last):"] if shown else []
    text = text_of(error)
    last = type_name(error) + (f": {text}" if text else "")
    return "\n".join([*head, *shown, clip(last, 2000), *_because(error)])


def _because(error: BaseException) -> list[str]:
    """The exception that led to this one, if the author did not hide it."""
    cause = _own_cause(error)
    if cause is None and not _own_suppression(error):
        cause = _own_context(error)
    if cause is None:
        return []
    where = user_frames(cause)
    at = f" (line {where[-1][0]})" if where else ""
    return [f"Caused by {type_name(cause)}: {clip(text_of(cause), 500)}{at}"]


def _frame(line: int, name: str, source: list[str]) -> str:
    code = source[line - 1].strip() if 0 < line <= len(source) else ""
    place = f"  line {line}" + (f", in {clip(name, _MAX_NAME)}" if name else "")
    return f"{place}: {clip(code, _MAX_LINE)}" if code else place
