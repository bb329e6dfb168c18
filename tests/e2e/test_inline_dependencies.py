"""Programs with packages of their own, with a real uv, real workers and wheels made by hand: no network."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.runner_kit import Bench, running
from tests.wheel_kit import make_wheel, program
from trio_runner.config import load
from trio_runner.envstore import Store
from trio_runner.errors import StartError
from trio_runner.supervisor import Runner

pytestmark = pytest.mark.e2e

SEES = "import tiny\nreturn tiny.VERSION"


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    make_wheel(folder, "tiny", "1.0")
    make_wheel(folder, "tiny", "2.0")
    make_wheel(
        folder, "uses-tiny", "1.0", requires=["tiny>=2"], files={"uses_tiny.py": "import tiny\nV = tiny.VERSION\n"}
    )
    return folder


@asynccontextmanager
async def runner(wheels: Path, allowed: str = "allow", **settings: str) -> AsyncIterator[Bench]:
    environ = {
        "N8N_RUNNERS_INLINE_DEPENDENCIES": allowed,
        "N8N_RUNNERS_INLINE_WHEELS": str(wheels) if any(wheels.iterdir()) else "",
        "N8N_RUNNERS_INLINE_CACHE": str(wheels.parent / "cache"),
        "N8N_RUNNERS_MAX_CONCURRENCY": "2",
        **{f"N8N_RUNNERS_{name}": value for name, value in settings.items()},
    }
    with trio.fail_after(60):
        async with running(environ, environment={"PATH": os.environ["PATH"]}) as bench:
            yield bench


def message(outcome: dict[str, Any]) -> str:
    return f"{outcome['error']['message']}\n{outcome['error'].get('description', '')}"


@pytest.mark.parametrize("allowed", ["allow", "tiny,uses-tiny"])
async def test_a_program_gets_the_packages_that_it_names_and_no_others(wheels: Path, allowed: str) -> None:
    async with runner(wheels, allowed) as bench:
        assert (await bench.run(program(SEES, "tiny<2")))["result"] == "1.0"
        assert (await bench.run(program(SEES, "tiny")))["result"] == "2.0"
        uses = "import uses_tiny\nreturn uses_tiny.V"
        assert (await bench.run(program(uses, "uses-tiny")))["result"] == "2.0", "packages import what they need"
        assert "Import of external package 'tiny' is disallowed" in message(await bench.run(program(SEES, "uses-tiny")))
        assert "Import of external package 'tiny' is disallowed" in message(await bench.run(SEES))
        assert bench.runner.counters.builds["built"] == 3
        assert bench.runner.counters.environments == 3
        assert bench.runner.readiness().ready


async def test_an_environment_is_built_once_and_found_by_the_next_runner(wheels: Path) -> None:
    for built in (1, 0):
        async with runner(wheels) as bench:
            outcomes: list[dict[str, Any]] = []

            async def one(outcomes: list[dict[str, Any]] = outcomes, bench: Bench = bench) -> None:
                outcomes.append(await bench.run(program(SEES, "tiny")))

            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(one)
            assert [outcome["result"] for outcome in outcomes] == ["2.0"] * 6
            assert bench.runner.counters.builds["built"] == built


async def test_environments_in_rotation_share_the_room_of_two(wheels: Path) -> None:
    for number in range(4):
        make_wheel(wheels, f"p{number}")
    async with runner(wheels, INLINE_ENVIRONMENTS="2") as bench:
        for number in (*range(4), *range(4)):
            outcome = await bench.run(program(f"import p{number}\nreturn p{number}.VERSION", f"p{number}"))
            assert outcome["result"] == "1.0"
            assert bench.runner.counters.environments <= 2
        assert bench.runner.counters.builds["built"] == 4


async def test_a_build_that_fails_is_the_task_s_error_with_the_resolver_s_words(wheels: Path) -> None:
    async with runner(wheels, "tiny,absent") as bench:
        text = message(await bench.run(program(SEES, "tiny>=3")))
        assert "only tiny<=2.0 is available and you require tiny>=3" in text
        assert str(wheels.parent) not in text
        assert "absent was not found" in message(await bench.run(program(SEES, "absent")))
        assert message(await bench.run(program(SEES, "other"))).startswith("The package other is not allowed")
        assert (await bench.run(program(SEES, "tiny")))["result"] == "2.0"
        failing = program(SEES, "tiny>=3")
        again = await bench.run(failing, continueOnFail=True)
        assert "could not be installed" in again["result"][0]["json"]["error"]
        assert bench.runner.counters.builds["resolver"] == 2, "the third time is not tried"


async def test_the_operator_s_ranges_hold_for_what_a_package_brings_along(wheels: Path) -> None:
    async with runner(wheels, "uses-tiny,tiny<2") as bench:
        assert (await bench.run(program(SEES, "tiny>=1")))["result"] == "1.0"
        assert "depend on tiny>=2 and tiny<2, we can" in message(await bench.run(program("return 1", "uses-tiny")))


async def test_nothing_is_built_from_source(wheels: Path) -> None:
    import tarfile

    setup = wheels / "setup.py"
    setup.write_text(
        f"open({str(wheels / 'ran')!r}, 'w')\nfrom setuptools import setup\nsetup(name='evil', version='1')"
    )
    with tarfile.open(wheels / "evil-1.0.tar.gz", "w:gz") as archive:
        archive.add(setup, "evil-1.0/setup.py")
    async with runner(wheels) as bench:
        text = message(await bench.run(program("return 1", "evil")))
        assert "evil" in text
        assert bench.runner.counters.builds["resolver"] == 1
        assert not (wheels / "ran").exists()


HOSTILE = """
import os, sys
try:
    open({mark!r}, 'w')
    WROTE = True
