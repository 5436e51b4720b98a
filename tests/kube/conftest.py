"""An API server of the test's own making, and a client of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from tests.fakes.api_server import Answer, FakeApiServer, Request

Serve = Callable[[Callable[[Request], Answer]], tuple[FakeApiServer, KubeClient]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a fake API server over plain HTTP; gives it and a client that never waits between attempts."""
    with ExitStack() as stack:

        def start(respond: Callable[[Request], Answer]) -> tuple[FakeApiServer, KubeClient]:
            server = stack.enter_context(FakeApiServer(respond))
            kubeconfig = server.kubeconfig(tmp_path / f"kubeconfig-{server.port}")
            client = KubeClient(load_credentials(kubeconfig=kubeconfig, environ={}), pause=lambda _: None)
            stack.callback(client.close)
            return server, client

        yield start
