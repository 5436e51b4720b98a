"""The leader's part: every NodeObservability has the children that it stands for, and its status tells how it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace as change
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Final

import structlog

from nodeobs.agents.client import AgentConnector
from nodeobs.agents.proxyfailures import NEEDED
from nodeobs.agents.via import AGENTS, beyond_kubelet
from nodeobs.debugpprof import KUBELET
from nodeobs.deploy.applier import Applier
from nodeobs.deploy.asking import Asking
from nodeobs.deploy.certificates import Certificates
from nodeobs.deploy.config import DeployConfig
from nodeobs.deploy.daemonset import node_selector
from nodeobs.deploy.deployer import Deployer
from nodeobs.deploy.observed import Observed
from nodeobs.deploy.readiness import Findings, overlaps, status_of, unknown_status
from nodeobs.deploy.rounds import AGAIN_SECONDS, keep_up
from nodeobs.deploy.seen import Node
from nodeobs.errors import ConfigurationError, Conflict, NodeobsError, NotFound
from nodeobs.kube.client import KubeClient
from nodeobs.kube.identity import OwnRight
from nodeobs.metrics import Metrics
from nodeobs.model import NodeObservability, NodeObservabilityStatus, replace
from nodeobs.store.base import Store

log = structlog.get_logger(__name__)

_SYNC_SECONDS: Final = 0.1
_PATIENCE_SECONDS: Final = 10.0
"""After which it is told that the cluster may not be looked at: an installation's rights come within moments."""


