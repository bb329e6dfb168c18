"""How many tasks may be in hand at once, across all sessions of this process.

Owns the one number that must never be exceeded. Must not know offers, brokers or time.
"""

from __future__ import annotations


class Slots:
    """Places for tasks. A place is taken when a task is accepted and given back when nothing of it is left."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.capacity = capacity
        self.taken = 0

    @property
    def free(self) -> int:
        """Places that a new task could have now."""
        return self.capacity - self.taken

    def take(self) -> bool:
        """Takes a place if there is one."""
        if self.taken >= self.capacity:
            return False
        self.taken += 1
        return True

    def release(self) -> None:
        """Gives a place back; giving back more than was taken is a bug of the caller and raises."""
        if self.taken == 0:
            raise RuntimeError("released a slot that was not taken")
        self.taken -= 1
