from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nodeobs.agents.agent import Agent
from nodeobs.agents.roster import select
from nodeobs.model import FailureReason

WORKERS = [
    Agent("a", "10.0.0.1", 8443, {"role": "worker", "zone": "x"}),
    Agent("b", "10.0.0.2", 8443, {"role": "worker", "zone": "y"}),
    Agent("m", "10.0.0.3", 8443, {"role": "master"}),
]

_labels = st.dictionaries(st.sampled_from(["zone", "role"]), st.sampled_from(["x", "y"]), max_size=2)
_names = st.sampled_from([f"node-{number}" for number in range(6)])
_agents = st.lists(st.builds(Agent, _names, st.sampled_from(["10.0.0.1", "10.0.0.2"]), st.just(1), _labels), max_size=6)


def names(agents: tuple[Agent, ...]) -> list[str]:
    return [agent.name for agent in agents]


def test_selectors_choose_and_empty_ones_take_all() -> None:
    both = select(WORKERS, node_selector={"role": "worker"}, run_selector={"zone": "y"}, nodes=())
    everything = select(WORKERS, node_selector={}, run_selector={}, nodes=())
    assert names(both.agents) == ["b"]
    assert names(everything.agents) == ["a", "b", "m"]
    assert both.missing == everything.missing == ()


def test_a_node_asked_for_without_an_agent_is_a_failure_that_says_why() -> None:
    chosen = select(WORKERS, node_selector={"role": "worker"}, run_selector={"zone": "x"}, nodes=["a", "b", "m", "n"])
    assert names(chosen.agents) == ["a"]
    assert {outcome.agent.name: outcome.message for outcome in chosen.missing} == {
        "b": "node b is not selected by the Run's nodeSelector zone=x",
        "m": "node m is not selected by the NodeObservability's nodeSelector role=worker",
        "n": "no node is known as n: check the name, or add its agent where the configuration lists them",
    }
    assert {outcome.reason for outcome in chosen.missing} == {FailureReason.NO_AGENT}


def test_nodes_can_be_named_by_their_address() -> None:
    chosen = select(WORKERS, node_selector={}, run_selector={}, nodes=["10.0.0.2", "b", "10.9.9.9"])
    assert names(chosen.agents) == ["b"]
    assert [outcome.agent.name for outcome in chosen.missing] == ["10.9.9.9"]


@given(_agents, _labels, _labels, st.lists(_names, max_size=6))
def test_nothing_is_left_out_and_nothing_counts_twice(
    agents: list[Agent], node_selector: dict[str, str], run_selector: dict[str, str], nodes: list[str]
) -> None:
    chosen = select(agents, node_selector=node_selector, run_selector=run_selector, nodes=nodes)
    here, missing = names(chosen.agents), [outcome.agent.name for outcome in chosen.missing]
    assert len({*here, *missing}) == len(here) + len(missing)
    for agent in chosen.agents:
        assert node_selector.items() <= agent.labels.items()
        assert run_selector.items() <= agent.labels.items()
        assert agent == next(row for row in agents if row.name == agent.name)
    if nodes:
        assert {*here, *missing} == {*nodes}
    else:
        assert missing == []
