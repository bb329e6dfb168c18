"""Templates are filled as they say, and a value is the same after whoever reads the file has read it."""

from __future__ import annotations

import re
import shlex
import subprocess
from importlib.resources import files

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trio_runner.deploy import render as render_module
from trio_runner.deploy.render import compose_text, docker_text, kubernetes_text, render, systemd_text, yaml_word

VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@pytest.fixture
def as_template(monkeypatch: pytest.MonkeyPatch):
    def use(text: str) -> None:
        monkeypatch.setattr(render_module, "template", lambda name: text)

    return use


def test_a_name_in_a_line_is_replaced_and_dollars_are_left_alone(as_template) -> None:
    as_template("a: @{x} ${x} @x\n")
    assert render("t", {"x": "1"}) == "a: 1 ${x} @x\n"


def test_a_name_alone_on_its_line_is_a_block_with_its_indent_and_an_empty_one_takes_the_line_with_it(
    as_template,
) -> None:
    as_template("a:\n  @{x}\n  @{nothing}\nb\n")
    assert render("t", {"x": "one\n\n  two", "nothing": ""}) == "a:\n  one\n\n    two\nb\n"


def test_what_is_put_in_is_not_looked_at_again(as_template) -> None:
    as_template("@{x}\na @{x} @{y}\n")
    assert render("t", {"x": "@{y}", "y": "@{x}"}) == "@{y}\na @{y} @{x}\n"


def test_names_and_values_must_fit_together(as_template) -> None:
    as_template("@{x}\n")
    with pytest.raises(KeyError):
        render("t", {})
    with pytest.raises(ValueError, match="does not use y"):
        render("t", {"x": "", "y": ""})


def test_no_template_holds_a_version_a_machine_s_path_or_a_line_too_long_to_read() -> None:
    for file in (files("trio_runner.deploy") / "templates").iterdir():
        text = file.read_text(encoding="utf-8")
        if file.name == "constraints.txt":
            continue
        assert not re.search(r"\d+\.\d+\.\d+", re.sub(r"\d+(\.\d+){3}|==\S+", "", text)), file.name
        assert not re.search(r"(?<!\w)/(root|home/(?!node|runner)|work|tmp/)", text), file.name
        assert max(map(len, text.splitlines())) <= 125, file.name


@given(VALUES)
def test_a_value_is_the_same_after_compose_kubernetes_and_a_dockerfile_have_read_it(value: str) -> None:
    assert yaml.safe_load(compose_text(value)).replace("$$", "$") == value
    assert yaml.safe_load(kubernetes_text(value)).replace("$$(", "$(") == value
    one_line = " ".join(value.splitlines())
    assert re.sub(r"\\(.)", r"\1", docker_text(value)[1:-1]) == one_line


@pytest.mark.parametrize(
    "value", ["on", "no", "12", "1.5", "n8n", "a-b", "0x1", "true", "trio-runner:1", "a:", "", "~", "É"]
)
def test_a_word_is_a_text_for_yaml(value: str) -> None:
    assert yaml.safe_load(f"x: {yaml_word(value)}") == {"x": value}


@pytest.mark.parametrize("value", ["a b", 'say "no"', "100%", "back\\slash", "it's", "a\tb\nc", "$HOME", "äöü"])
def test_a_value_is_the_same_after_systemd_has_read_it(value: str) -> None:
    # C escapes, then specifiers; what ascii() writes between quotes is such a text, too
    quoted = systemd_text(f"NAME={value}")
    assert quoted[0] == quoted[-1] == '"'
    plain = quoted[1:-1].replace('\\"', '"').replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\")
    assert plain.replace("%%", "%") == f"NAME={value}"


@pytest.mark.parametrize("value", ["", "a b", "it's", '$HOME `id` \\ "', "*"])
def test_a_value_is_the_same_after_a_shell_has_read_it(value: str) -> None:
    script = f'export X={shlex.quote(value)}; printf %s "$X"'
    assert (
        subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True, timeout=10).stdout
        == value
    )
