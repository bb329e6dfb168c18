"""The command line as people, n8n and its launcher use it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import click.testing
import msgspec
import pytest
import trio
from rich.console import Console

from tests.shell.shell_kit import our_records, scripted_broker, types, until
from trio_runner import __version__
from trio_runner import cli as cli_module
from trio_runner.cli import cli
from trio_runner.config import VARIABLES
from trio_runner.http import Response
from trio_runner.localbroker import LocalBroker
from trio_runner.oneshot import moving_line

pytestmark = pytest.mark.e2e

SECRET = "s3cr3t-Zq8vLw"
RUNNER = [sys.executable, "-m", "trio_runner"]
COMMANDS = ["check", "completion", "doctor", "exec", "explain", "init", "start", "stubs", "top"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of ours from outside, and loggers as they were."""
    for name in os.environ:
        if name.startswith("N8N_") or name in VARIABLES:
            monkeypatch.delenv(name)
    with our_records():
        yield


def invoke(*args: str, stdin: str | bytes | None = None, **environ: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli, args, input=stdin, env=environ, prog_name="trio-runner")


def environment(**variables: str) -> dict[str, str]:
    """What a process of ours is started with."""
    return {**os.environ, **variables}


# Help and version


def test_help_names_every_command_with_a_whole_sentence() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    listed = dict(re.findall(r"^  ([a-z]+)  +(\S.*)$", result.output.partition("Commands:")[2], re.MULTILINE))
    assert sorted(listed) == COMMANDS == sorted(cli.commands)
    assert all(text.endswith(".") and not text.endswith("...") for text in listed.values())
    assert invoke("-h").output == result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_help_of_its_own(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: trio-runner {command} ")
    assert max(map(len, result.output.splitlines())) <= 110


def test_version_is_the_package_s() -> None:
    assert invoke("--version").output == f"trio-runner, version {__version__}\n"


def test_the_help_of_start_names_every_variable_its_unit_and_every_exit_code() -> None:
    text = invoke("start", "--help").output
    flat = " ".join(text.split())
    for variable in VARIABLES.values():
        assert f" {variable.name} " in flat
        assert variable.meaning in flat
    assert "longest run of one task [60 seconds]" in flat
    assert "largest message [1073741824 bytes]" in flat
    assert [line.split()[0] for line in text.splitlines() if re.match(r"    \d ", line)] == ["0", "1", "3", "4", "6"]


def test_an_unknown_command_or_argument_is_a_usage_error() -> None:
    for args in (["begin"], ["start", "now"], ["--wat"]):
        result = invoke(*args)
        assert result.exit_code == 2
        assert "Try 'trio-runner" in result.output


# Start, as far as it goes without a broker


def test_without_a_command_the_runner_starts_and_says_which_token_it_needs() -> None:
    assert invoke().stdout == invoke("start").stdout
    result = invoke("start")
    assert result.exit_code == 1
    assert result.stderr == ""
    (line,) = result.stdout.splitlines()
    assert line.startswith("Invalid configuration: Environment variable N8N_RUNNERS_GRANT_TOKEN is required.")
    assert "N8N_RUNNERS_AUTH_TOKEN" in line


def test_start_shows_every_problem_of_a_configuration_as_a_line_and_no_secret() -> None:
    result = invoke(
        "start",
        N8N_RUNNERS_AUTH_TOKEN=SECRET,
        N8N_RUNNERS_MAX_CONCURRENCY="0",
        N8N_RUNNERS_TASK_TIMEOUT="soon",
        N8N_RUNNERS_STDLIB_ALLOW="*,os",
        N8N_RUNNERS_TASK_BROKER_URI=f"http://user:{SECRET}@host:1",
    )
    assert result.exit_code == 1
    assert SECRET not in result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("Invalid configuration: ") for line in lines)
    for part in ("MAX_CONCURRENCY", "TASK_TIMEOUT", "STDLIB_ALLOW", "TASK_BROKER_URI"):
        assert sum(f"N8N_RUNNERS_{part}" in line.partition(": ")[2].partition(":")[0] for line in lines) == 1


