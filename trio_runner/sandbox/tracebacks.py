"""What an exception of the program looks like to its author: type, the user's own lines, nothing of ours.

Owns the words and their bounds. Every text of the exception is the user's and may be huge or raise when asked for.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final

from trio_runner.sandbox.compiling import USER_FILES, USER_FUNCTION

MAX_TEXT: Final = 65_536
_MAX_LINE: Final = 160
_FIRST_FRAMES: Final = 2
_LAST_FRAMES: Final = 6


def clip(text: str, limit: int = MAX_TEXT) -> str:
    """``text`` in at most ``limit`` characters that UTF-8 can carry."""
    if len(text) > limit:
        text = f"{text[:limit]}… [{len(text) - limit} more characters]"
    return text.encode(errors="replace").decode()


def text_of(error: BaseException) -> str:
    """``str(error)``, whatever the error's own ``__str__`` does."""
    try:
        return clip(str(error))
    except BaseException as second:
        return f"<the text of this {type(error).__name__} could not be read: {type(second).__name__}>"


def user_frames(traceback: TracebackType | None) -> list[tuple[int, str]]:
    """The user's own frames, outermost first, as (line, function name); the program itself has no name."""
    frames: list[tuple[int, str]] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_filename in USER_FILES:
            name = "" if code.co_name in (USER_FUNCTION, "<module>") else code.co_name
            frames.append((traceback.tb_lineno or 0, name))
        traceback = traceback.tb_next
    return frames


def summary(error: BaseException, source: str) -> str:
    """A short traceback in the usual form, last call last, with the user's source lines."""
    lines = source.splitlines()
    frames = user_frames(error.__traceback__)
    shown = [_frame(line, name, lines) for line, name in frames]
    if len(shown) > _FIRST_FRAMES + _LAST_FRAMES:
        skipped = len(shown) - _FIRST_FRAMES - _LAST_FRAMES
        shown[_FIRST_FRAMES:-_LAST_FRAMES] = [f"  … {skipped} more calls …"]
    text = text_of(error)
    last = type(error).__name__ + (f": {text}" if text else "")
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    because = []
    if cause is not None:
        where = user_frames(cause.__traceback__)
        at = f" (line {where[-1][0]})" if where else ""
        because = [f"Caused by {type(cause).__name__}: {clip(text_of(cause), 500)}{at}"]
    head = ["Traceback (most recent call last):"] if shown else []
    return "\n".join([*head, *shown, clip(last, 2000), *because])


def _frame(line: int, name: str, source: list[str]) -> str:
    code = source[line - 1].strip() if 0 < line <= len(source) else ""
    place = f"  line {line}" + (f", in {name}" if name else "")
    return f"{place}: {clip(code, _MAX_LINE)}" if code else place
