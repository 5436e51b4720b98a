"""The rights of the service, of its agents and of the people who use them: the least that each needs.

Not aggregated into the cluster's own roles: who may profile nodes is to be said on purpose. Rights on paths
(``nonResourceURLs``) hold for the API server's own paths as well, which is why ``/metrics`` has a role of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from nodeobs.kube.crds import CRD_NAMES
from nodeobs.model import GROUP

Json = dict[str, Any]

SERVICE: Final = "nodeobs"
"""Name of the service's ServiceAccount, roles, Service, Lease and webhook configuration."""
AGENT: Final = "node-observability-agent"
"""Name of the agents' ServiceAccount and Service, as upstream has it."""
VIEWER: Final = "nodeobs-viewer"
"""Name of the viewers' role, and of a ServiceAccount that has it: for whom has no token of their own."""
AGENT_ROLE: Final = "nodeobs-agent"
"""Name of the ClusterRole with what every agent may do."""
DEPLOY: Final = "nodeobs-deploy"
"""Name of the roles with what making agents takes."""
NODE_PROXY: Final = "nodeobs-node-proxy"
"""Name of the ClusterRole with which the service asks kubelets through the API server."""
OPENSHIFT_KUBELET_CA: Final = ("openshift-config-managed", "kubelet-serving-ca")
"""Namespace and name of the ConfigMap where OpenShift keeps the authority of its kubelets' certificates."""
MACHINE_GROUP: Final = "machineconfiguration.openshift.io"
"""API group of OpenShift's machine configuration."""
MACHINE_CONFIG: Final = "10-crio-nodeobservability"
"""Name of the MachineConfig that turns CRI-O's profiling on."""
MACHINE_POOL: Final = "nodeobservability"
"""Name of the MachineConfigPool of the nodes that have it."""
MACHINES: Final = "nodeobs-machine-configs"
"""Name of the ClusterRole with what changing machine configuration takes."""
TLS_SECRET: Final = "nodeobs-tls"  # noqa: S105 - a name
CA_CONFIG_MAP: Final = "nodeobs-ca"

_RBAC: Final = "rbac.authorization.k8s.io"
_OBSERVABILITIES: Final = "nodeobservabilities"
_RUNS: Final = "nodeobservabilityruns"
_MACHINE_CONFIGS: Final = "nodeobservabilitymachineconfigs"
_READ: Final = ("get", "list", "watch")
_WRITE: Final = ("create", "update", "patch", "delete")


@dataclass(frozen=True, kw_only=True)
class Features:
    """What not every cluster is to have, as it takes rights of its own."""

    deploy_agents: bool = True
    """The service makes the agents; else they have an account and a Service to be made behind."""
    via_api_server: bool = False
    """The service profiles kubelets through the API server where a NodeObservability says so."""
    openshift: bool = False
    """The cluster is OpenShift: the authority of its kubelets is followed, CRI-O's profiling can be turned on."""


def rbac(*, namespace: str, agent_namespace: str, features: Features | None = None) -> list[Json]:
    """ServiceAccounts, roles and the bindings that the service and its agents need, for the two namespaces.

    The roles for people are bound to nobody.
    """
    features = features or Features()
    return [
        _service_account(SERVICE, namespace),
        _service_account(VIEWER, namespace),
        _role(SERVICE, _service_rules()),
        _binding(SERVICE, SERVICE, account=SERVICE, of=namespace),
        _role(SERVICE, _service_rules_at_home(), namespace=namespace),
        _binding(SERVICE, SERVICE, account=SERVICE, of=namespace, namespace=namespace),
        _role(SERVICE, _service_rules_beside_agents(), namespace=agent_namespace),
        _binding(SERVICE, SERVICE, account=SERVICE, of=namespace, namespace=agent_namespace),
        _role(AGENT_ROLE, _agent_rules()),
        *(_deploying if features.deploy_agents else _by_hand)(namespace, agent_namespace),
        _role("nodeobs-metrics", [_paths(["/metrics"], ["get"])]),
        _role("nodeobs-alerts", [_paths(["/webhooks/alertmanager"], ["post"])]),
        _role(VIEWER, _viewer_rules()),
        _role("nodeobs-runner", _runner_rules()),
        _role("nodeobs-admin", _admin_rules()),
        _binding(VIEWER, VIEWER, account=VIEWER, of=namespace),
        _role("nodeobs-client", _client_rules(), namespace=namespace),
        *(_via_api_server(namespace) if features.via_api_server else []),
        *(_on_openshift(namespace) if features.openshift else []),
    ]


def _deploying(namespace: str, agent_namespace: str) -> list[Json]:
    """What making agents takes. Whoever may bind roles may bind this one alone, and it can do no more than it says."""
    read, kept = [*_READ], [*_READ, "create", "patch", "delete"]
    within = [
        _rule("", ["serviceaccounts", "secrets", "configmaps", "services"], kept),
        _rule("apps", ["daemonsets"], kept),
        _rule("", ["pods"], ["watch"]),
    ]
    everywhere = [
        _rule("", ["nodes"], ["watch"]),
        _rule(_RBAC, ["clusterrolebindings"], [*read, "create", "patch"]),
        _rule(_RBAC, ["clusterroles"], ["bind"], names=[AGENT_ROLE]),
    ]
    return [
        _role(DEPLOY, everywhere),
        _binding(DEPLOY, DEPLOY, account=SERVICE, of=namespace),
        _role(DEPLOY, within, namespace=agent_namespace),
        _binding(DEPLOY, DEPLOY, account=SERVICE, of=namespace, namespace=agent_namespace),
    ]


