"""The configuration file of n8n's launcher: an entry for the runner type ``python`` that starts us.

JSON has no comments, and the launcher decides what an unknown key means: everything there is to say is said beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from trio_runner.config import (
    AUTH_TOKEN,
    BROKER_URI,
    EXTERNAL_ALLOW,
    GRANT_TOKEN,
    HEALTH_ENABLED,
    HEALTH_PORT,
    RUNNER_ID,
    STDLIB_ALLOW,
    VARIABLES,
)

RUNNERS: Final = "task-runners"
_TYPE: Final = "python"
_OWN_PORTS: Final = ("5678", "5679", "5680")
"""n8n's, its broker's and the launcher's: it refuses them for a runner."""

_NOT_ALLOWED: Final = {GRANT_TOKEN, AUTH_TOKEN, BROKER_URI, HEALTH_ENABLED, HEALTH_PORT, RUNNER_ID}
"""What the launcher sets by itself; its own secret, which no runner of its gets; and an id, which two would share."""

_STANDARD: Final = (
    *("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"),
    *("HOME", "XDG_CACHE_HOME", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE"),
)
"""Variables that libraries read by themselves: for traces, and for packages that the runner installs."""


class LauncherError(Exception):
    """The file that was to be extended is not a launcher's configuration. The text is for the operator."""


def entry(command: str, port: str, overrides: Mapping[str, str], former: Mapping[str, Any]) -> dict[str, Any]:
    """The entry for Python. ``former`` is the one it replaces, if there was one: what it added is kept."""
    allowed = [*(name for name, variable in VARIABLES.items() if variable not in _NOT_ALLOWED), *_STANDARD]
    allowed += [name for name in former.get("allowed-env", ()) if name not in allowed and name != AUTH_TOKEN.name]
    kept = {name: value for name, value in former.get("env-overrides", {}).items() if _still_meant(name, value)}
    fresh: dict[str, Any] = {
        "runner-type": _TYPE,
        "workdir": former.get("workdir", "/"),
        "command": command,
        "args": ["start"],
        "health-check-server-port": port,
        "allowed-env": allowed,
        "env-overrides": {**kept, **overrides},
    }
    if default_env := {k: v for k, v in former.get("default-env", {}).items() if k not in fresh["env-overrides"]}:
        fresh["default-env"] = default_env
    return fresh


def _still_meant(name: str, value: str) -> bool:
    """n8n's own file forces both allowlists empty, which hides what the container's environment says; and it tells the
    Python that we replace where its modules are."""
    return name != "PYTHONPATH" and not (name in (STDLIB_ALLOW.name, EXTERNAL_ALLOW.name) and not value)


def configuration(command: str, overrides: Mapping[str, str], *, base: Path | None, port: str | None) -> str:
    """The whole file. With ``base`` its other entries are kept. Raises `LauncherError`."""
    others, former = ([], {}) if base is None else _read(base)
    chosen = port or former.get("health-check-server-port") or "5682"
    if chosen in _OWN_PORTS:
        raise LauncherError(f"The launcher refuses port {chosen} for a runner; choose another one, for example 5682.")
    if chosen in [other.get("health-check-server-port") for other in others]:
        raise LauncherError(f"Another runner in {base} has port {chosen}; choose another one.")
    runners = [*others, entry(command, chosen, overrides, former)]
    return msgspec.json.format(msgspec.json.encode({RUNNERS: runners}), indent=2).decode() + "\n"


def _read(base: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The other entries of a launcher's file, and the one for Python or an empty one."""
    try:
        found: Any = msgspec.json.decode(base.read_bytes())
    except OSError as error:
        raise LauncherError(f"Cannot read {base}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise LauncherError(f"{base} is not JSON: {error}") from None
    runners = found.get(RUNNERS) if isinstance(found, dict) else None
    if not isinstance(runners, list) or not all(isinstance(runner, dict) for runner in runners):
        raise LauncherError(f'{base} is not a configuration of the launcher: it has no list "{RUNNERS}"')
    former = [runner for runner in runners if runner.get("runner-type") == _TYPE]
    return [runner for runner in runners if runner not in former], former[0] if former else {}
