"""What an operator is told to do about a refusal."""

from __future__ import annotations

from trio_runner.sandbox import hints
from trio_runner.sandbox.policy import Confinement, Policy

STRICT = Confinement(mode="strict")


def test_each_kind_of_refusal_names_its_variable_once() -> None:
    text = hints.for_refusals(
        [
            "Import of standard library module 'os' is disallowed. Allowed stdlib modules: none",
            "Import of standard library module 're' is disallowed. Allowed stdlib modules: none",
            "Import of external package 'pandas' is disallowed. Allowed external packages: none",
            "Access to attribute '__class__' is disallowed, because it can be used to bypass security restrictions.",
        ]
    )
    assert text.count("N8N_RUNNERS_STDLIB_ALLOW") == 1
    assert text.count("N8N_RUNNERS_EXTERNAL_ALLOW") == 1
    assert text.count("N8N_RUNNERS_POLICY=relaxed") == 1
    assert hints.for_refusals([]) == ""


def test_a_denied_builtin_names_its_list_and_relaxed_only_where_that_would_help() -> None:
    policy = Policy()
    assert "relaxed" in hints.for_error(NameError("name 'getattr' is not defined", name="getattr"), policy, STRICT)
    opened = hints.for_error(NameError("name 'open' is not defined", name="open"), policy, STRICT)
    assert "N8N_RUNNERS_BUILTINS_DENY" in opened
    assert "relaxed" not in opened
    assert "To allow classes" in hints.for_error(NameError("__build_class__ not found"), policy, STRICT)


def test_an_ordinary_error_needs_no_advice() -> None:
    assert hints.for_error(NameError("name 'x' is not defined", name="x"), Policy(), STRICT) == ""
    assert hints.for_error(ValueError("13"), Policy(), STRICT) == ""
    assert hints.for_error(FileNotFoundError(2, "no such file"), Policy(), STRICT) == ""


def test_what_the_sandbox_refused_says_which_settings_grant_it_and_only_when_it_is_on() -> None:
    refused = PermissionError(13, "Permission denied")
    assert "N8N_RUNNERS_SANDBOX_READ" in hints.for_error(refused, Policy(), STRICT)
    assert hints.for_error(refused, Policy(), Confinement(mode="off")) == ""
