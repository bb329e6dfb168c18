"""One child, spoken to over its socket: what it answers, and how it ends. In a process of its own, as always."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.sandbox.program_kit import OPEN, allowing
from tests.sandbox.test_tracebacks import HOSTILE
from trio_runner.sandbox import child, frames
from trio_runner.sandbox.channel import Channel, ChannelError
from trio_runner.sandbox.child import Prepared
from trio_runner.sandbox.compiling import examine
from trio_runner.sandbox.frames import Compile, Failure, Run
from trio_runner.sandbox.policy import Policy

ROOT = Path(__file__).parent.parent.parent
NURSE = """
import os, resource, socket, sys
import msgspec
from trio_runner.sandbox import child
from trio_runner.sandbox.policy import Policy
control = socket.socket(fileno=int(sys.argv[1]))
while True:
    data, fds, _, _ = socket.recv_fds(control, 65536, 1)
    if not data:
        break
    policy, max_payload, memory = msgspec.msgpack.decode(data, type=tuple[Policy, int, int])
    pid = os.fork()
    if pid == 0:
        try:
            control.close()
            if memory:
                resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
            child.serve(socket.socket(fileno=fds[0]), child.Prepared(policy, max_payload))
        except BaseException:
            os._exit(70)
    os.close(fds[0])
    control.sendall(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
"""
"""Forks a child for each conversation. Not this process: pytest and its threads have no place in a child."""


@pytest.fixture(scope="module", autouse=True)
def nurse() -> Iterator[None]:
    """The process that children are forked from; `converse` finds it in ``_control``."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-X", "utf8", "-c", NURSE, str(theirs.fileno())]
    process = subprocess.Popen(command, cwd=ROOT, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
    theirs.close()
    ours.settimeout(30)
    _control.append(ours)
    yield
    _control.pop().close()
    assert process.wait(10) == 0


_control: list[socket.socket] = []


class Answer(msgspec.Struct):
    """All that a child sent, and its exit code."""

    frames: list[tuple[int, bytes]]
    code: int

    @property
    def kinds(self) -> list[int]:
        """The kinds of its frames."""
        return [kind for kind, _ in self.frames]

    @property
    def result(self) -> Any:
        """What the program returned."""
        assert self.kinds[-1] == frames.RESULT, self.failure
        return json.loads(self.frames[-1][1])

    @property
    def failure(self) -> Failure:
        """Why there is no result."""
        assert self.kinds[-1] == frames.FAILURE, self
        return frames.decode_failure(self.frames[-1][1])

    @property
    def prints(self) -> list[list[str]]:
        """What was printed."""
        return [json.loads(payload) for kind, payload in self.frames if kind == frames.PRINT]


def converse(
    *to_child: tuple[int, bytes], policy: Policy = OPEN, max_payload: int = 1 << 20, memory: int = 0, pause: float = 0
) -> Answer:
    """Sends frames, hangs up, and takes everything, after a ``pause`` in seconds, until the child is gone."""
    ours, theirs = socket.socketpair()
    socket.send_fds(_control[0], [msgspec.msgpack.encode((policy, max_payload, memory))], [theirs.fileno()])
    theirs.close()
    parser = frames.FrameParser(frames.limits_from_child(64 << 20))
    found: list[tuple[int, bytes]] = []

    def send() -> None:
        try:
            for kind, payload in to_child:
                frames.send(ours, kind, payload)
            ours.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    with ours:
        ours.settimeout(30)
        time.sleep(pause)
        try:
            while data := ours.recv(1 << 18):
                found += [(kind, bytes(payload)) for kind, payload in parser.feed(data)]
        except ConnectionResetError:
            pass
        code = int(_control[0].recv(16))
        sender.join()
    return Answer(found, code)


def task(source: str, items: object = (), query: object = None, *, each_item: bool = False) -> list[tuple[int, bytes]]:
    """The frames of a task whose source was looked at before."""
    verdict = examine(source, each_item, OPEN)
    assert verdict.failure is None, verdict.failure
    run = Run(source, each_item, msgspec.json.encode(query), verdict.code)
    data = items if isinstance(items, bytes) else msgspec.json.encode(items)
    return [(frames.RUN, frames.encode(run)), (frames.ITEMS, data)]


def test_a_task_with_code_that_is_known_has_one_answer() -> None:
    answer = converse(*task("return [_items, _query]", [{"json": {"a": 1}}], "q"))
    assert (answer.kinds, answer.result, answer.code) == ([frames.RESULT], [[{"json": {"a": 1}}], "q"], 0)


def test_a_source_that_is_new_gets_a_verdict_first_and_runs_then() -> None:
    source = "return len(_items)"
    ask = (frames.COMPILE, frames.encode(Compile(source, False)))
    run = (frames.RUN, frames.encode(Run(source, False, b"null")))
    answer = converse(ask, run, (frames.ITEMS, b"[1,2]"), policy=Policy())
    assert answer.kinds == [frames.VERDICT, frames.RESULT]
    assert answer.result == 2
    verdict = frames.decode_verdict(answer.frames[0][1])
    again = (frames.RUN, frames.encode(Run(source, False, b"null", verdict.code)))
    assert converse(again, (frames.ITEMS, b"[1]"), policy=Policy()).result == 1


def test_a_source_that_may_not_run_ends_the_child() -> None:
    answer = converse((frames.COMPILE, frames.encode(Compile("import os", False))), policy=Policy())
    verdict = frames.decode_verdict(answer.frames[0][1])
    assert answer.kinds == [frames.VERDICT]
    assert verdict.failure is not None
    assert (verdict.failure.kind, verdict.failure.line, verdict.code) == ("violation", 1, b"")
    assert answer.code == 0


@pytest.mark.parametrize("known", [0, 1])
def test_a_runner_that_hangs_up_early_ends_the_child_without_a_word(known: int) -> None:
    answer = converse(*task("return 1")[:known])
    assert (answer.frames, answer.code) == ([], 0)


def test_a_runner_that_hangs_up_after_the_verdict_does_too() -> None:
    answer = converse((frames.COMPILE, frames.encode(Compile("return 1", False))))
    assert (answer.kinds, answer.code) == ([frames.VERDICT], 0)


def test_big_inputs_and_results_pass() -> None:
    items = [{"json": {"n": n, "text": "é" * 50}} for n in range(10_000)]
    answer = converse(*task("return _items", items), max_payload=64 << 20)
    assert answer.result == items


def test_numbers_that_only_python_reads_are_read() -> None:
    answer = converse(
        *task(
            "return [_items[0], _items[1] > 10**30, str(_items[2])]", b"[1e400, 1e31, 123456789012345678901234567890]"
        )
    )
    assert answer.result == [None, True, "123456789012345678901234567890"]


# Each item


def test_each_item_runs_by_itself_and_results_are_shaped_and_filtered() -> None:
    source = (
        "global n\ntry: n += 1\nexcept NameError: n = 1\n"
        "if _item['json'] == 2: return None\nreturn {'n': n, 'v': _item['json']}"
    )
    answer = converse(*task(source, [{"json": n} for n in range(4)], each_item=True))
    assert answer.result == [{"json": {"n": 1, "v": n}, "pairedItem": {"item": n}} for n in (0, 1, 3)]


def test_the_item_that_failed_is_named_with_its_line() -> None:
    answer = converse(*task("x = 1\nreturn 1 / _item", [1, 2, 0, 3], each_item=True))
    assert (answer.failure.message, answer.failure.item_index, answer.failure.line) == ("division by zero", 2, 2)


def test_what_cannot_be_sent_is_named_with_its_item_and_its_place() -> None:
    source = "return None if _item == 2 else {1, 2} if _item else {'a': [{(1,): 2}]}"
    failure = converse(*task(source, [1, 2, 0], each_item=True)).failure
    assert (failure.kind, failure.item_index) == ("result", 2)
    assert failure.message == "keys must be str, int, float, bool or None, not tuple"
    where = "The value stands at json.a[0] in item 2 of the result."
    assert failure.description == f"{where} Use texts as keys, like str(key) or '-'.join(key). [TR421]"


@pytest.mark.parametrize(
    ("source", "item", "description"),
    [
        ("x = [1]; x.append(x)\nreturn [{'json': {}}, {'json': {'v': x}}]", 1, "json.v[1] in item 1 of the result."),
        ("return {'a': {'b': {(): 1}}}", None, "a.b in the result."),
    ],
)
def test_in_the_other_mode_it_is_the_item_of_the_result(source: str, item: int | None, description: str) -> None:
    failure = converse(*task(source, [])).failure
    assert failure.item_index == item
    assert str(failure.description).startswith(f"The value stands at {description} ")


NAME = "_user_function.<locals>."
TABLE = "from dataclasses import dataclass\n@dataclass\nclass Row:\n    n: object\n"


def test_where_n8n_wants_items_a_record_is_one_even_in_compat() -> None:
    rows = "[Row(1), {'json': Row({2})}, {'json': {'r': Row(3)}}]"
    sent = [{"n": 1}, {"json": {"n": "{2}"}}, {"json": {"r": NAME + "Row(n=3)"}}]
    assert converse(*task(f"{TABLE}return {rows}")).result == sent
    assert converse(*task(f"{TABLE}return (row for row in {rows})")).result == sent
    assert converse(*task(f"{TABLE}return Row(1)", query="a tool's")).result == NAME + "Row(n=1)"
    each = converse(*task(f"{TABLE}return Row(_item)", [5], each_item=True))
    assert each.result == [{"json": {"n": 5}, "pairedItem": {"item": 0}}]


def test_friendly_is_the_operators_choice() -> None:
    friendly = msgspec.structs.replace(OPEN, friendly=True)
    source = f"{TABLE}return [{{'json': {{'r': Row({{2, 1}})}}}}]"
    assert converse(*task(source), policy=friendly).result == [{"json": {"r": {"n": [1, 2]}}}]


def test_what_the_authors_own_code_raises_on_the_way_out_is_named_with_its_item() -> None:
    source = (
        "class Odd:\n    def __init__(self, n): self.n = n\n"
        "    def __str__(self): return str(1 / self.n)\n"
        "return None if _item == 3 else {'a': [Odd(_item)]}"
    )
    failure = converse(*task(source, [3, 1, 0, 2], each_item=True)).failure
    assert (failure.message, failure.line, failure.item_index, failure.kind) == ("division by zero", 3, 2, "error")
    deep = "x = 1\nfor _ in range(3000): x = [x]\nreturn [{'json': {}}, {'json': {'x': x, 'y': {1}}}]"
    failure = converse(*task(deep)).failure
    assert (failure.message, failure.item_index) == ("The result is nested too deeply to be sent as JSON", 1)


def test_an_error_of_a_generator_is_the_programs_own_with_its_line() -> None:
    failure = converse(*task("def rows():\n    yield 1\n    raise ValueError('stop')\nreturn rows()")).failure
    assert (failure.message, failure.line, failure.kind) == ("stop", 3, "error")


# Failures


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise ValueError('bad')", "bad"),
        ("raise ValueError()", "ValueError"),
        ("raise SystemExit", "Process exited with code None"),
        ("import sys\nsys.exit(3)", "Process exited with code 3"),
        ("raise SystemExit('bye\\ud800')", "Process exited with code bye?"),
        ("raise KeyboardInterrupt('k')", "k"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise BaseException('b')", "b"),
        ("raise BaseExceptionGroup('g', [ValueError()])", "g (1 sub-exception)"),
        ("raise StopIteration(1)", "1"),
        ("raise KeyError('x')", "'x'"),
        ("raise ValueError('\\ud800')", "?"),
    ],
)
def test_whatever_is_raised_is_a_failure_with_its_text(source: str, message: str) -> None:
    answer = converse(*task(source))
    assert (answer.kinds, answer.code, answer.failure.message) == ([frames.FAILURE], 0, message)
    assert answer.failure.line is not None
    assert "line" in (answer.failure.description or "")


