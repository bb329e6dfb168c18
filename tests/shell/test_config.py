"""The environment as operators write it, and what they read when it is wrong (runner-behaviour 2)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_runner.config import (
    VARIABLES,
    BrokerAddress,
    Config,
    ConfigError,
    HealthConfig,
    Loaded,
    TracingConfig,
    health_url,
    load,
    without_secrets,
)
from trio_runner.protocol.requests import HELPERS, CallRules
from trio_runner.sandbox.policy import (
    DEFAULT_BUILTINS_DENY,
    RELAXED_BUILTINS_DENY,
    SAFE_STDLIB,
    Confinement,
    Policy,
)

SECRET = "s3cr3t-Zq8vLw"
AUTH = {"N8N_RUNNERS_AUTH_TOKEN": SECRET}
URI = "N8N_RUNNERS_TASK_BROKER_URI"


def read(**environ: str) -> Loaded:
    return load({**AUTH, **environ})


def config(**environ: str) -> Config:
    return read(**environ).config


def problems(**environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read(**environ)
    return caught.value.problems


def problem(**environ: str) -> str:
    (only,) = problems(**environ)
    return only


def warning(**environ: str) -> str:
    (only,) = read(**environ).warnings
    return only


# What is read


def test_an_environment_with_only_a_token_gives_the_defaults_of_the_reference() -> None:
    loaded = load({"N8N_RUNNERS_GRANT_TOKEN": "token"})
    assert loaded.warnings == ()
    assert msgspec.structs.asdict(loaded.config) == {
        "grant_token": "token",
        "auth_token": None,
        "broker_uri": "http://127.0.0.1:5679",
        "brokers": (BrokerAddress(scheme="http", host="127.0.0.1", port=5679, base_path="/runners"),),
        "dns_interval": 30,
        "broker_ca": "",
        "base_path": "/runners",
        "runner_id": None,
        "max_concurrency": 5,
        "max_payload": 1073741824,
        "task_timeout": 60,
        "auto_shutdown_timeout": 0,
        "graceful_shutdown_timeout": 10,
        "heartbeat_interval": 30,
        "policy": Policy(),
        "confinement": Confinement(memory=2048 * 1024 * 1024),
        "calls": CallRules(),
        "preload": None,
        "allow_transitive_imports": False,
        "packages": None,
        "health": None,
        "log_level": "INFO",
        "no_color": False,
        "log_json": False,
        "sentry_dsn": None,
        "n8n_version": "",
        "environment": "",
        "deployment_name": "",
        "tracing": None,
    }


def test_a_config_built_without_arguments_is_what_an_empty_environment_would_give() -> None:
    assert msgspec.structs.replace(config(), auth_token=None) == Config()


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("N8N_RUNNERS_ID", "runner-1", "runner_id", "runner-1"),
        ("N8N_RUNNERS_MAX_CONCURRENCY", "1000", "max_concurrency", 1000),
        ("N8N_RUNNERS_MAX_CONCURRENCY", "1", "max_concurrency", 1),
        ("N8N_RUNNERS_MAX_PAYLOAD", "4294967295", "max_payload", 4294967295),
        ("N8N_RUNNERS_TASK_TIMEOUT", "300", "task_timeout", 300),
        ("N8N_RUNNERS_TASK_TIMEOUT", " 1_000 ", "task_timeout", 1000),
        ("N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT", "15", "auto_shutdown_timeout", 15),
        ("N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT", "1", "graceful_shutdown_timeout", 1),
        ("N8N_RUNNERS_HEARTBEAT_INTERVAL", "7", "heartbeat_interval", 7),
        ("N8N_RUNNERS_TASK_BROKER_DNS_INTERVAL", "5", "dns_interval", 5),
        ("N8N_RUNNERS_ALLOW_TRANSITIVE_IMPORTS", "true", "allow_transitive_imports", True),
        ("N8N_RUNNERS_LAUNCHER_LOG_LEVEL", "debug", "log_level", "DEBUG"),
        ("N8N_RUNNERS_LAUNCHER_LOG_LEVEL", "Critical", "log_level", "CRITICAL"),
        ("N8N_RUNNERS_LAUNCHER_LOG_LEVEL", "", "log_level", "INFO"),
        ("N8N_RUNNERS_LOG_FORMAT", " JSON ", "log_json", True),
        ("NO_COLOR", "", "no_color", True),
        ("NO_COLOR", "0", "no_color", True),
        ("N8N_SENTRY_DSN", "https://k@sentry.example/1", "sentry_dsn", "https://k@sentry.example/1"),
        ("N8N_SENTRY_DSN", "", "sentry_dsn", None),
        ("N8N_VERSION", "2.41.0", "n8n_version", "2.41.0"),
        ("ENVIRONMENT", "staging", "environment", "staging"),
        ("DEPLOYMENT_NAME", "blue", "deployment_name", "blue"),
    ],
)
def test_a_variable_sets_its_field_and_nothing_else(variable: str, value: str, field: str, expected: object) -> None:
    loaded = read(**{variable: value})
    assert loaded == Loaded(msgspec.structs.replace(config(), **{field: expected}), ())


def test_health_is_configured_only_when_it_is_enabled() -> None:
    address = {"N8N_RUNNERS_HEALTH_CHECK_SERVER_HOST": "0.0.0.0", "N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT": "0"}
    assert config(**address).health is None
    enabled = config(**address, N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED="true")
    assert enabled.health == HealthConfig(host="0.0.0.0", port=0)
    assert config(N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED="true").health == HealthConfig(host="127.0.0.1", port=5681)


def test_the_status_page_belongs_to_the_health_server_and_is_off() -> None:
    enabled = {"N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED": "true"}
    page = {"N8N_RUNNERS_STATUS_PAGE": "true", "N8N_RUNNERS_STATUS_PAGE_HOSTS": "Runner.example, 10.0.0.1,"}
    off, on = config(**enabled).health, config(**enabled, **page).health
    assert off is not None
    assert (off.status_page, off.status_hosts) == (False, frozenset())
    assert on is not None
    assert (on.status_page, on.status_hosts) == (True, frozenset({"runner.example", "10.0.0.1"}))
    alone = read(**page)
    assert alone.config.health is None
    assert alone.warnings == (
        "N8N_RUNNERS_STATUS_PAGE: has no effect, because N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED is not true.",
    )


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:5681"),
        ({"HOST": "0.0.0.0", "PORT": "7"}, "http://127.0.0.1:7"),
        ({"HOST": "::"}, "http://[::1]:5681"),
        ({"HOST": "fd00::7"}, "http://[fd00::7]:5681"),
        ({"HOST": "10.0.0.1"}, "http://10.0.0.1:5681"),
    ],
)
def test_where_the_health_server_is_for_this_machine(environ: dict[str, str], url: str) -> None:
    named = {f"N8N_RUNNERS_HEALTH_CHECK_SERVER_{name}": value for name, value in environ.items()}
    assert health_url(named) == url


def test_an_empty_health_host_is_the_default_and_not_every_interface() -> None:
    loaded = read(N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED="true", N8N_RUNNERS_HEALTH_CHECK_SERVER_HOST="")
    assert loaded.config.health == HealthConfig(host="127.0.0.1", port=5681)
    assert "0.0.0.0" in loaded.warnings[0]


# Tokens


@pytest.mark.parametrize("environ", [{}, {"N8N_RUNNERS_GRANT_TOKEN": "", "N8N_RUNNERS_AUTH_TOKEN": ""}])
def test_without_a_token_the_problem_says_who_passes_it_and_what_to_set_instead(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ)
    assert str(caught.value) == (
        "Environment variable N8N_RUNNERS_GRANT_TOKEN is required. n8n or its launcher passes it; "
        "to run standalone set N8N_RUNNERS_AUTH_TOKEN to n8n's secret instead."
    )


def test_the_auth_token_wins_over_the_grant_token_with_a_warning() -> None:
    loaded = read(N8N_RUNNERS_GRANT_TOKEN="granted")
    assert (loaded.config.auth_token, loaded.config.grant_token) == (SECRET, None)
    (line,) = loaded.warnings
    assert line == "N8N_RUNNERS_GRANT_TOKEN: ignored, because N8N_RUNNERS_AUTH_TOKEN is set as well and wins."


def test_an_empty_auth_token_leaves_the_grant_token_in_use_without_a_warning() -> None:
    loaded = load({"N8N_RUNNERS_GRANT_TOKEN": "granted", "N8N_RUNNERS_AUTH_TOKEN": ""})
    assert (loaded.config.auth_token, loaded.config.grant_token, loaded.warnings) == (None, "granted", ())


# Traces


def test_without_a_word_about_traces_there_are_none() -> None:
    assert config(N8N_OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318", OTEL_SERVICE_NAME="x").tracing is None
    assert config(OTEL_EXPORTER_OTLP_ENDPOINT="").tracing is None


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_the_standard_variables_switch_traces_on_and_are_left_to_the_library(name: str) -> None:
    environ = {name: "http://collector:4318", "N8N_OTEL_ENABLED": "true"}
    assert config(**environ).tracing == TracingConfig()


def test_n8n_s_own_variables_for_traces_mean_the_same_here() -> None:
    assert config(N8N_OTEL_ENABLED="true").tracing == TracingConfig(
        endpoint="http://localhost:4318/v1/traces", sample_rate=1.0
    )
    assert config(
        N8N_OTEL_ENABLED="true",
        N8N_OTEL_EXPORTER_OTLP_ENDPOINT="https://collector/",
        N8N_OTEL_EXPORTER_OTLP_TRACING_PATH="otlp",
        N8N_OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer x",
        N8N_OTEL_TRACES_SAMPLE_RATE="0.25",
    ).tracing == TracingConfig(endpoint="https://collector/otlp", headers="authorization=Bearer x", sample_rate=0.25)


@pytest.mark.parametrize("rate", ["2", "-1", "half", "nan", ""])
def test_a_sample_rate_is_a_fraction(rate: str) -> None:
    assert "Set it to a number from 0 to 1." in problem(N8N_OTEL_ENABLED="true", N8N_OTEL_TRACES_SAMPLE_RATE=rate)


# Files


FILE_VARIABLES = sorted(variable.name for variable in VARIABLES.values() if variable.file)


def test_every_variable_but_the_log_level_and_those_of_others_can_be_given_as_a_file() -> None:
    others = {name for name in VARIABLES if name.startswith("OTEL_")}
    assert set(VARIABLES) - set(FILE_VARIABLES) == {
        "N8N_RUNNERS_LAUNCHER_LOG_LEVEL",
        "N8N_RUNNERS_REQUIREMENTS",  # the path of a file itself
        "NO_COLOR",
        *others,
    }
    assert VARIABLES["NO_COLOR"].spellings == ("NO_COLOR",)
    assert VARIABLES["ENVIRONMENT"].spellings == ("ENVIRONMENT", "ENVIRONMENT_FILE")


FILE_VALUES = {
    URI: "http://seven:7",
    "N8N_RUNNERS_PATH": "/seven",
    "N8N_RUNNERS_ALLOW_TRANSITIVE_IMPORTS": "true",
    "N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED": "false",
    "N8N_RUNNERS_STATUS_PAGE": "true",
    "N8N_BLOCK_RUNNER_ENV_ACCESS": "false",
    "N8N_RUNNERS_POLICY": "relaxed",
    "N8N_RUNNERS_VALUES": "friendly",
    "GENERIC_TIMEZONE": "Asia/Tokyo",
    "N8N_RUNNERS_SANDBOX": "off",
    "N8N_RUNNERS_SANDBOX_READ": "/seven",
    "N8N_RUNNERS_SANDBOX_WRITE": "/seven",
    "N8N_RUNNERS_SANDBOX_REQUIRE": "seccomp",
    "N8N_RUNNERS_SANDBOX_CGROUP": "/sys/fs/cgroup/seven",
    "N8N_RUNNERS_LOG_FORMAT": "json",
    "N8N_RUNNERS_INLINE_DEPENDENCIES": "seven>=7",
    "N8N_RUNNERS_INLINE_INDEX": "https://seven/simple",
    "N8N_RUNNERS_INLINE_WHEELS": "/seven",
    "N8N_RUNNERS_INLINE_CACHE": "/seven",
    "N8N_OTEL_ENABLED": "false",
    "N8N_OTEL_TRACES_SAMPLE_RATE": "0.5",
}


@pytest.mark.parametrize("name", FILE_VARIABLES)
def test_a_value_in_a_file_counts_like_the_plain_one_without_the_blanks_around_it(name: str, tmp_path: Path) -> None:
    value = FILE_VALUES.get(name, "7")
    file = tmp_path / "value"
    file.write_text(f"\n {value} \r\n", encoding="utf-8")
    enabled = dict.fromkeys(("N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED", "N8N_OTEL_ENABLED"), "true")
    base = {"N8N_RUNNERS_GRANT_TOKEN": "granted", "N8N_RUNNERS_INLINE_DEPENDENCIES": "allow", **enabled}
    rest = {other: text for other, text in base.items() if other != name}
    from_file = load({**rest, f"{name}_FILE": str(file)}).config
    assert from_file == load({**rest, name: value}).config
    assert from_file != load(base).config


def test_a_file_that_begins_with_a_byte_order_mark_holds_a_clean_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"\xef\xbb\xbftoken\n")
    assert load({"N8N_RUNNERS_AUTH_TOKEN_FILE": str(file)}).config.auth_token == "token"


def test_the_plain_variable_wins_over_the_file_even_when_it_is_empty(tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_text("from-file", encoding="utf-8")
    both = read(N8N_RUNNERS_ID="", N8N_RUNNERS_ID_FILE=str(file))
    assert both.config.runner_id is None
    assert both.warnings == (
        "N8N_RUNNERS_ID: N8N_RUNNERS_ID_FILE is ignored, because the variable itself is set and wins.",
    )
    with pytest.raises(ConfigError, match="N8N_RUNNERS_GRANT_TOKEN is required"):
        load({"N8N_RUNNERS_AUTH_TOKEN": "", "N8N_RUNNERS_AUTH_TOKEN_FILE": str(file)})


def test_the_plain_variable_wins_even_when_the_file_cannot_be_read() -> None:
    assert config(N8N_RUNNERS_TASK_TIMEOUT="9", N8N_RUNNERS_TASK_TIMEOUT_FILE="/nowhere/at/all").task_timeout == 9


def test_an_unreadable_file_is_a_problem_that_names_variable_path_and_reason(tmp_path: Path) -> None:
    not_text = tmp_path / "binary"
    not_text.write_bytes(b"\xff\xfe\x00")
    for path, reason in [
        (str(tmp_path / "missing"), "No such file or directory"),
        (str(tmp_path), "Is a directory"),
        (str(not_text), "it is not UTF-8 text"),
        ("/a\0b", "this cannot be a path"),
        ("", "Is a directory"),
    ]:
        text = problem(N8N_RUNNERS_ID_FILE=path)
        assert text.startswith(f"N8N_RUNNERS_ID_FILE={path!r}: Cannot read the file: {reason}. Correct the path")


def test_an_unreadable_token_file_is_the_only_problem_and_not_a_missing_token_as_well(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"N8N_RUNNERS_AUTH_TOKEN_FILE": str(tmp_path / "missing")})
    (only,) = caught.value.problems
    assert str(tmp_path / "missing") in only


def test_a_token_that_was_put_where_its_path_belongs_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"N8N_RUNNERS_AUTH_TOKEN_FILE": SECRET})
    assert "N8N_RUNNERS_AUTH_TOKEN_FILE='***'" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["N8N_RUNNERS_ID", "ENVIRONMENT", "N8N_RUNNERS_AUTH_TOKEN"])
def test_a_value_that_is_not_text_is_a_problem(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({**AUTH, name: "caf\udce9"})
    assert caught.value.problems == (f"{name}: The value is not UTF-8 text. Set it to text.",)


# Numbers


def asked(variable: str, value: str) -> str:
    return problem(**{variable: value})


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("N8N_RUNNERS_TASK_TIMEOUT", "0", "Task timeout must be positive, got 0."),
        ("N8N_RUNNERS_TASK_TIMEOUT", "-5", "Task timeout must be positive, got -5."),
        ("N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT", "-1", "Auto shutdown timeout must be non-negative, got -1."),
        ("N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT", "0", "Graceful shutdown timeout must be positive, got 0."),
        ("N8N_RUNNERS_HEARTBEAT_INTERVAL", "0", "Heartbeat interval must be positive, got 0."),
        ("N8N_RUNNERS_MAX_CONCURRENCY", "0", "Max concurrency must be positive, got 0."),
        ("N8N_RUNNERS_MAX_CONCURRENCY", "1001", "Max concurrency must be positive and at most 1000, got 1001."),
        ("N8N_RUNNERS_MAX_PAYLOAD", "0", "Max payload size must be positive, got 0."),
        (
            "N8N_RUNNERS_MAX_PAYLOAD",
            "4294967296",
            "Max payload size of 4294967296 bytes exceeds pipe message limit of 4294967295 bytes. "
            "Reduce N8N_RUNNERS_MAX_PAYLOAD.",
        ),
        (
            "N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT",
            "65536",
            "Invalid health check configuration: Port must be between 0 and 65535, got 65536.",
        ),
        (
            "N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT",
            "-1",
            "Invalid health check configuration: Port must be between 0 and 65535, got -1.",
        ),
    ],
)
def test_a_number_out_of_range_is_refused_in_the_words_of_the_reference(
    variable: str, value: str, message: str
) -> None:
    text = asked(variable, value)
    assert text.startswith(f"{variable}='{value}': {message} Set it to a number ")
    assert text.endswith(f", for example {VARIABLES[variable].default}.")


def test_a_problem_reads_as_variable_and_value_then_what_is_wrong_then_what_to_do() -> None:
    assert asked("N8N_RUNNERS_TASK_TIMEOUT", "0") == (
        "N8N_RUNNERS_TASK_TIMEOUT='0': Task timeout must be positive, got 0. "
        "Set it to a number of seconds above 0, for example 60."
    )


@pytest.mark.parametrize("variable", sorted(name for name, v in VARIABLES.items() if v.unit == "seconds"))
def test_a_time_that_no_clock_can_add_is_refused(variable: str) -> None:
    assert "and at most 315360000, got 1" in asked(variable, "1" + "0" * 400)


INTEGERS = [name for name, variable in VARIABLES.items() if variable.default.isdigit()]


@pytest.mark.parametrize("variable", INTEGERS)
@pytest.mark.parametrize("value", ["", "ten", "1.5", "60s", "1,000", "0x10", "9" * 5000])
def test_what_is_not_an_integer_is_refused_in_the_words_of_the_reference(variable: str, value: str) -> None:
    text = asked(variable, value)
    assert f"Environment variable {variable} must be an integer, got '{value}'" in text
    assert "without a fraction or a unit, for example" in text


def test_sixteen_variables_are_integers() -> None:
    assert len(INTEGERS) == 16  # guards the two tests above against an empty table


# Booleans


BOOLEANS = {
    "N8N_RUNNERS_ALLOW_TRANSITIVE_IMPORTS": lambda config: config.allow_transitive_imports,
    "N8N_BLOCK_RUNNER_ENV_ACCESS": lambda config: config.policy.block_env,
    "N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED": lambda config: config.health is not None,
}


@pytest.mark.parametrize("variable", BOOLEANS)
@pytest.mark.parametrize("value", ["true", "TRUE", " True\t"])
def test_only_the_word_true_in_any_case_means_true(variable: str, value: str) -> None:
    loaded = read(**{variable: value})
    assert BOOLEANS[variable](loaded.config) is True
    assert loaded.warnings == ()


@pytest.mark.parametrize("variable", BOOLEANS)
@pytest.mark.parametrize("value", ["false", "False", " no ", "0", "off"])
def test_a_word_that_means_false_is_false_without_a_warning(variable: str, value: str) -> None:
    loaded = read(**{variable: value})
    assert BOOLEANS[variable](loaded.config) is False
    assert loaded.warnings == ()


@pytest.mark.parametrize("variable", BOOLEANS)
@pytest.mark.parametrize("value", ["1", "yes", "ON", "ture"])
def test_what_looks_like_true_stays_false_as_in_the_reference_and_is_warned_about(variable: str, value: str) -> None:
    loaded = read(**{variable: value})
    assert BOOLEANS[variable](loaded.config) is False
    assert loaded.warnings == (f"{variable}: {value!r} means false: only 'true' means true. Set it to true or false.",)


def test_an_empty_boolean_is_false_and_warned_about_only_where_that_undoes_the_default() -> None:
    for variable, get in BOOLEANS.items():
        loaded = read(**{variable: ""})
        assert get(loaded.config) is False
        assert len(loaded.warnings) == (variable == "N8N_BLOCK_RUNNER_ENV_ACCESS")


# Lists


def test_lists_are_split_at_commas_stripped_and_keep_their_case() -> None:
    policy = config(
        N8N_RUNNERS_STDLIB_ALLOW=" json ,, math,\tre\n,",
        N8N_RUNNERS_EXTERNAL_ALLOW="PIL, numpy",
        N8N_RUNNERS_BUILTINS_DENY="eval , exec",
    ).policy
    assert policy == Policy(
        stdlib_allow=frozenset({"json", "math", "re"}),
        external_allow=frozenset({"PIL", "numpy"}),
        builtins_deny=frozenset({"eval", "exec"}),
    )


def test_an_empty_deny_list_denies_nothing_while_an_unset_one_denies_the_default() -> None:
    assert config(N8N_RUNNERS_BUILTINS_DENY="").policy.builtins_deny == frozenset()
    assert config().policy.builtins_deny == DEFAULT_BUILTINS_DENY


@pytest.mark.parametrize("variable", ["N8N_RUNNERS_STDLIB_ALLOW", "N8N_RUNNERS_EXTERNAL_ALLOW"])
def test_a_wildcard_stands_alone_in_an_allowlist(variable: str) -> None:
    module = "json" if "STDLIB" in variable else "numpy"
    assert read(**{variable: "*"}).warnings == ()
    assert config(**{variable: " *, *,"}) == config(**{variable: "*"})
    assert problem(**{variable: f"{module},*"}) == (
        f"{variable}='{module},*': Wildcard '*' in {variable} must be used alone, not with other modules. "
        f"Got: *, {module}. Remove the wildcard, or everything else."
    )


def test_both_wildcards_switch_the_source_checks_off() -> None:
    assert not config(N8N_RUNNERS_STDLIB_ALLOW="*", N8N_RUNNERS_EXTERNAL_ALLOW="*").policy.source_checks


@pytest.mark.parametrize(
    ("variable", "entry", "reason"),
    [
        ("STDLIB", "os.path", "only top-level names do. Put 'os' into N8N_RUNNERS_STDLIB_ALLOW instead"),
        ("EXTERNAL", "google.cloud", "only top-level names do. Put 'google' into N8N_RUNNERS_EXTERNAL_ALLOW instead"),
        ("EXTERNAL", "os.path", "only top-level names do. Put 'os' into N8N_RUNNERS_STDLIB_ALLOW instead"),
        ("EXTERNAL", "json", "it is a standard library module. Put it into N8N_RUNNERS_STDLIB_ALLOW instead"),
        ("STDLIB", "pandas", "it is not a standard library module. Put it into N8N_RUNNERS_EXTERNAL_ALLOW instead"),
        ("EXTERNAL", "scikit-learn", "it is not a module name as an import statement has it"),
        ("STDLIB", "json math", "it is not a module name as an import statement has it"),
        ("STDLIB", ".os", "it is not a module name as an import statement has it"),
    ],
)
def test_an_allowlist_entry_that_never_matches_is_warned_about(variable: str, entry: str, reason: str) -> None:
    name = f"N8N_RUNNERS_{variable}_ALLOW"
    assert warning(**{name: entry}) == f"{name}: {entry!r} never matches, because {reason}."


@pytest.mark.parametrize("entry", ["evel", "*"])
def test_a_deny_list_entry_that_is_no_builtin_is_warned_about(entry: str) -> None:
    expected = f"N8N_RUNNERS_BUILTINS_DENY: {entry!r} is not the name of a builtin and denies nothing."
    assert warning(N8N_RUNNERS_BUILTINS_DENY=f"open,print,{entry}") == expected


def test_a_level_that_does_not_exist_is_info_with_a_warning() -> None:
    loaded = read(N8N_RUNNERS_LAUNCHER_LOG_LEVEL="warn")
    assert loaded.config.log_level == "INFO"
    assert loaded.warnings == (
        "N8N_RUNNERS_LAUNCHER_LOG_LEVEL: 'warn' is no level: INFO is used. "
        "Set it to DEBUG, INFO, WARNING, ERROR or CRITICAL.",
    )


# Brokers


@pytest.mark.parametrize(
    ("uri", "url", "secure", "label"),
    [
        ("http://127.0.0.1:5679", "http://127.0.0.1:5679/runners/auth", False, "127.0.0.1:5679"),
        ("HTTP://N8N:5679/", "http://n8n:5679/runners/auth", False, "n8n:5679"),
        ("ws://my_n8n:1", "http://my_n8n:1/runners/auth", False, "my_n8n:1"),
        ("wss://n8n.example", "https://n8n.example:443/runners/auth", True, "n8n.example:443"),
        ("https://n8n:65535", "https://n8n:65535/runners/auth", True, "n8n:65535"),
        ("http://n8n", "http://n8n:80/runners/auth", False, "n8n:80"),
        ("http://[::1]:5679", "http://[::1]:5679/runners/auth", False, "[::1]:5679"),
        (" http://n8n:5679 ", "http://n8n:5679/runners/auth", False, "n8n:5679"),
        ("http://proxy:80/n8n/", "http://proxy:80/n8n/runners/auth", False, "proxy:80"),
        ("http://n8n:5679/runners", "http://n8n:5679/runners/auth", False, "n8n:5679"),
        ("http://n8n:5679/my-runners", "http://n8n:5679/my-runners/runners/auth", False, "n8n:5679"),
    ],
)
def test_a_broker_uri_becomes_an_address(uri: str, url: str, secure: bool, label: str) -> None:
    (broker,) = config(**{URI: uri}).brokers
    assert (broker.http_url("/auth"), broker.secure, broker.label) == (url, secure, label)
    assert url.removesuffix("/auth").endswith(broker.websocket_path.removesuffix("/_ws"))


@pytest.mark.parametrize(
    ("uri", "label", "secure", "port"),
    [
        ("dns+http://n8n-worker:5679", "dns+n8n-worker:5679", False, 5679),
        ("DNS+HTTPS://n8n.example", "dns+n8n.example:443", True, 443),
        ("dns+ws://n8n/", "dns+n8n:80", False, 80),
        ("dns+wss://n8n:5679/runners", "dns+n8n:5679", True, 5679),
    ],
)
def test_a_name_may_stand_for_every_broker_behind_it(uri: str, label: str, secure: bool, port: int) -> None:
    loaded = read(**{URI: uri})
    (name,) = loaded.config.brokers
    assert loaded.warnings == ()
    assert (name.every, name.label, name.secure, name.port) == (True, label, secure, port)
    assert loaded.config.several_brokers
    one = name.at("10.0.0.7")
    assert (one.every, one.address, one.host) == (False, "10.0.0.7", name.host)
    assert one.label == f"10.0.0.7:{port} ({name.host})"
    assert one.name == name.name == label
    assert one.authority == f"{name.host}:{port}", "for the Host header it stays the name"
    assert one.http_url("/auth") == name.http_url("/auth")
    assert name.at("fd00::7").label == f"[fd00::7]:{port} ({name.host})"


def test_one_broker_is_not_several() -> None:
    assert not config().several_brokers
    assert config(**{URI: "http://a:1,http://b:1"}).several_brokers


@pytest.mark.parametrize("uri", ["http://a:1,http://b:1", "dns+http://a:1"])
def test_a_grant_token_is_for_one_broker(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"N8N_RUNNERS_GRANT_TOKEN": "token", URI: uri})
    assert caught.value.problems == (
        f"{URI}={uri!r}: A grant token is good for one connection with one broker. "
        "Set N8N_RUNNERS_AUTH_TOKEN instead of N8N_RUNNERS_GRANT_TOKEN, or name one broker.",
    )
    assert read(**{URI: uri}).config.several_brokers


def test_authorities_that_no_connection_uses_are_warned_about() -> None:
    loaded = read(N8N_RUNNERS_TASK_BROKER_CA="/etc/ca.pem", **{URI: "http://a:1"})
    assert loaded.warnings == (
        "N8N_RUNNERS_TASK_BROKER_CA: has no effect, because no broker is reached by https or wss.",
    )
    assert read(N8N_RUNNERS_TASK_BROKER_CA="/etc/ca.pem", **{URI: "https://a:1"}).warnings == ()


def test_an_ipv6_host_is_kept_without_its_brackets() -> None:
    assert config(**{URI: "http://[::1]:5679"}).brokers[0].host == "::1"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("", "The scheme must be http, https, ws or wss"),
        (" , ", "The scheme must be http, https, ws or wss"),
        ("127.0.0.1:5679", "The scheme must be http, https, ws or wss"),
        ("n8n:5679", "The scheme must be http, https, ws or wss"),
        ("ftp://n8n:5679", "The scheme must be http, https, ws or wss"),
        ("http://", "The host is missing"),
        ("http://:5679", "The host is missing"),
        ("http://n8n broker:5679", "The host holds a character that no host name has"),
        ("http://bücher:5679", "The host holds a character that no host name has"),
        ("http://n8n:0", "Port 0 cannot be connected to"),
        ("http://n8n:65536", "Port out of range"),
        ("http://n8n:port", "Port could not be cast"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://n8n:5679/a b", "The path holds a character that must be percent-encoded"),
    ],
)
def test_a_broker_uri_that_cannot_be_used_is_refused_with_the_reason_and_an_example(uri: str, reason: str) -> None:
    text = problem(**{URI: uri})
    assert text.startswith(f"{URI}={uri.strip(' ,')!r}: {reason}")
    assert text.endswith("Write it like http://127.0.0.1:5679.")


@pytest.mark.parametrize(
    "uri", [f"http://user:{SECRET}@n8n", f"http://u:a,{SECRET}@n8n", f"http://n8n?t=a,{SECRET}", f"http://n8n#{SECRET}"]
)
def test_a_broker_uri_with_credentials_is_refused_without_repeating_them(uri: str) -> None:
    text = problem(**{URI: uri})
    assert text.startswith(f"{URI}: The URI must not hold a user name, a password, a query or a fragment.")
    assert SECRET not in text


def test_several_brokers_are_split_at_commas_and_each_bad_one_is_a_problem() -> None:
    loaded = read(**{URI: "http://a:1, https://b:2 ,,ws://a:1"})
    assert [broker.label for broker in loaded.config.brokers] == ["a:1", "b:2"]
    assert loaded.warnings == (f"{URI}: a:1 is named more than once and counts once.",)
    first, second = problems(**{URI: "http://a:1,b,c"})
    assert (first[:31], second[:31]) == (f"{URI}='b'", f"{URI}='c'")


@pytest.mark.parametrize(
    ("path", "uri", "websocket_path"),
    [
        ("/runners", "http://n8n", "/runners/_ws"),
        ("/custom/", "http://n8n", "/custom/_ws"),
        ("/a/b//", "http://n8n", "/a/b/_ws"),
        ("/", "http://n8n", "/_ws"),
        ("/custom", "http://n8n/proxy", "/proxy/custom/_ws"),
        ("/a%20b", "http://n8n", "/a%20b/_ws"),
    ],
)
def test_the_base_path_follows_the_path_of_the_uri(path: str, uri: str, websocket_path: str) -> None:
    loaded = config(**{"N8N_RUNNERS_PATH": path, URI: uri})
    assert loaded.brokers[0].websocket_path == websocket_path
    assert loaded.base_path == path.rstrip("/")


@pytest.mark.parametrize("path", ["", "runners", "http://n8n/runners", "/run ners", "/r?x", "/é", "/a\nb"])
def test_a_base_path_that_no_request_can_carry_is_refused(path: str) -> None:
    assert problem(N8N_RUNNERS_PATH=path) == (
        f"N8N_RUNNERS_PATH={path!r}: The path must start with '/' and be percent-encoded. "
        "Set it to the same value as on n8n, for example /runners."
    )


# Names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("N8N_RUNNERS_TIMOUT", "N8N_RUNNERS_TASK_TIMEOUT"),
        ("N8N_RUNNERS_CONCURRENCY", "N8N_RUNNERS_MAX_CONCURRENCY"),
        ("N8N_RUNNERS_STDLIB_ALOW", "N8N_RUNNERS_STDLIB_ALLOW"),
        ("N8N_RUNNERS_AUTH_TOKN_FILE", "N8N_RUNNERS_AUTH_TOKEN_FILE"),
        ("N8N_RUNNER_TASK_TIMEOUT", "N8N_RUNNERS_TASK_TIMEOUT"),
        ("N8N_BLOCK_RUNNERS_ENV_ACCESS", "N8N_BLOCK_RUNNER_ENV_ACCESS"),
        ("n8n_runners_task_timeout", "N8N_RUNNERS_TASK_TIMEOUT"),
    ],
)
def test_a_misspelt_variable_is_warned_about_with_the_one_that_was_meant(name: str, meant: str) -> None:
    text = f"{name} is not a variable of this runner and has no effect. Did you mean {meant}?"
    assert warning(**{name: SECRET}) == text


def test_an_unknown_variable_with_our_prefix_is_warned_about_without_a_guess() -> None:
    assert warning(N8N_RUNNERS_QQ="1") == "N8N_RUNNERS_QQ is not a variable of this runner and has no effect."


FOREIGN = """
    N8N_RUNNERS_ENABLED N8N_RUNNERS_MODE N8N_RUNNERS_BROKER_LISTEN_ADDRESS N8N_RUNNERS_BROKER_PORT
    N8N_RUNNERS_GRANT_TOKEN_TTL N8N_RUNNERS_TASK_REQUEST_TIMEOUT N8N_RUNNERS_TASK_ACCEPT_TIMEOUT
    N8N_RUNNERS_CONFIG_PATH N8N_RUNNERS_CONFIG_PATH_FILE N8N_RUNNERS_SHUTDOWN_FORCE_KILL_MARGIN
    N8N_RUNNERS_LAUNCHER_HEALTH_CHECK_PORT N8N_RUNNERS_LAUNCHER_LOG_LEVEL_FILE
    N8N_RUNNERS_LAUNCHER_BROKER_READINESS_POLL_INTERVAL_MS N8N_RUNNERS_LAUNCHER_GRACEFUL_SHUTDOWN_TIMEOUT
    N8N_RUNNERS_MAX_OLD_SPACE_SIZE N8N_RUNNERS_INSECURE_MODE SENTRY_DSN N8N_PYTHON_ENABLED N8N_RUNNER_ENV_ALLOW
    N8N_GRACEFUL_SHUTDOWN_TIMEOUT N8N_PORT N8N_BLOCK_ENV_ACCESS_IN_NODE PATH HOME LANG TZ TERM NO_COLOUR