def test_tokens_leave_the_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N8N_RUNNERS_AUTH_TOKEN", SECRET)
    monkeypatch.setenv("N8N_RUNNERS_GRANT_TOKEN_FILE", "/run/secrets/grant")
    monkeypatch.setenv("N8N_SENTRY_DSN", SECRET)
    monkeypatch.setenv("N8N_RUNNERS_ID", "kept")
    clean = cli_module._take_secrets_out_of_environment()
    assert SECRET not in os.environ.values()
    assert "N8N_RUNNERS_GRANT_TOKEN_FILE" not in os.environ
    assert clean == dict(os.environ)
    assert clean["N8N_RUNNERS_ID"] == "kept"


@pytest.mark.parametrize("failure", [None, ValueError(f"Unsupported scheme in {SECRET}")])
def test_sentry_gets_no_variables_and_no_log_lines_and_cannot_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, failure: Exception | None
) -> None:
    given: dict[str, object] = {}

    def init(**options: object) -> None:
        given.update(options)
        if failure is not None:
            raise failure

    monkeypatch.setitem(sys.modules, "sentry_sdk", SimpleNamespace(init=init))
    result = invoke(
        "start", N8N_RUNNERS_GRANT_TOKEN="g", N8N_SENTRY_DSN=SECRET, N8N_RUNNERS_TASK_BROKER_URI="http://127.0.0.1:1"
    )
    assert result.exit_code == 4, "it went on to look for the broker"
    assert given["dsn"] == SECRET
    assert (given["send_default_pii"], given["include_local_variables"], given["max_breadcrumbs"]) == (False, False, 0)
    assert SECRET not in result.output
    assert ("N8N_SENTRY_DSN cannot be used (ValueError)" in result.output) == (failure is not None)


def test_a_missing_sentry_is_a_hint_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    result = invoke(
        "start", N8N_RUNNERS_GRANT_TOKEN="g", N8N_SENTRY_DSN=SECRET, N8N_RUNNERS_TASK_BROKER_URI="http://127.0.0.1:1"
    )
    assert "pip install 'trio-runner[sentry]'" in result.stdout


