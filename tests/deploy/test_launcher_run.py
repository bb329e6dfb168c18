"""The launcher's file at work: a stand-in for it defers a task and starts what the file names, again and again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio

from tests.deploy.deploy_kit import made
from tests.e2e.n8n_server import free_port
from tests.launcher import ConfigurationRefused, Launcher, launcher_environment, read_configuration
from trio_runner.localbroker import LocalBroker

pytestmark = pytest.mark.e2e

TOKEN = "loopback"


async def run(broker: LocalBroker, code: str) -> object:
    settings = {"code": code, "nodeMode": "runOnceForAllItems", "items": []}
    done = await broker.run_task(msgspec.json.encode(settings))
    assert isinstance(done.result, msgspec.Raw)
    return msgspec.json.decode(done.result)


async def test_a_launcher_with_our_file_runs_a_task_in_a_runner_and_another_one_after_it_went_idle(
    tmp_path: Path,
) -> None:
    file = tmp_path / "n8n-task-runners.json"
    file.write_text(made("launcher", "--port", str(free_port())).text)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            broker = LocalBroker(auth_token=TOKEN)
            port = await nursery.start(broker.serve)
            environ = launcher_environment(
                N8N_RUNNERS_AUTH_TOKEN=TOKEN,
                N8N_RUNNERS_TASK_BROKER_URI=f"http://127.0.0.1:{port}",
                N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT="1",
                N8N_RUNNERS_STDLIB_ALLOW="json",
            )
            launcher = Launcher(file, environ, tmp_path / "runner.log")

            async def two_turns() -> None:
                await launcher.run(turns=2)
                nursery.cancel_scope.cancel()

            nursery.start_soon(two_turns)
            for turn in (1, 2):
                # the allowlist reached it, and the request that was deferred is the one that it answers
                answer = await run(broker, f"import json\nreturn [{{'json': {{'turn': json.loads('{turn}')}}}}]")
                assert answer == [{"json": {"turn": turn}}], launcher.said()
                await launcher.cycles[-1].ended.wait()
    # idle for a second each time, and no other reason to end
    assert [cycle.exit_code for cycle in launcher.cycles] == [0, 0], launcher.said()
    assert all(cycle.healthy for cycle in launcher.cycles), launcher.said()
    assert all("N8N_RUNNERS_AUTH_TOKEN" not in cycle.environment for cycle in launcher.cycles)


def test_the_stand_in_refuses_what_the_launcher_refuses(tmp_path: Path) -> None:
    good = made("launcher").text
    file = tmp_path / "file.json"
    both = '"env-overrides": {"A": "1"}, "default-env": {"A": "2"}'
    for part, wrong in (('"python"', '"ruby"'), ('"5682"', '"5680"'), ('"/"', "7"), ('"env-overrides": {}', both)):
        assert part in good
        file.write_text(good.replace(part, wrong))
        with pytest.raises(ConfigurationRefused):
            read_configuration(file, "python")
    file.write_text(good)
    assert read_configuration(file, "python")["args"] == ["start"]