except OSError:
    WROTE = False
"""


async def test_what_an_author_asks_for_runs_in_confined_workers_only(wheels: Path) -> None:
    """Nobody vouches for it: the zygote, which is not confined, must not import it; nor is a .pth file obeyed."""
    mark = str(wheels / "mark")
    path_file = f"import os; open({mark!r}, 'w')\n"
    make_wheel(wheels, "hostile", files={"hostile.py": HOSTILE.format(mark=mark), "hostile.pth": path_file})
    async with runner(wheels) as bench:
        assert (await bench.run(program("import hostile\nreturn hostile.WROTE", "hostile")))["result"] is False
        assert not Path(mark).exists()


async def test_a_package_cannot_take_the_place_of_the_standard_library_or_of_ours(wheels: Path) -> None:
    files = {"json.py": "FAKE = 1\n", "trio_runner/__init__.py": "FAKE = 1\n", "usurper.py": "import json\nJ = json\n"}
    make_wheel(wheels, "usurper", files=files)
    async with runner(wheels, STDLIB_ALLOW="json") as bench:
        body = "import usurper, json\nreturn [usurper.J is json, hasattr(json, 'FAKE')]"
        outcome = await bench.run(program(body, "usurper"), nodeMode="runOnceForAllItems")
        assert "hasattr" in message(outcome) or outcome["result"] == [True, False]
        assert "Import of external package 'trio_runner' is disallowed" in message(
            await bench.run(program("import trio_runner\nreturn 1", "usurper"))
        )


async def test_environments_cannot_read_each_other_s_packages(wheels: Path) -> None:
    make_wheel(wheels, "reader", files={"reader.py": "def read(path):\n    return open(path).read()\n"})
    where = "import tiny\nreturn tiny.__file__"
    async with runner(wheels, BUILTINS_DENY="", POLICY="relaxed") as bench:
        other = (await bench.run(program(where, "tiny")))["result"]
        body = f"import reader\nreturn [len(reader.read(reader.__file__)) > 0, reader.read({other!r})]"
        assert "Permission denied" in message(await bench.run(program(body, "reader")))


async def test_without_the_operator_s_word_metadata_is_a_comment(wheels: Path) -> None:
    async with runner(wheels, "none") as bench:
        assert (await bench.run(program("return 1", "tiny @ https://evil.test")))["result"] == 1
        text = message(await bench.run(program(SEES, "tiny")))
        assert "Import of external package 'tiny' is disallowed" in text
        assert "the runner's operator sets N8N_RUNNERS_INLINE_DEPENDENCIES" in text
        assert not (wheels.parent / "cache").exists()


async def test_an_index_that_does_not_answer_is_said_in_time_and_other_tasks_go_on(wheels: Path) -> None:
    index = "http://name:pass@127.0.0.1:9/simple"
    async with runner(wheels, INLINE_INDEX=index, INLINE_WHEELS="") as bench:
        outcomes: list[dict[str, Any]] = []

        async def ask() -> None:
            outcomes.append(await bench.run(program("return 1", "absent")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            for number in range(5):
                assert (await bench.run(f"return {number}"))["result"] == number
                assert outcomes == []
        text = message(outcomes[0])
        assert "Connection refused" in text
        assert "pass" not in text
        assert outcomes[0]["logs"] == [["'Waiting for the packages of this program: absent'"]]


@pytest.mark.packages
@pytest.mark.parametrize("allowed", ["allow", "pandas>=2,tabulate"])
async def test_real_packages_come_from_an_index(tmp_path: Path, allowed: str) -> None:
    """From the installer's own index: needs the network."""
    (tmp_path / "wheels").mkdir()
    body = "import pandas, tabulate\nreturn [int(pandas.DataFrame({'a': [1, 2]}).a.sum()), tabulate.tabulate([[1]])]"
    async with runner(tmp_path / "wheels", allowed, INLINE_WAIT="50") as bench:
        outcome = await bench.run(program(body, "pandas>=2", "tabulate"))
        assert outcome["result"][0] == 3
        assert outcome["logs"][0] == ["'Waiting for the packages of this program: pandas>=2, tabulate'"]
        assert "Import of external package 'numpy'" in message(
            await bench.run(program("import numpy\nreturn 1", "pandas>=2", "tabulate"))
        )