@pytest.mark.e2e
def test_sentry_is_told_of_our_own_exceptions_and_never_of_what_a_program_failed_with() -> None:
    program = """
import logging
from tests.shell.test_tracing import collecting
from trio_runner import cli, log
from trio_runner.config import load

with collecting() as (address, taken):
    dsn = address.replace("http://", "http://key@") + "/1"
    log.configure("INFO")
    logger = log.get_logger("executor")
    environ = {"N8N_RUNNERS_AUTH_TOKEN": "s3cret-token", "N8N_SENTRY_DSN": dsn}
    cli._start_sentry(load(environ).config, logger)
    logger.error("Task t failed: %s", "s3cret-data")
    try:
        raise KeyError("ours")
    except KeyError:
        logger.exception("Task %s met an internal error", "s3cret-task")
    import sentry_sdk
    sentry_sdk.flush(20)
import gzip
bodies = [gzip.decompress(body) if headers["Content-Encoding"] == "gzip" else body for _, headers, body in taken]
events = b"".join(bodies)
print(events.count(b'"type":"event"'), events.count(b'"type":"KeyError"'), b"s3cret" in events)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=90,
        cwd=Path(__file__).parents[2],
    )
    assert ran.stdout.splitlines()[-1:] == ["1 1 False"], ran.stdout + ran.stderr


# Traces

NOWHERE = {"N8N_RUNNERS_GRANT_TOKEN": "g", "N8N_RUNNERS_TASK_BROKER_URI": "http://127.0.0.1:1"}


def test_missing_packages_for_traces_are_a_hint_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_runner.tracing", None)
    result = invoke("start", N8N_OTEL_ENABLED="true", **NOWHERE)
    assert result.stdout.count("pip install 'trio-runner[otel]'") == 1
    assert result.exit_code == 4, "it went on to look for the broker"


def test_traces_that_cannot_be_started_are_a_warning_without_secrets() -> None:
    result = invoke(
        "start",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        OTEL_EXPORTER_OTLP_HEADERS=f"authorization={SECRET}",
        OTEL_BSP_MAX_QUEUE_SIZE="-1",
        **NOWHERE,
    )
    assert "Tracing cannot be started (ValueError)" in result.stdout
    assert SECRET not in result.output
    assert result.exit_code == 4


def test_without_a_word_about_traces_nothing_is_said_of_them() -> None:
    assert "rac" not in invoke("start", **NOWHERE).stdout.lower().replace("traceback", "")


# exec


def test_exec_runs_a_program_given_as_text() -> None:
    result = invoke("exec", "-c", "return [{'json': {'n': len(_items)}}]")
    assert (result.exit_code, result.stdout, result.stderr) == (0, '[{"json":{"n":0}}]\n', "")


def test_exec_runs_a_file_with_items_from_a_file(tmp_path: Path) -> None:
    program, items = tmp_path / "node.py", tmp_path / "items.json"
    program.write_text("print('größe', len(_items))\nreturn [i['json']['name'] for i in _items]", encoding="utf-8")
    items.write_text('[{"json": {"name": "Ada"}}, {"name": "Zoë"}]', encoding="utf-8")
    result = invoke("exec", str(program), "--items", str(items))
    assert (result.exit_code, result.stdout, result.stderr) == (0, '["Ada","Zoë"]\n', "größe 2\n")


def test_exec_reads_the_program_or_the_items_from_standard_input() -> None:
    assert invoke("exec", "-", stdin="return 5").stdout == "5\n"
    result = invoke("exec", "--items", "-", "-c", "return _items", stdin='{"name": "Ada", "n": 12345678901234567890}')
    assert result.stdout == '[{"json":{"name":"Ada","n":12345678901234567890}}]\n'


def test_exec_each_gives_the_program_one_item_at_a_time() -> None:
    code = "return {'double': 2 * _item['json']['n']}"
    result = invoke("exec", "--each", "--items", "-", "-c", code, stdin='[{"n": 1}, {"n": 2}]')
    assert json.loads(result.stdout) == [
        {"json": {"double": 2}, "pairedItem": {"item": 0}},
        {"json": {"double": 4}, "pairedItem": {"item": 1}},
    ]


@pytest.mark.parametrize(("query", "seen"), [('{"a": [1]}', {"a": [1]}), ("NaN, plain words", "NaN, plain words")])
def test_exec_query_is_json_or_else_text(query: str, seen: object) -> None:
    assert json.loads(invoke("exec", "--query", query, "-c", "return _query").stdout) == seen


def test_exec_shows_strict_json() -> None:
    assert invoke("exec", "--json", "-c", "return [float('nan'), None]").stdout == "[null,null]\n"


def test_exec_allows_what_it_is_told_to_allow_and_nothing_else() -> None:
    code = "import json\nreturn json.loads('[1]')"
    assert invoke("exec", "-c", code, N8N_RUNNERS_STDLIB_ALLOW="json").stdout == "[1]\n"
    assert invoke("exec", "--stdlib", "json", "-c", code, N8N_RUNNERS_STDLIB_ALLOW="math").stdout == "[1]\n"
    result = invoke("exec", "--stdlib", "math", "-c", code, N8N_RUNNERS_STDLIB_ALLOW="json")
    assert result.exit_code == 1
    assert "Import of standard library module 'json' is disallowed" in result.stderr


def test_exec_of_a_failing_program_says_what_and_where_and_prints_no_result() -> None:
    result = invoke("exec", "-c", "print('before')\ndef f():\n    return 1 / 0\nreturn f()")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("before\nError: division by zero [line 3]\nLine 3: Test the divisor")
    assert result.stderr.splitlines()[-1].startswith("ZeroDivisionError: ")


def test_exec_says_which_item_failed() -> None:
    result = invoke(
        "exec", "--each", "--items", "-", "-c", "return 1 / _item['json']['n']", stdin='[{"n": 1}, {"n": 0}]'
    )
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: division by zero [line 1] [item 1]\n")


def test_exec_of_a_program_that_does_not_parse_names_the_line_once() -> None:
    result = invoke("exec", "-c", "x = 1\nreturn (")
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"Error: .* \(<unknown>, line 2\)\n", result.stderr.splitlines(keepends=True)[0])


def test_exec_of_a_program_that_dies_says_so() -> None:
    result = invoke("exec", "--stdlib", "os", "-c", "import os\nos._exit(3)")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: Task subprocess exited with code 3\n")


def test_exec_takes_its_limits_from_the_environment() -> None:
    result = invoke("exec", "-c", "while True: pass", N8N_RUNNERS_TASK_TIMEOUT="1")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Task execution timed out after 1 second\n")


def test_exec_does_not_care_where_a_broker_is_or_how_to_be_let_in() -> None:
    result = invoke(
        "exec",
        "-c",
        "return 1",
        N8N_RUNNERS_TASK_BROKER_URI="ftp://nowhere",
        N8N_RUNNERS_AUTH_TOKEN_FILE="/does/not/exist",
        N8N_RUNNERS_GRANT_TOKEN=SECRET,
        N8N_RUNNERS_PATH="bad",
        N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED="true",
    )
    assert (result.exit_code, result.stdout) == (0, "1\n")


def test_exec_shows_every_problem_of_its_settings() -> None:
    result = invoke("exec", "-c", "return 1", N8N_RUNNERS_TASK_TIMEOUT="soon", N8N_RUNNERS_MAX_PAYLOAD="-1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(re.findall("^Invalid configuration: ", result.stderr, re.MULTILINE)) == 2


def test_exec_warns_of_settings_that_have_no_effect() -> None:
    result = invoke("exec", "-c", "return 1", N8N_RUNNERS_TASK_TIMEUOT="5")
    assert result.stdout == "1\n"
    assert result.stderr.startswith("Warning: N8N_RUNNERS_TASK_TIMEUOT is not a variable of this runner")


def test_exec_verbose_shows_the_runner_s_log_on_standard_error() -> None:
    result = invoke("exec", "-v", "-c", "print('x')\nreturn 1")
    assert result.stdout == "1\n"
    for line in ("Connected to broker", "Registered with broker", "[user code] x"):
        assert line in result.stderr.splitlines()


USAGE: dict[str, tuple[list[str], str, str]] = {
    "no program": ([], "", "Give the program either as FILE or with -c CODE, or an execution"),
    "two programs": (["-c", "x", "-"], "", "Give the program either as FILE or with -c CODE, not both."),
    "all from stdin": (["-", "--items", "-"], "x", "cannot both come from standard input"),
    "no such file": (["/does/not/exist.py"], "", "does not exist"),
    "a directory": (["/"], "", "is a directory"),
    "no such items": (["-c", "x", "--items", "/does/not/exist"], "", "--input: cannot read /does/not/exist"),
    "items that are no JSON": (["-c", "x", "--items", "-"], "[1", "--input: - is not JSON"),
    "items that are no objects": (["-c", "x", "-i", "-"], "[{}, 5]", "--input: element 1 is not an object, but int"),
    "a node without a file": (["-c", "x", "--node", "A"], "", "--node: 'A' is not NAME=FILE: there is no = in it"),
    "a file that is none": (["-c", "x", "--binary", "a=/no"], "", "--binary: cannot read /no: No such file"),
    "variables that are no JSON": (["-c", "x", "--vars", "{1"], "", "--vars: this is not JSON"),
    "a variable that is not set": (["-c", "x", "--env", "NOT_SET_HERE"], "", "NOT_SET_HERE is not set here"),
    "nowhere to save to": (["-c", "x", "--save-static-data"], "", "--save-static-data needs --static-data FILE"),
    "a run of nothing": (["-c", "x", "--run-index", "1"], "", "it needs --from-execution"),
    "a zone that is none": (["-c", "x", "--timezone", "A/B"], "", "--timezone: unknown time zone 'A/B'"),
    "not an execution": (["--from-execution", "-"], "{}", "--from-execution: - is not an execution with its data."),
}


@pytest.mark.parametrize("case", USAGE)
def test_exec_with_unusable_arguments_says_what_is_wrong(case: str) -> None:
    args, stdin, words = USAGE[case]
    result = invoke("exec", *args, stdin=stdin)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr


@pytest.mark.parametrize("command", ["exec", "check"])
def test_a_program_that_is_not_utf_8_is_a_sentence_and_no_traceback(command: str, tmp_path: Path) -> None:
    program = tmp_path / "latin.py"
    program.write_bytes("return 'größe'".encode("latin-1"))
    result = invoke(command, str(program))
    assert result.exit_code == 2
    assert result.stderr.endswith(f"Error: {program} is not UTF-8 text\n")


# exec as a process


def test_prints_come_out_as_they_happen_and_the_result_alone_on_standard_output() -> None:
    code = "import time\nprint('first')\ntime.sleep(0.4)\nprint('second')\nreturn {'é': 1}"
    with subprocess.Popen(
        [*RUNNER, "exec", "--stdlib", "time", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PYTHONIOENCODING="ascii"),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"first\n"
        first = time.monotonic()
        assert process.stderr.readline() == b"second\n"
        assert time.monotonic() - first > 0.3
        stdout, stderr = process.communicate(timeout=20)
        assert (process.returncode, stdout, stderr) == (0, '{"é":1}\n'.encode(), b"")


def test_ctrl_c_stops_the_program_with_a_word_and_code_130() -> None:
    code = "import time\nprint('here')\ntime.sleep(60)"
    with subprocess.Popen(
        [*RUNNER, "exec", "--stdlib", "time", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"here\n"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
        assert (process.returncode, stdout, stderr) == (130, b"", b"Interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_a_result_that_cannot_be_written_is_a_failure() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(  # noqa: PLW1510
            [*RUNNER, "exec", "-c", "return 1"], stdout=full, stderr=subprocess.PIPE, timeout=20, env=environment()
        )
    assert done.returncode == 1
    assert done.stderr == b"Cannot write the result: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
@pytest.mark.parametrize("arguments", ["--help", "explain", "init launcher", "start"])
def test_what_cannot_be_written_is_a_sentence_and_no_traceback(arguments: str) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [*RUNNER, *arguments.split()]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=20, env=environment(), check=False)
    words = b"Log lines are lost, because they" if arguments == "start" else b"Error: The output"
    assert done.stderr == words + b" cannot be written: No space left on device\n"
    assert done.returncode == 1


ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
"""A locale that knows no other letters."""


def test_a_locale_without_other_letters_is_no_reason_to_fail() -> None:
    run = partial(subprocess.run, capture_output=True, timeout=60, env=environment(**ASCII))
    done = run([*RUNNER, "doctor"])
    assert done.returncode == 1
    assert b"\nx  problem  Environment variable N8N_RUNNERS_GRANT_TOKEN" in done.stdout
    assert done.stderr == b""
    done = run([*RUNNER, "exec", "-c", "return [{'json': {'n': len('\u00e9'), 'b': 'b'}}]"])
    assert (done.returncode, done.stdout, done.stderr) == (0, b'[{"json":{"n":1,"b":"b"}}]\n', b"")
    done = run([*RUNNER, "exec", "-c", b"return '\xff'"])
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.endswith(b"is not UTF-8 text, and this locale cannot read it.\n")


def test_a_reader_that_had_enough_gets_no_traceback() -> None:
    with subprocess.Popen(
        [*RUNNER, "exec", "-c", "return 'x' * 5_000_000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(10) == b'"xxxxxxxxx'
        process.stdout.close()
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def on_a_terminal(*args: str) -> tuple[int, str, str]:
    """Runs with a terminal as all three streams. Gives the exit code, what was written, and what is left to be seen."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [*RUNNER, *args],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(TERM="xterm", COLUMNS="60"),
        )
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux: the last writer is gone
                break
            if not part:
                break
            written += part
        code = process.wait(timeout=20)
    finally:
        os.close(ours)
    text = written.decode()
    return code, text, screen(text)


