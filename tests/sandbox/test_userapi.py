"""print, stdout and stderr of user code: what n8n shows, in order, and never more than its limits."""

from __future__ import annotations

import contextlib
import enum
import io
import json
import logging
import pprint
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from datetime import date
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_runner.sandbox.userapi import (
    MAX_PRINT_BYTES,
    MAX_PRINT_TEXT,
    MAX_PRINTS,
    MAX_STDERR,
    CapturedErrors,
    LineStream,
    Printer,
)

checked = settings(deadline=None, derandomize=True)


class Recorder:
    """A printer and what it handed on."""

    def __init__(self, **options: int) -> None:
        self.frames: list[bytes] = []
        self.printer = Printer(self.frames.append, **options)
        self.print = self.printer.print

    @property
    def records(self) -> list[list[str]]:
        """What was handed on so far."""
        return [msgspec.json.decode(frame, type=list[str]) for frame in self.frames]

    def done(self) -> list[list[str]]:
        """All that a program's prints become."""
        self.printer.finish()
        return self.records


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@contextlib.contextmanager
def stdout_of(recorder: Recorder) -> Iterator[None]:
    """``sys.stdout`` as user code finds it. No fixture: pytest changes stdout after those."""
    with contextlib.redirect_stdout(LineStream(recorder.printer)):
        yield


class Odd:
    def __repr__(self) -> str:
        return "odd"


class Level(enum.IntEnum):
    LOW = 1


circular_list: list[Any] = []
circular_list.append(circular_list)
circular_dict: dict[str, Any] = {}
circular_dict["self"] = circular_dict


class Bag(list[Any]):
    pass


circular_bag = Bag()
circular_bag.append(circular_bag)


# Arguments as texts (runner-behaviour 9)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("", "''"),
        ('it\'s\n"q" \\', "'it's\n\"q\" \\'"),
        ("é\u2028🎉", "'é\u2028🎉'"),
        (None, "None"),
        (True, "True"),
        (1, "1"),
        (1.5, "1.5"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (-0.0, "-0.0"),
        (10**40, "1" + "0" * 40),
        (Level.LOW, "1"),
        ({"k": "é", "b": True, "n": None}, '{"k": "é", "b": true, "n": null}'),
        ({1: 2, None: 3, 1.5: 4}, '{"1": 2, "null": 3, "1.5": 4}'),
        ([1, "a", [None]], '[1, "a", [null]]'),
        ((1, 2), "[1, 2]"),
        ({1}, '"{1}"'),
        (frozenset(), '"frozenset()"'),
        (b"\x00", "\"b'\\\\x00'\""),
        (range(2), '"range(0, 2)"'),
        (date(2024, 1, 2), '"2024-01-02"'),
        ([date(2024, 1, 2)], '["2024-01-02"]'),
        (Odd(), '"odd"'),
        (OrderedDict(a=1), '{"a": 1}'),
        ([float("nan")], "[NaN]"),
        (circular_list, "[Circular list]"),
        (circular_dict, "[Circular dict]"),
        (circular_bag, "[Circular Bag]"),
        ({(1, 2): 3}, "[Circular dict]"),
        ([{b"": 1}], "[Circular list]"),
        (len, '"<built-in function len>"'),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_an_argument_is_recorded_as_n8n_shows_it(recorder: Recorder, value: object, text: str) -> None:
    recorder.print(value)
    assert recorder.done() == [[text]]


def test_one_call_is_one_record_with_a_text_for_each_argument(recorder: Recorder) -> None:
    recorder.print("a", 1, [2])
    recorder.print()
    recorder.print("", None)
    assert recorder.records == [["'a'", "1", "[2]"], [], ["''", "None"]]


def test_arguments_are_formatted_at_call_time_and_handed_on_at_once(recorder: Recorder) -> None:
    value = [1]
    recorder.print(value)
    assert recorder.records == [["[1]"]]
    value.append(2)
    assert recorder.done() == [["[1]"]]


def test_a_value_too_deep_for_json_is_not_encodable(recorder: Recorder) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    recorder.print(deep)
    assert recorder.done() == [["[Circular list]"]]


# sep, end, file, flush


@pytest.mark.parametrize(
    ("calls", "records"),
    [
        ([(("a", "b"), {"sep": "-"})], [["'a-b'"]]),
        ([(("a", 1, None), {"sep": ""})], [["'a1None'"]]),
        ([(("a", "b"), {"sep": "\n"})], [["'a'"], ["'b'"]]),
        ([(("a",), {"end": ""}), (("b",), {})], [["'ab'"]]),
        ([(("a",), {"end": ""}), (("b", "c"), {"end": "!"})], [["'ab c!'"]]),
        ([(("a",), {"end": "\n\n"})], [["'a'"], ["''"]]),
        ([((), {"end": ""})], []),
        ([((), {"end": "x"})], [["'x'"]]),
        ([(("a",), {"end": ""}), ((), {})], [["'a'"]]),
        ([(("a\nb",), {})], [["'a\nb'"]]),
        ([(("a\nb",), {"end": "\n"})], [["'a'"], ["'b'"]]),
        ([(([1], {"a": 1}), {"sep": " "})], [["'[1] {'a': 1}'"]]),
        ([(("a",), {"sep": None, "end": None})], [["'a'"]]),
        ([(("a",), {"flush": True})], [["'a'"]]),
        ([(("a",), {"end": "", "flush": True}), (("b",), {})], [["'a'"], ["'b'"]]),
        ([(("a",), {"file": None})], [["'a'"]]),
        ([(("a", "b"), {"end": ""}), (("c",), {"end": ""}), (("d",), {"end": "\n"})], [["'a bcd'"]]),
    ],
)
def test_sep_and_end_lay_out_lines(recorder: Recorder, calls: list[Any], records: list[list[str]]) -> None:
    for arguments, options in calls:
        recorder.print(*arguments, **options)
    assert recorder.done() == records


@pytest.mark.parametrize("options", [{"sep": 1}, {"end": b""}, {"sep": ["a"]}, {"nope": 1}, {"end": 1, "sep": "x"}])
def test_wrong_options_are_type_errors_as_everywhere(recorder: Recorder, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        recorder.print("a", "b", **options)
    assert recorder.done() == []


@checked
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["a", "b\nc", "", 1, None]), max_size=3),
            st.sampled_from([" ", "", "-", "\n"]),
            st.sampled_from(["\n", "", "x", "\n\n", "y\nz"]),
        ),
        max_size=8,
    )
)
def test_laid_out_text_is_what_python_prints_line_by_line(calls: list[Any]) -> None:
    recorder, text = Recorder(), io.StringIO()
    for arguments, sep, end in calls:
        recorder.print(*arguments, sep=sep, end=end)
        print(*arguments, sep=sep, end=end, file=text)
    lines = text.getvalue().split("\n")
    assert recorder.done() == [[f"'{line}'"] for line in (lines if lines[-1] else lines[:-1])]


