"""The agents of a service in a cluster: made by it for each NodeObservability, or by somebody else behind a Service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random

from nodeobs.agents.agent import Agent
from nodeobs.agents.client import AgentConnector
from nodeobs.agents.endpoints import ClusterRoster
from nodeobs.agents.rosters import ClusterRosters
from nodeobs.deploy.certificates import AgentAuthorities
from nodeobs.deploy.children import agent_name, common_name
from nodeobs.deploy.config import DeployConfig
from nodeobs.deploy.reconciler import Reconciler
from nodeobs.kube.client import KubeClient
from nodeobs.metrics import Metrics
from nodeobs.settings import Settings
from nodeobs.store.base import Store
from nodeobs.web.clock import utc_now
from nodeobs.web.parts import Background

_SETTLING_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class ClusterAgents:
    """How agents are found and called, and who makes them."""

    agents: Callable[[str], Sequence[Agent]]
    connector: AgentConnector
    settling_seconds: float = 0.0
    beside_leading: tuple[Background, ...] = ()
    start: Callable[[ExitStack], None] = lambda _stack: None
    """Start what every replica runs; the stack ends it."""


def somebody_elses(settings: Settings, client: KubeClient, randomness: Random) -> ClusterAgents:
    """Agents that were made by hand: one Service leads to all of them, whatever the NodeObservability."""
    roster = ClusterRoster(client, namespace=settings.agents_at, service=settings.agent_service)
    connector = AgentConnector(
        tls=settings.agent_tls,
        ca_file=settings.agent_ca_file,
        token_file=settings.agent_token_file,
        server_name=settings.agent_server_name,
        locate=roster.locate,
        now=utc_now,
        randomness=randomness,
    )
    return ClusterAgents(agents=lambda _observability: roster.agents(), connector=connector)


def our_own(
    settings: Settings, client: KubeClient, randomness: Random, *, image: str, store: Store, metrics: Metrics
) -> ClusterAgents:
    """Agents that the leader makes of each NodeObservability.

    Raises:
        ConfigurationError: a setting about them, or the folder for their authorities, cannot be used.
    """
    namespace = settings.agents_at
    config = DeployConfig(
        namespace=namespace,
        image=image,
        image_pull_policy=settings.agent_image_pull_policy,
        image_pull_secrets=settings.agent_image_pull_secrets,
        socket_folders=settings.agent_socket_folders,
        url_hosts=settings.agent_url_hosts,
        host_network=settings.agent_host_network,
        openshift=settings.openshift,
        storage_bytes=settings.agent_storage_limit,
    )
    rosters = ClusterRosters(client, namespace=namespace, service_of=agent_name)
    file = settings.data_dir / "tls" / "agents.pem"
    authorities = AgentAuthorities(client, namespace=namespace, file=file, now=utc_now, randomness=randomness)
    connector = AgentConnector(
        tls=True,
        ca_file=file,
        token_file=settings.agent_token_file,
        server_name=common_name(namespace),
        locate=rosters.locate,
        now=utc_now,
        randomness=randomness,
    )
    reconciler = Reconciler(
        client,
        store=store,
        config=config,
        connector=connector,
        kubelet_ca_file=settings.kubelet_ca_file,
        metrics=metrics,
        now=utc_now,
        randomness=randomness,
    )

    def start(stack: ExitStack) -> None:
        authorities.start()
        stack.callback(authorities.close)

    return ClusterAgents(
        agents=rosters.agents,
        connector=connector,
        settling_seconds=_SETTLING_SECONDS,
        beside_leading=(reconciler.run,),
        start=start,
    )
