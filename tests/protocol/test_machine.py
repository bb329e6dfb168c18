"""Sessions and brokers against each other, over links that lose, duplicate and reorder, whatever happens.

The rules are in this file; what they must never and must always lead to is in `simulation`. The second half plants
bugs and asserts that the machine finds them: a machine that finds nothing might be looking at nothing.
"""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.protocol.protocol_kit import of
from tests.protocol.simulation import World
from trio_runner.protocol.broker import Broker, BrokerAction, ToRequester, ToRunner
from trio_runner.protocol.messages import TaskCancel, TaskOfferAccept, TaskResult, TaskSettingsMessage
from trio_runner.protocol.session import Action, OffersDue, Send, Session, StartTask, TaskState
from trio_runner.protocol.slots import Party, Seat, Slots

T = TypeVar("T")

picks = st.integers(0, 59)  # of however many there are: 60 has many divisors
a_few = st.sampled_from([0, 1, 2, 3, 4, 6, 1000])
often = st.sampled_from([True, True, True, False])
moments = st.sampled_from([0.01, 0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 5.55, 10.0, 20.0, 31.0])


def pick(choices: list[T], number: int) -> T:
    return choices[number % len(choices)]


class Faults(RuleBasedStateMachine):
    """Everything that the world does to the two machines."""

    parts: ClassVar[dict[str, Any]] = {}
    world: World

    @initialize(capacities=st.lists(st.integers(1, 4), min_size=1, max_size=3), brokers=st.integers(1, 3))
    def a_world(self, capacities: list[int], brokers: int) -> None:
        self.world = World(capacities, brokers, **self.parts)
        self.world.deliver_all()

    # Work

    @rule(which=picks, count=st.sampled_from([1, 1, 2, 4]), prompt=often, readable=often, frames=a_few)
    def requests_arrive(self, which: int, count: int, prompt: bool, readable: bool, frames: int) -> None:
        for turn in range(count):
            self.world.request(pick(self.world.n8ns, which + turn), prompt=prompt, readable=readable)
        self.world.deliver_some(frames)

    @precondition(lambda self: self.world.unsettled())
    @rule(which=picks, frames=a_few, once=often)
    def a_slow_requester_sends_the_settings(self, which: int, frames: int, once: bool) -> None:
        self.world.settle(*pick(self.world.unsettled(), which))
        self.world.deliver_some(frames, times=1 if once else 2)

    @precondition(lambda self: self.world.programs())
    @rule(which=picks, ok=often)
    def a_program_ends(self, which: int, ok: bool) -> None:
        self.world.finish(*pick(self.world.programs(), which), ok=ok)

    @precondition(lambda self: self.world.programs())
    @rule(which=picks)
    def a_program_prints(self, which: int) -> None:
        self.world.call(*pick(self.world.programs(), which))

    @precondition(lambda self: self.world.open_tasks())
    @rule(which=picks)
    def a_user_cancels(self, which: int) -> None:
        self.world.cancel(*pick(self.world.open_tasks(), which))

    # The network

    @precondition(lambda self: self.world.queues())
    @rule(frames=a_few, once=often)
    def frames_arrive(self, frames: int, once: bool) -> None:
        self.world.deliver_some(frames, times=1 if once else 2)

    @precondition(lambda self: self.world.queues())
    @rule(which=picks, frame=picks)
    def a_frame_overtakes_others(self, which: int, frame: int) -> None:
        queue = pick(self.world.queues(), which)
        self.world.deliver(queue, frame % len(queue))

    @precondition(lambda self: self.world.queues())
    @rule(which=picks, frame=picks, place=picks)
    def a_frame_is_duplicated(self, which: int, frame: int, place: int) -> None:
        queue = pick(self.world.queues(), which)
        queue.insert(place % (len(queue) + 1), pick(queue, frame))

    @precondition(lambda self: self.world.queues())
    @rule(which=picks, frame=picks)
    def a_frame_is_lost(self, which: int, frame: int) -> None:
        queue = pick(self.world.queues(), which)
        del queue[frame % len(queue)]

    @precondition(lambda self: self.world.links())
    @rule(which=picks, noticed=often)
    def a_connection_breaks(self, which: int, noticed: bool) -> None:
        self.world.lose(pick(self.world.links(), which), noticed=noticed)

    @precondition(lambda self: self.world.missing_links())
    @rule(which=picks)
    def a_runner_connects(self, which: int) -> None:
        self.world.connect(*pick(self.world.missing_links(), which))

    # Time and shutdown

    @rule(seconds=moments)
    def time_passes(self, seconds: float) -> None:
        self.world.advance_to(self.world.now + seconds)

    @precondition(lambda self: self.world.next_deadline() is not None)
    @rule(more=st.sampled_from([0.0, 0.05]))
    def the_next_timer_fires(self, more: float) -> None:
        self.world.advance_to((self.world.next_deadline() or 0.0) + more)

    @rule(which=picks, who=st.sampled_from(["runner", "broker", "nobody", "nobody"]))
    def somebody_drains_or_restarts(self, which: int, who: str) -> None:
        """Rare, for a world in which everybody drains has little to show."""
        if who == "runner":
            self.world.drain_host(pick(self.world.hosts, which))
        elif who == "broker":
            n8n = pick(self.world.n8ns, which)
            (self.world.restart_n8n if n8n.draining else self.world.drain_n8n)(n8n)

    # Verdicts

    @invariant()
    def nothing_is_wrong(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world") and self.world.sound:  # a step that failed has said why
            self.world.come_to_rest()


def profile(examples: int, steps: int, **changed: Any) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        **changed,
    )


