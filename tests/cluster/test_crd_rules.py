"""What the API server refuses of the custom resources, in every version, and in which words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from nodeobs.errors import InvalidInput
from nodeobs.kube.client import KubeClient
from nodeobs.model import NodeObservability, ProfileType, Run
from nodeobs.model.versions import VERSIONS
from tests.api_webhooks import converted, webhooks
from tests.custom_objects import Objects
from tests.custom_resources import clear
from tests.lab.apiserver import ApiServer

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def admin(api_server: ApiServer) -> Iterator[KubeClient]:
    with closing(api_server.client()) as client, webhooks() as asked, converted(client, asked.webhook):
        yield client


@pytest.fixture(autouse=True)
def emptied(admin: KubeClient) -> Iterator[None]:
    yield
    clear(admin)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def runs(admin: KubeClient, version: str, namespace: str) -> Objects:
    return Objects(admin, Run.KIND, version, namespace)


@pytest.fixture
def observabilities(admin: KubeClient, version: str) -> Objects:
    return Objects(admin, NodeObservability.KIND, version, "")


REF = {"nodeObservabilityRef": {"name": "cluster"}}
ONLY = "cannot be changed: of a Run only cancel and ttlSecondsAfterFinished can; create another Run instead"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"durationSeconds": 0}, "spec.durationSeconds: Invalid value: 0: durationSeconds must be 1 to 3600"),
        ({"durationSeconds": 3601}, "spec.durationSeconds: Invalid value: 3601: durationSeconds must be 1 to 3600"),
        ({"profiles": ["disk"]}, 'supported values: "allocs", "block", "cpu"'),
        ({"profiles": []}, "spec.profiles: Invalid value"),
        ({"profiles": ["cpu", "cpu"]}, 'spec.profiles[1]: Duplicate value: "cpu"'),
        ({"nodes": ["a", "b", "a"]}, 'spec.nodes[2]: Duplicate value: "a"'),
        ({"targets": ["Kubelet"]}, "spec.targets[0]"),
        ({"nodes": ["a b"]}, "spec.nodes[0]"),
        ({"nodeSelector": {"": "x"}}, "spec.nodeSelector: Invalid value: keys must have 1 to 317 characters"),
        ({"ttlSecondsAfterFinished": -1}, "spec.ttlSecondsAfterFinished"),
        ({"nodeObservabilityRef": {"name": "Cluster!"}}, "spec.nodeObservabilityRef.name"),
        ({"nodeObservabilityRef": {}}, "spec.nodeObservabilityRef.name: Required value"),
        ({"nodeObservabilityRef": {"name": "x", "type": "crio"}}, 'supported values: "crio-kubelet", "scripting"'),
    ],
)
def test_a_run_that_may_not_be_says_why(runs: Objects, spec: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        runs.create(REF | spec)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"durationSeconds": 1},
        {"durationSeconds": 3600, "profiles": [profile.value for profile in ProfileType]},
        {"nodes": ["node-1.example", "10.0.0.1", "fd00::1"], "nodeSelector": {"a/b": "", "c": "d"}},
        {"nodeObservabilityRef": {"name": "cluster", "type": "scripting"}},
        {"ttlSecondsAfterFinished": 0, "cancel": True},
    ],
)
def test_a_run_that_may_be(runs: Objects, spec: dict[str, Any]) -> None:
    created = runs.create(REF | spec)
    assert created["spec"] == RUN_DEFAULTS | REF | spec


RUN_DEFAULTS = {"profiles": ["cpu"], "targets": [], "durationSeconds": 30} | {
    "nodes": [],
    "nodeSelector": {},
    "cancel": False,
}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"nodeObservabilityRef": {"name": "other"}}, "nodeObservabilityRef"),
        ({"nodeObservabilityRef": {"type": "scripting"}}, "nodeObservabilityRef"),
        ({"profiles": ["heap"]}, "profiles"),
        ({"targets": ["kubelet"]}, "targets"),
        ({"durationSeconds": 31}, "durationSeconds"),
        ({"nodes": ["a"]}, "nodes"),
        ({"nodes": None}, "nodes"),
        ({"nodeSelector": {"a": "b"}}, "nodeSelector"),
        ({"trigger": {"kind": "api"}}, "trigger"),
    ],
)
def test_a_run_cannot_be_changed(runs: Objects, change: dict[str, Any], field: str) -> None:
    runs.create(REF | {"nodes": ["b"]})
    with pytest.raises(InvalidInput) as refused:
        runs.patch(change)
    assert f"spec.{field}: Invalid value" in str(refused.value)
    assert ONLY in str(refused.value)


def test_a_trigger_cannot_be_taken_away_or_changed(runs: Objects) -> None:
    runs.create(REF | {"trigger": {"kind": "api"}})
    for change in (None, {"kind": "alert"}):
        with pytest.raises(InvalidInput, match="trigger: Invalid value"):
            runs.patch({"trigger": change})


def test_a_run_can_be_cancelled_once_and_its_ttl_changed(runs: Objects) -> None:
    runs.create(REF | {"trigger": {"kind": "api"}, "nodes": ["a"]})
    for seconds in (60, 5, None):
        assert runs.patch({"ttlSecondsAfterFinished": seconds})["spec"].get("ttlSecondsAfterFinished") == seconds
    assert runs.patch({"cancel": True})["spec"]["cancel"] is True
    with pytest.raises(InvalidInput, match="cancel can be set to true only: it cannot be taken back"):
        runs.patch({"cancel": False})


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ([{"name": "a", "url": "http://x", "socket": "/x"}], "a target has a url or a socket, not both"),
        ([{"name": "a"}, {"name": "b"}, {"name": "a", "url": "http://x"}], "spec.targets[2]: Duplicate value"),
        ([{"name": "a", "url": "ftp://x"}], "must begin with http:// or https:// and name a host, without credentials"),
        ([{"name": "a", "url": "http://user:secret@x/"}], "without credentials"),
        ([{"name": "a", "url": "http:///debug/pprof"}], "name a host"),
        ([{"name": "a", "socket": "run/x.sock"}], "spec.targets[0].socket"),
        ([{"url": "http://x"}], "spec.targets[0].name: Required value"),
        ([{"name": f"t{i}"} for i in range(65)], "Too many: 65: must have at most 64 items"),
    ],
)
def test_targets_that_may_not_be_say_why(observabilities: Objects, targets: list[Any], says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        observabilities.create({"type": "crio-kubelet", "nodeSelector": {}, "targets": targets})
    assert says in str(refused.value)


def test_targets_that_may_be(observabilities: Objects) -> None:
    targets = [
        {"name": "kubelet"},
        {"name": "etcd", "url": "https://$(NODE_IP):2379/debug/pprof"},
        {"name": "six", "url": "http://[fd00::1]:6060"},
        {"name": "own", "socket": "/run/own.sock"},
    ]
    created = observabilities.create({"type": "crio-kubelet", "nodeSelector": {}, "targets": targets})
    assert created["spec"]["targets"] == targets


def test_upstreams_requirements(admin: KubeClient) -> None:
    old = Objects(admin, NodeObservability.KIND, "v1alpha2", "")
    with pytest.raises(InvalidInput, match=r"spec\.nodeSelector: Required value"):
        old.create({"type": "crio-kubelet"})
    with pytest.raises(InvalidInput, match=r"spec\.type: Required value"):
        old.create({"nodeSelector": {}})
    oldest = Objects(admin, NodeObservability.KIND, "v1alpha1", "").create({"labels": {"a": "b"}})
    filled = {"labels": {"a": "b"}, "type": "crio-kubelet", "targets": [], "via": "agents"}
    assert {name: oldest["spec"][name] for name in filled} == filled
    assert "nodeSelector" not in oldest["spec"]


def test_a_toleration_of_everything_is_said_so(admin: KubeClient) -> None:
    observabilities = Objects(admin, NodeObservability.KIND, "v1beta1", "")
    with pytest.raises(InvalidInput, match="its operator must be Exists"):
        observabilities.create({"tolerations": [{"effect": "NoSchedule"}]})
    with pytest.raises(InvalidInput, match=r"spec\.resources\.limits\.memory"):
        observabilities.create({"resources": {"limits": {"memory": "much"}}})


def test_what_no_schema_has_is_pruned(runs: Objects) -> None:
    created = runs.create(REF | {"image": "x", "nodeObservabilityRef": {"name": "cluster", "uid": "y"}})
    assert created["spec"] == RUN_DEFAULTS | REF
