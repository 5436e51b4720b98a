"""The custom resources on a test's API server: installed as this version has them, and emptied."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from typing import Any

from nodeobs.errors import AlreadyExists, Conflict, NotFound
from nodeobs.kube.client import KubeClient
from nodeobs.kube.crds import crds
from nodeobs.kube.paths import MACHINE_CONFIGS, OBSERVABILITIES, RUNS, ResourcePath
from tests.processes import wait_for

_DEFINITIONS = ResourcePath("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions")
_NAMESPACES = ResourcePath("/api/v1", "namespaces")


def install(client: KubeClient, *namespaces: str) -> None:
    """Have the definitions there, without conversion, whatever an earlier test made of them; and the namespaces."""
    for definition in crds(webhook=None):
        wait_for("the definition is written", partial(_write, client, definition))
    for path in (RUNS, OBSERVABILITIES, MACHINE_CONFIGS):
        wait_for(f"{path.plural} are served", partial(_served, client, path))
    for name in namespaces:
        with suppress(AlreadyExists):
            client.request("POST", _NAMESPACES.collection(), {"metadata": {"name": name}})


def clear(client: KubeClient) -> None:
    """Delete every custom resource, whatever finalizers it has."""
    for path in (RUNS, OBSERVABILITIES, MACHINE_CONFIGS):
        items = json.loads(client.get(path.collection()))["items"]
        namespaces = {item["metadata"].get("namespace", "") for item in items}
        for namespace in namespaces:
            client.request("DELETE", path.collection(namespace))
        for item in items:
            if item["metadata"].get("finalizers"):
                release(client, path, item["metadata"]["name"], item["metadata"].get("namespace", ""))


def release(client: KubeClient, path: ResourcePath, name: str, namespace: str = "") -> None:
    """Take every finalizer off an object."""
    patch = {"metadata": {"finalizers": None}}
    with suppress(NotFound):
        client.request("PATCH", path.item(name, namespace), patch, content_type="application/merge-patch+json")


def _write(client: KubeClient, definition: dict[str, Any]) -> bool:
    at = _DEFINITIONS.item(definition["metadata"]["name"])
    try:
        stored = json.loads(client.get(at))
    except NotFound:
        client.request("POST", _DEFINITIONS.collection(), definition)
        return True
    if (
        stored["spec"]["conversion"]["strategy"] == "None"
        and stored["spec"]["versions"] == definition["spec"]["versions"]
    ):
        return True
    metadata = definition["metadata"] | {"resourceVersion": stored["metadata"]["resourceVersion"]}
    with suppress(Conflict):
        client.request("PUT", at, definition | {"metadata": metadata})
        return True
    return False


def _served(client: KubeClient, path: ResourcePath) -> bool:
    with suppress(NotFound):
        client.get(path.collection(), {"limit": "1"})
        return True
    return False
