"""One run of uv: wheels of a plan into a folder, and what to say when that fails.

Owns the command, its environment, its limits and the cleaning of its words. Nothing that it installs is executed:
only wheels are taken, and they are unpacked. Must not know where folders come from or what becomes of them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import trio

from trio_runner.config import MIB, PackagesConfig
from trio_runner.errors import RunnerError, StartError
from trio_runner.inline import Plan

_LOOK: Final = 0.5
"""Seconds between two looks at the size of what is being installed."""
_TOO_LARGE: Final = "File too large"
"""What the system says of a file beyond the limit, where its signal is ignored."""
_MAX_LOG: Final = 16_384
_MAX_WORDS: Final = 2000
_PASSED_ON: Final = frozenset(
    "PATH LANG http_proxy https_proxy no_proxy all_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY "
    "SSL_CERT_FILE SSL_CERT_DIR".split()
)
"""What uv gets of the runner's environment: how to reach an index. No token, and no setting of its own."""
_UV: Final = {
    "UV_HTTP_TIMEOUT": "20",
    "UV_HTTP_RETRIES": "1",
    "UV_SYSTEM_CERTS": "true",
    "UV_NATIVE_TLS": "true",  # the same, for older versions
    "LC_ALL": "C.UTF-8",
}
_PATH: Final = re.compile(r"(?<![\w:/.])/(?:[^\s/`'\"]+/)+([^\s/`'\"]*)")
_CREDENTIALS: Final = re.compile(r"//[^/@\s]*@")
_NOISE: Final = re.compile(
    r"Using (CPython|Python)|Resolved |Prepared |Installed |Bytecode |Audited | *[+~-] |hint: .*`--"
)

Kind = Literal["resolver", "timeout", "size", "internal"]


class BuildError(RunnerError):
    """An environment could not be built; the text is for the program's author."""

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Workplace:
    """A folder of its own for one build, and the cache that uv shares among builds."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.site = folder / "site"
        self.cache = cache


def find_uv(path: str | None) -> str:
    """The command that came with the `uv` package, or else the one on PATH. Raises `StartError`."""
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv", path=path)
    if found is None:
        raise StartError(
            "Packages are installed with uv, and there is none: pip install 'trio-runner[inline]', or put the command "
            "uv on the runner's PATH"
        )
    return found


async def install(
    uv: str, plan: Plan, place: Workplace, config: PackagesConfig, environment: Mapping[str, str]
) -> None:
    """Puts what the plan asks for into ``place.site``. Raises `BuildError`; cancelled, it leaves no process behind."""
    await trio.to_thread.run_sync(_prepare, place, plan)
    log = place.folder / "log"
    limit = _Limit(place, config.build_size)
    with trio.move_on_after(config.build_timeout) as patience:
        await limit.start()
        try:
            code = await _run(_command(uv, plan, place, config), _environment(config, environment, place), log, limit)
        except* OSError as group:
            reason = getattr(group.exceptions[0], "strerror", None)
            raise BuildError("internal", f"uv could not be started: {reason}") from None
        await limit.look()
    if patience.cancelled_caught:
        raise BuildError("timeout", f"The installation took longer than {config.build_timeout} s and was stopped")
    text = "" if code == 0 else await trio.to_thread.run_sync(_tail, log)
    if limit.exceeded or code == -signal.SIGXFSZ or _TOO_LARGE in text:
        raise BuildError("size", f"The packages take more room than the {config.build_size // MIB} MiB allowed")
    if code != 0:
        words = clean(text, (str(place.folder), str(place.cache), config.wheels, sys.prefix), config.index)
        raise BuildError("resolver" if code > 0 else "internal", words or f"uv ended with code {code}")
    if not await trio.to_thread.run_sync(seal, place.site):
        raise BuildError("resolver", "The packages hold links that lead out of their own folder")


def _prepare(place: Workplace, plan: Plan) -> None:
    place.site.mkdir()
    (place.folder / "home").mkdir()
    (place.folder / "requirements.txt").write_text("".join(f"{line}\n" for line in plan.requirements))
    if plan.constraints:
        (place.folder / "constraints.txt").write_text("".join(f"{line}\n" for line in plan.constraints))


def _command(uv: str, plan: Plan, place: Workplace, config: PackagesConfig) -> list[str]:
    command = [uv, "pip", "install", "--target", str(place.site), "--python", sys.executable]
    command += ["-r", "requirements.txt"]
    if plan.constraints:
        command += ["-c", "constraints.txt"]
    command += ["--only-binary", ":all:", "--no-config", "--no-python-downloads", "--keyring-provider", "disabled"]
    command += ["--cache-dir", str(place.cache), "--compile-bytecode", "--no-progress", "--color", "never"]
    if config.wheels:
        command += ["--find-links", config.wheels]
        if not config.index:
            command.append("--no-index")
    return command


def _environment(config: PackagesConfig, environment: Mapping[str, str], place: Workplace) -> dict[str, str]:
    """The index goes this way: it may hold a password, and a command line can be read by anybody."""
    ours = {name: value for name, value in environment.items() if name in _PASSED_ON}
    ours |= _UV | {"HOME": str(place.folder / "home"), "TMPDIR": str(place.folder)}
    if config.index:
        ours["UV_DEFAULT_INDEX"] = config.index
    return ours


async def _run(command: list[str], environment: dict[str, str], log: Path, limit: _Limit) -> int:
    """The exit code of uv; its words go into the file. It and what it has started end with this."""
    with log.open("wb") as output:
        async with trio.open_nursery() as nursery:
            run = partial(
                trio.run_process,
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                env=environment,
                cwd=log.parent,
                start_new_session=True,
                deliver_cancel=_kill,
            )
            process: trio.Process = await nursery.start(run)
            limit.bound_files(process.pid)
            nursery.start_soon(limit.watch, nursery.cancel_scope)
            try:
                await process.wait()
            finally:
                _kill_group(process.pid)
                nursery.cancel_scope.cancel()
    return process.returncode or 0


async def _kill(process: trio.Process) -> None:
    _kill_group(process.pid)


def _kill_group(pid: int) -> None:
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


class _Limit:
    """How much a build may add to the disk: a wheel can be small and what is in it large."""

    def __init__(self, place: Workplace, most: int) -> None:
        self._place = place
        self._most = most
        self._before = 0
        self.exceeded = False

    async def start(self) -> None:
        """Notes what is there already."""
        self._before = await trio.to_thread.run_sync(usage, self._place.cache)

    def bound_files(self, pid: int) -> None:
        """The kernel's own limit for a single file, where it can be set from outside."""
        import resource

        if hasattr(resource, "prlimit"):
            with suppress(OSError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (self._most, self._most))

    async def watch(self, build: trio.CancelScope) -> None:
        """Looks at the size until cancelled; ends the build when it is too large."""
        while not self.exceeded:
            await trio.sleep(_LOOK)
            await self.look()
        build.cancel()

    async def look(self) -> None:
        """Looks once."""
        self.exceeded = self.exceeded or await trio.to_thread.run_sync(self._is_exceeded)

    def _is_exceeded(self) -> bool:
        # what is in the cache already is linked to, not copied; another build that runs meanwhile counts as well
        added = usage(self._place.cache) - self._before
        return max(added, 0) + usage(self._place.folder, links=False) > self._most


