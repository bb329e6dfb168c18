"""Environments on disk: found by what is in them, published in one step, the least recently used ones thrown away.

Owns the cache folder, which several runners may share: an environment that one of them uses is locked and stays. All
of it blocks; the callers are threads. Must not know how an environment is made, and imports nothing out of one.

    FOLDER/environments/KEY/site   the packages         FOLDER/environments/KEY/about.json   `Built`, without its lock
    FOLDER/environments/KEY/lock   held while in use    FOLDER/builds/…   what is not finished    FOLDER/uv   uv's cache
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import stat
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from trio_runner.config import MIB, PackagesConfig
from trio_runner.errors import StartError
from trio_runner.inline import Plan
from trio_runner.installer import Workplace, usage

_FORMAT: Final = 1
_MAX_MODULES: Final = 200
_MAX_ABOUT: Final = 1_048_576
_OURS: Final = frozenset({"trio_runner"})
_MODULE: Final = re.compile(r"([^/.]+)(\.[^/]+)?\.(py|so|pyd)")


class About(msgspec.Struct, frozen=True):
    """What is written down with an environment. ``modules`` are the importable names of what was asked for."""

    requirements: tuple[str, ...]
    modules: tuple[str, ...]
    installed: tuple[str, ...]
    size: int


class Built:
    """An environment that is there, and stays until it is let go of."""

    def __init__(self, key: str, site: str, about: About, lock: int | None = None) -> None:
        self.key = key
        self.site = site
        self.about = about
        self._lock = lock

    def release(self) -> None:
        """It may be thrown away from now on."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class Store:
    """The cache folder."""

    def __init__(self, config: PackagesConfig) -> None:
        self._config = config
        self._folder = Path(config.cache)
        self._environments = self._folder / "environments"
        self._builds = self._folder / "builds"
        self.uv_cache = self._folder / "uv"
        self._uv_lock = self._folder / "uv.lock"

    def open(self) -> None:
        """Makes the folders, and clears away what a killed runner has left. Raises `StartError`."""
        try:
            for folder in (self._folder, self._environments, self._builds, self.uv_cache):
                folder.mkdir(mode=0o755, parents=True, exist_ok=True)
                found = folder.stat()
                if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
                    raise StartError(
                        f"The folder {folder} belongs to somebody else, or others may write to it: programs would run "
                        "what they put there. Set N8N_RUNNERS_INLINE_CACHE to another one."
                    )
            if self._config.wheels and not Path(self._config.wheels).is_dir():
                raise StartError(f"There is no folder {self._config.wheels} (N8N_RUNNERS_INLINE_WHEELS)")
            for left in list(self._builds.iterdir()):
                self._remove(left)
        except OSError as error:
            raise StartError(f"Environments cannot be kept in {self._folder}: {error.strerror}") from error

    def key(self, plan: Plan) -> str:
        """A name for everything that decides about the content: requirements, interpreter, where packages come from."""
        config = self._config
        parts = [_FORMAT, plan.requirements, plan.constraints, config.index, config.wheels]
        parts += [platform.python_version(), sysconfig.get_config_var("SOABI"), sysconfig.get_platform()]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]

    def find(self, key: str) -> Built | None:
        """The environment of this name, held, and the most recently used one from now on; None when there is none."""
        folder = self._environments / key
        lock = _lock(folder / "lock", fcntl.LOCK_SH)
        if lock is None:
            return None
        try:
            with (folder / "about.json").open("rb") as file:
                about = msgspec.json.decode(file.read(_MAX_ABOUT), type=About)
            os.utime(folder / "lock")
        except (OSError, msgspec.MsgspecError):  # thrown away while we waited for it, or broken
            os.close(lock)
            return None
        return Built(key, str(folder / "site"), about, lock)

    @contextmanager
    def building(self) -> Iterator[Workplace]:
        """A folder to build in, gone with the block unless it was published."""
        folder = Path(tempfile.mkdtemp(dir=self._builds))
        folder.chmod(0o755)
        locks = [_lock(path, fcntl.LOCK_SH, make=True) for path in (folder / "lock", self._uv_lock)]
        try:
            yield Workplace(folder, self.uv_cache)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            for lock in filter(None, locks):
                os.close(lock)

    def publish(self, key: str, plan: Plan, place: Workplace) -> Built | None:
        """Gives a finished build its name, in one step. Where another runner was faster, its work is as good."""
        distributions = list(metadata.distributions(path=[str(place.site)]))
        about = About(
            requirements=plan.requirements,
            modules=_modules(distributions, plan.names),
            installed=tuple(sorted(f"{one.name}=={one.version}" for one in distributions)),
            size=usage(place.site),
        )
        finished = place.folder / "finished"
        finished.mkdir()
        place.site.rename(finished / "site")
        (finished / "about.json").write_bytes(msgspec.json.encode(about))
        (finished / "lock").touch()
        target = self._environments / key
        with suppress(OSError):
            finished.rename(target)
        if (found := self.find(key)) is None and self._remove(target):  # half of one, as a full disk leaves it
            finished.rename(target)
            found = self.find(key)
        return found

    def trim(self) -> None:
        """Throws away what is beyond the limit: uv's own cache first when it is the most of it, then environments."""
        sizes = {folder: self._size(folder) for folder in self._environments.iterdir()}
        room = self._config.cache_size - sum(sizes.values())
        if usage(self.uv_cache, links=False) > max(room, self._config.cache_size // 2):
            self._empty_uv_cache()
        for folder in sorted(sizes, key=_last_used):
            if room >= 0:
                break
            if self._remove(folder):
                room += sizes[folder]

    def _empty_uv_cache(self) -> None:
        lock = _lock(self._uv_lock, fcntl.LOCK_EX, make=True)
        if lock is not None:  # else somebody builds
            shutil.rmtree(self.uv_cache, ignore_errors=True)
            self.uv_cache.mkdir(exist_ok=True)
            os.close(lock)

    def _size(self, folder: Path) -> int:
        try:
            return msgspec.json.decode((folder / "about.json").read_bytes(), type=About).size
        except (OSError, msgspec.MsgspecError):
            return usage(folder)

    def _remove(self, folder: Path) -> bool:
        """Whether it could be removed: not what somebody uses. It loses its name first, so that nobody finds half."""
        lock = _lock(folder / "lock", fcntl.LOCK_EX)
        if lock is None and (folder / "lock").exists():
            return False
        try:
            grave = Path(tempfile.mkdtemp(dir=self._builds))
            folder.rename(grave / "old")
            shutil.rmtree(grave, ignore_errors=True)
        except OSError:
            return False
        finally:
            if lock is not None:
                os.close(lock)
        return True


def _lock(path: Path, kind: int, *, make: bool = False) -> int | None:
    """A descriptor that holds the lock; None when there is no such file or somebody else is in the way."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o644)
    except OSError:
        return None
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
        if os.fstat(lock).st_ino == path.stat().st_ino:  # else it was thrown away in between
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _last_used(folder: Path) -> float:
    try:
        return (folder / "lock").stat().st_mtime
    except OSError:
        return time.time()


def _modules(distributions: list[metadata.Distribution], names: frozenset[str]) -> tuple[str, ...]:
    """What can be imported of the packages that were asked for, by their lists of files: nothing is imported here."""
    from packaging.utils import canonicalize_name

    found: set[str] = set()
    for distribution in distributions:
        if canonicalize_name(distribution.name or "") in names:
            for file in distribution.files or ():
                found.add(_top(PurePosixPath(file)))
    usable = (name for name in found if name.isidentifier() and name not in sys.stdlib_module_names)
    return tuple(sorted(name for name in usable if name not in _OURS))[:_MAX_MODULES]


def _top(file: PurePosixPath) -> str:
    """The top-level module that a file belongs to, or nothing."""
    if (module := _MODULE.fullmatch(file.name)) is None:
        return ""
    return file.parts[0] if len(file.parts) > 1 else module[1]


def describe_size(size: int) -> str:
    """For the log."""
    return f"{size / MIB:.1f} MiB"
