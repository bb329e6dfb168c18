"""Every decoder and both state machines on hostile input: a few of the inputs that the long fuzzers try by the million.

Properties on made-up bytes, on real messages with a few bytes changed, and on the corpus: what has crashed once.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import CORPUS, seeds
from tests.fuzz.targets import TARGETS, bounded, run
from tests.protocol.protocol_kit import WIRE_VECTORS

few = settings(
    max_examples=150, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)

REAL = [
    (vector["raw"] if isinstance(vector["raw"], str) else json.dumps(vector["raw"])).encode(errors="surrogatepass")
    for vector in WIRE_VECTORS
    if "raw" in vector
]
MESSAGES = [name for name in TARGETS if name.endswith("_message")]

scraps = st.sampled_from([b"", b'"', b"{", b"\\", b"\xff", b"\0", b"9" * 30, b"[" * 5000])
changes = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 3), scraps), max_size=4)


@pytest.mark.parametrize("name", TARGETS)
def test_made_up_bytes_are_taken_or_refused(name: str) -> None:
    @few
    @given(st.binary(max_size=60) | st.binary(min_size=100, max_size=300))
    def check(data: bytes) -> None:
        run(name, data)

    check()


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_with_a_few_bytes_changed_are_taken_or_refused(name: str) -> None:
    @few
    @given(st.sampled_from(REAL), changes)
    def check(message: bytes, edits: list[tuple[int, int, bytes]]) -> None:
        for at, cut, new in edits:
            place = at % (len(message) + 1)
            message = message[:place] + new + message[place + cut :]
        run(name, message)

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_handled(name: str) -> None:
    inputs = seeds(name)
    assert inputs
    for data in inputs:
        run(name, data)


def test_the_corpus_is_small_and_every_part_of_it_has_a_target() -> None:
    files = list(CORPUS.iterdir())
    assert {path.stem for path in files} <= set(TARGETS)
    assert sum(path.stat().st_size for path in files) < 50_000


def test_an_input_that_takes_too_long_is_a_defect() -> None:
    def spin(data: bytes) -> None:
        assert sum(range(int(data))) >= 0

    bounded(spin, b"10", 0.02)
    with pytest.raises(AssertionError, match="7 bytes took"):
        bounded(spin, b"9999999", 0.02)
