"""The image: what is in it, and that it runs where hardly anything is allowed."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from nodeobs import __version__
from nodeobs.kube.rbac import AGENT
from nodeobs.pprof import read
from tests.cluster.world import KubeWorld
from tests.lab.cluster import Cluster
from tests.lab.errors import LabError, Missing
from tests.lab.images import build_project, configuration, project_image

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

Json = dict[str, Any]

LARGEST = 200_000_000
OPENSHIFTS = 1_000_730_000
"""A uid such as OpenShift gives: of a range of the namespace's, with group 0."""
TOKEN = "a-token-of-the-test"

IMPORTS = """
import importlib, os, pkgutil, sys
from importlib.util import cache_from_source
import nodeobs
for module in pkgutil.walk_packages(nodeobs.__path__, "nodeobs."):
    if not module.name.endswith(("__main__", "gunicorn_conf")):
        importlib.import_module(module.name)
files = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
slow = [file for file in files if file.endswith(".py") and not os.path.exists(cache_from_source(file))]
print(len(files), slow)
"""


@pytest.fixture(scope="module")
def files(image_archive: Path) -> dict[str, tarfile.TarInfo]:
    """Everything in the image by its path, without a slash before it."""
    found = {}
    with tarfile.open(image_archive) as image:
        manifest = json.load(image.extractfile("manifest.json"))  # type: ignore[arg-type]
        for name in manifest[0]["Layers"]:
            with tarfile.open(fileobj=image.extractfile(name)) as layer:
                found.update({member.name.removeprefix("./").rstrip("/"): member for member in layer})
    return found


@pytest.fixture(scope="module")
def world(cluster: Cluster, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeWorld]:
    """nodeobs installed, its two namespaces under the strictest rules for pods that Kubernetes has."""
    try:
        made = KubeWorld(cluster, tmp_path_factory.mktemp("image"), address=cluster.network.machine)
    except Missing as error:
        pytest.skip(str(error))
    with closing(made):
        for namespace in (made.namespace, made.agent_namespace):
            strict = "pod-security.kubernetes.io/enforce=restricted"
            cluster.kubectl("label", "--overwrite", "namespace", namespace, strict)
        tokens = ["tokens", f"--from-literal=tokens={TOKEN},me,viewer"]
        cluster.kubectl("create", "secret", "generic", "-n", made.namespace, *tokens)
        yield made


def test_it_says_what_it_is_and_is_nobody_by_default(image_archive: Path) -> None:
    how = configuration(image_archive)["config"]
    assert how["Cmd"] == ["nodeobs", "serve"]
    assert not how.get("Entrypoint"), "whatever is given instead is run"
    assert int(how["User"]) > 0, "a number, which a cluster can see is not root"
    assert list(how["Volumes"]) == ["/var/lib/nodeobs"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in how["Labels"].items()}
    assert labels["version"] == __version__
    assert labels["licenses"] == "Apache-2.0"
    assert {"title", "description", "revision", "base.name"} <= set(labels)


def test_there_is_python_in_it_and_no_other_program(files: dict[str, tarfile.TarInfo]) -> None:
    programs = {path for path, file in files.items() if "bin" in path.split("/")[:-1] and not file.isdir()}
    assert {Path(path).name for path in programs} == {"gunicorn", "nodeobs", "python", "python3", "python3.11"}
    packages = {Path(path).name for path in files if Path(path).parent.name == "site-packages"}
    assert not packages & {"pip", "setuptools", "wheel", "pkg_resources", "pytest"}
    assert not [path for path in files if path.endswith(("/ensurepip", "/distutils", ".a"))]
    # Programs that look for known flaws find what the libraries are from.
    assert {"libc6", "libssl3", "libpython3.11-stdlib"} <= {Path(path).name for path in files if "status.d/" in path}


def test_it_is_small(files: dict[str, tarfile.TarInfo]) -> None:
    assert sum(file.size for file in files.values()) < LARGEST


def test_any_user_can_read_it_and_none_write_to_it(files: dict[str, tarfile.TarInfo]) -> None:
    folders = {"var/lib/nodeobs", "run/node-observability"}
    for path, file in files.items():
        if path in folders:
            assert (file.uid, file.gid, file.mode & 0o777) == (65532, 0, 0o770), path
        elif path != "tmp" and not file.issym():
            assert file.uid == file.gid == 0, path
            assert file.mode & 0o7022 == 0, path
            assert file.mode & 0o004, path


def test_the_same_sources_give_the_same_image(image_archive: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.tar"
    build_project(again)
    assert configuration(again) == configuration(image_archive)
    again.unlink()  # pytest keeps what tests leave


def test_for_the_same_sources_it_is_built_once(image_archive: Path) -> None:
    before = image_archive.stat()
    assert project_image() == image_archive
    after = image_archive.stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)