def screen(text: str) -> str:
    """What a terminal shows after this: colours dropped, erased lines gone."""
    lines = [""]
    for part in re.findall(r"\x1b\[[0-9?;]*[A-Za-z]|\r\n|\r|[^\x1b\r]+", text):
        if part == "\r\n":
            lines.append("")
        elif part.endswith("A") and part.startswith("\x1b"):
            lines.pop()
        elif part in ("\r", "\x1b[2K"):
            lines[-1] = ""
        elif not part.startswith("\x1b"):
            lines[-1] += part
    return "\n".join(lines)


def test_a_terminal_shows_a_result_pretty_and_in_colour_and_no_progress_is_left() -> None:
    code, written, shown = on_a_terminal("exec", "-c", "return [{'json': {'name': 'Zoë', 'n': 1}}]")
    assert code == 0
    assert "Running…" in written
    assert re.search(r"\x1b\[[0-9;]*32m\"Zoë\"", written), "colours"
    *pretty, last, end = shown.split("\n")
    assert pretty == ["[", "  {", '    "json": {', '      "name": "Zoë",', '      "n": 1', "    }", "  }", "]"]
    assert re.fullmatch(r"1 item, \d+ ms with start-up", last)
    assert end == ""


def test_a_terminal_shows_prints_as_they_are_and_a_failure_with_its_place() -> None:
    code, _, shown = on_a_terminal(
        "exec", "-c", f"print(':smile: [bold]x[/bold]', '{'long ' * 30}')\nraise KeyError('[red]')"
    )
    assert code == 1
    lines = shown.split("\n")
    assert lines[0] == ":smile: [bold]x[/bold] " + "long " * 30
    assert lines[1] == "Error: '[red]' [line 2]"
    assert lines[2].startswith("Line 2: There is no key '[red]' here.")
    assert any(line.startswith("KeyError: '[red]'") for line in lines)