def test_the_authors_own_description_and_what_went_to_stderr_are_told() -> None:
    failure = converse(*task("e = ValueError('m')\ne.description = 'mine'\nraise e")).failure
    assert failure.description == "mine"
    failure = converse(
        *task("import sys, logging\nlogging.warning('w')\nprint('to stderr', file=sys.stderr)\n1/0")
    ).failure
    assert failure.description is not None
    assert failure.description.endswith("ZeroDivisionError: division by zero\n\nstderr:\nWARNING:root:w\nto stderr\n")


@pytest.mark.parametrize("name", HOSTILE)
def test_an_exception_that_does_not_want_to_be_told_is_told(name: str) -> None:
    answer = converse(*task(HOSTILE[name] + "raise E()"))
    assert (answer.kinds, answer.code) == ([frames.FAILURE], 0)
    assert answer.failure.message
    assert "could not be described" not in answer.failure.message


ODD_ATTRIBUTES = "    errno = property(lambda self: 1/0)\n    name = property(lambda self: 1/0)\n"


@pytest.mark.parametrize(
    ("base", "body"),
    [
        ("OSError", ODD_ATTRIBUTES),
        ("NameError", ODD_ATTRIBUTES),
        ("Exception", "    description = property(lambda self: 1/0)\n"),
        ("Exception", "    description = type('D', (), {'__bool__': lambda self: 1/0})()\n"),
        ("Exception", "    description = type('D', (), {'__str__': lambda self: 5})()\n"),
        ("Exception", "    description = 'x' * 50_000_000\n"),
        ("Exception", "    description = '\\ud800'\n"),
    ],
)
def test_hostile_attributes_cost_nothing_but_themselves(base: str, body: str) -> None:
    answer = converse(*task(f"class E({base}):\n{body}raise E('text')"))
    assert (answer.failure.message, answer.code) == ("text", 0)
    assert answer.failure.line is not None


