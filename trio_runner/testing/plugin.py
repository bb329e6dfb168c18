"""Fixtures for pytest: ``pytest_plugins = ["trio_runner.testing.plugin"]`` in the topmost conftest.py.

Owns the fixtures and how long a runner lives: one for a whole run of pytest, and one for each other set of settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest

from trio_runner.testing.blocking import CodeNode

MakeCodeNode = Callable[[Mapping[str, str]], CodeNode]


@pytest.fixture(scope="session")
def code_node_settings() -> Mapping[str, str]:
    """The runner's environment variables. Define a fixture of this name in conftest.py to give the ones you use."""
    return {}


@pytest.fixture(scope="session")
def make_code_node() -> Iterator[MakeCodeNode]:
    """A function from settings to a `CodeNode`; the same settings give the same one."""
    made: dict[frozenset[tuple[str, str]], CodeNode] = {}
    with ExitStack() as stack:

        def make(settings: Mapping[str, str]) -> CodeNode:
            key = frozenset(settings.items())
            if key not in made:
                made[key] = stack.enter_context(CodeNode(settings))
            return made[key]

        yield make


@pytest.fixture(scope="session")
def code_node(make_code_node: MakeCodeNode, code_node_settings: Mapping[str, str]) -> CodeNode:
    """A `CodeNode` with the settings of ``code_node_settings``."""
    return make_code_node(code_node_settings)
