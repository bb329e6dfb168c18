"""Bytes as a list of choices: what makes one input mean the same to hypothesis, to a coverage-guided fuzzer and to a
file of the corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Reader:
    """Reads choices from the front. At the end every choice is the first one, and every text is empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether there is anything left."""
        return self._at < len(self._data)

    def byte(self) -> int:
        """A number below 256."""
        if not self:
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def below(self, count: int) -> int:
        """A number below ``count``, which is at most 256."""
        return self.byte() % count

    def flag(self) -> bool:
        """A yes or a no; mostly no."""
        return self.byte() % 4 == 3

    def pick(self, options: Sequence[T]) -> T:
        """One of at most 256."""
        return options[self.below(len(options))]

    def bytes(self) -> bytes:
        """A few bytes."""
        size = self.byte()
        self._at += size
        return self._data[self._at - size : self._at]

    def text(self) -> str:
        """A short text; what is no UTF-8 becomes lone surrogates."""
        return self.bytes().decode("utf-8", "surrogateescape")

    def rest(self) -> bytes:
        """All that is left."""
        data, self._at = self._data[self._at :], len(self._data)
        return data

    def pieces(self, data: bytes) -> list[bytes]:
        """``data`` cut at a few chosen places."""
        pieces: list[bytes] = []
        while data and self and len(pieces) < 50:
            size = 1 + self.byte() * (1 + self.byte() // 8)
            pieces.append(data[:size])
            data = data[size:]
        return [*pieces, data] if data else pieces