def test_an_agent_that_may_do_next_to_nothing_profiles_its_nodes_kubelet(
    world: KubeWorld, cluster: Cluster, image: str
) -> None:
    node = cluster.nodes[1]
    pair = cluster.authority.issue(f"agent-image-{world.namespace}", "agent")
    names = ["-n", world.agent_namespace]
    cluster.kubectl("create", "secret", "tls", "agent", *names, f"--cert={pair.certificate}", f"--key={pair.key}")
    arguments = ["nodeobs", "agent", "--host=0.0.0.0", "--auth=kubernetes"]
    arguments += ["--tls-cert-file=/tls/tls.crt", "--tls-key-file=/tls/tls.key"]
    container = {
        "image": image,
        "args": arguments,
        "env": [_field("NODE_NAME", "spec.nodeName"), _field("NODE_IP", "status.hostIP")],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8443, "scheme": "HTTPS"}, "periodSeconds": 1},
    }
    volumes: dict[str, Json] = {
        "/tls": {"secret": {"secretName": "agent"}},
        "/run/node-observability": {"emptyDir": {}},
    }
    more = {"nodeName": node.name, "serviceAccountName": AGENT}
    token = cluster.token(world.namespace, "nodeobs", audience="nodeobs-agent")
    headers = {"Authorization": f"Bearer {token}"}
    with (
        running(cluster, world.agent_namespace, container, volumes=volumes, user=OPENSHIFTS, **more) as address,
        httpx.Client(verify=False, trust_env=False, headers=headers, timeout=40) as client,
    ):
        url = f"https://{address}:8443/v1/collections"
        wanted = {"id": "one", "targets": ["kubelet"], "profiles": ["cpu", "heap"], "durationSeconds": 1}
        client.post(url, json=wanted).raise_for_status()
        state = client.get(f"{url}/one", params={"wait": 25}).json()
        assert [piece["state"] for piece in state["pieces"]] == ["Done", "Done"], state
        for name in ("kubelet-cpu.pb.gz", "kubelet-heap.pb.gz"):
            profile = client.get(f"{url}/one/files/{name}").raise_for_status().content
            assert read(profile).sample_types
        assert b"k8s.io/kubernetes/pkg/kubelet" in gzip.decompress(profile)


@pytest.mark.parametrize(
    ("user", "volumes"),
    [(None, {}), (OPENSHIFTS, {"/var/lib/nodeobs": {"emptyDir": {}}})],
    ids=["its own user and volume", "any user, a volume of the pod's"],
)
def test_a_service_that_may_do_next_to_nothing_becomes_ready(
    world: KubeWorld, cluster: Cluster, image: str, user: int | None, volumes: Json
) -> None:
    container = {
        "image": image,
        "env": [{"name": "NODEOBS_TOKENS_FILE", "value": "/tokens/tokens"}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1},
    }
    secret: Json = {"/tokens": {"secret": {"secretName": "tokens"}}}
    with running(cluster, world.namespace, container, volumes=secret | volumes, user=user) as address:
        url, headers = f"http://{address}:8080/api/v1/runs", {"Authorization": f"Bearer {TOKEN}"}
        assert httpx.get(url, trust_env=False).status_code == 401
        assert httpx.get(url, trust_env=False, headers=headers).json()["items"] == []
        said = cluster.kubectl("exec", "it", "-n", world.namespace, "--", "python3", "-c", IMPORTS)
    modules, slow = said.split(maxsplit=1)
    assert int(modules) > 500
    assert slow.strip() == "[]", "what is not compiled beforehand is compiled at each start"


@contextmanager
def running(
    cluster: Cluster, namespace: str, container: Json, *, volumes: dict[str, Json], user: int | None, **more: Any
) -> Iterator[str]:
    """The address of a pod, Ready, that Pod Security's ``restricted`` lets through; it ends when it is told to."""
    nothing = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    mounts = [{"name": f"v{number}", "mountPath": path} for number, path in enumerate(volumes)]
    who: Json = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {
        "securityContext": who | ({"runAsUser": user, "runAsGroup": 0} if user else {}),
        "terminationGracePeriodSeconds": 300,
        "containers": [
            {"name": "it", "imagePullPolicy": "Never", "securityContext": nothing, "volumeMounts": mounts, **container}
        ],
        "volumes": [{"name": f"v{number}", **volume} for number, volume in enumerate(volumes.values())],
        **more,
    }
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "it"}, "spec": spec}
    pod = ["pod/it", "-n", namespace]
    cluster.kubectl("create", "-n", namespace, "-f", "-", input=json.dumps(document))
    try:
        try:
            cluster.kubectl("wait", "--for=condition=Ready", *pod, "--timeout=60s")
        except LabError as error:
            raise AssertionError(f"{error}\n{cluster.kubectl('describe', *pod)}") from error
        yield cluster.kubectl("get", *pod, "-o", "jsonpath={.status.podIP}")
    except BaseException:
        cluster.kubectl("delete", *pod, "--grace-period=0", "--force")
        raise
    # Far less than the grace period: the first process of a namespace hears SIGTERM only where it asks to.
    cluster.kubectl("delete", *pod, "--timeout=40s")


def _field(name: str, path: str) -> Json:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
