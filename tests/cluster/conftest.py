"""A world of nodeobs on the API server, for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cluster.world import KubeWorld
from tests.lab.apiserver import ApiServer
from tests.lab.errors import Missing


@pytest.fixture
def world(api_server: ApiServer, tmp_path: Path) -> Iterator[KubeWorld]:
    """nodeobs installed, without replicas, agents and NodeObservabilities yet."""
    try:
        made = KubeWorld(api_server, tmp_path)
    except Missing as error:
        pytest.skip(str(error))
    with closing(made):
        yield made
