"""The fleet simulation: thousands of real sessions and brokers in virtual time.

    uv run --group bench python -m bench.fleet [--quick] [--json FILE] [--html FILE]

What it shows and what follows from it: docs/scaling.md. The full run takes some two minutes, the short one seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from bench import fleet_steady, fleet_storms
from bench.fleet_record import Fleet, Row
from trio_runner import __version__

Scenario = Callable[..., Iterator[Row]]
SCENARIOS: dict[str, Scenario] = {
    "scale": fleet_steady.all_scales,
    "renewal": fleet_steady.all_renewals,
    "silence": fleet_steady.all_silences,
    "bursts": fleet_steady.all_bursts,
    "restarts": fleet_storms.all_restarts,
    "newcomers": fleet_storms.all_newcomers,
    "sharing": fleet_steady.all_sharing,
    "stale": fleet_steady.all_stale,
}
"""By the list of the record that they fill."""


def simulate(*, quick: bool, seed: int = 1, only: tuple[str, ...] = (), say: Callable[[str], None] = print) -> Fleet:
    """Runs the scenarios, all of them unless some are named."""
    fleet = Fleet(quick=quick, seed=seed, version=__version__)
    start = time.monotonic()
    for name, scenario in SCENARIOS.items():
        if only and name not in only:
            continue
        since = time.monotonic()
        rows = getattr(fleet, name)
        rows.extend(scenario(seed, quick=quick))
        say(f"{name}: {len(rows)} worlds in {time.monotonic() - since:.1f} s")
    fleet.seconds = time.monotonic() - start
    return fleet


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small fleets and few repetitions: does it work?")
    parser.add_argument("--seed", type=int, default=1, help="another one gives another run, the same one the same")
    parser.add_argument("--only", action="append", choices=tuple(SCENARIOS), default=[], help="can be given repeatedly")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all rows, for machines")
    parser.add_argument("--html", type=Path, metavar="FILE", help="plots and tables in one file (needs matplotlib)")
    options = parser.parse_args(arguments)
    # imported only now: `simulate` needs neither
    from bench import fleet_page

    fleet = simulate(quick=options.quick, seed=options.seed, only=tuple(options.only))
    fleet_page.show(fleet)
    if options.json is not None:
        options.json.write_bytes(msgspec.json.encode(fleet) + b"\n")
    if options.html is not None:
        fleet_page.write(fleet, options.html)


if __name__ == "__main__":
    main()