def _by_hand(_namespace: str, agent_namespace: str) -> list[Json]:
    return [
        _service_account(AGENT, agent_namespace),
        _binding(AGENT_ROLE, AGENT_ROLE, account=AGENT, of=agent_namespace),
    ]


def _via_api_server(namespace: str) -> list[Json]:
    return [
        # It covers more than profiles: see docs/security.md.
        _role(NODE_PROXY, [_rule("", ["nodes/proxy"], ["get"])]),
        _binding(NODE_PROXY, NODE_PROXY, account=SERVICE, of=namespace),
    ]


def _on_openshift(namespace: str) -> list[Json]:
    name, home = OPENSHIFT_KUBELET_CA[1], OPENSHIFT_KUBELET_CA[0]
    return [
        _role(DEPLOY, [_rule("", ["configmaps"], _READ, names=[name])], namespace=home),
        _binding(DEPLOY, DEPLOY, account=SERVICE, of=namespace, namespace=home),
        _role(MACHINES, _machine_rules()),
        _binding(MACHINES, MACHINES, account=SERVICE, of=namespace),
    ]


def _machine_rules() -> list[Json]:
    """A MachineConfig can change anything on its nodes: the two objects are named. It covers more: docs/security.md."""
    write = ["create", "patch", "delete"]
    return [
        _rule(MACHINE_GROUP, ["machineconfigs", "machineconfigpools"], _READ),
        _rule(MACHINE_GROUP, ["machineconfigs"], write, names=[MACHINE_CONFIG]),
        _rule(MACHINE_GROUP, ["machineconfigpools"], write, names=[MACHINE_POOL]),
        _rule("", ["nodes"], ["list", "watch", "patch"]),
    ]


def _service_rules() -> list[Json]:
    crds, hooks = "apiextensions.k8s.io", "admissionregistration.k8s.io"
    return [
        _rule(GROUP, [_RUNS, _OBSERVABILITIES], [*_READ, "create", "update", "delete"]),
        _rule(GROUP, [f"{_RUNS}/status", f"{_OBSERVABILITIES}/status"], ["update"]),
        # Objects that an old version stored are written anew; finalizers.
        _rule(GROUP, [_MACHINE_CONFIGS], ["list", "watch", "update"]),
        _rule(GROUP, [f"{_MACHINE_CONFIGS}/status"], ["update"]),
        _rule("", ["events"], ["create", "get", "update"]),
        _rule("", ["nodes"], ["list"]),
        _rule("authentication.k8s.io", ["tokenreviews"], ["create"]),
        _rule("authorization.k8s.io", ["subjectaccessreviews"], ["create"]),
        # caBundle, and the list of stored versions.
        _rule(crds, ["customresourcedefinitions"], ["get", "patch"], names=CRD_NAMES),
        _rule(crds, ["customresourcedefinitions/status"], ["patch"], names=CRD_NAMES),
        _rule(hooks, ["validatingwebhookconfigurations"], ["get", "patch"], names=[SERVICE]),
        # What the agents ask of their caller.
        _paths(["/v1/collections", "/v1/collections/*"], ["get", "post", "delete"]),
        _paths(["/v1/targets"], ["get"]),
        _paths([f"/node-observability-{call}" for call in ("pprof", "status")], ["get"]),
    ]


def _service_rules_at_home() -> list[Json]:
    leases = "coordination.k8s.io"
    return [
        _rule(leases, ["leases"], ["create"]),
        _rule(leases, ["leases"], ["get", "update"], names=[SERVICE]),
        _rule("", ["secrets"], ["create"]),
        _rule("", ["secrets"], ["get", "patch"], names=[TLS_SECRET]),
        # Answered alerts have a ConfigMap for each trigger, whose names are not known beforehand.
        _rule("", ["configmaps"], ["get", "create", "update", "patch"]),
    ]


def _service_rules_beside_agents() -> list[Json]:
    return [_rule("discovery.k8s.io", ["endpointslices"], ["list"]), _rule("", ["pods"], ["list"])]


def _agent_rules() -> list[Json]:
    return [
        # A kubelet asks for this before it shows its profiles. It covers more: see docs/security.md.
        _rule("", ["nodes/proxy"], ["get"]),
        _rule("authentication.k8s.io", ["tokenreviews"], ["create"]),
        _rule("authorization.k8s.io", ["subjectaccessreviews"], ["create"]),
    ]


def _viewer_rules() -> list[Json]:
    return [
        _rule(GROUP, [_OBSERVABILITIES, _RUNS, _MACHINE_CONFIGS], _READ),
        _rule(GROUP, [f"{_RUNS}/output"], ["get"]),
        _paths(["/", "/api/*", "/metrics"], ["get"]),
    ]


