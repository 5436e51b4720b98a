"""Everything that has to be in a cluster before the service is: namespaces, resources, rights, addresses, webhooks."""

from __future__ import annotations

import enum
from collections.abc import Collection
from typing import Any, Final

from nodeobs.kube.crds import Webhook, crds
from nodeobs.kube.rbac import AGENT, SERVICE, Features, rbac
from nodeobs.model import GROUP
from nodeobs.model.versions import STORAGE_VERSION

VALIDATE_PATH: Final = "/webhooks/validate"

_PORT: Final = 8443
_CREATED_BY: Final = f"{GROUP}/created-by"
_LABELS: Final = {"app.kubernetes.io/part-of": "nodeobs"}


class Part(enum.StrEnum):
    """What can be printed by itself; in the order in which a cluster needs them."""

    NAMESPACES = "namespaces"
    CRDS = "crds"
    RBAC = "rbac"
    SERVICES = "services"
    WEBHOOKS = "webhooks"


def manifests(
    *,
    namespace: str,
    agent_namespace: str,
    webhook: Webhook,
    parts: Collection[Part] = tuple(Part),
    features: Features | None = None,
) -> list[dict[str, Any]]:
    """The objects of those parts, each before what needs it."""
    features = features or Features()
    services = [_service(SERVICE, namespace, component="service", port=443)]
    if not features.deploy_agents:
        # Headless: each agent is called by its own address.
        services.append(_service(AGENT, agent_namespace, component="agent", port=_PORT, clusterIP="None"))
    made = {
        Part.NAMESPACES: _namespaces(namespace, agent_namespace),
        Part.CRDS: crds(webhook=webhook),
        Part.RBAC: rbac(namespace=namespace, agent_namespace=agent_namespace, features=features),
        Part.SERVICES: services,
        Part.WEBHOOKS: [_validation(webhook)],
    }
    return [document for part in Part if part in parts for document in made[part]]


def _namespaces(namespace: str, agent_namespace: str) -> list[dict[str, Any]]:
    """The service's, and the agents', who may need a container runtime's socket from the node."""
    levels = {agent_namespace: "privileged", namespace: "restricted"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {**_LABELS, "pod-security.kubernetes.io/enforce": level}},
        }
        for name, level in sorted(levels.items())
    ]


def _service(name: str, namespace: str, *, component: str, port: int, **more: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(_LABELS)},
        "spec": {
            "selector": {"app.kubernetes.io/name": "nodeobs", "app.kubernetes.io/component": component},
            "ports": [{"name": "https", "port": port, "targetPort": _PORT}],
            **more,
        },
    }


def _validation(webhook: Webhook) -> dict[str, Any]:
    rule = {
        "operations": ["CREATE", "UPDATE"],
        "apiGroups": [GROUP],
        "apiVersions": [STORAGE_VERSION],
        "resources": ["nodeobservabilityruns", "nodeobservabilities"],
        "scope": "*",
    }
    created_by = f"metadata.?annotations[?'{_CREATED_BY}']"
    # Other changes of metadata, such as the garbage collector's, go on while the service is away.
    relevant = (
        "request.operation == 'CREATE' || object.?spec != oldObject.?spec || "
        f"object.{created_by} != oldObject.{created_by}"
    )
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": SERVICE, "labels": dict(_LABELS)},
        "webhooks": [
            {
                "name": f"validate.{GROUP}",
                "clientConfig": webhook.client_config(VALIDATE_PATH),
                "rules": [rule],
                "matchConditions": [{"name": "spec-or-creator", "expression": relevant}],
                "matchPolicy": "Equivalent",
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 10,
            }
        ],
    }
