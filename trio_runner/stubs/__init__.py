"""Type stubs of the names that user code finds, as files for somebody's editor.

Owns nothing that runs: `n8n_builtins.pyi` is what a checker reads. tests/test_stubs.py holds it against the real names.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

_NAME = "n8n_builtins.pyi"
_BUILTINS = (
    "# Pyright and Pylance take what stands here for builtins: n8n's names need no import.\n"
    "from n8n_builtins import *  # noqa: F403\n"
)


def write(folder: Path) -> list[Path]:
    """Writes the stubs into a folder, made if need be, and says which files. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {_NAME: files(__name__).joinpath(_NAME).read_text("utf-8"), "__builtins__.pyi": _BUILTINS}
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    return [folder / name for name in texts]
