"""What a release consists of: the same bytes twice, everything in it, and it works where nothing else is."""

from __future__ import annotations

import json
import re
import sys
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.deploy.test_docker import values_of
from tests.release.wheel_kit import ROOT, build, run
from trio_runner import __version__

pytestmark = pytest.mark.release


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.suffix in (".whl", ".gz")
    }


def test_who_builds_it_again_gets_the_same_bytes(built: tuple[Path, Path], tmp_path: Path) -> None:
    build(tmp_path)
    assert digests(tmp_path) == digests(built[0].parent)
    assert len(digests(tmp_path)) == 2


def test_the_wheel_holds_the_package_and_its_templates_and_nothing_of_the_checkout(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = wheel.read(f"trio_runner-{__version__}.dist-info/METADATA").decode()
    tracked = run("git", "ls-files", "trio_runner").split()
    assert inside == set(tracked)
    assert f"\nVersion: {__version__}\n" in metadata
    assert "Requires-Dist: pytest" not in metadata


def test_the_sdist_holds_what_the_tests_need_too(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as sdist:
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "constraints.txt"} <= inside
    assert {"tests/runner_kit.py", "docs/deploying.md"} <= inside


def readme_commands() -> list[str]:
    """Every block of the README's shell commands that needs no n8n, nothing out of one and no checkout."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    plain = [block.replace("uv run trio-runner", "trio-runner") for block in blocks]
    return [
        block
        for block in plain
        if "trio-runner" in block and not any(word in block for word in ("<secret>", "uv run", "execution.json"))
    ]


def test_the_readme_s_commands_work_with_the_wheel(commands: Path, tmp_path: Path) -> None:
    blocks = readme_commands()
    shown = "".join(blocks)
    assert shown.count("trio-runner exec") >= 2
    assert shown.count("trio-runner init") >= 1
    for block in blocks:
        run("bash", "-euo", "pipefail", "-c", block, cwd=tmp_path, PATH=f"{commands}:/usr/bin:/bin")


def test_the_wheel_s_own_version_is_the_one_place_s(commands: Path, tmp_path: Path) -> None:
    assert run(commands / "trio-runner", "--version", cwd=tmp_path) == f"trio-runner, version {__version__}\n"


TESTING = """
from trio_runner.testing import CodeNode
with CodeNode() as node:
    assert node.run("return _items", [{"a": 1}]).json == [{"a": 1}]
"""


def test_pages_explanations_and_the_kit_for_other_people_s_tests_are_in_the_wheel(
    commands: Path, tmp_path: Path
) -> None:
    page = 'from trio_runner.statuspage import page; assert b"</html>" in page()[0]'
    run(commands / "python", "-c", page, cwd=tmp_path)
    run(commands / "trio-runner", "explain", "TR401", cwd=tmp_path)
    run(commands / "python", "-c", TESTING, cwd=tmp_path)


def test_the_wheel_finds_itself_for_the_image_and_the_image_s_steps_make_a_runner(
    built: tuple[Path, Path], commands: Path, tmp_path: Path
) -> None:
    """The Dockerfile's COPY and RUN lines of the first stage, one after the other, in folders of this test."""
    context, root = tmp_path / "context", tmp_path / "root"
    run(commands / "trio-runner", "init", "docker", "-o", context, cwd=tmp_path)
    assert (context / built[0].name).read_bytes() == built[0].read_bytes()
    text = (context / "Dockerfile").read_text()
    first, _, final = text.rpartition("\nFROM ")
    work = root / "build"
    work.mkdir(parents=True)
    for source in (value.split()[0] for value in values_of("COPY", first)):
        (work / source).write_bytes((context / source).read_bytes())
    # with uv for venv and pip, which take the same options: a tenth of the time
    target = root / "opt" / "trio-runner"
    words = {
        "python -m venv /opt/trio-runner": f"uv venv --quiet --python {sys.executable} {target}",
        "/opt/trio-runner/bin/pip install": f"uv pip install --quiet --python {target}",
        "/opt/trio-runner/bin/pip check": f"uv pip check --quiet --python {target}",
    }
    steps = values_of("RUN", first)
    assert len(steps) == 4
    for step in steps:
        for word, same in words.items():
            step = step.replace(word, same)  # noqa: PLW2901
        assert step.startswith("uv ")
        run("sh", "-ec", step, cwd=work)
    entry = [*json.loads(values_of("ENTRYPOINT", final)[0]), "exec", "-c", "return [{'json': {'n': 1}}]"]
    assert json.loads(run(target / "bin" / entry[0], *entry[1:], cwd=work)) == [{"json": {"n": 1}}]


def test_there_is_a_list_of_what_is_in_it(commands: Path, tmp_path: Path) -> None:
    """CycloneDX: every package of the installed environment with its version and licence."""
    bill = tmp_path / "sbom.json"
    command = ("cyclonedx-py", "environment", "--no-validate", "--output-reproducible", "-o", bill)
    run(*command, "--pyproject", ROOT / "pyproject.toml", commands / "python")
    parts = json.loads(bill.read_text())
    versions = {canonicalize_name(part["name"]): part["version"] for part in parts["components"]}
    assert parts["metadata"]["component"]["name"] == "trio-runner"
    pinned = dict(re.findall(r"^([\w.-]+)==([^ ;]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    others = {name: version for name, version in versions.items() if name != "trio-runner"}
    assert len(others) > 10
    assert others.items() <= pinned.items()
    assert all(part.get("licenses") for part in parts["components"])
