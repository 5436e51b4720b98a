"""The objects that a NodeObservability stands for in the cluster. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from nodeobs.deploy.config import DeployConfig
from nodeobs.deploy.daemonset import PORT, daemon_set
from nodeobs.deploy.targets import Targets
from nodeobs.kube.authority import Material, names_of
from nodeobs.kube.paths import CONFIG_MAPS, ResourcePath
from nodeobs.kube.rbac import AGENT, AGENT_ROLE
from nodeobs.model import API_VERSION, NodeObservability

Json = dict[str, Any]

PATHS: Final = {
    "ServiceAccount": ResourcePath("/api/v1", "serviceaccounts"),
    "ClusterRoleBinding": ResourcePath("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    "Secret": ResourcePath("/api/v1", "secrets"),
    "ConfigMap": CONFIG_MAPS,
    "Service": ResourcePath("/api/v1", "services"),
    "DaemonSet": ResourcePath("/apis/apps/v1", "daemonsets"),
}
"""Kinds of children, and where they are."""

CHILD_LABELS: Final[Mapping[str, str]] = {
    "app.kubernetes.io/name": "nodeobs",
    "app.kubernetes.io/component": "agent",
    "app.kubernetes.io/part-of": "nodeobs",
    "app.kubernetes.io/managed-by": "nodeobs",
}
INSTANCE: Final = "app.kubernetes.io/instance"
"""Label that sets the children, and the pods, of each NodeObservability apart: :func:`agent_name`."""
KUBELET_CA_KEY: Final = "ca-bundle.crt"

_SLUG: Final = 24
_DIGEST: Final = 10


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the cluster says, and the children depend on."""

    targets: Targets
    certificate: Material
    kubelet_ca: str = ""
    """PEM; empty: the kubelets' certificates are not verified."""


def agent_name(observability: str) -> str:
    """Name of the DaemonSet, Service and ServiceAccount of a NodeObservability; at most 63 characters.

    ``cluster`` has the one that upstream gave it.
    """
    if observability == "cluster":
        return AGENT
    digest = hashlib.sha256(observability.encode()).hexdigest()[:_DIGEST]
    return f"{AGENT}-{observability.replace('.', '-')[:_SLUG].strip('-')}-{digest}"


def server_names(observability: str, namespace: str) -> tuple[str, ...]:
    """Names in the certificate of a NodeObservability's agents: their Service's, and one that all agents have."""
    return tuple(dict.fromkeys((*names_of(agent_name(observability), namespace), common_name(namespace))))


def common_name(namespace: str) -> str:
    """The name that every agent of the namespace proves to have."""
    return f"{AGENT}.{namespace}.svc"


def children(observability: NodeObservability, facts: Facts, config: DeployConfig) -> list[Json]:
    """The objects, each before what needs it. Their ownerReferences have them go with the NodeObservability."""
    name = agent_name(observability.metadata.name)
    metadata = _metadata(observability, name)
    within = metadata | {"namespace": config.namespace}
    found: list[Json] = [
        _service_account(within, config),
        _binding(metadata, name, config),
        _secret(within, name, facts.certificate),
    ]
    if facts.kubelet_ca:
        data = {KUBELET_CA_KEY: facts.kubelet_ca}
        document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": within | {"name": kubelet_ca_name(name)}}
        found.append(document | {"data": data})
    found.append(_service(within, name))
    found.append(
        daemon_set(
            observability.spec,
            metadata=within,
            labels={**CHILD_LABELS, INSTANCE: name},
            targets=facts.targets,
            secret=secret_name(name),
            kubelet_ca=kubelet_ca_name(name) if facts.kubelet_ca else "",
            config=config,
        )
    )
    return found


def secret_name(agents: str) -> str:
    """Name of the Secret with the certificate of the agents of that :func:`agent_name`."""
    return f"{agents}-tls"


def kubelet_ca_name(agents: str) -> str:
    """Name of the ConfigMap with the authority of the kubelets' certificates."""
    return f"{agents}-kubelet-ca"


def _metadata(observability: NodeObservability, name: str) -> Json:
    owner = {
        "apiVersion": API_VERSION,
        "kind": NodeObservability.KIND,
        "name": observability.metadata.name,
        "uid": observability.metadata.uid,
        "controller": True,
    }
    return {"name": name, "labels": {**CHILD_LABELS, INSTANCE: name}, "ownerReferences": [owner]}


def _service_account(metadata: Json, config: DeployConfig) -> Json:
    document = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    secrets = [{"name": name} for name in config.image_pull_secrets]
    return document | ({"imagePullSecrets": secrets} if secrets else {})


def _binding(metadata: Json, account: str, config: DeployConfig) -> Json:
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        # Cluster-scoped: two installations have two namespaces, whose names have no colon.
        "metadata": metadata | {"name": f"nodeobs-agent:{config.namespace}:{account}"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": AGENT_ROLE},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": config.namespace}],
    }


def _secret(metadata: Json, name: str, certificate: Material) -> Json:
    data = {key: base64.b64encode(value).decode() for key, value in certificate.to_data().items() if value is not None}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata | {"name": secret_name(name)},
        "type": "kubernetes.io/tls",
        "data": data,
    }


def _service(metadata: Json, name: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "selector": {INSTANCE: name, "app.kubernetes.io/component": "agent"},
            # Headless: each agent is called by its own address.
            "clusterIP": "None",
            "ports": [{"name": "https", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
        },
    }