def test_the_moving_line_is_there_before_anything_can_be_printed_and_leaves_nothing() -> None:
    """Drawn for the first time by a thread, in the moment of a print, it stays, and the print lands behind it."""
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, color_system=None)
    with moving_line(terminal):
        assert "Running…" in written.getvalue()
        terminal.print("first")
    assert screen(written.getvalue().replace("\n", "\r\n")) == "first\n"


def test_a_terminal_gets_bare_json_when_it_asks_for_it() -> None:
    code, written, shown = on_a_terminal("exec", "--json", "-c", "return [1, 2]")
    assert code == 0
    assert shown == "[1,2]\n"
    assert "[1,2]\r\n" in written


def test_a_terminal_with_verbose_has_whole_log_lines_and_no_moving_line() -> None:
    code, written, shown = on_a_terminal("exec", "-v", "-c", "print('x')\nreturn 1")
    assert code == 0
    assert "Running…" not in written
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  INFO  \[user code\] x$", shown, re.MULTILINE)


def test_the_log_of_start_on_a_terminal_has_time_and_level() -> None:
    code, written, shown = on_a_terminal("start")
    assert code == 1
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  ERROR  Invalid configuration: ", shown)
    assert "\x1b[31mERROR\x1b[0m" in written


# check


def test_check_of_a_good_program_says_fine(tmp_path: Path) -> None:
    program = tmp_path / "node.py"
    program.write_text("return _items")
    result = invoke("check", str(program))
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{program}: fine\n", "")


