"""A release's life on real nodes: installed, used as its notes say, upgraded, deleted, and installed again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from charts.generate import CHART
from nodeobs.kube.crds import CRD_NAMES
from tests.chart.rendering import Refused, helm
from tests.lab.cluster import Cluster
from tests.lab.errors import LabError
from tests.processes import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("helm_there")]

NAMESPACE, AGENTS = "profiling", "profiling-agents"
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


class Release:
    """nodeobs, as helm has it in the cluster."""

    def __init__(self, cluster: Cluster, image: str) -> None:
        self.cluster = cluster
        repository, _, tag = image.rpartition(":")
        values = {
            "image.repository": repository,
            "image.tag": tag,
            "image.pullPolicy": "Never",
            # Nobody provides volumes here.
            "outputs.persistence.enabled": "false",
        }
        self._values = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]

    def helm(self, verb: str, *arguments: str) -> str:
        options = ["--namespace", NAMESPACE, *arguments]
        if verb in ("install", "upgrade"):
            options = [str(CHART), *options, *self._values, "--wait", "--timeout", "3m"]
        return helm(verb, "nodeobs", *options, kubeconfig=self.cluster.admin_kubeconfig)

    def get(self, *arguments: str) -> Any:
        return json.loads(self.cluster.kubectl("get", *arguments, "-o", "json"))

    def follow_notes(self) -> list[str]:
        """What the commands of the notes said, run as they stand."""
        notes = helm("get", "notes", "nodeobs", "--namespace", NAMESPACE, kubeconfig=self.cluster.admin_kubeconfig)
        blocks = re.split(r"^\d\. .*$", notes, flags=re.MULTILINE)[1:]
        commands = ["\n".join(re.findall(r"^   (.*)$", block, re.MULTILINE)) for block in blocks]
        kubectl = self.cluster.programs["kubectl"].parent
        environ = {
            **os.environ,
            "KUBECONFIG": str(self.cluster.admin_kubeconfig),
            "PATH": f"{kubectl}:{os.environ['PATH']}",
        }
        return [
            subprocess.run(
                ["bash", "-ec", textwrap.dedent(command)],
                env=environ,
                capture_output=True,
                text=True,
                check=True,
                timeout=180,
            ).stdout
            for command in commands
        ]

    def finished(self, name: str) -> Any:
        self.cluster.kubectl("wait", "--for=condition=Finished", f"nobr/{name}", "-n", NAMESPACE, "--timeout=120s")
        return self.get("nobr", name, "-n", NAMESPACE)["status"]


@pytest.fixture
def release(cluster: Cluster, image: str) -> Iterator[Release]:
    """Nothing installed yet; and nothing left afterwards."""
    cluster.add_namespace(NAMESPACE)
    cluster.kubectl("label", "namespace", NAMESPACE, RESTRICTED)
    made = Release(cluster, image)
    yield made
    with suppress(Refused):
        made.helm("uninstall", "--no-hooks", "--ignore-not-found")
    for name in CRD_NAMES:
        with suppress(LabError):
            cluster.kubectl("delete", "crd", name, "--timeout=20s")
    for name in (NAMESPACE, AGENTS):
        cluster.remove_namespace(name)


def test_installed_used_upgraded_deleted_and_installed_again(release: Release) -> None:
    release.helm("install")
    assert "Succeeded" in release.helm("test")
    _, made, created = release.follow_notes()
    assert "cluster created" in made
    name = created.split("/")[1].split()[0]
    status = release.finished(name)
    assert status["phase"] == "Succeeded", status
    assert {agent["name"] for agent in status["agents"]} == {node.name for node in release.cluster.nodes}

    _an_upgrade_with_the_same_values_changes_nothing(release)
    release.helm("upgrade", "--set", "config.log_level=debug")
    assert "Succeeded" in release.helm("test")
    release.helm("rollback", "1", "--wait")
    assert "Succeeded" in release.helm("test")

    release.helm("uninstall", "--wait", "--timeout", "4m")
    _only_what_is_kept_is_left(release)
    assert release.get("nobr", name, "-n", NAMESPACE)["status"]["phase"] == "Succeeded"
    release.cluster.kubectl("delete", "nobr", name, "-n", NAMESPACE, "--timeout=10s")

    release.helm("install")
    assert "Succeeded" in release.helm("test")
    served = {version["name"] for version in release.get("crd", CRD_NAMES[1])["spec"]["versions"] if version["served"]}
    assert served == {"v1alpha1", "v1alpha2", "v1beta1"}
    wait_for("agents are back", lambda: _ready_agents(release) == len(release.cluster.nodes), seconds=120)
    release.helm("uninstall", "--wait", "--timeout", "4m")


def _an_upgrade_with_the_same_values_changes_nothing(release: Release) -> None:
    def state() -> dict[str, Any]:
        kinds = "deployment,service,configmap,clusterrole,crd,validatingwebhookconfiguration"
        items = release.get(kinds, "--all-namespaces", "-l", "app.kubernetes.io/managed-by=Helm")["items"]
        assert len(items) > 10
        return {
            f"{item['kind']}/{item['metadata']['name']}": {
                **item,
                "metadata": {key: item["metadata"].get(key) for key in ("generation", "labels", "annotations")},
                "status": None,
            }
            for item in items
        }

    before = state()
    release.helm("upgrade")
    assert state() == before


def _only_what_is_kept_is_left(release: Release) -> None:
    kinds = "all,configmap,secret,role,rolebinding,serviceaccount"
    wait_for("pods are gone", lambda: not release.get("pods", "-n", NAMESPACE)["items"], seconds=60)
    left = release.get(kinds, "-n", NAMESPACE)["items"]
    # The service's own, which no helm knows of.
    known = {"kube-root-ca.crt", "default", "nodeobs-tls", "nodeobs-ca"}
    assert {item["metadata"]["name"] for item in left if "nodeobs" in item["metadata"]["name"]} <= known
    everywhere = release.get("clusterrole,clusterrolebinding,validatingwebhookconfiguration")["items"]
    assert not [item for item in everywhere if item["metadata"]["name"].startswith("nodeobs")]
    for name in CRD_NAMES:
        spec = release.get("crd", name)["spec"]
        assert spec["conversion"]["strategy"] == "None"
        assert [version["name"] for version in spec["versions"] if version["served"]] == ["v1beta1"]


def _ready_agents(release: Release) -> int:
    status = release.get("nob", "cluster").get("status", {})
    return int(status.get("count", 0))