"""


@pytest.mark.parametrize("name", FOREIGN.split())
def test_variables_of_others_are_passed_over_in_silence(name: str) -> None:
    assert read(**{name: "x"}) == read()


def test_an_ordinary_environment_costs_no_import_of_difflib_and_no_trio() -> None:
    program = (
        "import sys; from trio_runner.config import load; "
        "load({'N8N_RUNNERS_AUTH_TOKEN': 'x', 'PATH': '/bin', 'N8N_RUNNERS_MODE': 'external'}); "
        "print([m for m in ('difflib', 'trio', 'urllib.request', 'dataclasses') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "[]\n"


SPECIFIED = """
    N8N_RUNNERS_GRANT_TOKEN N8N_RUNNERS_AUTH_TOKEN N8N_RUNNERS_TASK_BROKER_URI N8N_RUNNERS_PATH N8N_RUNNERS_ID
    N8N_RUNNERS_MAX_CONCURRENCY N8N_RUNNERS_MAX_PAYLOAD N8N_RUNNERS_TASK_TIMEOUT N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT
    N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT N8N_RUNNERS_HEARTBEAT_INTERVAL N8N_RUNNERS_STDLIB_ALLOW
    N8N_RUNNERS_EXTERNAL_ALLOW N8N_RUNNERS_ALLOW_TRANSITIVE_IMPORTS N8N_RUNNERS_BUILTINS_DENY
    N8N_BLOCK_RUNNER_ENV_ACCESS N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED N8N_RUNNERS_HEALTH_CHECK_SERVER_HOST
    N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT N8N_RUNNERS_STATUS_PAGE N8N_RUNNERS_STATUS_PAGE_HOSTS
    N8N_RUNNERS_LAUNCHER_LOG_LEVEL NO_COLOR N8N_SENTRY_DSN N8N_VERSION
    ENVIRONMENT DEPLOYMENT_NAME
    GENERIC_TIMEZONE
    N8N_RUNNERS_POLICY N8N_RUNNERS_VALUES N8N_RUNNERS_SANDBOX N8N_RUNNERS_SANDBOX_REQUIRE N8N_RUNNERS_SANDBOX_READ
    N8N_RUNNERS_SANDBOX_WRITE N8N_RUNNERS_SANDBOX_CONNECT N8N_RUNNERS_TASK_MEMORY N8N_RUNNERS_TASK_CPU
    N8N_RUNNERS_PRELOAD N8N_RUNNERS_SANDBOX_CGROUP N8N_RUNNERS_LOG_FORMAT
    OTEL_EXPORTER_OTLP_ENDPOINT OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_EXPORTER_OTLP_HEADERS
    OTEL_EXPORTER_OTLP_TRACES_HEADERS N8N_OTEL_ENABLED N8N_OTEL_EXPORTER_OTLP_ENDPOINT
    N8N_OTEL_EXPORTER_OTLP_TRACING_PATH N8N_OTEL_EXPORTER_OTLP_HEADERS N8N_OTEL_TRACES_SAMPLE_RATE
    N8N_RUNNERS_TASK_BROKER_DNS_INTERVAL N8N_RUNNERS_TASK_BROKER_CA
    N8N_RUNNERS_HELPERS_ALLOW N8N_RUNNERS_DATA_ALLOW
    N8N_RUNNERS_REQUIREMENTS N8N_RUNNERS_INLINE_DEPENDENCIES N8N_RUNNERS_INLINE_INDEX N8N_RUNNERS_INLINE_WHEELS
    N8N_RUNNERS_INLINE_CACHE N8N_RUNNERS_INLINE_CACHE_SIZE N8N_RUNNERS_INLINE_ENVIRONMENTS N8N_RUNNERS_INLINE_BUILDS
    N8N_RUNNERS_INLINE_BUILD_TIMEOUT N8N_RUNNERS_INLINE_BUILD_SIZE N8N_RUNNERS_INLINE_WAIT