def usage(folder: Path, *, links: bool = True) -> int:
    """Bytes on disk below a folder; without ``links``, files that also stand elsewhere do not count. Blocking."""
    total = 0
    seen: set[int] = set()
    for entry in _entries(folder):
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:  # gone in this moment
            continue
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            if not links or found.st_ino in seen:
                continue
            seen.add(found.st_ino)
        total += found.st_blocks * 512
    return total


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    pending = [str(folder)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    yield entry
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except OSError:
            continue


def seal(site: Path) -> bool:
    """Makes everything readable for whoever runs tasks and writable for the owner alone. False for a link outside."""
    root = site.resolve()
    for entry in _entries(site):
        if entry.is_symlink():
            if not Path(entry.path).resolve().is_relative_to(root):
                return False
            continue
        mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
        sealed = (mode | 0o444 | (0o111 if entry.is_dir() else 0)) & 0o755
        if sealed != mode:
            os.chmod(entry.path, sealed)  # noqa: PTH101 - no object for each of thousands of files
    site.chmod(0o755)
    return True


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _MAX_LOG))
        return file.read().decode(errors="replace")


def clean(text: str, places: tuple[str, ...], index: str = "") -> str:
    """uv's words for authors: without passwords, paths of this machine and advice about options, and not too long."""
    if index:
        text = text.replace(index.rstrip("/"), "the package index")
        if secret := urlsplit(index).password:
            text = text.replace(secret, "***")
    text = _CREDENTIALS.sub("//", text)
    for place in filter(None, places):
        text = text.replace(place, "")
    text = _PATH.sub(r"\1", text)
    lines = (line.strip(" ×╰─▶│├╭\t") for line in text.splitlines() if not _NOISE.match(line))
    kept = "\n".join(line.removeprefix("error: ").removeprefix("cause: ") for line in lines if line)
    printable = "".join(c if c.isprintable() or c == "\n" else "?" for c in kept)
    return printable if len(printable) <= _MAX_WORDS else f"{printable[:_MAX_WORDS]}…"