def test_a_violation_cannot_be_dressed_up() -> None:
    source = (
        "i = __import__\ntry: i('os')\nexcept Exception as e:\n"
        "    e.args = ('another message',)\n    e.description = 5\n    raise\n"
    )
    verdict = examine(source, False, allowing())
    run = (frames.RUN, frames.encode(Run(source, False, b"null", verdict.code)))
    failure = converse(run, (frames.ITEMS, b"[]"), policy=allowing()).failure
    assert (failure.message, failure.kind) == ("Security violation detected", "violation")
    assert isinstance(failure.description, str)


def test_an_import_of_something_very_long_is_refused_shortly() -> None:
    source = "i = __import__\ni('x' * 50_000_000)"
    verdict = examine(source, False, allowing())
    run = (frames.RUN, frames.encode(Run(source, False, b"null", verdict.code)))
    failure = converse(run, (frames.ITEMS, b"[]"), policy=allowing()).failure
    assert failure.kind == "violation"
    assert len(failure.description or "") < 70_000


@pytest.mark.parametrize(
    "source",
    [
        "x = []\nwhile True: x.append('x' * 10_000)",
        "x = 'x' * 10**12",
        "x = [[]]\nwhile True: x.append([x[-1]])",
        "x = []\nwhile True:\n    for size in (1, 8, 24, 48, 96, 200, 400, 600, 1000, 5000): x.append(bytearray(size))",
    ],
)
def test_a_program_without_memory_left_can_say_so(source: str) -> None:
    answer = converse(*task("y = 1\n" + source), memory=100 << 20)
    assert answer.code == 0
    assert answer.failure.kind == "limit"
    assert answer.failure.message.startswith("Out of memory")
    assert answer.failure.line in (2, 3, 4, None)  # the interpreter itself may have had no room for a traceback