class SilentBroker(Broker):
    """n8n 2.1 tells a runner nothing of an answer that came too late, and closes nobody (protocol.md 12)."""

    def _accepted(self, task_id: str, runner: Any, actions: list[BrokerAction], now: float) -> None:
        super()._accepted(task_id, runner, actions, now)
        actions[:] = [action for action in actions if not isinstance(action, ToRunner)]

    def _not_acknowledged(self, task_id: str, pending: Any, actions: list[BrokerAction], now: float) -> None:
        mine: list[BrokerAction] = []
        super()._not_acknowledged(task_id, pending, mine, now)
        actions += [action for action in mine if isinstance(action, ToRequester)]


def machine(**parts: Any) -> type[Faults]:
    return type("Machine", (Faults,), {"parts": parts})


@pytest.mark.parametrize("broker_type", [Broker, SilentBroker])
def test_no_fault_makes_session_and_broker_disagree_or_lose_a_slot(broker_type: type[Broker]) -> None:
    run_state_machine_as_test(machine(broker_type=broker_type), settings=profile(60, 50))


@pytest.mark.long
@pytest.mark.parametrize("broker_type", [Broker, SilentBroker])
def test_no_fault_does_so_in_ten_times_the_tries(broker_type: type[Broker]) -> None:
    run_state_machine_as_test(machine(broker_type=broker_type), settings=profile(600, 100))


# The machine catches planted bugs


class AlwaysRoom(Slots):
    """Nobody counts."""

    def take(self) -> bool:
        self.taken += 1
        return True

    def join(self, party: Party) -> Seat:
        seat = super().join(party)
        seat.take = lambda now: self.take()  # type: ignore[method-assign]
        return seat


class KeepsTheSlotOfACancelledTask(Session):
    """A cancel while waiting forgets to give the slot back."""

    def _cancel(self, message: TaskCancel, actions: list[Action]) -> None:
        task = self._tasks.get(message.task_id)
        if task is not None and task.state is TaskState.WAITING:
            del self._tasks[message.task_id]
        else:
            super()._cancel(message, actions)


class StartsWhateverHasSettings(Session):
    """Settings that come again start the task again."""

    def _start(self, message: TaskSettingsMessage, now: float, actions: list[Action]) -> None:
        task = self._tasks.get(message.task_id)
        if task is not None:
            task.state = TaskState.RUNNING
            actions.append(StartTask(message.task_id, message.settings))


class OffersNothingAfterATask(Session):
    """The end of a task does not make its slot known as free."""

    def finish(self, task_id: str, result: TaskResult | None, now: float) -> list[Action]:
        return [action for action in super().finish(task_id, result, now) if not isinstance(action, OffersDue)]


class WaitsForSettingsForEver(Session):
    """No settings timer."""

    def _accept(self, message: TaskOfferAccept, now: float, actions: list[Action]) -> None:
        super()._accept(message, now, actions)
        for task in self._tasks.values():
            task.settings_due = float("inf")

    def next_deadline(self) -> float | None:
        deadline = super().next_deadline()
        return None if deadline == float("inf") else deadline


class ForgetsToLetGo(Session):
    """A lost connection leaves its waiting tasks in their slots."""

    def lose(self) -> list[Action]:
        waiting = {task_id: task for task_id, task in self._tasks.items() if task.state is TaskState.WAITING}
        actions = super().lose()
        for task_id, task in waiting.items():
            self._tasks[task_id] = task
            self._slots.take()
        return actions


