"""One NodeObservability in one round: its children are made, changed or removed, and what was found is told."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodeobs.debugpprof import KUBELET
from nodeobs.deploy.applier import Applier
from nodeobs.deploy.asking import Asking
from nodeobs.deploy.certificates import Certificates
from nodeobs.deploy.children import KUBELET_CA_KEY, Facts, agent_name, children, kubelet_ca_name
from nodeobs.deploy.config import DeployConfig
from nodeobs.deploy.drift import Held, stamped
from nodeobs.deploy.observed import Observed
from nodeobs.deploy.readiness import Findings
from nodeobs.deploy.seen import AgentPod, Node
from nodeobs.deploy.targets import choose
from nodeobs.errors import ConfigurationError
from nodeobs.model import NodeObservability, Phase, Run
from nodeobs.store.base import Store

_NOT_VERIFIED = (
    "the certificates of the kubelets are not verified, as no authority is configured: each agent asks its own node's "
    "address only"
)


@dataclass(frozen=True, kw_only=True)
class Deployer:
    """What deploying needs; for one term of leadership."""

    store: Store
    config: DeployConfig
    kubelet_ca_file: Path | None
    observed: Observed
    applier: Applier
    certificates: Certificates
    asking: Asking

    def deploy(
        self, observability: NodeObservability, selected: Sequence[Node], *, others: Collection[str]
    ) -> Findings:
        """Have it as it is wanted. ``others`` are the uids of the other NodeObservabilities.

        Raises:
            ConfigurationError: the authority of the kubelets' certificates cannot be read, and never was.
            StoreUnavailable: the API server cannot be asked now.
        """
        name = observability.metadata.name
        runtimes = {node.runtime for node in selected if node.runtime}
        targets = choose(observability.spec, runtimes=runtimes, config=self.config)
        certificate = self.certificates.of(name, self.observed.child("Secret", self.certificates.secret(name)))
        kubelet_ca, unread = self._kubelet_ca(name) if KUBELET in targets.names else ("", "")
        facts = Facts(targets=targets, certificate=certificate, kubelet_ca=kubelet_ca)
        wanted = [stamped(document) for document in children(observability, facts, self.config)]
        problems, waiting = [*targets.problems, unread], ""
        for document in wanted:
            held = self.observed.child(document["kind"], document["metadata"]["name"])
            if document["kind"] == "DaemonSet" and held is not None and not held.is_as(document):
                waiting = self._wait_for_run(name)
            if not waiting:
                problems.append(self.applier.keep(document, held, others=others))
        if not waiting:
            kept = {(document["kind"], document["metadata"]["name"]) for document in wanted}
            problems += self._remove(observability, kept)
        agents, pods = agent_name(name), self.pods(name)
        verified = KUBELET not in targets.names or bool(kubelet_ca)
        return Findings(
            selected=selected,
            pods=pods,
            daemon_set=self.daemon_set(name),
            targets=targets.names,
            problems=tuple(filter(None, problems)),
            waiting=tuple(filter(None, [waiting])),
            notes=(
                *self.asking.complaints(agents, pods),
                *targets.notes,
                *([] if verified else [_NOT_VERIFIED]),
            ),
        )

    def pods(self, observability: str) -> list[AgentPod]:
        """The pods that it has."""
        agents = agent_name(observability)
        return [pod for pod in self.observed.pods.items() if pod.instance == agents]

    def daemon_set(self, observability: str) -> Held | None:
        """The DaemonSet that it has."""
        return self.observed.child("DaemonSet", agent_name(observability))

    def forget_others(self, observabilities: Collection[str]) -> None:
        """Forget the NodeObservabilities that are gone; these are the names of those that are there."""
        self.certificates.forget_others(observabilities)
        self.asking.forget_others({agent_name(name) for name in observabilities})

    def withdraw(self, observability: NodeObservability) -> tuple[list[str], str]:
        """Have no agents. What cannot be removed and why, and what that waits for.

        The ClusterRoleBinding stays until the NodeObservability goes: without its ServiceAccount it gives nobody
        anything, and the service need not have the right to delete bindings.
        """
        if not any(kind == "DaemonSet" for kind, _ in self.observed.children_of(observability.metadata.uid)):
            return self._remove(observability, set()), ""
        waiting = self._wait_for_run(observability.metadata.name)
        return ([], waiting) if waiting else (self._remove(observability, set()), "")

    def _remove(self, observability: NodeObservability, kept: Collection[tuple[str, str]]) -> list[str]:
        problems = [
            self.applier.remove(kind, held)
            for kind, held in self.observed.children_of(observability.metadata.uid)
            if (kind, held.metadata.name) not in kept and kind != "ClusterRoleBinding"
        ]
        return [problem for problem in problems if problem]

    def _wait_for_run(self, observability: str) -> str:
        """The sentence that tells which Run is going on; empty where none is. One that is Pending has no agents yet."""
        for run in self.store.list(Run, unfinished=True):
            engaged = run.status.phase in (Phase.RUNNING, Phase.RETRIEVING)
            if engaged and run.spec.node_observability_ref.name == observability:
                self.applier.due = True
                return f"a change of the agents waits until Run {run.key} is over"
        return ""

    def _kubelet_ca(self, observability: str) -> tuple[str, str]:
        """The authority, and why it is not as it should be.

        Never empty where there is one, or was: agents would take any certificate.
        """
        if self.observed.kubelet_ca or self.kubelet_ca_file is None:
            return self.observed.kubelet_ca or (self._copied_ca(observability) if self.config.openshift else ""), ""
        try:
            return _read_authority(self.kubelet_ca_file), ""
        except ConfigurationError as error:
            if copied := self._copied_ca(observability):
                return copied, str(error)
            raise

    def _copied_ca(self, observability: str) -> str:
        """What was copied of it before it went away."""
        copied = self.observed.child("ConfigMap", kubelet_ca_name(agent_name(observability)))
        return (copied.data or {}).get(KUBELET_CA_KEY, "") if copied else ""


def _read_authority(file: Path) -> str:
    try:
        content = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the authority of the kubelets' certificates cannot be read from {file}: {error}"
        ) from error
    if not content.strip():
        raise ConfigurationError(f"the authority of the kubelets' certificates is not in {file}")
    return content
