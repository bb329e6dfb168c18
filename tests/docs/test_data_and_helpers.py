"""docs/data-and-helpers.md: every program in it gives the JSON that stands below it, and its tables are complete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.n8n_kit import HERE, FakeN8n, items, ran, result
from trio_runner.sandbox import helpers, mentions
from trio_runner.sandbox.channel import ChannelError
from trio_runner.sandbox.items import Input

TEXT = (Path(__file__).parent.parent.parent / "docs" / "data-and-helpers.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```\n\n```json\n(.*?)```", TEXT, re.DOTALL)


def n8n() -> FakeN8n:
    def fetch(options: dict[str, Any]) -> Any:
        if options["url"].endswith("/missing"):
            return ChannelError({"message": "Request failed with status code 404", "status": 404})
        if (name := options["url"].rpartition("/")[2]) in ("ada", "bob"):
            return {"name": name.title()}
        assert options == {
            "url": "https://api.example.com/users/7", "headers": {"X-Key": "k"}, "qs": {"full": 1},
        }  # fmt: skip
        return {"name": "Ada"}

    def prepare(buffer: dict[str, Any], name: str, mime_type: str) -> dict[str, str]:
        assert bytes(buffer["data"]) == b"HELLO"
        return {"fileName": name, "mimeType": mime_type, "id": "new"}

    customers = [
        {"json": {"id": 7, "name": "Ada"}, "pairedItem": {"item": 0}},
        {"json": {"id": 8, "name": "Alan"}, "pairedItem": {"item": 1}},
    ]
    return FakeN8n(
        {"Customers": [ran(customers)]},
        {"Customers": [[HERE]], "Never": [[HERE]]},
        params={"Customers": {"limit": 50}},
        calls={
            "helpers.httpRequest": fetch,
            "helpers.prepareBinaryData": prepare,
            "helpers.getBinaryDataBuffer": lambda *_: {"type": "Buffer", "data": list(b"hello")},
        },
        additionalData__variables={"region": "eu", "key": "k"},
    )


def test_every_program_has_its_result_below_it() -> None:
    assert len(PROGRAMS) == TEXT.count("```python") >= 7


@pytest.mark.parametrize(("program", "expected"), PROGRAMS)
def test_a_program_of_the_document_gives_what_it_says(program: str, expected: str) -> None:
    given = items({"price": 2, "amount": 3}, {"price": 5, "amount": 1})
    assert result(program, n8n(), given) == json.loads(expected)


@pytest.mark.parametrize("name", sorted(mentions.NAMES))
def test_every_name_is_in_the_document(name: str) -> None:
    assert re.search(rf"`{re.escape(name)}[`.(\[]", TEXT)


def test_every_helper_is_in_the_document() -> None:
    names = set(dir(helpers.make(n8n, Input(b"[]"))))
    twins = {name for name in names if name.endswith(("_async", "Async"))}
    shown = set(re.findall(r"\b\w+\b", TEXT))
    assert names - twins - shown == {"get_binary_data_buffer", "set_binary_data_buffer"}