# Requirements of all programs


def requirements(wheels: Path, text: str) -> str:
    file = wheels.parent / "requirements.txt"
    file.write_text(text)
    return str(file)


async def test_requirements_of_all_programs_are_there_before_the_first_task(wheels: Path) -> None:
    file = requirements(wheels, "# ours\nuses-tiny  # and what it needs\n")
    async with runner(wheels, "tiny", REQUIREMENTS=file) as bench:
        assert (await bench.run("import uses_tiny\nreturn uses_tiny.V"))["result"] == "2.0"
        assert "disallowed" in message(await bench.run(SEES))
        assert (await bench.run(program(SEES, "tiny<2")))["result"] == "1.0", "a program's own come before"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tiny>=3", "you require tiny>=3"),
        ("-r other.txt", "is not allowed"),
        (None, "cannot be read: No such file"),
    ],
)
async def test_a_runner_whose_requirements_cannot_be_had_does_not_start(
    wheels: Path, text: str | None, reason: str
) -> None:
    file = requirements(wheels, text) if text is not None else "/nowhere/requirements.txt"
    environ = {
        "N8N_RUNNERS_AUTH_TOKEN": "secret",
        "N8N_RUNNERS_REQUIREMENTS": file,
        "N8N_RUNNERS_INLINE_WHEELS": str(wheels),
        "N8N_RUNNERS_INLINE_CACHE": str(wheels.parent / "cache"),
    }
    runner = Runner(load(environ).config, environment={"PATH": os.environ["PATH"]})
    with trio.fail_after(30), pytest.raises(StartError, match=reason):
        await runner.run(handle_signals=False)


async def test_a_shutdown_ends_an_installation_at_start(wheels: Path) -> None:
    environ = {
        "N8N_RUNNERS_AUTH_TOKEN": "secret",
        "N8N_RUNNERS_REQUIREMENTS": requirements(wheels, "tiny"),
        "N8N_RUNNERS_INLINE_WHEELS": str(wheels),
        "N8N_RUNNERS_INLINE_CACHE": str(wheels.parent / "cache"),
    }
    runner = Runner(load(environ).config, environment={"PATH": os.environ["PATH"]})
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: runner.run(handle_signals=False))
            await trio.testing.wait_all_tasks_blocked()
            runner.stop(1)


# The folder


def test_the_least_recently_used_environments_are_thrown_away_but_not_those_in_use(tmp_path: Path) -> None:
    from trio_runner.inline import Plan

    config = load(
        {
            "N8N_RUNNERS_AUTH_TOKEN": "x",
            "N8N_RUNNERS_INLINE_DEPENDENCIES": "allow",
            "N8N_RUNNERS_INLINE_CACHE": str(tmp_path),
        }
        | {"N8N_RUNNERS_INLINE_CACHE_SIZE": "1"}
    ).config.packages
    assert config is not None
    store = Store(config)
    store.open()
    held = []
    for number in range(4):
        plan = Plan((f"p{number}",))
        with store.building() as place:
            place.site.mkdir()
            (place.site / "data").write_bytes(b"x" * 400_000)
            built = store.publish(store.key(plan), plan, place)
        assert built is not None
        os.utime(tmp_path / "environments" / built.key / "lock", (number, number))
        if number:
            built.release()
        held.append(built)
    store.trim()
    left = {path.name for path in (tmp_path / "environments").iterdir()}
    assert left == {held[0].key, held[3].key}
    assert store.find(held[1].key) is None
    assert list((tmp_path / "builds").iterdir()) == []


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    config = load(
        {
            "N8N_RUNNERS_AUTH_TOKEN": "x",
            "N8N_RUNNERS_INLINE_DEPENDENCIES": "allow",
            "N8N_RUNNERS_INLINE_CACHE": str(tmp_path),
        }
    ).config.packages
    assert config is not None
    with pytest.raises(StartError, match="others may write to it"):
        Store(config).open()


def test_what_a_killed_runner_has_left_is_cleared_away_but_not_what_another_builds(tmp_path: Path) -> None:
    config = load(
        {
            "N8N_RUNNERS_AUTH_TOKEN": "x",
            "N8N_RUNNERS_INLINE_DEPENDENCIES": "allow",
            "N8N_RUNNERS_INLINE_CACHE": str(tmp_path),
        }
    ).config.packages
    assert config is not None
    store = Store(config)
    store.open()
    (tmp_path / "builds/left").mkdir()
    with store.building() as place:
        Store(config).open()
        assert list((tmp_path / "builds").iterdir()) == [place.folder]
