"""The file of trigger rules: what it may say, how it refuses, how it is read again."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from nodeobs.errors import ConfigurationError
from nodeobs.metrics import Metrics
from nodeobs.model import ProfileType
from nodeobs.runs.matchers import parse_matchers
from nodeobs.runs.rulesfile import RulesFile, load_rules
from nodeobs.runs.triggers import Trigger

WHOLE = """
triggers:
  - name: kubelet-slow
    matchers: ['alertname=~"Kubelet.*"', 'severity="critical"']
    nodeObservability: cluster
    namespace: sre
    nodesFrom: [node, instance]
    profiles: [cpu, heap]
    targets: [kubelet]
    durationSeconds: 20
    cooldown: 1h30m
"""

SHORT = """
triggers:
  - {name: any, matchers: ['alertname!=""'], nodeObservability: cluster}
"""


def rule(**keys: str) -> str:
    """A file with one rule; ``keys`` are added or replaced, or left out where empty."""
    usual = {"name": "slow", "matchers": "['a=b']", "nodeObservability": "cluster"}
    lines = [f"{key}: {value}" for key, value in (usual | keys).items() if value]
    return "triggers:\n  - " + "\n    ".join(lines) + "\n"


def test_reads_every_key() -> None:
    assert load_rules(WHOLE, source="rules.yaml") == (
        Trigger(
            name="kubelet-slow",
            matchers=parse_matchers('alertname=~"Kubelet.*",severity="critical"'),
            node_observability="cluster",
            namespace="sre",
            nodes_from=("node", "instance"),
            profiles=(ProfileType.CPU, ProfileType.HEAP),
            targets=("kubelet",),
            duration_seconds=20,
            cooldown=timedelta(minutes=90),
        ),
    )


def test_most_keys_may_be_left_out() -> None:
    (trigger,) = load_rules(SHORT, source="rules.yaml")
    assert trigger.namespace is None
    assert trigger.nodes_from == ()
    assert trigger.profiles == (ProfileType.CPU,)
    assert trigger.duration_seconds == 30
    assert trigger.cooldown == timedelta(minutes=30)


@pytest.mark.parametrize("text", ["", "# nothing\n", "triggers:\n", "triggers: []\n", "{}"])
def test_there_may_be_no_rules(text: str) -> None:
    assert load_rules(text, source="rules.yaml") == ()


def test_no_cooldown_is_a_bare_zero() -> None:
    assert load_rules(rule(cooldown="0"), source="rules.yaml")[0].cooldown == timedelta()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "rules.yaml: must be a mapping with the key 'triggers' and a list under it"),
        ("triggers: {}", "rules.yaml: must be a mapping with the key 'triggers' and a list under it"),
        ("trigers: []", "rules.yaml: unknown key 'trigers'; did you mean 'triggers'?"),
        ("triggers: [x]", "rules.yaml: triggers[0]: must be a mapping with the keys name, matchers, nodeObservability"),
        (rule(name=""), "rules.yaml: triggers[0]: name: is missing; allowed: lower-case letters, digits, '-' and '.'"),
        (rule(matchers=""), "rules.yaml: triggers[0] ('slow'): matchers: is missing; allowed: a list with at"),
        (rule(matcher="x"), "rules.yaml: triggers[0] ('slow'): unknown key 'matcher'; did you mean 'matchers'?"),
        (rule(node_observability="x"), "('slow'): unknown key 'node_observability'; did you mean 'nodeObservability'?"),
        (rule(name="A"), "triggers[0] ('A'): name: 'A' cannot be used: "),
        (rule(name="5"), "triggers[0]: name: 5 cannot be used: "),
        (rule(matchers="a=b"), "('slow'): matchers: 'a=b' cannot be used: Expected `array`, got `str`; allowed: "),
        (rule(matchers="[]"), "('slow'): matchers: [] cannot be used: Expected `array` of length >= 1"),
        (rule(matchers="['a']"), "('slow'): matchers: 'a' cannot be used: 'a' is not a matcher such as"),
        (rule(matchers="['{}']"), "('slow'): matchers: '{}' cannot be used: '' is not a matcher"),
        (rule(matchers="['a=~\"(\"']"), "cannot be used: the regular expression '(' cannot be compiled: missing ),"),
        (rule(namespace="a.b"), "('slow'): namespace: 'a.b' cannot be used: "),
        (rule(profiles="[cpu, memory]"), "profiles: ['cpu', 'memory'] cannot be used: Invalid enum value 'memory'"),
        (rule(profiles="[cpu, memory]"), "; allowed: a list of cpu, heap, allocs, goroutine, mutex, block"),
        (rule(profiles="[]"), "profiles: [] cannot be used: "),
        (rule(targets="[../x]"), "targets: ['../x'] cannot be used: "),
        (rule(durationSeconds="0"), "durationSeconds: 0 cannot be used: Expected `int` >= 1; allowed: a whole number"),
        (rule(durationSeconds="3601"), "durationSeconds: 3601 cannot be used: "),
        (rule(durationSeconds="30s"), "durationSeconds: '30s' cannot be used: "),
        (rule(durationSeconds="yes"), "durationSeconds: True cannot be used: "),
        (rule(cooldown="30"), "cooldown: '30' cannot be used: '30' is not a duration such as 90s"),
        (rule(cooldown="-5m"), "cooldown: '-5m' cannot be used: "),
        (rule(cooldown="200y"), "cooldown: '200y' cannot be used: longer than 100 years"),
        (rule() + rule().removeprefix("triggers:\n"), "triggers[1]: name: 'slow' is given twice"),
        (rule() + "    name: other\n", "not usable YAML: key 'name' is given twice"),
        ("triggers: [", "rules.yaml: not usable YAML: while parsing"),
        ("triggers: !!python/object/apply:os.system [id]", "rules.yaml: not usable YAML: could not determine"),
        (rule(name="*x"), "rules.yaml: not usable YAML: found undefined alias"),
    ],
)  # fmt: skip
def test_says_which_trigger_key_and_value_are_wrong_and_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load_rules(text, source="rules.yaml")
    assert message in str(refusal.value)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10)
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(scalars, inner, max_size=2))


@given(st.text(max_size=60) | trees.map(lambda tree: f"triggers: {tree!r}"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        rules = load_rules(text, source="rules.yaml")
    except ConfigurationError:
        return
    assert rules == ()


class World:
    """A rules file and the gauge that tells whether it is in use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)

    def write(self, text: str) -> None:
        """Replace the file, as a mounted ConfigMap is replaced."""
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)

    @property
    def gauge(self) -> float | None:
        return self.registry.get_sample_value("nodeobs_triggers_last_reload_successful")


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "triggers.yaml")
    world.write(SHORT)
    return world


