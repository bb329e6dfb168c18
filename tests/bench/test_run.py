from __future__ import annotations

import click
import msgspec
import pytest

from bench import machine, phases, plan, run, runners
from bench.loadbroker import LoadBroker, RunnerError
from bench.results import FORKSERVER_PRELOADED, MACHINE, OURS, Line, Mode, Subject
from tests.bench.bench_kit import make_run


def test_everything_is_measured_when_nothing_is_chosen() -> None:
    assert run.parse_parts("") == plan.PARTS.keys()
    assert run.parse_parts("latency, idle,") == {"latency", "idle"}


def test_a_part_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(click.BadParameter, match="no such part: speed"):
        run.parse_parts("latency,speed")


@pytest.mark.parametrize("part", sorted(plan.PARTS))
def test_every_part_has_something_that_measures_it(part: str) -> None:
    known = {one for phase in (phases.EXCHANGE, *phases.RUNNER_PHASES) for one in phase.parts} | {"messages"}
    assert part in known


def test_another_runner_is_a_name_and_a_command_line() -> None:
    subject = runners.parse("mine = python -m mine --fast 'a b'")
    assert (subject.name, subject.command) == ("mine", ("python", "-m", "mine", "--fast", "a b"))
    for wrong in ("", "mine", "mine=", "=python"):
        with pytest.raises(ValueError, match="expected"):
            runners.parse(wrong)


def test_figures_of_two_runners_are_not_mixed_up_by_name() -> None:
    assert [one.name for one in runners.with_others(["mine=a", "yours=b"])][-2:] == ["mine", "yours"]
    for others in (["mine=a", "mine=b"], [f"{OURS}=a"]):
        with pytest.raises(ValueError, match="already"):
            runners.with_others(others)


@pytest.mark.parametrize(
    ("mode", "value", "failures", "code"),
    [
        ("full", 1.0, [], 0),
        ("full", 2.0, [], 1),
        ("full", None, [], 0),
        ("quick", 2.0, [], 0),
        ("smoke", 2.0, [], 0),
        ("smoke", 1.0, ["trio-runner, payload: the connection is lost"], 1),
    ],
)
def test_only_a_full_run_judges_and_a_broken_runner_always_counts(
    mode: Mode, value: float | None, failures: list[str], code: int
) -> None:
    made = make_run(mode=mode)
    made.lines = [Line(name="a line", value=value, limit=1.5, unit="x")]
    made.failures = failures
    assert run.exit_code(made) == code


def test_a_quiet_machine_is_not_called_noisy() -> None:
    made = make_run()
    assert machine.judge_noise(made, (0, 0), (1, 1000)).remarks == ()


def test_each_sign_of_noise_is_said() -> None:
    made = make_run()
    made.record("unit", MACHINE, [10.0, 15.0, 20.0, 25.0, 30.0], turn=0)
    made.noise = msgspec.structs.replace(made.noise, load_at_start=1.7)
    noise = machine.judge_noise(made, (0, 0), (500, 1000))
    assert noise.noisy
    assert [next(word for word in ("spread", "load", "hypervisor") if word in one) for one in noise.remarks] == [
        "spread",
        "load",
        "hypervisor",
    ]


def applying(turn: int, subject: str, **sizes: int) -> set[str]:
    with LoadBroker() as broker:
        chosen = msgspec.structs.replace(plan.FULL, **sizes)
        bench = phases.Bench(make_run(), chosen, broker, frozenset(plan.PARTS), turn)
        one = Subject(name=subject, kind="runner", command=("true",))
        return {phase.name for phase in phases.RUNNER_PHASES if phase.applies(bench, one)}


def test_heavy_phases_come_in_the_first_rounds_only() -> None:
    assert "payload" in applying(1, OURS, heavy_rounds=2)
    assert "payload" not in applying(2, OURS, heavy_rounds=2)
    assert "payload" in applying(0, "another runner", heavy_rounds=2)
    assert "payload" not in applying(1, "another runner", heavy_rounds=2)
    assert "growth" in applying(0, OURS)
    assert "growth" not in applying(1, OURS)


def test_phases_that_say_nothing_about_a_subject_leave_it_out() -> None:
    assert "growth" not in applying(0, "another runner")
    assert applying(0, FORKSERVER_PRELOADED) == {"tasks", "20 slots"}


def test_a_runner_that_ends_at_once_says_why() -> None:
    subject = Subject(name="broken", kind="runner", command=("sh", "-c", "echo I cannot >&2; exit 3"))
    with LoadBroker() as broker, pytest.raises(RunnerError, match=r"ended before it had connected.*I cannot"):
        runners.Runner(subject, broker).__enter__()
