"""docs/local-development.md says what happens: its files are written, its commands run, their output compared."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import click.testing
import pytest

from trio_runner.cli import cli

pytestmark = pytest.mark.e2e

TEXT = (Path(__file__).parent.parent.parent / "docs" / "local-development.md").read_text()
BOXES = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FILES = dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
FAILING = "x = _item['json']\nreturn {'double': int(x['total'] if x['customer'] == 'Ada' else 'n/a') * 2}"
FIXED = "return {'double': _item['json']['total'] * 2}"


def commands() -> list[tuple[str, str]]:
    """Every command of the boxes for consoles, and what it shows."""
    found: list[tuple[str, str]] = []
    for kind, box in BOXES:
        if kind == "console":
            for part in box.split("$ ")[1:]:
                command, _, shown = part.partition("\n")
                found.append((command, shown))
    return found


def execution() -> dict[str, object]:
    orders = [{"json": order} for order in json.loads(FILES["orders.json"])]
    parameters = {"language": "pythonNative", "mode": "runOnceForEachItem", "pythonCode": FAILING}
    return {
        "id": "1234",
        "mode": "webhook",
        "workflowData": {"id": "w", "name": "Billing", "nodes": [{"name": "Double", "parameters": parameters}]},
        "data": {
            "resultData": {
                "runData": {
                    "Webhook": [{"executionIndex": 0, "data": {"main": [orders]}}],
                    "Double": [{"executionIndex": 1, "source": [{"previousNode": "Webhook"}], "error": {}}],
                }
            }
        },
    }


class Prices(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        body = json.dumps({"amount": 9.5}).encode() if parse_qs(url.query) == {"item": ["tea"]} else b"{}"
        self.send_response(200 if url.path == "/price.json" else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Says nothing."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of the document, and its server for prices."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Prices) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        for name, content in FILES.items():
            (tmp_path / name).write_text(content.replace("localhost:8000", f"127.0.0.1:{server.server_port}"))
        (tmp_path / "execution.json").write_text(json.dumps(execution()))
        (tmp_path / "fixed.py").write_text(FIXED)
        monkeypatch.chdir(tmp_path)
        yield tmp_path
        server.shutdown()


def output_of(command: str) -> str:
    program, *args = shlex.split(command)
    if program == "cat":
        return "".join(Path(name).read_text() for name in args)
    assert program == "trio-runner"
    return click.testing.CliRunner().invoke(cli, args, prog_name="trio-runner").output


def test_every_command_shows_what_the_document_says(folder: Path) -> None:
    assert len(commands()) >= 7
    for command, shown in commands():
        output = output_of(command)
        if shown.startswith("Error: "):  # the traceback below it is left out
            output = output.partition("\n")[0] + "\n"
        assert sorted(output.splitlines()) == sorted(shown.splitlines()), command


def test_every_option_that_the_document_names_exists() -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT))
    known = {option for param in cli.commands["exec"].params for option in (*param.opts, *param.secondary_opts)}
    assert named <= known, named - known


def test_the_program_in_the_editor_s_form_runs_as_it_is(folder: Path) -> None:
    (program,) = (box for kind, box in BOXES if kind == "python" and "def main" in box)
    result = click.testing.CliRunner().invoke(cli, ["exec", "-c", program, "-i", "orders.json"])
    assert result.output == '[{"json":{"n":2}}]\n'


def test_the_test_in_the_document_passes(folder: Path) -> None:
    (test,) = (box for kind, box in BOXES if kind == "python" and "subprocess" in box)
    test = test.replace('["trio-runner",', f"[{sys.executable!r}, '-m', 'trio_runner',")
    subprocess.run([sys.executable, "-c", test], check=True, timeout=60)
