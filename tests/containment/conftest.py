"""What the tests of single layers share: the lab, and canaries for it."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.containment.lab import NOBODY, Lab
from trio_runner.sandbox import landlock, seccomp


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All in one process: what a hostile program may leave behind, such as System V objects, is there for everybody."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("containment"))


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of failed tasks are what is wanted here: their log lines are none of anybody's business."""
    monkeypatch.setattr(logging.getLogger("trio_runner"), "disabled", True)
    for name in ("executor", "pool"):
        monkeypatch.setattr(logging.getLogger(f"trio_runner.{name}"), "disabled", True)


@pytest.fixture(scope="package")
def lab() -> Iterator[Lab]:
    if landlock.abi() < 6 or not seccomp.supported():
        pytest.skip("needs a kernel with all layers")
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="package")
def targets() -> Iterator[dict[str, Any]]:
    """What attacks are aimed at, made for them, by the names that `lab` knows."""
    base = Path(tempfile.mkdtemp(prefix="canaries-", dir="/tmp"))
    base.chmod(0o755)
    files = {"secret": 0o644, "own": 0o666, "roots": 0o600, "foreign": 0o600, "granted_file": 0o644}
    for name, mode in files.items():
        (base / name).write_text(f"what {name} holds")
        (base / name).chmod(mode)
    if os.geteuid() == 0:
        os.chown(base / "foreign", 1234, 1234)
    for name in ("folder", "granted"):
        (base / name).mkdir()
        (base / name).chmod(0o777)
    (base / "folder" / "to-be-removed").touch()
    (base / "granted" / "link").symlink_to(base / "own")
    user = NOBODY if os.geteuid() == 0 else None
    canary = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True, user=user)
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    abstract = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    abstract.bind(f"\0{base.name}")
    abstract.listen(100)
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagram.bind(str(base / "datagram"))
    (base / "datagram").chmod(0o777)
    try:
        yield {
            **{name: str(base / name) for name in (*files, "folder", "granted", "datagram", "setuid", "answer")},
            "canary": canary.pid,
            "port": listener.getsockname()[1],
            "abstract": base.name,
        }
    finally:
        canary.kill()
        canary.wait()
        for sock in (listener, abstract, datagram):
            sock.close()
        shutil.rmtree(base)
