"""The API server's conversion reviews over HTTP; the rules are tested where they are."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace as replace_services
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from nodeobs.kube.reviewer import Reviewer
from nodeobs.model import GROUP
from nodeobs.runs.admission import Admission
from nodeobs.store.reflected import ReflectedReader
from nodeobs.web import create_app
from nodeobs.web.bodies import LARGE_BYTES
from nodeobs.web.services import Services
from tests.builders import START
from tests.fakes.review_server import ReviewServer
from tests.web.support import assert_problem

CONVERT = "/webhooks/convert"


def review(*objects: dict[str, Any], to: str = "v1beta1") -> dict[str, Any]:
    request = {"uid": "1", "desiredAPIVersion": f"{GROUP}/{to}", "objects": list(objects)}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": request}


def observability(**spec: Any) -> dict[str, Any]:
    meta = {"name": "cluster", "uid": "u", "annotations": {"a": "b"}}
    return {"apiVersion": f"{GROUP}/v1alpha1", "kind": "NodeObservability", "metadata": meta, "spec": spec}


@pytest.fixture
def unready(services: Services, tmp_path: Path) -> Iterator[Services]:
    """Where nothing can be reached, nothing is known and no certificate is published."""
    with ReviewServer() as server:
        kubeconfig = server.kubeconfig(tmp_path / "kubeconfig")
    with closing(KubeClient(load_credentials(kubeconfig=kubeconfig, environ={}))) as kube:
        admission = Admission(
            reader=ReflectedReader.of(kube, services.store, randomness=random.Random(1)),
            store=services.store,
            reviewer=Reviewer(kube),
            own_user=lambda: "nodeobs",
            published=lambda: False,
            metrics=services.metrics,
            now=lambda: START,
        )
        yield replace_services(services, admission=admission)


@pytest.fixture
def client(unready: Services) -> FlaskClient:
    return create_app(unready).test_client()


def test_objects_are_converted_before_anything_else_is_ready(client: FlaskClient, services: Services) -> None:
    old = observability(labels={"x": "y"}, type="crio-kubelet", unknown=[1, 2.5, None])
    answer = client.post(CONVERT, json=review(old, observability()))
    assert answer.status_code == 200
    document = answer.get_json()
    assert document["response"]["uid"] == "1"
    assert document["response"]["result"]["status"] == "Success"
    first, second = document["response"]["convertedObjects"]
    assert first["apiVersion"] == second["apiVersion"] == f"{GROUP}/v1beta1"
    assert first["metadata"] == old["metadata"]
    assert first["spec"] == {"nodeSelector": {"x": "y"}, "type": "crio-kubelet", "unknown": [1, 2.5, None]}
    labels = {"webhook": "convert"}
    assert services.metrics.registry.get_sample_value("nodeobs_webhook_duration_seconds_count", labels) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"request":[]}', b'{"a":' + b"[" * 100_000])
def test_what_is_no_review_is_refused(client: FlaskClient, body: bytes) -> None:
    assert_problem(client.post(CONVERT, data=body), 400, "ConversionReview")


def test_a_second_large_list_at_once_is_put_off(client: FlaskClient, unready: Services) -> None:
    large = json.dumps(review(observability(text="x" * LARGE_BYTES))).encode()
    with unready.large_conversions.held():
        answer = client.post(CONVERT, data=large)
        assert_problem(answer, 503, "large conversions")
        assert answer.headers["Retry-After"]
        assert client.post(CONVERT, json=review(observability())).status_code == 200
    assert client.post(CONVERT, data=large).status_code == 200


def test_a_body_is_bounded(client: FlaskClient) -> None:
    claimed = {"CONTENT_LENGTH": str(2**26 + 2)}
    assert_problem(client.post(CONVERT, data=b"x", environ_overrides=claimed), 413, "67108864 bytes")
