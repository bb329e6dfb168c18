"""``_execution.customData``: notes on an execution that n8n stores and its list of executions can be filtered by.

Owns the limits (protocol.md 10.1) and what was set. Must not know how it gets back to n8n.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from trio_runner.sandbox.hardened import facade

MAX_ENTRIES: Final = 10
MAX_KEY: Final = 50
MAX_VALUE: Final = 512
_KEY: Final = re.compile(r"[A-Za-z0-9_]+")


class CustomData:
    """What a program sets. ``before`` asks for what was set earlier in the execution."""

    def __init__(self, before: Callable[[], dict[str, str]]) -> None:
        self._ask = before
        self._before: dict[str, str] | None = None
        self.changed: dict[str, str] = {}

    def facade(self) -> object:
        """As user code finds it."""
        return facade(
            "_execution.customData",
            {
                "get": self.get, "set": self.set,
                "getAll": self.get_all, "get_all": self.get_all, "setAll": self.set_all, "set_all": self.set_all,
            },
        )  # fmt: skip

    def get(self, key: str) -> str | None:
        """One entry; None when there is none. Asks n8n unless it was set here."""
        return self.changed[key] if key in self.changed else self._earlier().get(key)

    def get_all(self) -> dict[str, str]:
        """All entries of the execution."""
        return self._earlier() | self.changed

    def set(self, key: str, value: object) -> None:
        """Sets one entry. Raises TypeError or ValueError for what n8n would not store."""
        if not isinstance(key, str) or not isinstance(value, str | int | float):
            raise TypeError("customData takes a text as key, and a text, number or boolean as value")
        if not _KEY.fullmatch(key) or len(key) > MAX_KEY:
            raise ValueError(
                f"a key of customData has 1 to {MAX_KEY} letters, digits and underscores, unlike {key!r:.80}"
            )
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if len(text) > MAX_VALUE:
            raise ValueError(
                f"a value of customData has at most {MAX_VALUE} characters; '{key}' would have {len(text)}"
            )
        if len({*self.changed, *(self._before or ()), key}) > MAX_ENTRIES:
            raise ValueError(f"an execution has at most {MAX_ENTRIES} entries of customData")
        self.changed[key] = text

    def set_all(self, entries: dict[str, Any]) -> None:
        """Sets several entries."""
        for key, value in entries.items():
            self.set(key, value)

    def _earlier(self) -> dict[str, str]:
        if self._before is None:
            self._before = self._ask()
        return self._before
