"""What agents say of their targets: nobody else knows whether a socket answers."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from nodeobs.agents.agent import Agent
from nodeobs.agents.client import AgentConnector
from nodeobs.deploy.daemonset import PORT
from nodeobs.deploy.seen import AgentPod
from nodeobs.errors import AgentError, InvalidInput
from nodeobs.model import FailureReason, TargetInfo, TargetList, decode_json

log = structlog.get_logger(__name__)

_MOST: Final = 8
"""Agents of each NodeObservability that are asked; each has the API server review who asks."""
_GOOD_SECONDS: Final = 1800.0
_BAD_SECONDS: Final = 300.0
_LIMIT_SECONDS: Final = 5.0
_NAMED: Final = 3


@dataclass(frozen=True)
class _Said:
    until: float
    """To be asked again then."""
    targets: tuple[TargetInfo, ...]
    """Those that cannot be profiled."""


class Asking:
    """Asks a few agents of each NodeObservability, and again every half hour; where something is amiss, sooner."""

    def __init__(self, connector: AgentConnector, *, monotonic: Callable[[], float]) -> None:
        self._connector = connector
        self._monotonic = monotonic
        self._said: dict[str, dict[str, _Said]] = {}
        """By the NodeObservability's agents' name, then by the pod's."""

    def complaints(self, agents: str, pods: Iterable[AgentPod]) -> tuple[str, ...]:
        """Sentences about the targets that some of these agents cannot profile; waits for five seconds at most."""
        asked = sorted((pod for pod in pods if pod.ready and pod.address), key=lambda pod: pod.pod.node)[:_MOST]
        known, now = self._said.get(agents, {}), self._monotonic()
        said = {name: known[name] for pod in asked if (name := pod.pod.metadata.name) in known}
        due = [pod for pod in asked if pod.pod.metadata.name not in said or said[pod.pod.metadata.name].until <= now]
        if due:
            for pod, targets in zip(due, asyncio.run(self._ask(due)), strict=True):
                amiss = tuple(target for target in targets or () if not target.available)
                pause = _BAD_SECONDS if amiss or targets is None else _GOOD_SECONDS
                said[pod.pod.metadata.name] = _Said(now + pause, amiss)
        self._said[agents] = said
        return _sentences({pod.pod.node: said[pod.pod.metadata.name].targets for pod in asked})

    def forget_others(self, agents: Collection[str]) -> None:
        """Forget what was said by agents that are gone; ``agents`` are the names of those that are there."""
        self._said = {name: said for name, said in self._said.items() if name in agents}

    async def _ask(self, pods: Sequence[AgentPod]) -> list[tuple[TargetInfo, ...] | None]:
        return await asyncio.gather(*(self._targets(pod) for pod in pods))

    async def _targets(self, pod: AgentPod) -> tuple[TargetInfo, ...] | None:
        """What it offers; None where it does not say."""
        agent = Agent(pod.pod.node, host=pod.address, port=PORT)
        try:
            async with self._connector.connect(
                agent, connect_seconds=_LIMIT_SECONDS, read_seconds=_LIMIT_SECONDS
            ) as client:
                answer = await client.exchange("GET", "/v1/targets", limit=_LIMIT_SECONDS)
            if answer.status != 200:
                log.info("an agent does not tell its targets", node=agent.name, status=answer.status)
                return None
            return decode_json(answer.body, TargetList).targets
        except (AgentError, InvalidInput) as error:
            log.info("an agent does not tell its targets", node=agent.name, error=str(error))
            return None


def _sentences(amiss: Mapping[str, Iterable[TargetInfo]]) -> tuple[str, ...]:
    """One for each target and reason; ``amiss`` is by node."""
    found: defaultdict[tuple[str, FailureReason | None], list[tuple[str, str]]] = defaultdict(list)
    for node, targets in amiss.items():
        for target in targets:
            found[target.name, target.reason].append((node, target.message))
    return tuple(_sentence(name, reason, found[name, reason]) for name, reason in sorted(found, key=str))


def _sentence(name: str, reason: FailureReason | None, where: Sequence[tuple[str, str]]) -> str:
    nodes = ", ".join(node for node, _ in where[:_NAMED]) + (" and others" if len(where) > _NAMED else "")
    if (name, reason) == ("crio", FailureReason.PROFILING_DISABLED):
        return (
            f"CRI-O's profiling is off on {nodes}: on OpenShift a NodeObservabilityMachineConfig with "
            "spec.debug.enableCrioProfiling turns it on, which can restart nodes; elsewhere start CRI-O with "
            "--enable-profile-unix-socket"
        )
    return f"{name} cannot be profiled on {nodes}: {where[0][1]}"
