"""NodeObservabilities and facts for tests of what is pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from nodeobs.deploy.children import Facts, children, server_names
from nodeobs.deploy.config import DeployConfig
from nodeobs.deploy.targets import choose
from nodeobs.kube.authority import mend
from nodeobs.model import NodeObservability, from_builtins

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NAMESPACE = "nodeobs-agents"


def config(**given: Any) -> DeployConfig:
    return DeployConfig(**({"namespace": NAMESPACE, "image": "registry.example/nodeobs:1"} | given))


def observability(name: str = "cluster", **spec: Any) -> NodeObservability:
    metadata = {"name": name, "uid": f"uid-of-{name}", "generation": 3, "resourceVersion": "1"}
    return from_builtins({"metadata": metadata, "spec": spec}, NodeObservability)


def made(
    name: str = "cluster",
    *,
    runtimes: tuple[str, ...] = ("containerd",),
    kubelet_ca: str = "",
    given: DeployConfig | None = None,
    **spec: Any,
) -> dict[str, dict[str, Any]]:
    """The children by kind."""
    parent, decided = observability(name, **spec), given or config()
    facts = Facts(
        targets=choose(parent.spec, runtimes=runtimes, config=decided),
        certificate=mend(None, names=server_names(name, NAMESPACE), now=NOW),
        kubelet_ca=kubelet_ca,
    )
    return {document["kind"]: document for document in children(parent, facts, decided)}