def test_check_shows_each_violation_with_line_and_column(tmp_path: Path) -> None:
    program = tmp_path / "node.py"
    program.write_text("import os\nx = 1\ny = (x).__class__\nreturn y")
    result = invoke("check", str(program))
    assert (result.exit_code, result.stdout) == (1, "")
    first, second = result.stderr.splitlines()
    assert first.startswith(f"{program}:1:8: Import of standard library module 'os' is disallowed.")
    assert second.startswith(f"{program}:3:5: Access to attribute '__class__' is disallowed")


def test_check_shows_where_a_program_does_not_parse() -> None:
    result = invoke("check", "-", stdin="x = 1\ny = = 2\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "<stdin>:2:5: invalid syntax\n"


def test_check_follows_the_environment_s_rules() -> None:
    assert invoke("check", "-", stdin="import os\n", N8N_RUNNERS_STDLIB_ALLOW="os").exit_code == 0
    assert invoke("check", "-", stdin="import os\n", N8N_RUNNERS_STDLIB_ALLOW="json").exit_code == 1
    assert invoke("check", "-", stdin="return 1\n", N8N_RUNNERS_AUTH_TOKEN_FILE="/does/not/exist").exit_code == 0
    result = invoke("check", "-", stdin="import os\n", N8N_RUNNERS_STDLIB_ALLOW="*", N8N_RUNNERS_EXTERNAL_ALLOW="*")
    assert result.stdout == "<stdin>: fine (source checks are off: both lists are *)\n"


def test_check_with_settings_that_cannot_be_used_is_an_error() -> None:
    result = invoke("check", "-", stdin="return 1", N8N_RUNNERS_STDLIB_ALLOW="*,os")
    assert result.exit_code == 1
    assert "must be used alone" in result.stderr


@pytest.mark.parametrize("source", ["\x00", "(" * 5000 + ")" * 5000, "x = " + "-" * 50_000 + "1"])
def test_check_of_something_monstrous_is_a_finding_and_no_traceback(source: str) -> None:
    result = invoke("check", "-", stdin=source)
    assert result.exit_code == 1
    assert re.match(r"<stdin>:\d+:\d+: \S", result.stderr)
    assert result.exception is None or isinstance(result.exception, SystemExit)


# doctor


def test_ctrl_c_ends_every_command_with_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trio_runner.doctor.examine", interrupted)
    result = invoke("doctor")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "Interrupted\n")


# completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(shell: str) -> None:
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert "_TRIO_RUNNER_COMPLETE" in result.stdout
    assert "trio-runner" in result.stdout


def test_completion_of_another_shell_is_a_usage_error() -> None:
    assert invoke("completion", "tcsh").exit_code == 2


def test_the_shell_gets_its_completions() -> None:
    done = subprocess.run(  # noqa: PLW1510
        RUNNER,
        env=environment(_TRIO_RUNNER_COMPLETE="bash_complete", COMP_WORDS="trio-runner ex", COMP_CWORD="1"),
        capture_output=True,
        timeout=20,
    )
    assert done.stdout == b"plain,exec\nplain,explain\n"


# start as a process


class Process:
    """A runner process in the background."""

    def __init__(self) -> None:
        self.process: trio.Process | None = None
        self.exit_code: int | None = None
        self.stdout = ""
        self.stderr = ""
        self.ended = trio.Event()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def run(self, variables: dict[str, str], *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            run = partial(
                trio.run_process,
                RUNNER,
                env=environment(**variables),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )

            async def keep(task_status: trio.TaskStatus[trio.Process]) -> None:
                done = await run(task_status=task_status)
                self.exit_code, self.stdout, self.stderr = done.returncode, done.stdout.decode(), done.stderr.decode()

            self.process = await nursery.start(keep)
            task_status.started()
        self.ended.set()

    async def end(self) -> int:
        with trio.fail_after(20):
            await self.ended.wait()
        assert self.exit_code is not None
        return self.exit_code

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()


async def start(nursery: trio.Nursery, port: int, **variables: str) -> Process:
    process = Process()
    few = {"N8N_RUNNERS_TASK_BROKER_URI": f"http://127.0.0.1:{port}", "N8N_RUNNERS_MAX_CONCURRENCY": "1"}
    await nursery.start(process.run, {**few, **variables})
    return process


AUTH = {"N8N_RUNNERS_AUTH_TOKEN": "auth-secret"}
SETTINGS = {"nodeMode": "runOnceForAllItems", "items": [], "nodeName": "Code", "nodeId": "1", "workflowName": "W"}


async def test_a_runner_process_serves_drains_on_sigterm_and_ends_with_0() -> None:
    async with trio.open_nursery() as nursery:
        broker = LocalBroker(auth_token="auth-secret")
        port = await nursery.start(broker.serve)
        runner = await start(
            nursery,
            port,
            **AUTH,
            N8N_RUNNERS_STDLIB_ALLOW="os,time",
            N8N_BLOCK_RUNNER_ENV_ACCESS="false",
        )
        printed: list[list[object]] = []
        code = "import os, time\nprint('a\\nb')\ntime.sleep(0.5)\nreturn dict(os.environ)"
        body = msgspec.json.encode({"code": code, **SETTINGS})
        results: list[object] = []

        async def call() -> None:
            results.append(await broker.run_task(body, printed.append))

        with trio.fail_after(30):
            async with trio.open_nursery() as callers:
                callers.start_soon(call)
                await until(lambda: printed)
                runner.signal(signal.SIGTERM)
            assert await runner.end() == 0
        nursery.cancel_scope.cancel()
    seen = json.loads(bytes(memoryview(results[0].result)))  # type: ignore[attr-defined]
    assert "PATH" in seen, "the program may see the environment"
    assert not [name for name in seen if "TOKEN" in name]
    assert "auth-secret" not in runner.stdout
    assert runner.stderr == ""
    task_id = runner.stdout.partition("Accepted task ")[2].partition("\n")[0]
    lines = [line for line in runner.lines if not line.startswith(("Up to ", "Sandbox "))]
    assert [re.sub(r"in \d+ms \(.*?\)", "in T", line) for line in lines] == [
        "Starting runner...",
        "Connected to broker",
        "Registered with broker",
        f"Accepted task {task_id}",
        f"Received task {task_id}",
        r"[user code] a\nb",
        "Received SIGTERM signal, starting shutdown...",
        f'Completed task {task_id} in T for node "Code" (1) in workflow "W" (Unknown)',
        "Runner stopped",
    ]


async def test_the_exit_code_tells_how_a_runner_ended() -> None:
    """Several processes at once, since starting one is what takes the time."""
    codes: dict[str, int] = {}
    said: dict[str, str] = {}

    async def ends(name: str, port: int, nursery: trio.Nursery, **variables: str) -> None:
        process = await start(nursery, port, **variables)
        codes[name] = await process.end()
        said[name] = process.stdout
        assert process.stderr == "", f"{name}: n8n shows these lines as errors"

    async def wrong_token(nursery: trio.Nursery) -> None:
        async with scripted_broker() as broker:
            broker.logins = [Response(403)]
            await ends("wrong token", broker.port, nursery, **AUTH)

    async def closed_with(name: str, code: int, nursery: trio.Nursery) -> None:
        async with scripted_broker() as broker, trio.open_nursery() as inner:
            inner.start_soon(partial(ends, name, broker.port, nursery, N8N_RUNNERS_GRANT_TOKEN="g"))
            connection = await broker.connection()
            await connection.register()
            await connection.offer()
            await connection.close(code)

    async def idle(nursery: trio.Nursery) -> None:
        async with scripted_broker() as broker, trio.open_nursery() as inner:
            variables = {"N8N_RUNNERS_GRANT_TOKEN": "g", "N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT": "1"}
            inner.start_soon(partial(ends, "idle", broker.port, nursery, **variables))
            connection = await broker.connection()
            await connection.register()
            assert await connection.closed() == 1000

    async def health_port(nursery: trio.Nursery) -> None:
        async with scripted_broker() as broker:
            variables = {
                "N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED": "true",
                "N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT": str(broker.port),
            }
            await ends("health port taken", broker.port, nursery, **AUTH, **variables)
            assert (
                f"Failed to start health check server: Port {broker.port} is already in use [TR612]\n"
                in said["health port taken"]
            )

    async def cut_off(nursery: trio.Nursery) -> None:
        async with scripted_broker() as broker, trio.open_nursery() as inner:
            process = await start(nursery, broker.port, **AUTH, N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT="1")
            connection = await broker.connection()
            await connection.register()
            await connection.start("t", "print('x')\nwhile True: pass")
            await connection.until("runner:rpc")
            process.signal(signal.SIGTERM)
            assert await connection.closed() == 1000
            assert types(connection.messages[-1:]) == ["runner:taskerror"]
            codes["cut off"] = await process.end()
            inner.cancel_scope.cancel()

    async def second_signal(nursery: trio.Nursery) -> None:
        async with scripted_broker() as broker:
            process = await start(nursery, broker.port, **AUTH)
            connection = await broker.connection()
            await connection.register()
            await connection.start("t", "print('x')\nwhile True: pass")
            await connection.until("runner:rpc")
            process.signal(signal.SIGTERM)
            await connection.silence(0.3)
            process.signal(signal.SIGTERM)
            codes["second signal"] = await process.end()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, trio.open_nursery() as cases:
            cases.start_soon(wrong_token, nursery)
            cases.start_soon(closed_with, "1001", 1001, nursery)
            cases.start_soon(closed_with, "1011", 1011, nursery)
            cases.start_soon(idle, nursery)
            cases.start_soon(health_port, nursery)
            cases.start_soon(cut_off, nursery)
            cases.start_soon(second_signal, nursery)
    assert codes == {
        "wrong token": 3,
        "1001": 0,
        "1011": 4,
        "idle": 0,
        "health port taken": 1,
        "cut off": 1,
        "second signal": 1,
    }


# explain


def test_an_error_is_explained_by_its_code_and_by_its_text() -> None:
    for asked in (["TR401"], ["Task execution timed out after 5 seconds"], ["Task", "execution", "timed", "out"]):
        result = invoke("explain", *asked)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("TR401  The task took too long\n  Cause:")
        assert "Remedy: " in result.stdout
    assert len(invoke("explain").stdout.splitlines()) > 90


def test_an_error_that_nobody_knows_is_not_explained() -> None:
    result = invoke("explain", "the moon is too bright")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr


def test_the_last_word_of_a_runner_that_does_not_start_holds_its_code() -> None:
    result = invoke("start", N8N_RUNNERS_AUTH_TOKEN="x", N8N_RUNNERS_TASK_TIMEOUT="soon", N8N_RUNNERS_SANDBOX="loose")
    assert result.exit_code == 1
    assert sorted(re.findall(r" \[(TR\d+)\]$", result.stdout, re.MULTILINE)) == ["TR602", "TR603"], result.stdout
