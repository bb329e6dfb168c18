"""One run of an installer that is played by a script: what it is told, what it may take, and what is left of it."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
import trio

from tests.shell.shell_kit import until
from trio_runner.config import MIB, PackagesConfig
from trio_runner.errors import StartError
from trio_runner.inline import Plan
from trio_runner.installer import BuildError, Workplace, clean, find_uv, install, seal, usage

pytestmark = pytest.mark.e2e

PLAN = Plan(("tiny>=1",), ("tiny<3",))
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HTTPS_PROXY": "http://proxy",
    "N8N_RUNNERS_AUTH_TOKEN": "secret",
    "N8N_SENTRY_DSN": "secret",
    "UV_INDEX": "https://evil.test",
    "PIP_INDEX_URL": "https://evil.test",
    "HOME": "/home/somebody",
}


async def run(tmp_path: Path, script: str, *, index: str = "", wheels: str = "", **limits: int) -> Workplace:
    command = tmp_path / "uv"
    command.write_text(f"#!{sys.executable}\nimport os, sys, time\n{script}")
    command.chmod(0o755)
    place = Workplace(tmp_path / "build", tmp_path / "cache")
    place.folder.mkdir()
    place.cache.mkdir()
    config = PackagesConfig(cache=str(tmp_path), index=index, wheels=wheels, **limits)
    with trio.fail_after(30):
        await install(str(command), PLAN, place, config, ENVIRONMENT)
    return place


async def failed(tmp_path: Path, script: str, **settings: int) -> BuildError:
    with pytest.raises(BuildError) as caught:
        await run(tmp_path, script, **settings)
    return caught.value


async def test_it_is_told_of_requirements_in_a_file_and_of_nothing_secret(tmp_path: Path) -> None:
    tell = "print(sys.argv[1:], os.environ, [open(f'{n}.txt').read() for n in ('requirements', 'constraints')])"
    place = await run(tmp_path, tell, index="https://me:pass@index.test/simple")
    said = (place.folder / "log").read_text()
    assert "'tiny>=1\\n', 'tiny<3\\n'" in said
    assert "'UV_DEFAULT_INDEX': 'https://me:pass@index.test/simple'" in said
    arguments, environment = said.split("environ(")
    assert "'--only-binary', ':all:'" in arguments
    assert "'--no-config'" in arguments
    assert "pass" not in arguments, "anybody can read a command line"
    assert "'HTTPS_PROXY': 'http://proxy'" in environment
    assert not [word for word in ("secret", "evil", "somebody", "N8N_") if word in environment]


async def test_a_folder_of_wheels_alone_means_that_no_index_is_asked(tmp_path: Path) -> None:
    place = await run(tmp_path, "print(sys.argv)", wheels="/wheels")
    assert "'--find-links', '/wheels', '--no-index'" in (place.folder / "log").read_text()


async def test_its_words_come_without_passwords_paths_and_advice_about_options(tmp_path: Path) -> None:
    words = (
        "Using CPython 3.12 interpreter at: /opt/python",
        "error: Failed to fetch https://me:pass@index.test/simple/tiny/ and https://x:y@other.test/z",
        f"  cause: {tmp_path}/build/site/a and /etc/pip/conf.d/secret.conf were read",
        "hint: use `--no-index`",
    )
    script = f"print({chr(10).join(words)!r}); sys.exit(2)"
    error = await failed(tmp_path, script, index="https://me:pass@index.test/simple")  # type: ignore[arg-type]
    assert error.kind == "resolver"
    assert str(error) == (
        "Failed to fetch the package index/tiny/ and https://other.test/z\na and secret.conf were read"
    )


def test_long_words_are_cut() -> None:
    assert len(clean("x" * 10_000, ())) == 2001
    assert clean("a\x1b[31mb\n\n × No\n ╰─▶ Because", ()) == "a?[31mb\nNo\nBecause"


async def test_one_that_takes_too_long_ends_with_all_that_it_started(tmp_path: Path) -> None:
    script = "child = os.fork()\nif child: open('pids', 'w').write(f'{os.getpid()} {child}')\ntime.sleep(60)"
    error = await failed(tmp_path, script, build_timeout=1)
    assert (error.kind, str(error)) == ("timeout", "The installation took longer than 1 s and was stopped")
    pids = [int(pid) for pid in (tmp_path / "build/pids").read_text().split()]
    with trio.fail_after(10):
        for pid in pids:
            await until(lambda pid=pid: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    "write",
    [
        "open('site/big', 'wb').write(b'x' * 3_000_000)",
        "[open(f'site/{n}', 'wb').write(b'x' * 500_000) for n in range(6)]; time.sleep(60)",
        "cache = sys.argv[sys.argv.index('--cache-dir') + 1]\n"
        "[open(f'{cache}/{n}', 'wb').write(b'x' * 500_000) for n in range(6)]; time.sleep(60)",
    ],
)
async def test_one_that_takes_too_much_room_is_stopped(tmp_path: Path, write: str) -> None:
    error = await failed(tmp_path, write, build_size=MIB)
    assert (error.kind, str(error)) == ("size", "The packages take more room than the 1 MiB allowed")


async def test_one_that_is_done_before_anybody_looked_is_measured_all_the_same(tmp_path: Path) -> None:
    write = "[open(f'site/{n}', 'wb').write(b'x' * 500_000) for n in range(6)]"
    assert (await failed(tmp_path, write, build_size=MIB)).kind == "size"


async def test_a_command_that_cannot_be_started_is_an_error_of_the_runner(tmp_path: Path) -> None:
    place = Workplace(tmp_path / "build", tmp_path)
    place.folder.mkdir()
    with pytest.raises(BuildError, match="uv could not be started") as caught:
        await install("/nowhere/uv", PLAN, place, PackagesConfig(cache=str(tmp_path)), ENVIRONMENT)
    assert caught.value.kind == "internal"


async def test_links_that_lead_out_of_the_packages_are_not_taken(tmp_path: Path) -> None:
    error = await failed(tmp_path, "os.symlink('/etc', 'site/evil')")
    assert str(error) == "The packages hold links that lead out of their own folder"


def test_what_is_installed_is_readable_for_all_and_writable_for_the_owner(tmp_path: Path) -> None:
    inner = tmp_path / "site/package"
    inner.mkdir(parents=True, mode=0o700)
    (inner / "module.py").touch(0o600)
    (inner / "open.py").touch()
    (inner / "open.py").chmod(0o4777)
    (inner / "link.py").symlink_to("module.py")
    assert seal(tmp_path / "site")
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in (inner, *inner.glob("[mo]*"))}
    assert modes == {"package": 0o755, "module.py": 0o644, "open.py": 0o755}


def test_room_counts_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 8192)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert usage(tmp_path) == 8192
    assert usage(tmp_path, links=False) == 0
    assert usage(tmp_path / "nowhere") == 0


def test_without_uv_the_operator_reads_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    with pytest.raises(StartError, match=r"pip install 'trio-runner\[inline\]'"):
        find_uv("/nowhere")