def test_a_program_that_has_taken_the_last_byte_is_told_its_line_all_the_same() -> None:
    source = (
        "x = []\nsize = 1 << 20\nwhile size > 8:\n    try:\n        while True: x.append(bytearray(size))\n"
        "    except MemoryError: size //= 2\nx.append(bytearray(1 << 20))"
    )
    assert converse(*task(source), memory=100 << 20).failure.line == 7


# Limits


@pytest.mark.parametrize("max_payload", [1, 100, 1000])
def test_a_result_beyond_the_limit_is_a_failure_that_says_so(max_payload: int) -> None:
    failure = converse(*task("return 'x' * 1000"), max_payload=max_payload).failure
    assert (failure.kind, failure.limit) == ("limit", "result_size")
    assert failure.message == (
        f"The result is too large: 1002 bytes of JSON, and n8n takes at most {max_payload}"
    )  # fmt: skip


def test_a_result_as_large_as_the_limit_is_sent() -> None:
    assert len(converse(*task("return 'x' * 998"), max_payload=1000).result) == 998


def test_errors_and_prints_stay_below_a_small_limit_too() -> None:
    source = "print('p' * 50_000)\nprint('fits')\nraise ValueError('\\0' * 60_000)"
    answer = converse(*task(source), max_payload=8_000)
    assert all(len(payload) < 8_000 for _, payload in answer.frames)
    assert answer.failure.message.startswith("\0" * 1000)
    assert answer.failure.line == 3
    assert answer.prints == [["[Output truncated - 2 more print statements]"]]


