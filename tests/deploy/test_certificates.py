"""The agents' certificates, and the file with the authorities that their callers trust."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from nodeobs.deploy.certificates import AgentAuthorities
from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from tests.deploy.documents import NAMESPACE, NOW, made
from tests.fakes.api_server import Answer, FakeApiServer, Request
from tests.processes import wait_for


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[KubeClient, list[dict[str, Any]]]]:
    """A client of an API server that lists these Secrets."""
    secrets: list[dict[str, Any]] = []

    def answer(request: Request) -> Answer:
        if request.query.get("watch"):
            return Answer(lines=[], then="hang")
        return Answer(body={"metadata": {"resourceVersion": "1"}, "items": secrets})

    with FakeApiServer(answer) as server:
        client = KubeClient(load_credentials(kubeconfig=server.kubeconfig(tmp_path / "kubeconfig"), environ={}))
        with closing(client):
            yield client, secrets


def authorities(client: KubeClient, file: Path) -> AgentAuthorities:
    return AgentAuthorities(client, namespace=NAMESPACE, file=file, now=lambda: NOW, randomness=Random(1))


def bundle(secret: dict[str, Any]) -> bytes:
    return base64.b64decode(secret["data"]["ca.crt"])


def test_a_disk_that_was_full_for_a_moment_costs_no_trust(
    cluster: tuple[KubeClient, list[dict[str, Any]]], tmp_path: Path
) -> None:
    client, secrets = cluster
    secrets.append(made()["Secret"])
    file = tmp_path / "agents.pem"
    with closing(authorities(client, file)) as following:
        in_the_way = tmp_path / "agents.pem.new"
        in_the_way.mkdir()
        following.start()
        wait_for("it has tried", lambda: following._reflector.has_synced)
        in_the_way.rmdir()
        wait_for("the authorities are there", lambda: file.read_bytes() == bundle(secrets[0]), seconds=10)


def test_a_secret_that_somebody_spoilt_costs_the_others_no_trust(
    cluster: tuple[KubeClient, list[dict[str, Any]]], tmp_path: Path
) -> None:
    client, secrets = cluster
    spoilt = json.loads(json.dumps(made("spoilt")["Secret"]))
    spoilt["data"]["since"] = base64.b64encode(b"0001-01-01T00:00:00+01:00").decode()
    secrets += [spoilt, made()["Secret"]]
    file = tmp_path / "agents.pem"
    with closing(authorities(client, file)) as following:
        following.start()
        wait_for("the authorities are there", lambda: file.read_bytes() == bundle(secrets[1]), seconds=10)
