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
        "n": "no node is known as n: check the name; in a cluster `kubectl get nodes` has them, elsewhere the setting "
        "agents",
    }
    assert {outcome.reason for outcome in chosen.missing} == {FailureReason.NO_AGENT}


def test_nodes_can_be_named_by_their_address() -> None:
    chosen = select(WORKERS, node_selector={}, run_selector={}, nodes=["10.0.0.2", "b", "10.9.9.9"])
    assert names(chosen.agents) == ["b"]
    assert [outcome.agent.name for outcome in chosen.missing] == ["10.9.9.9"]


def test_a_node_is_also_named_by_its_own_addresses() -> None:
    row = Agent("a", "10.1.0.7", 8443, other_hosts=("2001:db8::7",), addresses=("192.0.2.1", "2001:db8::1", "host-a"))
    for name in ("10.1.0.7", "2001:db8::7", "192.0.2.1", "2001:0db8:0000::1", "host-a"):
        chosen = select([row, *WORKERS], node_selector={}, run_selector={}, nodes=[name])
        assert names(chosen.agents) == ["a"]
        assert chosen.missing == ()


def test_a_selected_node_without_an_endpoint_is_missing_for_the_reason_that_is_known() -> None:
    rows = [
        *WORKERS,
        Agent("p", labels={"role": "worker"}, ready=False, problem="its pod p-1 cannot be scheduled"),
        Agent("q", labels={"role": "master"}, ready=False),
    ]
    for nodes in ((), ("a", "p"), ("a", "p", "p")):
        chosen = select(rows, node_selector={"role": "worker"}, run_selector={}, nodes=nodes)
        assert names(chosen.agents)[0] == "a"
        (outcome,) = chosen.missing
        assert (outcome.agent.name, outcome.reason) == ("p", FailureReason.NO_AGENT)
        assert outcome.message == "p: no agent: its pod p-1 cannot be scheduled"
    (outcome,) = select(rows, node_selector={}, run_selector={}, nodes=["q"]).missing
    assert outcome.message == "q: no agent: it has no endpoint"


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
