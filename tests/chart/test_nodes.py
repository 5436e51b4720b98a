"""A release on three real nodes, as its users meet it: their YAML, their tools, and what goes wrong meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from charts.generate import CHART
from nodeobs.kube.crds import crds
from nodeobs.model import GROUP
from nodeobs.pprof import read
from tests.chart.release import AGENTS, NAMESPACE, Release, remove_definitions
from tests.lab.cluster import Cluster
from tests.lab.errors import LabError
from tests.processes import wait_for
from tests.world import is_ok

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("helm_there")]

BOTH = {"kubelet", "containerd"}
RUN_SECONDS = 12
PARENT = "nodeobservability-sample"
SEED = f"""\
apiVersion: {GROUP}/v1alpha2
kind: NodeObservability
metadata:
  name: {PARENT}
spec:
  type: crio-kubelet
  nodeSelector:
    test-of-the-chart: "yes"
"""
SEED_RUN = f"""\
apiVersion: {GROUP}/v1alpha1
kind: NodeObservabilityRun
metadata:
  name: nodeobservabilityrun-sample
spec:
  nodeObservabilityRef:
    name: {PARENT}
"""


@pytest.fixture(scope="module")
def release(cluster: Cluster, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Installed where OpenShift's operator was: its definitions store v1alpha2, and its NodeObservability is there."""
    remove_definitions(cluster)
    with closing(Release(cluster, image, tmp_path_factory.mktemp("release"))) as made:
        operators = [_as_the_operator_had_it(definition) for definition in crds(webhook=None)]
        cluster.kubectl("create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": operators}))
        for node in cluster.nodes:
            made.label(node.name, **{"test-of-the-chart": "yes"})
        wait_for("the definitions are served", lambda: _created(cluster, SEED))
        made.helm("install", "--take-ownership", "--force-conflicts")
        yield made
        for node in cluster.nodes:
            made.label(node.name, **{"test-of-the-chart": None})


def _as_the_operator_had_it(definition: dict[str, Any]) -> dict[str, Any]:
    versions = [
        entry | {"storage": entry["name"] == "v1alpha2"}
        for entry in definition["spec"]["versions"]
        if entry["name"] != "v1beta1"
    ]
    return definition | {"spec": definition["spec"] | {"versions": versions}}


def _created(cluster: Cluster, document: str) -> bool:
    try:
        cluster.kubectl("apply", "-f", "-", input=document)
    except LabError:
        return False
    return True


def all_of(release: Release) -> dict[str, set[str]]:
    return {node.name: BOTH for node in release.cluster.nodes}


def ready_nodes(release: Release) -> int:
    return int(release.get("nob", PARENT).get("status", {}).get("count", 0))


def during_a_run(release: Release, name: str, disturb: Callable[[], object]) -> dict[str, Any]:
    """The finished Run, in whose middle something was done."""
    wait_for("every agent is ready", lambda: ready_nodes(release) == len(release.cluster.nodes), seconds=90)
    release.run(name, parent=PARENT, durationSeconds=RUN_SECONDS)
    release.wait_run(name, "Running")
    time.sleep(2)  # into the profile
    disturb()
    return release.wait_run(name)


def test_what_the_operator_left_is_taken_over_and_profiled_soon(release: Release) -> None:
    wait_for("agents are ready", lambda: ready_nodes(release) == len(release.cluster.nodes), seconds=30)
    release.cluster.kubectl("create", "-n", NAMESPACE, "-f", "-", input=SEED_RUN)
    run = release.wait_run("nodeobservabilityrun-sample")
    assert run["status"]["phase"] == "Succeeded", release.said()
    assert run["status"]["output"].startswith("s3://outputs/runs/")
    assert release.delivered(run) == all_of(release)
    merged = read((release.output(run) / "merged" / "kubelet-cpu.pb.gz").read_bytes())
    assert merged.samples
    names = [f"{plural}.{GROUP}" for plural in ("nodeobservabilities", "nodeobservabilityruns")]
    for name in names:
        wait_for(
            "old objects are rewritten",
            lambda: release.get("crd", name)["status"]["storedVersions"] == ["v1beta1"],  # noqa: B023
        )


def test_helms_own_test_passes(release: Release) -> None:
    assert "Succeeded" in release.helm("test")


