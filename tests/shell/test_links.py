"""A whole runner and several brokers: which of them have a link, and what the trouble of one does to the others.

Workers without processes, brokers that follow a script, names that resolve as the test says, a clock that jumps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.chaos.certificates import Certificates
from tests.chaos.proxy import Proxy
from tests.e2e.n8n_server import free_port
from tests.shell.shell_kit import Names, Records, ScriptedBroker, registered, scripted_broker, started, types, until
from trio_runner.errors import AuthRefusedError, StartError
from trio_runner.http import Response

pytestmark = pytest.mark.e2e

URI = "N8N_RUNNERS_TASK_BROKER_URI"
NO_PINGS = {"N8N_RUNNERS_HEARTBEAT_INTERVAL": "3600"}
"""A connection that the test does not read from would not answer them."""
FORBIDDEN = Response(403, b'{"code":403,"message":"Forbidden"}')


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    with Names().installed() as names:
        yield names


def behind(broker: ScriptedBroker, *more: str) -> dict[str, str]:
    """The settings of a runner for the brokers behind the name n8n, at this one's port."""
    uri = ",".join([f"dns+http://n8n:{broker.port}", *more])
    return {URI: uri, "N8N_RUNNERS_TASK_BROKER_DNS_INTERVAL": "20", **NO_PINGS}


# Brokers behind a name


async def test_every_broker_behind_a_name_gets_a_link_and_hears_the_name(names: Names, jump_clock: MockClock) -> None:
    names.found["n8n"] = ["127.0.0.2", "127.0.0.3"]
    async with (
        scripted_broker("127.0.0.2") as one,
        scripted_broker("127.0.0.3", one.port) as other,
        started(**behind(one)) as rig,
    ):
        for broker in (one, other):
            connection = await registered(broker)
            assert connection.request.header("host") == f"n8n:{one.port}"
            assert types(await connection.silence(0.1)) == ["runner:taskoffer"] * 5
        labels = {state.broker for state in rig.runner.readiness().brokers}
        assert labels == {f"127.0.0.2:{one.port} (n8n)", f"127.0.0.3:{one.port} (n8n)"}
        assert [len(broker.login_bodies) for broker in (one, other)] == [1, 1]
        (counted,) = rig.runner.counters.brokers.values()
        assert (counted.name, counted.connections) == (f"dns+n8n:{one.port}", 2), "metrics know names only"
        rig.runner.stop(5)
        assert await rig.end() is None


async def test_a_broker_that_comes_gets_a_link_and_the_others_hear_nothing_of_it(
    names: Names, jump_clock: MockClock
) -> None:
    names.found["n8n"] = ["127.0.0.2"]
    async with (
        scripted_broker("127.0.0.2") as one,
        scripted_broker("127.0.0.3", one.port) as other,
        started(**behind(one)) as rig,
    ):
        first = await registered(one)
        await first.start("long", "sleep 60")
        names.found["n8n"] = ["127.0.0.3", "127.0.0.2"]
        second = await registered(other)
        assert trio.current_time() < 26
        await second.start("t", "return 1")
        assert (await second.until("runner:taskdone"))["taskId"] == "t"
        assert (await first.until("runner:taskdone"))["taskId"] == "long"
        assert rig.executor.cancelled == []
        assert (len(one.upgrade_requests), len(other.upgrade_requests)) == (1, 1)


async def test_a_broker_that_goes_may_get_its_results_and_is_then_left(names: Names, jump_clock: MockClock) -> None:
    names.found["n8n"] = ["127.0.0.2", "127.0.0.3"]
    async with (
        scripted_broker("127.0.0.2") as one,
        scripted_broker("127.0.0.3", one.port) as other,
        started(**behind(one)) as rig,
    ):
        first, second = await registered(one), await registered(other)
        await second.start("last", "sleep 90")
        names.found["n8n"] = ["127.0.0.2"]
        await second.silence(55)
        assert await second.silence(20) == [], "no more offers"
        await second.send("broker:taskofferaccept", taskId="late", offerId=second.offers[-1])
        assert (await second.next())["reason"] == "Runner is shutting down"
        assert await second.closed() == 1000
        assert types(second.messages[-1:]) == ["runner:taskdone"]
        await until(lambda: len(rig.runner.readiness().brokers) == 1)
        assert rig.runner.readiness().ready
        await first.silence(0.1)
        await first.start("t", "return 1")
        await first.until("runner:taskdone")
        await first.silence(100)
        assert (len(one.upgrade_requests), len(other.upgrade_requests)) == (1, 1)


