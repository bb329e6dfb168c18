"""Tiny wheels, made by hand: a zip with a module and three files about it. No build, no network."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def make_wheel(
    folder: Path, name: str, version: str = "1.0", requires: Iterable[str] = (), files: Mapping[str, str] | None = None
) -> Path:
    """A wheel with one package that knows its version, unless ``files`` say what is in it."""
    module = name.replace("-", "_")
    about = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    content = {
        **(files if files is not None else {f"{module}/__init__.py": f"VERSION = {version!r}\n"}),
        f"{about}/METADATA": metadata,
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*content, f"{about}/RECORD"])
    wheel = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in {**content, f"{about}/RECORD": record}.items():
            archive.writestr(path, text)
    return wheel


def program(body: str, *dependencies: str) -> str:
    """A program that asks for packages."""
    return f"# /// script\n# dependencies = {json.dumps(dependencies)}\n# ///\n{body}"
