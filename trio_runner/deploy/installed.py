"""What is installed on this machine: our own command and wheel, and n8n. Looks, and starts nothing."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from trio_runner import __version__

WHEEL = f"trio_runner-{__version__}-py3-none-any.whl"


def own_command() -> str:
    """The command of this installation, by its whole path."""
    beside = Path(sys.executable).with_name("trio-runner")
    return str(beside) if beside.exists() else shutil.which("trio-runner") or "trio-runner"


def wheel() -> Path | None:
    """The wheel that this installation came from, if it was a file and still is."""
    try:
        origin = distribution("trio-runner").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    if origin is None:
        return None
    parts = urlsplit(msgspec.json.decode(origin).get("url", ""))
    path = Path(unquote(parts.path))
    return path if parts.scheme == "file" and path.name == WHEEL and path.is_file() else None


def n8n_package(start: Path) -> Path | None:
    """The folder of n8n's package, from its command, from itself, or from the folder that it was installed into."""
    resolved = start.resolve()
    for candidate in (
        resolved.parent.parent,  # .../n8n/bin/n8n
        resolved,
        resolved / "n8n",
        resolved / "node_modules" / "n8n",
        resolved / "lib" / "node_modules" / "n8n",
    ):
        if candidate.name == "n8n" and (candidate / "package.json").is_file():
            return candidate
    return None


def python_of(package: Path) -> Path:
    """Where n8n, in its internal mode, looks for the Python that starts its runner (beside its own package)."""
    return package.parent / "@n8n" / "task-runner-python" / ".venv" / "bin" / "python"


def below_a_home(command: str) -> str:
    """What of a command is in somebody's home folder: itself or, for our own, its interpreter; else empty."""
    places = [Path(command), *([Path(sys.executable).resolve()] if command == own_command() else [])]
    homes = ("/home", Path("~root").expanduser())
    return next((str(place) for place in places if any(place.is_relative_to(home) for home in homes)), "")
