"""The execution vectors, grouped by the runner configuration they need, and where we differ on purpose."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

VECTORS: list[dict[str, Any]] = [
    vector
    for vector in json.loads((Path(__file__).parent.parent / "vectors.json").read_text())["execution"]
    if vector["holds"] != "dec2025"  # the newest rules contradict it: blocked string literals pass in December 2025
]

DELIBERATE: dict[str, str] = {
    "exec-037": "items can be read with dots, as in JavaScript",
    "exec-039": "n8n's names are there for Python, too",
    "exec-055": "code that awaits is run, so that what it awaits is looked for",
    "exec-056": "what a generator yields is the result: its address is of no use to anybody",
    "exec-079": "an exception without a message shows its type: n8n would show an empty error",
    "exec-095": "without validation, too, a syntax error carries the user's own line (the reference is one too far)",
    "exec-096": "without validation, too, a syntax error carries the user's own line (the reference is one too far)",
    "exec-107": "a worker that ends by its own SIGTERM was not cancelled; the signal is said instead",
    "exec-110": "what went to stderr stands below the traceback, not instead of it",
    "exec-126": "prints made before a failure arrive, also when continue-on-fail turns the failure into a result",
}
"""Vectors whose outcome we improve on; each has its expectation here instead of in the file."""

IMPROVED: dict[str, dict[str, Any]] = {
    "exec-037": {"expect": {"kind": "done", "result": {"n": 1}}},
    "exec-039": {"expect": {"kind": "done", "result": [{"json": {"n": 1}}, {"json": {"n": 2}}, {"json": {"n": 3}}]}},
    "exec-055": {"expect": {"kind": "error", "message": "name 'x' is not defined"}},
    "exec-056": {"expect": {"kind": "done", "result": [1]}},
    "exec-079": {"expect": {"kind": "error", "message": "ValueError"}},
    "exec-095": {"expect": {"kind": "error", "message": "invalid syntax (<all_items_task_execution>, line 1)"}},
    "exec-096": {"expect": {"kind": "error", "message": "invalid syntax (<per_item_task_execution>, line 1)"}},
    "exec-107": {"expect": {"kind": "done", "result": [{"json": {"error": "Task subprocess exited with code -15"}}]}},
    "exec-110": {
        "expect": {"kind": "error", "message": "bad", "descriptionContains": ["ValueError: bad", "stderr:\nwarned"]}
    },
    "exec-126": {"expect": {"kind": "done", "result": [{"json": {"error": "e"}}]}, "logs": [["'x'"]]},
}

CONFIG_VARIABLES = {
    "stdlibAllow": "N8N_RUNNERS_STDLIB_ALLOW",
    "externalAllow": "N8N_RUNNERS_EXTERNAL_ALLOW",
    "builtinsDeny": "N8N_RUNNERS_BUILTINS_DENY",
    "taskTimeout": "N8N_RUNNERS_TASK_TIMEOUT",
    "allowTransitive": "N8N_RUNNERS_ALLOW_TRANSITIVE_IMPORTS",
}


def environment(config: dict[str, Any]) -> dict[str, str]:
    """A vector's configuration as environment variables."""
    return {
        CONFIG_VARIABLES[name]: str(value).lower() if value is True else str(value) for name, value in config.items()
    }


def grouped() -> dict[str, list[dict[str, Any]]]:
    """Vectors by configuration: one runner serves a group."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for vector in VECTORS:
        groups.setdefault(json.dumps(vector["config"], sort_keys=True), []).append(vector)
    return groups


def problems(vector: dict[str, Any], outcome: dict[str, Any], logs: list[list[object]]) -> list[str]:
    """What is wrong with an outcome: ``{"result": …}`` or ``{"error": …}``."""
    improved = IMPROVED.get(vector["id"], {})
    expect = improved.get("expect", vector["expect"])
    found = []
    if logs != improved.get("logs", vector.get("logs", [])):
        found.append(f"logs {logs!r}")
    if expect["kind"] == "done":
        found += _result_problems(expect, outcome)
    elif "error" not in outcome:
        found.append(f"expected an error, got {outcome!r}")
    else:
        found += _error_problems(expect, outcome["error"])
    return [f"{vector['id']} ({vector['title']}): {problem}" for problem in found]


def _result_problems(expect: dict[str, Any], outcome: dict[str, Any]) -> list[str]:
    if "result" not in outcome:
        return [f"expected a result, got {outcome!r}"]
    got = outcome["result"]
    if "resultPattern" in expect:
        return [] if isinstance(got, str) and re.search(expect["resultPattern"], got) else [f"result {got!r}"]
    # 1 is not true and 1.0 is not 1 for a reader of JSON
    return (
        [] if json.dumps(got) == json.dumps(expect["result"]) or _same(got, expect["result"]) else [f"result {got!r}"]
    )


def _same(left: object, right: object) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def _error_problems(expect: dict[str, Any], error: dict[str, Any]) -> list[str]:
    found = []
    message, description = error.get("message"), error.get("description")
    if "message" in expect and message != expect["message"]:
        found.append(f"message {message!r}")
    found += [f"message {message!r} lacks {p!r}" for p in expect.get("messageContains", []) if p not in str(message)]
    # an empty description is the reference's "nothing more to say"; we say where it happened
    # below a refusal stands what the operator can do about it
    if expect.get("description") and str(description).partition("\n\n")[0] != expect["description"]:
        found.append(f"description {description!r}")
    parts = expect.get("descriptionContains", [])
    found += [f"description {description!r} lacks {part!r}" for part in parts if part not in str(description)]
    # where the reference says no more than that it is no Python, we show the line
    if expect.get("descriptionAbsent") and not str(description).startswith("Line "):
        found.append(f"description {description!r}")
    return found
