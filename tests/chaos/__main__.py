"""The long run, by hand:  uv run python -m tests.chaos --faults 2000 --seed 1"""

from __future__ import annotations

import argparse
import signal
import sys

import trio

from tests.chaos import campaign
from tests.chaos.report import render


def main() -> int:
    """Prints progress and the report. Exit code 1 for any problem."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="stands for the whole schedule (default 1)")
    parser.add_argument("--faults", type=int, default=2000, help="how many (default 2000: some five minutes)")
    parser.add_argument("--lanes", type=int, default=campaign.LANES, help="runners that suffer at the same time")
    parser.add_argument("--only", type=int, help="run this lane of the schedule alone")
    options = parser.parse_args()

    # as with Ctrl-C: the runners end, too
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))

    async def run() -> campaign.Result:
        return await campaign.run(options.seed, options.faults, lanes=options.lanes, only=options.only, say=print)

    result = trio.run(run)
    print(render(result, colour=sys.stdout.isatty()))
    return 1 if result.problems or result.survived < result.planned else 0


if __name__ == "__main__":
    sys.exit(main())
