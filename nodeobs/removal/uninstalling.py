"""All steps in their order. Each finds out what is left to do, so that they can be broken off and begun again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from nodeobs.kube.client import KubeClient
from nodeobs.removal.agents import remove_admission, remove_agents
from nodeobs.removal.changes import Changes
from nodeobs.removal.place import check_admission
from nodeobs.removal.resources import Resources
from nodeobs.removal.stopping import Stopping


def uninstall(
    client: KubeClient,
    changes: Changes,
    *,
    namespace: str,
    agent_namespace: str,
    timeout: float,
    now: Callable[[], datetime],
) -> None:
    """Prepare the cluster for a life without the service; its custom resources stay.

    Raises:
        RemovalRefused: it would lose something, or somebody would make everything anew.
        RemovalTimedOut: the service does not end.
        StoreError: the API server cannot be reached, or refuses.
    """
    resources = Resources(client, namespace=namespace, changes=changes, now=now)
    service = Stopping(client, namespace=namespace, changes=changes, timeout=timeout)
    resources.migrate()  # needs the service
    check_admission(client, namespace=namespace)
    service.cancel_runs()
    service.stop()
    remove_admission(client, changes)
    remove_agents(client, changes, namespace=agent_namespace)
    resources.release()
    resources.retract()
    resources.narrow()
