"""A Code node for programs that know nothing of trio: its broker and runner live in a thread.

Owns that thread. What is run and what comes of it is `node`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Unpack

import trio

from trio_runner.testing.node import Around, AsyncCodeNode, Item, Result, open_code_node

START_LIMIT = 60.0
"""Seconds until a runner must be there; a tenth of a second is usual."""
_STOP_LIMIT = 30.0


class CodeNode:
    """Runs programs of Code nodes, inside a ``with`` block. May be used by several threads at the same time."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        """``settings`` are environment variables of the runner; nothing is taken from this process's environment."""
        self._settings = dict(settings or {})
        self._thread = threading.Thread(target=self._live, name="code node", daemon=True)
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._node: AsyncCodeNode | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop: trio.Event | None = None

    def __enter__(self) -> CodeNode:
        self._thread.start()
        if not self._started.wait(START_LIMIT):
            raise TimeoutError(f"the runner was not there within {START_LIMIT:g} seconds")
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None and self._stop is not None and self._thread.is_alive():
            self._token.run_sync_soon(self._stop.set)
        self._thread.join(_STOP_LIMIT)

    def run(self, program: str | Path, items: Sequence[Item] = (), **around: Unpack[Around]) -> Result:
        """Runs a program, given as text or as the path of a file, and returns what came of it.

        ``items`` are n8n's (``{"json": {…}}``) or plain dictionaries, which are wrapped. Raises `CodeNodeError` when
        the program fails.
        """
        if self._node is not None and self._thread.is_alive():
            call = partial(self._node.run, program, items, **around)
            with suppress(trio.Cancelled, trio.RunFinishedError):  # another thread has left the block
                return trio.from_thread.run(call, trio_token=self._token)
        raise RuntimeError("a CodeNode runs programs inside its with block only") from self._failure

    async def run_async(self, program: str | Path, items: Sequence[Item] = (), **around: Unpack[Around]) -> Result:
        """As `run`, for a test that runs under trio."""
        call = partial(self.run, program, items, **around)
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True)

    def _live(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:
            self._failure = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        async with open_code_node(self._settings) as node:
            self._token, self._stop = trio.lowlevel.current_trio_token(), trio.Event()
            await node.run("return 1")  # from here on it works, or says now why it does not
            self._node = node
            self._started.set()
            await self._stop.wait()
