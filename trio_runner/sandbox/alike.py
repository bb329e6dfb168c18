"""The name that was probably meant, for errors.

Needs a module that may not be loaded and, in a sealed worker, cannot be: an error then goes without a suggestion.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

LONGEST: Final = 60
"""Characters of a name that are compared and shown."""


def closest(name: str, names: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The one of ``names`` that is most like ``name``, if any is like it."""
    try:
        from difflib import get_close_matches
    except ImportError:
        return None
    found = get_close_matches(name[:LONGEST], [each for each in names if len(each) <= LONGEST], n=1, cutoff=cutoff)
    return found[0] if found else None
