"""What the cluster has, in memory: nodes, the agents' pods, and the children of NodeObservabilities."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from random import Random
from typing import Any, TypeVar

from nodeobs.deploy.children import KUBELET_CA_KEY, PATHS
from nodeobs.deploy.drift import Held
from nodeobs.deploy.seen import read_agent_pod, read_node
from nodeobs.errors import NotFound, StoreDenied
from nodeobs.kube.client import KubeClient
from nodeobs.kube.paths import CONFIG_MAPS, NODES, OBSERVABILITIES, PODS
from nodeobs.kube.rbac import OPENSHIFT_KUBELET_CA
from nodeobs.kube.watch import Reflector
from nodeobs.model import NodeObservability, decode_json

T = TypeVar("T")

_CHILDREN = {"labelSelector": "app.kubernetes.io/managed-by=nodeobs"}
_AGENTS = {"labelSelector": "app.kubernetes.io/name=nodeobs,app.kubernetes.io/component=agent"}


class Observed:
    """Follows all that reconciling depends on; ``changed`` is called, by other threads, when any of it changes."""

    def __init__(
        self, client: KubeClient, *, namespace: str, openshift: bool, randomness: Random, changed: Callable[[], None]
    ) -> None:
        def following(path: str, decode: Callable[[bytes], T], params: Mapping[str, str] | None = None) -> Reflector[T]:
            return Reflector(client, path, decode, params=params, randomness=randomness, changed=changed)

        self.observabilities = following(OBSERVABILITIES.collection(), partial(decode_json, kind=NodeObservability))
        self.nodes = following(NODES.collection(), read_node)
        self.pods = following(PODS.collection(namespace), read_agent_pod, _AGENTS)
        self._children = {
            kind: following(
                path.collection("" if kind == "ClusterRoleBinding" else namespace),
                partial(decode_json, kind=Held),
                _CHILDREN,
            )
            for kind, path in PATHS.items()
        }
        ca_namespace, ca_name = OPENSHIFT_KUBELET_CA
        self._kubelet_ca = (
            following(
                CONFIG_MAPS.collection(ca_namespace),
                partial(decode_json, kind=Held),
                {"fieldSelector": f"metadata.name={ca_name}"},
            )
            if openshift
            else None
        )
        self._namespace = namespace

    def start(self) -> None:
        """Begin; returns at once."""
        for reflector in self._all:
            reflector.start()

    def close(self) -> None:
        """End the threads, within a second."""
        with ThreadPoolExecutor(len(self._all)) as pool:
            list(pool.map(Reflector.close, self._all))

    @property
    def has_synced(self) -> bool:
        """Whether everything was listed once: before that, what is missing here may well be in the cluster."""
        return all(reflector.has_synced for reflector in self._all)

    def denied(self, seconds: float) -> str:
        """Why the API server has not let all of it be followed for so long; empty where it does, or is away."""
        for reflector in self._all:
            failing = reflector.failing
            if (
                failing is not None
                and isinstance(failing.error, StoreDenied | NotFound)
                and time.monotonic() - failing.since >= seconds
            ):
                return str(failing.error)
        return ""

    @property
    def kubelet_ca(self) -> str:
        """OpenShift's authority of its kubelets' certificates, PEM; empty elsewhere."""
        found = self._kubelet_ca and self._kubelet_ca.get(OPENSHIFT_KUBELET_CA[1], OPENSHIFT_KUBELET_CA[0])
        return (found.data or {}).get(KUBELET_CA_KEY, "") if found else ""

    def child(self, kind: str, name: str) -> Held | None:
        """The child of that kind and name."""
        return self._children[kind].get(name, "" if kind == "ClusterRoleBinding" else self._namespace)

    def children_of(self, uid: str) -> list[tuple[str, Held]]:
        """Kind and object of all that the NodeObservability with that uid owns."""
        return [
            (kind, held)
            for kind, reflector in self._children.items()
            for held in reflector.items()
            if uid in held.owners
        ]

    @property
    def _all(self) -> tuple[Reflector[Any], ...]:
        ca = (self._kubelet_ca,) if self._kubelet_ca else ()
        return (self.observabilities, self.nodes, self.pods, *self._children.values(), *ca)