def test_people_get_their_files_through_a_forwarded_port(release: Release, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "nodeobs.cli", "pull", "nodeobservabilityrun-sample", "--into", str(tmp_path / "out")]
    environ = {
        **os.environ,
        "KUBECONFIG": str(release.cluster.admin_kubeconfig),
        "PATH": f"{release.cluster.programs['kubectl'].parent}:{os.environ['PATH']}",
    }
    options = ["--context", "lab", "--namespace", NAMESPACE, "--service-namespace", NAMESPACE]
    done = subprocess.run([*argv, *options], env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").rglob("*.pb.gz"))) == 8


def test_prometheus_scrapes_it_through_its_service(release: Release, tmp_path: Path) -> None:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("Prometheus is not installed")
    cluster = release.cluster
    cluster.kubectl("create", "serviceaccount", "prometheus", "-n", NAMESPACE)
    (tmp_path / "ca.crt").write_text(release.get("configmap", "nodeobs-ca", "-n", NAMESPACE)["data"]["ca.crt"])
    (tmp_path / "token").write_text(cluster.token(NAMESPACE, "prometheus"))
    address = release.get("service", "nodeobs", "-n", NAMESPACE)["spec"]["clusterIP"]
    scrape = {
        "job_name": "nodeobs",
        "scheme": "https",
        "scrape_interval": "1s",
        "tls_config": {"ca_file": str(tmp_path / "ca.crt"), "server_name": f"nodeobs.{NAMESPACE}.svc"},
        "authorization": {"credentials_file": str(tmp_path / "token")},
        "static_configs": [{"targets": [f"{address}:443"]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
    at = f"{cluster.network.control_plane}:9090"
    argv = [prometheus, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    program = cluster.spawn("prometheus", [*argv, f"--web.listen-address={at}"])
    try:
        program.wait_until("Prometheus is ready", lambda: is_ok(f"http://{at}/-/ready"))

        def scraped() -> bool:
            query = {"query": 'up{job="nodeobs"} == 1 and on() nodeobs_build_info'}
            answer = httpx.get(f"http://{at}/api/v1/query", params=query, trust_env=False).json()
            return bool(answer["data"]["result"])

        program.wait_until("the service is scraped", scraped, seconds=30)
    finally:
        program.kill()


def test_an_upgrade_in_the_middle_of_a_run_loses_nothing(release: Release, tmp_path: Path) -> None:
    newer = shutil.copytree(CHART, tmp_path / "nodeobs")
    about = yaml.safe_load((newer / "Chart.yaml").read_text())
    (newer / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": "99.0.0"}))
    before = {pod["metadata"]["name"] for pod in release.pods("service")}
    run = during_a_run(
        release, "upgraded", lambda: release.helm("upgrade", "--set", "config.run_history=7", chart=newer)
    )
    assert release.delivered(run) == all_of(release), release.said()

    def replaced() -> bool:
        return before.isdisjoint(pod["metadata"]["name"] for pod in release.pods("service"))

    wait_for("the earlier pods are gone", replaced)
    run = during_a_run(release, "rolled-back", lambda: release.helm("rollback", "1", "--wait"))
    assert release.delivered(run) == all_of(release), release.said()
    assert release.get("nobr", "nodeobservabilityrun-sample", "-n", NAMESPACE)["status"]["phase"] == "Succeeded"


def test_the_leaders_pod_deleted_in_the_middle_of_a_run_loses_nothing(release: Release) -> None:
    leader = release.leader()
    gone = ["delete", "pod", leader, "-n", NAMESPACE, "--grace-period=0", "--force"]
    run = during_a_run(release, "leader-gone", lambda: release.cluster.kubectl(*gone))
    assert release.delivered(run) == all_of(release), release.said()
    assert not run["status"]["driver"]["holder"].startswith(leader)


def test_the_leaders_node_drained_in_the_middle_of_a_run_loses_nothing(release: Release) -> None:
    leader = release.leader()
    node = release.get("pod", leader, "-n", NAMESPACE)["spec"]["nodeName"]
    drain = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s"]
    try:
        run = during_a_run(release, "drained", lambda: release.cluster.kubectl(*drain))
    finally:
        release.cluster.kubectl("uncordon", node)
    assert release.delivered(run) == all_of(release), release.said()
    assert not run["status"]["driver"]["holder"].startswith(leader)


def test_an_agents_pod_killed_in_the_middle_of_a_run_costs_its_own_part(release: Release) -> None:
    (one, *_) = release.pods("agent")
    gone = ["delete", "pod", one["metadata"]["name"], "-n", AGENTS, "--grace-period=0", "--force"]
    run = during_a_run(release, "agent-gone", lambda: release.cluster.kubectl(*gone))
    lost = one["spec"]["nodeName"]
    (failed,) = run["status"]["failedAgents"]
    assert (failed["name"], failed["reason"]) == (lost, "AgentRestarted"), failed
    assert {name: found for name, found in release.delivered(run).items() if name != lost} == {
        name: found for name, found in all_of(release).items() if name != lost
    }
    run = during_a_run(release, "agent-back", lambda: None)
    assert release.delivered(run) == all_of(release), release.said()


def test_a_node_that_comes_in_the_middle_of_a_run_is_in_the_next_and_one_that_goes_has_no_agent(
    release: Release,
) -> None:
    third = release.cluster.nodes[2].name
    release.label(third, **{"test-of-the-chart": None})
    wait_for("its agent is gone", lambda: len(release.pods("agent")) == 2, seconds=60)
    wait_for("that is told", lambda: ready_nodes(release) == 2)
    release.run("two", parent=PARENT, durationSeconds=RUN_SECONDS)
    release.wait_run("two", "Running")
    release.label(third, **{"test-of-the-chart": "yes"})
    run = release.wait_run("two")
    assert release.delivered(run).keys() == {node.name for node in release.cluster.nodes[:2]}
    assert not run["status"]["failedAgents"]
    run = during_a_run(release, "three", lambda: None)
    assert release.delivered(run) == all_of(release), release.said()
