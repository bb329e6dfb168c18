"""What the operator decided: environment variables, checked once, as one frozen ``Config``.

Owns every environment variable name of the runner (no other module writes one), the ``<NAME>_FILE`` indirection and the
texts about configuration (runner-behaviour 2). Must not read ``os.environ`` (cli hands in a mapping), log or open
sockets; all it touches are the files that ``_FILE`` variables name.

One timeout truth: ``Config.task_timeout`` is the only limit on a task's run time.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from trio_runner.protocol.requests import DATA, HELPERS, PREFIX, CallRules
from trio_runner.sandbox.policy import (
    ALL,
    DEFAULT_BUILTINS_DENY,
    RELAXED_BUILTINS_DENY,
    SAFE,
    SAFE_STDLIB,
    Confinement,
    Policy,
)
from trio_runner.sandbox.records import LAYERS


class Variable(msgspec.Struct, frozen=True):
    """One environment variable; ``default`` is written as an operator would write it, empty for none."""

    name: str
    default: str
    meaning: str
    unit: str = ""
    file: bool = True
    secret: bool = False

    @property
    def file_name(self) -> str:
        """The variable that gives the path of a file with the value, if ``file``."""
        return f"{self.name}_FILE"

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every name under which the value may be given."""
        return (self.name, self.file_name) if self.file else (self.name,)


_declared: dict[str, Variable] = {}

VARIABLES: Final[Mapping[str, Variable]] = MappingProxyType(_declared)
"""Every variable of this runner by name: parsing, the search for typos and documentation all start from here."""


def _var(name: str, default: str, meaning: str, unit: str = "", *, file: bool = True, secret: bool = False) -> Variable:
    return _declared.setdefault(name, Variable(name, default, meaning, unit, file, secret))


