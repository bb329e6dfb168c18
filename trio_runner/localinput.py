"""What a program run without n8n is given, read from files and arguments: items, other nodes, variables, static data.

Owns the forms that these may have, and the texts about what cannot be read. Must not know the command line beyond the
names of its options, or run anything.
"""

from __future__ import annotations

import mimetypes
import sys
from base64 import b64encode
from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

Item = dict[str, Any]
_GLOBAL = "global"
_OF_NODE = "node:"


class InputError(Exception):
    """Something that was given cannot be used; the text is one sentence for the person who gave it."""


def read_bytes(source: str, option: str) -> bytes:
    """The content of a file, or of standard input for ``-``."""
    try:
        return sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"{option}: cannot read {source}: {error.strerror}") from None


def read_source(file: Path) -> str:
    """The text of a program; ``-`` is standard input. Raises `InputError`."""
    try:
        return read_bytes(str(file), "FILE").decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{file} is not UTF-8 text") from None


def read_json(source: str, option: str) -> Any:
    """The value of a JSON file; JSON Lines are a list of their values."""
    data = read_bytes(source, option).removeprefix(BOM_UTF8)
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        if b"\n" in data.strip():
            with suppress(msgspec.DecodeError):
                return msgspec.json.Decoder().decode_lines(data)
        raise InputError(f"{option}: {source} is not JSON: {error}") from None


def read_items(source: str, option: str) -> list[Item]:
    """n8n items: those of a JSON list, JSON Lines or a single object; plain objects are wrapped as n8n does."""
    items = read_json(source, option)
    items = items if isinstance(items, list) else [items]
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise InputError(f"{option}: element {number} is not an object, but {type(item).__name__}")
    return [item if isinstance(item.get("json"), dict) else {"json": item} for item in items]


def read_nodes(given: Iterable[str], option: str) -> dict[str, list[Item]]:
    """The items of other nodes, each as ``NAME=FILE``."""
    nodes: dict[str, list[Item]] = {}
    for text in given:
        name, file = _pair(text, option, "FILE")
        if name in nodes:
            raise InputError(f"{option}: {name!r} is given twice")
        nodes[name] = read_items(file, option)
    return nodes


def attach_binaries(items: list[Item], given: Iterable[str], option: str) -> list[Item]:
    """The items with files, each as ``PROPERTY=FILE``, as binary data of the first; without items there is one then."""
    binaries: dict[str, Any] = {}
    for text in given:
        name, file = _pair(text, option, "FILE")
        data, path = read_bytes(file, option), Path(file)
        binaries[name] = {
            "data": b64encode(data).decode(),
            "mimeType": mimetypes.guess_type(path.name)[0] or "application/octet-stream",
            "fileName": path.name,
            "fileExtension": path.suffix.removeprefix("."),
            "fileSize": f"{len(data)} B",
        }
    if not binaries:
        return items
    first, *others = items or [{"json": {}}]
    return [{**first, "binary": {**first.get("binary", {}), **binaries}}, *others]


def read_variables(text: str, option: str) -> dict[str, Any]:
    """n8n's variables: an object, or the list that n8n's API gives; JSON itself or the path of a file with it."""
    if text.lstrip().startswith(("{", "[")):
        try:
            found = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise InputError(f"{option}: this is not JSON: {error}") from None
    else:
        found = read_json(text, option)
    if isinstance(found, dict) and isinstance(found.get("data"), list):
        found = found["data"]
    if isinstance(found, list):
        if not all(isinstance(entry, dict) and {"key", "value"} <= entry.keys() for entry in found):
            raise InputError(f'{option}: a list must hold objects with "key" and "value", as n8n\'s API gives them')
        return {str(entry["key"]): entry["value"] for entry in found}
    if not isinstance(found, dict):
        raise InputError(f"{option}: this is not an object, but {type(found).__name__}")
    return found


def read_environment(given: Iterable[str], environ: Mapping[str, str], option: str) -> dict[str, str]:
    """Environment variables, each as ``NAME=VALUE``, or as ``NAME`` to pass on what is set here."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name:
            raise InputError(f"{option}: {text!r} is not NAME=VALUE or NAME")
        if not equals and name not in environ:
            raise InputError(f"{option}: {name} is not set here; give it as {name}=VALUE")
        found[name] = value if equals else environ[name]
    return found


def _pair(text: str, option: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not value:
        raise InputError(f"{option}: {text!r} is not NAME={what}" + ("" if equals else ": there is no = in it"))
    return name, value


class StaticData:
    """A workflow's static data in a file: an object, which is the workflow's, or n8n's own form with nodes' as well."""

    def __init__(self, path: Path, option: str, *, may_be_missing: bool) -> None:
        self.path = path
        self.option = option
        found = {} if may_be_missing and not path.exists() else read_json(str(path), option)
        if not isinstance(found, dict):
            raise InputError(f"{option}: {path} does not hold an object, but {type(found).__name__}")
        self._plain = not all(_is_n8n_key(key) for key in found)
        self.value: dict[str, Any] = {_GLOBAL: found} if self._plain else found

    def write(self, changed: Mapping[str, Any]) -> None:
        """Puts what a program changed into the file, in the form that it had. Raises `InputError`."""
        whole: dict[str, Any] = {**self.value, **changed}
        whole = whole.get(_GLOBAL, {}) if self._plain and whole.keys() <= {_GLOBAL} else whole
        beside = self.path.with_name(f"{self.path.name}.new")
        try:
            beside.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n")
            beside.replace(self.path)
        except OSError as error:
            raise InputError(f"{self.option}: cannot write {self.path}: {error.strerror}") from None


def _is_n8n_key(key: str) -> bool:
    return key == _GLOBAL or key.startswith(_OF_NODE)