def names(rules: RulesFile) -> list[str]:
    return [trigger.name for trigger in rules.current()]


def test_without_a_file_there_are_no_rules(world: World) -> None:
    assert RulesFile(None, metrics=world.metrics).current() == ()
    assert world.gauge == 1


def test_a_file_that_is_wrong_from_the_beginning_is_refused(world: World) -> None:
    world.write("triggers: {")
    with pytest.raises(ConfigurationError, match=r"triggers\.yaml"):
        RulesFile(world.path, metrics=world.metrics)
    world.path.unlink()
    with pytest.raises(ConfigurationError, match=r"cannot read the trigger rules .*triggers\.yaml.*No such file"):
        RulesFile(world.path, metrics=world.metrics)


def test_a_changed_file_is_read_again(world: World) -> None:
    rules = RulesFile(world.path, metrics=world.metrics)
    assert names(rules) == ["any"]
    world.write(WHOLE)
    assert names(rules) == ["kubelet-slow"]
    world.path.write_text(SHORT)
    assert names(rules) == ["any"]
    assert world.gauge == 1


def test_an_unchanged_file_is_not_read_again(world: World) -> None:
    rules = RulesFile(world.path, metrics=world.metrics)
    assert rules.current() is rules.current()


@pytest.mark.parametrize("text", ["triggers: {", rule(matcher="x"), "\xff" * 600_000, "# " + "x" * 2**20])
def test_a_file_that_became_wrong_leaves_the_last_good_rules(world: World, text: str) -> None:
    rules = RulesFile(world.path, metrics=world.metrics)
    with capture_logs() as logs:
        world.write(text)
        assert [names(rules) for _ in range(3)] == [["any"]] * 3
    (entry,) = logs
    assert entry["log_level"] == "error"
    assert entry["event"] == "the trigger rules cannot be used; the last good ones stay in use"
    assert str(world.path) in entry["error"]
    assert world.gauge == 0
    world.write(WHOLE)
    assert world.gauge == 1
    assert names(rules) == ["kubelet-slow"]


def test_a_file_that_is_gone_or_not_text_leaves_the_last_good_rules(world: World) -> None:
    rules = RulesFile(world.path, metrics=world.metrics)
    world.path.write_bytes(b"\xff\xfe")
    assert world.gauge == 0
    world.path.unlink()
    assert world.gauge == 0
    assert names(rules) == ["any"]
    world.write(SHORT)
    assert world.gauge == 1


def test_the_gauge_tells_before_the_next_alert_comes(world: World) -> None:
    RulesFile(world.path, metrics=world.metrics)
    assert world.gauge == 1
    world.write("triggers: {")
    assert world.gauge == 0