GRANT_TOKEN = _var("N8N_RUNNERS_GRANT_TOKEN", "", "single-use token, passed by n8n or its launcher", secret=True)
AUTH_TOKEN = _var("N8N_RUNNERS_AUTH_TOKEN", "", "n8n's secret, with which a runner gets its own tokens", secret=True)
BROKER_URI = _var(
    "N8N_RUNNERS_TASK_BROKER_URI",
    "http://127.0.0.1:5679",
    "task brokers, split by commas; dns+http://name:port = every address behind the name",
)
DNS_INTERVAL = _var("N8N_RUNNERS_TASK_BROKER_DNS_INTERVAL", "30", "time between two lookups of a dns+ name", "seconds")
BROKER_CA = _var(
    "N8N_RUNNERS_TASK_BROKER_CA", "", "authorities to trust for https besides the system's: a PEM file's path, or PEM"
)
BASE_PATH = _var("N8N_RUNNERS_PATH", "/runners", "base path of the broker's endpoints, the same as on n8n")
RUNNER_ID = _var("N8N_RUNNERS_ID", "", "id of this runner; empty = a random one")
MAX_CONCURRENCY = _var("N8N_RUNNERS_MAX_CONCURRENCY", "5", "tasks that run at the same time", "tasks")
MAX_PAYLOAD = _var("N8N_RUNNERS_MAX_PAYLOAD", "1073741824", "largest message", "bytes")
TASK_TIMEOUT = _var("N8N_RUNNERS_TASK_TIMEOUT", "60", "longest run of one task", "seconds")
IDLE_TIMEOUT = _var("N8N_RUNNERS_AUTO_SHUTDOWN_TIMEOUT", "0", "idle time until the runner ends; 0 = never", "seconds")
GRACE = _var("N8N_RUNNERS_GRACEFUL_SHUTDOWN_TIMEOUT", "10", "longest wait for tasks at shutdown", "seconds")
HEARTBEAT = _var("N8N_RUNNERS_HEARTBEAT_INTERVAL", "30", "time between the runner's own pings", "seconds")
STDLIB_ALLOW = _var(
    "N8N_RUNNERS_STDLIB_ALLOW", "", "standard modules for user code; * = all, @safe = those without I/O"
)
EXTERNAL_ALLOW = _var("N8N_RUNNERS_EXTERNAL_ALLOW", "", "third-party packages for user code; * = all, empty = none")
TRANSITIVE = _var("N8N_RUNNERS_ALLOW_TRANSITIVE_IMPORTS", "false", "packages may import what user code may not")
BUILTINS_DENY = _var(
    "N8N_RUNNERS_BUILTINS_DENY", ",".join(sorted(DEFAULT_BUILTINS_DENY)), "builtins kept from user code; empty = none"
)
POLICY = _var("N8N_RUNNERS_POLICY", "compat", "compat: refuse what n8n's runner refuses; relaxed: the whole language")
VALUES = _var(
    "N8N_RUNNERS_VALUES",
    "compat",
    "results: compat: as n8n's runner writes them; friendly: dates, tables… as JSON",
)
TIMEZONE = _var("GENERIC_TIMEZONE", "", "zone of _now where a workflow has none, as on n8n; empty = the machine's")
SANDBOX = _var("N8N_RUNNERS_SANDBOX", "auto", "what the kernel lets a task do: auto, strict, network or off")
SANDBOX_REQUIRE = _var("N8N_RUNNERS_SANDBOX_REQUIRE", "", "layers without which the runner does not start")
SANDBOX_READ = _var("N8N_RUNNERS_SANDBOX_READ", "", "paths that tasks may read, split by commas")
SANDBOX_WRITE = _var("N8N_RUNNERS_SANDBOX_WRITE", "", "paths that tasks may read and write, split by commas")
SANDBOX_CONNECT = _var("N8N_RUNNERS_SANDBOX_CONNECT", "53,443", "TCP ports that tasks may connect to in network")
SANDBOX_CGROUP = _var(
    "N8N_RUNNERS_SANDBOX_CGROUP", "auto", "cgroup v2 folder for workers; auto = ours if delegated; off"
)
TASK_MEMORY = _var("N8N_RUNNERS_TASK_MEMORY", "2048", "memory of one task's own; 0 = no limit", "MiB")
TASK_CPU = _var("N8N_RUNNERS_TASK_CPU", "0", "processor time of one task; 0 = as the task timeout", "seconds")
PRELOAD = _var("N8N_RUNNERS_PRELOAD", "auto", "modules imported ahead: auto (what is allowed by name), none, or names")
REQUIREMENTS = _var(
    "N8N_RUNNERS_REQUIREMENTS", "", "file of requirements that are installed for all programs at start", file=False
)
INLINE = _var(
    "N8N_RUNNERS_INLINE_DEPENDENCIES",
    "none",
    "packages that programs may ask for (PEP 723): none, allow, or requirements like pandas>=2,requests",
)
INLINE_INDEX = _var(
    "N8N_RUNNERS_INLINE_INDEX", "", "package index to install from; empty = the installer's own", secret=True
)
INLINE_WHEELS = _var(
    "N8N_RUNNERS_INLINE_WHEELS", "", "folder of wheels to install from; without an index nothing else is asked"
)
INLINE_CACHE = _var("N8N_RUNNERS_INLINE_CACHE", "", "folder for environments; empty = one in the user's cache")
INLINE_CACHE_SIZE = _var("N8N_RUNNERS_INLINE_CACHE_SIZE", "4096", "room for environments on disk", "MiB")
INLINE_ENVIRONMENTS = _var("N8N_RUNNERS_INLINE_ENVIRONMENTS", "4", "environments that are kept warm", "environments")
INLINE_BUILDS = _var("N8N_RUNNERS_INLINE_BUILDS", "2", "environments that are built at the same time", "builds")
INLINE_BUILD_TIMEOUT = _var("N8N_RUNNERS_INLINE_BUILD_TIMEOUT", "300", "longest build of an environment", "seconds")
INLINE_BUILD_SIZE = _var("N8N_RUNNERS_INLINE_BUILD_SIZE", "1024", "largest environment", "MiB")
INLINE_WAIT = _var("N8N_RUNNERS_INLINE_WAIT", "45", "longest wait of a task for its environment", "seconds")
BLOCK_ENV = _var("N8N_BLOCK_RUNNER_ENV_ACCESS", "true", "hide the environment from user code")
HELPERS_ALLOW = _var(
    "N8N_RUNNERS_HELPERS_ALLOW", ALL, "n8n's helpers for user code, like httpRequest; * = all, none = none"
)
DATA_ALLOW = _var(
    "N8N_RUNNERS_DATA_ALLOW", ALL, "n8n's data for user code, of workflow, input, nodes, env; * = all, none = none"
)
HEALTH_ENABLED = _var("N8N_RUNNERS_HEALTH_CHECK_SERVER_ENABLED", "false", "answer health checks over HTTP")
HEALTH_HOST = _var("N8N_RUNNERS_HEALTH_CHECK_SERVER_HOST", "127.0.0.1", "address the health server listens on")
HEALTH_PORT = _var("N8N_RUNNERS_HEALTH_CHECK_SERVER_PORT", "5681", "its port; 0 = chosen by the system")
STATUS_PAGE = _var("N8N_RUNNERS_STATUS_PAGE", "false", "live status page at / of the health server, for this machine")
STATUS_HOSTS = _var(
    "N8N_RUNNERS_STATUS_PAGE_HOSTS", "", "names of this server under which others may open the page, too; * = any"
)
LOG_LEVEL = _var("N8N_RUNNERS_LAUNCHER_LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING, ERROR or CRITICAL", file=False)
LOG_FORMAT = _var("N8N_RUNNERS_LOG_FORMAT", "text", "text: as n8n's runner; json: one object a line, with ids")
NO_COLOR = _var("NO_COLOR", "", "plain log lines; counts as soon as it is set, even when empty", file=False)
SENTRY_DSN = _var("N8N_SENTRY_DSN", "", "where errors are reported; empty = nowhere", secret=True)
N8N_VERSION = _var("N8N_VERSION", "", "Sentry tag")
ENVIRONMENT = _var("ENVIRONMENT", "", "Sentry tag")
DEPLOYMENT_NAME = _var("DEPLOYMENT_NAME", "", "Sentry tag")
OTEL_ENDPOINT = _var("OTEL_EXPORTER_OTLP_ENDPOINT", "", "where traces go, over OTLP/HTTP; empty = nowhere", file=False)
OTEL_TRACES_ENDPOINT = _var("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "", "the same, with its path", file=False)
OTEL_HEADERS = _var("OTEL_EXPORTER_OTLP_HEADERS", "", "what to send along, name=value,…", file=False, secret=True)
OTEL_TRACES_HEADERS = _var("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "", "the same, for traces", file=False, secret=True)
N8N_OTEL = _var("N8N_OTEL_ENABLED", "false", "trace tasks to where n8n's own traces go")
N8N_OTEL_ENDPOINT = _var("N8N_OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318", "n8n's own, for the above")
N8N_OTEL_PATH = _var("N8N_OTEL_EXPORTER_OTLP_TRACING_PATH", "/v1/traces", "n8n's own, for the above")
N8N_OTEL_HEADERS = _var("N8N_OTEL_EXPORTER_OTLP_HEADERS", "", "n8n's own, for the above", secret=True)
N8N_OTEL_SAMPLE_RATE = _var("N8N_OTEL_TRACES_SAMPLE_RATE", "1.0", "n8n's own, for the above")

CONNECTION: Final = frozenset(
    spelling
    for variable in (
        *(GRANT_TOKEN, AUTH_TOKEN, BROKER_URI, DNS_INTERVAL, BROKER_CA, BASE_PATH, RUNNER_ID),
        *(HEALTH_ENABLED, MAX_CONCURRENCY),
    )
    for spelling in variable.spellings
)
"""What a run without n8n does not take from the environment: where the broker is and how to be let in."""

_KNOWN = {spelling for variable in _declared.values() for spelling in variable.spellings}
_PREFIX = "N8N_RUNNERS_"
# What n8n, its launcher and the JavaScript runner call theirs under our prefix: they may stand in our environment and
# are none of our business (protocol 2, deployment 3.1). The launcher's have a prefix of their own.
_LAUNCHER_PREFIX = f"{_PREFIX}LAUNCHER_"
_FOREIGN = {
    *("N8N_RUNNERS_ENABLED", "N8N_RUNNERS_MODE", "N8N_RUNNERS_BROKER_LISTEN_ADDRESS", "N8N_RUNNERS_BROKER_PORT"),
    *("N8N_RUNNERS_GRANT_TOKEN_TTL", "N8N_RUNNERS_TASK_REQUEST_TIMEOUT", "N8N_RUNNERS_TASK_ACCEPT_TIMEOUT"),
    *("N8N_RUNNERS_CONFIG_PATH", "N8N_RUNNERS_SHUTDOWN_FORCE_KILL_MARGIN", "N8N_RUNNERS_MAX_OLD_SPACE_SIZE"),
    "N8N_RUNNERS_INSECURE_MODE",
}

_PIPE_LIMIT = 4294967295  # of the reference's worker pipe; kept so that a value is good or bad for both runners
_TOO_BIG = (
    f"Max payload size of {{}} bytes exceeds pipe message limit of {_PIPE_LIMIT} bytes. Reduce {MAX_PAYLOAD.name}"
)
_MAX_CONCURRENCY = 1000  # each slot is a process: beyond this it is a typing error, not a machine
_LONGEST = 10 * 365 * 24 * 3600  # seconds: more was meant in another unit, and too much overflows a clock
_MODES: Mapping[str, Literal["strict", "network", "off"]] = {"strict": "strict", "network": "network", "off": "off"}
_LOG_LEVELS = frozenset(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))
_MEANT_FALSE = frozenset(("false", "0", "no", "off", "n", "f"))
_SCHEMES: Mapping[str, Literal["http", "https"]] = {"http": "http", "ws": "http", "https": "https", "wss": "https"}
_EVERY = "dns+"
# The underscore is not legal in a host name, yet container networks use it.
_HOST_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-._:")


MIB: Final = 1024 * 1024


class ConfigError(Exception):
    """The environment cannot be used as it is. Fatal: the process ends with code 1 (runner-behaviour 3).

    ``problems`` holds every problem that was found, each on one line and without any secret.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        bullet = "- " if len(self.problems) > 1 else ""
        return "\n".join(f"{bullet}{problem}" for problem in self.problems)


class BrokerAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where one broker listens. ``host`` and ``address`` are bare: no brackets around an IPv6 address."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    base_path: str = BASE_PATH.default
    every: bool = False
    """Whether all brokers behind the name are meant: one at each address that it has (`at`)."""
    address: str | None = None
    """Where to connect to, when ``host`` is only the name for the Host header and for TLS."""

    def at(self, address: str) -> BrokerAddress:
        """The one broker that listens at this address."""
        return msgspec.structs.replace(self, every=False, address=address)

    @property
    def secure(self) -> bool:
        """Whether the connection uses TLS. n8n's broker has none: then a proxy stands in front (protocol 2.1)."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """``host:port`` as in a Host header, IPv6 addresses in brackets."""
        return _host_and_port(self.host, self.port)

    @property
    def name(self) -> str:
        """What the configuration calls it: the same for all brokers behind one name."""
        return f"{_EVERY}{self.authority}" if self.every or self.address is not None else self.authority

    @property
    def label(self) -> str:
        """What this one broker is called in the log and in `/readyz`."""
        return self.name if self.address is None else f"{_host_and_port(self.address, self.port)} ({self.host})"

    @property
    def websocket_path(self) -> str:
        """The path of the WebSocket upgrade request."""
        return f"{self.base_path}/_ws"

    def http_url(self, path: str) -> str:
        """The address of an endpoint below the base path: ``/auth`` gives ``http://127.0.0.1:5679/runners/auth``."""
        return f"{self.scheme}://{self.authority}{self.base_path}{path}"


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parse_broker(uri: str, base_path: str) -> BrokerAddress:
    """Take a broker URI apart; raises ``ValueError`` with the reason.

    The reference ignores the scheme and drops the path. Here ``https`` and ``wss`` mean TLS, and a path is a prefix for
    brokers behind a proxy: ``http://host/n8n`` and ``/runners`` give ``/n8n/runners``. A URI that already ends with the
    base path works with the reference, so it is not added twice.
    """
    parts = urlsplit(uri)
    every = parts.scheme.startswith(_EVERY)
    if (scheme := _SCHEMES.get(parts.scheme.removeprefix(_EVERY))) is None:
        raise ValueError(
            f"The scheme must be http, https, ws or wss, with {_EVERY} in front for every address of a name"
        )
    if not (host := parts.hostname):
        raise ValueError("The host is missing")
    if not _HOST_CHARACTERS.issuperset(host):
        raise ValueError("The host holds a character that no host name has")
    port = parts.port if parts.port is not None else {"http": 80, "https": 443}[scheme]
    if port == 0:
        raise ValueError("Port 0 cannot be connected to")
    path = parts.path.rstrip("/").removesuffix(base_path) + base_path
    if not _is_url_path(path):
        raise ValueError("The path holds a character that must be percent-encoded")
    return BrokerAddress(scheme=scheme, host=host, port=port, base_path=path, every=every)


def _is_url_path(path: str) -> bool:
    return path.isascii() and path.isprintable() and not set(path) & set(' "#<>?\\')


class HealthConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the health server listens; port 0 lets the system choose. ``status_hosts`` are in lower case."""

    host: str
    port: int
    status_page: bool = False
    status_hosts: frozenset[str] = frozenset()


class TracingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where spans go. Without an endpoint the standard variables say so, and the library reads those by itself."""

    endpoint: str | None = None
    headers: str = ""
    sample_rate: float | None = None


class PackagesConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Packages that the runner installs by itself, for programs that ask for them (`inline`) or for all of them.

    ``inline`` is None when programs may not ask, ``()`` when they may ask for anything. Sizes are bytes.
    """

    inline: tuple[str, ...] | None = None
    requirements: str = ""
    index: str = ""
    wheels: str = ""
    cache: str
    cache_size: int = int(INLINE_CACHE_SIZE.default) * MIB
    environments: int = int(INLINE_ENVIRONMENTS.default)
    builds: int = int(INLINE_BUILDS.default)
    build_timeout: int = int(INLINE_BUILD_TIMEOUT.default)
    build_size: int = int(INLINE_BUILD_SIZE.default) * MIB
    wait: int = int(INLINE_WAIT.default)
    opens_network: bool = True
    """Whether the sandbox's mode follows from what the operator allows by name (``auto``)."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the runner was told. Times are seconds, sizes are bytes; VARIABLES says what each field means."""

    grant_token: str | None = None
    auth_token: str | None = None
    broker_uri: str = BROKER_URI.default
    brokers: tuple[BrokerAddress, ...] = (_parse_broker(BROKER_URI.default, BASE_PATH.default),)
    dns_interval: int = int(DNS_INTERVAL.default)
    broker_ca: str = ""
    base_path: str = BASE_PATH.default
    runner_id: str | None = None
    max_concurrency: int = int(MAX_CONCURRENCY.default)
    max_payload: int = int(MAX_PAYLOAD.default)
    task_timeout: int = int(TASK_TIMEOUT.default)
    auto_shutdown_timeout: int = int(IDLE_TIMEOUT.default)
    graceful_shutdown_timeout: int = int(GRACE.default)
    heartbeat_interval: int = int(HEARTBEAT.default)
    policy: Policy = Policy()
    confinement: Confinement = Confinement(memory=int(TASK_MEMORY.default) * MIB)
    calls: CallRules = CallRules()
    preload: tuple[str, ...] | None = None
    """None: whatever is allowed by name."""
    allow_transitive_imports: bool = False
    packages: PackagesConfig | None = None
    """None when nothing is ever installed."""
    health: HealthConfig | None = None
    log_level: str = LOG_LEVEL.default
    no_color: bool = False
    log_json: bool = False
    sentry_dsn: str | None = None
    n8n_version: str = ""
    environment: str = ""
    deployment_name: str = ""
    tracing: TracingConfig | None = None

    @property
    def several_brokers(self) -> bool:
        """Whether there may be more than one connection at a time."""
        return len(self.brokers) > 1 or any(broker.every for broker in self.brokers)

    def describe(self) -> dict[str, object]:
        """Every field by name, with secrets as ``***``: fit for a log, a report or a screen."""
        described = msgspec.structs.asdict(self)
        for secret in ("grant_token", "auth_token", "sentry_dsn"):
            described[secret] = described[secret] and "***"
        if self.tracing is not None and self.tracing.headers:
            described["tracing"] = msgspec.structs.replace(self.tracing, headers="***")
        if self.packages is not None and self.packages.index:
            described["packages"] = msgspec.structs.replace(self.packages, index="***")
        return described

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{name}={value!r}' for name, value in self.describe().items())})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        # msgspec brings one of its own, which would show the secrets in a rich traceback.
        return list(self.describe().items())


class Loaded(msgspec.Struct, frozen=True):
    """A usable configuration, and what is odd about it: one line per warning, without any secret."""

    config: Config
    warnings: tuple[str, ...]


def load(environ: Mapping[str, str]) -> Loaded:
    """Check ``environ`` and turn it into a ``Config``. Raises ``ConfigError`` with every problem at once.

    Blocking: reads the files that ``_FILE`` variables name.
    """
    read = _Reader(environ)
    grant_token, auth_token = read.tokens()
    broker_uri, base_path = read.text(BROKER_URI), read.base_path()
    brokers = read.brokers(broker_uri, base_path, one_only=grant_token is not None)
    policy = read.policy()
    config = Config(
        grant_token=grant_token,
        auth_token=auth_token,
        broker_uri=broker_uri,
        brokers=brokers,
        dns_interval=read.integer(DNS_INTERVAL, "DNS interval must be positive"),
        broker_ca=read.broker_ca(brokers),
        base_path=base_path,
        runner_id=read.text(RUNNER_ID) or None,
        max_concurrency=read.integer(MAX_CONCURRENCY, "Max concurrency must be positive", high=_MAX_CONCURRENCY),
        max_payload=read.integer(MAX_PAYLOAD, "Max payload size must be positive", high=_PIPE_LIMIT, beyond=_TOO_BIG),
        task_timeout=read.integer(TASK_TIMEOUT, "Task timeout must be positive"),
        auto_shutdown_timeout=read.integer(IDLE_TIMEOUT, "Auto shutdown timeout must be non-negative", low=0),
        graceful_shutdown_timeout=read.integer(GRACE, "Graceful shutdown timeout must be positive"),
        heartbeat_interval=read.integer(HEARTBEAT, "Heartbeat interval must be positive"),
        policy=policy,
        confinement=read.confinement(policy),
        calls=CallRules(helpers=read.known(HELPERS_ALLOW, HELPERS), data=read.known(DATA_ALLOW, DATA)),
        preload=read.preload(),
        allow_transitive_imports=read.boolean(TRANSITIVE),
        packages=read.packages(),
        health=read.health(),
        log_level=read.log_level(),
        no_color=NO_COLOR.name in environ,
        log_json=read.one_of(LOG_FORMAT, ("text", "json")) == "json",
        sentry_dsn=read.text(SENTRY_DSN) or None,
        n8n_version=read.text(N8N_VERSION),
        environment=read.text(ENVIRONMENT),
        deployment_name=read.text(DEPLOYMENT_NAME),
        tracing=read.tracing(),
    )
    if read.problems:
        raise ConfigError(tuple(map(_one_line, read.problems)))
    return Loaded(config, tuple(map(_one_line, [*read.warnings, *_unknown_variables(environ)])))


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """A copy of ``environ`` without tokens, the Sentry address, and the paths of files that hold them."""
    secrets = {spelling for variable in VARIABLES.values() if variable.secret for spelling in variable.spellings}
    return {name: value for name, value in environ.items() if name not in secrets}


class _Reader:
    """Reads variables; a bad one is noted in ``problems`` and read as its default, so that all bad ones are found."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def problem(self, variable: Variable, value: str, text: str) -> None:
        self.problems.append(f"{variable.name}={value!r}: {text}")

    def warn(self, variable: Variable, text: str) -> None:
        self.warnings.append(f"{variable.name}: {text}")

    def text(self, variable: Variable) -> str:
        """The variable as soon as it is set, even to nothing; else the content of its file; else its default."""
        value = self.environ.get(variable.name)
        path = self.environ.get(variable.file_name) if variable.file else None
        if value is None:
            return variable.default if path is None else self.content(variable, path)
        if path is not None:
            self.warn(variable, f"{variable.file_name} is ignored, because the variable itself is set and wins.")
        try:
            value.encode()
        except UnicodeEncodeError:  # bytes of the environment that are no text would fail much later, in a log line
            self.problems.append(f"{variable.name}: The value is not UTF-8 text. Set it to text.")
            return variable.default
        return value

    def content(self, variable: Variable, path: str) -> str:
        from pathlib import Path

        try:
            # -sig: some editors begin a file with a mark, which would make a token wrong without being visible
            return Path(path).read_text(encoding="utf-8-sig").strip()
        except OSError as error:
            reason = error.strerror or type(error).__name__
        except UnicodeDecodeError:
            reason = "it is not UTF-8 text"
        except ValueError:
            reason = "this cannot be a path"
        # Who puts a token where its path belongs should not find it in a log.
        shown = "***" if variable.secret and not path.startswith(("/", "./", "../")) else path
        self.problems.append(
            f"{variable.file_name}={shown!r}: Cannot read the file: {reason}. "
            f"Correct the path or the file's permissions, or set {variable.name} itself."
        )
        return variable.default

    def tokens(self) -> tuple[str | None, str | None]:
        """The grant token and the auth token, one of them None. Must be read before anything else."""
        grant, auth = self.text(GRANT_TOKEN), self.text(AUTH_TOKEN)
        if grant and auth:
            self.warn(GRANT_TOKEN, f"ignored, because {AUTH_TOKEN.name} is set as well and wins.")
            grant = ""
        if not grant and not auth and not self.problems:  # an earlier problem says already why there is none
            self.problems.append(
                f"Environment variable {GRANT_TOKEN.name} is required. n8n or its launcher passes it; "
                f"to run standalone set {AUTH_TOKEN.name} to n8n's secret instead."
            )
        return grant or None, auth or None

    def base_path(self) -> str:
        text = self.text(BASE_PATH)
        if not text.startswith("/") or not _is_url_path(text):
            remedy = f"Set it to the same value as on n8n, for example {BASE_PATH.default}."
            self.problem(BASE_PATH, text, f"The path must start with '/' and be percent-encoded. {remedy}")
            return BASE_PATH.default
        return text.rstrip("/")

    def brokers(self, text: str, base_path: str, *, one_only: bool) -> tuple[BrokerAddress, ...]:
        if set(text) & set("@?#"):  # the value is not repeated: it may hold a password
            self.problems.append(
                f"{BROKER_URI.name}: The URI must not hold a user name, a password, a query or a fragment. "
                f"Write it like {BROKER_URI.default}."
            )
            return ()
        brokers: list[BrokerAddress] = []
        for uri in [part.strip() for part in text.split(",") if part.strip()] or [""]:
            try:
                broker = _parse_broker(uri, base_path)
            except ValueError as error:
                self.problem(BROKER_URI, uri, f"{error}. Write it like {BROKER_URI.default}.")
                continue
            if broker in brokers:
                self.warn(BROKER_URI, f"{broker.label} is named more than once and counts once.")
            else:
                brokers.append(broker)
        if one_only and (len(brokers) > 1 or any(broker.every for broker in brokers)):
            remedy = f"Set {AUTH_TOKEN.name} instead of {GRANT_TOKEN.name}, or name one broker."
            self.problem(BROKER_URI, text, f"A grant token is good for one connection with one broker. {remedy}")
        return tuple(brokers)

    def broker_ca(self, brokers: tuple[BrokerAddress, ...]) -> str:
        text = self.text(BROKER_CA).strip()
        if text and brokers and not any(broker.secure for broker in brokers):
            self.warn(BROKER_CA, "has no effect, because no broker is reached by https or wss.")
        return text

    def integer(self, variable: Variable, rule: str, *, low: int = 1, high: int = _LONGEST, beyond: str = "") -> int:
        """``beyond`` is the complaint about more than ``high``, if the reference words it in a way of its own."""
        text = self.text(variable)
        try:
            n = int(text)
        except ValueError:
            complaint = f"Environment variable {variable.name} must be an integer, got {text!r}"
            bound = "without a fraction or a unit"
        else:
            if low <= n <= high:
                return n
            complaint, bound = f"{rule}, got {n}", "above 0" if low else "from 0 up"
            if n > high:
                complaint, bound = (beyond or f"{rule} and at most {high}, got {{}}").format(n), f"up to {high}"
        kind = f"number of {variable.unit}" if variable.unit else "number"
        self.problem(variable, text, f"{complaint}. Set it to a {kind} {bound}, for example {variable.default}.")
        return int(variable.default)

    def boolean(self, variable: Variable) -> bool:
        text = self.text(variable)
        word = text.strip().lower()
        plainly_false = word in _MEANT_FALSE or (not word and variable.default == "false")
        if word != "true" and not plainly_false:
            self.warn(variable, f"{text!r} means false: only 'true' means true. Set it to true or false.")
        return word == "true"

    def one_of(self, variable: Variable, words: tuple[str, ...]) -> str:
        text = self.text(variable)
        word = text.strip().lower()
        if word in words:
            return word
        self.problem(variable, text, f"This is not one of {', '.join(words)}. Set it to one of them.")
        return variable.default

    def paths(self, variable: Variable) -> tuple[str, ...]:
        text = self.text(variable)
        found = tuple(sorted(_entries(text)))
        for path in found:
            if not path.startswith("/"):
                self.problem(variable, text, f"{path!r} is not an absolute path. Begin it with '/'.")
        return found

    def known(self, variable: Variable, names: frozenset[str]) -> frozenset[str]:
        """A list of some of these names, ``*`` for all of them, ``none`` or nothing for none."""
        entries = frozenset(entry.removeprefix(PREFIX) for entry in _entries(self.text(variable)))
        if ALL in entries:
            return names
        for entry in sorted(entries - names - {"none"}):
            self.warn(variable, f"{entry!r} allows nothing. What can be allowed: {', '.join(sorted(names))}.")
        return entries & names

    def confinement(self, policy: Policy) -> Confinement:
        mode = self.one_of(SANDBOX, ("auto", "strict", "network", "off"))
        if mode == "auto":
            mode = "network" if policy.needs_network else "strict"
        require = _entries(self.text(SANDBOX_REQUIRE))
        if unknown := sorted(require - set(LAYERS)):
            names = f"The layers are: {', '.join(LAYERS)}."
            self.problem(SANDBOX_REQUIRE, self.text(SANDBOX_REQUIRE), f"{unknown[0]!r} is not a layer. {names}")
        ports = self.text(SANDBOX_CONNECT)
        numbers = [int(port) for port in _entries(ports) if port.isdecimal() and int(port) < 65536]
        if len(numbers) != len(_entries(ports)):
            self.problem(SANDBOX_CONNECT, ports, "Not a list of ports. Set it to numbers split by commas, like 53,443.")
        return Confinement(
            mode=_MODES[mode],
            read=self.paths(SANDBOX_READ),
            write=self.paths(SANDBOX_WRITE),
            connect_ports=tuple(sorted(numbers)),
            memory=self.integer(TASK_MEMORY, "Task memory must be non-negative", low=0) * MIB,
            cpu=self.integer(TASK_CPU, "Task processor time must be non-negative", low=0),
            require=tuple(sorted(require)),
            cgroup=self.cgroup(),
        )

    def cgroup(self) -> str:
        text = self.text(SANDBOX_CGROUP).strip()
        if text in ("auto", "off") or text.startswith("/"):
            return text
        self.problem(SANDBOX_CGROUP, text, "This is not a folder. Set it to auto, off or an absolute path.")
        return SANDBOX_CGROUP.default

    def preload(self) -> tuple[str, ...] | None:
        text = self.text(PRELOAD)
        word = text.strip().lower()
        if word == "auto":
            return None
        return () if word == "none" else tuple(sorted(_entries(text)))

    def packages(self) -> PackagesConfig | None:
        inline, requirements = self.inline(), self.text(REQUIREMENTS).strip()
        index, wheels, cache = (self.text(name).strip() for name in (INLINE_INDEX, INLINE_WHEELS, INLINE_CACHE))
        if index and not _is_address(index):  # not repeated: it may hold a password
            self.problems.append(f"{INLINE_INDEX.name}: The address of an index begins with https://, http:// or file:")
        for variable, path in ((REQUIREMENTS, requirements), (INLINE_WHEELS, wheels), (INLINE_CACHE, cache)):
            if path and not path.startswith("/"):
                self.problem(variable, path, "This is not an absolute path. Begin it with '/'.")
        sizes = {
            "cache_size": self.integer(INLINE_CACHE_SIZE, "The cache's size must be positive") * MIB,
            "environments": self.integer(INLINE_ENVIRONMENTS, "Environments must be positive"),
            "builds": self.integer(INLINE_BUILDS, "Builds must be positive"),
            "build_timeout": self.integer(INLINE_BUILD_TIMEOUT, "The build timeout must be positive"),
            "build_size": self.integer(INLINE_BUILD_SIZE, "The build size must be positive") * MIB,
            "wait": self.integer(INLINE_WAIT, "The wait must be positive"),
        }
        if inline is None and not requirements:
            return None
        return PackagesConfig(
            inline=inline,
            requirements=requirements,
            index=index,
            wheels=wheels,
            cache=cache or self.cache_folder(),
            opens_network=self.text(SANDBOX).strip().lower() == "auto",
            **sizes,
        )

    def inline(self) -> tuple[str, ...] | None:
        text = self.text(INLINE)
        word = text.strip().lower()
        if word in ("none", ""):
            return None
        if word in ("allow", ALL):
            return ()
        from trio_runner.inline import Allowance, InlineError, split_list

        entries = split_list(text)
        try:
            Allowance(entries)
        except InlineError as error:
            self.problem(INLINE, text, f"{error}. Set it to none, allow, or requirements split by commas.")
        return entries

    def cache_folder(self) -> str:
        """Where a system's or a user's cache belongs; root's own folder would be closed to the sandbox's user."""
        import os

        if os.geteuid() == 0:
            return "/var/cache/trio-runner"
        base = self.environ.get("XDG_CACHE_HOME") or os.path.join(self.environ.get("HOME", ""), ".cache")  # noqa: PTH118
        if not base.startswith("/"):
            self.problems.append(f"{INLINE_CACHE.name}: There is no home folder to keep environments in. Set it.")
        return f"{base}/trio-runner"

    def policy(self) -> Policy:
        relaxed = self.one_of(POLICY, ("compat", "relaxed")) == "relaxed"
        own_list = BUILTINS_DENY.name in self.environ or BUILTINS_DENY.file_name in self.environ
        deny = RELAXED_BUILTINS_DENY if relaxed and not own_list else _entries(self.text(BUILTINS_DENY))
        for entry in sorted(deny):
            if not hasattr(builtins, entry):
                self.warn(BUILTINS_DENY, f"{entry!r} is not the name of a builtin and denies nothing.")
        return Policy(
            stdlib_allow=self.allowlist(STDLIB_ALLOW),
            external_allow=self.allowlist(EXTERNAL_ALLOW),
            builtins_deny=deny,
            block_env=self.boolean(BLOCK_ENV),
            relaxed=relaxed,
            friendly=self.one_of(VALUES, ("compat", "friendly")) == "friendly",
            timezone=self.timezone(),
        )

    def timezone(self) -> str:
        name = self.text(TIMEZONE)
        if name:
            from trio_runner.sandbox import clock

            try:
                clock.zone(name)
            except ValueError:
                self.warn(TIMEZONE, f"{name!r} is not the name of a time zone; the machine's counts instead.")
                return ""
        return name

    def allowlist(self, variable: Variable) -> frozenset[str]:
        text = self.text(variable)
        entries = _entries(text)
        if SAFE in entries and variable is STDLIB_ALLOW:
            entries = entries - {SAFE} | SAFE_STDLIB
        if ALL in entries and len(entries) > 1:
            got = f"Got: {', '.join(sorted(entries))}"
            complaint = f"Wildcard '{ALL}' in {variable.name} must be used alone, not with other modules. {got}"
            self.problem(variable, text, f"{complaint}. Remove the wildcard, or everything else.")
        for entry in sorted(entries - {ALL}):
            top = entry.partition(".")[0]
            right = STDLIB_ALLOW if top in sys.stdlib_module_names else EXTERNAL_ALLOW
            if not top.isidentifier():
                reason = "it is not a module name as an import statement has it"
            elif "." in entry:
                reason = f"only top-level names do. Put {top!r} into {right.name} instead"
            elif right is not variable:
                what = "a" if right is STDLIB_ALLOW else "not a"
                reason = f"it is {what} standard library module. Put it into {right.name} instead"
            else:
                continue
            self.warn(variable, f"{entry!r} never matches, because {reason}.")
        return entries

    def health(self) -> HealthConfig | None:
        rule = "Invalid health check configuration: Port must be between 0 and 65535"
        port = self.integer(HEALTH_PORT, rule, low=0, high=65535, beyond=f"{rule}, got {{}}")
        enabled, host = self.boolean(HEALTH_ENABLED), self.text(HEALTH_HOST)
        if not host:  # the reference would listen everywhere, which nobody means by an empty value
            host = HEALTH_HOST.default
            self.warn(HEALTH_HOST, f"is empty: {host} is used. Set it to 0.0.0.0 to listen everywhere.")
        page, names = self.boolean(STATUS_PAGE), _entries(self.text(STATUS_HOSTS).lower())
        if page and not enabled:
            self.warn(STATUS_PAGE, f"has no effect, because {HEALTH_ENABLED.name} is not true.")
        return HealthConfig(host=host, port=port, status_page=page, status_hosts=names) if enabled else None

    def tracing(self) -> TracingConfig | None:
        if self.text(OTEL_ENDPOINT) or self.text(OTEL_TRACES_ENDPOINT):
            return TracingConfig()
        if not self.boolean(N8N_OTEL):
            return None
        rate = self.text(N8N_OTEL_SAMPLE_RATE)
        try:
            sample_rate = float(rate)
        except ValueError:
            sample_rate = -1.0
        if not 0 <= sample_rate <= 1:
            self.problem(N8N_OTEL_SAMPLE_RATE, rate, "This is not a fraction. Set it to a number from 0 to 1.")
        path = f"/{self.text(N8N_OTEL_PATH).lstrip('/')}"
        return TracingConfig(
            endpoint=self.text(N8N_OTEL_ENDPOINT).rstrip("/") + path,
            headers=self.text(N8N_OTEL_HEADERS),
            sample_rate=sample_rate,
        )

    def log_level(self) -> str:
        text = self.text(LOG_LEVEL)
        level = text.strip().upper()
        if level in _LOG_LEVELS:
            return level
        if level:
            self.warn(LOG_LEVEL, f"{text!r} is no level: {LOG_LEVEL.default} is used. Set it to {LOG_LEVEL.meaning}.")
        return LOG_LEVEL.default


def health_url(environ: Mapping[str, str]) -> str:
    """Where a runner with this environment has its health server, as seen from this machine."""
    host = environ.get(HEALTH_HOST.name) or HEALTH_HOST.default
    host = {"0.0.0.0": HEALTH_HOST.default, "::": "::1"}.get(host, host)  # noqa: S104 - recognised, not listened on
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{environ.get(HEALTH_PORT.name) or HEALTH_PORT.default}"


def _is_address(text: str) -> bool:
    try:
        return urlsplit(text).scheme in ("http", "https", "file") and text.isprintable()
    except ValueError:
        return False


def _entries(text: str) -> frozenset[str]:
    return frozenset(entry.strip() for entry in text.split(",")) - {""}


def _one_line(text: str) -> str:
    """Names, values and paths may hold anything; a problem or warning is one line that can be encoded."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """One warning per variable that was probably meant for us. Only names are looked at, never values."""
    for name in sorted(environ.keys() - _KNOWN):
        key = name.upper()
        if key.startswith(_LAUNCHER_PREFIX) or key.removesuffix("_FILE") in _FOREIGN:
            continue
        # Other names are not even compared: an ordinary environment must not cost the import of difflib.
        meant = _closest(key) if key.startswith("N8N_") or "RUNNERS_" in key else None
        if meant or key.startswith(_PREFIX):
            hint = f" Did you mean {meant}?" if meant else ""
            yield f"{name} is not a variable of this runner and has no effect.{hint}"


def _closest(key: str) -> str | None:
    from difflib import get_close_matches

    # The common prefix makes all of our names alike, so it is left out; n8n has many names of its own that are a bit
    # like ours, so without the prefix only a slip of one or two letters counts.
    prefix, cutoff = (_PREFIX, 0.6) if key.startswith(_PREFIX) else ("N8N_", 0.9)
    candidates = {name.removeprefix(prefix): name for name in sorted(_KNOWN) if name.startswith(prefix)}
    close = get_close_matches(key.removeprefix(prefix), candidates, n=1, cutoff=cutoff)
    return candidates[close[0]] if close else None