def test_another_file_is_written_to_and_not_recorded(recorder: Recorder) -> None:
    file, errors = io.StringIO(), CapturedErrors()
    recorder.print("a", 1, file=file, sep="-", end="!", flush=True)
    recorder.print("oh", file=errors)
    assert (file.getvalue(), errors.text) == ("a-1!", "oh\n")
    with stdout_of(recorder):
        recorder.print("b", file=sys.stdout)
    assert recorder.done() == [["'b'"]]


def test_a_file_that_is_none_raises_what_python_raises(recorder: Recorder) -> None:
    with pytest.raises(AttributeError):
        recorder.print("a", file=5)


# What libraries write


def test_pprint_logging_and_plain_writes_are_recorded_line_by_line(recorder: Recorder) -> None:
    with stdout_of(recorder):
        pprint.pprint({"a": list(range(3)), "b": "x" * 60, "c": "y" * 60})
        logger = logging.Logger("user")
        logger.addHandler(logging.StreamHandler(sys.stdout))
        logger.warning("careful: %s", 1)
        sys.stdout.write("no line end, ")
        sys.stdout.writelines(["then ", "two\n", "more\n"])
    assert recorder.done() == [
        ["'{'a': [0, 1, 2],'"],
        [f"' 'b': '{'x' * 60}','"],
        [f"' 'c': '{'y' * 60}'}}'"],
        ["'careful: 1'"],
        ["'no line end, then two'"],
        ["'more'"],
    ]


def test_prints_and_writes_stay_in_order(recorder: Recorder) -> None:
    with stdout_of(recorder):
        recorder.print("a")
        sys.stdout.write("b\nc")
        recorder.print("d", 1)
        recorder.print("e")
    assert recorder.done() == [["'a'"], ["'b'"], ["'cd 1'"], ["'e'"]]


@checked
@given(st.lists(st.text(st.sampled_from("ab\n\r"), max_size=6), max_size=12))
def test_how_a_text_is_split_into_writes_does_not_matter(pieces: list[str]) -> None:
    one, many = Recorder(), Recorder()
    one.printer.write("".join(pieces))
    for piece in pieces:
        many.printer.write(piece)
    assert one.done() == many.done()