class SpinsOnLapsedOffers(Session):
    """The deadline stays at an offer that has lapsed."""

    def next_deadline(self) -> float | None:
        return min([offer.lapses_at for offer in self._offers.values()], default=None)


class TellsNobody(Slots):
    """A slot that one session gives back is not made known to the others."""

    def join(self, party: Party) -> Seat:
        seat = super().join(party)
        seat.tell_others = lambda now: None  # type: ignore[method-assign]
        return seat


class KeepsForEver(Slots):
    """What is kept for a session that does not come stays kept."""

    def _keep(self, now: float, asking: Seat) -> None:
        super()._keep(now, asking)
        self._kept = dict.fromkeys(self._kept, math.inf)


class WatchesNothing(Slots):
    """Nobody looks when what is kept for a session that does not come should be let go."""

    def join(self, party: Party) -> Seat:
        seat = super().join(party)
        seat.next_change = lambda: math.inf  # type: ignore[method-assign]
        return seat


class SendsAfterTheEnd(Session):
    """A result is sent whatever became of the task or the connection."""

    def finish(self, task_id: str, result: TaskResult | None, now: float) -> list[Action]:
        actions = super().finish(task_id, result, now)
        return actions if result is None or of(actions, Send) else [Send(result), *actions]


class DropsRejectedRequests(Broker):
    """A request that comes back is gone."""

    def _requeue(self, request: Any, actions: list[BrokerAction]) -> None:
        pass


class KeepsTasksOfTheLost(Broker):
    """A runner that leaves takes its offers along, not its tasks."""

    def _forget_runner(self, runner_id: str, actions: list[BrokerAction]) -> None:
        tasks, self._tasks = self._tasks, {}
        super()._forget_runner(runner_id, actions)
        self._tasks = tasks


class UsesOffersTwice(Broker):
    """A matched offer stays open."""

    def _match(self, actions: list[BrokerAction], now: float) -> list[BrokerAction]:
        offers = copy.deepcopy(self._offers)
        super()._match(actions, now)
        self._offers = offers
        return actions


PLANTED = [
    ({"slots_type": AlwaysRoom}, "more (tasks in hand|programs) than slots"),
    ({"session_type": KeepsTheSlotOfACancelledTask}, "the slots that are taken are not the tasks in hand"),
    ({"session_type": StartsWhateverHasSettings}, "a task is started twice"),
    ({"session_type": OffersNothingAfterATask}, "a free slot is not offered"),
    ({"session_type": WaitsForSettingsForEver, "broker_type": SilentBroker}, "a slot is lost|a slot is not offered"),
    ({"session_type": ForgetsToLetGo}, "a slot is lost|not the tasks in hand|a lost session sends"),
    ({"session_type": SpinsOnLapsedOffers}, "makes the shell spin"),
    ({"slots_type": TellsNobody}, "a free slot is not offered"),
    ({"slots_type": KeepsForEver}, "a slot is not offered"),
    ({"session_type": SendsAfterTheEnd}, "a lost session sends"),
    ({"broker_type": DropsRejectedRequests}, "a request has no end"),
    ({"broker_type": KeepsTasksOfTheLost}, "a task of nobody|a task has no end"),
    ({"broker_type": UsesOffersTwice}, "never stop talking"),
    # the same without the counts of the session: what a broker or a user would notice
    ({"slots_type": AlwaysRoom, "look_inside": False}, "more programs than slots"),
    ({"session_type": KeepsTheSlotOfACancelledTask, "look_inside": False}, "a slot is not offered"),
    ({"slots_type": TellsNobody, "look_inside": False}, "a slot is not offered|the broker does not hold"),
    ({"slots_type": KeepsForEver, "look_inside": False}, "a slot is not offered|the broker does not hold"),
]


@pytest.mark.parametrize(
    ("parts", "verdict"),
    PLANTED,
    ids=[" ".join(getattr(part, "__name__", "from outside") for part in parts.values()) for parts, _ in PLANTED],
)
def test_the_machine_catches_a_planted_bug(parts: dict[str, Any], verdict: str) -> None:
    catches(parts, verdict)


@pytest.mark.long
def test_the_machine_catches_a_bug_that_shows_in_one_of_a_hundred_runs() -> None:
    catches({"slots_type": WatchesNothing}, "a free slot is not offered")


def catches(parts: dict[str, Any], verdict: str) -> None:
    once = profile(1000, 50, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError, match=verdict):
        run_state_machine_as_test(machine(**parts), settings=once)
