"""The leader's part: NodeObservabilityMachineConfigs turn CRI-O's profiling on and off, and say how far that is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace as change
from datetime import datetime
from functools import partial
from random import Random
from typing import Any, Final

import structlog

from nodeobs.deploy.applier import Applier
from nodeobs.deploy.machineconfigs import FINALIZER, View, asks, is_held, left, pool_needed, status_of, verdict
from nodeobs.deploy.machineobserved import MachinesObserved, Stored, Unread
from nodeobs.deploy.machines import (
    NODE_MANAGER,
    PATHS,
    Machine,
    Made,
    machine_config,
    machine_config_pool,
    node_with,
)
from nodeobs.deploy.rounds import AGAIN_SECONDS, keep_up
from nodeobs.errors import Conflict, NodeobsError, NotFound
from nodeobs.kube.client import KubeClient
from nodeobs.kube.paths import MACHINE_CONFIGS, NODES
from nodeobs.metrics import Metrics
from nodeobs.model import to_builtins
from nodeobs.typed import decode

log = structlog.get_logger(__name__)

_TOLD: Final = 3
"""So many nodes that cannot be written are named."""


class MachineConfigReconciler:
    """Reconciles while this process leads: :meth:`run` is the body of a thread."""

    def __init__(
        self,
        client: KubeClient,
        *,
        openshift: bool,
        metrics: Metrics,
        now: Callable[[], datetime],
        randomness: Random,
    ) -> None:
        """``openshift`` is whether the cluster is one: elsewhere nothing is changed, and each of them says why."""
        self._client = client
        self._openshift = openshift
        self._metrics = metrics
        self._now = now
        self._randomness = randomness

    def run(self, stop: threading.Event) -> None:
        """Reconcile until ``stop`` is set."""
        changed = threading.Event()
        observed = MachinesObserved(
            self._client, openshift=self._openshift, randomness=self._randomness, changed=changed.set
        )
        rounds = _Rounds(self._client, observed, now=self._now, stop=stop)
        observed.start()
        try:
            while not stop.is_set():
                try:
                    keep_up(rounds.go, changed=changed, stop=stop)
                except Exception:  # a thread's edge
                    log.exception("reconciling machine configuration failed, trying again")
                    self._metrics.internal_errors.labels("deploy").inc()
                    stop.wait(AGAIN_SECONDS)
        finally:
            observed.close()


class _Rounds:
    """Sees to all of them, again and again."""

    def __init__(
        self, client: KubeClient, observed: MachinesObserved, *, now: Callable[[], datetime], stop: threading.Event
    ) -> None:
        self._client = client
        self._observed = observed
        self._applier = Applier(client, monotonic=time.monotonic, paths=PATHS)
        self._now = now
        self._stop = stop
        self._everyone: Sequence[Stored | Unread] = ()
        """As this round found them."""

    def go(self) -> bool:
        """One round; whether something is left to do that has to wait."""
        self._applier.due = False
        if not self._observed.configs.has_synced:
            return True
        # What is concluded from them, and what is written over them, are of the same moment.
        everyone = self._everyone = self._observed.configs.items()
        try:
            view = self._observed.view(everyone)
        except NodeobsError as error:
            log.warning("cannot tell whether there is machine configuration, trying again", error=str(error))
            return True
        if view is None:
            return True
        self._applier.due = not self._observed.is_followed  # look again soon
        if view.served and view.known:
            view = change(view, problems=[*self._turn_on(view), *self._turn_off(view)])
        for stored in everyone:
            if isinstance(stored, Unread):
                continue
            try:
                self._settle(stored, view)
            except (Conflict, NotFound):
                self._applier.due = True  # it was changed or deleted just now
            except NodeobsError as error:
                self._applier.due = True
                log.warning("cannot write, trying again", nobmc=stored.config.metadata.name, error=str(error))
        return self._applier.due

    def _turn_on(self, view: View) -> list[str]:
        """Make what is wanted; why it cannot be made."""
        if not view.chosen:
            return []
        # The nodes last, so that they restart once: into a pool that has all it is to have.
        for document, made in ((machine_config(), view.machine_config), (machine_config_pool(), view.pool)):
            if problem := self._applier.keep(document, made.unchanged(document) if made else None, others=()):
                return [problem]
        return self._label(view.to_label, on=True)

    def _turn_off(self, view: View) -> list[str]:
        """Take away what is not wanted any more; why it cannot be taken away."""
        problems = self._label(view.to_unlabel, on=False)
        # Only once memory has every label off: some may not have been tried, as where this process is about to end.
        if problems or view.asking or view.unread or view.to_unlabel:
            return problems
        if view.machine_config is not None and view.machine_config.ours:
            return self._remove("MachineConfig", view.machine_config, self._observed.is_unlabelled)
        if view.pool is not None and view.pool.ours and not pool_needed(view):
            return self._remove("MachineConfigPool", view.pool, self._observed.is_left)
        return []

    def _remove(self, kind: str, made: Made, unused: Callable[[], bool]) -> list[str]:
        """Delete it if it is ``unused`` by the cluster itself: memory may not know yet of nodes that were labelled."""
        try:
            if not unused():
                self._applier.due = True  # memory is behind
                return []
        except NodeobsError as error:
            self._applier.due = True
            return [f"{kind} {made.held.metadata.name} stays while nodes cannot be listed: {error}"]
        problem = self._applier.remove(kind, made.held)
        return [problem] if problem else []

    def _label(self, machines: Sequence[Machine], *, on: bool) -> list[str]:
        problems = []
        for machine in machines:
            if self._stop.is_set() or self._observed.configs.items() != self._everyone:
                break  # what is wanted may be another now, and each node may restart
            problem = self._applier.attempt(
                ("Node", machine.name), f"label {on}", partial(self._write_label, machine, on=on)
            )
            problems += [problem] if problem else []
        return problems[:_TOLD]

    def _write_label(self, machine: Machine, *, on: bool) -> None:
        log.info("writing the label of a node", node=machine.name, on=on)
        try:
            self._client.request(
                "PATCH",
                NODES.item(machine.name),
                node_with(machine, label=on),
                params={"fieldManager": NODE_MANAGER},
                content_type="application/apply-patch+yaml",
            )
        except (NotFound, Conflict):
            return  # it has gone, or somebody else set the label just now

    def _settle(self, stored: Stored, view: View) -> None:
        """Write the finalizer or the status where it has changed; one of them, as memory has to come to know of it.

        Raises:
            Conflict, NotFound: it has changed meanwhile.
        """
        config = stored.config
        leaving = config.metadata.deletion_timestamp is not None
        if view.served and view.known and asks(config) and not is_held(config):
            self._write(stored, finalizers=(*config.metadata.finalizers, FINALIZER))
            return
        released = is_held(config) and not asks(config) and self._is_over(view)
        status = status_of(config, verdict(config, view), now=self._now())
        if status != config.status and not (leaving and (released or not is_held(config))):
            body = decode(stored.raw, dict[str, Any]) | {"status": to_builtins(status)}
            path = MACHINE_CONFIGS.item(config.metadata.name, subresource="status")
            self._client.request("PUT", path, body)
        elif released:
            self._write(stored, finalizers=tuple(one for one in config.metadata.finalizers if one != FINALIZER))

    def _is_over(self, view: View) -> bool:
        """Whether all that is to be turned off is off."""
        if view.stranded:
            return False
        if not view.served:
            return True
        if not view.known or left(view):
            return False
        if self._observed.is_clean(view):
            return True
        self._applier.due = True  # memory is behind
        return False

    def _write(self, stored: Stored, *, finalizers: Sequence[str]) -> None:
        body = decode(stored.raw, dict[str, Any])
        body["metadata"]["finalizers"] = list(finalizers)
        self._client.request("PUT", MACHINE_CONFIGS.item(stored.config.metadata.name), body)
