"""What user code may do: the operator's decision, as one frozen value that travels to the zygote.

Owns the import rules and their texts. Must not look at source code (analysis) or patch anything (imports, userapi).
"""

from __future__ import annotations

import sys
from typing import Literal

import msgspec

ALL = "*"
"""An allowlist that holds this single entry allows everything."""

DEFAULT_BUILTINS_DENY = frozenset(
    "eval exec compile open input breakpoint getattr object type vars setattr delattr hasattr dir memoryview "
    "__build_class__ globals locals license help credits copyright".split()
)
"""Builtins that user code does not get unless the operator says otherwise (runner-behaviour 15.1)."""


RELAXED_BUILTINS_DENY = frozenset("eval exec compile open input breakpoint license help credits copyright".split())
"""What `relaxed` still keeps from user code: what makes no sense in a node, rather than what could be abused."""

SAFE = "@safe"
SAFE_STDLIB = frozenset(
    "__future__ abc array ast base64 binascii bisect calendar cmath codecs collections colorsys contextlib contextvars "
    "copy csv dataclasses datetime decimal difflib email enum fnmatch fractions functools graphlib hashlib heapq hmac "
    "html ipaddress itertools json keyword locale math mimetypes numbers operator pprint quopri random re reprlib "
    "secrets statistics string stringprep struct textwrap time tokenize tomllib types typing unicodedata uuid warnings "
    "xml zlib zoneinfo".split()
)
"""``@safe``: standard modules that compute and need no files, sockets or processes of their own."""

NETWORK_MODULES = frozenset(
    # standard
    "_socket ftplib http imaplib poplib smtplib socket socketserver ssl telnetlib urllib xmlrpc "
    # packages whose purpose is a connection
    "aiobotocore aiohttp aiomysql aiosmtplib anthropic asyncpg azure boto3 botocore cohere elasticsearch ftputil "
    "google googleapiclient gspread httpcore httplib2 httpx imap_tools kafka langchain ldap3 minio mistralai mysql "
    "nats notion_client openai oracledb paho paramiko pg8000 pika psycopg psycopg2 pycurl pymongo pymysql pymssql "
    "pyodbc redis requests s3fs slack_sdk snowflake sqlalchemy stripe tweepy twilio urllib3 websocket websockets "
    "yfinance".split()
)  # fmt: skip
"""Modules that are of no use without sockets: allowing one of them turns ``auto`` into ``network``."""


class Confinement(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel lets a task do, whatever its code manages to call.

    ``mode``: ``strict`` (no files beyond ``read``, no network, no processes), ``network`` (sockets to
    ``connect_ports``), ``off``. ``memory`` is in bytes of the task's own data, ``cpu`` in seconds; 0 is no limit.
    ``require`` names layers without which the runner does not start. ``cgroup`` is ``auto``, ``off`` or a folder.
    """

    mode: Literal["strict", "network", "off"] = "strict"
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    connect_ports: tuple[int, ...] = (53, 443)
    memory: int = 0
    cpu: int = 0
    require: tuple[str, ...] = ()
    cgroup: str = "auto"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's rules for user code.

    ``stdlib_allow`` and ``external_allow`` hold exact top-level module names, or only ``*``. An entry with a dot never
    matches, as in the reference (runner-behaviour 14.1). ``relaxed`` leaves the language whole and trusts the kernel.
    ``friendly`` is about results: dates, tables and the like as one would write them in JSON (docs/values.md).
    """

    stdlib_allow: frozenset[str] = frozenset()
    external_allow: frozenset[str] = frozenset()
    builtins_deny: frozenset[str] = DEFAULT_BUILTINS_DENY
    block_env: bool = True
    relaxed: bool = False
    friendly: bool = False
    timezone: str = ""
    """The zone of ``_now`` where a workflow has none of its own; empty: the machine's."""

    @property
    def needs_network(self) -> bool:
        """Whether something is importable that is of no use without sockets; ``*`` may be anything."""
        allowed = self.stdlib_allow | self.external_allow
        return ALL in allowed or not NETWORK_MODULES.isdisjoint(allowed)

    @property
    def source_checks(self) -> bool:
        """Whether source code is analysed at all: not when both allowlists are open (runner-behaviour 14)."""
        return not (ALL in self.stdlib_allow and ALL in self.external_allow)

    def allows_import(self, name: str) -> bool:
        """Whether user code may import the absolute module ``name``; only its top-level part counts."""
        top = name.partition(".")[0]
        allowed = self.stdlib_allow if top in sys.stdlib_module_names else self.external_allow
        return ALL in allowed or top in allowed

    def import_refusal(self, name: str) -> str:
        """The text that says why ``name`` may not be imported (runner-behaviour 16: users and tests match on it)."""
        if name.partition(".")[0] in sys.stdlib_module_names:
            allowed = ", ".join(sorted(self.stdlib_allow)) or "none"
            return f"Import of standard library module '{name}' is disallowed. Allowed stdlib modules: {allowed}"
        allowed = ", ".join(sorted(self.external_allow)) or "none"
        return f"Import of external package '{name}' is disallowed. Allowed external packages: {allowed}"
