"""The DaemonSet of a NodeObservability: its agents have the least that their targets need. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from nodeobs.deploy.config import DeployConfig
from nodeobs.deploy.targets import Targets
from nodeobs.model import NodeObservabilitySpec, Toleration, to_builtins

Json = dict[str, Any]

PORT: Final = 8443
STORAGE: Final = "/run/node-observability"

_TLS: Final = "/etc/nodeobs/tls"
_KUBELET_CA: Final = "/etc/nodeobs/kubelet-ca"
_SELINUX_TYPE: Final = "spc_t"
"""May speak to the sockets of container runtimes."""
_GRACE_SECONDS: Final = 45
_OS: Final = "kubernetes.io/os"


def daemon_set(
    spec: NodeObservabilitySpec,
    *,
    metadata: Mapping[str, Any],
    labels: Mapping[str, str],
    targets: Targets,
    secret: str,
    kubelet_ca: str,
    config: DeployConfig,
) -> Json:
    """The document; ``secret`` holds the agents' certificate, ``kubelet_ca`` is a ConfigMap's name, or empty."""
    volumes = _volumes(targets, secret, kubelet_ca, config)
    pod: Json = {
        "serviceAccountName": metadata["name"],
        "nodeSelector": node_selector(spec),
        "tolerations": [_given(toleration) for toleration in spec.tolerations],
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        # The variables of Services are not for a program that reads its settings from the environment.
        "enableServiceLinks": False,
        "securityContext": _identity(targets),
        "containers": [_container(targets, kubelet_ca, config) | {"resources": to_builtins(spec.resources)}],
        "volumes": volumes,
    }
    if spec.priority_class_name:
        pod["priorityClassName"] = spec.priority_class_name
    if targets.host_network:
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    selected = {key: value for key, value in labels.items() if key.endswith(("/name", "/component", "/instance"))}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": dict(metadata),
        "spec": {
            "selector": {"matchLabels": selected},
            "revisionHistoryLimit": 2,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": dict(labels)}, "spec": pod},
        },
    }


def _given(toleration: Toleration) -> Json:
    """What is not empty: the API server has no empty fields, and so would not show ours."""
    return {key: value for key, value in to_builtins(toleration).items() if value not in ("", None)}


def node_selector(spec: NodeObservabilitySpec) -> dict[str, str]:
    """Labels of the nodes that get an agent; the image is for Linux."""
    return {_OS: "linux", **spec.node_selector}


def _identity(targets: Targets) -> Json:
    """Sockets of container runtimes are root's; whoever needs none has no need to be root."""
    who: Json = {"runAsUser": 0} if targets.folders else {"runAsNonRoot": True}
    return who | {"seccompProfile": {"type": "RuntimeDefault"}}


def _container(targets: Targets, kubelet_ca: str, config: DeployConfig) -> Json:
    security: Json = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    if targets.folders and config.openshift:
        security["seLinuxOptions"] = {"type": _SELINUX_TYPE}
    return {
        "name": "agent",
        "image": config.image,
        "imagePullPolicy": config.image_pull_policy,
        "command": list(config.command),
        "args": _arguments(targets, kubelet_ca, config),
        "env": [
            _from_pod("NODE_NAME", "spec.nodeName"),
            _from_pod("NODE_IP", "status.hostIP"),
            _from_pod("POD_IP", "status.podIP"),
        ],
        "ports": [{"name": "https", "containerPort": PORT, "protocol": "TCP"}],
        # Often at first, so that a new agent is ready at once; then seldom, as each probe is a TLS handshake.
        "startupProbe": _probe("/readyz", periodSeconds=1, failureThreshold=60, timeoutSeconds=2),
        "readinessProbe": _probe("/readyz", periodSeconds=20, failureThreshold=2, timeoutSeconds=5),
        "livenessProbe": _probe("/healthz", periodSeconds=60, failureThreshold=3, timeoutSeconds=10),
        "securityContext": security,
        "volumeMounts": _mounts(targets, kubelet_ca),
    }


def _arguments(targets: Targets, kubelet_ca: str, config: DeployConfig) -> list[str]:
    return [
        # The pod's own address, whichever family it is of.
        "--host=$(POD_IP)",
        f"--port={PORT}",
        "--auth=kubernetes",
        f"--tls-cert-file={_TLS}/tls.crt",
        f"--tls-key-file={_TLS}/tls.key",
        f"--storage={STORAGE}",
        f"--max-bytes={config.storage_bytes}",
        *([f"--kubelet-ca-file={_KUBELET_CA}/ca.crt"] if kubelet_ca else []),
        *targets.arguments,
    ]


def _volumes(targets: Targets, secret: str, kubelet_ca: str, config: DeployConfig) -> list[Json]:
    # A pod that exceeds it is evicted: room for what is being written beyond what is kept.
    limit = {"sizeLimit": f"{(config.storage_bytes * 5 // 4 >> 20) + 64}Mi"}
    # Not the key of the authority's next certificate, nor anything else that the Secret holds.
    pair = [{"key": name, "path": name} for name in ("tls.crt", "tls.key")]
    volumes: list[Json] = [
        {"name": "storage", "emptyDir": limit},
        {"name": "tls", "secret": {"secretName": secret, "items": pair}},
    ]
    if kubelet_ca:
        items = [{"key": "ca-bundle.crt", "path": "ca.crt"}]
        volumes.append({"name": "kubelet-ca", "configMap": {"name": kubelet_ca, "items": items}})
    for index, folder in enumerate(targets.folders):
        # Created where it is missing: an agent without a runtime's socket still profiles the kubelet, and says so.
        host_path = {"path": folder, "type": "DirectoryOrCreate"}
        volumes.append({"name": f"socket-{index}", "hostPath": host_path})
    return volumes


def _mounts(targets: Targets, kubelet_ca: str) -> list[Json]:
    mounts: list[Json] = [
        {"name": "storage", "mountPath": STORAGE},
        {"name": "tls", "mountPath": _TLS, "readOnly": True},
    ]
    if kubelet_ca:
        mounts.append({"name": "kubelet-ca", "mountPath": _KUBELET_CA, "readOnly": True})
    for index, folder in enumerate(targets.folders):
        # A socket can be spoken to all the same.
        mounts.append({"name": f"socket-{index}", "mountPath": folder, "readOnly": True})
    return mounts


def _from_pod(name: str, field: str) -> Json:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": field}}}


def _probe(path: str, **timing: int) -> Json:
    return {"httpGet": {"path": path, "port": PORT, "scheme": "HTTPS"}, **timing}