def test_the_streams_behave_like_text_files(recorder: Recorder) -> None:
    for stream in (LineStream(recorder.printer), CapturedErrors()):
        assert stream.write("abc") == 3
        assert stream.writable()
        assert not stream.readable()
        assert not stream.isatty()
        assert stream.encoding == "utf-8"
        stream.flush()
        with pytest.raises(TypeError, match="write\\(\\) argument must be str, not bytes"):
            stream.write(b"abc")  # type: ignore[arg-type]
        with pytest.raises(io.UnsupportedOperation):
            stream.fileno()


# Limits


@pytest.mark.parametrize("count", [0, 1, MAX_PRINTS - 1, MAX_PRINTS, MAX_PRINTS + 1, 10_000])
def test_a_hundred_calls_are_kept_and_the_rest_is_counted(recorder: Recorder, count: int) -> None:
    for number in range(count):
        recorder.print(number)
    records = recorder.done()
    assert records[:MAX_PRINTS] == [[str(number)] for number in range(min(count, MAX_PRINTS))]
    dropped = count - MAX_PRINTS
    assert records[MAX_PRINTS:] == ([[f"[Output truncated - {dropped} more print statements]"]] if dropped > 0 else [])


@pytest.mark.parametrize("text", ["x\n" * 1000, "x\n" * 999 + "x"])
def test_lines_that_are_written_count_like_calls(recorder: Recorder, text: str) -> None:
    recorder.printer.write(text)
    records = recorder.done()
    assert records[99:] == [["'x'"], ["[Output truncated - 900 more print statements]"]]


def test_what_is_not_kept_is_not_even_formatted(recorder: Recorder) -> None:
    asked: list[int] = []

    class Asked:
        def __repr__(self) -> str:
            asked.append(1)
            return "x"

    for _ in range(MAX_PRINTS + 50):
        recorder.print(Asked())
    assert len(asked) == MAX_PRINTS


def test_a_long_text_is_cut_and_says_so(recorder: Recorder) -> None:
    recorder.print("x" * 200_000)
    recorder.print(["y" * 200_000])
    for (text,) in recorder.done():
        assert len(text) < MAX_PRINT_TEXT + 100
        assert text.endswith("more characters]")


@pytest.mark.parametrize("letter", ["x", "é", "🎉", "\x00", '"'])
def test_all_records_together_stay_below_the_limit_in_bytes(letter: str) -> None:
    recorder = Recorder()
    for _ in range(90):
        recorder.print(letter * 60_000)
    records = recorder.done()
    assert records[-1][0].startswith("[Output truncated - ")
    assert MAX_PRINT_BYTES // 2 < sum(map(len, recorder.frames)) < MAX_PRINT_BYTES + 100


def test_a_call_with_hundreds_of_thousands_of_arguments_is_one_call_that_does_not_fit(recorder: Recorder) -> None:
    recorder.print(*[1] * 400_000)
    recorder.print("after")
    assert recorder.done() == [["[Output truncated - 2 more print statements]"]]


def test_a_smaller_limit_is_kept_too() -> None:
    recorder = Recorder(max_bytes=50)
    recorder.print("x" * 20)
    recorder.print("y" * 40)
    recorder.print("z")
    assert recorder.done() == [[f"'{'x' * 20}'"], ["[Output truncated - 2 more print statements]"]]


def test_a_line_that_never_ends_is_recorded_in_parts(recorder: Recorder) -> None:
    for _ in range(20):
        recorder.printer.write("x" * 10_000)
    records = recorder.done()
    assert len(records) == 3
    assert all(len(text) < MAX_PRINT_TEXT + 10_100 for (text,) in records)


@pytest.mark.parametrize("write", ["letters", "lines", "calls", "one text"])
def test_a_flood_costs_little(recorder: Recorder, write: str) -> None:
    """Joining a pending line anew with each letter, or splitting a text into all of its lines, takes far longer."""
    started = time.process_time()
    if write == "letters":
        for _ in range(100_000):
            recorder.printer.write("x")
    elif write == "lines":
        for _ in range(50_000):
            recorder.print("x", end="\n")
    elif write == "calls":
        for _ in range(100_000):
            recorder.print("x", [1])
    else:
        recorder.printer.write("\n" * 30_000_000)
    recorder.done()
    assert time.process_time() - started < 3


