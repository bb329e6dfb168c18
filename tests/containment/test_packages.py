"""Packages that people allow work inside the sandbox: `uv run --group packages pytest -m packages`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio

from tests.runner_kit import Bench, running
from trio_runner.http import Request, Response, serve

pytestmark = [pytest.mark.packages, pytest.mark.e2e]

COMPUTING = "numpy,pandas,lxml,openpyxl"
CONNECTING = "requests,httpx"

PANDAS = """
import pandas as pd
frame = pd.DataFrame([item["json"] for item in _items])
grouped = frame.groupby("kind")["value"].sum().reset_index()
return [{"json": row} for row in grouped.to_dict(orient="records")]
"""
NUMPY = """
import numpy as np
matrix = np.arange(9.0).reshape(3, 3) + np.eye(3)
sample = np.random.default_rng(1).normal(size=1000)
return {"sum": float((matrix @ np.linalg.inv(matrix)).sum()), "mean": float(sample.mean())}
"""
LXML = """
from lxml import etree
tree = etree.fromstring("<a><b n='1'/><b n='2'/></a>")
return {"found": [b.get("n") for b in tree.xpath("//b")]}
"""
OPENPYXL = """
import openpyxl
book = openpyxl.Workbook()
book.active["A1"] = 42
return {"value": book.active["A1"].value}
"""


@pytest.fixture
async def computing() -> AsyncIterator[Bench]:
    async with running({"N8N_RUNNERS_EXTERNAL_ALLOW": COMPUTING, "N8N_RUNNERS_TASK_MEMORY": "256"}) as bench:
        assert bench.runner.readiness().sandbox["seccomp"] == "active"
        yield bench


async def test_pandas_groups_items_in_strict_mode(computing: Bench) -> None:
    items = [{"json": {"kind": kind, "value": value}} for value, kind in enumerate("abab")]
    outcome = await computing.run(PANDAS, items=items)
    assert outcome["result"] == [{"json": {"kind": "a", "value": 2}}, {"json": {"kind": "b", "value": 4}}]


async def test_numpy_computes_in_strict_mode_within_256_mib(computing: Bench) -> None:
    outcome = await computing.run(NUMPY)
    assert outcome["result"]["sum"] == pytest.approx(3.0)
    assert abs(outcome["result"]["mean"]) < 0.2


async def test_lxml_and_openpyxl_work_in_strict_mode(computing: Bench) -> None:
    assert (await computing.run(LXML))["result"] == {"found": ["1", "2"]}
    assert (await computing.run(OPENPYXL))["result"] == {"value": 42}


async def test_what_an_allowed_package_imports_stays_closed_to_user_code(computing: Bench) -> None:
    assert "Import of standard library module 'os'" in (await computing.run("import os"))["error"]["description"]
    refused = await computing.run("import pandas\nreturn pandas.io.common.os.listdir('/etc')")
    assert "error" in refused


async def test_a_preloaded_package_costs_a_task_about_nothing(computing: Bench) -> None:
    async def seconds(code: str) -> float:
        times = []
        for _ in range(15):
            started = trio.current_time()
            assert "result" in await computing.run(code)
            times.append(trio.current_time() - started)
        return sorted(times)[7]

    without, with_import = await seconds("return 1"), await seconds("import pandas\nreturn 1")
    assert with_import < 3 * without + 0.02, (without, with_import)


@pytest.mark.parametrize("name", ["requests", "httpx"])
async def test_http_packages_reach_a_granted_port_and_no_other(name: str) -> None:
    async def answer(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        return Response(200, b'{"path": "%s"}' % request.path.encode(), "application/json")

    async with trio.open_nursery() as nursery:
        granted = await nursery.start(partial(serve, answer, "127.0.0.1", 0))
        closed = await nursery.start(partial(serve, answer, "127.0.0.1", 0))
        environ = {"N8N_RUNNERS_EXTERNAL_ALLOW": CONNECTING, "N8N_RUNNERS_SANDBOX_CONNECT": str(granted)}
        async with running(environ) as bench:
            assert bench.runner.readiness().sandbox["landlock-network"] == "active"
            code = f"import {name}\nreturn {name}.get('http://127.0.0.1:%d/hello').json()"
            outcome = await bench.run(code % granted)
            assert outcome.get("result") == {"path": "/hello"}, outcome
            assert "error" in await bench.run(code % closed)
            certificates = f"import {name}\nreturn len({name}.certs.where())" if name == "requests" else "return 1"
            assert "result" in await bench.run(certificates)
        nursery.cancel_scope.cancel()
