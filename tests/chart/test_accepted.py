"""The API server takes every object that the chart can render, and its pods where Pod Security is at its strictest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nodeobs.errors import AlreadyExists, NodeobsError
from nodeobs.kube.client import KubeClient
from tests.chart.foreign import DEFINITIONS
from tests.chart.rendering import CASES, NAMESPACE, objects, pods, render
from tests.lab.apiserver import ApiServer
from tests.lab.errors import LabError
from tests.processes import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("helm_there")]

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
NAMESPACES = (NAMESPACE, f"{NAMESPACE}-agents", "profilers", "openshift-config-managed")

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.removesuffix("-values.yaml"))


@pytest.fixture(scope="module")
def server(api_server: ApiServer) -> Iterator[ApiServer]:
    """With the resources of others, and the namespaces that are there before a release."""
    with closing(api_server.client()) as admin:
        for definition in DEFINITIONS:
            admin.request("POST", CRDS, definition)
        for definition in DEFINITIONS:
            wait_for("the resource is served", partial(_is_served, admin, definition))
        for name in NAMESPACES:
            labels = RESTRICTED if name == NAMESPACE else {}
            with suppress(AlreadyExists):
                admin.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        yield api_server
        for definition in DEFINITIONS:
            admin.request("DELETE", f"{CRDS}/{definition['metadata']['name']}")
        for name in NAMESPACES:
            api_server.remove_namespace(name)


def _is_served(admin: KubeClient, definition: dict[str, Any]) -> bool:
    spec = definition["spec"]
    try:
        admin.get(f"/apis/{spec['group']}/v1/{spec['names']['plural']}")
    except NodeobsError:
        return False
    return True


def _apply(server: ApiServer, found: list[dict[str, Any]]) -> str:
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": found})
    options = ["--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict"]
    return server.kubectl("apply", *options, "-f", "-", input=everything)


@every_case
def test_every_object_is_accepted(server: ApiServer, case: Path) -> None:
    found = objects(render(case=case))
    assert _apply(server, found).count("serverside-applied") == len(found)


@every_case
def test_every_pod_is_accepted_under_restricted(server: ApiServer, case: Path) -> None:
    made = list(pods(objects(render(case=case))))
    assert {pod["metadata"]["namespace"] for pod in made} == {NAMESPACE}
    assert len(made) >= 2, "the service, and what helm test runs"
    assert _apply(server, made).count("serverside-applied") == len(made)


def test_a_pod_that_asks_for_more_is_not(server: ApiServer) -> None:
    """Else the test above would say nothing."""
    pod = next(pods(objects(render())))
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(LabError, match='violates PodSecurity "restricted'):
        _apply(server, [pod])


def test_a_field_that_is_not_theirs_is_refused(server: ApiServer) -> None:
    """Else what is accepted of others' resources would say nothing."""
    issuer = {"apiVersion": "cert-manager.io/v1", "kind": "Issuer", "spec": {"selfSinged": {}}}
    with pytest.raises(LabError, match="selfSinged"):
        _apply(server, [{**issuer, "metadata": {"name": "x", "namespace": NAMESPACE}}])