async def test_a_broker_that_comes_back_while_it_is_being_left_is_not_connected_to_twice(
    names: Names, jump_clock: MockClock
) -> None:
    """The second connection would throw the first one out, and fail its task."""
    names.found["n8n"] = ["127.0.0.2", "127.0.0.3"]
    async with (
        scripted_broker("127.0.0.2") as one,
        scripted_broker("127.0.0.3", one.port) as other,
        started(**behind(one)) as rig,
    ):
        await registered(one)
        second = await registered(other)
        await second.start("last", "sleep 150")
        names.found["n8n"] = ["127.0.0.2"]
        await second.silence(75)
        names.found["n8n"] = ["127.0.0.2", "127.0.0.3"]
        assert await second.closed() == 1000
        assert types(second.messages[-1:]) == ["runner:taskdone"]
        again = await registered(other)
        assert trio.current_time() == pytest.approx(150, abs=1)
        assert types(await again.silence(0.1)) == ["runner:taskoffer"] * 5
        assert other.most_open == 1
        assert len(rig.runner.readiness().brokers) == 2


async def test_a_broker_that_is_down_and_gone_from_the_name_is_not_looked_for_any_more(
    names: Names, jump_clock: MockClock
) -> None:
    names.found["n8n"] = ["127.0.0.2", "127.0.0.3"]
    async with scripted_broker("127.0.0.2") as one, started(**behind(one)) as rig:
        await registered(one)
        await trio.sleep(10)
        assert len(rig.runner.readiness().brokers) == 2
        names.found["n8n"] = ["127.0.0.2"]
        await trio.sleep(26)
        assert len(rig.runner.readiness().brokers) == 1


async def test_a_restarted_broker_is_found_at_its_new_address_without_waiting_for_the_interval(
    names: Names, jump_clock: MockClock
) -> None:
    names.found["n8n"] = ["127.0.0.2"]
    async with scripted_broker("127.0.0.2") as one, scripted_broker("127.0.0.3", one.port) as other:
        settings = behind(one) | {"N8N_RUNNERS_TASK_BROKER_DNS_INTERVAL": "3600"}
        async with started(**settings):
            first = await registered(one)
            await first.silence(100)
            names.found["n8n"] = ["127.0.0.3"]
            await first.close(1001)
            left = trio.current_time()
            await registered(other)
            assert trio.current_time() - left < 6


async def test_a_name_server_that_is_down_costs_no_connection(names: Names, jump_clock: MockClock) -> None:
    names.found["n8n"] = ["127.0.0.2"]
    async with scripted_broker("127.0.0.2") as one, started(**behind(one)) as rig:
        connection = await registered(one)
        names.found["n8n"] = OSError("down")
        await connection.silence(200)
        assert rig.runner.readiness().ready
        assert len(one.upgrade_requests) == 1


async def test_a_name_that_is_not_found_is_shown_until_it_is(names: Names, jump_clock: MockClock) -> None:
    async with scripted_broker("127.0.0.2") as one, started(**behind(one)) as rig:
        await trio.sleep(100)
        state = rig.runner.readiness()
        assert not state.ready
        assert [(broker.broker, broker.last_error) for broker in state.brokers] == [
            (f"dns+n8n:{one.port}", "n8n was not found: Name or service not known")
        ]
        names.found["n8n"] = ["127.0.0.2"]
        connection = await registered(one)
        await connection.offer()
        assert rig.runner.readiness().ready
        assert len(rig.runner.readiness().brokers) == 1


