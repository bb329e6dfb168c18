"""What a log line looks like, and that user text cannot make it look like something else (runner-behaviour 4)."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.shell.test_counters import a_task
from trio_runner import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger("trio_runner")
    before = root.level, root.handlers[:], root.propagate
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    root.propagate = before[2]


def said(stream: io.StringIO, *, level: str = "DEBUG", no_color: bool = False) -> Callable[..., str]:
    """Configures logging to the stream; calling the result logs once and gives what came out."""
    log.configure(level, no_color=no_color, stream=stream)
    logger = log.get_logger("test")

    def say(text: str, *args: object, level: int = logging.INFO, error: BaseException | None = None) -> str:
        stream.seek(0)
        stream.truncate()
        logger.log(level, text, *args, exc_info=error)
        return stream.getvalue()

    return say


TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"


def test_elsewhere_than_on_a_terminal_a_line_is_the_bare_message() -> None:
    say = said(io.StringIO())
    assert say("Accepted task %s", "abc") == "Accepted task abc\n"
    assert say("worse", level=logging.ERROR) == "worse\n"


@pytest.mark.parametrize(
    ("level", "colour"),
    [("DEBUG", 34), ("INFO", 32), ("WARNING", 33), ("ERROR", 31), ("CRITICAL", 31)],
)
def test_on_a_terminal_time_level_and_message_stand_two_blanks_apart_in_colour(level: str, colour: int) -> None:
    line = said(Terminal())("hello  there", level=logging.getLevelName(level))
    assert f"\x1b[{colour}m{level}\x1b[0m" in line
    assert re.fullmatch(rf"{TIME}  {level}  hello  there\n", re.sub(r"\x1b\[\d+m", "", line))


def test_with_no_color_a_terminal_gets_the_same_parts_with_tabs() -> None:
    line = said(Terminal(), no_color=True)("hello", level=logging.WARNING)
    assert re.fullmatch(rf"{TIME}\tWARNING\thello\n", line)


@pytest.mark.parametrize("level", ["INFO", "info", "loud", ""])
def test_unknown_levels_mean_info_and_case_does_not_matter(level: str) -> None:
    say = said(io.StringIO(), level=level)
    assert say("said") == "said\n"
    assert say("unsaid", level=logging.DEBUG) == ""


@pytest.mark.parametrize("threshold", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_a_level_silences_all_below_it(threshold: str) -> None:
    say = said(io.StringIO(), level=threshold)
    for level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        number: int = logging.getLevelName(level)
        assert bool(say("x", level=number)) == (number >= logging.getLevelName(threshold))


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nRegistered with broker", r"a\nRegistered with broker"),
        ("a\r\nb", r"a\r\nb"),
        ("a\rb", r"a\rb"),
        ("a\x1b[2J\x1b]0;title\x07b", r"a\x1b[2J\x1b]0;title\x07b"),
        ("a\x9b31mb", r"a\x9b31mb"),
        ("a\x00\x7fb", r"a\x00\x7fb"),
        ("a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029b", r"a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029b"),
        ("a\u202egpj.exe", r"a\u202egpj.exe"),
        ("half \ud83d a character", r"half \ud83d a character"),
        ("tab\there", "tab\there"),
        ("äöü 日本　語 😀 \\n", "äöü 日本　語 😀 \\n"),
    ],
)
def test_text_that_could_pose_as_another_line_or_move_the_cursor_is_spelled_out(
    stream: type[io.StringIO], text: str, shown: str
) -> None:
    line = said(stream())("[user code] %s", text)
    assert line.endswith(f"[user code] {shown}\n")
    assert line.count("\n") == 1


@given(st.text(st.characters(), max_size=40))
def test_whatever_the_text_a_record_is_one_line_that_can_be_encoded(text: str) -> None:
    stream = io.StringIO()
    line = said(stream)("%s", text)
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f]", line.removesuffix("\n"))
    line.encode()


def test_a_long_line_is_cut_and_says_so() -> None:
    line = said(io.StringIO())("%s", "é" * 1_000_000)
    assert line == "é" * 16_000 + "… [cut]\n"
    assert len(line.encode()) < 65_536


def test_a_line_of_exactly_the_limit_is_whole() -> None:
    assert said(io.StringIO())("%s", "x" * 16_000) == "x" * 16_000 + "\n"


def test_line_ends_are_counted_as_what_they_become() -> None:
    line = said(io.StringIO())("%s", "\n" * 20_000)
    assert line.startswith(r"\n\n")
    assert len(line) < 16_020


def error() -> BaseException:
    try:
        raise ValueError("bad\nthing")
    except ValueError as caught:
        return caught


def test_elsewhere_than_on_a_terminal_an_error_is_named_without_its_traceback() -> None:
    assert said(io.StringIO())("oops", error=error()) == "oops (ValueError: bad\\nthing)\n"


def test_on_a_terminal_an_error_has_its_traceback() -> None:
    text = said(Terminal())("oops", error=error())
    assert "oops\n" in text
    assert text.rstrip().endswith("ValueError: bad\nthing")


def test_a_character_that_the_locale_does_not_have_costs_no_line() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    log.configure(stream=stream)
    log.get_logger("test").info("naïve ☃")
    stream.flush()
    assert raw.getvalue() == b"na\\xefve \\u2603\n"


class Full(io.StringIO):
    """Where nothing can be written any more."""

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_lines_that_cannot_be_written_are_told_once_without_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(stream=Full())
    for number in range(3):
        log.get_logger("test").info("line %d", number)
    told = "Log lines are lost, because they cannot be written: No space left on device\n"
    assert capsys.readouterr() == ("", told)


def test_a_process_without_output_logs_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    log.configure()
    log.get_logger("test").info("heard by nobody")


def test_what_trio_has_to_say_is_one_line_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    log.configure(stream=stream)
    error = OSError(errno.EMFILE, "Too many open files")
    logging.getLogger("trio.serve_listeners").error("accept failed", exc_info=error)
    assert stream.getvalue() == "accept failed (OSError: [Errno 24] Too many open files)\n"
    assert capsys.readouterr() == ("", "")


def test_configuring_again_replaces_the_stream_and_nobody_else_hears_us() -> None:
    first, second, others = io.StringIO(), io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(others)
    logging.getLogger().addHandler(handler)
    try:
        log.configure(stream=first)
        log.configure(stream=second)
        log.get_logger("test").info("once")
    finally:
        logging.getLogger().removeHandler(handler)
    assert (first.getvalue(), second.getvalue(), others.getvalue()) == ("", "once\n", "")


def test_lines_go_to_stdout_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(stream=sys.stdout)
    log.configure()
    log.get_logger("test").error("to stdout")
    assert capsys.readouterr() == ("to stdout\n", "")


# JSON


def in_json(
    text: str,
    *args: object,
    stream: io.StringIO | None = None,
    extra: dict[str, object] | None = None,
    error: BaseException | None = None,
) -> dict[str, object]:
    """What a record looks like as JSON."""
    out = stream or io.StringIO()
    log.configure("DEBUG", as_json=True, stream=out)
    log.get_logger("test").warning(text, *args, extra=extra, exc_info=error)
    line = out.getvalue()
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    assert len(line) < 65_536
    assert line.isascii()
    decoded: dict[str, object] = json.loads(line)
    return decoded


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_as_json_a_record_is_an_object_wherever_it_goes(stream: type[io.StringIO]) -> None:
    line = in_json("Accepted task %s", "abc", stream=stream())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", str(line.pop("time")))
    assert line == {"level": "WARNING", "logger": "trio_runner.test", "message": "Accepted task abc"}


def test_as_json_the_line_that_ends_a_task_has_its_ids_and_its_outcome() -> None:
    record = a_task()
    line = in_json("Completed", extra=record.end("done", 11.5))
    assert line["outcome"] == "done"
    assert {name: line[name] for name in record.fields()} == record.fields()
    assert (line["task_id"], line["workflow_id"], line["node_id"]) == ("t", "w", "n")


def test_as_json_a_line_about_a_task_has_its_id_and_no_outcome() -> None:
    line = in_json("[user code] x", extra={"task_id": "t"})
    assert line["task_id"] == "t"
    assert "outcome" not in line


def test_as_json_an_exception_comes_with_its_traceback() -> None:
    try:
        raise ValueError("half \ud83d")
    except ValueError as error:
        line = in_json("oh", error=error)
    assert "ValueError: half " in str(line["exception"])
    assert "test_log.py" in str(line["exception"])


@given(st.text(st.characters(), max_size=40))
@example("a\nb\r\x1b[2J\x9b\u2028\u202e\ud83d😀")
def test_as_json_any_text_is_one_line_that_every_reader_can_decode(text: str) -> None:
    line = in_json("%s", text)
    assert line["message"] == text.encode("utf-8", "backslashreplace").decode("utf-8")
    msgspec.json.decode(json.dumps(line))


@pytest.mark.parametrize("character", ["x", "é", "😀", "\ud83d", "\x00"])
def test_as_json_the_longest_text_and_names_still_fit_into_what_a_launcher_reads(character: str) -> None:
    record = a_task()
    name = character * 100_000
    record.settings = msgspec.structs.replace(record.settings, workflow_name=name, node_name=name, node_id=name)
    line = in_json("%s", name, extra=record.end("done", 12.0))
    assert str(line["message"]).endswith("… [cut]")
    assert len(str(line["node_name"])) < 1500


def test_names_that_n8n_did_not_give_are_null() -> None:
    record = a_task()
    record.settings = msgspec.structs.replace(record.settings, workflow_name=None)
    assert in_json("x", extra=record.end("done", 12.0))["workflow_name"] is None


def test_the_warnings_of_a_library_that_was_adopted_go_where_ours_go() -> None:
    out = io.StringIO()
    log.configure("ERROR", stream=out)
    library = logging.getLogger("a_library")
    log.adopt("a_library")
    logging.getLogger("a_library.part").error("lost\nit")
    library.warning("too quiet for this level")
    log.configure("DEBUG", stream=out)
    log.adopt("a_library")
    library.warning("heard")
    library.info("too chatty")
    assert out.getvalue() == "lost\\nit\nheard\n"
