"""``nodeobs uninstall`` with the rights of its role and no others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from click.testing import CliRunner, Result

from nodeobs.cli import main
from nodeobs.errors import NotFound
from nodeobs.kube.paths import ResourcePath
from nodeobs.kube.rbac import UNINSTALL, uninstall_rbac
from tests.cluster.world import DEFINITIONS, KubeWorld

Uninstall = Callable[..., Result]

CLUSTER_ROLES: Final = [
    ResourcePath("/apis/rbac.authorization.k8s.io/v1", name) for name in ("clusterroles", "clusterrolebindings")
]


@contextmanager
def uninstaller(world: KubeWorld) -> Iterator[Uninstall]:
    """The command as the ServiceAccount that the chart's hook has."""
    roles = uninstall_rbac(namespace=world.namespace, agent_namespace=world.agent_namespace)
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": roles})
    world.api.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=listed)
    kubeconfig = world.api.kubeconfig_for(world.namespace, UNINSTALL, world.folder)
    for resource, namespace in (("pods", world.namespace), ("secrets", world.agent_namespace)):
        world.api.wait_allowed(user(world), "list", resource, namespace)

    def invoke(*arguments: str, yes: bool = True) -> Result:
        where = ["--kubeconfig", str(kubeconfig), "--namespace", world.namespace]
        options = [*where, *(["--yes"] if yes else []), *arguments]
        return CliRunner().invoke(main, ["uninstall", *options], catch_exceptions=False)

    try:
        yield invoke
    finally:
        for path in CLUSTER_ROLES:
            with suppress(NotFound):
                world.admin.request("DELETE", path.item(UNINSTALL))


def user(world: KubeWorld) -> str:
    """Who the command is to the API server."""
    return f"system:serviceaccount:{world.namespace}:{UNINSTALL}"


def definition(world: KubeWorld, name: str) -> dict[str, Any]:
    """The CustomResourceDefinition as it is now."""
    found: dict[str, Any] = json.loads(world.admin.get(DEFINITIONS.item(name)))
    return found


def served(world: KubeWorld, name: str) -> list[str]:
    """The versions that it serves."""
    return [version["name"] for version in definition(world, name)["spec"]["versions"] if version["served"]]
