"""Helm takes the definitions back that ``nodeobs uninstall`` changed under its hands."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
import yaml

from nodeobs.kube.crds import CRD_NAMES, Webhook, crds
from tests.cluster.uninstalling import definition, served, uninstaller
from tests.cluster.world import DEFINITIONS, KubeWorld
from tests.lab.errors import Missing
from tests.lab.programs import need
from tests.processes import wait_for

pytestmark = pytest.mark.cluster

Helm = Callable[..., None]


@pytest.fixture
def helm(world: KubeWorld) -> Helm:
    try:
        program = need(["helm"])["helm"]
    except Missing as error:
        pytest.skip(str(error))
    environ = {"PATH": os.environ["PATH"], "HOME": str(world.folder), "KUBECONFIG": str(world.api.admin_kubeconfig)}

    def run(*arguments: str) -> None:
        argv = [str(program), *arguments, "--namespace", world.namespace]
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture
def chart(world: KubeWorld) -> Path:
    """The definitions, which are kept, and nothing else."""
    folder = world.folder / "chart"
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: tiny\nversion: 0.1.0\n")
    documents = crds(webhook=Webhook(namespace=world.namespace, service="nodeobs"))
    for document in documents:
        document["metadata"]["annotations"] = {"helm.sh/resource-policy": "keep"}
    (folder / "templates" / "crds.yaml").write_text(yaml.safe_dump_all(documents))
    return folder


def publish(world: KubeWorld) -> None:
    """Write the authority into the definitions, as the service does."""
    authority = base64.b64encode(trustme.CA().cert_pem.bytes()).decode()
    change = {"op": "add", "path": "/spec/conversion/webhook/clientConfig/caBundle", "value": authority}
    for name in CRD_NAMES:
        world.admin.request("PATCH", DEFINITIONS.item(name), [change], content_type="application/json-patch+json")


@pytest.mark.parametrize("how", ["--server-side=true", "--server-side=false"])
def test_helm_brings_back_what_was_narrowed(world: KubeWorld, helm: Helm, chart: Path, how: str) -> None:
    world.api.kubectl("delete", "crd", *CRD_NAMES)
    helm("install", "tiny", str(chart), how)
    before = {name: definition(world, name)["spec"] for name in CRD_NAMES}

    def narrowed() -> bool:
        publish(world)
        return nodeobs_uninstall().exit_code == 0

    with uninstaller(world) as nodeobs_uninstall:
        # Custom resources are served a moment after their definitions are there.
        wait_for("uninstalled", narrowed)
        assert served(world, CRD_NAMES[0]) == ["v1beta1"]
        helm("uninstall", "tiny")
        helm("install", "tiny", str(chart), how)
        assert {name: definition(world, name)["spec"] for name in CRD_NAMES} == before
        # A removal that was broken off, as where a hook failed.
        assert narrowed()
        assert served(world, CRD_NAMES[0]) == ["v1beta1"]
        helm("upgrade", "tiny", str(chart))
        assert {name: definition(world, name)["spec"] for name in CRD_NAMES} == before
