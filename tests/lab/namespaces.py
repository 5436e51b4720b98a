"""Namespaces of tests, removed without the controller that does it elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from nodeobs.errors import InvalidInput, NodeobsError, NotFound
from nodeobs.kube.client import KubeClient


def remove_namespace(client: KubeClient, name: str) -> None:
    """Delete everything in the namespace, whatever finalizers it has, and the namespace.

    Raises:
        NodeobsError: the API server does not answer, or will not.
    """
    for path in _collections(client, name):
        with suppress(NotFound, InvalidInput):  # gone meanwhile; or of a kind that lets nobody do this
            client.request("DELETE", path)
            for item in json.loads(client.get(path))["items"]:
                client.request(
                    "PATCH",
                    f"{path}/{item['metadata']['name']}",
                    {"metadata": {"finalizers": None}},
                    content_type="application/merge-patch+json",
                )
    namespace = json.loads(client.request("DELETE", f"/api/v1/namespaces/{name}"))
    with suppress(NotFound, NodeobsError):  # where there is a controller for it, it may be first
        namespace["spec"]["finalizers"] = []
        del namespace["metadata"]["resourceVersion"]
        client.request("PUT", f"/api/v1/namespaces/{name}/finalize", namespace)


def _collections(client: KubeClient, namespace: str) -> Iterator[str]:
    """Path of every kind of object that can be deleted there, in its preferred version."""
    for root in ("/api/v1", *_groups(client)):
        for resource in _get(client, root)["resources"]:
            if resource["namespaced"] and {"deletecollection", "list", "patch"} <= set(resource["verbs"]):
                yield f"{root}/namespaces/{namespace}/{resource['name']}"


def _groups(client: KubeClient) -> Iterator[str]:
    for group in _get(client, "/apis")["groups"]:
        yield f"/apis/{group['preferredVersion']['groupVersion']}"


def _get(client: KubeClient, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(client.get(path))
    return found
