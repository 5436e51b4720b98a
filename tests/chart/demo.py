"""``make demo-cluster``: a real cluster, the chart, OpenShift's YAML, an alert, and what comes of it; nothing stays."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import httpx

from nodeobs.cli.demo.alert import notification
from nodeobs.model import GROUP
from nodeobs.sharedtls import shared_context
from tests.chart.release import NAMESPACE, Release
from tests.chart.rendering import Refused
from tests.lab.cluster import Cluster, cluster_of
from tests.lab.errors import LabError
from tests.lab.images import PROJECT, project_image
from tests.processes import wait_for

PARENT: Final = "nodeobservability-sample"
YAML: Final = f"""\
apiVersion: {GROUP}/v1alpha1
kind: NodeObservability
metadata:
  name: {PARENT}
spec:
  labels:
    node-role.kubernetes.io/worker: ""
"""
TRIGGERS: Final = [
    {
        "name": "kubelet-slow",
        "matchers": ['alertname="KubeletSlow"', 'severity="critical"'],
        "nodeObservability": PARENT,
        "nodesFrom": ["node"],
        "profiles": ["cpu", "heap"],
        "durationSeconds": 15,
    }
]
_METRICS: Final = ("nodeobs_run_duration_seconds_sum", "nodeobs_last_run_", "nodeobs_last_output_")
_SAID: Final = 12
"""Lines of a table."""
_WIDTH: Final = 118


class Demo:
    """The acts, each told as the commands that a person would type."""

    def __init__(self, release: Release, folder: Path) -> None:
        self._release = release
        self._folder = folder
        programs = release.cluster.programs["kubectl"].parent
        self._environ = os.environ | {
            "KUBECONFIG": str(release.cluster.admin_kubeconfig),
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def play(self) -> str:
        """All of it; the Run's name."""
        _act(3, "Install the chart; what Runs collect goes to an S3 server")
        self.install()
        _act(4, "Say which nodes have agents, in the YAML of OpenShift's operator")
        self.make_agents()
        _act(5, "Send what Alertmanager sends: three kubelets are slow")
        run = self.alert()
        _act(6, "Ask for a second Run meanwhile, and watch the first")
        self.follow(run)
        _act(7, "Where the time went, and what Prometheus sees")
        self.look(run)
        return run

    def install(self) -> None:
        """The chart, its outputs in an S3 server, with the token of an Alertmanager."""
        triggers = self._folder / "triggers.json"
        triggers.write_text(json.dumps({"triggers": TRIGGERS, "alertmanager": {"token": True}}))
        _tell(f"helm install nodeobs charts/nodeobs --namespace {NAMESPACE} --values values.yaml --wait")
        began = time.monotonic()
        self._release.helm("install", "--values", triggers)
        click.echo(f"  two replicas are ready after {time.monotonic() - began:.0f} s")

    def make_agents(self) -> None:
        """One NodeObservability is all that agents take."""
        (self._folder / "nodeobservability.yaml").write_text(YAML)
        click.echo("".join(f"  {line}\n" for line in YAML.splitlines()), nl=False)
        self._show("kubectl", "apply", "-f", self._folder / "nodeobservability.yaml")
        self._show("kubectl", "wait", "--for=condition=Ready", f"nob/{PARENT}", "--timeout=2m")
        self._show("kubectl", "get", "nob", "-o", "wide")

    def alert(self) -> str:
        """Be Alertmanager; the Run's name."""
        nodes = [node.name for node in self._release.cluster.nodes]
        token = self._secret("nodeobs-alertmanager-token")
        answer = self._call("POST", "/webhooks/alertmanager", token, json=notification(nodes, datetime.now(UTC)))
        for told in answer.json()["alerts"]:
            click.echo(f"  {told['outcome']:10} {told.get('run') or ''}")
        return next(str(told["run"]) for told in answer.json()["alerts"] if told.get("run")).partition("/")[2]

    def follow(self, run: str) -> None:
        """A second Run is refused; then the first one's way."""
        second = self._folder / "second.json"
        second.write_text(json.dumps(self._release.run_document("second", parent=PARENT)))
        self._show("kubectl", "create", "-f", second, fails=True)
        self._show("nodeobs", "run", "wait", run, *self._where())
        self._show("kubectl", "get", "nobr", "-n", NAMESPACE)
        status = json.loads(self._release.cluster.kubectl("get", "nobr", run, "-n", NAMESPACE, "-o", "json"))["status"]
        click.echo(f"  output: {status['output']}")

    def look(self, run: str) -> None:
        """What it left, and what Prometheus sees."""
        for target in ("kubelet", "containerd"):
            self._show(
                "nodeobs", "top", run, "--target", target, "--profile", "cpu", "-n", "6", *self._where("--namespace")
            )
        token = self._release.cluster.token(NAMESPACE, "nodeobs-viewer")
        leading = f"{self._release.leader()}"
        address = next(p["status"]["podIP"] for p in self._release.pods("service") if p["metadata"]["name"] == leading)
        text = self._call("GET", "/metrics", token, address=f"{address}:8443").text
        _tell("curl https://nodeobs/metrics, an extract")
        for line in text.splitlines():
            if line.startswith(_METRICS):
                click.echo(f"  {line if len(line) <= _WIDTH else line[:_WIDTH] + '…'}")

    def _where(self, namespace: str = "-n") -> list[str]:
        return [namespace, NAMESPACE, "--context", "lab", "--service-namespace", NAMESPACE]

    def _show(self, *command: str | Path, fails: bool = False) -> None:
        argv = [str(part) for part in command]
        _tell(shlex.join(part.removeprefix(f"{self._folder}/") for part in argv))
        done = subprocess.run(argv, env=self._environ, capture_output=True, text=True, check=False, timeout=300)
        said = (done.stdout + (done.stderr if fails or done.returncode else "")).splitlines()
        click.echo("".join(f"  {line}\n" for line in said[:_SAID]), nl=False)
        if (done.returncode != 0) != fails:
            raise LabError(f"{shlex.join(argv)} ended with {done.returncode}: {done.stderr.strip()}")

    def _secret(self, name: str) -> str:
        """A token that the cluster puts there."""

        def token() -> str:
            found = self._release.cluster.kubectl("get", "secret", name, "-n", NAMESPACE, "-o", "json")
            return str(json.loads(found).get("data", {}).get("token", ""))

        decode = ["base64", "--decode"]
        return subprocess.run(
            decode, input=wait_for("the token", token), capture_output=True, text=True, check=True
        ).stdout

    def _call(self, method: str, path: str, token: str, *, address: str = "", **more: Any) -> httpx.Response:
        authority = self._folder / "ca.crt"
        authority.write_text(self._release.get("configmap", "nodeobs-ca", "-n", NAMESPACE)["data"]["ca.crt"])
        if not address:
            address = self._release.get("service", "nodeobs", "-n", NAMESPACE)["spec"]["clusterIP"]
        extensions: Mapping[str, Any] = {"sni_hostname": f"nodeobs.{NAMESPACE}.svc"}
        url, headers = f"https://{address}{path}", {"authorization": f"Bearer {token}"}
        with httpx.Client(verify=shared_context(authority), trust_env=False, timeout=30) as client:
            return client.request(method, url, headers=headers, extensions=dict(extensions), **more).raise_for_status()


@click.command(
    help="A real cluster of three nodes on this machine, and nodeobs at work in it. It needs root and Linux."
)
def main() -> None:
    """Act by act."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as made, _cluster() as cluster:
        folder = Path(made)
        _act(2, "Build the image, without a registry, and import it on every node (a minute, once)")
        cluster.load_image(project_image())
        with closing(Release(cluster, PROJECT, folder)) as release:
            Demo(release, folder).play()
            click.echo(f"\nAll of it took {time.monotonic() - began:.0f} s. The cluster is ended now; nothing stays.")


@contextmanager
def _cluster() -> Iterator[Cluster]:
    _act(1, "Start a cluster of three nodes")
    began = time.monotonic()
    with cluster_of(3) as cluster:
        click.echo(f"  three nodes are Ready after {time.monotonic() - began:.0f} s")
        yield cluster


def _act(number: int, title: str) -> None:
    click.echo(f"\n{number}. {title}")


def _tell(command: str) -> None:
    click.echo(f"  $ {command}")


if __name__ == "__main__":
    try:
        main(prog_name="python -m tests.chart.demo")
    except (LabError, Refused, AssertionError, httpx.HTTPError) as error:
        raise SystemExit(f"demo: {error}") from error
