"""The command line: ``start`` (the default), ``exec``, ``check``, ``doctor``, ``init``.

The only reader of ``os.environ`` and ``sys.argv``, and the only place where an exit code is made. What a command needs
is imported by that command: ``start`` must not pay for the others.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from trio_runner import __version__

if TYPE_CHECKING:
    from trio_runner.config import Config
    from trio_runner.tracing import Tracing

EXIT_CONFIG = 1
EXIT_PROGRAM = 1
EXIT_OUTPUT = 1
EXIT_INTERRUPTED = 130
_WIDTH = 110
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main() -> None:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what this locale cannot show is no reason to fail
    try:
        cli(prog_name="trio-runner")
    except OSError as error:
        if error.errno not in _FULL:
            raise  # a defect of ours
        with suppress(OSError):
            click.echo(f"Error: The output cannot be written: {error.strerror}", err=True)
        sys.exit(EXIT_OUTPUT)
    finally:
        _let_go_of_output()


def _let_go_of_output() -> None:
    """What could not be written was told; Python would try again, and end with a code of its own."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class _Interruptible(click.Group):
    """Ctrl-C ends every command in the same way, with the shells' code for it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)


@click.group(
    cls=_Interruptible,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _WIDTH},
    epilog="Without a command, trio-runner starts: n8n and its launcher call it so. "
    "All settings are environment variables; see the README, or `trio-runner start --help`.",
)
@click.version_option(__version__, prog_name="trio-runner")
@click.pass_context
def cli(context: click.Context) -> None:
    """A fast, kernel-confined task runner for n8n's Python Code node."""
    if context.invoked_subcommand is None:
        context.invoke(start)


