"""The rosters of a cluster: the agents of each NodeObservability have a Service of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace as change
from typing import Final

from nodeobs.agents.agent import Agent
from nodeobs.agents.endpoints import ClusterRoster
from nodeobs.kube.client import KubeClient

_MOST: Final = 64
"""Rosters that are kept, each with the places of all nodes: NodeObservabilities come and go."""


class ClusterRosters:
    """One roster for each NodeObservability, made when it is first asked for; those asked for last are kept."""

    def __init__(self, client: KubeClient, *, namespace: str, service_of: Callable[[str], str]) -> None:
        """``namespace`` is the agents'; ``service_of`` tells a NodeObservability's Service there."""
        self._client = client
        self._namespace = namespace
        self._service_of = service_of
        self._lock = threading.Lock()
        self._rosters: dict[str, ClusterRoster] = {}

    def agents(self, observability: str) -> list[Agent]:
        """One row for each node of the cluster, with the agent that this NodeObservability has there.

        Raises:
            StoreUnavailable: the API server cannot be asked now.
        """
        service = self._service_of(observability)
        return [change(agent, service=service) for agent in self._of(service).agents()]

    def locate(self, agent: Agent) -> Agent:
        """The agent where it was last seen; see :meth:`ClusterRoster.locate`."""
        return self._of(agent.service).locate(agent)

    def _of(self, service: str) -> ClusterRoster:
        with self._lock:
            roster = self._rosters.pop(service, None)
            if roster is None:
                roster = ClusterRoster(self._client, namespace=self._namespace, service=service)
            self._rosters[service] = roster
            if len(self._rosters) > _MOST:
                del self._rosters[next(iter(self._rosters))]
            return roster
