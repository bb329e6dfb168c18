"""Programs of Code nodes under test: run them as n8n would, without n8n, and look at what comes of it.

Owns what other people's tests import: these names stay. `plugin` has the fixtures and is the only part that needs
pytest. See docs/testing.md.
"""

from trio_runner.testing.blocking import CodeNode
from trio_runner.testing.node import AsyncCodeNode, CodeNodeError, NotItemsError, Result, open_code_node

__all__ = ["AsyncCodeNode", "CodeNode", "CodeNodeError", "NotItemsError", "Result", "open_code_node"]
