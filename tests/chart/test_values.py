"""Values at the edge: what cannot work is refused, what is not refused works, and names stay names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts.generate import CHART
from nodeobs.runs.rulesfile import load_rules
from tests.chart.rendering import CASES, NAMESPACE, Refused, helm, load, objects, one, render, settings_text

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("helm_there")]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.removesuffix("-values.yaml"))


def _trigger(index: int = 0, **values: str) -> str:
    rule = {"name": "x", "matchers": "{a=b}", "nodeObservability": "cluster", **values}
    return ",".join(f"triggers[{index}].{key}={value}" for key, value in rule.items())


WRONG: list[tuple[list[str], str]] = [
    (["replicas=2"], "replicas is 2, and each would keep outputs where the others cannot see them: set outputs.object"),
    (["replicas=2", "outputs.persistence.enabled=false"], "replicas is 2, and each would keep outputs where"),
    (["replicas=2", "outputs.persistence.existingClaim=x"], "replicas is 2, and each would keep outputs where"),
    (["replicas=0"], "replicas"),
    ([f"agents.namespace={NAMESPACE}"], "agents.namespace must be another than the release's"),
    (["outputs.objectStore.region=x"], "outputs.objectStore has no effect without its url"),
    (["outputs.objectStore.url=http://x"], "/outputs/objectStore/url"),
    (["outputs.objectStore.credentials.PASSWORD=x"], "PASSWORD"),
    (["image.tag=x", f"image.digest=sha256:{'0' * 64}"], "image.tag and image.digest are two answers"),
    (["image.repository=x:1"], "/image/repository"),
    (["metrics.serviceMonitor.enabled=true"], "needs the resource ServiceMonitor of Prometheus' operator"),
    (["certificates.source=certmanager"], "/certificates/source"),
    (["agents.socketFolders={/run}"], "/agents/socketFolders/0"),
    (["config.log_level=loud"], "/config/log_level"),
    (["config.bind=1"], "additional properties 'bind' not allowed"),
    (["replica=2"], "additional properties 'replica' not allowed"),
    (["agents.kubeletCa.configMap=x"], "additional properties 'kubeletCa' not allowed"),
    (["triggers[0].name=x"], "missing properties 'matchers', 'nodeObservability'"),
    (["triggers[0].machers={a}"], "additional properties 'machers' not allowed"),
    (["config.retention_max_age=0s"], "/config/retention_max_age"),
    (["config.retention_max_age=1.5h"], "/config/retention_max_age"),
    (["config.retention_max_age=30m1h"], "/config/retention_max_age"),
    (["config.retention_max_bytes=0B"], "/config/retention_max_bytes"),
    (["config.retention_max_bytes=1.5GiB"], "/config/retention_max_bytes"),
    (["config.retention_max_bytes=1T"], "/config/retention_max_bytes"),
    (["config.max_body_bytes=1GiB"], "config.max_body_bytes is 1GiB: it must be from 64KiB to 64MiB"),
    (["config.max_body_bytes=63KiB"], "config.max_body_bytes is 63KiB: it must be"),
    (["agents.storageLimit=1023KiB"], "agents.storageLimit is 1023KiB: it must be 1MiB or more"),
    (["agents.urlHosts={}"], "/agents/urlHosts/0"),
    (["agents.socketFolders={/run/../etc/x}"], "/agents/socketFolders/0"),
    (["agents.socketFolders={/var/run}"], "/agents/socketFolders/0"),
    (["image.pullSecrets={}"], "/image/pullSecrets/0"),
    (["image.tag=a b"], "/image/tag"),
    (["image.repository=Nodeobs"], "/image/repository"),
    (["outputs.objectStore.url=s3:///x"], "/outputs/objectStore/url"),
    (["outputs.objectStore.url=s3://user:password@x"], "/outputs/objectStore/url"),
    (["outputs.objectStore.url=s3://x?a=b"], "/outputs/objectStore/url"),
    (["outputs.persistence.size=5Gi"], "outputs would fill their volume before the oldest are deleted"),
    (["outputs.persistence.size=5Gi", "outputs.persistence.enabled=false"], "outputs would fill their volume"),
    (["outputs.persistence.size=0Gi"], "/outputs/persistence/size"),
    (["listenAddress=1.2.3"], "/listenAddress"),
    (["listenAddress=[:]"], "/listenAddress"),
    (["certificates.certManager.duration="], "/certificates/certManager/duration"),
    (["prometheusRule.runbookBaseUrl=https://x/a: b/"], "/prometheusRule/runbookBaseUrl"),
    ([_trigger(name="a..b")], "/triggers/0/name"),
    ([_trigger(nodeObservability="")], "/triggers/0/nodeObservability"),
    ([_trigger(namespace="")], "/triggers/0/namespace"),
    ([_trigger(targets="{A}")], "/triggers/0/targets/0"),
    ([_trigger(matchers="{no matcher}")], "/triggers/0/matchers/0"),
    ([_trigger(cooldown="30")], "/triggers/0/cooldown"),
    ([_trigger(cooldown="1.5h")], "/triggers/0/cooldown"),
    ([_trigger(), _trigger(1)], 'triggers has the name "x" twice'),
    (["listenAddress=null"], "missing property 'listenAddress'"),
    (["image.repository=null"], "missing property 'repository'"),
    (["uninstall=null"], "missing property 'uninstall'"),
    (["enabled=false"], "/enabled"),
]


@pytest.mark.parametrize(("values", "said"), WRONG, ids=[" ".join(values) for values, _ in WRONG])
def test_what_cannot_work_is_refused_in_a_sentence(values: list[str], said: str) -> None:
    with pytest.raises(Refused, match=re.escape(said)):
        render(*(part for value in values for part in ("--set", value)))


@pytest.mark.parametrize(
    "value",
    [
        *("config.retention_max_age=1y", "config.retention_max_age=1h30m", "config.retention_max_bytes=10 GiB"),
        *("config.max_body_bytes=64MiB", "config.max_body_bytes=64KiB", "config.max_body_bytes=100kb", "config=null"),
        *("agents.storageLimit=1MiB", "agents.storageLimit=1Ti", "outputs.persistence.size=19.5Gi"),
        *("outputs.persistence.size=20G", "outputs.objectStore.url=gs://b/a@b", "listenAddress=[fd00::1]"),
        *("triggers=null", "image.tag=null", "agents.urlHosts=null", "agents.socketFolders={/run/containerd/}"),
        *(_trigger(cooldown="0"), _trigger(matchers='{a =~ "b"}', cooldown="1h30m")),
    ],
)
def test_what_is_not_refused_the_service_starts_with(value: str, tmp_path: Path) -> None:
    larger = ["--set", "outputs.persistence.size=40Gi"] if "config=" in value else []
    found = objects(render(*larger, "--set", value))
    assert load(settings_text(found), tmp_path)
    load_rules(one(found, "ConfigMap", "nodeobs-triggers")["data"]["triggers.yaml"], source=value)


def test_lists_that_allow_agents_something_are_empty_where_they_are_unset(tmp_path: Path) -> None:
    found = objects(render("--set", "agents.socketFolders=null,agents.urlHosts=null"))
    settings = load(settings_text(found), tmp_path)
    assert (settings.agent_socket_folders, settings.agent_url_hosts) == ((), ())


def test_what_is_only_switched_off_by_null_can_be_left_out() -> None:
    monitored = CHART / "ci/monitoring-values.yaml"
    found = objects(render("--set", "grafanaDashboard.labels=null,access.metrics=null", case=monitored))
    assert "grafana_dashboard" not in one(found, "ConfigMap", "nodeobs-dashboard")["metadata"]["labels"]
    assert len(one(found, "ClusterRoleBinding", "nodeobs-access-metrics")["subjects"]) == 1


def test_another_chart_can_depend_on_it_by_a_condition(tmp_path: Path) -> None:
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "nodeobs").symlink_to(CHART)
    (dependency,) = [{"name": "nodeobs", "version": "*", "condition": "nodeobs.enabled"}]
    chart = {"apiVersion": "v2", "name": "all", "version": "1.0.0", "dependencies": [dependency]}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(chart), encoding="utf-8")
    for enabled in (True, False):
        text = helm(
            "template", "all", tmp_path, "--namespace", NAMESPACE, "--set", f"nodeobs.enabled={enabled}".lower()
        )
        assert bool(objects(text)) is enabled


@pytest.mark.parametrize("name", ["123", "true", "1e3"])
def test_a_releases_name_is_a_word_whatever_it_looks_like(name: str) -> None:
    found = objects(helm("template", name, CHART, "--namespace", NAMESPACE))
    assert {item["metadata"]["labels"].get("app.kubernetes.io/instance", name) for item in found} == {name}


NAMES_LIKE_NUMBERS = (
    *("agents.namespace", "image.pullSecrets[0]", "outputs.persistence.existingClaim", "agents.kubeletCA.configMap"),
    *("priorityClassName", "access.viewer[0].namespace", "certificates.certManager.issuerRef.name"),
)


@every_case
def test_a_namespace_is_a_word_whatever_it_looks_like(case: Path, tmp_path: Path) -> None:
    found = objects(render(case=case, namespace="123"))
    assert not list(_not_words(found))
    assert load(settings_text(found), tmp_path).namespace == "123"


def test_a_name_in_the_values_is_a_word_whatever_it_looks_like(tmp_path: Path) -> None:
    named = [part for name in NAMES_LIKE_NUMBERS for part in ("--set-string", f"{name}=456")]
    others = ["certificates.source=certManager", "networkPolicy.enabled=true", "access.viewer[0].kind=ServiceAccount"]
    options = [*named, *(part for value in [*others, "access.viewer[0].name=x"] for part in ("--set", value))]
    found = objects(render(*options))
    assert not list(_not_words(found))
    assert load(settings_text(found), tmp_path).agent_namespace == "456"
    stored = objects(render("--set", "outputs.objectStore.url=s3://x,outputs.objectStore.existingSecret=0x1"))
    (container,) = one(stored, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "0x1"}}]


def test_the_notes_are_yaml_in_any_namespace() -> None:
    notes = helm("install", "nodeobs", CHART, "--namespace", "123", "--dry-run=client").partition("NOTES:")[2]
    (found,) = re.findall(r"create -f - <<END\n(.*?)END", notes, re.DOTALL)
    assert yaml.safe_load(found)["metadata"]["namespace"] == "123"


def _not_words(found: Any, path: str = "") -> Iterator[str]:
    """Where one of the numbers of the tests is a number."""
    if found in (123, 456):
        yield path
    entries = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, value in entries:
        yield from _not_words(value, f"{path}/{key}")


def test_a_namespace_whose_agents_would_have_too_long_a_one_is_refused() -> None:
    with pytest.raises(Refused, match=r"longer than 63 characters: set agents\.namespace"):
        render(namespace="a" * 60)
    assert render("--set", "agents.namespace=b", namespace="a" * 60)
