"""A release's life on real nodes: installed, used as its notes say, upgraded, deleted, and installed again."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from charts.generate import CHART
from nodeobs.kube.crds import CRD_NAMES
from tests.chart.release import AGENTS, NAMESPACE, Release, remove_definitions
from tests.chart.rendering import Refused, helm
from tests.lab.cluster import Cluster
from tests.processes import wait_for

pytestmark = [
    *(pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("helm_there")),
    pytest.mark.timeout(900),
]

OWN = {"nodeobs-tls", "nodeobs-ca"}
"""What the service made itself in its namespace, which no helm knows of."""


@pytest.fixture
def release(cluster: Cluster, image: str, tmp_path: Path) -> Iterator[Release]:
    """Nothing is installed yet, and nothing is left afterwards."""
    remove_definitions(cluster)
    with closing(Release(cluster, image, tmp_path)) as made:
        yield made


def test_installed_used_upgraded_deleted_and_installed_again(release: Release) -> None:
    release.helm("install")
    assert "Succeeded" in release.helm("test")
    name = _used_as_the_notes_say(release)
    run = release.wait_run(name)
    nodes = {node.name for node in release.cluster.nodes}
    assert run["status"]["phase"] == "Succeeded", release.said()
    assert release.delivered(run).keys() == nodes

    _an_upgrade_with_the_same_values_changes_nothing(release)
    with pytest.raises(Refused, match="exists and cannot be imported into the current release"):
        helm("install", "second", CHART, "--namespace", NAMESPACE, kubeconfig=release.cluster.admin_kubeconfig)

    release.helm("uninstall", "--wait", "--timeout", "4m")
    _only_what_is_kept_is_left(release)
    assert release.manifest(run)["nodes"]
    assert release.get("nobr", name, "-n", NAMESPACE)["status"] == run["status"]
    release.cluster.kubectl("delete", "nobr", name, "-n", NAMESPACE, "--timeout=10s")

    release.helm("install")
    assert "Succeeded" in release.helm("test")
    for definition in CRD_NAMES:
        versions = release.get("crd", definition)["spec"]["versions"]
        assert all(version["served"] for version in versions)
    wait_for("agents are back", lambda: _ready_agents(release) == len(nodes), seconds=120)
    release.helm("uninstall", "--wait", "--timeout", "4m")


def _used_as_the_notes_say(release: Release) -> str:
    """The name of the Run that its commands made, run as they stand."""
    notes = helm("get", "notes", "nodeobs", "-n", NAMESPACE, kubeconfig=release.cluster.admin_kubeconfig)
    environ = {
        **os.environ,
        "KUBECONFIG": str(release.cluster.admin_kubeconfig),
        "PATH": f"{release.cluster.programs['kubectl'].parent}:{os.environ['PATH']}",
    }
    said = []
    for block in re.split(r"^\d\. .*$", notes, flags=re.MULTILINE)[1:]:
        command = "\n".join(re.findall(r"^   (.*)$", block, re.MULTILINE))
        done = subprocess.run(
            ["bash", "-ec", command], env=environ, capture_output=True, text=True, check=False, timeout=180
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        said.append(done.stdout)
    rolled, observed, created = said
    assert "successfully rolled out" in rolled
    assert "cluster created" in observed
    return created.split("/")[1].split()[0]


def _an_upgrade_with_the_same_values_changes_nothing(release: Release) -> None:
    def state() -> dict[str, Any]:
        kinds = "deployment,service,configmap,clusterrole,crd,validatingwebhookconfiguration"
        items = release.get(kinds, "--all-namespaces", "-l", "app.kubernetes.io/managed-by=Helm")["items"]
        assert len(items) > 10
        about = ("generation", "labels", "annotations")
        return {
            f"{item['kind']}/{item['metadata']['name']}": {
                **item,
                "metadata": {key: item["metadata"].get(key) for key in about},
                "status": None,
            }
            for item in items
        }

    before = state()
    release.helm("upgrade")
    assert state() == before, "with the authorities that the service published"


def _only_what_is_kept_is_left(release: Release) -> None:
    wait_for("pods are gone", lambda: not release.get("pods", "-n", NAMESPACE)["items"])
    left = release.get("all,configmap,secret,role,rolebinding,serviceaccount,job", "-n", NAMESPACE)["items"]
    assert {item["metadata"]["name"] for item in left if "nodeobs" in item["metadata"]["name"]} <= OWN
    everywhere = release.get("clusterrole,clusterrolebinding,validatingwebhookconfiguration,namespace")["items"]
    assert not [item for item in everywhere if item["metadata"]["name"].startswith(("nodeobs", AGENTS))]
    for name in CRD_NAMES:
        spec = release.get("crd", name)["spec"]
        assert spec["conversion"]["strategy"] == "None"
        assert [version["name"] for version in spec["versions"] if version["served"]] == ["v1beta1"]


def _ready_agents(release: Release) -> int:
    return int(release.get("nob", "cluster").get("status", {}).get("count", 0))
