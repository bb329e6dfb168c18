"""Programs that await: what makes the program itself a coroutine, and what it runs under.

Owns that choice, from the source alone: trio when it imports trio, asyncio when it imports that or any package, which
may have a loop in mind. What imports neither can wait for nothing but n8n's answers, and those need no loop: then none
is imported. Must not know how code is compiled, or what a program returns.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Coroutine
from types import AsyncGeneratorType, CoroutineType
from typing import Any

from trio_runner.sandbox.frames import Loop

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def awaits(body: list[ast.stmt]) -> bool:
    """Whether these statements must stand in an ``async def``; what functions inside them do does not count."""
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
            return True
        if isinstance(node, ast.comprehension) and node.is_async:
            return True
        if not isinstance(node, _SCOPES):
            pending.extend(ast.iter_child_nodes(node))
        elif not isinstance(node, ast.Lambda):
            pending.extend(node.decorator_list)
    return False


def loop_of(source: str, tree: ast.Module) -> Loop:
    """What the coroutines of a program run under; empty when it has none."""
    if "async" not in source and "await" not in source:
        return ""
    found, asynchronous = set[str](), False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith | ast.AsyncFunctionDef | ast.comprehension):
            asynchronous = asynchronous or not isinstance(node, ast.comprehension) or bool(node.is_async)
    if not asynchronous:
        return ""
    if "trio" in found and "asyncio" not in found:
        return "trio"
    return "asyncio" if "asyncio" in found or not found <= sys.stdlib_module_names else "none"


def finished(value: Any, loop: Loop) -> Any:
    """What the program returned, run to its end if it is a coroutine; the list of it if it is an async generator.

    Each run has an event loop of its own: nothing that it leaves behind meets the next item.
    """
    if type(value) is AsyncGeneratorType:
        value = _collected(value)
    if type(value) is not CoroutineType:
        return value
    if loop == "trio":
        import importlib  # ours is a process without trio, unless the operator allows it to programs

        return importlib.import_module("trio").run(_awaited, value)
    if loop == "asyncio":
        import asyncio

        return asyncio.run(value)
    return _without_loop(value)


async def _collected(generator: AsyncGeneratorType[Any, None]) -> list[Any]:
    return [value async for value in generator]


async def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await coroutine


def _without_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine that waits for nothing: n8n's answers are waited for by the one who asks."""
    try:
        while (waited_for := coroutine.send(None)) is None:
            pass  # it lets others run, and there are none
        coroutine.throw(RuntimeError(f"Nothing runs that could wait for {type(waited_for).__name__}: import asyncio"))
    except StopIteration as done:
        return done.value
    raise RuntimeError("The program goes on waiting for what nothing runs for")
