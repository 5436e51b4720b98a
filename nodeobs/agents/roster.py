"""Which agents take part in a Run. Pure: the rows come from the configuration, or from a cluster's endpoints."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nodeobs.agents.agent import Agent, AgentOutcome
from nodeobs.model import FailureReason


@dataclass(frozen=True)
class Selection:
    """A Run's agents, and the nodes that were asked for and have none: nothing is left out."""

    agents: tuple[Agent, ...]
    missing: tuple[AgentOutcome, ...]


def select(
    agents: Iterable[Agent],
    *,
    node_selector: Mapping[str, str],
    run_selector: Mapping[str, str],
    nodes: Sequence[str],
) -> Selection:
    """Choose the agents of a Run: the NodeObservability's that the Run asks for.

    ``node_selector`` is the NodeObservability's, ``run_selector`` the Run's; an empty one takes all. ``nodes`` are
    names, or addresses as alerts carry them; empty takes all. A node that is listed twice counts once, by its first
    row. One whose row has no host is missing, for the reason that the row gives, but where none is needed.
    """
    rows: dict[str, Agent] = {}
    for agent in agents:
        rows.setdefault(agent.name, agent)
    allowed = {name: agent for name, agent in rows.items() if _matches(agent, node_selector)}
    subset = {name: agent for name, agent in allowed.items() if _matches(agent, run_selector)}
    if not nodes:
        return _selection(subset.values(), {})
    by_address: defaultdict[str, list[Agent]] = defaultdict(list)
    for agent in rows.values():
        for address in {_canonical(text) for text in (agent.host, *agent.other_hosts, *agent.addresses)}:
            by_address[address].append(agent)
    chosen: dict[str, Agent] = {}
    missing: dict[str, AgentOutcome] = {}
    for node in nodes:
        known = [rows[node]] if node in rows else by_address[_canonical(node)]
        found = [agent for agent in known if agent.name in subset]
        chosen.update((agent.name, agent) for agent in found)
        if not found:
            permitted = [agent for agent in known if agent.name in allowed]
            why = _why_not(node, known, permitted, node_selector, run_selector)
            for agent in known or [Agent(node)]:
                missing[agent.name] = AgentOutcome(agent, FailureReason.NO_AGENT, why)
    return _selection(chosen.values(), missing)


def _selection(chosen: Iterable[Agent], missing: Mapping[str, AgentOutcome]) -> Selection:
    agents, absent = [], dict(missing)
    for agent in chosen:
        if agent.host or agent.proxied:
            agents.append(agent)
        else:
            absent[agent.name] = AgentOutcome(agent, FailureReason.NO_AGENT, no_agent(agent))
    return Selection(tuple(agents), tuple(absent.values()))


def no_agent(agent: Agent) -> str:
    """The message for a node without an agent."""
    return f"{agent.name}: no agent: {agent.problem or 'it has no endpoint'}"


def _canonical(address: str) -> str:
    """One way to write each IP address; anything else as it is."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def _matches(agent: Agent, selector: Mapping[str, str]) -> bool:
    return all(agent.labels.get(key) == value for key, value in selector.items())


def _why_not(
    node: str,
    known: Sequence[Agent],
    allowed: Sequence[Agent],
    node_selector: Mapping[str, str],
    run_selector: Mapping[str, str],
) -> str:
    if not known:
        return (
            f"no node is known as {node}: check the name; in a cluster `kubectl get nodes` has them, elsewhere the "
            "setting agents"
        )
    if not allowed:
        return f"node {node} is not selected by the NodeObservability's nodeSelector {_write(node_selector)}"
    return f"node {node} is not selected by the Run's nodeSelector {_write(run_selector)}"


def _write(selector: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in selector.items())