async def test_a_broker_that_is_also_named_by_itself_has_one_link(names: Names, jump_clock: MockClock) -> None:
    names.found["n8n"] = names.found["alias"] = ["127.0.0.2"]
    async with scripted_broker("127.0.0.2") as one:
        more = f"http://127.0.0.2:{one.port}", f"dns+http://alias:{one.port}"
        async with started(**behind(one, *more)):
            connection = await registered(one)
            await connection.silence(60)
            assert len(one.upgrade_requests) == 1


async def test_a_stop_ends_the_lookups_too(names: Names, jump_clock: MockClock) -> None:
    async with scripted_broker("127.0.0.2") as one, started(**behind(one)) as rig:
        await trio.sleep(20)
        rig.runner.stop(5)
        assert await rig.end() is None
        assert trio.current_time() == pytest.approx(20, abs=0.1)


# A wrong auth token


async def test_a_broker_that_refuses_the_token_is_asked_again_now_and_then_while_another_one_is_served(
    jump_clock: MockClock, records: Records
) -> None:
    async with scripted_broker() as good, scripted_broker() as bad:
        bad.logins = [FORBIDDEN]
        async with started(good.port, bad.port, **NO_PINGS) as rig:
            connection = await registered(good)
            await connection.silence(200)
            assert rig.error is None
            assert 200 / 90 <= len(bad.login_bodies) <= 200 / 30 + 1
            states = {state.broker: state for state in rig.runner.readiness().brokers}
            assert states[f"127.0.0.1:{bad.port}"].auth_refused
            assert not states[f"127.0.0.1:{good.port}"].auth_refused
            assert rig.runner.readiness().ready
            assert all(
                record.levelname == "ERROR"
                for record in records.records
                if "refused the auth" in record.msg % record.args
            )
            said = records.having(f"The broker at 127.0.0.1:{bad.port} refused the auth token. N8N_RUNNERS_AUTH_TOKEN")
            assert rig.runner.counters.brokers[f"127.0.0.1:{bad.port}"].failures["auth_refused"] == len(said)
            assert len(bad.login_bodies) - len(said) in (0, 1), "each time, and the last answer may be under way"
            bad.logins = [None]
            late = await registered(bad)
            await late.offer()
            assert not any(state.auth_refused for state in rig.runner.readiness().brokers)
            await connection.silence(0.1)
            await connection.start("t", "return 1")
            await connection.until("runner:taskdone")
            assert len(good.upgrade_requests) == 1


async def test_a_runner_whose_token_every_broker_refuses_ends(jump_clock: MockClock) -> None:
    async with scripted_broker() as one, scripted_broker() as other:
        one.logins = other.logins = [FORBIDDEN]
        async with started(one.port, other.port, **NO_PINGS) as rig:
            assert isinstance(await rig.end(), AuthRefusedError)
            assert trio.current_time() < 1


async def test_a_runner_that_was_served_by_one_ends_when_that_one_refuses_the_token_too(jump_clock: MockClock) -> None:
    async with scripted_broker() as one, scripted_broker() as other:
        other.logins = [FORBIDDEN]
        async with started(one.port, other.port, **NO_PINGS) as rig:
            connection = await registered(one)
            await connection.silence(20)
            one.logins = [FORBIDDEN]
            await connection.close(1001)
            assert isinstance(await rig.end(), AuthRefusedError)


async def test_a_broker_that_is_down_may_be_one_that_takes_the_token(jump_clock: MockClock) -> None:
    async with scripted_broker() as down:
        pass
    async with scripted_broker() as bad:
        bad.logins = [FORBIDDEN]
        async with started(down.port, bad.port) as rig:
            await trio.sleep(300)
            assert rig.error is None
            assert rig.ended_at == 0


