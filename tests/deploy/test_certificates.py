"""The agents' certificates, and the file with the authorities that their callers trust."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from nodeobs.deploy.certificates import AgentAuthorities, Certificates
from nodeobs.deploy.drift import Held, HeldMetadata
from nodeobs.kube.authority import KEPT_FOR, LIFETIME, PUBLISHED_FOR, RENEW_BEFORE, Material
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


def encoded(material: Material) -> dict[str, str]:
    return {key: base64.b64encode(value).decode() for key, value in material.to_data().items() if value is not None}


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


def test_a_step_that_is_not_published_yet_has_no_next_one() -> None:
    passed = timedelta()
    certificates = Certificates(namespace=NAMESPACE, now=lambda: NOW + passed)

    def step() -> Material:
        return certificates.of("cluster", held)

    def published() -> Held:
        return Held(metadata=HeldMetadata(name="x"), data=encoded(certificates.of("cluster", held)))

    held: Held | None = None
    held = published()
    passed = LIFETIME - RENEW_BEFORE + timedelta(hours=1)
    staged = step()
    assert staged.following is not None
    passed += PUBLISHED_FOR + KEPT_FOR
    assert step() == staged, "the Secret could not be written: nobody trusts the next one yet"
    held = published()
    assert step().served == staged.following


def test_a_clock_that_was_set_back_makes_one_certificate_and_not_one_each_round() -> None:
    ahead = Certificates(namespace=NAMESPACE, now=lambda: NOW + 2 * LIFETIME).of("cluster", None)
    held = Held(metadata=HeldMetadata(name="x"), data=encoded(ahead))
    certificates = Certificates(namespace=NAMESPACE, now=lambda: NOW)
    first = certificates.of("cluster", held)
    assert first.served != ahead.served
    assert certificates.of("cluster", held) == first, "it is the one that is being written"


def test_what_is_gone_is_forgotten() -> None:
    certificates = Certificates(namespace=NAMESPACE, now=lambda: NOW)
    first, other = certificates.of("cluster", None), certificates.of("other", None)
    certificates.forget_others(["other"])
    assert certificates.of("other", None) == other
    assert certificates.of("cluster", None) != first


@pytest.mark.parametrize("key", ["tls.crt", "tls.key", "ca.crt"])
def test_what_somebody_replaced_is_put_back_as_agents_that_run_have_it(key: str) -> None:
    certificates = Certificates(namespace=NAMESPACE, now=lambda: NOW)
    before = certificates.of("cluster", None)
    elses = encoded(Certificates(namespace=NAMESPACE, now=lambda: NOW).of("other", None))
    held = Held(metadata=HeldMetadata(name="x"), data=encoded(before) | {key: elses[key]})
    assert certificates.of("cluster", held) == before
