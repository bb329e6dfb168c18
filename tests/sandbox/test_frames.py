"""Framing: whatever bytes arrive in whatever pieces, a parser yields whole frames or says what is wrong."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from itertools import pairwise

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_runner.sandbox import frames
from trio_runner.sandbox.frames import FrameError, FrameParser, FrameReader

LIMITS = {frames.VERDICT: 20, frames.PRINT: 10, frames.RESULT: 300, frames.FAILURE: 0}

Frame = tuple[int, bytes]
checked = settings(deadline=None, derandomize=True)


def parse(pieces: list[bytes], limits: dict[int, int] = LIMITS) -> tuple[list[Frame], str | None]:
    """All frames of the pieces, and the text of the error that ended it."""
    parser = FrameParser(limits)
    found: list[Frame] = []
    try:
        for piece in pieces:
            found.extend((kind, bytes(payload)) for kind, payload in parser.feed(piece))
    except FrameError as error:
        return found, str(error)
    return found, None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in pieces that end at these places."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


def frame(kind: int, payload: bytes) -> bytes:
    """The bytes of one frame."""
    return frames.header(kind, len(payload)) + payload


known_frames = st.sampled_from(list(LIMITS)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.binary(max_size=LIMITS[kind]))
)
places = st.lists(st.integers(0, 5000), max_size=12)


@checked
@given(data=st.binary(max_size=600), where=places)
@example(data=bytes((frames.RESULT,)) + b"\xff\xff\xff\xff", where=[])
def test_arbitrary_bytes_in_arbitrary_pieces_yield_frames_or_a_frame_error_and_the_pieces_do_not_matter(
    data: bytes, where: list[int]
) -> None:
    assert parse(cut(data, where)) == parse([data])


@checked
@given(sent=st.lists(known_frames, max_size=10), where=places)
def test_what_was_framed_comes_out_again_whole_and_in_order(sent: list[Frame], where: list[int]) -> None:
    data = b"".join(frame(kind, payload) for kind, payload in sent)
    assert parse(cut(data, where)) == (sent, None)


@checked
@given(sent=st.lists(known_frames, max_size=10), junk=st.binary(max_size=40), where=places)
def test_frames_in_front_of_junk_still_come_out(sent: list[Frame], junk: bytes, where: list[int]) -> None:
    data = b"".join(frame(kind, payload) for kind, payload in sent) + junk
    assert parse(cut(data, where))[0][: len(sent)] == sent


@pytest.mark.parametrize("kind", LIMITS)
def test_a_payload_may_be_as_large_as_the_limit_of_its_kind_and_not_a_byte_larger(kind: int) -> None:
    fits = bytes(LIMITS[kind])
    assert parse([frame(kind, fits)]) == ([(kind, fits)], None)
    found, problem = parse([frames.header(kind, LIMITS[kind] + 1)])
    assert found == []
    assert problem == f"a frame of {LIMITS[kind] + 1} bytes is beyond the limit of {LIMITS[kind]}"


def test_a_kind_without_a_limit_is_not_known() -> None:
    for kind in set(range(256)) - LIMITS.keys():
        assert parse([frame(kind, b"")]) == ([], f"unknown frame kind {kind}")


def test_a_length_beyond_the_limit_is_refused_before_its_payload_arrives() -> None:
    assert parse([struct.pack("<BI", frames.RESULT, 2**32 - 1)])[1] is not None


def test_only_kinds_that_a_child_sends_are_taken_from_a_child() -> None:
    limits = frames.limits_from_child(1000)
    known = {frames.VERDICT, frames.PRINT, frames.RESULT, frames.FAILURE, frames.CALL, frames.METADATA}
    assert limits.keys() == known
    assert limits[frames.RESULT] == limits[frames.CALL] == limits[frames.METADATA] == 1000


def test_a_small_limit_for_results_does_not_turn_prints_and_errors_into_broken_framing() -> None:
    limits = frames.limits_from_child(100)
    longest_failure = frames.encode(frames.Failure(message="é" * 65_536, description="\0" * 200_000))
    assert len(longest_failure) < limits[frames.FAILURE]
    assert limits[frames.PRINT] >= 1_048_576
    assert limits[frames.VERDICT] >= 1_048_576


def test_the_header_says_kind_and_length_little_endian() -> None:
    assert frames.header(18, 258) == b"\x12\x02\x01\x00\x00"
    assert len(frames.header(18, 2**32 - 1)) == frames.HEADER_SIZE
    with pytest.raises(OverflowError):
        frames.header(18, 2**32)


def test_a_payload_stays_as_it_is_when_more_bytes_arrive() -> None:
    parser = FrameParser(LIMITS)
    ((_, first),) = parser.feed(frame(frames.RESULT, b"first"))
    assert [bytes(payload) for _, payload in parser.feed(frame(frames.RESULT, b"other"))] == [b"other"]
    assert bytes(first) == b"first"


def test_a_reader_may_stop_between_two_frames_and_go_on_later() -> None:
    parser = FrameParser(LIMITS)
    both = frame(frames.PRINT, b"1") + frame(frames.PRINT, b"2")
    assert next(iter(parser.feed(both)))[1] == b"1"
    assert [bytes(payload) for _, payload in parser.feed(b"")] == [b"2"]


def test_a_big_frame_in_small_pieces_costs_no_more_than_its_size() -> None:
    """Copying what has arrived with each piece would take minutes here."""
    size = 48 * 1024 * 1024
    parser = FrameParser({frames.RESULT: size})
    piece = bytes(16_384)
    started = time.process_time()
    assert list(parser.feed(frames.header(frames.RESULT, size))) == []
    found = [payload for _ in range(size // len(piece)) for _, payload in parser.feed(piece)]
    assert [len(payload) for payload in found] == [size]
    assert time.process_time() - started < 2


def test_a_flood_of_empty_frames_in_one_piece_costs_no_more_than_its_size() -> None:
    flood = frame(frames.PRINT, b"") * 100_000
    started = time.process_time()
    assert len(parse([flood])[0]) == 100_000
    assert time.process_time() - started < 2


# The child's end


def read_all(data: bytes, where: list[int]) -> list[Frame | None]:
    """What the reader makes of these bytes on a real socket, up to the end of the stream."""
    ours, theirs = socket.socketpair()

    def write() -> None:
        with theirs, suppress(BrokenPipeError):
            for piece in cut(data, where):
                theirs.sendall(piece)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    with ours:
        reader = FrameReader(ours)
        found: list[Frame | None] = []
        while not found or found[-1] is not None:
            read = reader.next()
            found.append(None if read is None else (read[0], bytes(read[1])))
    writer.join()
    return found


@settings(checked, max_examples=40)
@given(sent=st.lists(known_frames, max_size=8), where=places)
def test_the_reader_of_the_child_agrees_with_the_parser_of_the_runner(sent: list[Frame], where: list[int]) -> None:
    data = b"".join(frame(kind, payload) for kind, payload in sent)
    assert read_all(data, where) == [*parse([data])[0], None]


@pytest.mark.parametrize("size", [0, 1, 65_530, 65_531, 65_535, 65_536, 65_537, 1_000_000])
def test_the_reader_takes_frames_around_the_size_of_its_buffer(size: int) -> None:
    data = frame(frames.ITEMS, b"a" * size) + frame(frames.RUN, b"next")
    assert read_all(data, [7]) == [(frames.ITEMS, b"a" * size), (frames.RUN, b"next"), None]


@pytest.mark.parametrize("data", [b"", b"\x03", frames.header(3, 5), frames.header(3, 5) + b"1234"])
def test_a_runner_that_hangs_up_in_the_middle_of_a_frame_is_the_end(data: bytes) -> None:
    assert read_all(data, []) == [None]


@pytest.mark.parametrize("size", [0, 100, 65_535, 65_536, 500_000])
def test_what_send_writes_the_parser_reads(size: int) -> None:
    ours, theirs = socket.socketpair()
    writer = threading.Thread(target=frames.send, args=(theirs, frames.RESULT, b"x" * size), daemon=True)
    writer.start()
    parser = FrameParser({frames.RESULT: size})
    found: list[Frame] = []
    while not found:
        found.extend((kind, bytes(payload)) for kind, payload in parser.feed(ours.recv(100_000)))
    writer.join()
    ours.close()
    theirs.close()
    assert found == [(frames.RESULT, b"x" * size)]


# What is inside


@checked
@given(st.binary(max_size=200))
def test_junk_instead_of_a_struct_is_a_decoding_error_and_nothing_else(junk: bytes) -> None:
    for decode in (frames.decode_failure, frames.decode_verdict, frames.decode_run, frames.decode_compile):
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            decode(junk)


@checked
@given(
    st.builds(
        frames.Failure,
        message=st.text(),
        description=st.none() | st.text(),
        line=st.none() | st.integers(0, 10_000),
        item_index=st.none() | st.integers(0, 10_000),
        before_start=st.booleans(),
        kind=st.sampled_from(["error", "syntax", "violation", "result", "limit", "worker"]),
    )
)
def test_a_failure_survives_the_way_to_the_runner(failure: frames.Failure) -> None:
    assert frames.decode_failure(frames.encode(failure)) == failure
    verdict = frames.Verdict(failure=failure)
    assert frames.decode_verdict(frames.encode(verdict)) == verdict


@checked
@given(st.binary(max_size=50), st.text(max_size=50), st.booleans())
def test_a_task_survives_the_way_to_the_child(code: bytes, source: str, each_item: bool) -> None:
    run = frames.Run(source, each_item, b"null", code)
    assert frames.decode_run(frames.encode(run)) == run
    ask = frames.Compile(source, each_item)
    assert frames.decode_compile(frames.encode(ask)) == ask
