"""What the tests with a real n8n share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.n8n_server import N8n, install


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[N8n]:
    """One n8n for the whole session, not started yet: its first start takes 20 s."""
    n8n = N8n(install(), tmp_path_factory.mktemp("n8n"))
    try:
        yield n8n
    finally:
        n8n.close()
