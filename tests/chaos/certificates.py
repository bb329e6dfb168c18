"""Certificates for proxies with TLS, made anew for each run."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass
class Certificates:
    """What a proxy shows, what it must not get away with, and what the runner trusts."""

    right: ssl.SSLContext
    wrong: ssl.SSLContext
    ca: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        """Two authorities of which the runner knows one."""
        mine, foreign = trustme.CA(), trustme.CA()
        contexts = []
        for authority in (mine, foreign):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(context)
            contexts.append(context)
        mine.cert_pem.write_to_path(str(folder / "ca.pem"))
        return cls(*contexts, folder / "ca.pem")