class _StartCommand(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        from trio_runner.config import VARIABLES

        rows = []
        for variable in VARIABLES.values():
            default = f"{variable.default} {variable.unit}".strip().replace(",", ", ") if variable.default else ""
            rows.append((variable.name, variable.meaning + (f" [{default}]" if default else "")))
        with formatter.section("Environment variables (most can also be given as NAME_FILE, the path of a file)"):
            formatter.write_dl(rows, col_max=max(len(name) for name, _ in rows))


@cli.command(cls=_StartCommand, short_help="Connect to n8n and run tasks until stopped.")
def start() -> NoReturn:
    """Connect to n8n's task broker and run Python tasks until stopped.

    \b
    Exit codes:
      0  clean stop, or idle timeout
      1  bad configuration, port in use, or tasks cut off by a shutdown
      3  wrong auth token
      4  the one connection that a grant token is good for ended
      6  a required layer of the sandbox is missing
    """
    sys.exit(_start())


def _start() -> int:
    from trio_runner import log
    from trio_runner.config import NO_COLOR, ConfigError, load

    logger = log.get_logger("cli")
    try:
        loaded = load(os.environ)
    except ConfigError as error:
        log.configure(no_color=NO_COLOR.name in os.environ)
        for problem in error.problems:
            logger.error("Invalid configuration: %s", _with_code(problem))
        return EXIT_CONFIG
    config = loaded.config
    log.configure(config.log_level, no_color=config.no_color, as_json=config.log_json)
    logger.info("Starting runner...")
    for warning in loaded.warnings:
        logger.warning("%s", warning)
    _start_sentry(config, logger)
    tracing = _start_tracing(config, logger)
    environment = _take_secrets_out_of_environment()
    try:
        return _run(config, environment, logger, tracing)
    finally:
        if tracing is not None and not tracing.close():
            logger.warning("The last traces were not taken in time and are lost")


def _run(config: Config, environment: dict[str, str], logger: Any, tracing: Tracing | None) -> int:
    import trio

    from trio_runner.errors import FatalError
    from trio_runner.supervisor import Runner

    runner = Runner(config, environment=environment)
    if tracing is not None:
        runner.counters.listen(tracing.task_ended)
    try:
        trio.run(runner.run)
    except FatalError as error:
        logger.error("%s", _with_code(str(error)))
        return error.exit_code
    return 1 if runner.tasks_cut_off else 0


def _with_code(text: str) -> str:
    from trio_runner import catalogue

    return catalogue.with_code(text)


def _take_secrets_out_of_environment() -> dict[str, str]:
    """Drops our tokens from this process's environment; what is left is what children may be shown."""
    from trio_runner.config import without_secrets

    clean = without_secrets(os.environ)
    for name in set(os.environ) - set(clean):
        del os.environ[name]
    return clean


def _start_sentry(config: Config, logger: Any) -> None:
    if config.sentry_dsn is None:
        return
    try:
        import sentry_sdk
    except ImportError:
        logger.warning("N8N_SENTRY_DSN is set, but sentry-sdk is not installed: pip install 'trio-runner[sentry]'")
        return
    try:
        sentry_sdk.init(
            dsn=config.sentry_dsn,
            release=config.n8n_version or None,
            environment=config.environment or None,
            server_name=config.deployment_name or None,
            # an error of ours is reported, never a token or what a workflow works on: no variables, no log lines
            send_default_pii=False,
            include_local_variables=False,
            max_breadcrumbs=0,
            before_send=_without_log_lines,
        )
    except Exception as error:
        # its text may hold the address, which is a secret
        logger.warning("N8N_SENTRY_DSN cannot be used (%s); errors are not reported", type(error).__name__)


def _without_log_lines(event: Any, hint: dict[str, Any]) -> Any:
    """Sentry takes every line of the level ERROR for an error, also the one that says what a program failed with. Only
    exceptions of ours are; and of their line, not its text."""
    if "log_record" not in hint:
        return event
    if hint.get("exc_info") is None or not hint["log_record"].name.startswith("trio_runner."):
        return None
    event.pop("logentry", None)
    return event


def _start_tracing(config: Config, logger: Any) -> Tracing | None:
    if config.tracing is None:
        return None
    from trio_runner import log

    try:
        from trio_runner.tracing import Tracing

        log.adopt("opentelemetry")
        return Tracing(config.tracing)
    except ImportError:
        logger.warning("Tracing is configured, but OpenTelemetry is not installed: pip install 'trio-runner[otel]'")
    except Exception as error:
        # its text may hold the headers, which are secret
        logger.warning("Tracing cannot be started (%s); no traces are sent", type(error).__name__)
    return None


_json_file = click.Path(exists=True, dir_okay=False, allow_dash=True)


@cli.command("exec", short_help="Run one program without n8n.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path), required=False)
@click.option("-c", "code", help="The program, as a text instead of a file.")
@click.option(
    "-i", "--input", "--items", "input_from", metavar="FILE", help="Input items: a JSON file, or - for standard input."
)
@click.option("--each/--all", default=None, help="Run once for each item, with _item, or once with _items (default).")
@click.option("--query", metavar="TEXT", help="The _query of a code tool; JSON, or else plain text.")
@click.option("--node", "nodes", metavar="NAME=FILE", multiple=True, help="What another node gave, for _('NAME').")
@click.option(
    "--binary", "binaries", metavar="NAME=FILE", multiple=True, help="A file in the first item's binary data."
)
@click.option("--vars", "variables", metavar="FILE|JSON", help="n8n's variables, for _vars.")
@click.option("--env", "environment", metavar="NAME[=VALUE]", multiple=True, help="n8n's environment, for _env.")
@click.option(
    "--static-data", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Static data, JSON."
)
@click.option("--save-static-data", is_flag=True, help="Write what the program changes there back to that file.")
@click.option("--from-execution", "execution", type=_json_file, metavar="FILE", help="Replay an exported execution.")
@click.option("--node-name", metavar="NAME", help="The Code node's name; in an execution, which node to replay.")
@click.option("--run-index", type=click.IntRange(min=0), metavar="N", help="Which of its runs; the last by default.")
@click.option("--workflow-name", metavar="TEXT", help="For _workflow.name.")
@click.option("--workflow-id", metavar="TEXT", help="For _workflow.id.")
@click.option("--execution-id", metavar="TEXT", help="For _execution.id.")
@click.option("--mode", metavar="TEXT", help="How the execution began: manual (default), webhook, trigger, …")
@click.option("--timezone", metavar="ZONE", help="The workflow's, for _now and _today: Europe/Berlin.")
@click.option("--stdlib", metavar="NAMES", help="Standard modules the program may import: a,b,c or *.")
@click.option("--external", metavar="NAMES", help="Other packages the program may import: a,b,c or *.")
@click.option("--json", "as_json", is_flag=True, help="Print the bare result as JSON, also on a terminal.")
@click.option("-v", "--verbose", is_flag=True, help="Show the runner's own log on standard error.")
def exec_command(stdlib: str | None, external: str | None, as_json: bool, verbose: bool, **options: Any) -> NoReturn:
    """Run a Code node's program without n8n: embedded broker, real wire, confined worker.

    \b
    trio-runner exec -c "return [{'json': {'n': len(_items)}}]"
    trio-runner exec node.py --input items.json --each
    echo '[{"name": "Ada"}]' | trio-runner exec node.py --input -

    With what surrounds the node in n8n:

    \b
    trio-runner exec node.py --node "HTTP Request=pages.json" --vars '{"region": "eu"}'
    trio-runner exec node.py --static-data static.json --save-static-data
    trio-runner exec --from-execution execution.json
    trio-runner exec fixed.py --from-execution execution.json --node-name "Code"

    Prints go to standard error, the result to standard output: pretty on a terminal, pure JSON in a pipe.
    Items may be n8n items ({"json": {...}}) or plain objects, which are wrapped; JSON Lines will do, too. Without
    --input, the last --node gives them. Helpers that send HTTP requests do send them. An execution is the answer of
    n8n's API to GET /executions/ID?includeData=true. Exit code 1 when the program fails.
    """
    from trio_runner.config import EXTERNAL_ALLOW, STDLIB_ALLOW
    from trio_runner.localinput import InputError
    from trio_runner.localprogram import Options, prepare
    from trio_runner.oneshot import run_program

    try:
        prepared = prepare(Options(**options), os.environ)
    except InputError as error:
        raise click.UsageError(str(error)) from None
    environ = dict(os.environ)
    if stdlib is not None:
        environ[STDLIB_ALLOW.name] = stdlib
    if external is not None:
        environ[EXTERNAL_ALLOW.name] = external
    save = prepared.save_to.write if prepared.save_to is not None else None
    code = run_program(
        prepared.program, environ, as_json=as_json, verbose=verbose, notes=prepared.notes, save_static_data=save
    )
    sys.exit(code)


@cli.command(short_help="Check a program without running it.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
def check(file: Path) -> NoReturn:
    """Analyse a program as the runner would, without running it: syntax and rules, with line and column.

    The rules are those of the environment (N8N_RUNNERS_STDLIB_ALLOW and so on). Exit code 1 when something is wrong.
    """
    from trio_runner.config import CONNECTION, GRANT_TOKEN, ConfigError, load
    from trio_runner.localinput import InputError, read_source
    from trio_runner.sandbox import analysis

    # rules are what counts here; how to reach a broker does not
    rules = {name: value for name, value in os.environ.items() if name not in CONNECTION}
    try:
        policy = load({GRANT_TOKEN.name: "-", **rules}).config.policy
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    try:
        source = read_source(file)
    except InputError as error:
        raise click.UsageError(str(error)) from None
    name = "<stdin>" if str(file) == "-" else str(file)
    try:
        violations = analysis.analyse(analysis.parse(source), policy)
    except SyntaxError as error:
        click.echo(f"{name}:{error.lineno or 1}:{error.offset or 1}: {error.msg}", err=True)
        sys.exit(EXIT_PROGRAM)
    for violation in violations:
        click.echo(f"{name}:{violation.line}:{violation.column}: {violation.text}", err=True)
    if not violations:
        click.echo(
            f"{name}: fine" if policy.source_checks else f"{name}: fine (source checks are off: both lists are *)"
        )
    sys.exit(EXIT_PROGRAM if violations else 0)


@cli.command(short_help="Look whether this installation works.")
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
def doctor(as_json: bool) -> NoReturn:
    """Look whether this installation works: settings, sandbox layers, imports, broker.

    Starts a zygote and workers as `start` would and tries. Exit code 1 when something is broken.
    """
    from trio_runner.doctor import examine, show

    findings = examine(os.environ)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(findings)))
    else:
        show(findings)
    sys.exit(1 if any(finding.mark == "bad" for finding in findings) else 0)


class _InitGroup(click.Group):
    """Its commands are imported when they are asked for: nobody else pays for them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        from trio_runner.deploy.commands import COMMANDS

        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        from trio_runner.deploy.commands import COMMANDS

        return COMMANDS.get(cmd_name)


@cli.group(cls=_InitGroup, short_help="Make files to deploy it with.")
@click.pass_context
def init(context: click.Context) -> None:
    """Make files to deploy this version with, filled from options and from the environment.

    \b
    trio-runner init compose -o n8n            n8n and a runner, ready for `docker compose up`
    trio-runner init launcher --external pandas > n8n-task-runners.json

    Without -o the file is printed, and what to do next is said on standard error. Variables of the runner that are
    set in the environment go into the file; secrets never do. Nothing that exists is written over without --force.
    """
    context.obj = os.environ


@cli.command(short_help="Watch a running runner.")
@click.argument("url", required=False)
@click.option("--once", is_flag=True, help="Print one frame and end.")
def top(url: str | None, once: bool) -> None:
    """Watch a running runner: brokers, slots, tasks, failures, sandbox. Ends with q or Ctrl-C.

    \b
    The runner needs
      N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED=true
      N8N_RUNNERS_STATUS_PAGE=true
    URL is where its health server listens, by default what the environment says, else http://127.0.0.1:5681.
    The same in a browser: open that URL. Exit code 1 when there is nothing to show.
    """
    from rich.console import Console

    from trio_runner.config import health_url
    from trio_runner.top import NothingToShowError, Source, follow, show_once

    try:
        source = Source.at(url or health_url(os.environ))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    console = Console(highlight=False)
    try:
        if once or not console.is_terminal:
            show_once(source, console)
        else:
            follow(source, console)
    except NothingToShowError as error:
        raise click.ClickException(str(error)) from None


@cli.command(short_help="Say what an error means and what to do about it.")
@click.argument("text", nargs=-1)
def explain(text: tuple[str, ...]) -> NoReturn:
    """Say what an error means and what to do about it: a code like TR401, or its text from n8n or a log.

    \b
    trio-runner explain TR401
    trio-runner explain "Task request timed out"

    Without a text, all errors are listed. Exit code 1 when nothing like it is known.
    """
    import shutil

    from trio_runner import catalogue

    if not text:
        for entry in catalogue.entries():
            click.echo(entry.heading)
        sys.exit(0)
    found = catalogue.find(" ".join(text))
    if not found:
        click.echo("Nothing like this is known. The last line of a traceback says most; try a part of it.", err=True)
        sys.exit(EXIT_PROGRAM)
    click.echo(catalogue.show(found, width=min(shutil.get_terminal_size().columns, _WIDTH)))
    sys.exit(0)


@cli.command(short_help="Write stubs of n8n's names for an editor.")
@click.option(
    *("-o", "--output", "folder"),
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("typings"),
    metavar="DIR",
    help="Where to; typings by default, which is where editors look.",
)
def stubs(folder: Path) -> None:
    """Write type stubs, so that an editor completes _input, _helpers and n8n's other names, and knows their types.

    \b
    trio-runner stubs              # VS Code (Pylance), Pyright: in the folder that holds the programs
    trio-runner stubs -o stubs     # elsewhere; for mypy, see docs/local-development.md
    """
    from trio_runner.stubs import write

    try:
        written = write(folder)
    except OSError as error:
        raise click.ClickException(f"Cannot write {folder}: {error.strerror}") from None
    for path in written:
        click.echo(f"wrote {path}")


@cli.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  eval "$(trio-runner completion bash)"
    zsh:   eval "$(trio-runner completion zsh)"
    fish:  trio-runner completion fish | source
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "trio-runner", "_TRIO_RUNNER_COMPLETE").source())
