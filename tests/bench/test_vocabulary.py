"""The benchmark of the wire vocabulary: that everybody does the same work, and that the lines say what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest

from bench import vocabulary
from bench.codecs import BARE, DATACLASSES, OURS_BUILT, Codec, dataclass_json, msgspec_structs
from bench.results import OURS, Machine, Noise, Run
from bench.vocabulary import Case, cases, codecs, lines, measure
from trio_runner.protocol.messages import BrokerMessage, RunnerMessage

MACHINE = Machine(processor="", processors=2, memory_mb=1, platform="", python="", commit="")
NOISE = Noise(load_at_start=0.0, unit_spread=0.0, steal=0.0)


def new_run() -> Run:
    return Run(mode="smoke", started="2026-01-01T00:00:00Z", machine=MACHINE, noise=NOISE)


def run_with(times: dict[tuple[str, int], float], message: str = "runner:info") -> Run:
    """One message, read and written by each codec in so many microseconds at so many items."""
    run = new_run()
    for (codec, items), microseconds in times.items():
        for operation in ("decode", "encode"):
            run.record(
                "codec",
                codec,
                [microseconds],
                turn=0,
                message=message,
                operation=operation,
                items=items,
                bytes=100,
            )
    return run


def value_of(run: Run, *words: str) -> tuple[float | None, str]:
    [line] = [line for line in lines(run) if all(word in line.name for word in words)]
    return line.value, line.verdict


def test_every_message_that_crosses_the_socket_is_measured() -> None:
    measured = {case.tag for case in cases(sizes=(1,))}
    assert measured == {
        kind.__struct_config__.tag for union in (BrokerMessage, RunnerMessage) for kind in get_args(union)
    }


def test_settings_and_results_are_measured_once_for_each_number_of_items() -> None:
    sized = [(case.tag, case.items) for case in cases(sizes=(1, 3)) if case.items]
    assert sized == [
        ("broker:tasksettings", 1),
        ("runner:taskdone", 1),
        ("broker:tasksettings", 3),
        ("runner:taskdone", 3),
    ]
    bodies = {case.items: json.loads(case.frame) for case in cases(sizes=(1, 3)) if case.tag == "broker:tasksettings"}
    assert {items: len(body["settings"]["items"]) for items, body in bodies.items()} == {1: 1, 3: 3}


@pytest.mark.parametrize("case", list(cases(sizes=(1, 3))), ids=lambda case: f"{case.tag} {case.items}")
def test_all_codecs_read_and_write_the_same_message(case: Case) -> None:
    for codec in codecs()[0]:
        written = codec.encode(codec.decoder(case.sender)(case.frame.decode()))
        assert isinstance(written, bytes)
        assert json.loads(written) == json.loads(case.frame), codec.name


@pytest.mark.parametrize("module", ["orjson_dict", "pydantic_models"])
def test_the_peers_that_need_a_package_are_measured_where_it_is_installed(module: str) -> None:
    pytest.importorskip(module.partition("_")[0])
    codec = __import__(f"bench.codecs.{module}", fromlist=["CODEC"]).CODEC
    found, remarks = codecs()
    assert codec in found
    assert not [remark for remark in remarks if module in remark]


@pytest.mark.parametrize("tag", ["broker:tasksettings", "runner:taskdone"])
def test_ours_with_items_built_does_build_them(tag: str) -> None:
    case = next(case for case in cases(sizes=(2,)) if case.tag == tag)
    message, built = msgspec_structs.BUILT.decoder(case.sender)(case.frame.decode())
    assert built == [vocabulary.item(0), vocabulary.item(1)]
    built.pop()
    body = json.loads(msgspec_structs.BUILT.encode((message, built)))
    assert len(body["settings"]["items"] if case.sender == "broker" else body["data"]["result"]) == 1


def test_the_dataclasses_check_the_presence_of_fields() -> None:
    with pytest.raises(KeyError, match="offerId"):
        dataclass_json.decode('{"type":"broker:taskofferaccept","taskId":"t"}')


def test_a_codec_that_does_other_work_stops_the_benchmark() -> None:
    forgetful = replace(dataclass_json.CODEC, name="forgetful", encode=lambda message: b"{}")
    case = next(cases(sizes=()))
    with pytest.raises(AssertionError, match=r"forgetful makes \{\}"):
        vocabulary.agree([forgetful], case)


def test_every_round_has_one_batch_of_every_codec_for_reading_and_for_writing() -> None:
    run = new_run()
    measure(run, rounds=2, sizes=(1,), batch_seconds=0.0)
    subjects = {subject.name: subject.kind for subject in run.subjects}
    assert subjects[BARE] == "floor"
    assert {OURS, DATACLASSES, OURS_BUILT} < set(subjects)
    assert len(run.series) == len(subjects) * 2 * 19
    assert all(len(samples) == 1 and samples[0] > 0 for series in run.series for samples in series.rounds)
    assert {len(series.rounds) for series in run.series} == {2}
    assert all(line.value is not None for line in lines(run) if "small" in line.name)


def test_messages_of_many_items_may_have_fewer_rounds() -> None:
    run = new_run()
    many = vocabulary.HEAVY_ITEMS + 1
    measure(run, rounds=3, heavy_rounds=1, sizes=(1, many), batch_seconds=0.0)
    assert {(series.params["items"], len(series.rounds)) for series in run.series} == {(0, 3), (1, 3), (many, 1)}


def test_each_call_reads_a_fresh_text() -> None:
    """A str keeps its UTF-8 form once it was asked for; the second reader of the same one would find it done."""
    case = next(cases(sizes=()))
    texts = vocabulary.arguments(case, None, 3)
    assert texts == [case.frame.decode()] * 3
    assert len({id(text) for text in texts}) == 3


def test_the_lines_compare_with_dataclasses_and_with_bare_msgspec() -> None:
    run = run_with({(OURS, 0): 1.2, (DATACLASSES, 0): 14.4, (BARE, 0): 1.0})
    assert value_of(run, "small", DATACLASSES) == (pytest.approx(12.0), "reached")
    assert value_of(run, "small", BARE) == (pytest.approx(1.2), "reached")


def test_the_lines_are_missed_by_a_vocabulary_that_is_slow() -> None:
    run = run_with({(OURS, 0): 1.4, (DATACLASSES, 0): 13.0, (BARE, 0): 1.0})
    assert value_of(run, "small", DATACLASSES) == (pytest.approx(13.0 / 1.4), "missed")
    assert value_of(run, "small", BARE) == (pytest.approx(1.4), "missed")


def test_large_messages_do_not_hide_small_ones() -> None:
    times = {(OURS, 1): 1.0, (DATACLASSES, 1): 2.0, (OURS, 1000): 1.0, (DATACLASSES, 1000): 1000.0}
    run = run_with(times)
    assert value_of(run, "small", DATACLASSES) == (pytest.approx(2.0), "missed")
    assert value_of(run, "1,000", DATACLASSES) == (pytest.approx(1000.0), "reached")


def test_the_mean_over_messages_is_geometric() -> None:
    run = run_with({(OURS, 0): 1.0, (DATACLASSES, 0): 5.0})
    run.series += run_with({(OURS, 1): 1.0, (DATACLASSES, 1): 45.0}, message="runner:taskdone").series
    assert value_of(run, "small", DATACLASSES) == (pytest.approx(15.0), "reached")


def test_a_peer_that_was_not_measured_is_neither_reached_nor_missed() -> None:
    assert [line.verdict for line in lines(run_with({(OURS, 0): 1.0}))] == ["not measured"] * 4


def test_a_decoder_of_the_wrong_sender_would_be_noticed() -> None:
    """Ours and the floor have one decoder per direction; a case knows whose message it is."""
    codec: Codec = msgspec_structs.CODEC
    for case in cases(sizes=(1,)):
        other = "runner" if case.sender == "broker" else "broker"
        with pytest.raises(Exception, match="Invalid value"):
            codec.decoder(other)(case.frame.decode())
