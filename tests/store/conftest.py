"""Stores to test: whoever adds one adds it to ``open_store``, and it has to pass the same suite."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nodeobs.kube.client import KubeClient
from nodeobs.store.base import Store
from nodeobs.store.kube import KubeStore
from nodeobs.store.sqlite import SqliteStore
from tests.custom_resources import clear, install
from tests.lab.apiserver import ApiServer


def utc_now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "nodeobs.db"


@pytest.fixture(params=["sqlite", pytest.param("kube", marks=pytest.mark.cluster)])
def open_store(request: pytest.FixtureRequest, path: Path) -> Iterator[Callable[[], Store]]:
    """Opens the same store again, as another replica would."""
    with ExitStack() as stack:

        def open_file() -> Store:
            return stack.enter_context(closing(SqliteStore(path, now=utc_now)))

        def open_cluster() -> Store:
            client = stack.enter_context(closing(request.getfixturevalue("api_server").client()))
            return stack.enter_context(closing(KubeStore(client, namespace="nodeobs")))

        if request.param == "kube":
            request.getfixturevalue("custom_resources")
        yield open_cluster if request.param == "kube" else open_file


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    return open_store()


@pytest.fixture
def admin(api_server: ApiServer) -> Iterator[KubeClient]:
    with closing(api_server.client()) as client:
        yield client


@pytest.fixture
def custom_resources(admin: KubeClient) -> Iterator[None]:
    """The custom resources, and no objects of them; the namespaces ``nodeobs`` and ``other``."""
    install(admin, "nodeobs", "other")
    clear(admin)
    yield
    clear(admin)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections: it is taken, but nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
