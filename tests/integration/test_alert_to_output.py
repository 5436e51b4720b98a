"""The whole way with real programs: a Prometheus rule fires, Alertmanager notifies, real programs are profiled."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from nodeobs.pprof import read
from tests.processes import Program, free_port
from tests.world import Agent, Service, is_ok

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SECONDS = 4


def start_containerd(folder: Path, start: Callable[..., Program]) -> str:
    """A containerd with its debug socket; returns the socket's path."""
    folder.mkdir()
    socket = folder / "debug.sock"
    config = f"""
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{folder}/c.sock"
[debug]
  address = "{socket}"
"""
    (folder / "config.toml").write_text(config)
    containerd = start("containerd", "-c", str(folder / "config.toml"))
    containerd.wait_until("containerd's debug socket", socket.exists)
    return str(socket)


def start_etcd(folder: Path, start: Callable[..., Program]) -> str:
    client, peer = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    urls = ("--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer)
    peers = ("--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}")
    etcd = start("etcd", "--data-dir", str(folder), "--enable-pprof", *urls, *peers)
    etcd.wait_until("etcd is healthy", lambda: is_ok(f"{client}/health"))
    return client


def start_alertmanager(folder: Path, start: Callable[..., Program], *, webhook: str, token: str) -> str:
    folder.mkdir()
    (folder / "token").write_text(token)
    receiver = {
        "url": webhook,
        "http_config": {"authorization": {"type": "Bearer", "credentials_file": str(folder / "token")}},
    }
    # Prometheus finds its Alertmanager after 5 s, and an alert that is older than group_wait is sent on alone, at once.
    config = {
        "route": {"receiver": "nodeobs", "group_by": ["alertname"], "group_wait": "10s", "group_interval": "10s"},
        "receivers": [{"name": "nodeobs", "webhook_configs": [receiver]}],
    }
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    alertmanager = start(
        "prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    alertmanager.wait_until("Alertmanager is ready", lambda: is_ok(f"{url}/-/ready"))
    return url


class Prometheus:
    """A Prometheus that scrapes the service and fires one alert for each node when told to."""

    def __init__(self, folder: Path, start: Callable[..., Program], *, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        folder.mkdir()
        self.configure(alertmanager="", service="", token="", nodes=())
        self.program = start(
            "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}", "--web.enable-lifecycle", "--rules.alert.resend-delay=1s",
        )  # fmt: skip
        self.program.wait_until("Prometheus is ready", lambda: is_ok(f"{self.url}/-/ready"))

    def configure(self, *, alertmanager: str, service: str, token: str, nodes: tuple[str, ...]) -> None:
        (self.folder / "token").write_text(token)
        rules = [
            {"alert": "KubeletSlow", "expr": "vector(1)", "labels": {"severity": "critical", "node": node}}
            for node in nodes
        ]
        (self.folder / "rules.yml").write_text(
            yaml.safe_dump({"groups": [{"name": "nodes", "interval": "1s", "rules": rules}]})
        )
        scrape = {
            "job_name": "nodeobs",
            "scrape_interval": "1s",
            "authorization": {"credentials_file": str(self.folder / "token")},
            "static_configs": [{"targets": [service.removeprefix("http://")] if service else []}],
        }
        alerting = {"static_configs": [{"targets": [alertmanager.removeprefix("http://")]}]}
        config = {
            "global": {"evaluation_interval": "1s"},
            "rule_files": [str(self.folder / "rules.yml")],
            "scrape_configs": [scrape],
            "alerting": {"alertmanagers": [alerting] if alertmanager else []},
        }
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def reload(self) -> None:
        httpx.post(f"{self.url}/-/reload", trust_env=False).raise_for_status()

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, trust_env=False)
        answer.raise_for_status()
        rows: list[dict[str, Any]] = answer.json()["data"]["result"]
        return rows

    def wait_for_value(self, expression: str) -> dict[str, Any]:
        return self.program.wait_until(f"an answer to {expression}", lambda: next(iter(self.query(expression)), None))


@pytest.fixture
def prometheus(tmp_path: Path, start_program: Callable[..., Program]) -> Prometheus:
    return Prometheus(tmp_path / "prometheus", start_program, port=free_port())


TOKEN = "integration-token-7f3c"

TRIGGERS = f"""
triggers:
  - name: kubelet-slow
    matchers: ['alertname=~"Kubelet.*"', 'severity="critical"']
    nodeObservability: cluster
    nodesFrom: [node]
    profiles: [cpu, heap]
    durationSeconds: {SECONDS}
    cooldown: 30m
"""


def test_a_firing_rule_becomes_merged_profiles(
    tmp_path: Path,
    prometheus: Prometheus,
    start_program: Callable[..., Program],
    start_agent: Callable[..., Agent],
    start_service: Callable[..., Service],
) -> None:
    containerd = start_containerd(tmp_path / "containerd", start_program)
    etcd = start_etcd(tmp_path / "etcd", start_program)
    agents = [
        start_agent("node-1", containerd=f"unix:{containerd}", etcd=etcd),
        start_agent("node-2", prometheus=prometheus.url),
        start_agent("node-3", containerd=f"unix:{tmp_path}/no-such.sock"),
    ]
    (tmp_path / "tokens").write_text(f"{TOKEN},alertmanager,admin\n")
    (tmp_path / "tokens").chmod(0o600)
    (tmp_path / "triggers.yaml").write_text(TRIGGERS)
    service = start_service(
        *agents, NODEOBS_TRIGGERS_FILE=f"{tmp_path}/triggers.yaml", NODEOBS_TOKENS_FILE=f"{tmp_path}/tokens"
    )
    service.headers = {"Authorization": f"Bearer {TOKEN}"}
    alertmanager = start_alertmanager(
        tmp_path / "alertmanager", start_program, webhook=f"{service.url}/webhooks/alertmanager", token=TOKEN
    )
    nodes = ("node-1", "node-2", "node-3")
    prometheus.configure(alertmanager=alertmanager, service=service.url, token=TOKEN, nodes=nodes)
    prometheus.reload()

    run = service.program.wait_until("a Run is created", lambda: next(iter(service.runs()), None))
    name = run["metadata"]["name"]
    assert run["spec"]["trigger"]["kind"] == "alert"
    assert len(run["spec"]["trigger"]["alerts"]) == 3
    run = service.wait_run(name)

    assert run["status"]["phase"] == "Succeeded", run["status"]
    assert [agent["name"] for agent in run["status"]["agents"]] == ["node-1", "node-2"]
    (failed,) = run["status"]["failedAgents"]
    assert (failed["name"], failed["reason"]) == ("node-3", "TargetUnavailable")
    for target, profile in [(t, p) for t in ("containerd", "etcd", "prometheus") for p in ("cpu", "heap")]:
        data = service.call("GET", f"/api/v1/runs/nodeobs/{name}/output/merged/{target}-{profile}.pb.gz")
        assert data.status_code == 200, data.text
        assert read(data.content).sample_types, (target, profile)
    assert_go_reads(Path(run["status"]["output"]))

    for expression in (
        "nodeobs_run_duration_seconds_count == 1",
        'nodeobs_last_run_failed_agents{nodeobservability="cluster"} == 1',
        "nodeobs_last_output_bytes > 0",
        f'nodeobs_last_output_info{{run="nodeobs/{name}"}} == 1',
        "histogram_quantile(0.95, sum by (le) (nodeobs_run_duration_seconds_bucket)) > 0",
        "(time() - nodeobs_last_output_timestamp_seconds) * on (nodeobservability) nodeobs_last_output_info",
    ):
        prometheus.wait_for_value(expression)
    assert_promtool_is_silent(service)
    assert len(service.runs()) == 1, "the alert is still firing, and answered"


def assert_go_reads(output: Path) -> None:
    """``go tool pprof`` reads every profile of an output."""
    go = shutil.which("go")
    files = sorted(output.rglob("*.pb.gz"))
    assert files
    if go is None:
        pytest.skip("go is not installed")
    for file in files:
        done = subprocess.run([go, "tool", "pprof", "-top", str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{file}: {done.stderr}"


def assert_promtool_is_silent(service: Service) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    text = service.call("GET", "/metrics").text
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
