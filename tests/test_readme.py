"""The README says what is so: its table of variables is the one that the code reads."""

from __future__ import annotations

import re
from pathlib import Path

import click.testing

from trio_runner.cli import cli
from trio_runner.config import VARIABLES

README = Path(__file__).parent.parent / "README.md"


def variables_table() -> str:
    """The rows as they should stand between the markers."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for variable in VARIABLES.values():
        default = variable.default if len(variable.default) < 40 else "see `policy.py`"
        unit = f" ({variable.unit})" if variable.unit else ""
        shown = f"`{default}`" if default and "see" not in default else default
        rows.append(f"| `{variable.name}` | {shown} | {variable.meaning}{unit} |")
    return "\n".join(rows)


def test_the_table_of_variables_is_the_one_that_the_code_reads() -> None:
    text = README.read_text()
    found = re.search(r"<!-- variables -->\n(.*?)\n<!-- /variables -->", text, re.DOTALL)
    assert found is not None
    assert found.group(1) == variables_table(), f"README.md should say:\n{variables_table()}"


def test_the_exit_codes_are_those_of_the_help_of_start() -> None:
    told = re.findall(r"^    (\d)  ", click.testing.CliRunner().invoke(cli, ["start", "--help"]).output, re.MULTILINE)
    text = README.read_text()
    text = text[text.index("Exit codes: ") :].partition("\n\n")[0]
    assert re.findall(r"(?::|·)\s(\d) ", text) == told


def test_every_command_that_the_readme_shows_exists() -> None:
    shown = set(re.findall(r"trio-runner (start|exec|check|completion|[a-z]+)(?= )", README.read_text()))
    assert shown <= set(cli.commands) | {"exec", "check"}
    assert {"exec", "check"} <= shown


if __name__ == "__main__":
    README.write_text(
        re.sub(
            r"(<!-- variables -->\n).*?(\n<!-- /variables -->)",
            lambda match: match.group(1) + variables_table() + match.group(2),
            README.read_text(),
            flags=re.DOTALL,
        )
    )