# Prints


def test_prints_come_in_front_of_the_result_whatever_way_they_are_made() -> None:
    source = (
        "import sys, pprint, logging\nprint('a', 1)\n"
        "sys.stdout.write('b\\nc')\nprint('d', end='')\npprint.pprint([1])\n"
        "logging.basicConfig(stream=sys.stdout, format='%(message)s')\nlogging.error('e')\nprint('f', end='')\nreturn 1"
    )
    answer = converse(*task(source))
    assert answer.prints == [["'a'", "1"], ["'b'"], ["'cd[1]'"], ["'e'"], ["'f'"]]
    assert answer.kinds[-1] == frames.RESULT


def test_prints_of_threads_never_cut_a_frame_even_while_a_big_result_leaves() -> None:
    source = (
        "import threading\n"
        "def work():\n    while True: print('x' * 2000)\n"
        "def spin():\n    while True: len([*range(100)])\n"
        "for f in [work] * 6 + [spin] * 2: threading.Thread(target=f, daemon=True).start()\n"
        "return ['y' * 100_000] * 30"
    )
    answer = converse(*task(source), max_payload=8 << 20)
    assert answer.result == ["y" * 100_000] * 30
    assert all(texts == [f"'{'x' * 2000}'"] for texts in answer.prints[:-1])


def test_frames_of_several_threads_leave_one_after_the_other() -> None:
    ours, theirs = socket.socketpair()
    prepared = Prepared(OPEN, 100)
    prepared.attach(theirs)
    ours.settimeout(10)
    threads = [
        threading.Thread(target=prepared.send, args=(frames.RESULT, bytes([n]) * 500_000), daemon=True)
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    parser = frames.FrameParser({frames.RESULT: 500_000})
    found: list[bytes] = []
    while len(found) < 4:
        found += [bytes(payload) for _, payload in parser.feed(ours.recv(20_000))]
    for thread in threads:
        thread.join()
    ours.close()
    theirs.close()
    assert sorted(found) == [bytes([n]) * 500_000 for n in range(4)]


def test_the_first_calls_of_several_threads_go_through_one_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    made = child.channel.Channel
    both = threading.Barrier(2)

    def slowly(*args: Any) -> Channel:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.1)
        return made(*args)

    monkeypatch.setattr(child.channel, "Channel", slowly)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        prepared = Prepared(OPEN, 100)
        prepared.attach(theirs)
        with ThreadPoolExecutor(2) as threads:
            first, second = threads.map(lambda _: prepared.channel, range(2))
    assert first is second