def _runner_rules() -> list[Json]:
    return [
        *_viewer_rules(),
        _rule(GROUP, [_RUNS], _WRITE),
        _rule(GROUP, [_OBSERVABILITIES], ["use"]),
        _paths(["/webhooks/alertmanager"], ["post"]),
    ]


def _admin_rules() -> list[Json]:
    return [
        *_runner_rules(),
        _rule(GROUP, [_OBSERVABILITIES, _MACHINE_CONFIGS], _WRITE),
        _paths(["/debug/pprof/profile"], ["get"]),
    ]


def _client_rules() -> list[Json]:
    """What the command line needs to reach the service by a port-forward, beside what its user may do there."""
    return [
        _rule("", ["services"], ["get"], names=[SERVICE]),
        _rule("", ["pods"], ["get", "list"]),
        _rule("", ["pods/portforward"], ["get", "create"]),
        _rule("", ["configmaps"], ["get"], names=[CA_CONFIG_MAP]),
        _rule("", ["serviceaccounts/token"], ["create"], names=[VIEWER]),
    ]


def _rule(group: str, resources: Sequence[str], verbs: Sequence[str], *, names: Sequence[str] = ()) -> Json:
    rule = {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}
    return rule | ({"resourceNames": list(names)} if names else {})


def _paths(paths: Sequence[str], verbs: Sequence[str]) -> Json:
    return {"nonResourceURLs": list(paths), "verbs": list(verbs)}


def _service_account(name: str, namespace: str) -> Json:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata(name, namespace)}


def _role(name: str, rules: Sequence[Json], *, namespace: str = "") -> Json:
    kind = "Role" if namespace else "ClusterRole"
    return {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": _metadata(name, namespace), "rules": list(rules)}


def _binding(name: str, role: str, *, account: str, of: str, namespace: str = "") -> Json:
    """The role of the same scope, bound to a ServiceAccount; in one namespace, or in all."""
    kind = "Role" if namespace else "ClusterRole"
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": _metadata(name, namespace),
        "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": of}],
    }


def _metadata(name: str, namespace: str) -> Json:
    labels = {"app.kubernetes.io/part-of": "nodeobs"}
    return {"name": name, **({"namespace": namespace} if namespace else {}), "labels": labels}


UNINSTALL: Final = "nodeobs-uninstall"
"""Name of the ServiceAccount and roles of ``nodeobs uninstall``."""


def uninstall_rbac(*, namespace: str, agent_namespace: str) -> list[Json]:
    """What ``nodeobs uninstall`` needs: a ServiceAccount, roles and their bindings."""
    who = {"account": UNINSTALL, "of": namespace}
    return [
        _service_account(UNINSTALL, namespace),
        _role(UNINSTALL, _uninstall_rules()),
        _binding(UNINSTALL, UNINSTALL, **who),
        _role(UNINSTALL, _uninstall_rules_at_home(), namespace=namespace),
        _binding(UNINSTALL, UNINSTALL, **who, namespace=namespace),
        _role(UNINSTALL, _uninstall_rules_beside_agents(), namespace=agent_namespace),
        _binding(UNINSTALL, UNINSTALL, **who, namespace=agent_namespace),
    ]


def _uninstall_rules() -> list[Json]:
    crds, hooks = "apiextensions.k8s.io", "admissionregistration.k8s.io"
    return [
        # Rewritten in the storage version, cancelled, ended, and let go of.
        _rule(GROUP, [_RUNS], ["get", "list", "update", "patch"]),
        _rule(GROUP, [f"{_RUNS}/status", f"{_OBSERVABILITIES}/status"], ["update"]),
        _rule(GROUP, [_OBSERVABILITIES], ["get", "list", "update"]),
        _rule(GROUP, [_MACHINE_CONFIGS], ["get", "list", "update", "patch"]),
        _rule(crds, ["customresourcedefinitions"], ["get", "patch"], names=CRD_NAMES),
        _rule(crds, ["customresourcedefinitions/status"], ["patch"], names=CRD_NAMES),
        _rule(hooks, ["validatingwebhookconfigurations"], ["get", "delete"], names=[SERVICE]),
        # Their names depend on NodeObservabilities'.
        _rule(_RBAC, ["clusterrolebindings"], ["list", "delete"]),
    ]


def _uninstall_rules_at_home() -> list[Json]:
    return [
        _rule("apps", ["deployments"], ["get"], names=[SERVICE]),
        _rule("apps", ["deployments/scale"], ["patch"], names=[SERVICE]),
        _rule("", ["pods"], ["list"]),
        _rule("coordination.k8s.io", ["leases"], ["get"], names=[SERVICE]),
    ]


def _uninstall_rules_beside_agents() -> list[Json]:
    kinds = ["serviceaccounts", "secrets", "configmaps", "services"]
    return [_rule("", kinds, ["list", "delete"]), _rule("apps", ["daemonsets"], ["list", "delete"])]