"""


def test_the_table_names_every_variable_of_the_specification_with_a_meaning() -> None:
    assert set(VARIABLES) == set(SPECIFIED.split())
    assert all(name == variable.name and variable.meaning for name, variable in VARIABLES.items())


# What programs may ask n8n for


@pytest.mark.parametrize(
    ("helpers", "allowed"),
    [
        ("*", HELPERS),
        ("httpRequest, helpers.binaryToString", {"httpRequest", "binaryToString"}),
        ("none", frozenset()),
        ("", frozenset()),
    ],
)
def test_helpers_are_allowed_by_name_with_or_without_their_prefix(helpers: str, allowed: frozenset[str]) -> None:
    loaded = read(N8N_RUNNERS_HELPERS_ALLOW=helpers)
    assert loaded.config.calls.helpers == allowed
    assert loaded.warnings == ()


def test_data_is_allowed_by_kind() -> None:
    assert config().calls.data == {"workflow", "input", "nodes", "env"}
    assert config(N8N_RUNNERS_DATA_ALLOW="input,nodes").calls.data == {"input", "nodes"}
    assert config(N8N_RUNNERS_DATA_ALLOW="none").calls.data == frozenset()


def test_an_unknown_helper_allows_nothing_and_is_warned_about() -> None:
    text = warning(N8N_RUNNERS_HELPERS_ALLOW="httpRequest,getBinaryStream")
    assert text.startswith("N8N_RUNNERS_HELPERS_ALLOW: 'getBinaryStream' allows nothing. What can be allowed: assert")


# The sandbox


def test_auto_means_strict_until_something_is_allowed_that_needs_sockets() -> None:
    assert config(N8N_RUNNERS_STDLIB_ALLOW="json,re", N8N_RUNNERS_EXTERNAL_ALLOW="pandas").confinement.mode == "strict"
    assert config(N8N_RUNNERS_STDLIB_ALLOW="json,ssl").confinement.mode == "network"
    assert config(N8N_RUNNERS_EXTERNAL_ALLOW="requests").confinement.mode == "network"
    assert config(N8N_RUNNERS_EXTERNAL_ALLOW="*").confinement.mode == "network"
    assert config(N8N_RUNNERS_EXTERNAL_ALLOW="*", N8N_RUNNERS_SANDBOX="strict").confinement.mode == "strict"
    assert config(N8N_RUNNERS_SANDBOX="OFF").confinement.mode == "off"


def test_grants_limits_and_required_layers_are_lists_and_numbers() -> None:
    confinement = config(
        N8N_RUNNERS_SANDBOX_READ="/data, /srv",
        N8N_RUNNERS_SANDBOX_WRITE="/out",
        N8N_RUNNERS_SANDBOX_CONNECT="443, 8443",
        N8N_RUNNERS_SANDBOX_REQUIRE="seccomp,landlock-files",
        N8N_RUNNERS_TASK_MEMORY="256",
        N8N_RUNNERS_TASK_CPU="9",
    ).confinement
    assert confinement == Confinement(
        read=("/data", "/srv"),
        write=("/out",),
        connect_ports=(443, 8443),
        require=("landlock-files", "seccomp"),
        memory=256 * 1024 * 1024,
        cpu=9,
    )


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("N8N_RUNNERS_SANDBOX", "maybe", "auto, strict, network, off"),
        ("N8N_RUNNERS_POLICY", "loose", "compat, relaxed"),
        ("N8N_RUNNERS_VALUES", "nice", "compat, friendly"),
        ("N8N_RUNNERS_SANDBOX_READ", "data", "'data' is not an absolute path"),
        ("N8N_RUNNERS_SANDBOX_REQUIRE", "landlock", "'landlock' is not a layer. The layers are: session,"),
        ("N8N_RUNNERS_SANDBOX_CONNECT", "https", "Not a list of ports"),
        ("N8N_RUNNERS_SANDBOX_CONNECT", "70000", "Not a list of ports"),
        ("N8N_RUNNERS_TASK_MEMORY", "2g", "must be an integer"),
        ("N8N_RUNNERS_SANDBOX_CGROUP", "tasks", "auto, off or an absolute path"),
    ],
)
def test_a_sandbox_setting_that_cannot_be_meant_is_a_problem_with_a_remedy(
    variable: str, value: str, said: str
) -> None:
    assert said in problem(**{variable: value})


def test_safe_stands_for_the_modules_without_input_and_output_beside_other_names() -> None:
    loaded = read(N8N_RUNNERS_STDLIB_ALLOW="@safe,os")
    assert loaded.config.policy.stdlib_allow == SAFE_STDLIB | {"os"}
    assert loaded.config.confinement.mode == "strict"
    assert loaded.warnings == ()


def test_results_are_as_the_reference_writes_them_unless_they_shall_be_friendly() -> None:
    assert not config().policy.friendly
    assert config(N8N_RUNNERS_VALUES=" Friendly ").policy.friendly


def test_the_time_zone_of_the_instance_is_a_known_one() -> None:
    assert config().policy.timezone == ""
    assert config(GENERIC_TIMEZONE="Europe/Berlin").policy.timezone == "Europe/Berlin"
    odd = read(GENERIC_TIMEZONE="Berlin")
    assert odd.config == config()
    assert odd.warnings == ("GENERIC_TIMEZONE: 'Berlin' is not the name of a time zone; the machine's counts instead.",)


def test_relaxed_gives_the_language_back_unless_a_deny_list_is_set() -> None:
    policy = config(N8N_RUNNERS_POLICY="relaxed").policy
    assert (policy.relaxed, policy.builtins_deny) == (True, RELAXED_BUILTINS_DENY)
    own = config(N8N_RUNNERS_POLICY="relaxed", N8N_RUNNERS_BUILTINS_DENY="len").policy
    assert own.builtins_deny == frozenset({"len"})


def test_preload_is_a_choice_of_names_or_none_or_what_is_allowed() -> None:
    assert config().preload is None
    assert config(N8N_RUNNERS_PRELOAD="none").preload == ()
    assert config(N8N_RUNNERS_PRELOAD="pandas, numpy").preload == ("numpy", "pandas")


# Errors and secrets


def test_all_problems_are_told_at_once_one_per_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"N8N_RUNNERS_TASK_TIMEOUT": "0", URI: "n8n", "N8N_RUNNERS_PATH": "a\nb", "N8N_RUNNERS_ID_FILE": "/a\0b"})
    lines = str(caught.value).splitlines()
    assert [line[:2] for line in lines] == ["- "] * 5
    assert [line[2:] for line in lines] == list(caught.value.problems)


def test_a_single_problem_has_no_bullet() -> None:
    with pytest.raises(ConfigError) as caught:
        load({})
    assert str(caught.value) == caught.value.problems[0]


def test_a_module_name_with_a_line_break_stays_on_one_line() -> None:
    text = problem(N8N_RUNNERS_STDLIB_ALLOW="*,a\nb\u2028c")
    assert r"Got: *, a\nb\u2028c." in text


def test_tokens_and_the_sentry_address_are_masked_wherever_a_config_is_shown() -> None:
    secrets = {name: f"{SECRET}-{name}" for name, variable in VARIABLES.items() if variable.secret}
    tokens = {"N8N_RUNNERS_GRANT_TOKEN", "N8N_RUNNERS_AUTH_TOKEN", "N8N_SENTRY_DSN"}
    headers = {"N8N_OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"}
    assert set(secrets) == tokens | headers | {"N8N_RUNNERS_INLINE_INDEX"}
    secrets["N8N_RUNNERS_INLINE_INDEX"] = f"https://name:{SECRET}@index/simple"
    secrets |= {"N8N_OTEL_ENABLED": "true", "N8N_RUNNERS_INLINE_DEPENDENCIES": "allow"}
    for environ in (secrets, {**secrets, "N8N_RUNNERS_AUTH_TOKEN": ""}):
        loaded = load(environ)
        shown = [repr(loaded), str(loaded.config), repr(loaded.config.__rich_repr__()), repr(loaded.config.describe())]
        assert all(SECRET not in text and "***" in text for text in shown)


def test_a_description_keeps_what_is_not_secret() -> None:
    described = config(N8N_RUNNERS_TASK_TIMEOUT="61").describe()
    assert (described["auth_token"], described["grant_token"], described["task_timeout"]) == ("***", None, 61)
    assert repr(Config(task_timeout=61)).startswith("Config(grant_token=None, auth_token=None, broker_uri='http")


def test_an_environment_without_secrets_keeps_everything_else_and_is_a_copy() -> None:
    kept = {"PATH": "/bin", "N8N_RUNNERS_TASK_TIMEOUT": "1", "N8N_VERSION": "2"}
    secrets = {spelling: "x" for variable in VARIABLES.values() if variable.secret for spelling in variable.spellings}
    environ = {**secrets, **kept}
    assert without_secrets(environ) == kept
    assert environ == {**secrets, **kept}
    assert len(secrets) == 12


SPELLINGS = sorted(spelling for variable in VARIABLES.values() for spelling in variable.spellings)
TOKENS = sorted(name for name, variable in VARIABLES.items() if variable.secret)
VALUES = st.one_of(
    st.text(st.characters()),
    st.integers().map(str),
    st.sampled_from(
        ["true", "*", "*,os", "http://[", "http://n8n:5679", "https://a/b,ws://c", "json,os.path", "//", "/"]
    ),
    st.lists(st.sampled_from("/:[]@?#%,.*_-é\n\0 19ah"), max_size=12).map("".join),
    st.text(alphabet="/:[]%1a", max_size=12).map("http://".__add__),
)
ENVIRONMENTS = st.dictionaries(st.sampled_from(SPELLINGS) | st.text().map("N8N_RUNNERS_".__add__), VALUES)


@given(ENVIRONMENTS)
def test_any_text_gives_a_config_or_a_config_error_and_texts_of_one_line_each(environ: dict[str, str]) -> None:
    try:
        loaded = load(environ)
    except ConfigError as error:
        lines = error.problems
        assert lines
    else:
        lines = loaded.warnings
        assert loaded.config.brokers
    for line in lines:
        assert len(line.splitlines()) == 1
        line.encode()


@given(ENVIRONMENTS, st.sets(st.sampled_from(TOKENS), min_size=1))
def test_no_secret_is_ever_shown(environ: dict[str, str], tokens: set[str]) -> None:
    environ |= dict.fromkeys(tokens, SECRET)
    try:
        loaded = load(environ)
    except ConfigError as error:
        shown = f"{error} {error!r}"
    else:
        shown = repr(loaded)
    assert SECRET not in shown
