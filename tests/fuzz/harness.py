"""One target under a coverage-guided fuzzer:  uv run --group fuzz python -m tests.fuzz.harness TARGET [OPTIONS]

The options are libFuzzer's, and folders with inputs: the first one is where new ones go.

Needs the dependency group `fuzz` (atheris). A crash, a slow input or too much memory ends the process with a code other
than 0 and leaves the input in a file; as a line of tests/fuzz/corpus/TARGET.txt it becomes a test of the default run.
"""

from __future__ import annotations

import sys

import atheris


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    name = sys.argv.pop(1)
    # the choices of a target count as branches, too: that is how the fuzzer finds sequences of events
    with atheris.instrument_imports(include=["trio_runner", "h11", "tests"]):
        from tests.fuzz.targets import TARGETS, run
    if name not in TARGETS:
        sys.exit(f"{name!r} is not one of {', '.join(TARGETS)}")
    atheris.Setup(sys.argv, lambda data: run(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