class Reconciler:
    """Reconciles while this process leads: :meth:`run` is the body of a thread."""

    def __init__(  # noqa: PLR0913 - each is named, and a part of the service
        self,
        client: KubeClient,
        *,
        store: Store,
        config: DeployConfig,
        connector: AgentConnector,
        kubelet_ca_file: Path | None,
        metrics: Metrics,
        now: Callable[[], datetime],
        randomness: Random,
    ) -> None:
        """``connector`` is for asking agents what they can profile.

        ``kubelet_ca_file`` (PEM) counts where the cluster is not OpenShift; it is read again in every round.
        """
        self._client = client
        self._store = store
        self._config = config
        self._connector = connector
        self._kubelet_ca_file = kubelet_ca_file
        self._metrics = metrics
        self._now = now
        self._randomness = randomness
        self._may_proxy = OwnRight(client, verb="get", resource="nodes", subresource="proxy", monotonic=time.monotonic)

    def run(self, stop: threading.Event) -> None:
        """Reconcile until ``stop`` is set."""
        changed = threading.Event()
        namespace = self._config.namespace
        observed = Observed(
            self._client,
            namespace=namespace,
            openshift=self._config.openshift,
            randomness=self._randomness,
            changed=changed.set,
        )
        deployer = Deployer(
            store=self._store,
            config=self._config,
            kubelet_ca_file=self._kubelet_ca_file,
            observed=observed,
            applier=Applier(self._client, monotonic=time.monotonic),
            certificates=Certificates(namespace=namespace, now=self._now),
            asking=Asking(self._connector, monotonic=time.monotonic),
        )
        observed.start()
        try:
            while not stop.is_set():
                try:
                    self._follow(deployer, changed, stop)
                except Exception:  # a thread's edge
                    log.exception("reconciling failed, trying again")
                    self._metrics.internal_errors.labels("deploy").inc()
                    stop.wait(AGAIN_SECONDS)
        finally:
            observed.close()

    def _follow(self, deployer: Deployer, changed: threading.Event, stop: threading.Event) -> None:
        while not deployer.observed.has_synced and not stop.is_set():
            stop.wait(AGAIN_SECONDS if self._told_denied(deployer) else _SYNC_SECONDS)
        keep_up(lambda: self._round(deployer, stop), changed=changed, stop=stop)

    def _told_denied(self, deployer: Deployer) -> bool:
        """Whether the cluster may not be looked at, which then is said."""
        denied = deployer.observed.denied(_PATIENCE_SECONDS)
        if not denied or not deployer.observed.observabilities.has_synced:
            return False
        for observability in deployer.observed.observabilities.items():
            try:
                self._tell(observability, unknown_status(observability, denied, now=self._now()))
            except NodeobsError as error:
                name = observability.metadata.name
                log.warning("cannot tell, trying again", nodeobservability=name, error=str(error))
        return True

    def _round(self, deployer: Deployer, stop: threading.Event) -> bool:
        """See to all of them once; whether something is left to do that has to wait."""
        known = deployer.observed.observabilities.items()
        alive = {one.metadata.name: one for one in known if one.metadata.deletion_timestamp is None}
        nodes = deployer.observed.nodes.items()
        selected = {name: _selected(one, nodes) for name, one in alive.items()}
        carrying = {
            name: frozenset(node.name for node in selected[name]) for name, one in alive.items() if _has_agents(one)
        }
        deployer.forget_others(alive)
        denied = deployer.observed.denied(_PATIENCE_SECONDS)
        deployer.applier.due = bool(denied)
        for name, observability in alive.items():
            if stop.is_set():
                break  # another process may lead already
            others = {one.metadata.uid for one in alive.values() if one is not observability}
            try:
                findings = self._findings(deployer, observability, selected[name], others)
                if denied:
                    self._tell(observability, unknown_status(observability, denied, now=self._now()))
                    continue
                notes = (*findings.notes, *(overlaps(name, carrying) if name in carrying else ()))
                self._tell(observability, status_of(observability, change(findings, notes=notes), now=self._now()))
            except (Conflict, NotFound):
                deployer.applier.due = True  # it was changed or deleted just now
            except NodeobsError as error:
                deployer.applier.due = True
                log.warning("cannot reconcile, trying again", nodeobservability=name, error=str(error))
            except Exception:  # the edge of one NodeObservability: the others go on
                deployer.applier.due = True
                log.exception("reconciling failed", nodeobservability=name)
                self._metrics.internal_errors.labels("deploy").inc()
        return deployer.applier.due

    def _findings(
        self, deployer: Deployer, observability: NodeObservability, selected: Sequence[Node], others: Collection[str]
    ) -> Findings:
        spec = observability.spec
        if _has_agents(observability):
            try:
                return deployer.deploy(observability, selected, others=others)
            except ConfigurationError as error:
                name = observability.metadata.name
                return Findings(
                    selected=selected,
                    pods=deployer.pods(name),
                    daemon_set=deployer.daemon_set(name),
                    targets=observability.status.targets,
                    problems=(str(error),),
                )
        problems, waiting = deployer.withdraw(observability)
        if spec.type == "scripting":
            problems.insert(0, "type scripting is not supported: these agents run no scripts")
            targets: tuple[str, ...] = ()
        else:
            problems += [why for _, why in beyond_kubelet(spec)]
            if not self._may_proxy():
                problems.append(NEEDED)
                deployer.applier.due = True
            targets = (KUBELET,)
        return Findings(
            selected=selected,
            agents=False,
            targets=targets,
            problems=tuple(problems),
            waiting=tuple(filter(None, [waiting])),
        )

    def _tell(self, observability: NodeObservability, status: NodeObservabilityStatus) -> None:
        """Write the status where it has changed.

        Raises:
            Conflict, NotFound: the NodeObservability has changed meanwhile.
        """
        if status != observability.status:
            self._store.update(replace(observability, status=status))


def _has_agents(observability: NodeObservability) -> bool:
    return observability.spec.via == AGENTS and observability.spec.type != "scripting"


def _selected(observability: NodeObservability, nodes: Sequence[Node]) -> tuple[Node, ...]:
    selector: Mapping[str, str] = node_selector(observability.spec)
    return tuple(node for node in nodes if node.is_selected(selector))
