"""The parts of a service in a cluster: custom resources, a Lease, the API server's reviews, agents behind a Service."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from contextlib import ExitStack

import structlog

from nodeobs.agents.endpoints import NodeRoster
from nodeobs.agents.nodeproxy import NodeProxy
from nodeobs.deploy.machineconfig_reconciler import MachineConfigReconciler
from nodeobs.kube.certificates import CertificateKeeper
from nodeobs.kube.client import KubeClient
from nodeobs.kube.crds import CRD_NAMES
from nodeobs.kube.credentials import load_credentials
from nodeobs.kube.events import EventRecorder
from nodeobs.kube.identity import OwnUser
from nodeobs.kube.lease import LeaseLeadership
from nodeobs.kube.migration import Migration
from nodeobs.kube.reviewer import Reviewer
from nodeobs.metrics import Metrics
from nodeobs.model import Run
from nodeobs.runs.admission import Admission
from nodeobs.runs.rules import highest_term
from nodeobs.settings import Settings
from nodeobs.store.kube import KubeStore
from nodeobs.store.reflected import ReflectedReader
from nodeobs.web.access import ClusterAccess
from nodeobs.web.clock import utc_now
from nodeobs.web.clusteragents import our_own, somebody_elses
from nodeobs.web.parts import Background, Parts
from nodeobs.web.server import own_certificate

log = structlog.get_logger(__name__)

_CREATIONS = 32
_ADMISSION_SECONDS = 2.0
"""For asking who may use a NodeObservability, while the API server waits for our answer to its question."""


def clustered_parts(settings: Settings, metrics: Metrics) -> Parts:
    """Parts that keep everything at the API server.

    Raises:
        ConfigurationError: there are no usable credentials for it.
    """
    client = KubeClient(load_credentials(kubeconfig=settings.kubeconfig, environ=os.environ))
    store = KubeStore(client, namespace=settings.namespace)
    randomness = random.Random()  # noqa: S311 spreads requests, keeps no secret
    holder = f"{socket.gethostname()}-{os.getpid()}-{randomness.getrandbits(32):08x}"
    if settings.agent_image is None:
        agents = somebody_elses(settings, client, randomness)
    else:
        agents = our_own(settings, client, randomness, image=settings.agent_image, store=store, metrics=metrics)
    recorder = EventRecorder(client, now=utc_now, instance=holder)
    reader = ReflectedReader.of(client, store, randomness=randomness)
    keeper = _keeper(settings, client, metrics, randomness)
    migration = Migration(client, [name.partition(".")[0] for name in CRD_NAMES])
    machine_configs = MachineConfigReconciler(
        client, openshift=settings.openshift, metrics=metrics, now=utc_now, randomness=randomness
    )

    def start(stack: ExitStack, stop: threading.Event) -> None:
        log.info("Runs are kept by the API server", server=client.credentials.server, namespace=settings.namespace)
        stack.callback(client.close)
        recorder.start()
        stack.callback(recorder.close)
        reader.start()
        stack.callback(reader.close)
        agents.start(stack)
        if keeper is not None:
            _thread(keeper.run, stop, "certificates")

    return Parts(
        store=store,
        leadership=_leadership(settings, client, store, holder, randomness),
        access=ClusterAccess(Reviewer(client)),
        connector=agents.connector,
        agents=agents.agents,
        node_proxy=NodeProxy(client.credentials, nodes=NodeRoster(client).agents, now=utc_now, randomness=randomness),
        settling_seconds=agents.settling_seconds,
        recorder=recorder,
        admission=Admission(
            reader=reader,
            store=store,
            reviewer=Reviewer(client, seconds=_ADMISSION_SECONDS),
            own_user=OwnUser(client),
            published=lambda: keeper is None or keeper.ready,
            metrics=metrics,
            now=utc_now,
        ),
        creations=_CREATIONS,
        beside_leading=(migration.run, machine_configs.run, *agents.beside_leading),
        start=start,
    )


def _leadership(
    settings: Settings, client: KubeClient, store: KubeStore, holder: str, randomness: random.Random
) -> LeaseLeadership:
    return LeaseLeadership(
        client,
        namespace=settings.namespace,
        name=settings.service_name,
        holder=holder,
        known_term=lambda: highest_term(store.list(Run, unfinished=True)),
        now=utc_now,
        monotonic=time.monotonic,
        randomness=randomness,
    )


def _keeper(
    settings: Settings, client: KubeClient, metrics: Metrics, randomness: random.Random
) -> CertificateKeeper | None:
    """Who keeps the webhooks' certificate; None where somebody else does."""
    certificate = own_certificate(settings)
    if certificate is None:
        return None
    return CertificateKeeper(
        client,
        namespace=settings.namespace,
        service_name=settings.service_name,
        webhook_configuration=settings.webhook_configuration,
        crd_names=CRD_NAMES,
        file=certificate,
        metrics=metrics,
        now=utc_now,
        randomness=randomness,
    )


def _thread(body: Background, stop: threading.Event, name: str) -> None:
    threading.Thread(target=body, args=(stop,), name=name, daemon=True).start()
