"""Fixtures for tests that need real Kubernetes; skipped, saying why, where this machine cannot have it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.lab.alone import api_server_alone
from tests.lab.apiserver import ApiServer
from tests.lab.errors import Missing


@pytest.fixture(scope="session")
def api_server() -> Iterator[ApiServer]:
    """An API server alone, without nodes or controllers, for the whole session."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(api_server_alone())
        except Missing as error:
            pytest.skip(str(error))
        yield server


@pytest.fixture
def namespace(api_server: ApiServer) -> Iterator[str]:
    """A namespace of the test's own; what is left in it afterwards is deleted."""
    name = f"test-{secrets.token_hex(4)}"
    api_server.add_namespace(name)
    yield name
    api_server.remove_namespace(name)