async def test_the_only_broker_behind_a_name_ends_the_runner_when_it_refuses_the_token(
    names: Names, jump_clock: MockClock
) -> None:
    names.found["n8n"] = ["127.0.0.2"]
    async with scripted_broker("127.0.0.2") as one:
        one.logins = [FORBIDDEN]
        async with started(**behind(one)) as rig:
            assert isinstance(await rig.end(), AuthRefusedError)


async def test_a_name_that_is_not_found_yet_may_stand_for_one_that_takes_the_token(
    names: Names, jump_clock: MockClock
) -> None:
    async with scripted_broker() as bad:
        bad.logins = [FORBIDDEN]
        async with started(**behind(bad, f"http://127.0.0.1:{bad.port}")) as rig:
            await trio.sleep(300)
            assert rig.ended_at == 0


# Words


async def test_with_several_brokers_a_line_says_which_one_it_is_about(jump_clock: MockClock, records: Records) -> None:
    async with scripted_broker() as one, scripted_broker() as other, started(one.port, other.port, **NO_PINGS):
        first = await registered(one)
        await registered(other)
        await first.start("t", "return 1")
        await first.until("runner:taskdone")
        await first.silence(20)
        await first.close(1001)
        await trio.sleep(0.1)
        for port in (one.port, other.port):
            assert records.having(f"127.0.0.1:{port}: Registered with broker")
        assert records.having(f"127.0.0.1:{one.port}: Accepted task t")
        assert records.having(f"127.0.0.1:{one.port}: The broker is stopping (close code 1001) - connecting again in ")


async def test_with_one_broker_lines_are_the_reference_s(jump_clock: MockClock, records: Records) -> None:
    async with scripted_broker() as one, started(one.port):
        await (await registered(one)).offer()
        assert "Connected to broker" in records.lines
        assert "Registered with broker" in records.lines


async def test_authorities_that_cannot_be_read_end_the_runner(jump_clock: MockClock) -> None:
    async with started(**{URI: "https://127.0.0.1:1", "N8N_RUNNERS_TASK_BROKER_CA": "/nowhere/ca.pem"}) as rig:
        error = await rig.end()
        assert isinstance(error, StartError)
        assert str(error) == "N8N_RUNNERS_TASK_BROKER_CA cannot be used: No such file or directory"


# Ways to a broker


async def test_a_broker_with_an_ipv6_address_and_a_path_of_its_own_is_served(jump_clock: MockClock) -> None:
    async with (
        scripted_broker("::1") as broker,
        started(**{URI: f"ws://[::1]:{broker.port}", "N8N_RUNNERS_PATH": "/n8n/tasks", **NO_PINGS}) as rig,
    ):
        connection = await registered(broker)
        assert connection.request.header("host") == f"[::1]:{broker.port}"
        assert connection.request.target.startswith("/n8n/tasks/_ws?id=")
        await connection.start("t", "return 1")
        assert (await connection.until("runner:taskdone"))["taskId"] == "t"
        assert rig.runner.readiness().brokers[0].broker == f"[::1]:{broker.port}"


@pytest.mark.parametrize("scheme", ["https", "wss"])
async def test_a_broker_behind_tls_is_served_with_an_authority_of_one_s_own(tmp_path: Path, scheme: str) -> None:
    certificates = Certificates.make(tmp_path)
    with trio.fail_after(20):
        async with scripted_broker() as broker, trio.open_nursery() as nursery:
            proxy = Proxy(free_port(), broker.port, tls=certificates.right)
            await nursery.start(proxy.serve)
            proxy.next_certificates.append(certificates.wrong)
            uri = f"{scheme}://127.0.0.1:{proxy.port}"
            async with started(**{URI: uri, "N8N_RUNNERS_TASK_BROKER_CA": str(certificates.ca), **NO_PINGS}) as rig:
                await until(lambda: any("certificate" in str(b.last_error) for b in rig.runner.readiness().brokers))
                assert broker.login_bodies == [], "a broker that cannot prove who it is is told no secret"
                connection = await registered(broker)
                await connection.start("t", "return 1")
                assert (await connection.until("runner:taskdone"))["taskId"] == "t"
            nursery.cancel_scope.cancel()
