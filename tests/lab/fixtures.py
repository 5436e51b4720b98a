"""Fixtures for tests that need real Kubernetes; skipped, saying why, where this machine cannot have it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.lab.alone import api_server_alone
from tests.lab.apiserver import ApiServer
from tests.lab.cluster import Cluster, cluster_of
from tests.lab.errors import Missing
from tests.lab.images import PROJECT, project_image


@pytest.fixture(scope="session")
def api_server() -> Iterator[ApiServer]:
    """An API server alone, without nodes or controllers, for the whole session."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(api_server_alone())
        except Missing as error:
            pytest.skip(str(error))
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of three nodes that run pods, for the whole session."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(cluster_of(3))
        except Missing as error:
            pytest.skip(str(error))
        yield made


@pytest.fixture(scope="session")
def image_archive() -> Path:
    """The project's image, built once for its sources: a docker archive."""
    try:
        return project_image()
    except Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def image(cluster: Cluster, image_archive: Path) -> str:
    """Name of the project's image, which is on every node of ``cluster``."""
    cluster.load_image(image_archive)
    return PROJECT


@pytest.fixture
def namespace(api_server: ApiServer) -> Iterator[str]:
    """A namespace of the test's own in ``api_server``; what is left in it afterwards is deleted."""
    with _namespace(api_server) as name:
        yield name


@pytest.fixture
def cluster_namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own in ``cluster``; what is left in it afterwards is deleted."""
    with _namespace(cluster) as name:
        yield name


@contextmanager
def _namespace(server: ApiServer) -> Iterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    server.add_namespace(name)
    yield name
    server.remove_namespace(name)
