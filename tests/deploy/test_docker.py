"""The Dockerfile, instruction by instruction; that its build works is shown by test_release, without Docker."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.deploy_kit import invoke, made
from trio_runner import __version__
from trio_runner.config import HEALTH_PORT, load
from trio_runner.deploy.render import template


def instructions(text: str) -> list[tuple[str, str]]:
    lines = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines.splitlines() if line)]


def values_of(word: str, text: str) -> list[str]:
    return [rest for name, rest in instructions(text) if name == word]


def test_the_image_is_debian_slim_with_the_python_that_was_asked_for() -> None:
    for args, python in ((("docker",), "3.13"), (("docker", "--python", "3.12"), "3.12")):
        text = made(*args).text
        assert values_of("ARG", text) == [f"PYTHON={python}"]
        assert [value.split()[0] for value in values_of("FROM", text)] == ["python:${PYTHON}-slim-bookworm"] * 2


def test_the_final_stage_has_no_compiler_is_not_root_and_starts_the_runner() -> None:
    final = made("docker").text.rpartition("\nFROM ")[2]
    assert "apt-get" not in "\n".join(rest for _, rest in instructions(final))
    assert values_of("USER", final) == ["1000:1000"]
    assert values_of("ENTRYPOINT", final) == ['["trio-runner"]']
    assert values_of("CMD", final) == ['["start"]']
    assert values_of("EXPOSE", final) == [HEALTH_PORT.default]


def test_what_is_copied_is_what_the_folder_holds_and_nothing_else_gets_into_the_build(tmp_path: Path) -> None:
    assert invoke("docker", "-o", str(tmp_path)).exit_code == 0
    text = (tmp_path / "Dockerfile").read_text()
    copied = {value.split()[0] for value in values_of("COPY", text) if not value.startswith("--from")}
    wheel = f"trio_runner-{__version__}-py3-none-any.whl"
    assert copied == {"constraints.txt", "requirements.txt", wheel}
    rules = (tmp_path / ".dockerignore").read_text().splitlines()
    assert {rule for rule in rules if not rule.startswith("#")} == {
        "*",
        "!constraints.txt",
        "!requirements.txt",
        "!*.whl",
    }
    missing = copied - {path.name for path in tmp_path.iterdir()}
    assert missing <= {wheel}  # which this installation may not come from; then that is said
    assert bool(missing) == (f"Put {wheel}" in made("docker").said)


def test_settings_are_part_of_the_image_and_start_without_a_warning() -> None:
    environment = dict(
        assignment.split("=", 1)
        for value in values_of("ENV", made("docker", "--stdlib", "json").text.rpartition("\nFROM ")[2])
        for assignment in re.findall(r'\w+=(?:"(?:\\.|[^"])*"|\S+)', value)
    )
    plain = {name: value.strip('"') for name, value in environment.items()}
    assert plain["N8N_RUNNERS_STDLIB_ALLOW"] == "json"
    assert load({**plain, "N8N_RUNNERS_AUTH_TOKEN": "x"}).warnings == ()


def pins() -> dict[str, Requirement]:
    """What constraints.txt pins, by name."""
    joined = template("constraints.txt").replace("\\\n", "")
    found = {}
    for line in joined.splitlines():
        if line and not line.lstrip().startswith("#"):
            pin, _, hashes = line.partition("--hash")
            assert re.findall(r"sha256:[0-9a-f]{64}", hashes), f"no hash for {pin}"
            requirement = Requirement(pin.strip())
            found[canonicalize_name(requirement.name)] = requirement
    return found


def test_every_dependency_is_pinned_to_a_version_that_is_allowed_and_by_hash() -> None:
    from importlib.metadata import requires

    pinned = pins()
    seen: set[str] = set()
    todo = [Requirement(text) for text in requires("trio-runner") or ()]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        assert name in pinned, f"{name} is not pinned"
        (pin,) = pinned[name].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), f"{requirement} does not allow {pin.version}"
        if name not in seen:
            seen.add(name)
            todo += [Requirement(text) for text in requires(name) or ()]
    assert len(seen) > 10