def test_stderr_keeps_its_end_and_costs_little() -> None:
    errors = CapturedErrors()
    started = time.process_time()
    for number in range(100_000):
        errors.write(f"{number}\n")
    errors.write("x" * 10_000_000 + "the end")
    assert time.process_time() - started < 3
    assert len(errors.text) == MAX_STDERR
    assert errors.text.endswith("xthe end")
    errors.write("\nmore")
    assert errors.text.endswith("the end\nmore")
    assert len(errors.text) == MAX_STDERR


@checked
@given(st.lists(st.integers(0, 3 * MAX_STDERR), max_size=8))
def test_stderr_is_the_end_of_everything_written(sizes: list[int]) -> None:
    errors = CapturedErrors()
    pieces = [chr(97 + number) * size for number, size in enumerate(sizes)]
    for piece in pieces:
        errors.write(piece)
    assert errors.text == "".join(pieces)[-MAX_STDERR:]


# Odd texts and objects


def test_half_surrogates_and_binary_garbage_are_recorded_as_something_that_can_be_sent(recorder: Recorder) -> None:
    recorder.print("a\ud800b", ["\udfff"], b"\xff\xfe")
    recorder.print("\ud800", end="")
    recorder.printer.write("\udcff\n")
    recorder.printer.write(b"\xff\x00\x80".decode("latin-1") + "\n")
    assert recorder.done() == [
        ["'a?b'", '["?"]', "\"b'\\\\xff\\\\xfe'\""],
        ["'??'"],
        ["'\xff\x00\x80'"],
    ]


printable = st.none() | st.floats() | st.text(st.characters(), max_size=5) | st.binary(max_size=5)


@settings(checked, max_examples=50)
@given(st.lists(printable | st.lists(printable, max_size=3), max_size=3))
def test_any_call_becomes_a_json_array_of_texts(values: list[Any]) -> None:
    recorder = Recorder()
    recorder.print(*values)
    recorder.print(*values, sep="|")
    recorder.done()
    for frame in recorder.frames:
        assert all(isinstance(text, str) for text in json.loads(frame.decode()))


class LyingText(str):
    def __str__(self) -> Any:
        return self

    def __len__(self) -> int:
        return 0

    def __format__(self, spec: str) -> str:
        return "formatted"

    def __getitem__(self, index: Any) -> Any:
        raise KeyError

    def split(self, *_: Any) -> Any:
        raise KeyError

    def encode(self, *_: Any, **__: Any) -> Any:
        raise KeyError


class LyingNumber(int):
    def __str__(self) -> str:
        return LyingText("number")


def test_texts_that_lie_about_themselves_are_recorded(recorder: Recorder) -> None:
    recorder.print(LyingNumber(5))
    recorder.print(LyingText("real"), end="\n")
    LineStream(recorder.printer).write(LyingText("line\n"))
    errors = CapturedErrors()
    errors.write(LyingText("e" * 10))
    recorder.print(LyingText("x"))
    assert recorder.done() == [["number"], ["'real'"], ["'line'"], ["'formatted'"]]
    assert errors.text == "e" * 10


def test_what_a_value_raises_when_it_is_printed_is_the_authors_to_see(recorder: Recorder) -> None:
    class Broken:
        def __str__(self) -> str:
            raise LookupError("mine")

    for options in ({}, {"sep": "-"}):
        with pytest.raises(LookupError, match="mine"):
            recorder.print(Broken(), **options)
    recorder.print("fine")
    assert recorder.done() == [["'fine'"]]


def test_a_value_that_prints_while_it_is_printed_does_not_upset_the_order(recorder: Recorder) -> None:
    class Chatty:
        def __str__(self) -> str:
            recorder.print("inner")
            return "outer"

    recorder.print(Chatty())
    recorder.print(Chatty(), end="")
    recorder.print("!")
    assert recorder.done() == [["'inner'"], ['"outer"'], ["'inner'"], ["'outer!'"]]


def test_prints_of_many_threads_are_all_there_and_whole(recorder: Recorder) -> None:
    def work(number: int) -> None:
        for _ in range(10):
            recorder.print(number, "x" * 100)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = recorder.done()
    assert sorted(records) == sorted([str(number), f"'{'x' * 100}'"] for number in range(9) for _ in range(10))


def test_records_are_handed_on_one_at_a_time() -> None:
    under_way: list[int] = []
    most: list[int] = []

    def emit(record: bytes) -> None:
        under_way.append(1)
        most.append(len(under_way))
        time.sleep(0.001)
        under_way.pop()

    printer = Printer(emit)
    threads = [threading.Thread(target=lambda: [printer.print(n) for n in range(30)], daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (max(most), len(most)) == (1, MAX_PRINTS)
