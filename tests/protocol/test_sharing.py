"""Several brokers share the slots of one process: who may offer a free slot, who gets it, and who is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from tests.protocol.contention import Demand, Lab
from tests.protocol.protocol_kit import accept, cancel, connected, done, offering, sent, settings, wants_offers
from trio_runner.protocol.messages import (
    InfoRequest,
    RunnerMessage,
    RunnerRegistered,
    TaskAccepted,
    TaskOffer,
    TaskRejected,
)
from trio_runner.protocol.session import REJECT_FULL, REJECT_SUSPENDED, Session
from trio_runner.protocol.slots import FIRST_GUESS, PATIENCE, Party, Seat, Slots


def contended(capacity: int = 1, sessions: int = 2) -> list[Session]:
    """Sessions that have offered all slots; then the first got tasks for all of them: t1, t2, ..."""
    slots = Slots(capacity)
    parties = [offering(slots=slots) for _ in range(sessions)]
    for number in range(1, capacity + 1):
        assert sent(parties[0].receive(accept(f"t{number}", f"o{number}"), 0.0)) == [accepted(f"t{number}")]
        parties[0].receive(settings(f"t{number}"), 0.0)
    return parties


def accepted(task_id: str) -> TaskAccepted:
    return TaskAccepted(task_id=task_id)


def rejected(task_id: str, reason: str = REJECT_FULL) -> TaskRejected:
    return TaskRejected(task_id=task_id, reason=reason)


def offers(session: Session, now: float) -> list[RunnerMessage]:
    """What the session offers now."""
    made = sent(session.make_offers(now))
    assert all(isinstance(message, TaskOffer) for message in made)
    return made


def finish(session: Session, task_id: str, now: float) -> bool:
    """Ends a task; says whether the session itself is to offer its slot."""
    return wants_offers(session.finish(task_id, done(task_id), now))


def test_two_sessions_offer_the_same_slots_and_never_fill_more_than_there_are() -> None:
    one, other = contended()
    assert sent(other.receive(accept("u", "o1"), 0.0)) == [rejected("u")]
    assert offers(one, 0.0) == offers(other, 0.0) == []


def test_a_session_is_woken_when_another_one_gives_a_slot_back() -> None:
    one, other = contended()
    assert other.next_deadline() == 5.0
    other.tick(5.0)
    assert offers(other, 5.0) == []
    assert other.next_deadline() is None
    woken: list[int] = []
    other.wake = lambda: woken.append(len(offers(other, 5.1)))
    one.receive(cancel("t1"), 5.1)
    finish(one, "t1", 5.1)
    assert woken == [1]
    assert other.next_deadline() == 10.1


def test_a_session_that_has_offered_all_there_is_is_not_woken() -> None:
    one, other = contended()
    other.wake = lambda: pytest.fail("its broker holds an offer still")
    assert finish(one, "t1", 0.1)


def test_a_lost_session_wakes_the_others_for_what_it_gives_back_then_and_later() -> None:
    slots = Slots(2)
    one, other = offering(slots=slots), offering(slots=slots)
    one.receive(accept("waiting", "o1"), 0.0)
    one.receive(accept("running", "o2"), 0.0)
    one.receive(settings("running"), 0.0)
    other.tick(6.0)
    woken: list[int] = []
    other.wake = lambda: woken.append(len(offers(other, 6.0)))
    one.lose()
    assert woken == [1]
    one.finish("running", None, 6.0)
    assert woken == [1, 1]


def test_the_next_slot_is_offered_to_the_session_that_was_rejected_and_to_no_other() -> None:
    one, other, third = contended(sessions=3)
    assert sent(other.receive(accept("u", "o1"), 1.0)) == [rejected("u")]
    third.tick(6.0)
    woken: list[Session] = []
    other.wake, third.wake = (lambda: woken.append(other)), (lambda: woken.append(third))
    assert not finish(one, "t1", 7.0)
    assert set(woken) == {other}
    assert offers(one, 7.0) == offers(third, 7.0) == []
    assert len(offers(other, 7.0)) == 1
    assert offers(other, 7.0) == []
    assert sent(other.receive(accept("v", "o2"), 7.0)) == [accepted("v")]


def test_whoever_was_rejected_first_is_served_first_and_once() -> None:
    one, *others = contended(sessions=4)
    for number in (2, 0, 1, 2):
        others[number].receive(accept(f"u{number}", "o1"), 1.0)
    served: list[int] = []
    holder, task_id = one, "t1"
    for turn in range(3):
        assert not finish(holder, task_id, 2.0 + turn)
        (number,) = (n for n, session in enumerate(others) if session.unoffered(2.0 + turn))
        served.append(number)
        holder, task_id = others[number], f"v{number}"
        offers(holder, 2.0 + turn)
        assert sent(holder.receive(accept(task_id, "o2"), 2.0 + turn)) == [accepted(task_id)]
        holder.receive(settings(task_id), 2.0 + turn)
    assert served == [2, 0, 1]
    assert finish(holder, task_id, 9.0), "nobody has a claim now: everybody is offered the slot"
    assert all(session.unoffered(9.0) == 1 for session in (one, *others))


def test_of_two_slots_one_is_kept_for_the_session_that_was_rejected() -> None:
    one, other = contended(2)
    other.receive(accept("u", "o1"), 1.0)
    other.tick(6.0)
    finish(one, "t1", 6.0)
    finish(one, "t2", 6.0)
    assert (len(offers(one, 6.0)), len(offers(other, 6.0))) == (1, 2)


def test_a_slot_that_is_kept_for_a_session_is_there_for_all_when_its_patience_is_over() -> None:
    one, other = contended()
    other.receive(accept("u", "o1"), 1.0)
    finish(one, "t1", 2.0)
    offers(other, 2.0)
    until = other.next_deadline()
    assert until == 2.0 + 2 * FIRST_GUESS
    assert not wants_offers(one.tick(until - 0.001))
    woken: list[int] = []
    one.wake = lambda: woken.append(one.unoffered(until))
    other.tick(until)
    assert woken == [1], "it is the one who did not come that looks"
    assert len(offers(one, until)) == 1
    assert other.next_deadline() == 7.0
    assert sent(other.receive(accept("v", "o2"), until)) == [accepted("v")], "first come, first served again"


def lose(session: Session) -> None:
    session.lose()


def drain(session: Session) -> None:
    session.drain(2.0)


@pytest.mark.parametrize("go", [lose, drain])
def test_what_is_kept_for_a_session_is_there_for_the_others_when_it_goes(go: Callable[[Session], None]) -> None:
    one, other = contended()
    other.receive(accept("u", "o1"), 1.0)
    finish(one, "t1", 2.0)
    woken: list[int] = []
    one.wake = lambda: woken.append(one.unoffered(2.0))
    go(other)
    assert woken == [1]


@pytest.mark.parametrize("go", [lose, drain])
def test_the_claim_of_a_session_is_gone_when_it_goes(go: Callable[[Session], None]) -> None:
    one, other = contended()
    other.receive(accept("u", "o1"), 1.0)
    go(other)
    assert finish(one, "t1", 2.0)


def test_an_older_offer_is_good_for_the_slot_that_is_kept_too() -> None:
    one, other = contended(2)
    other.receive(accept("u", "o1"), 1.0)
    finish(one, "t1", 1.1)
    assert sent(other.receive(accept("v", "o2"), 1.1)) == [accepted("v")]
    assert offers(other, 1.1) == []


def test_a_slot_that_is_kept_is_called_up_even_where_older_offers_are_open() -> None:
    """Brokers before the newest look at a rejected request again when another offer comes (protocol.md 12.2)."""
    one, other = contended(3)
    other.receive(accept("u", "o1"), 1.0)
    finish(one, "t1", 1.1)
    assert other.open_offers(1.1) == 2
    assert len(offers(other, 1.1)) == 1
    assert offers(other, 1.1) == []


def kept_for(turnaround: float, slots: Slots, one: Session, other: Session, now: float) -> float:
    """The first session gets the slot, the second is rejected and gets it next. How long is it kept for it?

    The settings of the second one's task come after ``turnaround``.
    """
    (first,), (second,) = offers(one, now), offers(other, now)
    assert isinstance(first, TaskOffer)
    assert isinstance(second, TaskOffer)
    one.receive(accept(f"t{now}", first.offer_id), now)
    one.receive(settings(f"t{now}"), now)
    other.receive(accept(f"u{now}", second.offer_id), now)
    finish(one, f"t{now}", now)
    (third,) = offers(other, now)
    assert isinstance(third, TaskOffer)
    kept = (other.next_deadline() or 0.0) - now
    other.receive(accept(f"v{now}", third.offer_id), now)
    other.receive(settings(f"v{now}"), now + turnaround)
    finish(other, f"v{now}", now + turnaround)
    assert slots.taken == 0
    return kept


def test_a_broker_that_answers_slowly_has_its_slot_kept_for_longer() -> None:
    slots = Slots(1)
    one, other = offering(slots=slots), offering(slots=slots)
    kept = [kept_for(turnaround, slots, one, other, 10.0 * n) for n, turnaround in enumerate([0.4] + [0.003] * 58, 1)]
    assert kept[0] == pytest.approx(2 * FIRST_GUESS)
    assert kept[1] == pytest.approx(0.8), "as soon as it is known"
    assert kept[1:] == sorted(kept[1:], reverse=True)
    assert kept[-1] == pytest.approx(PATIENCE[0]), "and no longer than needed in the end"


def test_no_broker_has_a_slot_kept_for_more_than_a_second() -> None:
    slots = Slots(1)
    one, other = offering(slots=slots), offering(slots=slots)
    kept = [kept_for(4.0, slots, one, other, 10.0 * turn) for turn in range(1, 4)]
    assert kept[1:] == [pytest.approx(PATIENCE[1])] * 2


@pytest.mark.parametrize("pong", [False, True], ids=["registration", "pong"])
def test_a_registration_and_a_pong_tell_how_long_a_broker_takes(pong: bool) -> None:
    slots = Slots(1)
    one, other = offering(slots=slots), connected(slots=slots)
    if pong:
        other.receive(RunnerRegistered(), 0.0)
        other.answered(0.2)
    else:
        other.receive(InfoRequest(), 0.0)
        other.receive(RunnerRegistered(), 0.2)
    assert kept_for(0.0, slots, one, other, 10.0) == pytest.approx(0.4)


def test_the_more_brokers_there_are_the_fewer_of_many_slots_each_is_offered() -> None:
    slots = Slots(100)
    sessions = [offering(slots=slots)]
    assert sessions[0].open_offers(0.0) == 100, "all of them, as long as there is one broker"
    sessions += [offering(slots=slots) for _ in range(19)]
    held = [session.open_offers(0.0) for session in sessions[1:]]
    assert held == [50, 34, 25, 20, 17, 15, 13, 12, 10, 10, 9] + [8] * 8
    for session in sessions[1:]:
        session.lose()
    assert sessions[0].unoffered(5.0) == 100


def test_while_tasks_cannot_be_run_nothing_is_offered_and_what_is_open_is_rejected() -> None:
    slots = Slots(2)
    session, woken = offering(slots=slots), list[int]()
    session.wake = lambda: woken.append(len(offers(session, 6.0)))
    slots.suspend()
    assert session.unoffered(5.0) == 0
    assert sent(session.receive(accept("t", "o1"), 1.0)) == [rejected("t", REJECT_SUSPENDED)]
    assert not wants_offers(session.tick(5.5))
    slots.resume()
    assert woken[0] == 2
    woken.clear()
    slots.resume()
    assert woken == []


# What the rule does to those who share, and what the rules did that were not chosen


class FirstComeOnly(Slots):
    """Rejected: who was rejected has no claim. The nearest broker wins nearly every time."""

    def _keep(self, now: float, asking: Seat) -> None:
        self._claims.clear()


class FixedParts(Slots):
    """Rejected: to each broker its part of the slots. Nothing is ever rejected, and what one does not need is idle."""

    def join(self, party: Party) -> Seat:
        seat = super().join(party)
        number = len(self._seats) - 1

        def room(now: float) -> int:
            part = self.capacity // len(self._seats) + (number < self.capacity % len(self._seats))
            return max(0, part - len(party.tasks))  # type: ignore[attr-defined]

        seat.room = room  # type: ignore[method-assign]
        return seat


class OneAtATime(Slots):
    """Rejected: a free slot is offered to one broker, and to the next when that one let the offer lapse."""

    def join(self, party: Party) -> Seat:
        seat = super().join(party)

        def room(now: float) -> int:
            others = sum(other.party.open_offers(now) for other in self._seats if other is not seat)  # type: ignore[attr-defined]
            return self.free - others

        seat.room = room  # type: ignore[method-assign]
        return seat


class WaitsPolitely(Slots):
    """Rejected: a slot is kept as long as n8n waits for an answer. Other runners take most of what it is kept for."""

    def join(self, party: Party) -> Seat:
        seat = super().join(party)
        seat.learn = lambda seconds: None  # type: ignore[method-assign]
        seat._turnaround = 1.0
        return seat


BUSY, FAR, RARE = Demand(backlog=10), Demand(backlog=10, latency=0.02), Demand(rate=2)
RULES = [Slots, FirstComeOnly, FixedParts, OneAtATime, WaitsPolitely]


def good_with(*rules: type[Slots]) -> pytest.MarkDecorator:
    """The rules with which something is so: with these and with no other, or else it would say nothing about ours."""
    return pytest.mark.parametrize(("rule", "good"), [(rule, rule in rules) for rule in RULES])


@good_with(Slots, OneAtATime, WaitsPolitely)
def test_a_broker_that_is_far_away_gets_its_share_beside_a_near_one(rule: type[Slots], good: bool) -> None:
    near, far = Lab([BUSY, FAR], slots_type=rule).run(20).served
    assert (far > 0.4 * near) is good


@good_with(Slots, FirstComeOnly, WaitsPolitely)
def test_brokers_with_the_same_work_get_the_same_share(rule: type[Slots], good: bool) -> None:
    served = Lab([BUSY] * 5, capacity=3, slots_type=rule).run(10).served
    assert (min(served) > 0.8 * max(served)) is good


@good_with(Slots, FixedParts, OneAtATime, WaitsPolitely)
def test_there_is_less_than_one_rejection_a_task_even_if_all_brokers_want_all(rule: type[Slots], good: bool) -> None:
    assert (Lab([BUSY] * 5, capacity=3, slots_type=rule).run(10).rejections_per_task < 1) is good


@good_with(Slots, FirstComeOnly, WaitsPolitely)
def test_a_broker_alone_with_its_work_gets_all_slots(rule: type[Slots], good: bool) -> None:
    assert (Lab([BUSY, Demand(), Demand()], capacity=3, slots_type=rule).run(10).idle_share < 0.05) is good


@good_with(Slots, FirstComeOnly)
def test_what_other_runners_have_done_in_the_meantime_costs_next_to_nothing(rule: type[Slots], good: bool) -> None:
    """A request that was rejected here is served elsewhere, and what is kept for it here is idle for nothing."""
    lab = Lab([BUSY, RARE, RARE], runners=3, slots_type=rule).run(20)
    assert (lab.idle_share < 0.06 and min(lab.served) > 10) is good


busy = st.builds(Demand, backlog=st.integers(1, 20), latency=st.sampled_from([0.0002, 0.001, 0.005, 0.02]))
moderate = st.builds(Demand, rate=st.sampled_from([0.0, 0.5, 1.5]), latency=st.sampled_from([0.0002, 0.02]))


def none_starves(crowd: list[Demand], others: list[Demand], capacity: int, runners: int, seed: int) -> None:
    lab = Lab(crowd + others, capacity=capacity, runners=runners, seed=seed).run(15)
    served = lab.served[: len(crowd)]
    # a broker that has one request at a time cannot have more in hand than that, however many slots there are
    full = [number for number, demand in enumerate(crowd) if demand.backlog >= 2 * capacity * runners]
    if full:
        fair = sum(served) / len(served)
        assert min(served[number] for number in full) > 0.3 * fair
    assert min(served) > 20
    for office in lab.offices[len(crowd) :]:
        assert min(office.asked.values(), default=lab.now) > lab.now - 5, "a rare request waits"
    assert lab.rejections_per_task < 1.5
    assert all(slots.taken <= slots.capacity for slots in lab.runners)


@pytest.mark.parametrize("examples", [12, pytest.param(120, marks=pytest.mark.long)])
def test_whatever_the_brokers_want_none_starves_and_rejections_stay_few(examples: int) -> None:
    anything = given(
        crowd=st.lists(busy, min_size=1, max_size=4),
        others=st.lists(moderate, max_size=3),
        capacity=st.integers(1, 6),
        runners=st.integers(1, 3),
        seed=st.integers(0, 1000),
    )
    settings_of(max_examples=examples, deadline=None, derandomize=True, database=None)(anything(none_starves))()