def test_who_calls_in_the_middle_of_a_print_or_a_frame_of_its_thread_gets_an_error() -> None:
    class Interrupted(bytes):
        def __len__(self) -> int:  # where a signal handler might run
            with pytest.raises(ChannelError, match="signal handler"):
                prepared.channel.call("x", b"[]")
            return super().__len__()

    ours, theirs = socket.socketpair()
    with ours, theirs:
        prepared = Prepared(OPEN, 100)
        prepared.attach(theirs)
        assert prepared.send(frames.PRINT, Interrupted(b"[]"))
        with prepared.printer._lock, pytest.raises(ChannelError, match="signal handler"):
            prepared.channel.call("x", b"[]")
        ours.settimeout(10)
        assert ours.recv(100) == frames.header(frames.PRINT, 2) + b"[]"


def test_a_result_waits_for_a_print_that_another_thread_is_sending() -> None:
    """The runner is slow to read: the print fills the socket, and the result comes meanwhile."""
    source = (
        "import threading, time\n"
        "threading.Thread(target=lambda: [print('x' * 60_000) for _ in range(15)], daemon=True).start()\n"
        "time.sleep(0.05)\nreturn 'y' * 1000"
    )
    answer = converse(*task(source), pause=0.2)
    assert answer.result == "y" * 1000
    assert all(texts == [f"'{'x' * 60_000}'"] for texts in answer.prints)


def test_hundreds_of_thousands_of_prints_are_a_hundred_and_one_records() -> None:
    answer = converse(*task("for n in range(100_000): print(n)\nreturn 1"))
    assert len(answer.prints) == 101
    assert answer.prints[-1] == ["[Output truncated - 99900 more print statements]"]


def test_a_signal_handler_that_prints_in_the_middle_of_a_frame_does_not_cut_it() -> None:
    source = (
        "import signal, time\n"
        "signal.signal(signal.SIGALRM, lambda *_: print('tick'))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)\n"
        "for n in range(60): print('x' * 9_000)\n"
        "return ['y' * 100_000] * 60"
    )
    answer = converse(*task(source), max_payload=8 << 20)
    assert answer.result == ["y" * 100_000] * 60


# Ends that are not answers


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("import os\nos._exit(0)", 0),
        ("import os\nos._exit(7)", 7),
        ("import os\nos.closerange(3, 1000)\nreturn 1", 70),
        ("import os\nos.closerange(3, 1000)\n1/0", 70),
        ("import ctypes\nctypes.string_at(0)", -11),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGUSR1)\nreturn 1", -10),
    ],
)
def test_a_program_that_ends_its_process_has_an_exit_code_and_nothing_else(source: str, code: int) -> None:
    answer = converse(*task("import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n" + source))
    assert (answer.frames, answer.code) == ([], code)


def test_objects_that_raise_when_they_go_do_not_matter() -> None:
    source = (
        "class Bad:\n    def __del__(self): raise ValueError('late')\n    def __str__(self): return 'bad'\n"
        "keep = Bad()\nBad()\nreturn [keep, Bad()]"
    )
    assert converse(*task(source)).result == ["bad", "bad"]


def test_a_thread_that_does_not_end_does_not_hold_the_child() -> None:
    source = "import threading, time\nthreading.Thread(target=lambda: time.sleep(1000)).start()\nreturn 1"
    answer = converse(*task(source))
    assert (answer.result, answer.code) == (1, 0)


def test_exit_handlers_of_the_program_do_not_run() -> None:
    source = "import atexit, os\natexit.register(os._exit, 9)\nreturn 1"
    assert converse(*task(source)).code == 0


def test_a_refusal_at_run_time_and_a_lack_of_memory_name_the_line_in_their_description() -> None:
    refused = converse(*task("x = 1\nf = __import__\nf('os')", []), policy=Policy()).failure
    text = "Import of standard library module 'os' is disallowed. Allowed stdlib modules: none"
    assert str(refused.description).startswith(f"{text}\n\nLine 3: To allow a standard")
    full = converse(*task("x = 1\nreturn ['x' * (1 << 60)]", [])).failure
    assert str(full.description).startswith("Line 2: Let the program hold less at a time")
