"""Any environment whatsoever: a configuration, or problems in words that can be printed and hold no secret."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import msgspec

from tests.fuzz.reader import Reader
from trio_runner.config import VARIABLES, ConfigError, load, without_secrets

NAMES = [spelling for variable in VARIABLES.values() for spelling in variable.spellings]
SECRET = "s3cr3t-v4lue"
VALUES = (
    "", "0", "1", "-1", "5", "65535", "65536", "99999999999999999999", "1.5", " 7 ", "\u0665", "1_0", "0x10", "true",
    "TRUE", "no", "*", "@safe", "os,json", "*,os", "numpy", "os.path", "a b", ",,,", "http://h", "https://h:1/p",
    "ws://[::1]:5", "wss://h/", "http://", "http://h:99999", "http://h:x", "ftp://h", "http://a@b", "http://[",
    "http://h,http://h", "http://h?q", "//h", "/runners", "runners", "/", "/a b", "/\u00e9", "strict", "network",
    "off", "auto", "seccomp", "seccomp,nothing", "/tmp", "tmp", "53,443", "0", "70000", "-5", "DEBUG", "loud",
    "relaxed", "compat", "none", "\x00", "\n", "\udc80", "\U0001f600", "\u202e",
)  # fmt: skip
WORDS = (
    "N8N_RUNNERS_",
    "N8N_RUNNERS_TASK_TIMOUT",
    "N8N_RUNNERS_LAUNCHER_X",
    "N8N_X_FILE",
    "RUNNERS_PATH",
    "PATH",
    "\udcff",
)


def environment(data: bytes) -> None:
    """Variables by the dozen, most of them ours."""
    read = Reader(data)
    variables: dict[str, str] = {}
    for _ in range(read.below(20)):
        name = read.pick(NAMES) if read.below(8) else read.pick(WORDS) + read.text().replace("\0", "").replace("=", "")
        value = read.pick(VALUES) if read.below(4) else read.text()
        if name.endswith("_FILE"):
            value = str(_folder() / read.pick(["number", "word", "binary", "none", "", "a\0b"]))
        variables[name] = value
    if read.below(4):
        variables["N8N_RUNNERS_AUTH_TOKEN"] = SECRET
    try:
        loaded = load(variables)
    except ConfigError as error:
        lines = error.problems or ("",)
    else:
        lines = loaded.warnings
        msgspec.json.encode(loaded.config.describe(), enc_hook=str)
        assert SECRET not in repr(loaded.config)
        assert loaded.config.brokers
        assert loaded.config.max_concurrency >= 1
    for line in lines:
        assert line, "problems that are none"
        assert line.isprintable(), repr(line)
        assert SECRET not in line
        line.encode()
    assert SECRET not in without_secrets(variables).values()


@cache
def _folder() -> Path:
    """Files for ``_FILE`` variables: a random path might name a device that never ends."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (folder / "number").write_text("5\n")
    (folder / "word").write_text("\ufeffword")
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    return folder


TARGETS = {"environment": environment}
