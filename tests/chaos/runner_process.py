"""The process under test: a runner like that of the command line, but quick to look for a lost broker again."""

from __future__ import annotations

import os
import sys

import trio

from trio_runner import log
from trio_runner.config import load
from trio_runner.errors import FatalError
from trio_runner.protocol.backoff import ReconnectTerms
from trio_runner.supervisor import Runner

RECONNECT = ReconnectTerms(base=0.1, cap=0.4, settled_after=1.0)


def main() -> int:
    """Runs until SIGTERM; gives the exit code that the command line would give."""
    config = load(os.environ).config
    log.configure(config.log_level)
    runner = Runner(config, reconnect=RECONNECT)
    try:
        trio.run(runner.run)
    except FatalError as error:
        print(f"fatal: {error}", flush=True)
        return error.exit_code
    return 1 if runner.tasks_cut_off else 0


if __name__ == "__main__":
    sys.exit(main())
